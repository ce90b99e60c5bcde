"""Write a training set as a file of questions, whose pictures are read fast in random order (Parquet's are not).

python experiments/convert_training_set.py --source zebra-cot --path data/zebra-cot --out data/converted
python experiments/full_blink.py --preset qwen2.5-vl-7b --data.path data/converted --data.source zebra-cot.jsonl
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

SOURCES = ("visual-cot", "refocus", "cogcom", "zebra-cot")


def main(arguments: list[str] | None = None) -> None:
    """Parse the command line, convert, and say what was skipped."""
    page = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    page.add_argument("--source", required=True, choices=SOURCES)
    page.add_argument(
        "--path", help="local folder of the set; default: the Hugging Face hub, where it has Parquet files"
    )
    page.add_argument("--out", type=Path, required=True, help="folder of the new file and its pictures")
    page.add_argument("--name", help="name of the new file; default: the source")
    page.add_argument("--limit", type=int, help="at most so many questions (Zebra-CoT: of each subject)")
    page.add_argument("--target", choices=("answer", "reasoning"), default="answer", help="what is trained on")
    page.add_argument("--stream", action="store_true", help="read from the hub while converting (cogcom, zebra-cot)")
    options = page.parse_args(arguments)

    from amvl_model.data.mixture import Skipped, readable
    from amvl_model.data.readers import training_sets
    from amvl_model.data.readers.question_files import write_questions

    load = getattr(training_sets, f"load_{options.source.replace('-', '_')}")
    streamed: dict[str, Any] = {"stream": True} if options.stream else {}
    if options.stream and options.source not in {"cogcom", "zebra-cot"}:
        page.error(
            f"--stream: {options.source} keeps its pictures in archives; download and unpack them, and give --path"
        )
    skipped: list[Skipped] = []
    try:
        questions = load(options.path, limit=options.limit, target=options.target, **streamed)
        written = write_questions(
            readable(options.source, questions, skipped), options.out, options.name or options.source
        )
    except (ValueError, OSError) as error:
        page.error(str(error))
    print(f"{written}: {len(questions) - len(skipped)} questions, {len(skipped)} unreadable ones skipped")


if __name__ == "__main__":
    main()
