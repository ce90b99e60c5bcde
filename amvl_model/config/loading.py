"""Configurations from presets, files, dotted overrides and command lines.

    config = load_preset("tiny", {"objective.beta": "0.01"})        a preset with one value replaced
    options = command_line(Options)                                 a script's options, with a RunConfig among them or not

A preset is a YAML file in ``amvl_model/presets`` of what differs from the defaults: copy it, edit it, pass its path in place of a
name.
"""

from __future__ import annotations

import argparse
import io
import json
import re
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, redirect_stderr
from dataclasses import is_dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, NoReturn, TypeVar, cast, get_args, get_type_hints

from amvl_model.config.process import quiet_on_closed_pipe
from amvl_model.config.schema import RunConfig, Settings, config_paths, did_you_mean, read_text, text_of

if TYPE_CHECKING:
    from tyro.constructors import StructConstructorSpec, StructTypeInfo

PRESET_FOLDER = Path(__file__).parents[1] / "presets"

LABORATORY_SETTINGS = "laboratory.json"
"""In place of config.json in the folder of a run in the laboratory."""

OptionsT = TypeVar("OptionsT")


def preset_names() -> tuple[str, ...]:
    """The shipped presets, smallest first."""
    order = ("tiny", "small-gpu")
    names = sorted(path.stem for path in PRESET_FOLDER.glob("*.yaml"))
    return tuple(sorted(names, key=lambda name: order.index(name) if name in order else len(order)))


def load_preset(name: str | Path, overrides: Mapping[str, Any] | None = None) -> RunConfig:
    """A preset by name, or a YAML or JSON file, with some values replaced; fields that neither states have their defaults.

    Args:
        name: ``tiny``, ``small-gpu``, ``qwen2.5-vl-7b``, or the path of a file; ``preset`` is its name, if it states none.
        overrides: dotted path to value; a text is read as the field needs it (``{"objective.beta": "1e-3"}``).

    Raises:
        ValueError: for an unknown preset or key (with the nearest valid one), or a bad value.
    """
    import yaml

    class UniqueKeys(yaml.SafeLoader):
        def construct_mapping(self, node: Any, deep: bool = False) -> dict[Any, Any]:
            keys = [self.construct_object(key, deep=True) for key, _ in node.value]
            if repeated := [key for key in keys if keys.count(key) > 1]:
                raise yaml.YAMLError(f"the key {repeated[0]!r} occurs twice")
            return super().construct_mapping(node, deep)

    file = PRESET_FOLDER / f"{name}.yaml" if str(name) in preset_names() else Path(name)
    if not file.is_file():
        raise ValueError(f"{name} is neither a preset nor a file; {did_you_mean(str(name), preset_names())}")
    try:
        values = yaml.load(file.read_text(encoding="utf-8"), Loader=UniqueKeys)
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise ValueError(f"{file} is not valid YAML: {error}; compare it with {PRESET_FOLDER / 'tiny.yaml'}") from error
    try:
        config = RunConfig.from_dict({"preset": file.stem, **values} if isinstance(values, dict) else values)
    except ValueError as error:
        raise ValueError(f"{file}: {error}") from error
    return override(config, overrides or {})


def override(config: RunConfig, overrides: Mapping[str, Any]) -> RunConfig:
    """``config`` with the fields at the given dotted paths replaced; see `load_preset`.

    Raises:
        ValueError: for an unknown path (with the nearest valid one) or a value that is not accepted.
    """
    values, paths = config.to_dict(), config_paths()
    for path, value in overrides.items():
        if path not in paths:
            raise ValueError(f"unknown configuration key {path}; {did_you_mean(path, paths)}")
        section, key = path.split(".")
        values[section][key] = value
    result = RunConfig.from_dict(values)
    if "data.label_noise" in overrides:
        refuse_noise_of_files(result)
    return result


def refuse_noise_of_files(config: RunConfig) -> None:
    """Raise where wrong labels were asked for and no source draws its questions; call it where the setting was named.

    Raises:
        ValueError: with what to do.
    """
    drawn = ("synthetic-blink", "multihop")
    if config.data.label_noise and not any(source.partition(":")[0] in drawn for source in config.data.sources):
        raise ValueError(
            f"data.label_noise: expected 0 with data.source {config.data.source!r}, whose labels are trained on as they stand, "
            f"received {config.data.label_noise:g}; leave it out, or write the wrong labels into the file"
        )


def stored_config(run: Path) -> RunConfig:
    """The settings that a run folder stores.

    Raises:
        FileNotFoundError: if the folder contains no ``config.json``.
        ValueError: if that is not a configuration.
    """
    if not (run / "config.json").is_file():
        raise FileNotFoundError(f"{run} contains no run to resume (no config.json); give the folder that --out named")
    try:
        return RunConfig.from_dict(json.loads((run / "config.json").read_text(encoding="utf-8")))
    except ValueError as error:
        raise ValueError(f"{run / 'config.json'}: {error}") from error


def stored_laboratory(run: Path, options: type[OptionsT]) -> OptionsT:
    """The options that the folder of a run in the laboratory stores.

    Args:
        run: the folder.
        options: their class, a dataclass.

    Raises:
        FileNotFoundError: if the folder contains no ``laboratory.json``.
        ValueError: if that does not contain such options.
    """
    from pydantic import TypeAdapter, ValidationError

    file = run / LABORATORY_SETTINGS
    if not file.is_file():
        raise FileNotFoundError(f"{run} contains no run to resume (no {file.name}); give the folder that --out named")
    try:
        return TypeAdapter(options).validate_json(file.read_bytes())
    except ValidationError as error:
        detail = error.errors(include_url=False)[0]
        name = ".".join(map(str, detail["loc"]))
        raise ValueError(
            f"{file}: expected the options of a run, got {name and name + ': '}{detail['msg']}; copy the file again"
        ) from error


def changed_settings(before: RunConfig, now: RunConfig) -> dict[str, tuple[Any, Any]]:
    """Dotted path to both values of every setting, ``preset`` included, that differs between two configurations."""
    old, new = before.to_dict(), now.to_dict()
    pairs = {path: (_at(old, path), _at(new, path)) for path in ("preset", *config_paths())}
    return {path: pair for path, pair in pairs.items() if pair[0] != pair[1]}


def _at(values: Mapping[str, Any], path: str) -> Any:
    section, _, key = path.partition(".")
    return values[section][key] if key else values[section]


def command_line(options: type[OptionsT], arguments: Sequence[str] | None = None, *, preset: str = "") -> OptionsT:
    """The options that a command line gives, by tyro; ``--help`` shows the docstring of the module of ``options``.

    Args:
        options: a dataclass or pydantic model; the comment behind a field is its help. A field ``config: RunConfig`` adds
            ``--preset NAME|FILE`` and ``--section.field VALUE`` for every setting; with a field ``resume: Path | None``, settings
            that the command line does not name come from the run folder given there, unless a preset is named.
        arguments: default: those of the process.
        preset: default of ``--preset``; needed where ``options`` has a field ``config``, and all of its fields have defaults.

    Raises:
        SystemExit: status 2 and a message for arguments that are not accepted; unknown ones with the most similar known ones.
    """
    quiet_on_closed_pipe()
    import tyro

    registry = tyro.constructors.ConstructorRegistry()
    registry.struct_rule(_settings_rule)
    extra: dict[str, Any] = {}
    if preset:
        named, arguments = _flag("--preset").parse_known_args(arguments)
        run = _flag("--resume").parse_known_args(arguments)[0].resume if hasattr(options, "resume") else None
        try:
            folder = Path(run) if run and not named.preset else None
            stored = folder is not None and not (folder / LABORATORY_SETTINGS).exists()
            config = stored_config(folder) if folder and stored else load_preset(named.preset or preset)
            own = {"config": config}
            if folder and not stored:
                own["laboratory"] = stored_laboratory(folder, get_type_hints(options)["laboratory"])
        except (ValueError, FileNotFoundError) as error:
            usage_error(error)
        extra["default"] = options(**own)
    with _one_line():
        result, unknown = tyro.cli(
            options,
            args=arguments,
            description=re.sub(
                r"^(?=(python|amvl|torchrun) )", "    ", sys.modules[options.__module__].__doc__ or "", flags=re.M
            ),
            config=(tyro.conf.FlagCreatePairsOff,),
            registry=registry,
            use_underscores=bool(preset),
            return_unknown_args=True,
            **extra,
        )
    if unknown:
        flags = [name.partition("=")[0] for name in unknown if name.startswith("--")]
        usage_error("; ".join(_unknown(name, [*_names(options)]) for name in flags or unknown))
    return _bounded(result)


@contextmanager
def _one_line() -> Iterator[None]:
    """Print the errors that tyro prints in a frame as `usage_error` does."""
    printed = io.StringIO()
    try:
        with redirect_stderr(printed):
            yield
    except SystemExit:
        text, framed, _ = printed.getvalue().partition("For full helptext")
        if not framed:
            sys.stderr.write(text)
            raise
        words = text.strip().partition("\n")[2].split()  # without the title
        message = " ".join(word for word in words if word.strip("─│-")).rstrip(".")
        usage_error(f"{message}; see --help")


def _bounded(options: OptionsT) -> OptionsT:
    """Options whose values pydantic has checked against their annotations (`PositiveInt`, for example)."""
    from pydantic import TypeAdapter, ValidationError

    try:
        return TypeAdapter(type(options)).validate_python(vars(options))
    except ValidationError as error:
        detail = error.errors(include_url=False)[0]
        expected = detail["msg"].removeprefix("Input should be ").replace("greater than or equal to", "of at least")
        name = str(detail["loc"][0]).replace("_", "-")
        usage_error(f"--{name}: expected a value {expected}, received {detail['input']!r}; see --help")


def _flag(name: str) -> argparse.ArgumentParser:
    """A parser of one option, which leaves the others to tyro."""
    parser = argparse.ArgumentParser(add_help=False, allow_abbrev=False, usage=argparse.SUPPRESS)
    parser.add_argument(name)
    return parser


def _names(options: type) -> Iterator[str]:
    """The options of a class without their dashes."""
    for name, kind in get_type_hints(options).items():
        if kind is RunConfig:
            yield from ("preset", *config_paths())
        elif is_dataclass(kind):
            yield from _names(cast(type, kind))
        else:
            yield name.replace("_", "-")


def _unknown(name: str, names: Sequence[str]) -> str:
    if not name.startswith("--"):
        return f"unexpected argument {name!r}; see --help"
    suggestion = did_you_mean(name.removeprefix("--"), names, prefix="--")
    return f"unknown argument {name}; " + (suggestion if suggestion.startswith("did") else "see --help")


def usage_error(message: object) -> NoReturn:
    """End the script with a message and status 2, as `command_line` does."""
    print(f"{Path(sys.argv[0]).name}: error: {message}", file=sys.stderr)
    raise SystemExit(2)


@contextmanager
def usage_errors() -> Iterator[None]:
    """End the script by `usage_error` where the block raises what bad input raises: values, files, the network, packages."""
    try:
        yield
    except BrokenPipeError:
        raise  # not bad input: `quiet_on_closed_pipe`
    except (ValueError, OSError, ImportError) as error:
        usage_error(error)


def _settings_rule(info: StructTypeInfo) -> StructConstructorSpec | None:
    """Tyro's view of a section: every setting takes one text, which `read_text` reads."""
    import tyro
    from tyro.constructors import PrimitiveConstructorSpec, StructConstructorSpec, StructFieldSpec

    if not (isinstance(info.type, type) and issubclass(info.type, Settings)):
        return None
    fields = []
    for name, field in info.type.model_fields.items():
        kind: Any = field.annotation
        if not (isinstance(kind, type) and issubclass(kind, Settings)):
            spec = PrimitiveConstructorSpec(
                nargs=1,
                metavar=_metavar(kind),
                instance_from_str=partial(_from_texts, kind),
                is_instance=lambda value: True,
                str_from_instance=lambda value: [text_of(value)],
            )
            kind = Annotated[kind, spec, tyro.conf.FlagConversionOff]
        doc = f"{', '.join(preset_names())}, or a file; the settings below replace its values"
        doc = doc if name == "preset" else field.description or ""
        fields.append(StructFieldSpec(name=name, type=kind, default=getattr(info.default, name), helptext=doc))
    return StructConstructorSpec(instantiate=partial(_built, info.type), fields=tuple(fields))


def _built(kind: type[Settings], **values: Any) -> Settings:
    try:
        return kind(**values)
    except ValueError as error:
        usage_error(error)


def _from_texts(annotation: Any, texts: list[str]) -> Any:
    return read_text(annotation, *texts)


def _metavar(kind: Any) -> str:
    """An annotation as short as a help page needs it."""
    kind = get_args(kind | None)[0]
    if choices := get_args(kind):
        return "STR,..." if ... in choices else "{" + ",".join(choices) + "}"
    return kind.__name__.upper()
