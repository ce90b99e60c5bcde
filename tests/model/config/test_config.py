"""Settings, presets, overrides, command-line arguments."""

from __future__ import annotations

import dataclasses
import itertools
import json
import math
import pickle
from pathlib import Path
from typing import Annotated, Any

import pytest
import tyro
import yaml

from amvl_model.config import (
    PRESET_FOLDER,
    changed_settings,
    command_line,
    config_paths,
    load_preset,
    override,
    preset_names,
)
from amvl_model.config.schema import DataConfig, EvalConfig, ModelConfig, ObjectiveConfig, RunConfig, TrainConfig
from amvl_model.objectives import OBJECTIVES
from tests.command_lines import unframed

SECTIONS = {name: field.annotation for name, field in RunConfig.model_fields.items() if name != "preset"}
DOCS = {f"{name}.{key}": field.description for name in SECTIONS for key, field in SECTIONS[name].model_fields.items()}


# --- schedules ---


def schedule(progress: float, **settings: Any) -> tuple[float, float]:
    return ObjectiveConfig(beta=2.0, gamma=1.0, **settings).weights(progress)


@pytest.mark.parametrize(
    ("progress", "expected"),
    [(0.0, (0, 0)), (0.05, (1, 0)), (0.1, (2, 0)), (0.2, (2, 0)), (0.3, (2, 0.5)), (0.4, (2, 1)), (1.0, (2, 1))],
)
def test_forward_first_raises_beta_from_the_start_and_gamma_after_its_delay(
    progress: float, expected: tuple[float, float]
) -> None:
    assert schedule(progress) == pytest.approx(expected)


@pytest.mark.parametrize("progress", [0.0, 0.05, 0.1, 0.15, 0.3, 0.4, 1.0])
def test_reverse_first_exchanges_the_two_schedules(progress: float) -> None:
    beta, gamma = schedule(progress)
    assert schedule(progress, order="reverse-first") == pytest.approx((2 * gamma, beta / 2))


@pytest.mark.parametrize(("progress", "share"), [(0.0, 0), (0.05, 0.5), (0.1, 1), (1.0, 1)])
def test_simultaneous_raises_both_from_the_start(progress: float, share: float) -> None:
    assert schedule(progress, order="simultaneous") == pytest.approx((2 * share, share))


def test_without_warm_up_and_delay_the_weights_are_full_from_the_first_step() -> None:
    assert schedule(0.0, beta_warmup=0, gamma_delay=0, gamma_warmup=0) == (2, 1)


def test_weights_never_fall_during_training() -> None:
    for order in ("forward-first", "reverse-first", "simultaneous"):
        path = [schedule(step / 97, order=order) for step in range(98)]
        assert all(a[0] <= b[0] and a[1] <= b[1] for a, b in itertools.pairwise(path))
        assert path[-1] == (2, 1)


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("ntp", (0, 0)),
        ("fwd", (2, 0)),
        ("rev", (0, 1)),
        ("ntp+fwd", (2, 0)),
        ("ntp+rev", (0, 1)),
        ("amvl", (2, 1)),
        ("elbo", (2, 0)),
        ("jeffreys", (2, 1)),
    ],
)
def test_a_term_that_the_objective_lacks_has_weight_zero(name: str, expected: tuple[float, float]) -> None:
    assert schedule(1.0, name=name) == expected


def test_every_objective_has_a_schedule() -> None:
    for name in OBJECTIVES:
        assert len(ObjectiveConfig(name=name).weights(0.5)) == 2


@pytest.mark.parametrize("progress", [-0.01, 1.01, math.nan])
def test_a_progress_outside_the_training_is_refused(progress: float) -> None:
    with pytest.raises(ValueError, match="expected steps done / steps in all, from 0 to 1"):
        ObjectiveConfig().weights(progress)


# --- checks of values ---


@pytest.mark.parametrize("weight", [-1e-9, math.nan, math.inf, -math.inf])
@pytest.mark.parametrize("name", ["beta", "gamma"])
def test_negative_and_non_finite_weights_are_refused(name: str, weight: float) -> None:
    with pytest.raises(
        ValueError, match=rf"objective\.{name}: expected a finite number of at least 0, received .*default"
    ):
        ObjectiveConfig(**{name: weight})  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (lambda: ObjectiveConfig(name="amlv"), "got 'amlv'; did you mean 'amvl'"),
        (lambda: ObjectiveConfig(order="forward_first"), "did you mean forward-first"),  # type: ignore[arg-type]
        (lambda: ObjectiveConfig(gamma_delay=0.9, gamma_warmup=0.2), "would not reach its full value"),
        (lambda: ObjectiveConfig(beta="0.1"), "expected a finite number"),  # type: ignore[arg-type]
        (lambda: ModelConfig(num_latents=0), "a whole number of at least 1, received 0"),
        (lambda: ModelConfig(num_latents=True), "expected a whole number"),
        (lambda: ModelConfig(freeze_vision=1), "expected true or false"),  # type: ignore[arg-type]
        (lambda: ModelConfig(base="scratch"), "set model.freeze_vision to false"),
        (lambda: ModelConfig(base="scratch", freeze_vision=False, lora_rank=4), "name a base"),
        (lambda: ModelConfig(scratch_hidden_size=200), "a multiple of 96, received 200"),
        (lambda: ModelConfig(lora_dropout=1.5), "from 0 to 1"),
        (lambda: DataConfig(source="blink+"), "data.source: expected a name"),
        (lambda: DataConfig(tasks="Counting"), "write it as a list"),  # type: ignore[arg-type]
        (lambda: DataConfig(train_size=None), "data.train_size: expected a number with the endless source"),
        (lambda: DataConfig(min_pixels=9, max_pixels=4), "at most data.max_pixels (4), received 9"),
        (lambda: DataConfig(label_noise=-0.1), "from 0 to 1"),
        (lambda: TrainConfig(learning_rate=0.0), "above 0, received 0.0"),
        (lambda: TrainConfig(steps=2.5), "a whole number of at least 1"),  # type: ignore[arg-type]
        (lambda: TrainConfig(precision="fp16"), "one of fp32, bf16"),  # type: ignore[arg-type]
        (lambda: EvalConfig(temperature=-1.0), "of at least 0"),
        (
            lambda: RunConfig(model="tiny"),
            "model: expected a mapping of settings or an instance of ModelConfig, received 'tiny'",
        ),  # type: ignore[arg-type]
    ],
)
def test_a_bad_value_is_refused_with_what_was_expected_and_the_fix(build: Any, message: str) -> None:
    with pytest.raises(ValueError) as error:
        build()
    assert message in str(error.value)


def test_settings_are_given_by_name_and_cannot_be_changed_later() -> None:
    with pytest.raises(TypeError):
        ObjectiveConfig("amvl")  # type: ignore[misc]
    with pytest.raises(ValueError, match="frozen"):
        ObjectiveConfig().beta = 1.0  # type: ignore[misc]


def test_whole_numbers_become_floats_and_lists_become_tuples() -> None:
    assert isinstance(ObjectiveConfig(beta=1).beta, float)
    assert DataConfig(tasks=["Counting"]).tasks == ("Counting",)  # type: ignore[arg-type]


def test_settings_are_values_equal_hashable_and_pickled() -> None:
    config = load_preset("small-gpu")
    assert config == load_preset("small-gpu") != load_preset("tiny")
    assert len({config, load_preset("small-gpu"), RunConfig.from_dict(config.to_dict())}) == 1
    assert pickle.loads(pickle.dumps(config)) == config


def test_sources_joined_by_plus_are_several_and_a_path_is_one() -> None:
    assert DataConfig(source="visual-cot + refocus").sources == ("visual-cot", "refocus")
    assert DataConfig(source="./a+b.parquet").sources == ("./a+b.parquet",)
    assert DataConfig(source="blink").eval_sources == ("blink",)
    assert DataConfig(source="refocus", eval_source="blink").eval_sources == ("blink",)


def test_every_field_is_documented_and_its_default_is_accepted() -> None:
    for path, doc in DOCS.items():
        assert doc and not doc.endswith("."), path
    assert RunConfig().to_dict()["objective"]["beta"] == 0.003


# --- plain data ---


@pytest.mark.parametrize("name", preset_names())
def test_plain_data_survives_json_and_yaml(name: str) -> None:
    config = load_preset(name)
    assert RunConfig.from_dict(json.loads(json.dumps(config.to_dict()))) == config
    assert RunConfig.from_dict(yaml.safe_load(yaml.safe_dump(config.to_dict()))) == config


def test_an_unknown_key_is_refused_with_its_dotted_path_and_the_nearest_one() -> None:
    with pytest.raises(ValueError, match=r"objective\.betta; did you mean objective\.beta\?"):
        RunConfig.from_dict({"objective": {"betta": 1}})
    with pytest.raises(ValueError, match=r"key objektive; did you mean objective\?"):
        RunConfig.from_dict({"objektive": {}})
    with pytest.raises(ValueError, match=r"key data\.zzz; use one of data\.source"):
        RunConfig.from_dict({"data": {"zzz": 1}})


def test_a_section_that_is_no_mapping_is_refused() -> None:
    with pytest.raises(
        ValueError, match="objective: expected a mapping of settings or an instance of ObjectiveConfig, received 0.003"
    ):
        RunConfig.from_dict({"objective": 0.003})


# --- presets ---


def test_the_three_presets_are_shipped() -> None:
    assert preset_names() == ("tiny", "small-gpu", "qwen2.5-vl-7b")


@pytest.mark.parametrize("name", preset_names())
def test_each_preset_file_states_what_differs_from_the_defaults_and_explains_it(name: str) -> None:
    text = (PRESET_FOLDER / f"{name}.yaml").read_text(encoding="utf-8")
    values = yaml.safe_load(text)
    assert values["preset"] == name
    config, defaults = load_preset(name).to_dict(), RunConfig().to_dict()
    for section in set(values) - {"preset"}:
        assert all(config[section][key] != defaults[section][key] for key in values[section]), section
    assert config["preset"] == name
    for line in text.splitlines():
        if line.startswith("  "):
            assert "  # " in line, f"no comment: {line}"


def test_the_tiny_preset_trains_the_shipped_base_on_noisy_labels() -> None:
    config = load_preset("tiny")
    assert (config.model.base, config.model.num_latents, config.model.latent_dim) == ("tiny", 4, 16)
    assert config.objective.name == "amvl" and 0 < config.objective.gamma < config.objective.beta
    assert config.data.label_noise == 0.3
    # two epochs or so, lest the model learn the noise by heart (LOG.md)
    assert config.train.steps * config.train.batch_size < 3 * config.data.train_size


def test_the_seven_b_preset_is_what_the_paper_states() -> None:
    config = load_preset("qwen2.5-vl-7b")
    assert config.model.base == "Qwen/Qwen2.5-VL-7B-Instruct"
    assert (config.model.num_latents, config.model.latent_dim, config.model.freeze_vision) == (8, 512, True)
    assert config.data.sources == ("visual-cot", "refocus", "cogcom", "zebra-cot")
    assert config.data.eval_sources == ("blink",)
    assert config.objective.order == "forward-first" and config.objective.gamma < config.objective.beta


def test_an_unknown_preset_is_refused_with_the_nearest_one() -> None:
    with pytest.raises(ValueError, match="tinny is neither a preset nor a file; did you mean tiny"):
        load_preset("tinny")


def test_a_file_of_one_s_own_takes_the_place_of_a_preset(tmp_path: Any) -> None:
    file = tmp_path / "mine.yaml"
    file.write_text(yaml.safe_dump(load_preset("tiny", {"train.learning_rate": "1e-5"}).to_dict()))
    assert load_preset(file).train.learning_rate == 1e-5  # YAML reads 1e-05 as a text
    file.write_text("objective: {beta: 1}")
    config = load_preset(file)
    assert (config.preset, config.objective.beta, config.train) == ("mine", 1.0, RunConfig().train)
    file.write_text("- objective")
    with pytest.raises(ValueError, match=r"mine\.yaml: configuration: expected a mapping of sections"):
        load_preset(file)
    file.write_text("objective: {beta: [")
    with pytest.raises(ValueError, match="is not valid YAML"):
        load_preset(file)


# --- overrides and the command line ---


@pytest.mark.parametrize(
    ("path", "text", "value"),
    [
        ("objective.beta", "1e-2", 0.01),
        ("objective.name", "ntp+fwd", "ntp+fwd"),
        ("model.base", "7", "7"),
        ("model.freeze_vision", "no", False),
        ("model.lora_rank", "16", 16),
        ("train.latent_learning_rate", "null", None),
        ("data.tasks", "Counting, Jigsaw", ("Counting", "Jigsaw")),
        ("data.tasks", "[Counting]", ("Counting",)),
        ("data.tasks", "none", None),
        ("train.report_to", "[]", ()),
    ],
)
def test_an_override_is_read_as_its_field_needs_it(path: str, text: str, value: Any) -> None:
    section, key = path.split(".")
    assert getattr(getattr(load_preset("tiny", {path: text}), section), key) == value


@pytest.mark.parametrize(
    ("path", "text", "message"),
    [
        ("objective.beta", "much", "objective.beta: expected a finite number of at least 0, received 'much'"),
        ("objective.beta", "nan", "objective.beta: expected a finite number"),
        ("train.steps", "1.5", "train.steps: expected a whole number"),
        ("model.freeze_vision", "maybe", "model.freeze_vision: expected true or false"),
        ("objective.betta", "1", "unknown configuration key objective.betta; did you mean objective.beta?"),
        ("beta", "1", "did you mean objective.beta?"),
        ("preset", "other", "unknown configuration key preset"),
    ],
)
def test_a_bad_override_is_refused(path: str, text: str, message: str) -> None:
    with pytest.raises(ValueError) as error:
        load_preset("tiny", {path: text})
    assert message in str(error.value)


def test_the_preset_itself_is_not_changed_by_an_override() -> None:
    before = load_preset("tiny").objective.beta
    assert load_preset("tiny", {"objective.beta": "0.5"}).objective.beta == 0.5 != before
    assert load_preset("tiny").objective.beta == before


@dataclasses.dataclass(frozen=True)
class Options:
    """A script's options."""

    config: Annotated[RunConfig, tyro.conf.arg(name="")]
    quick: bool = False  # a shorter run


def parse(*arguments: str) -> Options:
    return command_line(Options, arguments, preset="tiny")


def help_page(capsys: pytest.CaptureFixture[str], *arguments: str) -> str:
    with pytest.raises(SystemExit) as stop:
        parse(*arguments, "--help")
    assert stop.value.code == 0
    return unframed(capsys.readouterr().out)


def test_every_field_is_an_argument_and_stands_in_the_help_with_its_unit(capsys: pytest.CaptureFixture[str]) -> None:
    page = help_page(capsys)
    assert set(config_paths()) == set(DOCS)
    for path, doc in DOCS.items():
        assert f"--{path} " in page
        assert doc in page
    assert "[per nat] (default: 0.003)" in page and "a shorter run" in page
    for section in SECTIONS:
        assert f"{section} options" in page


def test_help_shows_the_values_of_the_chosen_preset(capsys: pytest.CaptureFixture[str]) -> None:
    assert "(default: Qwen/Qwen2.5-VL-7B-Instruct)" in help_page(capsys, "--preset", "qwen2.5-vl-7b")


def test_the_command_line_replaces_the_preset_s_values() -> None:
    options = parse("--objective.beta", "0.01", "--data.tasks=Counting", "--quick")
    assert options == Options(load_preset("tiny", {"objective.beta": 0.01, "data.tasks": ("Counting",)}), quick=True)
    assert parse("--preset", "qwen2.5-vl-7b").config == load_preset("qwen2.5-vl-7b")


def test_a_file_given_as_preset_keeps_the_name_that_it_states(tmp_path: Any) -> None:
    file = tmp_path / "mine.yaml"
    file.write_text((PRESET_FOLDER / "tiny.yaml").read_text(encoding="utf-8").replace("preset: tiny", "preset: mine"))
    assert parse(f"--preset={file}", "--train.steps", "3").config == override(load_preset(file), {"train.steps": 3})
    assert parse("--preset", str(file)).config.preset == "mine"


@pytest.mark.parametrize("path", sorted(DOCS))
def test_every_field_can_be_given_on_the_command_line(path: str) -> None:
    section, key = path.split(".")
    value = getattr(getattr(load_preset("tiny"), section), key)
    text = "null" if value is None else ",".join(value) if isinstance(value, tuple) else str(value)
    assert parse(f"--{path}", text).config == load_preset("tiny")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--objective.betta", "1"], "unknown argument --objective.betta; did you mean --objective.beta?"),
        (["--objective.betta=1"], "unknown argument --objective.betta; did you mean --objective.beta?"),
        (["--beta", "1"], "did you mean --objective.beta?"),
        (["--quik"], "unknown argument --quik; did you mean --quick?"),
        (["--objective.bet", "1"], "unknown argument --objective.bet; did you mean --objective.beta?"),
        (["--objective.beta", "x"], "objective.beta: expected a finite number of at least 0, received 'x'"),
        (["--objective.order", "first"], "objective.order: expected one of forward-first"),
        (["--objective.gamma_delay", "0.9"], "would not reach its full value"),
        (["--preset", "tinny"], "tinny is neither a preset nor a file; did you mean tiny?"),
        (["stray"], "unexpected argument 'stray'"),
    ],
)
def test_a_wrong_command_line_ends_with_the_nearest_valid_name(
    capsys: pytest.CaptureFixture[str], arguments: list[str], message: str
) -> None:
    with pytest.raises(SystemExit) as stop:
        parse(*arguments)
    error = capsys.readouterr().err
    assert stop.value.code == 2 and message in error
    assert len(error.splitlines()) == 1


# --- resumed runs ---


@dataclasses.dataclass(frozen=True)
class ResumableOptions(Options):
    """A script's options that can go on with a run."""

    resume: Path | None = None  # the run


def resumed(*arguments: str) -> ResumableOptions:
    return command_line(ResumableOptions, arguments, preset="tiny")


def test_a_resumed_run_takes_the_settings_that_the_command_line_does_not_name_from_its_folder(tmp_path: Path) -> None:
    stored = load_preset("small-gpu", {"train.steps": 7, "objective.beta": 0.5})
    (tmp_path / "config.json").write_text(json.dumps(stored.to_dict()))
    assert resumed(f"--resume={tmp_path}") == ResumableOptions(stored, resume=tmp_path)
    changed = resumed("--resume", str(tmp_path), "--train.steps", str(load_preset("tiny").train.steps)).config
    assert changed_settings(stored, changed) == {"train.steps": (7, load_preset("tiny").train.steps)}
    named = resumed("--resume", str(tmp_path), "--preset=tiny").config
    assert named == load_preset("tiny") and "preset" in changed_settings(stored, named)
    assert changed_settings(stored, stored) == {}


def test_a_folder_without_a_run_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stop:
        resumed(f"--resume={tmp_path}")
    assert stop.value.code == 2 and f"{tmp_path} contains no run to resume" in capsys.readouterr().err
    (tmp_path / "config.json").write_text('{"train": {"stepps": 3}}')
    with pytest.raises(SystemExit):
        resumed(f"--resume={tmp_path}")
    assert "config.json: unknown configuration key train.stepps; did you mean train.steps?" in capsys.readouterr().err
    with pytest.raises(SystemExit):
        parse(f"--resume={tmp_path}")
    assert "unknown argument --resume" in capsys.readouterr().err


@pytest.mark.parametrize("tasks", ["", "[]", ",", "Counting,", [], ["", "Jigsaw"], "Counting,Counting"])
def test_a_list_of_tasks_names_some_and_each_once(tasks: object) -> None:
    with pytest.raises(
        ValueError, match=r"^data\.tasks: expected names of tasks, each once, or null for all, received "
    ):
        load_preset("tiny", {"data.tasks": tasks})


@pytest.mark.parametrize(
    "text",
    ["objective:\n  gamma: 1.0\n  gamma: 2.0\n", "data: {seed: 1}\ndata: {}\n", '{"preset": "a", "preset": "b"}'],
)
def test_a_key_that_occurs_twice_is_refused(tmp_path: Path, text: str) -> None:
    (tmp_path / "mine.yaml").write_text(text)
    with pytest.raises(ValueError, match=r"mine\.yaml is not valid YAML: the key '\w+' occurs twice"):
        load_preset(tmp_path / "mine.yaml")
