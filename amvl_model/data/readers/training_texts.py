"""Texts of the four training sets: requests for boxes removed, references to images resolved, chains read out.

Pure functions of texts and records; the formats are described in `amvl_model.data.readers.training_sets`.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from typing import Any

IMAGE_MARK = "<image>"
"""Where a prompt says it, an image is shown there."""
_BOX_REQUEST = re.compile(
    r"\s*Please (?:think step by step and )?provide the bounding box coordinate of the region that can help you answer the "
    r"question better\.\s*",
    re.IGNORECASE,
)
_IMAGE_REFERENCE = re.compile(r"<image_start>\s*\[([^\]]+)\]\s*<image_end>")
_THOUGHT = re.compile(r"THOUGHT[ _]?\d+:\s*")
_STEP = re.compile(r"^(-?\d+),([\d*~]+)--(-?\d+),([\d*~]+)$")
_VARIABLE = re.compile(r"`([a-z_\d]+)`")


def strip_box_request(text: str) -> str:
    """Visual-CoT's question without the image mark and the request for a bounding box."""
    return _BOX_REQUEST.sub("", text.replace(IMAGE_MARK, "")).strip()


def focus_reasoning(record: Mapping[str, Any]) -> str:
    """ReFocus's thoughts in one text, the areas to focus on between the first and the second, as its authors train."""
    responses = [str(turn.get("response", "")).strip() for turn in record.get("conversations") or ()]
    areas = record.get("focus_areas")
    if areas and responses:
        responses.insert(1, f"The areas to focus on in the image have bounding box coordinates: {areas}.")
        if len(responses) > 2:
            responses[2] = f"Looking at these areas, {responses[2]}"
    return re.sub(r" +", " ", " ".join(part for part in responses if part))


def chain_of_manipulations(final_com: Any, place: str) -> str:
    """The steps of the first chain of CogCoM's tree that reaches the answer; "" if there is none.

    Args:
        final_com: the tree, as an object or as JSON text: "a,b--c,d" (parent's level and place, own level and place) to
            {desc, variables, found, ...}. A place ``*`` means every node of that level.
        place: record and file, for messages.

    Raises:
        ValueError: if the text is no JSON object, or a key has another form.
    """
    if not final_com:
        return ""
    try:
        tree = json.loads(final_com) if isinstance(final_com, str) else final_com
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{place}: final_com is not valid JSON ({error}); correct the record") from error
    if not isinstance(tree, dict):
        raise ValueError(f"{place}: expected final_com to be an object, got {type(tree).__name__}; correct the record")
    children: dict[tuple[str, str], list[tuple[tuple[str, str], dict[str, Any]]]] = {}
    for key, step in tree.items():
        match = _STEP.match(key)
        if match is None or not isinstance(step, dict):
            raise ValueError(f"{place}: expected keys 'a,b--c,d' in final_com, got {key!r}; correct the record")
        parent = (match[1], "*" if match[2] in "*~" else match[2])
        children.setdefault(parent, []).append(((match[3], match[4]), step))
    chain = _found_chain(children, ("-1", "0"), (), frozenset())
    values: dict[str, Any] = {}
    steps = []
    for step in chain:
        variables = step.get("variables") or {}
        if not isinstance(variables, dict):
            raise ValueError(
                f"{place}: expected variables in final_com to be an object, got {variables!r:.60}; correct the record"
            )
        values.update(variables)
        steps.append(
            _VARIABLE.sub(lambda match: _value(values.get(match[1]), match[0]), str(step.get("desc", "")).strip())
        )
    return " ".join(part for part in steps if part)


def _found_chain(
    children: Mapping[tuple[str, str], Sequence[tuple[tuple[str, str], dict[str, Any]]]],
    node: tuple[str, str],
    path: tuple[dict[str, Any], ...],
    visited: frozenset[tuple[str, str]],
) -> tuple[dict[str, Any], ...]:
    """Steps from the root to the first one that found the answer, depth first; () if none did."""
    if node in visited:  # a damaged record may point at itself
        return ()
    following = [*children.get(node, ()), *(children.get((node[0], "*"), ()) if node[1] != "*" else ())]
    for child, step in following:
        longer = (*path, step)
        if step.get("found"):
            return longer
        if chain := _found_chain(children, child, longer, visited | {node}):
            return chain
    return ()


def _value(value: Any, name: str) -> str:
    """A variable's value in a sentence: a list (a box) as text, the name itself where there is none."""
    return name if value is None or value in ("", []) else str(value)


def zebra_question(text: str, images: Sequence[str], place: str) -> tuple[str, list[str]]:
    """Zebra-CoT's question with ``<image>`` where it refers to an image, and the images in the order they are shown.

    Images that the text does not refer to stand before it.

    Args:
        text: the question.
        images: names of the problem's images that exist, in order.
        place: record and file, for messages.

    Raises:
        ValueError: if the text refers to an image that does not exist, or there is none at all.
    """
    referred = [name.strip() for name in _IMAGE_REFERENCE.findall(text)]
    missing = [name for name in referred if name not in images]
    if missing:
        raise ValueError(f"{place}: expected the image {missing[0]}, which the question refers to, got null")
    order = [*(name for name in images if name not in referred), *referred]
    if not order:
        raise ValueError(
            f"{place}: expected at least one image of the problem, got none; a text-only problem is no use"
        )
    unreferred = len(order) - len(referred)
    marked = _IMAGE_REFERENCE.sub(IMAGE_MARK, text).strip()
    if not referred:
        return marked, order
    return IMAGE_MARK * unreferred + ("\n" if unreferred else "") + marked, order


def zebra_reasoning(trace: str) -> str:
    """Zebra-CoT's thoughts without their numbers and references to images."""
    text = _THOUGHT.sub("", _IMAGE_REFERENCE.sub("", trace))
    return re.sub(r"[ \t]*\n\s*\n\s*", "\n", text).strip()
