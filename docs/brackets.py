"""Units in docstrings: "times[0] [steps]" is text, where Markdown would read a link to "steps"."""

from __future__ import annotations

from typing import Any

from griffe import Extension


class Brackets(Extension):
    """Keeps two pairs of brackets apart that Markdown would join."""

    def on_instance(self, *, obj: Any, **_: Any) -> None:
        """Change the text of a docstring once it is read."""
        if not obj.is_alias and obj.docstring:
            obj.docstring.value = obj.docstring.value.replace("] [", "]\N{WORD JOINER} [")
