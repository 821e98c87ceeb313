# Copyright 2026 The TokMat authors. Licensed under the Apache License, Version 2.0.
"""A prompt continued by a TokMat model and by its autoregressive twin, as numbers and pieces of text for a page."""

from typing import Any

import torch

from modeling_tokmat.checks_tokmat import is_integer, require

from ..checkpoints import AR_STORIES, STORIES, load_model, load_tokenizer
from ..evaluation.metrics import repeated_ngrams
from ..streamers import decode_stable, render_tail

LONGEST_PROMPT = 500  # characters
LONGEST_TAIL = 16
MOST_NEW_TOKENS = 120
# What the names of choices stand for, where that is more than the name. With commit="stable" a run waits for a token
# so few steps that it has at most MOST_NEW_TOKENS * 4 of them.
SCHEDULES = {"linear": {}, "cosine": {}, "geometric": {"schedule_gamma": 0.8}, "power": {"schedule_beta": 2.0}}
COMMITS = {"front": {}, "stable": {"max_refinements": 4}, "verified": {}}
DIGITS = 3


class Duel:
    """
    Two models of one tokenizer that write side by side. It holds nothing of a run, so threads may share it.

    Args:
        tokmat: a `TokMatForContinuousLM`. twin: an autoregressive model of the same vocabulary.
        tokenizer: of both.
    """

    def __init__(self, tokmat, twin, tokenizer):
        self.tokmat, self.twin, self.tokenizer = tokmat.eval(), twin.eval(), tokenizer

    @classmethod
    def from_the_box(cls) -> "Duel":
        """The stories model and its twin, which come with the package."""
        return cls(load_model(STORIES), load_model(AR_STORIES), load_tokenizer(STORIES))

    def run(
        self, prompt: str, new_tokens: int, schedule: str = "linear", commit: str = "front", **settings: Any
    ) -> dict[str, Any]:
        """
        Args:
            prompt: at most LONGEST_PROMPT characters; empty: write from nothing.
            new_tokens: in [1, MOST_NEW_TOKENS].
            schedule, commit: of SCHEDULES and COMMITS. settings: others of `MaturationSettings`.

        Returns:
            What a page needs, ready for JSON, numbers rounded to DIGITS:

            - prompt: its text. tokens, twin: of what either model wrote, per token its text and whether it belongs to
              three tokens that have been there before (`repeated_ngrams`, the prompt included). A token that ends
              inside a character has no text; the last one of the character has all of it.
            - repeated: shares of such tokens, "tokmat" and "twin".
            - forwards, tokens_per_forward: of the TokMat model; `forwards` begins with any that came before step 1.
            - steps: per step, with the tail after its update and before its commit: start (tokens committed before
              it), committed (in it), maturity (per slot), tail (pieces of text, each with the slot it belongs to),
              top (per slot the ids of the nearest tokens), cosines (theirs), distance (to the nearest
              embedding, in R) and entropy (of the implied distribution, in nats).
            - names: of the tokens in `top`, by id (a string, as in JSON).

        Raises:
            ValueError: in one sentence, what is wrong with an argument.
        """
        self._check(prompt, new_tokens, schedule, commit, settings)
        settings |= {"schedule": schedule, "commit": commit, **SCHEDULES[schedule], **COMMITS[commit]}
        ids = self.tokenizer(prompt, return_tensors="pt")["input_ids"]
        if ids.shape[1] == 0:
            ids = torch.tensor([[self.tokenizer.bos_token_id]])
        asked = {"attention_mask": torch.ones_like(ids), "max_new_tokens": new_tokens}
        output = self.tokmat.generate(ids, **asked, **settings, output_maturation=True, return_dict_in_generate=True)
        greedy = self.twin.generate(ids, **asked, do_sample=False)

        start = ids.shape[1]
        ours, theirs = output.sequences[0].tolist(), greedy[0].tolist()
        steps = [self._step(step, ours, start) for step in output.maturation]
        seen = {token for step in steps for top in step["top"] for token in top}
        return {
            "prompt": decode_stable(self.tokenizer, ours[:start]),
            "tokens": self._written(ours, start),
            "twin": self._written(theirs, start),
            "repeated": {"tokmat": _repeated_share(ours, start), "twin": _repeated_share(theirs, start)},
            "forwards": output.num_forwards,
            "tokens_per_forward": round(output.tokens_per_forward, DIGITS),
            "steps": steps,
            "names": {str(token): self._name(token) for token in sorted(seen)},
        }

    def _check(self, prompt, new_tokens, schedule, commit, settings: dict) -> None:
        require(isinstance(prompt, str), "prompt", prompt, "a text")
        length = f"{len(prompt)} characters long"
        require(len(prompt) <= LONGEST_PROMPT, "prompt", length, f"of at most {LONGEST_PROMPT}")
        broken = any("\ud800" <= character <= "\udfff" for character in prompt)
        require(not broken, "prompt", ascii(prompt), "UTF-8 text")
        require(
            is_integer(new_tokens, 1, MOST_NEW_TOKENS),
            "new_tokens",
            new_tokens,
            f"an integer in [1, {MOST_NEW_TOKENS}]",
        )
        length = settings.get("tail_length", 1)
        require(is_integer(length, 1, LONGEST_TAIL), "tail_length", length, f"an integer in [1, {LONGEST_TAIL}]")
        for name, value, choices in (("schedule", schedule, SCHEDULES), ("commit", commit, COMMITS)):
            known = isinstance(value, str) and value in choices
            require(known, name, value, f"one of {', '.join(choices)}")

    def _step(self, step, ids: list[int], start: int) -> dict[str, Any]:
        """Args:
        step: a `MaturationStep` of one row. ids: all of the text. start: length of the prompt.
        """
        position, tail = int(step.position[0]), step.token_ids[0].tolist()
        # In the place of maturities the slots themselves, to tell whose the pieces are.
        pieces = render_tail(ids[: start + position], tail, range(len(tail)), self.tokenizer)
        return {
            "start": position,
            "committed": int(step.committed[0]),
            "maturity": _rounded(step.maturity),
            "tail": [[text, int(slot)] for text, slot in pieces if slot is not None],
            "top": step.top_ids[0].tolist(),
            "cosines": [_rounded(cosines) for cosines in step.top_cosines[0]],
            "distance": _rounded(step.distance[0]),
            "entropy": _rounded(step.entropy_scaled[0]),
        }

    def _written(self, ids: list[int], start: int) -> list[list]:
        new, repeated = ids[start:], repeated_ngrams(ids)[start:]
        texts = [""] * len(new)
        for text, place in render_tail(ids[:start], new, range(len(new)), self.tokenizer):
            if place is not None:
                texts[int(place)] = text
        return [[text, mark] for text, mark in zip(texts, repeated, strict=True)]

    def _name(self, token: int) -> str:
        """Of a token alone: a space in front shown as one, a special token or a part of a character in brackets."""
        text = self.tokenizer.decode([token], skip_special_tokens=True, clean_up_tokenization_spaces=False)
        if token == self.tokenizer.eos_token_id:
            return "[end of text]"
        if not text or "\N{REPLACEMENT CHARACTER}" in text:
            return f"[{self.tokenizer.convert_ids_to_tokens(token)}]"
        return text.replace("\n", "\N{RETURN SYMBOL}").replace(" ", "\N{OPEN BOX}")


def _rounded(values: torch.Tensor) -> list[float]:
    return [round(value, DIGITS) for value in values.tolist()]


def _repeated_share(ids: list[int], start: int) -> float:
    marks = repeated_ngrams(ids)[start:]
    return round(sum(marks) / len(marks), DIGITS)
