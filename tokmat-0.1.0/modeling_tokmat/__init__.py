# Copyright 2026 The TokMat authors. Licensed under the Apache License, Version 2.0.
"""Token Maturation for transformers. Importing this package registers TokMat with the Auto classes."""

from importlib.metadata import version

from transformers import AutoConfig, AutoModel, AutoModelForCausalLM

from .configuration_tokmat import TokMatConfig
from .generation_tokmat import TokMatGenerateOutput
from .modeling_tokmat import TokMatForContinuousLM, TokMatOutput, TokMatPreTrainedModel
from .settings_tokmat import MaturationSettings
from .tail_tokmat import TailState
from .trace_tokmat import MaturationStep

AutoConfig.register("tokmat", TokMatConfig, exist_ok=True)
AutoModel.register(TokMatConfig, TokMatForContinuousLM, exist_ok=True)
AutoModelForCausalLM.register(TokMatConfig, TokMatForContinuousLM, exist_ok=True)

__all__ = [
    "MaturationSettings",
    "MaturationStep",
    "TailState",
    "TokMatConfig",
    "TokMatForContinuousLM",
    "TokMatGenerateOutput",
    "TokMatOutput",
    "TokMatPreTrainedModel",
]


def __getattr__(name):
    # Only on demand: the package also runs where its distribution is not installed.
    if name == "__version__":
        return version("tokmat")
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
