"""The real lmms-eval drives an AMVL checkpoint on a miniature of its own BLINK tasks (make lmms-eval-test)."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from amvl_model.data.readers.blink import blink_answers, load_blink
from amvl_model.evaluation.evaluate import evaluate
from amvl_model.evaluation.lmms_eval_plugin import samples
from amvl_model.evaluation.lmms_eval_plugin.local_tasks import task_name
from amvl_model.models.loading import SHIPPED, load_checkpoint
from tests import lmms_eval_miniature

REPOSITORY = Path(__file__).resolve().parents[3]
TINY = str(SHIPPED["tiny-amvl"])
SHORT = ("--gen_kwargs", "max_new_tokens=12")

pytestmark = [
    pytest.mark.lmms_eval,
    pytest.mark.timeout(3600),
    pytest.mark.filterwarnings("ignore"),  # lmms-eval's own
]


@pytest.fixture(autouse=True, scope="module")
def needs_lmms_eval() -> None:
    pytest.importorskip("lmms_eval", reason="lmms-eval is not installed here; run make lmms-eval-test")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return lmms_eval_miniature.everything(tmp_path_factory.mktemp("miniature"))


def run(folder: Path, out: Path, *arguments: str, launcher: tuple[str, ...] = ("-m",)) -> str:
    """lmms-eval's command on the CPU without a network; returns what it printed."""
    environment = {
        **os.environ,
        "PYTHONPATH": str(REPOSITORY),
        "HF_HUB_OFFLINE": "1",
        "HF_HOME": str(folder / "home"),
        "LMMS_EVAL_DATASETS_CACHE": str(folder / "hub"),
        "OMP_NUM_THREADS": "1",
        "ACCELERATE_USE_CPU": "true",
        "TQDM_DISABLE": "1",
    }
    logged = ("--log_samples", "--output_path", str(out), "--device", "cpu", "--batch_size", "8")
    command = [sys.executable, *launcher, "lmms_eval", "--model", "amvl", *arguments, *logged]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=1800, check=False)
    assert done.returncode == 0, done.stderr[-3000:]
    return done.stdout + done.stderr


def replies(out: Path, folder: Path) -> dict[str, str]:
    answers = blink_answers(load_blink(folder / "blink"))
    return {sample.id: sample.reply for sample in samples.read_samples(out, answers)}


def compared(out: Path, folder: Path) -> samples.Comparison:
    answers = blink_answers(load_blink(folder / "blink"))
    return samples.compare(samples.read_samples(out, answers), samples.read_scores(out), n_bootstrap=10)


def mean(scores: Any, name: str) -> float:
    (value,) = [score.value.mean for score in scores if score.name == name]
    return float(value)


@pytest.fixture(scope="module")
def blink_run(folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The command of the manual: --tasks blink, with lmms-eval's own prompt."""
    out = tmp_path_factory.mktemp("blink")
    printed = run(folder, out, "--model_args", f"pretrained={TINY}", "--tasks", "blink", *SHORT)
    assert "blink_multi_view_reasoning" in printed
    return out


@pytest.fixture(scope="module")
def plain_run(folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same tasks on the local folder, with BLINK's prompt alone."""
    out = tmp_path_factory.mktemp("plain")
    arguments = ("--include_path", str(folder / "plain"), "--tasks", "blink_local")
    run(folder, out, "--model_args", f"pretrained={TINY}", *arguments, *SHORT)
    return out


def test_the_entry_point_names_both_classes() -> None:
    from lmms_eval.models import get_model, get_model_manifest

    assert get_model_manifest("amvl").model_id == "amvl"
    assert [get_model("amvl", force_simple=simple).is_simple for simple in (False, True)] == [False, True]


def test_our_description_of_their_reader_is_their_reader() -> None:
    from lmms_eval.tasks.blink.utils import _extract_answer_letter

    from amvl_model.data.schema import LETTERS
    from amvl_model.evaluation.harness_readers import blink_rule
    from tests.model.evaluation import test_parsing as forms
    from tests.model.evaluation.reply_forms import load_forms

    tables = (value for name, value in vars(forms).items() if name.isupper() and isinstance(value, list))
    cases = [(row[0], row[1]) for table in tables for row in table if isinstance(row, tuple)]
    cases += [(form.reply, form.choices) for form in load_forms()]
    assert len(cases) > 2_500
    for reply, choices in cases:
        read, _ = blink_rule(reply, choices)
        theirs = _extract_answer_letter(reply, LETTERS[: len(choices)])
        assert ("" if read is None else LETTERS[read]) == theirs, reply


def test_blink_runs_to_its_end_and_both_scores_of_the_same_replies_are_explained(blink_run: Path, folder: Path) -> None:
    comparison = compared(blink_run, folder)
    assert comparison.samples == len(load_blink(folder / "blink"))
    assert len(comparison.lmms_eval) == 15
    assert comparison.lmms_eval["blink"] == pytest.approx(mean(comparison.theirs, "mean over tasks"))
    assert comparison.lmms_eval["blink"] != pytest.approx(mean(comparison.theirs, "mean over questions (VLMEvalKit)"))
    read = {
        sample.id: sample for sample in samples.read_samples(blink_run, blink_answers(load_blink(folder / "blink")))
    }
    different = {difference.id for difference in comparison.differences}
    assert different, "the note is foreign to this checkpoint, some of its replies make no sense"
    rules = {
        "short first line",
        "last statement",
        "last letter in brackets",
        "first letter of the reply",
        "nothing found",
    }
    assert {difference.rule for difference in comparison.differences} <= rules
    more = [read[d.id].right - (d.ours == read[d.id].answer) for d in comparison.differences]
    assert [bool(m) for m in more] == [d.changes_score for d in comparison.differences]
    ours, theirs = (mean(s, "mean over questions (VLMEvalKit)") for s in (comparison.ours, comparison.theirs))
    assert theirs - ours == pytest.approx(sum(more) / comparison.samples)


def test_with_blinks_prompt_letters_and_scores_are_those_of_our_own_evaluation(plain_run: Path, folder: Path) -> None:
    model, processor = load_checkpoint(TINY)
    questions = load_blink(folder / "blink")
    ours = evaluate(
        model, processor, questions, scoring=("generation",), max_new_tokens=12, n_bootstrap=10, progress=False
    )
    assert replies(plain_run, folder) == {r.id: (r.reply or "").strip() for r in ours.records}
    comparison = compared(plain_run, folder)
    assert comparison.differences == ()
    report = ours.accuracy["generation"]
    assert comparison.lmms_eval["blink_local"] == pytest.approx(report.unweighted.mean)
    assert mean(comparison.ours, "mean over questions (VLMEvalKit)") == pytest.approx(report.weighted.mean)
    for task in report.tasks:
        assert comparison.lmms_eval[task_name(task.task)] == pytest.approx(task.accuracy.mean)


def test_two_processes_give_the_same_samples_as_one(plain_run: Path, folder: Path, tmp_path: Path) -> None:
    launcher = ("-m", "torch.distributed.run", "--standalone", "--nproc_per_node=2", "-m")
    arguments = ("--include_path", str(folder / "plain"), "--tasks", "blink_local")
    run(folder, tmp_path, "--model_args", f"pretrained={TINY}", *arguments, *SHORT, launcher=launcher)
    assert replies(tmp_path, folder) == replies(plain_run, folder)
    assert samples.read_scores(tmp_path) == samples.read_scores(plain_run)


def test_simple_interface_repeats_and_samples(plain_run: Path, folder: Path, tmp_path: Path) -> None:
    arguments = ("--include_path", str(folder / "plain"), "--tasks", "blink_counting", *SHORT)
    cold = f"pretrained={TINY},latents=prior,latent_temperature=0"
    local = ("--include_path", str(folder / "plain"), "--tasks", "blink_local", *SHORT)
    run(folder, tmp_path, "--force_simple", "--model_args", cold, *local)
    assert replies(tmp_path, folder) == replies(plain_run, folder)
    hot = f"pretrained={TINY},latents=prior,latent_temperature=30,seed=1"
    run(folder, tmp_path / "hot", "--model_args", hot, "--repeats", "6", *arguments)
    (log,) = (tmp_path / "hot").rglob("*_samples_*.jsonl")
    rows = [json.loads(line) for line in log.read_text().splitlines()]
    assert any(len(set(map(str, row["resps"]))) > 1 for row in rows), "each repetition reads a sample of its own"


def test_a_failed_run_leaves_no_results(folder: Path, tmp_path: Path) -> None:
    printed = run(folder, tmp_path, "--model_args", "pretrained=tiny-amvl,latent=prior", "--tasks", "blink_counting")
    assert "unknown argument latent=prior; did you mean latents?" in printed
    with pytest.raises(FileNotFoundError, match="a run that fails ends with status 0"):
        samples.read_scores(tmp_path)


@pytest.fixture(scope="module")
def simple() -> Callable[..., Any]:
    """The simple class, given documents by hand."""
    from lmms_eval.models import get_model

    cls = get_model("amvl", force_simple=True)

    def make(**arguments: Any) -> Any:
        return cls.create_from_arg_string("", {"pretrained": TINY, "device": "cpu", **arguments})

    return make


def request(kind: str, *arguments: Any, doc_id: int = 0) -> Any:
    from lmms_eval.api.instance import Instance

    metadata = {"task": "t", "doc_id": doc_id, "repeats": 1}
    return Instance(request_type=kind, arguments=(*arguments, doc_id, "t", "val"), idx=0, metadata=metadata)


def test_likelihoods_choose_what_our_likelihood_scoring_chooses(folder: Path, simple: Callable[..., Any]) -> None:
    lm = simple(batch_size=4)
    questions = list(load_blink(folder / "blink", tasks=["Counting", "Jigsaw"]))
    lm.task_dict = {"t": {"val": questions}}
    requests = [
        request("loglikelihood", q.prompt, f" ({letter})", lambda doc: list(doc.images), doc_id=i)
        for i, q in enumerate(questions)
        for letter in "ABCD"[: len(q.choices)]
    ]
    losses = iter(lm.loglikelihood(requests))
    chosen = []
    for question in questions:
        item = [next(losses)[0] for _ in question.choices]
        chosen.append(item.index(min(item)))
    model, processor = load_checkpoint(TINY)
    ours = evaluate(model, processor, questions, scoring=("likelihood",), n_bootstrap=5, progress=False)
    assert chosen == [record.predicted["likelihood"] for record in ours.records]


def test_bad_arguments_are_refused_with_the_way_out(simple: Callable[..., Any]) -> None:
    for arguments, message in (
        ({"dtype": "fp8"}, "dtype must be one of float32"),
        ({"batch_size": "auto"}, "auto is not supported"),
        ({"latents": "posterior"}, "latents must be one of prior_mean, prior"),
        ({"pretrained": ""}, "expected pretrained=DIR"),
    ):
        with pytest.raises(ValueError, match=message):
            simple(**arguments)
    lm = simple(latents="prior", latent_samples=2)
    with pytest.raises(ValueError, match="give lmms-eval --repeats"):
        lm.generate_until([request("generate_until", "?", {}, lambda doc: [])])
    with pytest.raises(NotImplementedError, match="single questions"):
        lm.generate_until_multi_round([])
    lm.clean()
    with pytest.raises(RuntimeError, match="released by clean"):
        lm.loglikelihood([])
