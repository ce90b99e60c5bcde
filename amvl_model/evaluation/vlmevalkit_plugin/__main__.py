"""VLMEvalKit's run.py, unchanged, with the class AMVL among its models."""

from __future__ import annotations

import runpy
import sys
from pathlib import Path


def register() -> None:
    """Add `AMVL` to the classes that a VLMEvalKit configuration may name."""
    import vlmeval.vlm

    from amvl_model.evaluation.vlmevalkit_plugin.model import AMVL

    vlmeval.vlm.AMVL = AMVL


def main(arguments: list[str]) -> None:
    """Run the script that the first argument names with the others as its command line."""
    if not arguments or not Path(arguments[0]).is_file():
        raise SystemExit(
            "usage: python -m amvl_model.evaluation.vlmevalkit_plugin PATH/run.py --config FILE ...\n"
            "PATH is a clone of VLMEvalKit"
        )
    sys.path.insert(0, str(Path(arguments[0]).resolve().parent))
    register()
    sys.argv = arguments
    runpy.run_path(arguments[0], run_name="__main__")


if __name__ == "__main__":
    main(sys.argv[1:])
