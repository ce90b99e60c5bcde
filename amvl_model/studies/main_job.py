"""The main job behind `amvl train`: the full run, the quick look, and a question of one's own."""

from __future__ import annotations

import json
import shlex
import time
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import torch
from PIL import Image

from amvl_model import distributed
from amvl_model.config import RunConfig, RunStopped, override, signals, stop_now, stored_config
from amvl_model.data.images import read_image
from amvl_model.data.processing import AMVLProcessor
from amvl_model.data.schema import VisualQuestion, format_prompt, option_letter
from amvl_model.data.sources import evaluation_questions, training_questions
from amvl_model.data.synthetic import synthetic_question
from amvl_model.diagnostics import leaked_information, option_posteriors
from amvl_model.evaluation.evaluate import evaluate
from amvl_model.evaluation.scorers import inference, scorer_for
from amvl_model.models.amvl import AMVLForConditionalGeneration
from amvl_model.models.loading import SHIPPED, load_base, load_checkpoint, resolve, save_checkpoint
from amvl_model.models.pause import PauseForConditionalGeneration
from amvl_model.results.provenance import to_jsonable
from amvl_model.studies.measurement import Measurement, measure
from amvl_model.training.run import train
from amvl_model.training.run_folder import LOCK, locked, note_environment, refuse_other_settings, tell, write_text

ARMS = {"forward-only": "ntp+fwd", "amvl": "amvl"}


def arms_of(config: RunConfig) -> dict[str, str]:
    """What the main job trains, by folder: forward-only, AMVL, and the run's own objective where it is another."""
    own = config.objective.name
    return ARMS if own in ARMS.values() else ARMS | {own: own}


def full(config: RunConfig, out: Path, *, progress: bool = True, resume: bool = False) -> int:
    """Base and all arms (`arms_of`) on the same questions: train, evaluate, diagnose, and write it all to ``out``.

    Several processes (torchrun) train together and share the evaluation; the first one writes and prints.

    Args:
        config: of the run; with ``resume`` it has to be the folder's own (`amvl_model.config.stored_config`).
        out: an empty or new folder, or with ``resume`` that of a run which was cut short.
        progress: show progress bars and log lines.
        resume: keep the arms that are finished, go on with the other from its newest complete checkpoint.

    Raises:
        FileExistsError: if the folder is not empty and the run is not to be resumed, or another process writes there.
        FileNotFoundError: if there is no run to resume.
        ValueError: if the run to be resumed has other settings.
        RunStopped: a SystemExit, after SIGTERM (status 143) or Ctrl-C (130); prints how to resume.
    """
    distributed.start()
    out = distributed.broadcast(out)
    with ExitStack() as stack:
        distributed.gather_or_raise(lambda: _prepare(stack, config, out, resume) if distributed.is_main() else None)
        try:
            with signals(stop_now):
                return _full(config, out, progress=progress, resume=resume)
        except RunStopped:
            if distributed.is_main():
                tell(f"resume with: amvl train --resume {shlex.quote(str(out))}")
            raise


def _prepare(stack: ExitStack, config: RunConfig, out: Path, resume: bool) -> None:
    if resume:
        stored_config(out)
    stack.enter_context(locked(out))
    if resume:
        refuse_other_settings(out, config)
        for name, objective in arms_of(config).items():
            if (out / name / "config.json").exists():
                refuse_other_settings(out / name, override(config, {"objective.name": objective}))
    elif any(path.name != LOCK for path in out.iterdir()):
        raise FileExistsError(f"{out} is not empty, and nothing is overwritten; choose another folder with --out")


def _full(config: RunConfig, out: Path, *, progress: bool, resume: bool) -> int:
    main = distributed.is_main()
    say = print if main else _silent
    progress = progress and main
    began = time.perf_counter()
    if main:
        out.mkdir(parents=True, exist_ok=True)
        _write(out / "config.json", config.to_dict())
        note_environment(out)
    held_out, training_set = evaluation_questions(config.data), training_questions(config.data)
    measured: dict[str, Measurement] = {}
    say(f"base: {config.model.base}, {len(held_out)} held-out questions", flush=True)
    backbone, processor = load_base(config)
    measured["base"] = measure(
        backbone.to(distributed.device()),
        processor,
        config,
        held_out,
        progress=progress,  # type: ignore[arg-type]
    )
    del backbone
    for name, objective in arms_of(config).items():
        arm = override(config, {"objective.name": objective})
        say(f"\n{name}: {arm.train.steps} steps on {len(training_set)} questions", flush=True)
        if (out / name / "checkpoint").exists():
            model, processor = load_checkpoint(out / name / "checkpoint")
            model.to(distributed.device())
        else:
            go_on = None if resume else False
            model, processor = train(arm, out / name, questions=training_set, resume=go_on, quiet=not progress)
        measured[name] = measure(model, processor, arm, held_out, training_set, progress=progress)
        del model
    if not main:
        return 0
    _write(out / "eval.json", {name: m.to_dict()["evaluation"] for name, m in measured.items()})
    _write(out / "diagnostics.json", {name: m.to_dict() for name, m in measured.items() if m.contamination is not None})
    from amvl_model.studies import summary as reporting
    from amvl_style import save

    plain = {name: m.to_dict() for name, m in measured.items()}
    print(f"\nHeld-out accuracy by task, prior mean [%]\n{reporting.task_table(plain)}\n")
    print(f"Mean and 95 % interval over questions\n{reporting.table(plain)}")
    save(reporting.figure(plain), out / "summary.png", dpi=150)
    print(f"\n{time.perf_counter() - began:.0f} s in all, peak memory {_peak_memory_gib():.1f} GiB.\n{_closing(out)}")
    return 0


def _silent(*_: Any, **__: Any) -> None:
    """What the processes beside the first one print."""


def ship(run: Path) -> int:
    """Store the two checkpoints of a finished run in bfloat16 as the shipped ones, for --quick and --ask.

    Raises:
        FileNotFoundError: if the folder holds no finished run.
    """
    for arm in ARMS:
        model, processor = load_checkpoint(run / arm / "checkpoint")
        folder = SHIPPED[f"tiny-{arm}"]
        save_checkpoint(model, processor, folder, dtype=torch.bfloat16)
        (folder / "run.json").write_text((run / arm / "config.json").read_text())
        (folder / "environment.json").write_text((run / "environment.json").read_text())
        print(folder)
    return 0


def quick(out: Path, task: str, index: int, config: RunConfig) -> int:
    """One test question: what the latents of two shipped checkpoints contain, or (synthetic BLINK) every option's posterior."""
    from amvl_model.studies.laboratory import quick as laboratory

    if task == laboratory.TASK:
        return laboratory.quick(out, index)
    from amvl_model.studies.summary import quick_figure
    from amvl_style import save

    question = synthetic_question(task, split="test", index=index, difficulty=config.data.difficulty)
    panels, sentences = [], []
    for name in ("tiny-forward-only", "tiny-amvl"):
        model, processor = load_checkpoint(SHIPPED[name])
        panel, sentence = explain(model, processor, question)
        panels.append({"title": name.removeprefix("tiny-"), **panel})
        sentences.append(f"{name.removeprefix('tiny-'):>12}: {sentence}")
    out.mkdir(parents=True, exist_ok=True)
    save(quick_figure(question, panels), out / "quick.png", dpi=150)
    print(f"{question.prompt}\n(right: {option_letter(question.answer or 0)})\n")
    print("\n".join(sentences))
    print(f"\nimage: {out / 'quick.png'}")
    print("next: amvl train --quick --task Visual_Correspondence --index 1")
    return 0


def explain(model: Any, processor: AMVLProcessor, question: VisualQuestion) -> tuple[dict[str, Any], str]:
    """Prior and posteriors of one question (slots flattened), and one sentence on what the posterior reveals."""
    result = option_posteriors(model, processor, [question], batch_size=1, progress=False)[0]
    prior = (result.prior_mean.ravel(), result.prior_std.ravel())
    means, stds = (v.reshape(len(v), -1) for v in (result.posterior_means, result.posterior_stds))
    nats, error = leaked_information(means, stds)
    whole = float(torch.log(torch.tensor(float(len(question.choices)))))
    scored = evaluate(model, processor, [question], scoring=("likelihood",), batch_size=1, progress=False).records[0]
    log_probs = torch.tensor(scored.log_probs).log_softmax(0).exp()
    chosen = int(log_probs.argmax())
    sentence = (
        f"the posterior reveals {nats:.2f} of {whole:.2f} nats (+- {error:.2f}) about the answer that it was given; "
        f"with the prior mean the model answers {option_letter(chosen)} at {log_probs[chosen]:.0%}"
    )
    return {"prior": prior, "posteriors": (means, stds)}, sentence


def ask(images: Sequence[str], text: str, choices: Sequence[str], checkpoint: str, max_new_tokens: int = 16) -> int:
    """Answer a question about the user's own images with any checkpoint, in at most ``max_new_tokens`` tokens."""
    from amvl_model.studies.laboratory.quick import own_question

    model, processor = load_checkpoint(resolve(checkpoint))
    if checkpoint.startswith("multihop"):
        if len(images) != 1:
            raise ValueError(f"{checkpoint} answers questions about one image, got {len(images)}")
        question = own_question(images[0], text, choices)
        choices = question.choices
    else:
        question = VisualQuestion(
            id="your question",
            images=tuple(_open(path) for path in images),
            prompt=format_prompt(text, choices),
            answer_text="",
            question=text,
            choices=tuple(choices),
        )
    batch = processor([question], answers=False)
    options: dict[str, Any] = {**batch, "max_new_tokens": max_new_tokens, "do_sample": False}
    if isinstance(model, PauseForConditionalGeneration):
        with inference(model):
            scorer = scorer_for(model, processor)
            reply = scorer.greedy(scorer.encode(batch), None, max_new_tokens)[0]
    elif isinstance(model, AMVLForConditionalGeneration):
        reply = processor.decode(model.generate(latent_temperature=0.0, **options))[0]
    else:
        reply = processor.decode(model.generate(**options)[:, batch["input_ids"].shape[1] :])[0]
    print(f"{question.prompt}\n\nreply: {reply}")
    if len(choices) > 1:
        with_answer = question.with_answer(0)
        scored = evaluate(
            model, processor, [with_answer], scoring=("likelihood",), batch_size=1, progress=False
        ).records[0]
        for i, probability in enumerate(torch.tensor(scored.log_probs).log_softmax(0).exp().tolist()):
            print(f"  {option_letter(i)} {choices[i]}: {probability:.1%}")
        if isinstance(model, AMVLForConditionalGeneration):
            print(explain(model, processor, with_answer)[1].split(";")[0] + ".")
    if checkpoint in SHIPPED:
        domain = "multi-hop questions about coloured cells" if checkpoint.startswith("multihop") else "synthetic BLINK"
        print(f"The shipped checkpoint was trained on {domain} only; on a photograph its answer means nothing.")
    return 0


def _open(path: str) -> Image.Image:
    return read_image(Path(path), "your question")


def _write(path: Path, value: Any) -> None:
    write_text(path, json.dumps(to_jsonable(value), indent=2) + "\n")


def _peak_memory_gib() -> float:
    import resource

    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20


def _closing(out: Path) -> str:
    return "\n".join(
        [
            f"Results: {out}",
            "  summary.png, eval.json, diagnostics.json, config.json, environment.json",
            "  forward-only/ and amvl/: config.json, metrics.jsonl, checkpoint/",
            "Next:",
            f"  amvl ask IMAGE.png QUESTION --choices yes no --checkpoint {out}/amvl/checkpoint",
            "  amvl train --objective.gamma 0.003       # a stronger reverse KL",
            "  amvl train --data.label_noise 0          # nothing to leak",
            "  python experiments/ablations.py pareto                         # leakage against NLL over beta and gamma",
            f"  tensorboard --logdir {out}",
        ]
    )
