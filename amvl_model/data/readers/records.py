"""Limits of size, records with wrong fields, and questions without usable images: what all readers share."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any, Final, TypeVar

from amvl_model.data.schema import VisualQuestion

R = TypeVar("R")
T = TypeVar("T")
_LOG = logging.getLogger(__name__)
MAX_RECORDS_FILE: Final = 1 << 32
"""Largest JSON file of records [bytes], which is read as a whole; viscot_363k.json has 0.4 GB."""
MAX_LINE: Final = 1 << 24
"""Longest line of a file of JSON lines [bytes or characters]."""
MAX_BAD_SHARE: Final = 0.001
"""Share of a file's records that may be wrong before it is an error; one is always borne."""


class UnreadableImages(ValueError):
    """The images of a question cannot be read, or not be used.

    Attributes:
        question: the question without its images.
    """

    def __init__(self, message: str, question: VisualQuestion) -> None:
        super().__init__(message)
        self.question = replace(question, images=())


class MissingImages(UnreadableImages, FileNotFoundError):
    """An image file of the question does not exist."""


@contextmanager
def images_of(question: VisualQuestion) -> Iterator[None]:
    """Errors of reading images, with the question that they belong to.

    Raises:
        UnreadableImages, MissingImages: instead of ValueError and FileNotFoundError.
    """
    try:
        yield
    except FileNotFoundError as error:
        raise MissingImages(str(error), question) from error
    except ValueError as error:
        raise UnreadableImages(str(error), question) from error


def usable_records(records: Sequence[R], convert: Callable[[int, R], T], place: str) -> list[T]:
    """The records converted, without those that have wrong fields, which are logged and counted.

    Args:
        records: of a file.
        convert: called with the number of a record and the record.
        place: the file, for messages.

    Raises:
        ValueError: when more than `MAX_BAD_SHARE` of them, and more than one, have wrong fields.
    """
    converted, problems = [], []
    for number, record in enumerate(records):
        try:
            converted.append(convert(number, record))
        except ValueError as error:
            problems.append(str(error))
            _LOG.warning("skipped a record: %s", error)
    allowed = max(1, int(MAX_BAD_SHARE * len(records)))
    if len(problems) > allowed or (problems and not converted):
        listed = "\n".join(f"  {problem}" for problem in problems[:10])
        raise ValueError(
            f"{place}: {len(problems)} of {len(records)} records have wrong fields, expected at most {allowed}; correct the "
            f"file. The first:\n{listed}"
        )
    return converted


def unique_keys(pairs: Sequence[tuple[str, Any]]) -> dict[str, Any]:
    """The ``object_pairs_hook`` of every reader of JSON: a key that occurs twice is a ValueError."""
    record = dict(pairs)
    if len(record) != len(pairs):
        keys = [key for key, _ in pairs]
        raise ValueError(f"the key {next(key for key in keys if keys.count(key) > 1)!r} occurs twice")
    return record


def check_size(path: Path, most: int = MAX_RECORDS_FILE) -> None:
    """Raises a ValueError for a file that is larger than ``most`` bytes, before it is read into memory."""
    if (size := path.stat().st_size) > most:
        raise ValueError(f"{path} has {size:,} bytes, expected at most {most:,}; split the file")
