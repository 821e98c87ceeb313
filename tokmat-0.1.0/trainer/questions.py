# Copyright 2026 The TokMat authors. Licensed under the Apache License, Version 2.0.
"""What a chat model asks itself: prompts for its own text where there is no chat data (Magpie: Xu et al. 2024, arXiv
2406.08464).

A chat model that is given its template up to where the user speaks goes on as a user would. Questions are drawn by
temperature 1 from the likeliest tokens that hold 95 % of the probability; answers to them are the model's argmax, as
to any prompt.
"""

import json
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import torch
from transformers import LogitsProcessor, LogitsProcessorList, TopPLogitsWarper

from .own_text import Prompt, answer, chat_ids

QUESTIONS = "self"  # the name of this source of prompts
TOP_P = 0.95
QUESTION_TOKENS, FEWEST = 96, 4  # of a question
IN_VAIN = 20  # batches without a question after which no more are hoped for


class Sampling(LogitsProcessor):
    """Makes the argmax a draw: the largest of log-probabilities plus Gumbel noise is a sample of their distribution.

    Args:
        seeds: two numbers that say which draws these are.
    """

    def __init__(self, seeds: tuple[int, int], device: torch.device):
        self.nucleus = TopPLogitsWarper(TOP_P)
        self.generator = torch.Generator(device).manual_seed(int(np.random.SeedSequence(seeds).generate_state(1)[0]))

    def __call__(self, input_ids, scores):
        scores = self.nucleus(input_ids, scores.float())
        return scores - torch.empty_like(scores).exponential_(generator=self.generator).log()


def opening(tokenizer) -> list[int]:
    """Ids of the chat template up to where the user's text begins.

    Raises:
        ValueError: a tokenizer without a chat template, or with one that changes what the user says.
    """
    mark = "@user@"
    if not tokenizer.chat_template:
        raise ValueError(f"prompts: {QUESTIONS!r} needs a chat model, but the tokenizer has no chat template")
    before, *after = tokenizer.apply_chat_template([{"role": "user", "content": mark}], tokenize=False).split(mark)
    if len(after) != 1 or not before:
        raise ValueError(f"prompts: {QUESTIONS!r} needs a chat template that shows the user's text once, as it is")
    return tokenizer(before, add_special_tokens=False, verbose=False)["input_ids"]


def ask(model, tokenizer, before: list[int], draws: int, seeds: tuple[int, int]) -> list[str]:
    """The questions, none twice, of that many draws that end within `QUESTION_TOKENS` and are no loop."""
    processors = LogitsProcessorList([Sampling(seeds, model.device)])
    found = answer(model, tokenizer, [before] * draws, QUESTION_TOKENS, logits_processor=processors)
    ended = [ids for ids in found if FEWEST < len(ids) < QUESTION_TOKENS]
    texts = [text.strip() for text in tokenizer.batch_decode(ended, skip_special_tokens=True)]
    return [text for text in dict.fromkeys(texts) if text]


def questions(
    name: str, load_model: Callable, tokenizer, path: Path, seed: int, batch_size: int, progress: Callable[[int], None]
) -> Iterator[Prompt]:
    """Questions without an end, none twice, as prompts. They are kept in `path`, a .jsonl file of chat prompts, which
    is read first: so a run that was killed goes on, and another machine answers the same ones.

    Args:
        name: of the model, which rows of `path` tell. load_model: () -> it, if questions are missing.
        batch_size: draws at a time.
        progress: called with how many were added.

    Raises:
        ValueError: the tokenizer does not fit (`opening`), `path` is another model's, or the model asks hardly
            anything.
    """
    before, seen, number, in_vain = opening(tokenizer), set(), 0, 0
    lines = path.read_bytes().splitlines(keepends=True) if path.exists() else []
    whole = [line for line in lines if line.endswith(b"\n")]
    for line, text in enumerate(whole, start=1):
        try:
            row = json.loads(text)
            by, asked, drawn = row["by"], str(row["prompt"]), int(row["draw"])
        except (ValueError, KeyError, TypeError) as error:
            raise ValueError(
                f"prompts: {path}, line {line}, is no question that was asked here ({error!r})"
            ) from error
        if by != name:
            raise ValueError(f"prompts: {path} holds questions of {by}: delete it, or choose another output")
        seen.add(asked)
        number = drawn + 1
        yield _as_prompt(tokenizer, asked)
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("r+b" if lines else "wb") as file:
        file.truncate(sum(map(len, whole)))
        file.seek(0, 2)
        while in_vain < IN_VAIN:
            asked = ask(load_model(), tokenizer, before, batch_size, (seed, number))
            new = [text for text in asked if text not in seen]
            rows = [{"prompt": text, "kind": QUESTIONS, "by": name, "draw": number} for text in new]
            file.write("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows).encode())
            file.flush()
            seen, number, in_vain = seen | set(new), number + 1, 0 if new else in_vain + 1
            progress(len(new))
            yield from (_as_prompt(tokenizer, text) for text in new)
    raise ValueError(f"prompts: {QUESTIONS!r} needs a chat model, and this one asked {len(seen)} questions in all")


def _as_prompt(tokenizer, text: str) -> Prompt:
    return Prompt(chat_ids(tokenizer, [{"role": "user", "content": text}]), QUESTIONS)
