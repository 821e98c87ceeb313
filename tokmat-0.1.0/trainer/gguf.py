# Copyright 2026 The TokMat authors. Licensed under the Apache License, Version 2.0.
"""A causal language model and its tokenizer from a GGUF file, as an ordinary float32 model of transformers."""

from pathlib import Path

import torch
from tokenizers import Tokenizer, pre_tokenizers
from transformers import AutoModelForCausalLM, AutoTokenizer, PreTrainedModel, PreTrainedTokenizerBase

MAGIC = b"GGUF"


def load_gguf(path: str | Path) -> tuple[PreTrainedModel, PreTrainedTokenizerBase]:
    """The model in a GGUF file, its weights dequantised to float32, and its tokenizer with the chat template.

    The mark that transformers leaves on models from GGUF files is taken off, so that `save_pretrained` works.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: it is no GGUF file, it is damaged, its architecture is none that transformers reads, or the package
            `gguf` is missing.
    """
    path = Path(path).expanduser()
    if not path.is_file():
        raise FileNotFoundError(f"there is no file {path}")
    with path.open("rb") as file:
        if file.read(len(MAGIC)) != MAGIC:
            raise ValueError(f"{path} is no GGUF file: it does not begin with the bytes {MAGIC.decode()}")
    try:
        from gguf import GGUFReader
    except ImportError as error:
        raise ValueError(f"reading {path} needs the package gguf: pip install tokmat[gguf]") from error
    try:
        fields = GGUFReader(path).fields
    except Exception as error:  # numpy's and struct's errors at whatever place the file ends
        raise ValueError(f"{path} is damaged: {error}") from error
    try:
        model = AutoModelForCausalLM.from_pretrained(path.parent, gguf_file=path.name, dtype=torch.float32)
        tokenizer = AutoTokenizer.from_pretrained(path.parent, gguf_file=path.name)
    except (ValueError, KeyError, NotImplementedError) as error:
        architecture = fields["general.architecture"].contents() if "general.architecture" in fields else None
        raise ValueError(f"transformers cannot read {path}, architecture {architecture!r}: {error}") from error
    if hasattr(model.config, "quantization_config"):
        del model.config.quantization_config
    vars(model).update(is_quantized=False, hf_quantizer=None)
    if "tokenizer.ggml.pre" in fields and fields["tokenizer.ggml.pre"].contents() == "smollm":
        _split_digits(tokenizer.backend_tokenizer)
    return model.eval(), tokenizer


def _split_digits(tokenizer: Tokenizer) -> None:
    """SmolLM's pre-tokenizer takes every digit apart first, so that spaces before one stay together; transformers
    reads all byte-level ones in GGUF files as GPT-2's."""
    digits = pre_tokenizers.Digits(individual_digits=True)
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence([digits, tokenizer.pre_tokenizer])
