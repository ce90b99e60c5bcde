"""Questions by name: which reader serves which source, weights in data.source, and clear refusals."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import pytest

from amvl_model.commands import train
from amvl_model.config import DataConfig, load_preset
from amvl_model.data.mixture import MixedQuestions
from amvl_model.data.readers import training_sets
from amvl_model.data.readers.benchmarks import load_vstar
from amvl_model.data.readers.question_files import QuestionFile, write_questions
from amvl_model.data.sources import evaluation_questions, load_benchmark, load_questions, training_questions
from amvl_model.data.synthetic import SyntheticBlink
from tests import helpers, miniatures

pytest.importorskip("pyarrow")


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for make in (miniatures.visual_cot, miniatures.refocus, miniatures.cogcom, miniatures.zebra_cot, miniatures.vstar):
        make(tmp_path / make.__name__.replace("_", "-"))
    miniatures.hrbench(tmp_path)
    miniatures.visual_puzzles(tmp_path / "visual-puzzles")
    return tmp_path


def config(source: str, folder: Path, **values: object) -> DataConfig:
    return DataConfig(source=source, path=str(folder), **{"train_size": None, "eval_size": None, **values})


def test_the_papers_mixture_is_read_from_one_folder(folder: Path) -> None:
    questions = training_questions(config("visual-cot+refocus+cogcom+zebra-cot", folder))
    assert Counter(q.source for q in questions) == {"Visual-CoT": 3, "ReFocus": 2, "CogCoM": 4, "Zebra-CoT": 7}


def test_weights_stand_in_the_source(folder: Path) -> None:
    questions = training_questions(config("visual-cot:1+zebra-cot:3", folder, train_size=12))
    assert Counter(q.source for q in questions) == {"Visual-CoT": 3, "Zebra-CoT": 9}
    with pytest.raises(ValueError, match="a weight for every source or for none"):
        training_questions(config("visual-cot:1+zebra-cot", folder))
    with pytest.raises(ValueError, match="expected <name>:<weight>, got 'refocus:1.2.3'"):
        training_questions(config("refocus:1.2.3", folder))
    with pytest.raises(ValueError, match="every source once"):
        training_questions(config("refocus+refocus", folder))


def test_own_questions_join_the_mixture(folder: Path) -> None:
    write_questions(list(load_vstar(folder / "vstar")), folder, "own")
    questions = training_questions(config("own.jsonl:1+refocus:1", folder))
    assert Counter(q.source for q in questions) == {"V*": 2, "ReFocus": 2}
    assert len(training_questions(config(str(folder / "own.jsonl"), folder))) == 4
    assert len(evaluation_questions(config("refocus", folder, eval_source="own.jsonl"))) == 4


def test_every_benchmark_is_found_by_name(folder: Path) -> None:
    both = evaluation_questions(config("refocus", folder, eval_source="vstar+hrbench4k+visual-puzzles"))
    assert [q.source for q in both] == ["V*"] * 4 + ["HRBench4K"] * 8 + ["VisualPuzzles"] * 5
    assert len(evaluation_questions(config("refocus", folder, eval_source="vstar", eval_size=1))) == 2
    assert [q.id for q in both[3:5]] == ["relative_position/1", "hrbench_4k/000/cycle0"]
    with pytest.raises(ValueError, match="benchmark must be one of blink, vstar"):
        load_benchmark("mme")


def test_unreadable_sources_say_what_can_be_read(folder: Path) -> None:
    with pytest.raises(
        ValueError, match="data source 'llava' cannot be read: expected synthetic-blink, multihop, blink, visual-cot"
    ):
        training_questions(config("llava", folder))
    with pytest.raises(ValueError, match="set data.eval_source"):
        evaluation_questions(config("refocus", folder))
    with pytest.raises(FileNotFoundError, match="unpack the archives"):
        training_questions(DataConfig(source="visual-cot", path=None))


def test_every_question_of_every_source_can_be_encoded(folder: Path) -> None:
    processor = helpers.processor()
    sets = [
        training_questions(config("visual-cot+refocus+cogcom+zebra-cot", folder)),
        evaluation_questions(config("refocus", folder, eval_source="vstar+hrbench4k+visual-puzzles")),
    ]
    for question in [question for questions in sets for question in questions]:
        encoded = processor.encode(question)
        assert encoded["image_grid_thw"].shape == (len(question.images), 3)
        assert len(encoded["answer_ids"]) > 1


def test_one_corrupt_image_of_a_training_set_is_skipped_counted_and_named(folder: Path) -> None:
    import pyarrow as pa
    import pyarrow.parquet as pq

    file = folder / "cogcom" / "data" / "com.parquet"
    table = pq.read_table(file)
    rows = table.to_pylist()
    rows[2]["decoded_image"]["bytes"] = rows[2]["decoded_image"]["bytes"][:40]
    pq.write_table(pa.Table.from_pylist(rows, schema=table.schema), file)
    questions = training_questions(config("cogcom:1+refocus:1", folder, train_size=8))
    assert isinstance(questions, MixedQuestions)
    assert len(list(questions)) == 8
    assert [(entry.source, entry.index) for entry in questions.skipped] == [("cogcom", 2)]
    assert "com.parquet: decoded_image cannot be read" in questions.skipped[0].reason


def test_a_training_set_becomes_a_file_of_questions_by_one_command(folder: Path) -> None:
    from experiments.convert_training_set import main

    main(["--source", "zebra-cot", "--path", str(folder / "zebra-cot"), "--out", str(folder / "converted")])
    file = folder / "converted" / "zebra-cot.jsonl"
    originals = training_sets.load_zebra_cot(folder / "zebra-cot")
    assert [(q.id, q.prompt) for q in QuestionFile(file)] == [(q.id, q.prompt) for q in originals]


def test_synthetic_questions_stay_as_they_were() -> None:
    questions = training_questions(DataConfig(source="synthetic-blink", train_size=5))
    assert isinstance(questions, SyntheticBlink)
    mixed = training_questions(DataConfig(source="synthetic-blink:1", train_size=5))
    assert isinstance(mixed, MixedQuestions)
    assert len(mixed) == len(questions) == 5


def test_options_that_a_source_does_not_have_are_refused(tmp_path: Path) -> None:
    file = write_questions(SyntheticBlink(size=2), tmp_path)
    assert len(load_questions(str(file), eval_size=None)) == 2
    with pytest.raises(
        ValueError, match=r"^split: expected 'test' with .*questions\.jsonl, .* got 'train'; leave it out"
    ):
        load_questions(str(file), "train")
    with pytest.raises(ValueError, match=r"held-out questions have clean labels, got 0\.4"):
        load_questions("synthetic-blink", label_noise=0.4)
    for name, option in (("vstar", "split"), ("hrbench4k", "split"), ("blink", "prompt"), ("visual-puzzles", "size")):
        with pytest.raises(ValueError, match=f"^{name} takes the options .*, got {option}; leave out"):
            load_benchmark(name, tmp_path, **{option: "test"})


def test_wrong_labels_are_asked_for_where_questions_are_drawn_only(tmp_path: Path) -> None:
    for source, noise in (("synthetic-blink", 0.2), ("multihop:1+mine.jsonl:2", 0.2), ("mine.jsonl", 0.0)):
        config = load_preset("tiny", {"data.source": source, "data.label_noise": noise})
        assert config.data.label_noise == noise
    assert load_preset("tiny", {"data.source": "mine.jsonl"}).data.source == "mine.jsonl"
    with pytest.raises(
        ValueError, match="data.label_noise: expected 0 with data.source 'blink', whose labels .* received 0.2"
    ):
        load_preset("tiny", {"data.source": "blink", "data.label_noise": 0.2})
    for name in ("--data.label_noise", "--data.label-noise"):
        with pytest.raises(SystemExit) as refused:
            train.main(["--preset", "tiny", "--data.source", "mine.jsonl", name, "0.2"])
        assert refused.value.code == 2
