# Copyright 2026 The TokMat authors. Licensed under the Apache License, Version 2.0.
"""`tokmat generate`: continue prompts with a trained model."""

import sys
from dataclasses import dataclass
from typing import Literal

from transformers import TextStreamer
from transformers.generation.streamers import BaseStreamer
from transformers.utils import logging

from ..arguments import OneLineParser, argument, given_settings, maturation_flags
from ..checkpoints import load_model, load_tokenizer, tokmat_config
from ..models import machine_device
from ..streamers import MaturationStreamer


@dataclass
class GenerateArguments:
    _argument_group_name = "generation"

    max_new_tokens: int = argument("length of a continuation, in tokens", 100)
    num_return_sequences: int = argument("continuations per prompt, which differ in noise", 1)
    dtype: Literal["auto", "float32", "bfloat16", "float16"] = argument(
        "of the weights; auto: as they were saved", "auto"
    )


def run(arguments: list[str]) -> int:
    parser = OneLineParser(
        [GenerateArguments, maturation_flags()],
        prog="tokmat generate",
        usage='tokmat generate MODEL "PROMPT" ["PROMPT" ...] [options]',
        description="Continue prompts with a TokMat model. Several prompts make one batch.",
    )
    # Not a field: HfArgumentParser's flags for bool take an optional value, here the prompt that follows.
    parser.add_argument("--watch", action="store_true", help="show the liquid tail as it matures (on a terminal)")
    parser.add_argument("model", help="folder or Hub name")
    parser.add_argument("prompts", nargs="*", help="texts to continue; none, or an empty one: write from nothing")
    values = parser.parse(arguments)
    options, settings = parser.parse_dict(values, allow_extra_keys=True)
    given = given_settings(settings)
    for name in ("max_new_tokens", "num_return_sequences"):
        if values[name] < 1:
            raise ValueError(f"`{name}` is {values[name]}, but it must be at least 1")

    for prompt in values["prompts"]:
        if any("\ud800" <= character <= "\udfff" for character in prompt):  # how Python passes on bytes that are none
            raise ValueError(f"the prompt {ascii(prompt)} is not UTF-8 text")
    config = tokmat_config(values["model"])
    tokenizer = load_tokenizer(values["model"])
    rows = [tokenizer(prompt)["input_ids"] or [tokenizer.bos_token_id] for prompt in values["prompts"] or [""]]
    if [None] in rows:
        raise ValueError("an empty prompt needs a tokenizer with a bos token, which this one has not")
    longest, limit = max(map(len, rows)), config.max_position_embeddings
    if limit is not None and longest + options.max_new_tokens > limit + 1:
        raise ValueError(
            f"a prompt of {longest} tokens and {options.max_new_tokens} new ones are too many for the model's "
            f"{limit} positions"
        )
    if tokenizer.pad_token_id is None:
        tokenizer.pad_token = tokenizer.eos_token
    if not sys.stderr.isatty():
        logging.disable_progress_bar()  # of loading the weights
    model = load_model(values["model"], dtype=options.dtype).eval()
    model.to(machine_device())
    inputs = tokenizer.pad({"input_ids": rows}, padding_side="left", return_tensors="pt").to(model.device)

    single = len(rows) * options.num_return_sequences == 1
    streamer: BaseStreamer | None = None
    if values["watch"]:
        streamer = MaturationStreamer(tokenizer)
    elif single:
        streamer = TextStreamer(tokenizer, skip_special_tokens=True, clean_up_tokenization_spaces=False)
    given |= {"output_maturation": False, "max_new_tokens": options.max_new_tokens}
    given |= {"num_return_sequences": options.num_return_sequences}
    ids = model.generate(**inputs, **given, streamer=streamer)
    if streamer is None:
        texts = tokenizer.batch_decode(ids, skip_special_tokens=True, clean_up_tokenization_spaces=False)
        print("\n".join(f"[{row}] {text}" for row, text in enumerate(texts)), flush=True)
    return 0
