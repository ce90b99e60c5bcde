"""Files that try to run code when they are read: each plants one, and reads it as users do. A marker file would show it."""

from __future__ import annotations

import contextlib
import io
import json
import os
import pickle
import shutil
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from amvl_model.config import load_preset
from amvl_model.data.images import read_image
from amvl_model.data.processing import AMVLProcessor
from amvl_model.models.checkpoints import write_manifest
from amvl_model.models.checkpoints.pickles import foreign_code
from amvl_model.models.loading import ASSETS, load_checkpoint
from amvl_model.training.monitoring import guard
from tests.faults.interruptions import Reference, forked, status_of, train
from tests.faults.outcomes import Kind

Attempt = Callable[[Path, Path, Reference], Callable[[], Any]]
"""Plants into a folder a file that would write a marker, and gives what reads it."""


class Payload:
    """Writes the marker when it is unpickled."""

    def __init__(self, marker: Path) -> None:
        self.marker = marker

    def __reduce__(self) -> Any:
        return os.system, (f"touch {self.marker}",)


def _python(marker: Path) -> str:
    return f"open({str(marker)!r}, 'w')\nraise SystemExit(0)\n"


def _state(name: str) -> Attempt:
    """A pickled file of a run's checkpoint, with a manifest that fits."""

    def attempt(folder: Path, marker: Path, reference: Reference) -> Callable[[], Any]:
        shutil.copytree(reference.folder, folder / "run")
        shutil.rmtree(folder / "run/checkpoint")
        last = max((folder / "run").glob("checkpoint-*"), key=lambda path: int(path.name.rpartition("-")[2]))
        for path in (folder / "run").glob("checkpoint-*"):
            torch.save({"state": Payload(marker)}, path / name)
            write_manifest(path)
        assert last.is_dir()
        return lambda: status_of(forked(lambda: train(folder / "run"), folder / "run.txt"))

    return attempt


def _model(change: Callable[[Path, Path], None]) -> Attempt:
    """A model folder with a change; loaded as a checkpoint, and its processor alone."""

    def attempt(folder: Path, marker: Path, reference: Reference) -> Callable[[], Any]:
        shutil.copytree(ASSETS / "tiny-base", folder / "model")
        change(folder / "model", marker)

        def load() -> None:
            for read in (load_checkpoint, AMVLProcessor.from_pretrained):
                with contextlib.suppress(ValueError, OSError):
                    read(folder / "model")

        return load

    return attempt


def _edit(folder: Path, name: str, **values: Any) -> None:
    (folder / name).write_text(json.dumps({**json.loads((folder / name).read_text()), **values}))


def _pickled_weights(folder: Path, marker: Path) -> None:
    (folder / "model.safetensors").unlink()
    torch.save({"a": Payload(marker)}, folder / "pytorch_model.bin")


def _index(folder: Path, marker: Path) -> None:
    _pickled_weights(folder, marker)
    index = {"metadata": {}, "weight_map": {"a": "pytorch_model.bin"}}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))


def _auto_map(name: str, auto: str, **values: Any) -> Callable[[Path, Path], None]:
    def change(folder: Path, marker: Path) -> None:
        (folder / "custom.py").write_text(_python(marker))
        _edit(folder, name, auto_map={auto: "custom.Custom"}, **values)

    return change


def _tokenizer(folder: Path, marker: Path) -> None:
    (folder / "custom.py").write_text(_python(marker))
    entry = {"AutoTokenizer": ["custom.Custom", "custom.Custom"]}
    _edit(folder, "tokenizer_config.json", auto_map=entry, tokenizer_class="Custom")


def _generation(folder: Path, marker: Path) -> None:
    (folder / "custom_generate").mkdir()
    (folder / "custom_generate/generate.py").write_text(_python(marker))


def _adapter(folder: Path, marker: Path) -> None:
    (folder / "adapter_config.json").write_text(
        json.dumps({"peft_type": "LORA", "base_model_name_or_path": str(folder)})
    )
    torch.save({"a": Payload(marker)}, folder / "adapter_model.bin")


def _template(folder: Path, marker: Path) -> None:
    call = "{{ cycler.__init__.__globals__.os.system('touch " + str(marker) + "') }}"
    (folder / "chat_template.jinja").write_text(call)


def _redirected(folder: Path, marker: Path) -> None:
    torch.save({"a": Payload(marker)}, folder / "other.bin")
    _edit(folder, "config.json", transformers_weights="other.bin")


def _template_used(folder: Path, marker: Path, reference: Reference) -> Callable[[], Any]:
    shutil.copytree(ASSETS / "tiny-base", folder / "model")
    _template(folder / "model", marker)
    from amvl_model.data.synthetic import synthetic_question

    return lambda: AMVLProcessor.from_pretrained(folder / "model")([synthetic_question("Counting", index=0)])


def _sharded(folder: Path, marker: Path, reference: Reference) -> Callable[[], Any]:
    (folder / "optimizer_0").mkdir(parents=True)
    (folder / "optimizer_0/.metadata").write_bytes(pickle.dumps(Payload(marker)))
    return lambda: foreign_code(folder)


def _sharded_entry(folder: Path, marker: Path, reference: Reference) -> Callable[[], Any]:
    import torch.distributed.checkpoint as dcp

    with contextlib.redirect_stderr(io.StringIO()):
        dcp.save({"a": torch.zeros(2), "b": Payload(marker)}, checkpoint_id=folder / "optimizer_0")
    return lambda: foreign_code(folder)


def _stored_step(folder: Path, marker: Path, reference: Reference) -> Callable[[], Any]:
    folder.mkdir()
    torch.save({"step": Payload(marker), "batches": [], "weights": {}}, folder / "nonfinite-step-1.pt")
    return lambda: guard.replay(folder / "nonfinite-step-1.pt")


def _postscript(folder: Path, marker: Path, reference: Reference) -> Callable[[], Any]:
    folder.mkdir()
    text = f"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n({marker}) (w) file closefile\nshowpage\n"
    (folder / "a.png").write_text(text)
    return lambda: read_image(folder / "a.png", "a.png")


def _pipe(folder: Path, marker: Path, reference: Reference) -> Callable[[], Any]:
    folder.mkdir()
    os.mkfifo(folder / "a.png")
    return lambda: read_image(folder / "a.png", "a.png")


def _yaml(folder: Path, marker: Path, reference: Reference) -> Callable[[], Any]:
    folder.mkdir()
    (folder / "a.yaml").write_text(f"train: !!python/object/apply:os.system ['touch {marker}']\n")
    return lambda: load_preset(folder / "a.yaml")


def _zip_slip(folder: Path, marker: Path, reference: Reference) -> Callable[[], Any]:
    folder.mkdir()
    with zipfile.ZipFile(folder / "nonfinite-step-1.pt", "w") as archive:
        archive.writestr("archive/data.pkl", pickle.dumps(Payload(marker), protocol=2))
        archive.writestr(f"../{marker.name}", "x")
    return lambda: guard.replay(folder / "nonfinite-step-1.pt")


ATTEMPTS: dict[str, Attempt] = {
    **{
        f"pickle in {name}": _state(name)
        for name in ("optimizer.pt", "scheduler.pt", "rng_state.pth", "training_args.bin")
    },
    "weights as pickle": _model(_pickled_weights),
    "index of pickles": _model(_index),
    "another weight file": _model(_redirected),
    "code of a model": _model(_auto_map("config.json", "AutoModelForImageTextToText")),
    "code of an unknown model": _model(_auto_map("config.json", "AutoConfig", model_type="unknown_kind")),
    "code of a tokenizer": _model(_tokenizer),
    "code of an image processor": _model(_auto_map("preprocessor_config.json", "AutoImageProcessor")),
    "code of generation": _model(_generation),
    "an adapter": _model(_adapter),
    "chat template": _template_used,
    "index of a sharded checkpoint": _sharded,
    "entry of a sharded checkpoint": _sharded_entry,
    "stored step": _stored_step,
    "stored step as an archive": _zip_slip,
    "PostScript as an image": _postscript,
    "pipe as an image": _pipe,
    "YAML": _yaml,
}


def try_to_run_code(name: str, folder: Path, reference: Reference, kind: Kind) -> None:
    """Read one planted file; whatever error it gives, the marker must not be there afterwards."""
    marker = folder.parent / f"marker-{len(kind.counts)}-{folder.name}"
    read = ATTEMPTS[name](folder, marker, reference)
    outcome = "refused"
    with contextlib.redirect_stderr(io.StringIO()), contextlib.redirect_stdout(io.StringIO()):
        try:
            read()
            outcome = "same"
        except (ValueError, OSError):
            pass
        except SystemExit:
            outcome = "executed"
        except Exception as error:
            kind.add("unclear", f"{name}: {type(error).__name__}: {str(error)[:200]}")
            outcome = ""
    if marker.exists():
        outcome = "executed"
    if outcome:
        kind.add(outcome, name)
