"""Checked dataclass fields: types, bounds, documentation, plain data, and text from a command line.

Nothing here knows AMVL. A configuration class declares each field with `option`, calls `check_fields` in its
``__post_init__``, and is then built, written and overridden by the functions below. Every error names the dotted path
of the field, what was expected, what was received, and what to do.


A command-line argument for every field of a tree of configurations, and helpful refusals of unknown ones.
"""

from __future__ import annotations

import argparse
import difflib
import functools
import math
import types
import typing
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import MISSING, Field, dataclass, field, fields, is_dataclass
from typing import Any, Literal, TypeVar

ConfigT = TypeVar("ConfigT")

_NULL_TEXTS = ("null", "none", "~")


@dataclass(frozen=True, kw_only=True)
class Rule:
    """What one field accepts.

    Attributes:
        base: bool, int, float or str; of the entries where ``many`` is set.
        nullable: None is accepted.
        many: a tuple of ``base``.
        choices: the accepted texts; empty for any.
        low, high: inclusive bounds of a number; None for no bound.
        above: exclusive lower bound; None for no bound.
    """

    base: type[Any]
    nullable: bool = False
    many: bool = False
    choices: tuple[str, ...] = ()
    low: float | None = None
    high: float | None = None
    above: float | None = None

    def expectation(self) -> str:
        """The rule in words."""
        words = {bool: "true or false", int: "a whole number", float: "a finite number", str: "a text"}[self.base]
        if self.choices:
            words = "one of " + ", ".join(self.choices)
        if self.above is not None:
            words += f" above {self.above:g}"
        if self.low is not None and self.high is not None:
            words += f" from {self.low:g} to {self.high:g}"
        elif self.low is not None:
            words += f" of at least {self.low:g}"
        elif self.high is not None:
            words += f" of at most {self.high:g}"
        if self.many:
            words = f"a list, each entry {words}"
        return words + (" or null" if self.nullable else "")

    def metavar(self) -> str:
        """The rule as short as a ``--help`` page needs it."""
        word = "{" + ",".join(self.choices) + "}" if self.choices else self.base.__name__.upper()
        return word + (",..." if self.many else "")


def option(
    default: Any,
    doc: str,
    *,
    unit: str = "",
    low: float | None = None,
    high: float | None = None,
    above: float | None = None,
) -> Any:
    """A documented dataclass field.

    Args:
        default: its default.
        doc: one line that says what it does.
        unit: what it is counted in, for example ``steps``.
        low: smallest accepted number.
        high: largest accepted number.
        above: number that the value has to exceed.
    """
    return field(default=default, metadata={"doc": doc, "unit": unit, "low": low, "high": high, "above": above})


def nearest(name: str, names: Iterable[str]) -> str | None:
    """The entry of ``names`` most like ``name``, or None if none is alike; ``beta`` is like ``objective.beta``."""
    known = list(names)
    same_end = [entry for entry in known if entry.rpartition(".")[2] == name.lstrip("-")]
    return next(iter(same_end or difflib.get_close_matches(name, known, n=1, cutoff=0.5)), None)


def did_you_mean(name: str, names: Iterable[str], prefix: str = "") -> str:
    """``did you mean X?`` with the nearest of ``names``, or the list of them."""
    known = list(names)
    match = nearest(name, known)
    if match is not None:
        return f"did you mean {prefix}{match}?"
    return "use one of " + ", ".join(prefix + entry for entry in known)


def section_of(config_class: type) -> str:
    """Name by which a part of the configuration is addressed: ``ObjectiveConfig`` is ``objective``."""
    return config_class.__name__.removesuffix("Config").lower()


def rules_of(config_class: type) -> dict[str, Rule]:
    """The rule of every field of ``config_class`` that is no configuration itself."""
    hints = typing.get_type_hints(config_class)
    rules = {}
    for entry in _fields(config_class):
        if not is_dataclass(hints[entry.name]):
            rules[entry.name] = _rule(hints[entry.name], entry.metadata)
    return rules


def sections_of(config_class: type) -> dict[str, type]:
    """The fields of ``config_class`` that are configurations themselves, with their classes."""
    hints = typing.get_type_hints(config_class)
    return {f.name: hints[f.name] for f in _fields(config_class) if is_dataclass(hints[f.name])}


def _fields(config: Any) -> tuple[Field[Any], ...]:
    return fields(config)


def _rule(annotation: Any, metadata: Mapping[str, Any]) -> Rule:
    nullable, many, choices = False, False, ()
    if typing.get_origin(annotation) in (typing.Union, types.UnionType):
        (annotation,) = (part for part in typing.get_args(annotation) if part is not type(None))
        nullable = True
    if typing.get_origin(annotation) is tuple:
        annotation, many = typing.get_args(annotation)[0], True
    if typing.get_origin(annotation) is Literal:
        choices, annotation = typing.get_args(annotation), str
    bounds = {name: metadata.get(name) for name in ("low", "high", "above")}
    return Rule(base=annotation, nullable=nullable, many=many, choices=choices, **bounds)


def walk(config_class: type, prefix: str = "") -> Iterator[tuple[str, Field[Any], Rule]]:
    """Dotted path, field and rule of every leaf of a tree of configurations, in the order of declaration."""
    rules, sections = rules_of(config_class), sections_of(config_class)
    for entry in _fields(config_class):
        if entry.name in sections:
            yield from walk(sections[entry.name], f"{prefix}{entry.name}.")
        else:
            yield prefix + entry.name, entry, rules[entry.name]


def problem(path: str, expected: str, received: Any, fix: str) -> ValueError:
    """The one form of every configuration error."""
    return ValueError(f"{path}: expected {expected}, received {received!r}; {fix}")


def check_value(path: str, rule: Rule, value: Any, default: Any = MISSING) -> Any:
    """``value`` as the field stores it: whole numbers become floats where floats are meant, lists become tuples.

    Raises:
        ValueError: for a value of the wrong type, outside the bounds, or not among the choices.
    """
    if value is None and rule.nullable:
        return None
    if rule.many:
        if not isinstance(value, (list, tuple)):
            raise problem(path, rule.expectation(), value, "write it as a list")
        return tuple(_check_entry(path, rule, entry, default) for entry in value)
    return _check_entry(path, rule, value, default)


def _check_entry(path: str, rule: Rule, value: Any, default: Any) -> Any:
    if rule.base is float and isinstance(value, int) and not isinstance(value, bool):
        value = float(value)
    fix = "correct the value" if default is MISSING else f"correct the value (the default is {_plain_text(default)})"
    if not isinstance(value, rule.base) or (rule.base is int and isinstance(value, bool)):
        raise problem(path, rule.expectation(), value, fix)
    if rule.choices and value not in rule.choices:
        raise problem(path, rule.expectation(), value, did_you_mean(value, rule.choices))
    if rule.base in (int, float):
        inside = math.isfinite(value)
        inside &= rule.low is None or value >= rule.low
        inside &= rule.high is None or value <= rule.high
        inside &= rule.above is None or value > rule.above
        if not inside:
            raise problem(path, rule.expectation(), value, fix)
    return value


def check_fields(config: Any) -> None:
    """Check every field of a (frozen) configuration against its annotation and bounds; meant for ``__post_init__``.

    Raises:
        ValueError: naming the first field that is wrong.
    """
    section = section_of(type(config))
    prefix = "" if section == "run" else f"{section}."
    for name, rule in rules_of(type(config)).items():
        default = type(config).__dataclass_fields__[name].default
        object.__setattr__(config, name, check_value(prefix + name, rule, getattr(config, name), default))
    for name, kind in sections_of(type(config)).items():
        if not isinstance(getattr(config, name), kind):
            fix = "build it with that class, or the whole with from_dict"
            raise problem(prefix + name, f"an instance of {kind.__name__}", getattr(config, name), fix)


def parse_text(path: str, rule: Rule, text: str) -> Any:
    """The value that ``text`` (a YAML scalar, or a list in brackets or separated by commas) stands for.

    The field decides how the text is read: ``1e-4`` is a number for a number field, ``7`` a text for a text field.

    Raises:
        ValueError: for a text that the field does not accept.
    """
    text = text.strip()
    if rule.nullable and text.lower() in _NULL_TEXTS:
        return None
    if not rule.many:
        return check_value(path, rule, _parse_scalar(rule, text))
    inner = text.removeprefix("[").removesuffix("]").strip()
    entries = [entry.strip().strip("'\"") for entry in inner.split(",")] if inner else []
    return check_value(path, rule, [_parse_scalar(rule, entry) for entry in entries])


def _parse_scalar(rule: Rule, text: str) -> Any:
    if rule.base is bool:
        return {"true": True, "yes": True, "on": True, "false": False, "no": False, "off": False}.get(
            text.lower(), text
        )
    if rule.base in (int, float):
        try:
            return rule.base(text)
        except ValueError:
            return text
    return text


def build(config_class: type[ConfigT], values: Any, *, complete: bool = False, prefix: str = "") -> ConfigT:
    """A configuration from nested plain data.

    Args:
        config_class: the class to build.
        values: mapping from field names to values; texts are accepted for numbers (YAML reads ``1e-4`` as a text).
        complete: refuse data that leaves a field out; otherwise the field gets its default.
        prefix: dotted path of the mapping, for the errors.

    Raises:
        ValueError: for unknown keys (with the nearest valid one), missing keys, or values that are not accepted.
    """
    if not isinstance(values, Mapping):
        raise problem(prefix.rstrip(".") or "configuration", "a mapping of names to values", values, "see the presets")
    rules, sections = rules_of(config_class), sections_of(config_class)
    known = [*rules, *sections]
    for key in values:
        if key not in known:
            raise ValueError(f"unknown configuration key {prefix}{key}; {did_you_mean(str(key), known, prefix)}")
    missing = [prefix + name for name in known if name not in values]
    if complete and missing:
        raise ValueError(
            f"missing configuration keys: {', '.join(missing)}; a preset file states every field, see tiny.yaml"
        )
    arguments: dict[str, Any] = {}
    for key, value in values.items():
        if key in sections:
            arguments[key] = build(sections[key], value, complete=complete, prefix=f"{prefix}{key}.")
        elif isinstance(value, str):
            arguments[key] = parse_text(prefix + key, rules[key], value)
        else:
            arguments[key] = check_value(prefix + key, rules[key], value)
    return config_class(**arguments)


def plain(config: Any) -> dict[str, Any]:
    """Nested plain data (what JSON and YAML can hold) of a configuration; `build` is the inverse."""
    result: dict[str, Any] = {}
    for entry in _fields(config):
        value = getattr(config, entry.name)
        if is_dataclass(value):
            value = plain(value)
        result[entry.name] = list(value) if isinstance(value, tuple) else value
    return result


def look_up(values: Mapping[str, Any], path: str) -> Any:
    """The entry of nested plain data at a dotted path."""
    return functools.reduce(lambda inner, key: inner[key], path.split("."), values)


def _plain_text(value: Any) -> str:
    """A value as one would write it in YAML or on the command line."""
    if value is None:
        return "null"
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, (list, tuple)):
        return ",".join(map(str, value)) or "[]"
    return str(value)


def describe(entry: Field[Any], value: Any, label: str = "default") -> str:
    """One line on a field: what it is, its unit, and ``value`` under a label."""
    unit = f" [{entry.metadata['unit']}]" if entry.metadata.get("unit") else ""
    return f"{entry.metadata['doc']}{unit} ({label}: {_plain_text(value)})"


def add_field_arguments(
    parser: argparse.ArgumentParser, config_class: type, defaults: Mapping[str, Any], label: str = "default"
) -> None:
    """Add ``--section.field VALUE`` for every field of every section of ``config_class``.

    Args:
        parser: grown in place; abbreviated flags are refused from now on.
        config_class: a configuration whose sections are configurations.
        defaults: nested plain data, shown as the default of each field; it does not end up in the namespace.
        label: what ``--help`` calls these values.
    """
    parser.allow_abbrev = False
    groups = {
        name: parser.add_argument_group(f"{name} settings", (kind.__doc__ or "").splitlines()[0])
        for name, kind in sections_of(config_class).items()
    }
    for path, entry, rule in walk(config_class):
        section, dot, _ = path.partition(".")
        if dot:
            groups[section].add_argument(
                f"--{path}",
                dest=path,
                default=argparse.SUPPRESS,
                metavar=rule.metavar(),
                type=_checked_text(path, rule),
                help=describe(entry, look_up(defaults, path), label).replace("%", "%%"),
            )


def _checked_text(path: str, rule: Rule) -> Callable[[str], str]:
    """A function for argparse that refuses a text which the field does not accept, and returns it unchanged."""

    def check(text: str) -> str:
        try:
            parse_text(path, rule, text)
        except ValueError as error:
            raise argparse.ArgumentTypeError(str(error).removeprefix(f"{path}: ")) from error
        return text

    return check


def given_fields(arguments: argparse.Namespace, config_class: type) -> dict[str, str]:
    """Dotted path to text of the fields that stood on the command line."""
    given = vars(arguments)
    return {path: given[path] for path, _, _ in walk(config_class) if path in given and "." in path}


def suggest_nearest(parser: argparse.ArgumentParser) -> None:
    """Let ``parser.parse_args`` answer an unknown argument with the nearest known one."""

    def parse_args(args: Sequence[str] | None = None, namespace: Any = None) -> Any:
        parser.usage = parser.usage or _short_usage(parser)
        result, unknown = parser.parse_known_args(args, namespace)
        if unknown:
            flags = [flag for action in parser._actions for flag in action.option_strings]
            parser.error("; ".join(_refusal(word, flags) for word in _culprits(unknown)))
        return result

    parser.parse_args = parse_args  # type: ignore[method-assign, assignment]


def _short_usage(parser: argparse.ArgumentParser) -> str:
    """The usage line with one entry for all fields: in full it would bury the error below it."""
    formatter = parser._get_formatter()
    own = [action for action in parser._actions if "." not in action.dest]
    formatter.add_usage(None, own, parser._mutually_exclusive_groups, prefix="")
    return f"{formatter.format_help().strip()} [--SECTION.FIELD VALUE ...]".replace("%", "%%")


def _culprits(unknown: Sequence[str]) -> Sequence[str]:
    """The unknown flags; the plain words among the rest are mostly their values."""
    return [word for word in unknown if word.startswith("--")] or unknown


def _refusal(word: str, flags: Sequence[str]) -> str:
    name = word.split("=")[0]
    if not name.startswith("-"):
        return f"unexpected argument {name!r}; see --help"
    suggestion = did_you_mean(name, flags)
    return f"unknown argument {name}; " + (suggestion if suggestion.startswith("did") else "see --help")
