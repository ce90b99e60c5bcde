"""Figures and sliders in a notebook."""

from __future__ import annotations

import io
from collections.abc import Callable
from typing import Any

from matplotlib.figure import Figure

import amvl_style

DPI = 80


def styled() -> Any:
    """Context in which figures have the shared style, with text and lines of a size for the screen."""
    return amvl_style.styled(1.33)


def png(figure: Figure) -> bytes:
    """The figure as PNG; the same figure gives the same bytes."""
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=DPI, metadata={"Software": None})
    return buffer.getvalue()


def show(*things: Figure | bytes | str) -> None:
    """Display figures and PNG files as images and texts as they are, one under the other."""
    from IPython.display import Image, display

    for thing in things:
        if isinstance(thing, str):
            print(thing)
        else:
            display(Image(png(thing) if isinstance(thing, Figure) else thing))


def slider(description: str, value: float, low: float, high: float, *, log: bool = False) -> Any:
    """A slider whose figure is redrawn when it is released; with ``log`` low and high are decades."""
    from ipywidgets import FloatLogSlider, FloatSlider, Layout

    shared: dict[str, Any] = {
        "value": value,
        "min": low,
        "max": high,
        "description": description,
        "continuous_update": False,
        "layout": Layout(width="30em"),
        "style": {"description_width": "12em"},
    }
    if log:
        return FloatLogSlider(step=0.05, readout_format=".3g", **shared)
    return FloatSlider(step=(high - low) / 50, **shared)


def counter(description: str, size: int) -> Any:
    """A slider over the whole numbers from 1 to ``size``.

    Raises:
        ValueError: if there is nothing to choose from.
    """
    from ipywidgets import IntSlider, Layout

    if size < 1:
        raise ValueError(f"expected at least one {description} to choose from, got {size}")
    return IntSlider(
        value=1,
        min=1,
        max=size,
        description=description,
        continuous_update=False,
        layout=Layout(width="30em"),
        style={"description_width": "12em"},
    )


def panel(draw: Callable[..., Figure | str], **controls: Any) -> Any:
    """Sliders above the figure that ``draw`` makes of their values, drawn again whenever one of them moves.

    Args:
        draw: takes the controls' values by name.
        controls: widgets by name.
    """
    from ipywidgets import VBox, interactive_output

    image = interactive_output(lambda **values: show(draw(**values)), controls)
    return VBox([*controls.values(), image])
