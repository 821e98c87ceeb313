# Copyright 2026 The TokMat authors. Licensed under the Apache License, Version 2.0.
"""What a saved model must hold: transformers draws what it misses at random, and goes on without settings."""

import json
import os

from transformers.utils import cached_file

from .checks_tokmat import require
from .configuration_tokmat import TokMatConfig

# Tensors that are made anew where the configuration that is loaded with has another value of a field than the saved.
OF_FIELDS = {"tail_adapters.": "tail_adapter_rank", "successor.": "successor_head", "token_counts": "negatives"}
WEIGHTS = ("model.safetensors.index.json", "model.safetensors", "pytorch_model.bin")
HUB_ARGUMENTS = ("cache_dir", "force_download", "local_files_only", "token", "revision", "subfolder")


def require_settings(name, arguments: dict) -> None:
    """Raise a `ValueError` if the saved generation_config.json of `name` is there, but damaged.

    Args:
        name: a folder or a Hub name. arguments: of `from_pretrained`.
    """
    if name is None or arguments.get("generation_config") is not None:
        return
    quiet = {"_raise_exceptions_for_missing_entries": False, "_raise_exceptions_for_connection_errors": False}
    path = cached_file(name, "generation_config.json", **quiet, **hub_arguments(arguments))
    if path is not None:
        try:
            with open(path, encoding="utf-8") as file:
                json.load(file)
        except ValueError as error:
            raise ValueError(f"{path} is damaged ({error}): without it the saved settings would be lost.") from error


def require_whole(model, name, missing: set[str], arguments: dict) -> None:
    """Raise a `ValueError` that names the file and the tensors that it lacks.

    Args:
        name: what was loaded, a folder or a Hub name, or None for a state dict. missing: tensors that were not there.
        arguments: of `from_pretrained`.
    """
    if missing and name is not None:
        saved, _ = TokMatConfig.get_config_dict(name, **hub_arguments(arguments))
        for prefix, field in OF_FIELDS.items():
            if getattr(model.config, field) != saved.get(field, getattr(TokMatConfig, field)):
                missing = {tensor for tensor in missing if not tensor.startswith(prefix)}
    found = [file for file in WEIGHTS if name is not None and os.path.isfile(os.path.join(name, file))]
    file = os.path.join(name, (found or WEIGHTS[1:])[0]) if name is not None else "the state dict"
    shown = ", ".join(sorted(missing)[:3]) + (f" and {len(missing) - 3} more" if len(missing) > 3 else "")
    allowed = "whole (or loaded with `initialise_missing=True`, which draws what is missing)"
    require(not missing, file, f"without {shown}", allowed)


def hub_arguments(arguments: dict) -> dict:
    """Those of the arguments of `from_pretrained` that say where files are."""
    return {name: arguments[name] for name in HUB_ARGUMENTS if arguments.get(name) is not None}
