"""Every test runs offline, on the CPU, with one torch thread and without drawing windows."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from hypothesis import settings

REPOSITORY = Path(__file__).resolve().parents[1]

# Before anything imports a library that reads them.
os.environ.update(
    HF_HUB_OFFLINE="1",
    TRANSFORMERS_OFFLINE="1",
    HF_DATASETS_OFFLINE="1",
    HF_HUB_DISABLE_TELEMETRY="1",
    TOKENIZERS_PARALLELISM="false",
    MPLBACKEND="Agg",
)


if (
    signal.getsignal(signal.SIGINT) is signal.SIG_IGN
):  # a shell in the background has it ignored, and runs leave that so
    signal.signal(signal.SIGINT, signal.default_int_handler)


# The same examples on every machine and in every run; new ones: pytest --hypothesis-profile=random
settings.register_profile("fixed", derandomize=True, deadline=None)
settings.register_profile("random", deadline=None, print_blob=True)
settings.load_profile("fixed")


@pytest.fixture(autouse=True)
def one_torch_thread() -> Iterator[None]:
    """Workers of pytest-xdist share the cores; torch is imported by the tests that need it, never by this file."""
    torch = sys.modules.get("torch")
    if torch is not None:
        torch.set_num_threads(1)
    yield


@pytest.fixture
def python() -> Callable[..., subprocess.CompletedProcess[str]]:
    """Run a fresh interpreter in the repository: what an import costs cannot be seen in a process that has paid it."""

    def run(*arguments: str, timeout: float = 60) -> subprocess.CompletedProcess[str]:
        environment = {**os.environ, "PYTHONPATH": str(REPOSITORY)}
        return subprocess.run(
            [sys.executable, *arguments],
            cwd=REPOSITORY,
            env=environment,
            capture_output=True,
            text=True,
            timeout=timeout,
            check=False,
        )

    return run


@pytest.fixture
def empty(tmp_path: Path) -> Path:
    """A folder of results without any."""
    folder = tmp_path / "results"
    folder.mkdir()
    return folder
