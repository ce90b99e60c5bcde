"""Settings of a run; free of torch.

schema     the settings of every section with bound, unit and documentation; plain data
loading    presets, overrides, and command lines
process    signals, and output that nobody reads any more
"""

from amvl_model.config.loading import (
    PRESET_FOLDER,
    changed_settings,
    command_line,
    load_preset,
    override,
    preset_names,
    refuse_noise_of_files,
    stored_config,
    usage_error,
    usage_errors,
)
from amvl_model.config.process import RunStopped, quiet_on_closed_pipe, signals, stop_now
from amvl_model.config.schema import (
    DataConfig,
    EvalConfig,
    ModelConfig,
    ObjectiveConfig,
    RunConfig,
    TrainConfig,
    config_paths,
)

__all__ = [
    "PRESET_FOLDER",
    "DataConfig",
    "EvalConfig",
    "ModelConfig",
    "ObjectiveConfig",
    "RunConfig",
    "RunStopped",
    "TrainConfig",
    "changed_settings",
    "command_line",
    "config_paths",
    "load_preset",
    "override",
    "preset_names",
    "quiet_on_closed_pipe",
    "refuse_noise_of_files",
    "signals",
    "stop_now",
    "stored_config",
    "usage_error",
    "usage_errors",
]
