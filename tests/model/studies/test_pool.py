"""Workers of a study end with the process that started them; the study then says how to go on."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from amvl_model.config import RunStopped
from amvl_model.studies import runner
from experiments import ablations

PARENT = """
import os, time
from amvl_model.studies.pool import worker_pool
if __name__ == "__main__":
    with worker_pool(1) as pool:
        print(pool.submit(os.getpid).result(), flush=True)
        pool.submit(time.sleep, 600).result()
"""


def is_running(process: int) -> bool:
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    stat = Path(f"/proc/{process}/stat")
    return not stat.exists() or stat.read_text().rpartition(")")[2].split()[0] != "Z"


@pytest.mark.parametrize(
    ("number", "status"), [(signal.SIGTERM, 143), (signal.SIGINT, 130), (signal.SIGKILL, -signal.SIGKILL)]
)
def test_no_worker_outlives_its_parent(tmp_path: Path, number: signal.Signals, status: int) -> None:
    script = tmp_path / "parent.py"
    script.write_text(PARENT)
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[3])}
    with subprocess.Popen([sys.executable, script], env=environment, stdout=subprocess.PIPE, text=True) as parent:
        assert parent.stdout is not None
        worker = int(parent.stdout.readline())
        assert is_running(worker)
        parent.send_signal(number)
        assert parent.wait(60) == status
    end = time.monotonic() + 60
    while is_running(worker) and time.monotonic() < end:
        time.sleep(0.1)
    assert not is_running(worker)


def test_a_study_that_is_stopped_names_the_command_that_goes_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def stopped(*_: Any, **__: Any) -> None:
        signal.raise_signal(signal.SIGTERM)

    command = ["experiments/ablations.py", "stability", "--out", f"{tmp_path}/my results"]
    monkeypatch.setattr(sys, "argv", command)
    monkeypatch.setattr(runner, "run_study", stopped)
    with pytest.raises(RunStopped) as error:
        ablations.main()
    assert error.value.code == 143
    assert f"python experiments/ablations.py stability --out '{tmp_path}/my results'" in capsys.readouterr().err
