"""A command-line argument for every field of a tree of configurations, and helpful refusals of unknown ones."""

from __future__ import annotations

import argparse
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from amvl_model.config_fields import Rule, describe, did_you_mean, look_up, parse_text, sections_of, walk


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
