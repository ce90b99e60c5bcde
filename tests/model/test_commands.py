"""The subcommands of ``amvl``: each once at its smallest, help without torch, bad input in one line, data in the wheel."""

from __future__ import annotations

import fnmatch
import json
import signal
import subprocess
import sys
import tomllib
from collections.abc import Callable
from pathlib import Path

import pytest

from amvl_model.cli import COMMANDS, main
from tests import helpers
from tests.miniatures import vstar

ROOT = Path(__file__).resolve().parents[2]
SMALL = [
    *(
        "--model.base=scratch",
        "--model.freeze_vision=false",
        "--model.scratch_hidden_size=96",
        "--model.scratch_layers=2",
    ),
    *("--model.scratch_vision_size=32", "--model.num_latents=2", "--model.latent_dim=3", "--data.tasks=Counting"),
    *("--data.train_size=4", "--data.eval_size=2", "--train.steps=1", "--train.batch_size=2", "--train.report_to="),
    *("--eval.leakage_questions=2", "--eval.samples=1", "--no-progress"),
]

Python = Callable[..., subprocess.CompletedProcess[str]]


@pytest.mark.parametrize("name", COMMANDS)
def test_help_of_every_command_takes_less_than_three_seconds_and_no_torch(python: Python, name: str) -> None:
    code = f"""
import sys, time
from amvl_model.cli import main
try:
    main([{name!r}, "--help"])
except SystemExit as stop:
    assert stop.code == 0, stop.code
assert not {{"torch", "transformers"}} & set(sys.modules)
assert time.process_time() < 3, time.process_time()
"""
    done = python("-c", code)
    assert done.returncode == 0, done.stderr
    assert f"usage: amvl {name}" in done.stdout


def test_the_list_of_commands_is_that_of_the_modules(capsys: pytest.CaptureFixture[str]) -> None:
    modules = {file.stem for file in (ROOT / "amvl_model" / "commands").glob("*.py")} - {"__init__"}
    assert set(COMMANDS) == modules
    with pytest.raises(SystemExit, match="0"):
        main(["--help"])
    printed = capsys.readouterr().out
    assert all(f"  {name} " in printed for name in COMMANDS)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "required: COMMAND"),
        (["trian"], "amvl: error: unknown command trian; did you mean train?"),
        (["train", "--train.steps", "x"], "amvl train: error: train.steps: expected a whole number"),
        (["train", "--objective.betta", "1"], "did you mean --objective.beta?"),
        (["train", "--preset", "tiny", "--ask", "missing.png", "What?"], "missing.png does not exist"),
        (["evaluate", "--benchmark", "vstar"], "amvl evaluate: error: Missing from amvl evaluate: --model"),
        (["evaluate", "--model", "tiny", "--benchmark", "vstarr"], "invalid choice 'vstarr'"),
        (["evaluate", "--model", "tiny", "--benchmark", "vstar", "--path", "nowhere"], "which is neither"),
        (["ask", "What?"], "amvl ask: error: expected at least one image"),
        (["ask"], "amvl ask: error: expected at least one image"),
        (["ask", "missing.png", "What?"], "the image missing.png does not exist"),
        (["ask", "{image}", " "], "expected a question after the images"),
        (["ask", "{image}", "What?", "--choices", "a"], "--choices: expected 2 to 26 options, or none, got 1"),
        (["evaluate", "--model", "tiny", "--benchmark", "vstar", "--out", "{image}"], "--out: a.png exists"),
        (["evaluate", "--model", "tiny", "--benchmark", "vstar", "--out", "."], "--out: expected the name of a file"),
        (["ask", "{image}", "What?", "--checkpoint", "nowhere"], "checkpoint folder nowhere does not exist"),
        (["ask", "{image}", "What?", "--checkpoint", "no/such"], "not found locally or on the Hub"),
        (["diagnose", "--checkpoint", "nowhere"], "amvl diagnose: error: checkpoint folder nowhere does not exist"),
        (["export", "--checkpoint", "nowhere", "--out", "new"], "amvl export: error: checkpoint folder nowhere"),
        (["export", "--checkpoint", "tiny-amvl", "--out", "new"], "a plain checkpoint cannot store latents"),
        (["export", "--checkpoint", "tiny", "--out", "new"], "which is plain already"),
        (["merge", "--checkpoint", "nowhere", "--out", "new"], "amvl merge: error: checkpoint folder nowhere"),
        (["merge", "--checkpoint", "tiny-amvl", "--out", "new"], "got one without; use it as it is"),
        (["merge", "--checkpoint", "tiny", "--out", "new"], "expected 'amvl'"),
        (["doctor", "--all"], "amvl doctor: error: unknown argument --all"),
        (["memory", "--batch", "0"], "amvl memory: error: --batch: expected a value greater than 0, received 0"),
    ],
)
def test_wrong_input_is_one_line_and_exit_status_2(
    arguments: list[str],
    message: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    helpers.random_image(56, 56, 0).save(tmp_path / "a.png")
    with pytest.raises(SystemExit) as stopped:
        main([argument.format(image="a.png") for argument in arguments])
    assert stopped.value.code == 2
    printed = capsys.readouterr()
    assert message in printed.err and len(printed.err.splitlines()) == 1, printed.err
    assert [file.name for file in tmp_path.iterdir()] == ["a.png"]


@pytest.mark.parametrize(("number", "status"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_signal_during_imports_and_set_up_is_one_line(tmp_path: Path, number: int, status: int) -> None:
    code = (
        "import builtins, signal, sys\nfrom amvl_model import cli\nplain, number = builtins.__import__, int(sys.argv[1])\n"
        "signal.signal(signal.SIGINT, signal.default_int_handler)\n"  # a shell in the background has it ignored
        "def stopped(name, *a, **k):\n    name == 'torch' and signal.raise_signal(number)\n"
        "    return plain(name, *a, **k)\n"
        "builtins.__import__ = stopped\ncli.main(['train', '--preset', 'tiny'])"
    )
    done = subprocess.run([sys.executable, "-c", code, str(int(number))], cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == status
    assert done.stderr == f"amvl train: stopped by {signal.Signals(number).name}\n"
    assert not list(tmp_path.iterdir())


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of one step: forward-only, AMVL and supervised fine-tuning."""
    out = tmp_path_factory.mktemp("commands") / "run"
    assert main(["train", *SMALL, "--objective.name=sft", f"--out={out}"]) == 0
    return out


def test_train_writes_every_arm(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for arm in ("forward-only", "amvl", "sft"):
        assert (run / arm / "checkpoint" / "model.safetensors").is_file()
    with pytest.raises(SystemExit, match="2"):
        main(["train", *SMALL, f"--out={run}"])
    assert "nothing is overwritten" in capsys.readouterr().err


def test_ask_answers_with_a_checkpoint_of_that_run(
    run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    helpers.random_image(56, 56, 0).save(tmp_path / "a.png")
    asked = [str(tmp_path / "a.png"), "Is it red?", "--choices", "yes", "no"]
    assert main(["ask", *asked, "--checkpoint", str(run / "amvl" / "checkpoint"), "--max-new-tokens", "2"]) == 0
    printed = capsys.readouterr().out
    assert "reply:" in printed and "(B) no:" in printed and "the posterior reveals" in printed


def test_evaluate_scores_it(run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    options = ["--benchmark", "vstar", "--path", str(vstar(tmp_path / "vstar")), "--scoring", "likelihood"]
    assert main(["evaluate", "--model", str(run / "amvl" / "checkpoint"), *options, "--device", "cpu"]) == 0
    assert "likelihood  mean over questions" in capsys.readouterr().out


def test_diagnose_measures_it(run: Path, tmp_path: Path) -> None:
    options = ["--only", "contamination", "--questions", "2", "--tasks", "Counting", "--n-samples", "16"]
    options += ["--bootstrap", "5", "--no-progress", "--out", str(tmp_path / "out")]
    checkpoint = str(run / "amvl" / "checkpoint")
    assert main(["diagnose", "--checkpoint", checkpoint, *options]) == 0
    stored = json.loads((tmp_path / "out" / "diagnostics.json").read_text())
    assert list(stored["checkpoints"][checkpoint]["diagnostics"]) == ["contamination"]


def test_export_writes_a_plain_checkpoint_with_the_same_logits(
    run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    import torch
    from transformers import AutoTokenizer, Qwen2_5_VLForConditionalGeneration

    from amvl_model import PauseForConditionalGeneration

    source, out = run / "sft" / "checkpoint", tmp_path / "plain"
    assert main(["export", "--checkpoint", str(source), "--out", str(out)]) == 0
    config = json.loads((out / "config.json").read_text())
    assert config["architectures"] == ["Qwen2_5_VLForConditionalGeneration"] and config["model_type"] == "qwen2_5_vl"
    plain, report = Qwen2_5_VLForConditionalGeneration.from_pretrained(out, output_loading_info=True)
    assert not report["missing_keys"] and not report["unexpected_keys"]
    ids = AutoTokenizer.from_pretrained(out)("Is there a red circle?", return_tensors="pt")["input_ids"]
    ours = PauseForConditionalGeneration.from_pretrained(source).backbone
    with torch.no_grad():
        torch.testing.assert_close(plain.eval()(ids).logits, ours.eval()(ids).logits)
    with pytest.raises(SystemExit, match="2"):
        main(["export", "--checkpoint", str(source), "--out", str(out)])
    assert "is not overwritten" in capsys.readouterr().err


@pytest.mark.parametrize("objective", ["amvl", "sft"])
def test_merge_writes_a_whole_checkpoint_with_the_same_loss(
    objective: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    import torch

    from amvl_model import load_preset
    from amvl_model.models.loading import build_model, load_checkpoint, save_checkpoint

    config = load_preset("tiny", {"model.lora_rank": 2, "objective.name": objective})
    model, processor = build_model(config)
    with torch.no_grad():
        for name, weight in model.named_parameters():
            if "lora_B" in name:
                weight.normal_(std=0.1, generator=torch.Generator().manual_seed(0))
    source, out = tmp_path / "adapters", tmp_path / "whole"
    save_checkpoint(model, processor, source)
    if objective == "sft":
        with pytest.raises(SystemExit, match="2"):
            main(["export", "--checkpoint", str(source), "--out", str(out)])
        assert f"amvl merge --checkpoint {source}" in capsys.readouterr().err
    assert main(["merge", "--checkpoint", str(source), "--out", str(out)]) == 0
    merged, _ = load_checkpoint(out)
    assert merged.config.lora is None and not any("lora_" in name for name in merged.state_dict())
    batch = processor([helpers.question(1)])
    untouched = build_model(load_preset("tiny", {"objective.name": objective}))[0].eval()
    nll = []
    for item in (model.eval(), merged, untouched):
        with torch.no_grad():
            torch.manual_seed(0)
            nll.append(item(**batch, loss=config.objective.loss(1.0)).answer_nll)
    torch.testing.assert_close(nll[1], nll[0], rtol=1e-4, atol=1e-4)
    assert not torch.allclose(nll[2], nll[0], rtol=1e-2, atol=1e-2)


def test_doctor_and_memory_report(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["doctor"]) == 0 and main(["memory", "--batch", "2"]) == 0
    printed = capsys.readouterr().out
    assert "What to do" in printed and "LoRA" in printed


def test_every_data_file_of_the_packages_goes_into_the_wheel() -> None:
    settings = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["setuptools"]["package-data"]
    for package, patterns in settings.items():
        files = [file for file in (ROOT / package).rglob("*") if file.is_file() and file.suffix not in (".py", ".pyc")]
        assert files
        for file in files:
            inside = file.relative_to(ROOT / package).as_posix()
            assert any(fnmatch.fnmatch(inside, pattern) for pattern in patterns), file
