"""VLMEvalKit's own inference and scoring, driven with our class on a miniature of BLINK.

    PYTHONPATH=REPOSITORY:CLONE python tests/vlmevalkit_run.py DIR PROMPT        with VLMEvalKit's packages installed

Writes DIR/BLINK.tsv (VLMEvalKit's table of synthetic questions with images in base64), answers it with tiny-amvl through
`infer_data_job`, and scores it through the data set's `evaluate` by exact matching. The kit imports the packages of all of its
models and benchmarks at once; those that are not installed here are replaced by empty modules and listed.
"""

from __future__ import annotations

import base64
import importlib
import importlib.abc
import importlib.machinery
import io
import json
import os
import sys
from pathlib import Path
from typing import Any
from unittest.mock import MagicMock

NAMES = ("A", "B", "C", "D")
PER_TASK = 2


class Absent(importlib.abc.MetaPathFinder, importlib.abc.Loader):
    """Empty modules for packages that are not installed."""

    def __init__(self) -> None:
        self.names: set[str] = set()

    def find_spec(self, name: str, path: Any = None, target: Any = None) -> Any:
        if name.split(".")[0] not in self.names:
            return None
        return importlib.machinery.ModuleSpec(name, self, is_package=True)

    def create_module(self, spec: Any) -> Any:
        module = MagicMock(name=spec.name)
        module.__path__, module.__spec__, module.__name__ = [], spec, spec.name
        return module

    def exec_module(self, module: Any) -> None:
        """Nothing to run."""

    def load(self, name: str) -> Any:
        """Import a module; every missing package on the way is added."""
        while True:
            try:
                return importlib.import_module(name)
            except ModuleNotFoundError as error:
                missing = str(error.name).split(".")[0]
                if missing in (*self.names, "vlmeval", "amvl_model"):
                    raise
                self.names.add(missing)


def questions() -> list[Any]:
    """Two synthetic questions of every task."""
    from amvl_model.data.schema import question_from_blink
    from amvl_model.data.synthetic import TASKS, synthetic_blink

    return [question_from_blink(synthetic_blink(task, "val", 0, i)) for task in TASKS for i in range(PER_TASK)]


def write_table(path: Path) -> None:
    """The questions in VLMEvalKit's columns."""
    import pandas as pd

    rows = []
    for number, question in enumerate(questions()):
        coded = []
        for image in question.images:
            buffer = io.BytesIO()
            image.save(buffer, format="PNG")
            coded.append(base64.b64encode(buffer.getvalue()).decode())
        row = {
            "index": number,
            "question": question.question,
            "answer": NAMES[question.answer],
            "category": question.task,
        }
        row |= dict(zip(NAMES, question.choices, strict=False))
        rows.append(row | {"image": coded[0] if len(coded) == 1 else str(coded)})
    pd.DataFrame(rows).to_csv(path, sep="\t", index=False)


def main(folder: Path, prompt: str) -> dict[str, Any]:
    """Both steps; returns what the caller compares."""
    os.environ.update(
        LMUData=str(folder),
        PRED_FORMAT="tsv",
        EVAL_FORMAT="csv",
        HF_HUB_OFFLINE="1",
        LITELLM_LOCAL_MODEL_COST_MAP="True",
    )
    write_table(folder / "BLINK.tsv")
    # transformers looks for torchvision once, and must not take an empty module for it
    for name in ("processing_auto", "image_processing_auto", "modeling_auto"):
        importlib.import_module(f"transformers.models.auto.{name}")
    importlib.import_module("amvl_model.models.loading")
    absent = Absent()
    sys.meta_path.append(absent)
    absent.load("vlmeval.vlm.base")
    inference = absent.load("vlmeval.inference")
    mcq = absent.load("vlmeval.dataset.image_mcq")
    from amvl_model.evaluation.vlmevalkit_plugin.__main__ import register

    register()
    import vlmeval.vlm

    class Local(mcq.ImageMCQDataset):  # type: ignore[misc]
        """BLINK from the table in the folder, whatever its checksum."""

        DATASET_MD5 = {}

    dataset = Local(dataset="BLINK")
    model = vlmeval.vlm.AMVL(pretrained="tiny-amvl", prompt=prompt, max_new_tokens=12, device="cpu")
    work = folder / prompt
    work.mkdir()
    inference.infer_data_job(model, work_dir=str(work), model_name="amvl", dataset=dataset)
    predictions = next(work.glob("amvl_BLINK.*"))
    scores = dataset.evaluate(str(predictions), model="exact_matching", nproc=1)
    result = {
        "absent": sorted(absent.names),
        "overall": float(scores["Overall"].iloc[0]),
        "predictions": str(predictions),
        "results": str(next(work.glob("*exact_matching_result.[tx]*"))),
    }
    print("RESULT " + json.dumps(result))
    return result


if __name__ == "__main__":
    main(Path(sys.argv[1]).resolve(), sys.argv[2])
