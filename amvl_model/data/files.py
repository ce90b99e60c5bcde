"""Where the files of a data set lie, on disk or on the Hugging Face hub, and pictures out of their bytes.

    data_folder("blink", hub_id=...)                 a local folder, read where it lies
    data_folder(None, hub_id=..., patterns=...)      the hub's snapshot in the local cache, only the files that match
    data_folder(None, hub_id=..., stream=True)       the hub itself: ranges of files are fetched when they are read

huggingface_hub and pyarrow are imported where they are needed, so importing this module is cheap.
"""

from __future__ import annotations

import binascii
import fnmatch
import io
import json
import re
import warnings
from base64 import b64decode
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any, Final

from PIL import Image

MAX_PIXELS: Final = 89_478_485
"""Largest picture that is decoded [pixels]: where PIL begins to warn of a decompression bomb. 8K has 33 million."""
_HUB_ID: Final = re.compile(r"^[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*$")
_BUFFER: Final = 1 << 20


def decode_picture(data: Any, place: str) -> Image.Image:
    """The picture in encoded bytes (PNG, JPEG, ...), fully loaded, as RGB; see `to_rgb`.

    Args:
        data: what should be the bytes.
        place: record and file, for messages: ``record '3' of a.parquet: image``.

    Raises:
        ValueError: if there are no bytes, they are damaged, or the picture has more than `MAX_PIXELS` pixels.
    """
    if not isinstance(data, bytes | bytearray):
        raise ValueError(
            f"{place}: expected the bytes of a picture, got {type(data).__name__}; "
            "export the data set with embedded pictures"
        )
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error", Image.DecompressionBombWarning)
            image = Image.open(io.BytesIO(data))
            if image.width * image.height > MAX_PIXELS:
                raise Image.DecompressionBombError(f"{image.width} x {image.height} pixels")
            image.load()
    except (Image.DecompressionBombWarning, Image.DecompressionBombError) as error:
        raise ValueError(
            f"{place}: a picture too large to decode ({error}); expected at most {MAX_PIXELS:,} pixels; shrink it first"
        ) from error
    except (OSError, SyntaxError, ValueError) as error:  # PIL raises SyntaxError for some broken PNG files
        raise ValueError(f"{place} is not a readable picture ({error}); download the file again") from error
    return to_rgb(image)


def decode_base64(text: Any, place: str) -> Image.Image:
    """The picture in a base64 text, as `decode_picture` gives it.

    Raises:
        ValueError: if the text is no base64, or as in `decode_picture`.
    """
    if not isinstance(text, str) or not text:
        raise ValueError(f"{place}: expected a picture as base64 text, got {_short(text)}; download the file again")
    try:
        data = b64decode(text, validate=True)
    except (binascii.Error, ValueError) as error:
        raise ValueError(f"{place} is not valid base64 ({error}); download the file again") from error
    return decode_picture(data, place)


def read_picture(path: Path, place: str) -> Image.Image:
    """The picture in a file, as `decode_picture` gives it.

    Raises:
        FileNotFoundError: if there is no such file.
        ValueError: as in `decode_picture`.
    """
    try:
        data = path.read_bytes()
    except (FileNotFoundError, IsADirectoryError, NotADirectoryError) as error:
        raise FileNotFoundError(
            f"{place}: expected the picture {path}, found no such file; download the pictures or correct their folder"
        ) from error
    return decode_picture(data, f"{place}: {path}")


def to_rgb(image: Image.Image) -> Image.Image:
    """The picture in mode RGB; what is transparent becomes white, as in Qwen-VL's own loader."""
    if image.mode in {"RGBA", "LA", "PA"} or "transparency" in image.info:
        image = image.convert("RGBA")
        white = Image.new("RGB", image.size, (255, 255, 255))
        white.paste(image, mask=image.getchannel("A"))
        return white
    return image if image.mode == "RGB" else image.convert("RGB")


def read_json_records(path: Path) -> list[dict[str, Any]]:
    """The records of a JSON list (.json) or of JSON lines (.jsonl).

    Raises:
        FileNotFoundError: if there is no such file.
        ValueError: if it is not valid JSON (the line is named), or not a list of objects.
    """
    if not path.is_file():
        raise FileNotFoundError(f"expected the file {path}, found none; download it or correct the path")
    try:
        if path.suffix == ".jsonl":
            records = list(_json_lines(path))
        else:
            records = json.loads(path.read_text(encoding="utf-8"))
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise ValueError(f"{path}: not valid JSON ({error}); it may be truncated: download it again") from error
    if not isinstance(records, list) or not all(isinstance(record, dict) for record in records):
        raise ValueError(f"{path}: expected a list of JSON objects; check that this is the right file")
    return records


def _json_lines(path: Path) -> Iterator[Any]:
    with path.open(encoding="utf-8") as file:
        for number, line in enumerate(file, 1):
            if line.strip():
                try:
                    yield json.loads(line)
                except json.JSONDecodeError as error:
                    raise ValueError(
                        f"{path}, line {number}: not valid JSON ({error}); it may be truncated: download it again"
                    ) from error


def _short(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 60 else text[:57] + "..."


@dataclass(frozen=True)
class DataFolder:
    """A folder of data files.

    Attributes:
        root: the local folder, or ``datasets/<owner>/<name>`` on the hub.
        on_hub: files are read from the hub in ranges, not from disk.
    """

    root: str
    on_hub: bool = False

    def __str__(self) -> str:
        return f"hf://{self.root}" if self.on_hub else self.root

    def path(self, name: str) -> Path:
        """Local path of a file.

        Raises:
            ValueError: for a streamed folder, whose files have no path.
        """
        if self.on_hub:
            raise ValueError(f"{self}/{name}: a streamed file has no path; load the data set without stream=True")
        return Path(self.root) / name

    def place(self, name: str) -> str:
        """How messages name a file."""
        return f"{self}/{name}" if self.on_hub else str(Path(self.root) / name)

    def names(self, *patterns: str) -> list[str]:
        """Names relative to the folder, sorted, of the files that match one of the patterns (all if there is none)."""
        if self.on_hub:
            import huggingface_hub

            found = [name.removeprefix(self.root + "/") for name in huggingface_hub.HfFileSystem().find(self.root)]
        else:
            root = Path(self.root)
            found = [path.relative_to(root).as_posix() for path in root.rglob("*") if path.is_file()]
        return sorted(n for n in found if not patterns or any(fnmatch.fnmatchcase(n, p) for p in patterns))

    def parquet(self, name: str) -> Any:
        """The file as a pyarrow.parquet.ParquetFile, which reads only what it is asked for."""
        import pyarrow.parquet as pq

        if not self.on_hub:
            return pq.ParquetFile(self.path(name), memory_map=True)
        import huggingface_hub

        handle = huggingface_hub.HfFileSystem().open(f"{self.root}/{name}", "rb")
        return pq.ParquetFile(handle, buffer_size=_BUFFER)

    def read_bytes(self, name: str) -> bytes:
        """The whole file."""
        if not self.on_hub:
            return self.path(name).read_bytes()
        import huggingface_hub

        with huggingface_hub.HfFileSystem().open(f"{self.root}/{name}", "rb") as handle:
            content: bytes = handle.read()
        return content


def data_folder(
    path_or_id: str | Path | None, *, hub_id: str, patterns: Sequence[str], layout: str, stream: bool = False
) -> DataFolder:
    """The folder of a data set: local if there is such a folder, else the hub's.

    Args:
        path_or_id: a local folder or a data set on the hub; ``hub_id`` if None.
        hub_id: the data set's own name on the hub, for messages and as default.
        patterns: the files that are needed, for example ``Counting/val-*.parquet``.
        layout: what a local folder holds, for messages.
        stream: read from the hub in ranges instead of downloading whole files (ignored for a local folder).

    Raises:
        FileNotFoundError: if ``path_or_id`` is neither a folder nor the name of a data set.
        ConnectionError: if the hub has to be asked and does not answer; the message says what to download.
    """
    wanted = hub_id if path_or_id is None else path_or_id
    if Path(wanted).is_dir():
        return DataFolder(str(wanted))
    if isinstance(wanted, Path) or Path(wanted).exists() or not _HUB_ID.match(wanted):
        raise FileNotFoundError(
            f"expected a folder that holds {layout}, or a data set id such as {hub_id!r}, got {str(wanted)!r}, "
            "which is neither; correct the path"
        )
    return _from_hub(wanted, patterns, layout, stream=stream)


def _from_hub(identifier: str, patterns: Sequence[str], layout: str, *, stream: bool) -> DataFolder:
    import huggingface_hub
    from huggingface_hub.errors import HfHubHTTPError, LocalEntryNotFoundError, OfflineModeIsEnabled

    try:
        if not stream:
            return DataFolder(
                huggingface_hub.snapshot_download(identifier, repo_type="dataset", allow_patterns=list(patterns))
            )
        root = f"datasets/{identifier}"
        huggingface_hub.HfFileSystem().ls(root, detail=False)
        return DataFolder(root, on_hub=True)
    except (HfHubHTTPError, LocalEntryNotFoundError, OfflineModeIsEnabled, OSError) as error:
        reason = str(error).splitlines()[0] if str(error) else "no message"
        files = " ".join(f"--include '{pattern}'" for pattern in patterns)
        name = PurePosixPath(identifier).name.lower()
        raise ConnectionError(
            f"{identifier!r} is not a local folder, and the Hugging Face hub did not give it ({type(error).__name__}: "
            f"{reason}); on a machine with a network run "
            f"`hf download {identifier} --repo-type dataset --local-dir {name} {files}`, copy the folder here "
            f"(it holds {layout}) and pass its path"
        ) from error
