# Copyright 2026 The TokMat authors. Licensed under the Apache License, Version 2.0.
"""Prompts from held-out text, with the human continuation of each."""

import itertools
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


def passages(texts: list[str], tokenizer, count: int, tokens: int, seed: int = 0) -> torch.Tensor:
    """Passages of `tokens` tokens, (count, tokens), each from the beginning of a paragraph: no two share a token, and
    as few as possible a text. Longer texts are likelier to give one, the same ones for the same `seed`.

    Raises:
        ValueError: there are fewer.
    """
    draw = random.Random(seed)
    order = sorted(texts, key=lambda text: draw.random() ** (1 / max(len(text), 1)), reverse=True)
    found: list[list[list[int]]] = []
    for text in order:
        parts, ids = [], []
        for paragraph in filter(None, map(str.strip, text.split("\n\n"))):
            ids += tokenizer(f"\n\n{paragraph}" if ids else paragraph, add_special_tokens=False, verbose=False)[
                "input_ids"
            ]
            if len(ids) >= tokens:
                parts.append(ids[:tokens])
                ids = []
        if parts:
            found.append(draw.sample(parts, len(parts)))
        if len(found) == count:
            break
    in_turn = [part for turn in itertools.zip_longest(*found) for part in turn if part is not None]
    if len(in_turn) < count:
        raise ValueError(f"{count} passages of {tokens} tokens are asked for, but the texts hold {len(in_turn)}")
    return torch.tensor(in_turn[:count])
