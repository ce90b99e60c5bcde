"""lmms-eval's own BLINK tasks on a local folder: only where the questions are read from is replaced.

    python -m amvl_model.evaluation.lmms_eval_plugin.local_tasks data/blink tasks
    lmms-eval --model amvl --model_args pretrained=DIR --include_path tasks --tasks blink_local

The file defines a group of lmms-eval's registered tasks ``blink_...``, each with the data set's keys replaced. So prompt,
images, parser and score stay lmms-eval's. (The name ``blink`` itself stays with the hub: lmms-eval prefers its own files.)
``--prompt blink`` leaves out the note that lmms-eval puts before BLINK's prompt, for a checkpoint that never saw it.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any, Literal

from amvl_model.data.readers.blink import BLINK_ID
from amvl_model.data.readers.files import data_folder, find_shards

GROUP = "blink_local"
Prompt = Literal["lmms-eval", "blink"]


def task_name(sub_task: str) -> str:
    """lmms-eval's name of a BLINK task: ``Multi-view_Reasoning -> blink_multi_view_reasoning``."""
    return "blink_" + sub_task.lower().replace("-", "_")


def write_local_blink_tasks(
    folder: str | Path, out: str | Path, *, split: str = "val", prompt: Prompt = "lmms-eval"
) -> Path:
    """Write ``blink_local.yaml``, the group ``blink_local`` with the tasks that a local folder holds.

    Args:
        folder: BLINK as on the hub, one sub-folder of Parquet files for each task.
        out: folder for the file, made if needed; give it to lmms-eval's ``--include_path``.
        split: first part of the Parquet files' names.
        prompt: "lmms-eval", with its note "You only need to respond with A, B ...", or "blink", BLINK's prompt alone.

    Returns:
        the file.

    Raises:
        FileNotFoundError: if the folder does not exist or contains no such Parquet file, or a shard is missing.
    """
    import yaml

    layout = f"<Task>/{split}-00000-of-00001.parquet"
    source = data_folder(Path(folder).resolve(), hub_id=BLINK_ID, patterns=[layout], layout=layout)
    names = sorted({name.rpartition("/")[0] for name in source.names(f"*/{split}-*.parquet")})
    if not names:
        raise FileNotFoundError(
            f"{folder}: expected files {layout}, found none; pass the folder that holds Counting/ and so on"
        )
    bare: dict[str, Any] = {"lmms_eval_specific_kwargs": {"default": {"pre_prompt": "", "post_prompt": ""}}}
    tasks: list[dict[str, Any]] = []
    for name in names:
        shards = [str(source.path(shard)) for shard in find_shards(source, name, split)]
        tasks.append(
            {
                "task": task_name(name),
                "dataset_path": "parquet",
                "dataset_name": None,
                "test_split": split,
                "dataset_kwargs": {"data_files": {split: shards}},
                **(bare if prompt == "blink" else {}),
            }
        )
    target = Path(out) / f"{GROUP}.yaml"
    target.parent.mkdir(parents=True, exist_ok=True)
    group = {"group": GROUP, "task": tasks, "aggregate_metric_list": [{"metric": "blink_acc"}]}
    target.write_text(yaml.safe_dump(group, sort_keys=False), encoding="utf-8")
    return target


def main(arguments: list[str] | None = None) -> None:
    """Parse the command line and write the file."""
    page = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    page.add_argument("folder", help="local copy of BLINK")
    page.add_argument("out", help=f"folder for {GROUP}.yaml")
    page.add_argument("--split", default="val", help="first part of the Parquet files' names (default: val)")
    page.add_argument("--prompt", default="lmms-eval", choices=("lmms-eval", "blink"), help="default: lmms-eval's own")
    options = page.parse_args(arguments)
    try:
        print(write_local_blink_tasks(options.folder, options.out, split=options.split, prompt=options.prompt))
    except (OSError, ValueError) as error:
        page.error(str(error))


if __name__ == "__main__":
    main()
