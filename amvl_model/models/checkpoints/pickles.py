"""Whether a sharded checkpoint can be read without running code that it contains.

torch.distributed.checkpoint unpickles the index ``.metadata``, and the entries of ``*.distcp`` that are no tensors; a pickle can
call anything that it names. Here the index is unpickled with the classes that PyTorch itself writes and no others, and the
entries with ``weights_only=True``. All other files of a checkpoint are read so anyway.
"""

from __future__ import annotations

import io
import pickle
from pathlib import Path
from typing import Any, Final

import torch

_CHECKPOINT: Final = "torch.distributed.checkpoint"
_ALLOWED: Final = {
    f"{_CHECKPOINT}.metadata": {
        "Metadata", "StorageMeta", "MetadataIndex", "BytesStorageMetadata", "TensorStorageMetadata",
        "ChunkStorageMetadata", "TensorProperties", "_MEM_FORMAT_ENCODING",
    },
    f"{_CHECKPOINT}.filesystem": {"_StorageInfo"},
    "torch": {"Size", *(name for name in dir(torch) if isinstance(getattr(torch, name), torch.dtype))},
    "torch.serialization": {"_get_layout"},
    "collections": {"OrderedDict"},
    "pathlib": {"Path", "PosixPath"},
}  # fmt: skip


class _Index(pickle.Unpickler):
    def find_class(self, module: str, name: str) -> Any:
        if name not in _ALLOWED.get(module, ()):
            raise pickle.UnpicklingError(f"names {module}.{name}")
        return super().find_class(module, name)


def foreign_code(checkpoint: Path) -> str:
    """What a sharded checkpoint would run beside PyTorch's own classes, or why that is not known; empty if nothing."""
    for index in sorted(checkpoint.rglob(".metadata")):
        place = index.relative_to(checkpoint)
        try:
            with index.open("rb") as file:
                metadata = _Index(file).load()
            entries = [
                (index.parent / stored.relative_path, stored.offset, stored.length)
                for key, stored in metadata.storage_data.items()
                if type(metadata.state_dict_metadata[key.fqn]).__name__ == "BytesStorageMetadata"
            ]
            for path, offset, length in entries:
                if path.parent != index.parent:
                    return f"{place} names {path}, which lies outside its folder"
                with path.open("rb") as file:
                    file.seek(offset)
                    torch.load(io.BytesIO(file.read(length)), weights_only=True)
        except Exception as error:  # a damaged pickle raises nearly everything
            reason = str(error).strip().splitlines() or [type(error).__name__]
            return f"{place} is not an index of PyTorch's own classes ({reason[0]}); it is not read"
    return ""
