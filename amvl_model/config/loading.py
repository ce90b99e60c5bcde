"""Configurations from presets, files, dotted overrides and command lines.

    config = load_preset("tiny", {"objective.beta": "0.01"})        a preset with one value replaced
    options = command_line(Options)                                 a script's options, with a RunConfig among them or not

A preset is a complete YAML file in ``amvl_model/presets``: copy it, edit it, pass its path in place of a name.
"""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, NoReturn, TypeVar, get_args

from amvl_model.config.schema import RunConfig, Settings, config_paths, did_you_mean, read_text

if TYPE_CHECKING:
    from tyro.constructors import StructConstructorSpec, StructTypeInfo

PRESET_FOLDER = Path(__file__).parents[1] / "presets"

OptionsT = TypeVar("OptionsT")


def preset_names() -> tuple[str, ...]:
    """The shipped presets, smallest first."""
    order = ("tiny", "small-gpu")
    names = sorted(path.stem for path in PRESET_FOLDER.glob("*.yaml"))
    return tuple(sorted(names, key=lambda name: order.index(name) if name in order else len(order)))


def load_preset(name: str | Path, overrides: Mapping[str, Any] | None = None) -> RunConfig:
    """A preset by name, or a complete YAML or JSON file, with some values replaced.

    Args:
        name: ``tiny``, ``small-gpu``, ``qwen2.5-vl-7b``, or the path of a file that states every field.
        overrides: dotted path to value; a text is read as the field needs it (``{"objective.beta": "1e-3"}``).

    Raises:
        ValueError: for an unknown preset or key (with the nearest valid one), an incomplete file, or a bad value.
    """
    import yaml

    file = PRESET_FOLDER / f"{name}.yaml" if str(name) in preset_names() else Path(name)
    if not file.is_file():
        raise ValueError(f"{name} is neither a preset nor a file; {did_you_mean(str(name), preset_names())}")
    try:
        values = yaml.safe_load(file.read_text(encoding="utf-8"))
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise ValueError(f"{file} is not valid YAML: {error}; compare it with {PRESET_FOLDER / 'tiny.yaml'}") from error
    try:
        config = RunConfig.from_dict(values, complete=True)
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
    return RunConfig.from_dict(values)


def command_line(options: type[OptionsT], arguments: Sequence[str] | None = None, *, preset: str = "") -> OptionsT:
    """The options that a command line gives, by tyro; ``--help`` shows the docstring of the module of ``options``.

    Args:
        options: a dataclass or pydantic model; the comment behind a field is its help. A field ``config: RunConfig`` adds
            ``--preset NAME|FILE`` and ``--section.field VALUE`` for every setting.
        arguments: default: those of the process.
        preset: default of ``--preset``; needed where ``options`` has a field ``config``, and all of its fields have defaults.

    Raises:
        SystemExit: status 2 and a message for arguments that are not accepted; unknown ones with the most similar known ones.
    """
    import tyro

    os.environ.setdefault("PYDANTIC_ERRORS_INCLUDE_URL", "0")
    registry = tyro.constructors.ConstructorRegistry()
    registry.struct_rule(_settings_rule)
    extra: dict[str, Any] = {}
    if preset:
        first = argparse.ArgumentParser(add_help=False, allow_abbrev=False, usage=argparse.SUPPRESS)
        first.add_argument("--preset", default=preset)
        given, arguments = first.parse_known_args(arguments)
        try:
            extra["default"] = options(config=load_preset(given.preset))  # type: ignore[call-arg]
        except ValueError as error:
            usage_error(error)
    return tyro.cli(
        options,
        args=arguments,
        description=sys.modules[options.__module__].__doc__,
        config=(tyro.conf.FlagCreatePairsOff,),
        registry=registry,
        use_underscores=bool(preset),
        **extra,
    )


def usage_error(message: object) -> NoReturn:
    """End the script with a message and status 2, as `command_line` does."""
    print(f"{Path(sys.argv[0]).name}: error: {message}", file=sys.stderr)
    raise SystemExit(2)


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
                str_from_instance=lambda value: [_text(value)],
            )
            kind = Annotated[kind, spec, tyro.conf.FlagConversionOff]
        doc = f"{', '.join(preset_names())}, or a file; the settings below replace its values"
        doc = doc if name == "preset" else field.description or ""
        fields.append(StructFieldSpec(name=name, type=kind, default=getattr(info.default, name), helptext=doc))
    return StructConstructorSpec(instantiate=info.type, fields=tuple(fields))


def _from_texts(annotation: Any, texts: list[str]) -> Any:
    return read_text(annotation, *texts)


def _metavar(kind: Any) -> str:
    """An annotation as short as a help page needs it."""
    kind = get_args(kind | None)[0]
    if choices := get_args(kind):
        return "STR,..." if ... in choices else "{" + ",".join(choices) + "}"
    return kind.__name__.upper()


def _text(value: Any) -> str:
    """A value as it is written in YAML or on the command line."""
    if isinstance(value, tuple):
        return ",".join(value) or "[]"
    return "null" if value is None else str(value).lower() if isinstance(value, bool) else str(value)
