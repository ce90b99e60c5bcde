"""Inputs drawn by hypothesis: replies, records, configurations, checkpoint folders. Each is valid, or refused clearly.

replies          None or the index of an option, in less than half a second, and the same when blanks stand around
records          a `VisualQuestion` of texts, or a ValueError that names file and line
configuration    a `RunConfig` that is the same when it is read again, or a ValueError that names the setting
checkpoints      nothing but ValueError and FileNotFoundError; no manifest or index is accepted that was not written so
"""

from __future__ import annotations

import contextlib
import copy
import io
import json
import logging
import shutil
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from hypothesis import HealthCheck, Phase, Verbosity, given, seed, settings
from hypothesis import strategies as st

from amvl_model.config import RunConfig, load_preset
from amvl_model.config.schema import config_paths
from amvl_model.data.readers.benchmarks import load_visual_puzzles, load_vstar
from amvl_model.data.readers.question_files import QuestionFile
from amvl_model.data.readers.training_sets import load_cogcom, load_refocus, load_visual_cot
from amvl_model.data.schema import VisualQuestion
from amvl_model.evaluation.parsing import parse_choice
from amvl_model.models.checkpoints import damage, inspect_checkpoint
from amvl_model.models.checkpoints.pickles import foreign_code
from amvl_model.models.loading import ASSETS
from tests import miniatures
from tests.faults.outcomes import Kind, judged

SCALARS = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(),
    st.floats(),
    st.text(max_size=12),
    st.sampled_from(["A", "(B)", "", "a.png", "-1"]),
)
JSON = st.recursive(
    SCALARS,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=6), inner, max_size=4),
    max_leaves=8,
)
WORDS = st.sampled_from(
    "A B C D a b (A) (B) C. **D** not is the answer option wrong right either or and both neither eliminate leaves because if "
    "unless wait actually no yes red blue 答案 是 选 不 正确 La respuesta es réponse Antwort ist 1. 2) \\boxed{A} $B$ ` > # - • "
    "<answer> </answer> Answer: final first correct".split()
)
REPLIES = st.one_of(
    st.lists(WORDS, max_size=14).map(" ".join),
    st.text(max_size=60),
    st.builds(
        lambda words, mark: mark.join(words), st.lists(WORDS, max_size=8), st.sampled_from(["", "\n", ", ", ". ", "; "])
    ),
)
OPTIONS = st.lists(st.one_of(WORDS, st.text(max_size=10)), min_size=2, max_size=6)


def drawn(strategy: st.SearchStrategy[Any], check: Callable[[Any], None], number: int, start: int) -> None:
    """Call ``check`` with ``number`` values; hypothesis neither stops at an error nor shrinks, as ``check`` counts."""

    @seed(start)
    @settings(
        max_examples=number, database=None, deadline=None, phases=[Phase.generate], verbosity=Verbosity.quiet,
        suppress_health_check=list(HealthCheck),
    )  # fmt: skip
    @given(strategy)
    def run(value: Any) -> None:
        check(value)

    run()


def mutations(record: Any) -> st.SearchStrategy[Any]:
    """The record with one to three of its values, at any depth, replaced or removed."""
    places = list(_places(record))

    def changed(edits: list[tuple[tuple[Any, ...], bool, Any]]) -> Any:
        result = copy.deepcopy(record)
        for place, remove, value in edits:
            inside = result
            try:
                for key in place[:-1]:
                    inside = inside[key]
                if remove:
                    del inside[place[-1]]
                else:
                    inside[place[-1]] = value
            except (KeyError, IndexError, TypeError):
                continue  # an earlier change removed the place
        return result

    edit = st.tuples(st.sampled_from(places), st.booleans(), JSON)
    return st.lists(edit, min_size=1, max_size=3).map(changed)


def _places(value: Any, above: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    entries = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, inside in entries:
        yield (*above, key)
        yield from _places(inside, (*above, key))


def fuzz_replies(folder: Path, number: int, start: int, kind: Kind) -> None:
    """`parse_choice`."""

    def check(value: tuple[str, list[str]]) -> None:
        reply, options = value

        def seconds() -> float:
            began = time.process_time()
            parse_choice(reply, options)
            return time.process_time() - began

        try:
            found = parse_choice(reply, options)
            again = parse_choice(f"  {reply}\n", options)
            slow = all(seconds() > 0.25 for _ in range(2))  # a collection of garbage may fall into one of them
        except Exception as error:
            kind.add("unclear", f"{value!r}: {error!r}")
            return
        valid = found is None or (isinstance(found, int) and 0 <= found < len(options))
        if not valid or found != again or slow:
            kind.add("wrong", f"{value!r}: {found!r}, with blanks around {again!r}; slow: {slow}")
        else:
            kind.add("same")

    drawn(st.tuples(REPLIES, OPTIONS), check, number, start)


def _questions(read: Callable[[], Any], names: tuple[str, ...], kind: Kind, note: Any) -> None:
    """Open a set and read all of its questions; each is one of texts, or refused."""

    def every() -> Any:
        questions, problem = read(), None
        for index in range(len(questions)):
            try:
                question = questions[index]
                assert isinstance(question, VisualQuestion)
                texts = (question.id, question.prompt, question.answer_text, question.task, *question.choices)
                for text in texts:
                    text.encode()
            except (ValueError, OSError) as error:
                problem = error
        if problem is not None:
            raise problem

    with contextlib.redirect_stderr(io.StringIO()):
        outcome, value = judged(every, names)
    kind.add("same" if outcome == "accepted" else outcome, f"{note!r:.300}: {value}")


def fuzz_records(folder: Path, number: int, start: int, kind: Kind) -> None:
    """Records of own questions, V*, Visual-CoT, ReFocus, CogCoM (JSON) and VisualPuzzles (Parquet, some)."""
    logging.disable(logging.WARNING)
    own = folder / "own"
    own.mkdir()
    miniatures.random_image(1).save(own / "a.png")
    record = {
        "id": "q", "images": ["a.png"], "question": "Which?", "choices": ["red", "blue"], "answer": "B", "prompt": "Which?",
        "task": "t", "source": "s", "answer_text": "(B)",
    }  # fmt: skip
    places = {
        "own": (own / "questions.jsonl", lambda: QuestionFile(own / "questions.jsonl"), [record]),
    }
    for name, make, file, load in (
        ("vstar", miniatures.vstar, "test_questions.jsonl", load_vstar),
        ("visual-cot", miniatures.visual_cot, "viscot_363k.json", load_visual_cot),
        ("refocus", miniatures.refocus, "chartqa_vcot/train.jsonl", load_refocus),
        ("cogcom", lambda place: miniatures.cogcom(place, "jsonl"), "com.jsonl", load_cogcom),
    ):
        place = make(folder / name)
        path = place / file
        text = path.read_text()
        records = json.loads(text) if file.endswith(".json") else [json.loads(line) for line in text.splitlines()]
        places[name] = (path, lambda load=load, place=place: load(place), records[:1])
    each = int(0.96 * number / len(places))
    for path, load, records in places.values():

        def check(value: Any, path: Path = path, load: Any = load) -> None:
            lines = path.suffix == ".jsonl"
            path.write_text("".join(json.dumps(line) + "\n" for line in value) if lines else json.dumps(value))
            _questions(load, (path.name, str(path.parent), value_id(value)), kind, value)

        drawn(mutations(records), check, each, start)
    import pyarrow as pa
    import pyarrow.parquet as pq

    puzzles = miniatures.visual_puzzles(folder / "puzzles")
    file = next(puzzles.rglob("*.parquet"))
    table = pq.read_table(file)
    texts = st.one_of(st.none(), st.sampled_from(["", "A", "E", "(B)", "\u00e9"]), st.text(max_size=6))
    lists = st.one_of(st.none(), st.lists(texts, max_size=5))

    def puzzle(value: tuple[Any, Any, Any, Any]) -> None:
        rows = table.to_pylist()
        rows[0] |= dict(zip(("question", "category", "answer", "options"), value, strict=True))
        pq.write_table(pa.Table.from_pylist(rows, schema=table.schema), file)
        _questions(lambda: load_visual_puzzles(puzzles), (file.name, str(puzzles)), kind, value)

    drawn(st.tuples(texts, texts, texts, lists), puzzle, number - each * len(places), start)
    logging.disable(logging.NOTSET)


def value_id(value: Any) -> str:
    """What a message may name instead of the file: the record's id."""
    record = value[0] if isinstance(value, list) and value else {}
    return str(record.get("id", "record")) if isinstance(record, dict) else "record"


def fuzz_configuration(folder: Path, number: int, start: int, kind: Kind) -> None:
    """`RunConfig.from_dict` of changed settings, and settings as texts on the command line."""
    good = load_preset("tiny").to_dict()

    def check(value: Any) -> None:
        outcome, config = judged(lambda: RunConfig.from_dict(value))
        if outcome == "accepted":
            outcome = "same" if RunConfig.from_dict(json.loads(json.dumps(config.to_dict()))) == config else "wrong"
        kind.add(outcome, f"{value!r:.500}: {config!r:.300}")

    def check_texts(value: dict[str, str]) -> None:
        outcome, config = judged(lambda: load_preset("tiny", value))
        kind.add("same" if outcome == "accepted" else outcome, f"{value!r}: {config!r:.300}")

    drawn(mutations(good), check, number // 2, start)
    texts = st.one_of(
        st.text(max_size=10), st.integers().map(str), st.floats().map(str), st.sampled_from(["null", "true", "[]"])
    )
    drawn(
        st.dictionaries(st.sampled_from(config_paths()), texts, min_size=1, max_size=3), check_texts, number // 2, start
    )


def fuzz_checkpoints(folder: Path, number: int, start: int, kind: Kind) -> None:
    """config.json, indexes, headers of safetensors, manifests and indexes of sharded checkpoints."""
    place = folder / "model"
    shutil.copytree(ASSETS / "tiny-amvl", place)
    good = json.loads((place / "config.json").read_text())

    def inspected(value: Any) -> None:
        (place / "config.json").write_text(json.dumps(value))
        outcome, found = judged(lambda: inspect_checkpoint(place, expected_type="amvl"), (str(place), "config.json"))
        same = outcome == "accepted" and found["model_type"] == "amvl"
        kind.add("same" if same else "wrong" if outcome == "accepted" else outcome, f"{value!r:.200}: {found!r:.200}")

    drawn(mutations(good), inspected, number // 5, start)
    (place / "config.json").write_text(json.dumps(good))
    weights = (place / "model.safetensors").read_bytes()
    (place / "model.safetensors").unlink()

    def index(value: Any) -> None:
        (place / "model.safetensors.index.json").write_text(json.dumps(value))
        outcome, found = judged(lambda: inspect_checkpoint(place, expected_type="amvl"), (str(place),))
        kind.add("wrong" if outcome == "accepted" else outcome, f"{value!r:.300}: {found!r:.200}")

    names = st.sampled_from(
        ["/etc/passwd", "../a.safetensors", "a.bin", "a/b.safetensors", "..", ".", "", "b.safetensors"]
    )
    maps = st.dictionaries(st.text(max_size=4), st.one_of(names, JSON), max_size=3)
    drawn(st.one_of(JSON, st.fixed_dictionaries({"weight_map": st.one_of(maps, JSON)})), index, number // 5, start)
    (place / "model.safetensors.index.json").unlink()

    def header(value: bytes) -> None:
        (place / "model.safetensors").write_bytes(value)
        outcome, found = judged(lambda: inspect_checkpoint(place, expected_type="amvl"), (str(place),))
        kind.add("same" if outcome == "accepted" else outcome, f"{value[:40]!r}: {found!r:.200}")

    starts = st.builds(
        lambda n, text, rest: n.to_bytes(8, "little") + text + rest,
        st.integers(0, 2**63),
        st.binary(max_size=40),
        st.binary(max_size=9),
    )
    entries = mutations({"a": {"dtype": "F32", "shape": [2], "data_offsets": [0, 8]}}).map(
        lambda value: _header(value) + bytes(8)
    )
    drawn(
        st.one_of(
            starts, entries, st.binary(max_size=40), st.integers(0, len(weights)).map(lambda n: weights[:n][:4096])
        ),
        header,
        number // 5,
        start,
    )

    def manifest(value: Any) -> None:
        (place / "manifest.json").write_text(json.dumps(value))
        outcome, found = judged(lambda: damage(place))
        kind.add("same" if found else "wrong", f"{value!r:.300}: {outcome} {found!r:.200}")

    drawn(
        st.one_of(JSON, st.dictionaries(st.sampled_from(["config.json", "x"]), JSON, max_size=3)),
        manifest,
        number // 5,
        start,
    )
    shards = folder / "shards"
    shards.mkdir()

    def shard(value: bytes) -> None:
        (shards / ".metadata").write_bytes(value)
        outcome, found = judged(lambda: foreign_code(shards))
        kind.add("same" if outcome == "accepted" and found else "wrong", f"{value[:60]!r}: {outcome} {found!r:.200}")

    pickles = st.one_of(
        st.binary(max_size=60),
        st.binary(max_size=40).map(lambda b: b"\x80\x04" + b + b"."),
        st.sampled_from(
            [
                b"cos\nsystem\n(S'true'\ntR.",
                b"cbuiltins\neval\n(S'1'\ntR.",
                b"ctorch\nload\n.",
                b"\x80\x04\x8c\x02os\x8c\x06system\x93.",
            ]
        ),
    )
    drawn(pickles, shard, number - 4 * (number // 5), start)


def _header(value: Any) -> bytes:
    text = json.dumps(value).encode()
    return len(text).to_bytes(8, "little") + text


FUZZED = {
    "replies": (fuzz_replies, 0.6),
    "records": (fuzz_records, 0.25),
    "configuration": (fuzz_configuration, 0.05),
    "checkpoint folders": (fuzz_checkpoints, 0.1),
}
"""What is fuzzed, and its share of the inputs."""
