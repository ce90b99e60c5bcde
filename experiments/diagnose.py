"""`amvl diagnose`: what the latents of checkpoints leak, carry, and do."""

from __future__ import annotations

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from amvl_model.commands.diagnose import main

if __name__ == "__main__":
    sys.exit(main())
