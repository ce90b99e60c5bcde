"""The entry point that lmms-eval loads whenever it starts; it must stay cheap to import."""

from __future__ import annotations

from typing import Any

MODEL_NAME = "amvl"
_MODULE = "amvl_model.evaluation.lmms_eval_plugin.model"


def manifest() -> Any:
    """lmms-eval's registration record of the model ``amvl`` (a ``ModelManifest``).

    Raises:
        ModuleNotFoundError: without lmms-eval.
    """
    from lmms_eval.models.registry_v2 import ModelManifest

    return ModelManifest(
        model_id=MODEL_NAME, simple_class_path=f"{_MODULE}.AMVLSimple", chat_class_path=f"{_MODULE}.AMVLChat"
    )
