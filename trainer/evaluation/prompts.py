# Copyright 2026 The TokMat authors. Licensed under the Apache License, Version 2.0.
"""Prompts from held-out text, with the human continuation of each."""

import random
from dataclasses import dataclass

import torch


@dataclass
class Prompts:
    """Prompts (n, prompt_tokens), the first of them bos, and how people went on, (n, new_tokens)."""

    ids: torch.Tensor
    human: torch.Tensor


def _rows(documents, tokenizer):
    """The ids of each document, bos first."""
    bos = tokenizer.eos_token_id if tokenizer.bos_token_id is None else tokenizer.bos_token_id
    for text in documents["text"]:
        yield [bos, *tokenizer(text, add_special_tokens=False, verbose=False)["input_ids"]]


def held_out_prompts(documents, tokenizer, count: int, prompt_tokens: int, new_tokens: int, seed: int = 0) -> Prompts:
    """The beginnings of documents that are long enough, drawn without repetition, the same for the same `seed`.

    Raises:
        ValueError: fewer than `count` documents are long enough.
    """
    length = prompt_tokens + new_tokens
    rows = [ids[:length] for ids in _rows(documents, tokenizer) if len(ids) >= length]
    if len(rows) < count:
        raise ValueError(f"--prompts {count}: only {len(rows)} held-out documents have {length} tokens or more")
    ids = torch.tensor(random.Random(seed).sample(rows, count))
    return Prompts(ids[:, :prompt_tokens], ids[:, prompt_tokens:])


def windows(
    documents, tokenizer, count: int, prompt_tokens: int, new_tokens: int, seed: int = 0
) -> tuple[Prompts, int]:
    """`count` prompts from all places of the documents, and how many tokens apart the windows that they open start.

    The windows of a document, prompt and human continuation, do not overlap where that gives enough of them; otherwise
    they start as far apart as does, but never nearer than a prompt is long: no token is in two prompts. Documents are
    shuffled and their windows stay together, so that two halves of the rows share one document at most.

    Raises:
        ValueError: there are fewer windows.
    """
    length = prompt_tokens + new_tokens
    texts = [ids for ids in _rows(documents, tokenizer) if len(ids) >= length]
    draw = random.Random(seed)
    draw.shuffle(texts)

    def starts(stride):
        return [(ids, start) for ids in texts for start in range(0, len(ids) - length + 1, stride)]

    for stride in range(length, prompt_tokens - 1, -1):
        places = starts(stride)
        if len(places) >= count:
            break
    else:
        raise ValueError(
            f"--mauve-continuations {count}: the held-out documents have only {len(places)} windows of {length} "
            f"tokens that start {prompt_tokens} tokens apart; give more text, or 0 to leave MAUVE out"
        )
    chosen = sorted(draw.sample(range(len(places)), count))
    ids = torch.tensor([text[start : start + length] for text, start in (places[place] for place in chosen)])
    return Prompts(ids[:, :prompt_tokens], ids[:, prompt_tokens:]), stride
