"""A script of twelve lines trains on chat messages; a fresh process loads the checkpoint with the Auto classes and answers."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
from transformers import ProcessorMixin

from amvl_model.data.processing import AMVLProcessor

SCRIPT = Path(__file__).with_name("chat_script.py")
REPOSITORY = Path(__file__).resolve().parents[3]

ANSWER = """
import amvl_model
from PIL import Image
from transformers import AutoModelForImageTextToText, AutoProcessor
model, processor = AutoModelForImageTextToText.from_pretrained("out"), AutoProcessor.from_pretrained("out")
content = [{"type": "image", "image": Image.new("RGB", (56, 56), "red")}, {"type": "text", "text": "Which colour?"}]
messages = [{"role": "user", "content": content}]
inputs = processor.apply_chat_template(
    messages, add_generation_prompt=True, tokenize=True, return_dict=True, return_tensors="pt"
)
print(type(model).__name__, repr(processor.batch_decode(model.generate(**inputs, max_new_tokens=4))))
"""


def run(folder: Path, *arguments: str) -> str:
    environment = {**os.environ, "PYTHONPATH": str(REPOSITORY), "OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""}
    done = subprocess.run(
        [sys.executable, *arguments],
        cwd=folder,
        env=environment,
        capture_output=True,
        text=True,
        timeout=280,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    return done.stdout


@pytest.mark.timeout(600)
@pytest.mark.skipif(not issubclass(AMVLProcessor, ProcessorMixin), reason="AutoProcessor returns a plain tokenizer")
def test_twelve_lines_train_on_chat_messages_and_a_fresh_process_answers(tmp_path: Path) -> None:
    pytest.importorskip("datasets")
    assert len([line for line in SCRIPT.read_text().splitlines() if line.strip()]) <= 12
    page = (REPOSITORY / "docs" / "howto" / "transformers.md").read_text()
    assert f"```python\n{SCRIPT.read_text()}```" in page  # the documentation shows this script
    run(tmp_path, str(SCRIPT))
    assert {"config.json", "model.safetensors", "README.md", "tokenizer.json"} <= {
        file.name for file in (tmp_path / "out").iterdir()
    }
    assert "AMVLForConditionalGeneration ['" in run(tmp_path, "-c", ANSWER)
