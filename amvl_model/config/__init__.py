"""Settings of a run; free of torch.

schema     the fields of every section with bound, unit and documentation; presets and overrides
loading    checked fields, plain data, and a command-line argument for every field
"""

from amvl_model.config.schema import (
    DataConfig,
    EvalConfig,
    ModelConfig,
    ObjectiveConfig,
    RunConfig,
    TrainConfig,
    load_preset,
    override,
    preset_names,
)

__all__ = [
    "DataConfig",
    "EvalConfig",
    "ModelConfig",
    "ObjectiveConfig",
    "RunConfig",
    "TrainConfig",
    "load_preset",
    "override",
    "preset_names",
]
