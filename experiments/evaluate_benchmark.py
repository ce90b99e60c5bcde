"""`amvl evaluate`: evaluate a checkpoint on a benchmark."""

from __future__ import annotations

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from amvl_model.commands.evaluate import main

if __name__ == "__main__":
    sys.exit(main())
