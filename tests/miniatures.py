"""Miniatures of the benchmarks and training sets, in exactly the files and columns that they have on the hub.

    python tests/miniatures.py DIR        writes all of them, a few images each, to look at or to try the readers on

The images are blocks of colour and the questions are about nothing: they show formats, not tasks.
"""

from __future__ import annotations

import base64
import csv
import io
import json
import sys
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

VSTAR_ENDING = "Answer with the option's letter from the given choices directly."
ZEBRA_SUBJECTS = ("2D Visual Reasoning - Visual Search", "Scientific Reasoning - Geometry")
PUZZLE_CATEGORIES = ("algorithmic", "analogical", "deductive", "inductive", "spatial")


def random_image(seed: int, width: int = 24, height: int = 16) -> Image.Image:
    """Coloured blocks."""
    small = np.random.default_rng(seed).integers(0, 256, (2, 3, 3), dtype=np.uint8)
    return Image.fromarray(small).resize((width, height), Image.Resampling.NEAREST)


def encoded(seed: int, form: str = "PNG") -> bytes:
    """An image's bytes."""
    buffer = io.BytesIO()
    random_image(seed).save(buffer, format=form)
    return buffer.getvalue()


def cell(seed: int, name: str = "x.png") -> dict[str, Any]:
    """An image as the datasets library stores it."""
    return {"bytes": encoded(seed), "path": name}


def _save(path: Path, seed: int) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    random_image(seed).save(path)


def _parquet(path: Path, rows: list[dict[str, Any]], images: tuple[str, ...], lists: tuple[str, ...] = ()) -> Path:
    """Rows as Parquet with the datasets library's image structures."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    kinds: dict[str, Any] = {}
    for name, value in rows[0].items():
        kinds[name] = pa.int64() if isinstance(value, int) else pa.string()
        if name in images:
            kinds[name] = pa.struct([("bytes", pa.binary()), ("path", pa.string())])
        if name in lists:
            kinds[name] = pa.list_(pa.string())
    path.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(pa.Table.from_pylist(rows, schema=pa.schema(list(kinds.items()))), path, row_group_size=3)
    return path


def vstar(folder: Path) -> Path:
    """craigwu/vstar_bench: two questions on attributes (four options), two on positions (two options)."""
    records = []
    for number in range(4):
        position = number >= 2
        category = "relative_position" if position else "direct_attributes"
        image = f"{category}/sa_{100 + number}.jpg"
        _save(folder / image, number)
        texts = ("The cup is on the left of the hat.", "The cup is on the right of the hat.")
        options = texts if position else ("rubber", "cotton", "kevlar (fibre)", "leather")
        lines = "\n".join(f"({'ABCD'[i]}) {text}" for i, text in enumerate(options))
        question = "Is the cup on the left or right side of the hat?" if position else "What is the glove made of?"
        records.append(
            {
                "image": image,
                "text": f"{question} \n{lines}\n{VSTAR_ENDING}",
                "category": category,
                "label": "AB"[number % 2] if position else "CA"[number % 2],
                "question_id": str(number % 2),
            }
        )
    (folder / "test_questions.jsonl").write_text("".join(json.dumps(record) + "\n" for record in records))
    return folder


def hrbench_rows(questions: int = 2) -> list[dict[str, Any]]:
    """Each question in four cycles, the options turned by one place each time."""
    rows = []
    for number in range(questions):
        texts = [f"{number}-{word}" for word in ("red", "green", "blue", "grey")]
        for cycle in range(4):
            turned = texts[cycle:] + texts[:cycle]
            rows.append(
                {
                    "index": len(rows),
                    "question": "What colour is the sign?",
                    "answer": "ABCD"[turned.index(texts[1])],
                    "category": "single" if number % 2 == 0 else "cross",
                    **dict(zip("ABCD", turned, strict=True)),
                    "cycle_category": str(cycle),
                    "image": base64.b64encode(encoded(number, "JPEG")).decode(),
                }
            )
    return rows


def hrbench(folder: Path, size: str = "4k", form: str = "parquet", questions: int = 2) -> Path:
    """DreamMr/HR-Bench: hr_bench_4k.parquet, or the .tsv that VLMEvalKit reads."""
    folder.mkdir(parents=True, exist_ok=True)
    rows = hrbench_rows(questions)
    if form == "parquet":
        _parquet(folder / f"hr_bench_{size}.parquet", rows, ())
    else:
        with (folder / f"hr_bench_{size}.tsv").open("w", newline="") as file:
            writer = csv.DictWriter(file, fieldnames=list(rows[0]), delimiter="\t")
            writer.writeheader()
            writer.writerows(rows)
    return folder


def visual_puzzles(folder: Path, name: str = "data/train-00000-of-00001.parquet") -> Path:
    """neulab/VisualPuzzles: one question a category, the options of every other one drawn in the image."""
    rows = [
        {
            "id": 1 + number,
            "image": cell(number),
            "question": f"Which figure of <image1> comes next in puzzle {number}?",
            "options": None if number % 2 else ["32", "35", "37", "40"],
            "answer": "ABCD"[number % 4],
            "category": category,
        }
        for number, category in enumerate(PUZZLE_CATEGORIES)
    ]
    _parquet(folder / name, rows, ("image",), ("options",))
    return folder


def visual_cot(folder: Path, form: str = "json") -> Path:
    """deepcs233/Visual-CoT: viscot_363k.json with its conversations, or the metadata's JSON lines."""
    plain = []
    for number, (name, answer) in enumerate([("gqa", "window"), ("docvqa", "12 May"), ("textcap", "A red bus.")]):
        stored = "textvqa" if name == "textcap" else name
        _save(folder / "cot" / stored / f"{number}.jpg", number)
        plain.append(
            {
                "question": f"What is shown in picture {number}?",
                "answer": answer,
                "image": f"{number}.jpg",
                "dataset": name,
                "split": "train",
                "width": 24,
                "height": 16,
                "bboxs": [[1, 2, 10, 12]],
            }
        )
    if form == "jsonl":
        for record in plain:
            path = folder / "metadata" / f"{record['dataset']}_cot_train.jsonl"
            path.parent.mkdir(exist_ok=True)
            path.write_text(json.dumps(record) + "\n")
        return folder
    request = " Please provide the bounding box coordinate of the region that can help you answer the question better."
    records = []
    for number, record in enumerate(plain):
        path = f"cot/{'textvqa' if record['dataset'] == 'textcap' else record['dataset']}/{record['image']}"
        records.append(
            {
                "dataset": record["dataset"],
                "split": "train",
                "question_id": number,
                "image": [path, f"{path}###[1, 2, 10, 12]"],
                "conversations": [
                    {"from": "human", "value": f"<image>\n{record['question']}{request}"},
                    {"from": "gpt", "value": "[0.042, 0.125, 0.417, 0.750]"},
                    {"from": "human", "value": "<image>"},
                    {"from": "gpt", "value": record["answer"]},
                ],
            }
        )
    (folder / "viscot_363k.json").write_text(json.dumps(records, indent=4))
    return folder


def refocus(folder: Path) -> Path:
    """ReFocus/ReFocus_Data: chartqa_vcot/train.jsonl and charts."""
    records = []
    for number, source in enumerate(("chartqa_h_bar", "chartqa_v_bar")):
        chart = f"ChartQA/ChartQA Dataset/train/png/chart{number}.png"
        _save(folder / chart, number)
        turns = [{"response": "I look  at the bar of 2020.", "images": [chart]}, {"response": "the bar ends at 5."}]
        records.append(
            {
                "id": f"train-{number}",
                "conversations": turns[: 2 - number],
                "focus_areas": [[1, 2, 3, 4]] if number == 0 else [],
                "query": f"What is the value of bar {number}?",
                "answer": "5" if number == 0 else ["Yes", "No"],
                "source": source,
                "x_values_bbox": {"2020": {"x1": 1, "y1": 2, "x2": 3, "y2": 4}},
                "y_values_bbox": {},
                "figure_bbox": {"x1": 0, "y1": 0, "x2": 24, "y2": 16},
            }
        )
    path = folder / "chartqa_vcot" / "train.jsonl"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(record) + "\n" for record in records))
    return folder


def manipulations() -> dict[str, Any]:
    """A tree whose first branch fails and whose second one reaches the answer in two steps."""
    common = {"param": "", "onbox": [], "return": "", "func": None}
    return {
        "-1,0--0,0": {**common, "desc": "A false start.", "variables": {}, "found": False},
        "-1,0--0,1": {
            **common,
            "func": "GROUNDING",
            "desc": "Find the sign `bbx_1`.",
            "variables": {"bbx_1": [1, 2, 3, 4]},
            "found": False,
        },
        "0,1--1,0": {
            **common,
            "func": "OCR",
            "desc": "In `bbx_1` it says `txt_1`.",
            "variables": {"txt_1": "STOP"},
            "found": True,
        },
    }


def cogcom(folder: Path, form: str = "parquet") -> Path:
    """qijimrc/CoMDataset: data/com.parquet, or com.jsonl with one question ("flat") or one image ("grouped") a line."""
    records = [
        {
            "pid": number,
            "image_path": f"textvqa/{number}.jpg",
            "question": f"What does sign {number} say?",
            "answer": "STOP",
            "com_founds": ["1,0"],
            "final_com": manipulations(),
        }
        for number in range(4)
    ]
    if form == "parquet":
        rows = [
            {**r, "decoded_image": cell(i), "question": [r["question"]], "final_com": json.dumps(r["final_com"])}
            for i, r in enumerate(records)
        ]
        _parquet(folder / "data" / "com.parquet", rows, ("decoded_image",), ("question", "com_founds"))
        return folder
    for record in records:
        _save(folder / str(record["image_path"]), int(str(record["pid"])))
    lines = records
    if form == "grouped":
        inner = [{k: v for k, v in r.items() if k not in {"pid", "image_path"}} for r in records[:2]]
        lines = [{"image_path": records[0]["image_path"], "metadata": inner}]
    (folder / "com.jsonl").write_text("".join(json.dumps(record) + "\n" for record in lines))
    return folder


def zebra_cot(folder: Path) -> Path:
    """multimodal-reasoning-lab/Zebra-CoT: two subjects, one of them with two shards and a problem without an image."""
    mark = "<image_start>[{}]<image_end>"
    trace = f"THOUGHT 0: I look at the picture.\n\n{mark.format('reasoning_image_1')}\n\nTHOUGHT 1: The hat is red."
    rows = [
        {
            "Question": f"Where is thing {number}? {mark.format('problem_image_1')}"
            if number
            else "What is on the table?",
            "Text Reasoning Trace": trace,
            "Final Answer": f"place {number}",
            "problem_image_1": cell(number),
            "reasoning_image_1": cell(10 + number),
        }
        for number in range(4)
    ]
    search = folder / ZEBRA_SUBJECTS[0]
    _parquet(search / "train-00000-of-00001.parquet", rows, ("problem_image_1", "reasoning_image_1"))
    geometry = folder / ZEBRA_SUBJECTS[1]
    images = ("problem_image_1", "problem_image_2", "reasoning_image_1")
    two = [{**row, "problem_image_2": cell(20 + i)} for i, row in enumerate(rows)]
    two[0] = {**two[0], "Question": "Add 1 and 2.", "problem_image_1": None, "problem_image_2": None}
    two[1]["Question"] = f"Compare {mark.format('problem_image_2')} with {mark.format('problem_image_1')}."
    for shard in range(2):
        _parquet(geometry / f"train-{shard:05d}-of-00002.parquet", two[2 * shard : 2 * shard + 2], images)
    return folder


def main() -> None:
    """Write every miniature into a folder of its own."""
    target = Path(sys.argv[1])
    for make in (vstar, hrbench, visual_puzzles, visual_cot, refocus, cogcom, zebra_cot):
        print(make(target / make.__name__.replace("_", "-")))


if __name__ == "__main__":
    main()
