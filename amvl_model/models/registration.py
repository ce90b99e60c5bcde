"""What transformers' Auto classes and its pipelines know of this package; imported with the first configuration."""

from __future__ import annotations

from transformers import AutoModel, AutoModelForImageTextToText, AutoModelForMultimodalLM, AutoProcessor

from amvl_model.data.processing import AMVLProcessor
from amvl_model.models.amvl import AMVLForConditionalGeneration
from amvl_model.models.configuration import AMVLConfig, PauseConfig
from amvl_model.models.pause import PauseForConditionalGeneration

_MODELS = {AMVLConfig: AMVLForConditionalGeneration, PauseConfig: PauseForConditionalGeneration}

for _config, _model in _MODELS.items():
    AutoModel.register(_config, _model)
    AutoModelForImageTextToText.register(_config, _model)
    AutoModelForMultimodalLM.register(_config, _model)
    AutoProcessor.register(_config, AMVLProcessor)
