# Copyright 2026 The TokMat authors. Licensed under the Apache License, Version 2.0.
"""What is known to train well: presets of backbones, defaults of new models and of training, and the demo."""

from typing import Any

import torch

_LLAMA = {"model_type": "llama", "max_position_embeddings": 1024}
_GPT2 = {"model_type": "gpt2", "resid_pdrop": 0.0, "embd_pdrop": 0.0, "attn_pdrop": 0.0}
PRESETS = {
    "tiny": _LLAMA | {"hidden_size": 64, "intermediate_size": 176, "num_hidden_layers": 2, "num_attention_heads": 4},
    "small": _LLAMA | {"hidden_size": 256, "intermediate_size": 688, "num_hidden_layers": 6, "num_attention_heads": 4},
    "gpt2": _GPT2,
    "gpt2-medium": _GPT2 | {"n_embd": 1024, "n_layer": 24, "n_head": 16},
}
# Where a new model departs from TokMatConfig: the exact contrastive term with a small regression weight trains best,
# and the radius is sqrt(hidden_size), because with the mean row norm of a fresh table the regression term, which is
# divided by its square, would start 500 times too large.
SCRATCH = {"negatives": "all", "regression_weight": 0.1}
# What makes a tail know what comes next (docs/LOOKAHEAD.md).
LOOK_AHEAD = {
    "maturation": "rollout",
    "rollout_passes": 1,
    "parallel_tails": 40,
    "parallel_slots": 3,
    "tail_weight_floor": 0.5,
    "film_scope": "tail",
    "min_tail_length": 8,
    "max_tail_length": 8,
}
# What trains a tail beside a frozen source, `--train tail` (docs/LOOKAHEAD.md).
SOURCE_TAIL = LOOK_AHEAD | {
    "train": "tail",
    "tail_adapter_rank": 16,
    "successor_head": True,
    "parallel_tails": 40,
    "parallel_slots": 4,
    "rollout_jump": 2,
    "regression_weight": 0.3,
}
SCRATCH_HELP = {name: repr(value) for name, value in SCRATCH.items()} | {"embedding_radius": "sqrt(hidden_size)"}

TRAINING_DEFAULTS = {
    "output_dir": "tokmat-model",
    "learning_rate": 1e-3,
    "warmup_steps": 0.03,
    "lr_scheduler_type": "cosine",
    "weight_decay": 0.1,
    "adam_beta2": 0.95,
    "per_device_train_batch_size": 16,
    "per_device_eval_batch_size": 16,
    "logging_steps": 20,
    "logging_nan_inf_filter": False,  # it reads every loss; training stops at such a loss anyway
    "save_steps": 200,
    "eval_steps": 200,
    "save_total_limit": 2,
    "seed": 0,
    "report_to": "none",
    "dataloader_pin_memory": torch.cuda.is_available(),
}

# The demo: what the model in the box is asked, and how it is fine-tuned on the built-in corpus.
STORY_PROMPTS = (
    "Once upon a time, there was a little girl named Lily who",
    "One day, a dog and a cat found a big red box.",
    "Tom was sad because",
)
STORY_NEW_TOKENS = 120
PAGE_NEW_TOKENS = 60
DEMO: dict[str, Any] = {
    "train": "all",  # what it writes, without tails: they draft as they did, and what is wrong is not committed
    "parallel_tails": 0,
    "maturation": "simulated",
    "clean_probability": 1.0,
    "regression_weight": 0.0,
    "block_size": 256,
    "per_device_train_batch_size": 8,
    "learning_rate": 5e-4,
    "context_negatives": 3.0,
    "context_ngram": 2,
    "validation_fraction": 0.0,
    "save_steps": 50,
    "logging_steps": 10,
}
DEMO_STEPS_PER_MINUTE = 50
DEMO_PROMPTS = ("This function returns", "If the argument is", "The module provides")
DEMO_NEW_TOKENS = 60
