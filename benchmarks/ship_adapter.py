# Copyright 2026 The TokMat authors. Licensed under the Apache License, Version 2.0.
"""An adapter of a converted model as one of its source, which plain transformers and PEFT load; in bfloat16.

    python benchmarks/ship_adapter.py without-loops HuggingFaceTB/SmolLM2-135M-Instruct FOLDER

A conversion keeps the source's network, under another name: the tensors are the same. Files that the target folder
holds already, such as its card, stay.
"""

import argparse
import json
import re
from pathlib import Path

import torch
from peft import PeftConfig
from safetensors.torch import load_file, save_file
from transformers import MODEL_FOR_CAUSAL_LM_MAPPING

from trainer.checkpoints import load_config, save_whole


def ship_adapter(adapter: Path, source: str, folder: Path) -> None:
    """
    Args:
        adapter: folder of a LoRA adapter of a converted model, which it says where to find.
        source: the name by which others load what was converted.
    """
    settings = json.loads((adapter / "adapter_config.json").read_text(encoding="utf-8"))
    converted = load_config(PeftConfig.from_pretrained(adapter).base_model_name_or_path)
    prefix = MODEL_FOR_CAUSAL_LM_MAPPING[type(converted.get_text_config())].base_model_prefix
    tensors = {
        name.replace(".backbone.", f".{prefix}.", 1): tensor.to(torch.bfloat16).contiguous()
        for name, tensor in load_file(adapter / "adapter_model.safetensors").items()
    }
    settings |= {"base_model_name_or_path": source, "auto_mapping": None, "task_type": "CAUSAL_LM"}
    targets = settings["target_modules"]
    if isinstance(targets, str):  # a pattern
        settings["target_modules"] = re.sub(r"^backbone\b", prefix, targets)
    else:
        settings["target_modules"] = sorted(re.sub(r"^backbone\.", f"{prefix}.", name) for name in targets)

    def save(temporary):
        save_file(tensors, Path(temporary) / "adapter_model.safetensors", metadata={"format": "pt"})
        text = json.dumps(settings, indent=2, sort_keys=True) + "\n"
        (Path(temporary) / "adapter_config.json").write_text(text, encoding="utf-8")

    save_whole(save, folder)
    size = sum(tensor.nbytes for tensor in tensors.values())
    print(f"{folder}: {len(tensors)} tensors, {size / 1e6:.1f} MB")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("adapter", type=Path, help="folder of a PEFT adapter of a converted model")
    parser.add_argument("source", help="name of the model that was converted")
    parser.add_argument("folder", type=Path, help="where it goes")
    arguments = parser.parse_args()
    ship_adapter(arguments.adapter, arguments.source, arguments.folder)
