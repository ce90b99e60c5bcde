"""Write a training set as a file of questions, whose images are read fast in random order (Parquet's are not).

python experiments/convert_training_set.py --source zebra-cot --path data/zebra-cot --out data/converted
python experiments/full_blink.py --preset qwen2.5-vl-7b --data.path data/converted --data.source zebra-cot.jsonl
"""

from __future__ import annotations

import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from amvl_model.config import command_line, usage_error


@dataclass(frozen=True)
class Options:
    """The command line."""

    source: Literal["visual-cot", "refocus", "cogcom", "zebra-cot"]  # the set
    out: Path  # folder of the new file and its images
    path: str | None = None  # local folder of the set; None: the Hugging Face hub, where it has Parquet files
    name: str | None = None  # name of the new file; None: the source
    limit: int | None = None  # at most this many questions (Zebra-CoT: of each subject)
    target: Literal["answer", "reasoning"] = "answer"  # training target
    stream: bool = False  # read from the hub while converting (cogcom, zebra-cot)


def main(arguments: list[str] | None = None) -> None:
    """Parse the command line, convert, and say what was skipped."""
    options = command_line(Options, arguments)

    from amvl_model.data.mixture import Skipped, readable
    from amvl_model.data.readers import training_sets
    from amvl_model.data.readers.question_files import write_questions

    load = getattr(training_sets, f"load_{options.source.replace('-', '_')}")
    streamed: dict[str, Any] = {"stream": True} if options.stream else {}
    if options.stream and options.source not in {"cogcom", "zebra-cot"}:
        usage_error(
            f"--stream: {options.source} keeps its images in archives; download and unpack them, and pass --path"
        )
    skipped: list[Skipped] = []
    try:
        questions = load(options.path, limit=options.limit, target=options.target, **streamed)
        written = write_questions(
            readable(options.source, questions, skipped), options.out, options.name or options.source
        )
    except (ValueError, OSError) as error:
        usage_error(error)
    print(f"{written}: {len(questions) - len(skipped)} questions, {len(skipped)} unreadable ones skipped")


if __name__ == "__main__":
    main()
