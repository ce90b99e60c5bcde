"""A miniature of BLINK for lmms-eval, to be run without a network.

python tests/lmms_eval_miniature.py DIR        writes DIR/blink, DIR/tasks, DIR/plain and DIR/hub

blink   the 14 tasks, 2 to 4 synthetic questions each, in the files and columns of BLINK on the hub
tasks   lmms-eval's own BLINK tasks on that folder (``--include_path tasks --tasks blink_local``)
plain   the same without lmms-eval's note before the prompt
hub     a cache of the datasets library that holds it as BLINK-Benchmark/BLINK (needs datasets), so that ``--tasks blink``
        itself runs with LMMS_EVAL_DATASETS_CACHE=DIR/hub and HF_HUB_OFFLINE=1
"""

from __future__ import annotations

import shutil
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from amvl_model.data.readers.blink import export_blink_parquet
from amvl_model.data.synthetic import TASKS, synthetic_blink
from amvl_model.evaluation.lmms_eval_plugin.local_tasks import write_local_blink_tasks

_REVISION = "0" * 40


def blink(folder: Path) -> Path:
    """BLINK's folder; the tasks differ in size, so the mean over tasks is not the mean over questions."""
    sizes = {task: 2 + i % 3 for i, task in enumerate(TASKS)}
    records = [synthetic_blink(task, "val", 0, i) for task, size in sizes.items() for i in range(size)]
    export_blink_parquet(records, folder)
    return folder


def hub(folder: Path, source: Path) -> Path:
    """What the datasets library keeps once BLINK has been downloaded."""
    from datasets.packaged_modules.parquet.parquet import Parquet

    for task in sorted(source.iterdir()):
        files = {"val": [str(path) for path in sorted(task.glob("val-*.parquet"))]}
        builder = Parquet(
            cache_dir=str(folder), dataset_name="BLINK", config_name=task.name, hash=_REVISION, data_files=files
        )
        builder.download_and_prepare()
        target = folder / "BLINK-Benchmark___blink" / task.name / "0.0.0" / _REVISION
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.move(builder.cache_dir, target)
    return folder


def everything(folder: Path) -> Path:
    """All four folders."""
    source = blink(folder / "blink")
    write_local_blink_tasks(source, folder / "tasks")
    write_local_blink_tasks(source, folder / "plain", prompt="blink")
    hub(folder / "hub", source)
    return folder


if __name__ == "__main__":
    print(everything(Path(sys.argv[1]).resolve()))
