"""What a run would do, without training: data found and read, rows laid out, memory and time computed. Behind ``--dry-run``.

amvl train --preset qwen2.5-vl-7b --data.path DATA --dry-run --out DIR

Writes ``plan.json`` and ``plan.txt``. Nothing is trained and no weights are loaded: of the base only its configuration and its
tokenizer are read. A part that cannot be checked is named, with what to download and where to put it, and the rest is checked
all the same; the run could start if ``ready`` is true.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from amvl_model.config import RunConfig
from amvl_model.data.schema import VisualQuestion

GIB = 2**30
EXAMPLES = 4
"""Questions of each source whose rows are laid out."""
PROBED = 32
"""Questions of each source that are read, evenly spaced over it."""
MOST_GPUS = 1024
"""Where the search for the fewest GPUs ends."""
_CARD = 80 * 10**9
"""Memory of the GPU that the advice is about [bytes]."""


@dataclass(frozen=True, kw_only=True)
class Plan:
    """What `plan` found; see the module.

    Attributes:
        ready: whether nothing stands in the way.
        problems: what does, each with what to do.
        report: every part, JSON-ready.
    """

    ready: bool
    problems: tuple[str, ...]
    report: dict[str, Any]

    def to_dict(self) -> dict[str, Any]:
        """Plain Python types, ready for JSON."""
        return {"ready": self.ready, "problems": list(self.problems), **self.report}

    def text(self) -> str:
        """The plan in words."""
        report = self.report
        lines = [f"Plan of preset {report['preset']} (computed and checked, nothing trained)", ""]
        for title, part in (("Training data", "training_data"), ("Evaluation data", "evaluation_data")):
            lines += [title, *_data_lines(report[part]), ""]
        lines += ["Rows", *_row_lines(report["rows"]), "", "Schedule", *_schedule_lines(report["schedule"]), ""]
        lines += ["Memory, computed", *_memory_lines(report["memory"]), *_cost_lines(report["cost"]), ""]
        if self.ready:
            return "\n".join([*lines, "Ready: the same command without --dry-run starts it."])
        return "\n".join([*lines, "Not ready:", *(f"  {i}. {text}" for i, text in enumerate(self.problems, 1))])


def plan(config: RunConfig, *, processes: int = 1) -> Plan:
    """Check all that can be checked without weights.

    Args:
        config: of the run.
        processes: GPUs it is to run on.
    """
    problems: list[str] = []
    processor = _attempt(problems, "base", lambda: _processor(config))
    training, training_sets = _data(config, problems, training=True)
    evaluation, held_out = _data(config, problems, training=False)
    rows: list[dict[str, Any]] = []
    if processor is not None:
        for name, questions in (*training_sets.items(), *held_out.items()):
            rows += _layouts(name, questions, processor, config, problems)
    report = {
        "preset": config.preset,
        "training_data": training,
        "evaluation_data": evaluation,
        "rows": rows,
        "schedule": _schedule(config, training["size"], processes),
        "memory": _memory(config, processes),
        "cost": _cost(config, processes),
        "config": config.to_dict(),
    }
    return Plan(ready=not problems, problems=tuple(problems), report=report)


def write_plan(planned: Plan, out: Path) -> list[Path]:
    """Write plan.json and plan.txt to a folder; returns both."""
    out.mkdir(parents=True, exist_ok=True)
    files = [out / "plan.json", out / "plan.txt"]
    files[0].write_text(json.dumps(planned.to_dict(), indent=2) + "\n")
    files[1].write_text(planned.text() + "\n")
    return files


def _attempt(problems: list[str], part: str, work: Any) -> Any:
    """What ``work()`` gives, or None and a problem more."""
    try:
        return work()
    except (ValueError, OSError) as error:  # OSError: files, ConnectionError, and transformers' for an unreachable hub
        problems.append(f"{part}: {error}")
        return None


def _processor(config: RunConfig) -> Any:
    from amvl_model.models.loading import load_base_processor

    return load_base_processor(config)


def _data(
    config: RunConfig, problems: list[str], *, training: bool
) -> tuple[dict[str, Any], dict[str, list[VisualQuestion]]]:
    """Sizes and samples of each source; a source that cannot be read is a problem, the others are looked at."""
    from amvl_model.data.sources import evaluation_questions, training_questions

    data = config.data
    names = data.sources if training else data.eval_sources
    whole = _attempt(
        problems,
        f"{'training' if training else 'evaluation'} data",
        lambda: training_questions(data) if training else evaluation_questions(data),
    )
    entry: dict[str, Any] = {"sources": list(names), "size": None if whole is None else len(whole), "shares": None}
    if whole is None:
        return {**entry, "read": None, "unreadable": []}, {}
    entry["shares"] = getattr(whole, "counts", None)
    by_source: dict[str, list[VisualQuestion]] = {}
    unreadable: list[str] = []
    tasks: Counter[str] = Counter()
    count = min(len(whole), PROBED * len(names))
    for number in range(count):
        try:
            question = whole[number * len(whole) // count]
        except (ValueError, OSError) as error:
            unreadable.append(str(error))
            continue
        tasks[question.task] += 1
        by_source.setdefault(question.source, [])
        if len(by_source[question.source]) < EXAMPLES:
            by_source[question.source].append(question)
    unreadable += [skipped.reason for skipped in getattr(whole, "skipped", ())]
    if unreadable:
        kind = "training" if training else "evaluation"
        problems.append(
            f"{kind} data: {len(unreadable)} of {count} questions looked at are unreadable: {unreadable[0]}"
        )
    return {**entry, "read": count, "unreadable": unreadable, "tasks": dict(tasks.most_common(20))}, by_source


def _layouts(
    name: str, questions: Sequence[VisualQuestion], processor: Any, config: RunConfig, problems: list[str]
) -> list[dict[str, Any]]:
    """Where x, latents and y stand in the rows of some questions."""
    k, result = config.model.num_latents, []
    for question in questions:
        encoded = _attempt(
            problems, f"{name} {question.id}", lambda q=question: processor.encode(q, answers=bool(q.answer_text))
        )
        if encoded is None:
            continue
        ids = encoded["input_ids"].tolist()
        n, answer = len(ids), len(encoded.get("answer_ids", ()))
        result.append(
            {
                "source": name,
                "id": question.id,
                "images": [list(image.size) for image in question.images],
                "image_tokens": ids.count(processor.image_token_id),
                "query_tokens": n,
                "answer_tokens": answer,
                "query_ends": processor.tokenizer.decode(ids[-6:]),
                "answer": question.answer_text,
                # half-open intervals of places in the two passes
                "first_pass": {
                    "x": [0, n],
                    "prior": [n, n + k],
                    "posterior": [n + k, n + 2 * k],
                    "y": [n + 2 * k, n + 2 * k + answer],
                },
                "second_pass": {"injected": [0, k], "y": [k, k + answer]},
            }
        )
    return result


def _schedule(config: RunConfig, size: int | None, processes: int) -> dict[str, Any]:
    train, objective = config.train, config.objective
    batch = train.batch_size * train.grad_accumulation * processes
    marks = (0.0, objective.beta_warmup, objective.gamma_delay, objective.gamma_delay + objective.gamma_warmup, 1.0)
    return {
        "arms": list(dict.fromkeys(("ntp+fwd", "amvl", objective.name))),
        "steps": train.steps,
        "questions_a_step": batch,
        "processes": processes,
        "questions_seen": batch * train.steps,
        "epochs": None if not size else batch * train.steps / size,
        "learning_rate": train.learning_rate,
        "latent_learning_rate": train.latent_learning_rate or train.learning_rate,
        "warmup_steps": round(train.warmup * train.steps),
        "precision": train.precision,
        "weights": [
            {"step": round(t * train.steps), "beta": w[0], "gamma": w[1]}
            for t in sorted(set(marks))
            for w in [objective.model_copy(update={"name": "amvl"}).weights(t)]
        ],
        "seeds": {"train": train.seed, "data": config.data.seed},
    }


def _memory(config: RunConfig, processes: int) -> dict[str, Any] | None:
    from amvl_model.profiling.footprint import GPU_RUNTIME, footprint

    size = footprint(config)
    if size is None:
        return None
    sharded = config.train.sharding != "none"
    fitting = (number for number in range(1, MOST_GPUS + 1) if size.process(number, GPU_RUNTIME) <= _CARD)
    return {
        "parameters": size.parameters,
        "trained": size.trained,
        "tokens_a_row": size.tokens,
        "states_bytes": size.states,
        "activation_bytes": size.activations + size.logits,
        "whole_gradient_bytes": size.accumulated,
        "a_process_bytes": size.process(processes if sharded else 1, GPU_RUNTIME),
        "sharding": config.train.sharding,
        "fewest_80_gb_gpus_sharded": next(fitting, None),
    }


def _cost(config: RunConfig, processes: int) -> dict[str, Any] | None:
    from amvl_model.profiling.communication import step_cost

    if config.train.sharding != "fsdp2" or processes == 1 or config.model.lora_rank or not config.model.freeze_vision:
        return None
    cost = step_cost(config, processes)
    if cost is None:
        return None
    return {
        "gathered_bytes_a_micro_batch": cost.gathered,
        "reduced_bytes_a_step": cost.reduced,
        "exchanged_bytes_a_step": cost.exchanged,
        "computing_seconds_a_step": cost.computing,
        "exchanging_seconds_a_step": cost.exchanging,
        "hours_an_arm": cost.hours(config.train.steps),
    }


def _data_lines(part: dict[str, Any]) -> list[str]:
    if part["size"] is None:
        return [f"  {' + '.join(part['sources'])}: not readable, see below"]
    lines = [f"  {' + '.join(part['sources'])}: {part['size']:,} questions, {part['read']} of them read"]
    if part["shares"]:
        lines.append("  shares: " + ", ".join(f"{name} {count:,}" for name, count in part["shares"].items()))
    lines.append(f"  unreadable: {len(part['unreadable'])}")
    return lines


def _row_lines(rows: Sequence[dict[str, Any]]) -> list[str]:
    if not rows:
        return ["  none laid out: base or data are missing"]
    lines = ["  source, id: x [of it images] | prior | posterior | y      second pass: injected | y"]
    for row in rows:
        first = " | ".join(f"{a}..{b - 1}" if b > a else "-" for a, b in row["first_pass"].values())
        second = " | ".join(f"{a}..{b - 1}" if b > a else "-" for a, b in row["second_pass"].values())
        lines.append(f"  {row['source']}, {row['id']}: {first} [{row['image_tokens']}]      {second}")
    return [*lines, f"  x ends in {rows[0]['query_ends']!r}; the latents open the assistant's turn"]


def _schedule_lines(schedule: dict[str, Any]) -> list[str]:
    epochs = "unknown" if schedule["epochs"] is None else f"{schedule['epochs']:.2f}"
    weights = ", ".join(f"{w['step']}: {w['beta']:g} / {w['gamma']:g}" for w in schedule["weights"])
    return [
        f"  {len(schedule['arms'])} arms ({', '.join(schedule['arms'])}), {schedule['steps']:,} steps of "
        f"{schedule['questions_a_step']} questions on {schedule['processes']} process(es), {epochs} epochs each",
        f"  learning rate {schedule['learning_rate']:g}, latents {schedule['latent_learning_rate']:g}, cosine after "
        f"{schedule['warmup_steps']} steps of warm-up, {schedule['precision']}",
        f"  AMVL's beta / gamma at step {weights}",
        f"  seeds: {schedule['seeds']}",
    ]


def _memory_lines(memory: dict[str, Any] | None) -> list[str]:
    if memory is None:
        return ["  unknown: the base's configuration is not here"]
    lines = [
        f"  {memory['parameters'] / 1e9:.2f} B parameters, {memory['trained'] / 1e9:.2f} B trained; rows up to "
        f"{memory['tokens_a_row']:,} tokens",
        f"  weights, gradients and moments {memory['states_bytes'] / GIB:.1f} GiB, activations "
        f"{memory['activation_bytes'] / GIB:.1f} GiB; each process {memory['a_process_bytes'] / GIB:.1f} GiB "
        f"(sharding {memory['sharding']})",
    ]
    if (fewest := memory["fewest_80_gb_gpus_sharded"]) is not None:
        whole = memory["whole_gradient_bytes"] / GIB
        lines.append(
            f"  with fsdp2 at least {fewest} GPU(s) of 80 GB"
            + (f"; {whole:.1f} GiB of gradients stay whole on each between micro-batches" if whole else "")
        )
    return lines


def _cost_lines(cost: dict[str, Any] | None) -> list[str]:
    if cost is None:
        return []
    return [
        f"  each process exchanges {cost['exchanged_bytes_a_step'] / GIB:.0f} GiB a step: weights "
        f"{cost['gathered_bytes_a_micro_batch'] / GIB:.0f} GiB a micro-batch, gradients "
        f"{cost['reduced_bytes_a_step'] / GIB:.0f} GiB once",
        f"  {cost['computing_seconds_a_step']:.1f} s of computing and {cost['exchanging_seconds_a_step']:.1f} s of exchange a "
        f"step, {cost['hours_an_arm']:.1f} hours an arm without overlap (assumptions: amvl_model/profiling/communication.py)",
    ]
