"""`amvl train`: train, evaluate and explain AMVL beside SFT, prior-sample training, forward-only and the ELBO."""

from __future__ import annotations

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from amvl_model.commands.train import main

if __name__ == "__main__":
    sys.exit(main())
