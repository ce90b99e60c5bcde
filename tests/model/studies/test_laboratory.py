"""The laboratory: every arm runs on shared scenes, its measures are what they say, and its studies resume."""

from __future__ import annotations

import copy
import os
import signal
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from amvl_model.config import RunStopped
from amvl_model.models.amvl import AMVLForConditionalGeneration
from amvl_model.models.checkpoints import NonFiniteError
from amvl_model.results.files import read_result
from amvl_model.studies import declared
from amvl_model.studies.declared import Study
from amvl_model.studies.laboratory import analysis, study, training, unfinished
from amvl_model.studies.laboratory.arm import Arm, build_arm, encode_scenes
from amvl_model.studies.laboratory.measures import Probe, chain_states, measure, measure_accuracy, measure_leak
from amvl_model.studies.laboratory.training import train_arm, warm_up
from amvl_model.training.pretraining import multihop_base

SHAPE = multihop_base.BaseShape(num_layers=2, hidden_size=32, vision_size=32)


@pytest.fixture(scope="module")
def base() -> tuple[Any, Any]:
    return multihop_base.build_multihop_base(SHAPE, seed=0)


RECIPE = multihop_base.MultihopRecipe(
    hops={1: 1.0, 2: 1.0}, steps=4, scenes=2, questions_per_scene=4, eval_every=2, eval_size=8, freeze_vision=True
)


def arm(objective: str = "amvl", **settings: Any) -> Arm:
    return Arm(**{"objective": objective, "recipe": RECIPE, "warmup": 2, **settings})


def built(base: tuple[Any, Any], settings: Arm) -> Any:
    return build_arm(copy.deepcopy(base[0]), base[1], settings)


def silent(row: dict[str, Any]) -> None:
    """No report."""


@pytest.mark.parametrize(
    ("objective", "own"),
    [
        *((name, {}) for name in ("sft", "pause", "prior", "ntp", "ntp+fwd", "elbo", "amvl", "amvl+prior")),
        ("prior", {"latent_order": "sequential"}),
        ("pause", {"recipe": replace(RECIPE, repeats=2)}),
    ],
)
def test_every_arm_trains_and_is_measured(base: tuple[Any, Any], objective: str, own: dict[str, Any]) -> None:
    settings = arm(objective, **own)
    model = built(base, settings)
    if settings.has_latents:
        assert warm_up(model, base[1], settings, silent)["warmup_steps"] == 2
    rows: list[dict[str, Any]] = []
    assert train_arm(model, base[1], settings, rows.append) == rows
    assert [(row["step"], row["objective"]) for row in rows] == [(2, objective), (4, objective)]
    assert ("leaked_2" in rows[0]) == (objective in ("ntp", "ntp+fwd", "elbo", "amvl", "amvl+prior"))
    accuracies = ["accuracy"]
    if settings.has_latents:
        accuracies += ["accuracy_posterior", "accuracy_sampled", "accuracy_exchanged", "follows_patch", "leaked"]
    names = {f"{name}_{hops}" for name in accuracies for hops in (1, 2)}
    if settings.has_latents:
        names |= {f"probe_slot_{slot}_state_{state}" for slot in (1, 2) for state in (0, 1, 2)}
    metrics = measure(model, base[1], settings.recipe)
    assert set(metrics) == names
    assert all(0 <= metrics[f"{name}_{h}"].value <= 1 for h in (1, 2) for name in accuracies if name != "leaked")  # type: ignore[operator]


@pytest.mark.parametrize("objective", ["amvl", "sft", "pause"])
def test_an_encoding_that_a_scene_shares_gives_the_output_of_one_for_each_question(
    base: tuple[Any, Any], objective: str
) -> None:
    settings = arm(objective)
    model, processor = built(base, settings).eval(), base[1]
    questions = settings.recipe.questions("val", 1, 8)[:]
    shared = encode_scenes(model, processor, questions, 4)
    own = {name: value for name, value in shared.items() if name != "image_features"}
    own["pixel_values"] = processor(questions)["pixel_values"]
    with torch.no_grad():
        options = {"latents": "posterior_mean"} if objective == "amvl" else {}
        got, expected = (model(**batch, **options) for batch in (shared, own))
    torch.testing.assert_close(got.logits, expected.logits, rtol=1e-4, atol=1e-4)
    with pytest.raises(TypeError, match="forward got image_feature; beside query"):
        model(**own, image_feature=shared["image_features"])


def test_the_posterior_starts_as_a_copy_of_the_prior(base: tuple[Any, Any]) -> None:
    model = built(base, arm())
    assert isinstance(model, AMVLForConditionalGeneration)
    assert not torch.equal(model.posterior_head.linear.weight, model.prior_head.linear.weight)
    model.start_posterior_as_prior()
    assert torch.equal(model.posterior_head.linear.weight, model.prior_head.linear.weight)
    assert torch.equal(model.posterior_queries.weight, model.prior_queries.weight)
    model.posterior_head.linear.weight.data.zero_()
    assert model.prior_head.linear.weight.any()  # copied, not shared


@pytest.mark.parametrize("objective", ["prior", "amvl"])
def test_the_warm_up_of_a_seed_and_its_arms_draw_different_questions(
    base: tuple[Any, Any], objective: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    seeds: list[int] = []
    original = multihop_base.MultihopRecipe.questions

    def spy(self: multihop_base.MultihopRecipe, split: str, *args: Any) -> Any:
        if split == "train":
            seeds.append(self.seed)
        return original(self, split, *args)

    monkeypatch.setattr(multihop_base.MultihopRecipe, "questions", spy)
    model = built(base, arm(objective))
    warm_up(model, base[1], arm(objective), silent)
    train_arm(model, base[1], arm(objective), silent)
    assert seeds == [0, 1]  # whatever the objective: the arms of a seed see the same questions


def test_an_arm_s_weights_follow_its_schedule_and_are_constant_without_one() -> None:
    constant, ramped = (
        arm(beta=2.0, gamma=3.0).loss(0.0).weights,
        arm(schedule={"beta_warmup": 0.5, "gamma_delay": 0.5}),
    )
    assert (constant.beta, constant.gamma) == (2.0, 3.0)
    assert [(ramped.loss(t).weights.beta, ramped.loss(t).weights.gamma) for t in (0.0, 0.25, 0.5)] == [
        (0, 0),
        (0.5, 0),
        (1, 1),
    ]


def test_few_questions_are_asked_again_and_wrong_labels_are_the_training_s_alone(
    base: tuple[Any, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    few = arm("ntp", recipe=replace(arm().recipe, different=16, label_noise=0.5))
    ids: list[str] = []
    original = training.scene_rows
    monkeypatch.setattr(training, "scene_rows", lambda *a: ids.extend(q.id for q in a[1]) or original(*a))
    train_arm(built(base, few), base[1], few, silent)
    assert ids[:16] == ids[16:] and len(set(ids)) == 16
    drawn = few.recipe.questions("train", few.recipe.hops, 64)[:]
    wrong = [q.choices[q.answer or 0] != q.chain[-1] for q in drawn]
    assert 0.25 < np.mean(wrong) < 0.75
    assert all(q.choices[q.answer or 0] == q.chain[-1] for q in few.recipe.questions("test", 2, 16)[:])
    with pytest.raises(ValueError, match="multiple of the 8 questions of a step, got 9"):
        train_arm(built(base, few), base[1], replace(few, recipe=replace(few.recipe, different=9)), silent)


def test_the_warm_up_ends_with_the_accuracy_that_was_asked_for(base: tuple[Any, Any]) -> None:
    ended = warm_up(built(base, arm()), base[1], arm(warmup=6, warmup_accuracy=0.0), silent)
    assert (ended["warmup_steps"], ended["started"]) == (2, True)


def test_queries_begin_at_the_prompts_last_token_unless_they_are_fresh(base: tuple[Any, Any]) -> None:
    begun, fresh = (built(base, arm(queries_from_prompt=choice)).prior_queries.weight for choice in (True, False))
    settings = arm()
    (row,) = encode_scenes(built(base, settings), base[1], settings.recipe.questions("val", 1, 4)[:1], 1)["input_ids"]
    last = base[0].get_input_embeddings()(row[-1])
    torch.testing.assert_close(begun.detach(), (last + 0.1 * fresh).detach())


def test_a_posterior_that_ignores_the_answer_leaks_nothing_and_equal_latents_cost_nothing(
    base: tuple[Any, Any],
) -> None:
    settings = arm()
    model, recipe = built(base, settings), settings.recipe
    with torch.no_grad():
        for head in (model.prior_head, model.posterior_head):
            head.linear.weight.zero_()
    assert measure_leak(model, base[1], recipe, 2) == pytest.approx(0.0, abs=1e-9)
    shares = measure_accuracy(model, base[1], recipe, every=True)
    for hops in (1, 2):
        same = {shares[f"{name}_{hops}"].mean for name in ("accuracy", "accuracy_posterior", "accuracy_exchanged")}
        assert len(same) == 1


def test_patched_latents_are_scored_by_the_other_questions_answer(base: tuple[Any, Any], monkeypatch: Any) -> None:
    """A model that answers what its first latent dimension says: it follows every patch, and no exchange."""
    model, recipe = built(base, arm()), replace(arm().recipe, hops={2: 1.0})
    asked = recipe.questions("val", 2, 8)[:]
    right = torch.tensor([float(q.answer or 0) for q in asked])
    letters = [int(base[1].encode_answer(f"({letter})")[0]) for letter in "ABCDEFGH"]

    class Told:
        mean = right[:, None, None].expand(-1, 2, 16)

        def rsample(self, temperature: float, noise: Any) -> Any:
            return self.mean

    def forward(latents: Any, **_: Any) -> Any:
        logits = torch.zeros(8, 1, 400)
        logits[torch.arange(8), 0, torch.tensor(letters)[latents[:, 0, 0].long()]] = 1.0
        return type("Output", (), {"logits": logits})

    monkeypatch.setattr(type(model), "latent_distributions", lambda *_: (Told(), Told()))
    monkeypatch.setattr(model, "forward", forward)
    if int(base[1].encode_answer("(A)")[0]) == int(base[1].encode_answer("(B)")[0]):
        letters[:] = [int(base[1].encode_answer(text)[0]) for text in "ABCDEFGH"]
    shares = measure_accuracy(model, base[1], recipe, every=True)
    assert shares["accuracy_2"].mean == shares["follows_patch_2"].mean == 1.0
    starts = [q.chain[0] for q in asked]
    assert shares["follows_patch_2"].n == sum(starts[i] != starts[i - 1 if i % 4 else i + 3] for i in range(8))
    assert shares["accuracy_exchanged_2"].mean == np.mean(right.numpy() == right.roll(4).numpy())


def test_a_probe_reads_what_is_there_and_nothing_else() -> None:
    generator = torch.Generator().manual_seed(0)
    labels = torch.randint(0, 4, (400,), generator=generator)
    features = torch.randn(400, 6, generator=generator)
    features[:, :4] += 6.0 * torch.nn.functional.one_hot(labels, 4)
    probe = Probe(features[:200], labels[:200])
    assert (probe(features[200:]) == labels[200:]).float().mean() > 0.95
    shuffled = Probe(torch.randn(200, 6, generator=generator), labels[:200])
    assert (shuffled(features[200:]) == labels[200:]).float().mean() < 0.5
    assert probe.probabilities(features).sum(1) == pytest.approx(1.0)


def test_states_of_a_chain_are_colours_and_questions_without_a_chain_are_refused() -> None:
    questions = arm().recipe.questions("val", 2, 4)[:]
    assert chain_states(questions).shape == (4, 3)
    with pytest.raises(ValueError, match="got one without"):
        chain_states([replace(questions[0], chain=())])


# ---------------------------------------------------------------------- the study


def small_study(tmp_path: Path, base: tuple[Any, Any], monkeypatch: pytest.MonkeyPatch, name: str = "small") -> Study:
    folder = tmp_path / "base"
    if not folder.exists():
        multihop_base.save_multihop_base(*base, folder, arm().recipe)
    settings: dict[str, object] = {
        f"recipe.{n}": getattr(arm().recipe, n) for n in ("hops", "steps", "scenes", "eval_every")
    }
    settings |= {"recipe.questions_per_scene": 4, "recipe.eval_size": 8, "warmup": 2}
    cells: dict[str, dict[str, object]] = {n: {"objective": n} for n in ("prior", "sft", "amvl")}
    made = Study(name=name, purpose="a test", common=settings, cells=cells, seeds=(0,), bases=(str(folder),))
    monkeypatch.setitem(declared.STUDIES, name, made)
    monkeypatch.setattr(study, "EVALUATED", 8)
    return made


def test_a_seed_runs_what_is_missing_behind_one_warm_up_and_goes_on_after_an_interruption(
    base: tuple[Any, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    small_study(tmp_path, base, monkeypatch)
    warmed: list[int] = []
    original = study.warm_up
    monkeypatch.setattr(study, "warm_up", lambda *a: warmed.append(1) or original(*a))
    out, keep = tmp_path / "out", tmp_path / "keep"
    first = study.run_seed("small", 0, ("prior", "sft"), out, keep)
    assert len(first) == 2
    study._WARM.clear()  # another process
    (third,) = study.run_seed("small", 0, ("prior", "sft", "amvl"), out, keep)
    assert warmed == [1]  # read from the folder the second time
    assert not list((keep / "small" / "unfinished").iterdir())
    results = [read_result(path) for path in (*first, third)]
    assert [result.cell for result in results] == ["prior", "sft", "amvl"]
    steps = {result.cell: result.extra["curve"][-1]["step"] for result in results}
    assert steps == {"prior": 4, "sft": 6, "amvl": 4}  # without latents: the warm-up's steps and its own
    assert all(result.extra["warmup_steps"] == 2 for result in results)
    assert (keep / "small" / "amvl" / "seed0" / "checkpoint" / "model.safetensors").exists()


def test_an_altered_warm_up_is_refused_and_made_again(
    base: tuple[Any, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    small_study(tmp_path, base, monkeypatch)
    settings = study.arm_of(declared.STUDIES["small"], "amvl", 0)
    state, curve = study.warmed_up(settings, tmp_path / "keep", silent)
    (file,) = (tmp_path / "keep" / "warm-up").glob("*.safetensors")
    content = file.read_bytes()
    for damaged in (content[:-4] + bytes(4), content[:-4]):
        file.write_bytes(damaged)
        study._WARM.clear()
        again, other = study.warmed_up(settings, tmp_path / "keep", silent)
        assert "is refused" in capsys.readouterr().err
        assert all(torch.equal(again[name], state[name]) for name in state)
        assert other["warmup_steps"] == curve["warmup_steps"] and file.read_bytes() == content


@pytest.mark.parametrize(("seconds", "states"), [(1e9, []), (-1.0, ["checkpoint-1"])])
def test_a_state_is_written_between_looks_when_the_last_one_is_old(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, seconds: float, states: list[str]
) -> None:
    monkeypatch.setattr(unfinished, "SAVE_EVERY", seconds)
    model, kept = torch.nn.Linear(2, 2), unfinished.Unfinished(tmp_path)
    kept.step = 1
    kept.keep(model, torch.optim.AdamW(model.parameters()), torch.Generator(), at_look=False)
    assert [path.name for path in tmp_path.iterdir()] == states


@pytest.mark.parametrize("cut", ["by an error", "by a signal", "and damaged"])
def test_a_training_that_was_cut_short_goes_on_to_the_same_bits(
    base: tuple[Any, Any], tmp_path: Path, cut: str, capsys: pytest.CaptureFixture[str]
) -> None:
    settings, whole = arm("amvl"), built(base, arm("amvl"))
    curve = train_arm(whole, base[1], settings, silent)

    def end(row: dict[str, Any]) -> None:
        if cut != "by a signal":
            raise InterruptedError
        os.kill(os.getpid(), signal.SIGTERM)

    with pytest.raises((InterruptedError, RunStopped)) as stopped:
        train_arm(built(base, settings), base[1], settings, end, tmp_path)
    assert not isinstance(stopped.value, RunStopped) or stopped.value.code == 143
    (state,) = tmp_path.iterdir()
    assert state.name == ("checkpoint-3" if cut == "by a signal" else "checkpoint-2")
    if cut == "and damaged":
        (state / "state.pt").write_bytes((state / "state.pt").read_bytes()[:-1])
    model, rows = built(base, settings), list[dict[str, Any]]()
    again = train_arm(model, base[1], settings, rows.append, tmp_path)
    assert ("state.pt was altered" in capsys.readouterr().err) == (cut == "and damaged")
    assert rows == again and [row["step"] for row in again] == [2, 4]
    for row, other in zip(again, curve, strict=True):
        assert row | {"seconds": 0} == other | {"seconds": 0}
    assert all(torch.equal(value, whole.state_dict()[name]) for name, value in model.state_dict().items())


def test_a_study_of_kept_checkpoints_measures_them_elsewhere_and_trains_nothing(
    base: tuple[Any, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    trained = small_study(tmp_path, base, monkeypatch)
    cells: dict[str, dict[str, object]] = {
        "amvl,t=0": {"objective": "amvl", "temperature": 0.0},
        "amvl,shifted": {"objective": "amvl", "recipe.shifted": True, "recipe.hops": {3: 1.0}},
    }
    checkpoints = dict.fromkeys(cells, ("small", "amvl"))
    elsewhere = replace(trained, name="elsewhere", cells=cells, checkpoints=checkpoints)
    monkeypatch.setitem(declared.STUDIES, "elsewhere", elsewhere)
    out, keep = tmp_path / "out", tmp_path / "keep"
    (made,) = study.run_seed("small", 0, ("amvl",), out, keep)
    monkeypatch.setattr(study, "run_arm", None)
    first, shifted = (read_result(path) for path in study.run_seed("elsewhere", 0, tuple(cells), out, keep))
    assert first.extra["checkpoint"] == "small/amvl/seed0" and "curve" not in first.extra
    assert "Primary" not in (text := analysis.report([first, shifted], list(cells))) and "Runs by outcome" not in text
    assert "2 hops all at 2 hops" in text and "3 hops all at 3 hops" in text
    assert first.metrics["accuracy_2"] == read_result(made).metrics["accuracy_2"]
    assert first.metrics["accuracy_sampled_2"] == first.metrics["accuracy_2"]  # at temperature 0
    assert {name[-1] for name in shifted.metrics if name.startswith("accuracy")} == {"3"}


def test_the_result_does_not_depend_on_which_arms_ran_before(
    base: tuple[Any, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    small_study(tmp_path, base, monkeypatch)
    study._WARM.clear()
    (alone,) = study.run_seed("small", 0, ("amvl",), tmp_path / "alone", None)
    *_, last = study.run_seed("small", 0, ("prior", "amvl"), tmp_path / "both", None)
    assert read_result(alone).metrics == read_result(last).metrics


# ---------------------------------------------------------------------- the planned analysis


def test_a_number_that_is_not_finite_stops_warm_up_and_arm_and_names_the_step(base: tuple[Any, Any]) -> None:
    model = built(base, arm())
    model.injector.weight.data.fill_(float("nan"))
    for train in (warm_up, train_arm):
        with pytest.raises(
            NonFiniteError, match=r"stopped at step 1, before .*batch 1 of 1: train_Coloured_Cells_0, .*is not stored"
        ):
            train(model, base[1], arm(), silent)
