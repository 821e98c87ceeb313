# Copyright 2026 The TokMat authors. Licensed under the Apache License, Version 2.0.
"""What LoRA adapts in a TokMat model when it is not told: the attention of the backbone, as PEFT does elsewhere."""

from peft.utils.constants import TRANSFORMERS_MODELS_TO_LORA_TARGET_MODULES_MAPPING

from modeling_tokmat import TokMatConfig

# By their place too: what TokMat added, `maturity_embedding` above all, has linear layers that are none of LoRA's.
TARGETS = r"(.*\.)?backbone\..*\.(c_attn|q_proj|v_proj|qkv_proj|query_key_value|Wqkv)"

TRANSFORMERS_MODELS_TO_LORA_TARGET_MODULES_MAPPING.setdefault(TokMatConfig.model_type, TARGETS)
