"""Which checkpoints and questions a notebook measures, and measuring them.

The environment variables AMVL_CHECKPOINTS (names or folders, separated as in PATH) and AMVL_QUESTIONS (how many questions) set
the defaults, so that a notebook can be run on any checkpoint without editing it.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from matplotlib.figure import Figure

from amvl_model.data.schema import VisualQuestion
from amvl_model.data.synthetic import TASKS, SyntheticBlink
from amvl_model.diagnostics.report.suite import Diagnosed, Plan, diagnose, run_config
from amvl_style import keys_of

SHIPPED_PAIR = ("tiny-forward-only", "tiny-amvl")


def chosen(default: Sequence[str] = SHIPPED_PAIR) -> tuple[str, ...]:
    """The checkpoints of AMVL_CHECKPOINTS, or the shipped pair.

    Raises:
        ValueError: if one is named twice.
    """
    given = os.environ.get("AMVL_CHECKPOINTS", "")
    names = tuple(part for part in given.split(os.pathsep) if part) or tuple(default)
    if len(set(names)) < len(names):
        raise ValueError(f"AMVL_CHECKPOINTS: expected every checkpoint once, got {os.pathsep.join(names)}")
    return names


def number_of_questions(default: int) -> int:
    """AMVL_QUESTIONS, or the default.

    Raises:
        ValueError: if it is no whole number above 0.
    """
    given = os.environ.get("AMVL_QUESTIONS", str(default))
    if not given.isdigit() or int(given) < 1:
        raise ValueError(f"AMVL_QUESTIONS: expected a whole number above 0, got {given!r}")
    return int(given)


def held_out(
    checkpoints: Sequence[str], size: int, *, label_noise: float = 0.0, seed: int = 0
) -> Sequence[VisualQuestion]:
    """Held-out questions of synthetic BLINK: of the tasks that the checkpoints were trained on, as far as that is known.

    Args:
        checkpoints: names or folders.
        size: questions in all; the tasks take turns.
        label_noise: share of wrong labels. Above 0 the probabilities of the labels are known, and with them what a posterior
            reveals about labels that no image can give.
    """
    runs = [_run(name) for name in checkpoints]
    known = [run.data.tasks for run in runs if run is not None]
    shared = [task for task in TASKS if known and all(tasks is None or task in tasks for tasks in known)]
    return SyntheticBlink(tasks=tuple(shared or TASKS), split="test", seed=seed, size=size, label_noise=label_noise)[:]


def trained_on(checkpoint: str, size: int) -> Sequence[VisualQuestion] | None:
    """The first questions of a checkpoint's own training set, labels as it saw them; None where its run is not known."""
    from amvl_model.data.sources import training_questions

    run = _run(checkpoint)
    if run is None or run.data.sources != ("synthetic-blink",):
        return None
    asked = training_questions(run.data)
    return [asked[i] for i in range(min(size, len(asked)))]


def measured(
    checkpoints: Sequence[str], diagnostics: Sequence[str], questions: Sequence[VisualQuestion], **settings: Any
) -> dict[str, Diagnosed]:
    """Every checkpoint's diagnostics on the same questions, without progress bars; nothing of the checkpoints is changed.

    Args:
        checkpoints: names or folders.
        diagnostics: names of `amvl_model.diagnostics.report.suite.DIAGNOSTICS`.
        questions: held-out questions.
        settings: of `amvl_model.diagnostics.report.suite.Plan`.
    """
    quiet()
    found = {}
    for name in checkpoints:
        training = trained_on(name, len(questions)) if "answer-direction" in diagnostics else None
        plan = Plan(questions=questions, training=training, progress=False, **settings)
        found[label(name)] = diagnose(name, diagnostics, plan)
    return found


def measured_on_training(checkpoints: Sequence[str], size: int, **settings: Any) -> dict[str, Diagnosed]:
    """Leakage and contamination on each checkpoint's own training questions; those with an unknown run are left out."""
    quiet()
    found = {}
    for name in checkpoints:
        questions = trained_on(name, size)
        if questions is not None:
            found[label(name)] = diagnose(
                name, ["contamination"], Plan(questions=questions, progress=False, **settings)
            )
    return found


def quiet() -> None:
    """No progress bars while checkpoints are loaded."""
    from transformers.utils import logging

    logging.disable_progress_bar()


def label(checkpoint: str) -> str:
    """A short name that holds no path of the machine: a shipped checkpoint's, or a folder's last two parts."""
    parts = [part for part in Path(checkpoint).parts if part not in ("checkpoint", "/")]
    return "/".join(parts[-2:]) or checkpoint


def about(found: Mapping[str, Diagnosed]) -> str:
    """One line per checkpoint: objective, weights, tasks."""
    lines = []
    for name, each in found.items():
        if each.run is None:
            lines.append(f"{name}: training run not known")
            continue
        goal, data = each.run.objective, each.run.data
        tasks = "all tasks" if data.tasks is None else ", ".join(data.tasks)
        lines.append(
            f"{name}: {goal.name}, beta = {goal.beta:g}, gamma = {goal.gamma if goal.name == 'amvl' else 0:g}, "
            f"{100 * data.label_noise:g} % wrong labels, {tasks}"
        )
    return "\n".join(lines)


def said(found: Mapping[str, Diagnosed]) -> str:
    """What the diagnostics say in plain words, and which of them refused these questions."""
    from amvl_model.diagnostics.report.html import sentences

    lines = [f"{name}: {text}" for name, text in sentences({name: each.to_dict() for name, each in found.items()})]
    lines += [
        f"{name}: {what} not measured. {why}" for name, each in found.items() for what, why in each.refused.items()
    ]
    return "\n".join(lines)


def text(found: Mapping[str, Diagnosed], name: str, diagnostic: str, *path: str) -> str:
    """A measure of one checkpoint with its interval and unit, "-" where it was not measured.

    Args:
        found: per checkpoint. name: of the checkpoint.
        diagnostic: of `amvl_model.diagnostics.report.suite.DIAGNOSTICS`.
        path: into its dictionary; of contamination below its measures.
    """
    from amvl_model.diagnostics.report.figures import at, cell

    data = _dictionaries(found, diagnostic).get(name) or {}
    return cell(at(data["measures"] if diagnostic == "contamination" and data else data, path))


def panels(found: Mapping[str, Diagnosed], diagnostic: str) -> Figure | str:
    """One diagnostic's panels, the checkpoints side by side, as in the report of experiments/diagnose.py."""
    from amvl_model.diagnostics.report.figures import panels_figure
    from amvl_model.diagnostics.report.sections import PANELS

    keys = keys_of({name: each.run and each.run.objective.name for name, each in found.items()})
    page = panels_figure(_dictionaries(found, diagnostic), PANELS[diagnostic], keys=keys)
    return page if page is not None else f"{diagnostic}: nothing was measured on these questions"


def slot_similarity(found: Mapping[str, Diagnosed]) -> Figure | str:
    """Cosine similarities between slots."""
    from amvl_model.diagnostics.report.figures import similarity_figure

    page = similarity_figure(_dictionaries(found, "stability"))
    return page if page is not None else "stability: nothing was measured on these questions"


def relevance_maps(found: Mapping[str, Diagnosed], question: int = 0) -> list[Figure | str]:
    """Relevance of image tokens and words for latents and answer: a figure per checkpoint."""
    from amvl_model.diagnostics.report.relevance_figures import relevance_figure

    drawn: list[Figure | str] = []
    for name, each in found.items():
        drawn.append(f"{name}:")
        report = each.reports.get("relevance")
        drawn.append(
            relevance_figure(report.maps[question]) if report else each.refused.get("relevance", "not measured")
        )
    return drawn


class PosteriorBrowser:
    """Every option's posterior of one question after the other, under all checkpoints: computed once, drawn when asked.

    Args:
        checkpoints: names or folders.
        questions: multiple-choice questions with known answers.
    """

    def __init__(self, checkpoints: Sequence[str], questions: Sequence[VisualQuestion]) -> None:
        from amvl_model.models.loading import load_checkpoint, resolve
        from amvl_model.studies.main_job import explain

        quiet()
        self.questions = list(questions)
        self.panels: list[list[dict[str, Any]]] = [[] for _ in self.questions]
        self.sentences: list[list[str]] = [[] for _ in self.questions]
        for name in checkpoints:
            model, processor = load_checkpoint(resolve(name))
            for i, question in enumerate(self.questions):
                drawn, sentence = explain(model, processor, question)
                self.panels[i].append({"title": label(name), **drawn})
                self.sentences[i].append(f"{label(name)}: {sentence}")

    def figure(self, question: int) -> Figure:
        """The figure of question 1, 2, ..."""
        from amvl_model.studies.summary import quick_figure

        return quick_figure(self.questions[question - 1], self.panels[question - 1])

    def text(self, question: int) -> str:
        """What the posteriors of question 1, 2, ... reveal, a line per checkpoint."""
        return "\n".join(self.sentences[question - 1])


def _dictionaries(found: Mapping[str, Diagnosed], diagnostic: str) -> dict[str, Any]:
    return {
        name: each.reports[diagnostic].to_dict() if diagnostic in each.reports else None for name, each in found.items()
    }


def _run(checkpoint: str) -> Any:
    from amvl_model.models.loading import resolve

    return run_config(Path(resolve(checkpoint)))
