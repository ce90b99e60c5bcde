"""Execute the notebooks from empty kernels and store their outputs; run it when a notebook, a figure or a shipped result changed.

    python notebooks/execute.py                      # all six, in place; some five minutes on two cores
    python notebooks/execute.py 04 05                # those whose names begin so
    python notebooks/execute.py 04 --out /tmp/looked_at

Outputs that hold a path of this machine are refused. Exit status: 0 if all ran, 1 if one failed, 2 for a wrong name.
"""

from __future__ import annotations

import argparse
import json
import re
import sys
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

REPOSITORY = Path(__file__).resolve().parents[1]
NOTEBOOKS = REPOSITORY / "notebooks"
MACHINE_PATH = re.compile(r"(?:/(?:home|root|Users|work|tmp|usr|opt)/|site-packages)[\w./-]*")


def execute(source: Path, *, timeout: float = 600, progress: Callable[[str], None] | None = None) -> Any:
    """A notebook's cells run from an empty kernel in its own folder; returns it with new outputs and clean metadata.

    Args:
        source: the .ipynb; it is not changed.
        timeout: of one cell, seconds.
        progress: called with a line after every code cell.

    Raises:
        nbclient.exceptions.CellExecutionError: if a cell fails.
        TimeoutError: if a cell takes too long.
    """
    import nbformat
    from nbclient import NotebookClient

    book = nbformat.read(source, as_version=4)
    for cell in book.cells:
        if cell.cell_type == "code":
            cell.outputs, cell.execution_count = [], None
    book.metadata = {
        "kernelspec": {"display_name": "Python 3 (ipykernel)", "language": "python", "name": "python3"},
        "language_info": {"name": "python"},
    }
    began = time.perf_counter()

    def done(cell: Any, cell_index: int, **_: Any) -> None:
        if progress is not None:
            progress(f"cell {cell_index} after {time.perf_counter() - began:.0f} s")

    NotebookClient(
        book,
        timeout=timeout,
        kernel_name="python3",
        resources={"metadata": {"path": str(source.parent)}},
        record_timing=False,
        on_cell_executed=done,
    ).execute()
    book.metadata["language_info"] = {"name": "python"}
    return book


def machine_paths(book: Any) -> list[str]:
    """Paths of the machine in a notebook's outputs and metadata (images left out)."""
    texts = [json.dumps(book.metadata)]
    for cell in book.cells:
        for output in cell.get("outputs", ()):
            plain = {key: value for key, value in output.get("data", {}).items() if not key.startswith("image/")}
            texts.append(json.dumps([output.get("text"), plain, output.get("traceback")]))
    return sorted({path for text in texts for path in MACHINE_PATH.findall(text)})


def chosen(names: list[str]) -> list[Path]:
    """The notebooks whose file names begin with one of the names; all for none.

    Raises:
        FileNotFoundError: if a name fits no notebook.
    """
    all_of_them = sorted(NOTEBOOKS.glob("*.ipynb"))
    for name in names:
        if not any(path.name.startswith(name) for path in all_of_them):
            raise FileNotFoundError(
                f"no notebook begins with {name!r}; there are {', '.join(p.name for p in all_of_them)}"
            )
    return [path for path in all_of_them if not names or path.name.startswith(tuple(names))]


def main(arguments: list[str] | None = None) -> int:
    """Do what the command line says; returns the exit status."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("names", nargs="*", metavar="NAME", help="beginnings of file names (default: all)")
    parser.add_argument("--out", type=Path, help="folder for the executed notebooks (default: in place)")
    parser.add_argument("--timeout", type=float, default=600, metavar="S", help="of one cell, seconds (default: 600)")
    options = parser.parse_args(arguments)
    try:
        sources = chosen(options.names)
    except FileNotFoundError as error:
        print(f"execute_notebooks: {error}", file=sys.stderr)
        return 2
    import nbformat

    failed = 0
    for source in sources:
        began = time.perf_counter()
        try:
            book = execute(source, timeout=options.timeout, progress=partial(print, f"{source.name}:", flush=True))
        except Exception as error:  # a cell's own error of whatever kind; the other notebooks still run
            print(f"{source.name}: {type(error).__name__}: {error}", file=sys.stderr)
            failed += 1
            continue
        if paths := machine_paths(book):
            print(f"{source.name}: not stored, its outputs hold {', '.join(paths)}", file=sys.stderr)
            failed += 1
            continue
        target = (options.out or source.parent) / source.name
        target.parent.mkdir(parents=True, exist_ok=True)
        nbformat.write(book, target)
        size = target.stat().st_size / 1e6
        print(f"{source.name}: {time.perf_counter() - began:.0f} s, {size:.1f} MB", flush=True)
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
