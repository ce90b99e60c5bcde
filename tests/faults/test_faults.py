"""The fault-injection suite in short: `make faults` runs all of it, `make test` all but the interrupted runs, which are slow;
tests/faults/long.py at length."""

from __future__ import annotations

import random
from pathlib import Path

import pytest

from tests.faults import code, damage, fuzz
from tests.faults.interruptions import INTERRUPTIONS, INTERVAL, Reference
from tests.faults.outcomes import Kind, judged

pytestmark = pytest.mark.filterwarnings("default")  # what damaged files make libraries warn of


@pytest.fixture(scope="module")
def reference(tmp_path_factory: pytest.TempPathFactory) -> Reference:
    return Reference(tmp_path_factory.mktemp("run"))


@pytest.fixture(scope="module")
def cases(tmp_path_factory: pytest.TempPathFactory, reference: Reference) -> dict[str, damage.Case]:
    return damage.cases(tmp_path_factory.mktemp("damage"), reference)


@pytest.mark.slow
@pytest.mark.parametrize("name", list(INTERRUPTIONS))
def test_an_interrupted_run_loses_an_interval_at_most_and_ends_as_if_nothing_had_been(
    tmp_path: Path, reference: Reference, name: str
) -> None:
    kind = Kind()
    for number in range(2):
        INTERRUPTIONS[name](tmp_path / str(number), reference, random.Random(number), kind)
    assert kind.counts == {"same": 2}, kind.problems
    assert kind.worst_lost <= INTERVAL


def test_damaged_files_are_refused(tmp_path: Path, cases: dict[str, damage.Case]) -> None:
    for seed, (name, case) in enumerate(cases.items()):
        kind, rng = Kind(), random.Random(seed)
        for number in range(12):
            case.run(tmp_path / f"{seed}-{number}", rng, kind)
        assert not kind.bad, (name, kind.problems)
        assert kind.counts["refused"] > 2, name


@pytest.mark.parametrize("name", list(code.ATTEMPTS))
def test_code_in_files_is_not_executed(tmp_path: Path, reference: Reference, name: str) -> None:
    kind = Kind()
    code.try_to_run_code(name, tmp_path / "planted", reference, kind)
    assert not kind.bad, kind.problems
    assert not list(tmp_path.glob("marker*"))


@pytest.mark.parametrize(
    "name", [pytest.param(n, marks=pytest.mark.slow if n == "configuration" else ()) for n in fuzz.FUZZED]
)
def test_fuzzed_inputs_are_valid_or_refused(tmp_path: Path, name: str) -> None:
    kind = Kind()
    fuzz.FUZZED[name][0](tmp_path, 300, 0, kind)
    assert kind.counts.total() >= 250
    assert not kind.bad, kind.problems


def test_the_suite_notices_what_it_looks_for(tmp_path: Path, reference: Reference) -> None:
    """A reader that trusts everything, a run with another seed, an error without words: each is counted as bad."""
    (tmp_path / "good").mkdir()
    (tmp_path / "good/a.txt").write_text("0123456789")
    case = damage.Case(tmp_path / "good", ["a.txt"], lambda copy: (copy / "a.txt").read_bytes(), checksum=True)
    kind = Kind()
    for number in range(5):
        case.run(tmp_path / f"copy{number}", random.Random(number), kind)
    assert kind.counts == {"wrong": 5}
    assert judged(lambda: {}["x"])[0] == "unclear"
    assert judged(lambda: int("x"), ("a.txt",))[0] == "unclear"
    other = tmp_path / "other"
    (other / "checkpoint").mkdir(parents=True)
    (other / "checkpoint/model.safetensors").write_bytes(reference.weights[:-1] + b"x")
    assert reference.difference(other) == "the final weights differ"
