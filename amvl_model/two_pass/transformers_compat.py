"""The supported versions of transformers, the argument they name differently, and guards against the next renaming.

The backbone's ``forward`` methods accept any keyword (``**kwargs``) and ignore those they do not know, so after a renaming a
pass would run without its cache or its images, and return other numbers without an error. Therefore the backbone is called
through `call_backbone`, and every pass checks that it saw the prefix (see passes.py and attention.py).
"""

from __future__ import annotations

import importlib.metadata
import inspect
from collections.abc import Callable, Iterable
from functools import lru_cache
from typing import Any

OLDEST, UNSUPPORTED = "5.17", "5.25"
"""The oldest supported version, and the first that is not supported: the bounds in pyproject.toml."""
INSTALL_PEFT = "pip install peft"
"""What messages say where LoRA is wanted and peft is missing."""


def release(version: str) -> tuple[int, ...]:
    """The leading numbers of a version: "5.24.0.dev0" -> (5, 24, 0)."""
    numbers = []
    for part in version.split("+")[0].split("."):
        if not part.isdigit():
            break
        numbers.append(int(part))
    return tuple(numbers)


def installed_version() -> str:
    """The installed version of transformers, "none" without one."""
    try:
        return importlib.metadata.version("transformers")
    except importlib.metadata.PackageNotFoundError:
        return "none"


CACHE = "past_key_values" if release(installed_version()) < (5, 24) else "cache"
"""Keyword of the cache, in the backbone, its layers, their outputs and `generate`."""


def check_version() -> None:
    """Raise ImportError unless the installed version is supported."""
    version = installed_version()
    if not release(OLDEST) <= release(version) < release(UNSUPPORTED):
        raise ImportError(
            f"expected transformers >={OLDEST},<{UNSUPPORTED}, got {version}; run "
            f"pip install 'transformers>={OLDEST},<{UNSUPPORTED}'"
        )


def incompatible(problem: str) -> RuntimeError:
    """The error for a pass in which transformers did something else than this package expects."""
    return RuntimeError(
        f"{problem}. Supported is transformers >={OLDEST},<{UNSUPPORTED}, installed is {installed_version()}; install a "
        "supported version, and remove other wrappers (gradient checkpointing, cache) from the decoder layers"
    )


def call_backbone(target: Any, **inputs: Any) -> Any:
    """``target(**inputs)`` of a module or a method, after `check_arguments`."""
    check_arguments(target, inputs)
    return target(**inputs)


def check_arguments(target: Any, names: Iterable[str]) -> None:
    """Check that a module or a method has parameters of these names.

    Raises:
        RuntimeError: if it lacks one, and would ignore it.
    """
    function = getattr(target, "__func__", None) or type(target).forward
    unknown = set(names) - _parameters(function)
    if unknown:
        raise incompatible(f"{function.__qualname__} has no parameter {', '.join(sorted(unknown))}")


@lru_cache(maxsize=32)
def _parameters(function: Callable[..., Any]) -> frozenset[str]:
    return frozenset(inspect.signature(function).parameters)
