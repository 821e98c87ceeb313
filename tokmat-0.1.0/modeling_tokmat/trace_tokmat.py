# Copyright 2026 The TokMat authors. Licensed under the Apache License, Version 2.0.
"""What decoding tells: the tail while it matures (`output_maturation`), outputs by step, and streamers."""

from dataclasses import dataclass

import torch
from transformers.utils import ModelOutput


@dataclass
class MaturationStep(ModelOutput):
    """
    The tail after one update and before the commit; all tensors on the CPU, slot 1 first. Lengths are in units of R.
    With `commit="verified"` that is the tail behind the drafts that came true, with what it committed before it.

    Args:
        position (`(batch,)`): index, among generated tokens, of the token that slot 1 becomes.
        committed (`(batch,)`): tokens committed in this step.
        maturity (`(slots,)`): a_j, the maturity after the update.
        token_ids (`(batch, slots)`): nearest tokens.
        top_ids, top_cosines (`(batch, slots, k)`): the k nearest tokens and their cosines.
        distance (`(batch, slots)`): || z~ - e || to the nearest embedding.
        displacement (`(batch, slots)`): || z~ after - before ||.
        entropy, entropy_scaled (`(batch, slots)`): of softmax(cos) at temperature 1, and of the implied distribution
            softmax(logit_scale * cos), in nats.
        norm (`(batch, slots)`): || z~ ||.
        vectors (`(batch, slots, d)`): z~ itself, with `output_maturation="vectors"`.
    """

    position: torch.Tensor | None = None
    committed: torch.Tensor | None = None
    maturity: torch.Tensor | None = None
    token_ids: torch.Tensor | None = None
    top_ids: torch.Tensor | None = None
    top_cosines: torch.Tensor | None = None
    distance: torch.Tensor | None = None
    displacement: torch.Tensor | None = None
    entropy: torch.Tensor | None = None
    entropy_scaled: torch.Tensor | None = None
    norm: torch.Tensor | None = None
    vectors: torch.Tensor | None = None


def describe(tail, vectors: bool, start: list[int], counts: list[int], k: int = 5) -> MaturationStep:
    """What a step made of a tail, before it moves up.

    Args:
        tail: a [`Tail`]. vectors: whether to show z~ itself.
        start, counts: per row the index of slot 1 among generated tokens, and how many were committed.
    """

    def entropy(scores):
        log_p = torch.log_softmax(scores, dim=-1)
        return -(log_p.exp() * log_p).sum(-1)

    vocabulary, (before, slots, queries, maturity) = tail.vocabulary, tail.shown(counts)
    cosines = vocabulary.scores(queries).float() / vocabulary.logit_scale
    nearest = vocabulary.embed(cosines.argmax(-1)).to(slots)
    top = cosines.topk(min(k, cosines.shape[-1]), dim=-1)
    return MaturationStep(
        position=torch.tensor(start),
        committed=torch.tensor(counts),
        maturity=maturity.float().cpu(),
        token_ids=top.indices[..., 0].cpu(),
        top_ids=top.indices.cpu(),
        top_cosines=top.values.cpu(),
        distance=((slots - nearest).norm(dim=-1) / vocabulary.radius).float().cpu(),
        displacement=((slots - before).norm(dim=-1) / vocabulary.radius).float().cpu(),
        entropy=entropy(cosines).cpu(),
        entropy_scaled=entropy(vocabulary.logit_scale * cosines).cpu(),
        norm=(slots.norm(dim=-1) / vocabulary.radius).float().cpu(),
        vectors=slots.cpu() if vectors else None,
    )


class Record:
    """What `return_dict_in_generate` asks for besides the text, by step: `scores`, `logits`, `attentions` and
    `hidden_states` as in transformers, and the trace."""

    def __init__(self, generation_config):
        self.asked = bool(generation_config.return_dict_in_generate)
        self.maturation = generation_config._maturation_settings.output_maturation if self.asked else False
        names = ("scores", "logits", "attentions", "hidden_states")
        self.by_name = {name: () for name in names if self.asked and getattr(generation_config, f"output_{name}")}
        self.trace = () if self.maturation else None

    @property
    def scores(self) -> tuple | None:
        return self.by_name.get("scores")

    def token(self, scores: torch.Tensor, logits: torch.Tensor, taking: list[bool], counts: list[int]) -> None:
        """A place was committed in the rows that are True: the counts[r]-th of row r, by scores (batch, V)."""
        for name, value in (("scores", scores), ("logits", logits)):
            if name in self.by_name:
                kept = list(self.by_name[name])
                for row, takes in enumerate(taking):
                    place = counts[row] - 1
                    if takes:
                        kept += [value.clone()] if place == len(kept) else []
                        kept[place][row] = value[row]
                self.by_name[name] = tuple(kept)

    def step(self, outputs, tail, start: list[int], counts: list[int]) -> None:
        """A step has committed, and the tail has not moved up yet."""
        if self.maturation:
            self.trace += (describe(tail, self.maturation == "vectors", start, counts),)
        for name in ("attentions", "hidden_states"):
            if name in self.by_name:
                self.by_name[name] += (getattr(outputs, name),)


class Stream:
    """A streamer's side of a run. Rows that are not in step reach it token by token all the same: as soon as all of
    them that still run have one."""

    def __init__(self, streamer):
        self.streamer, self.told = streamer, 0
        self.shows_tail = hasattr(streamer, "put_draft")

    def put(self, committed, tail, running: list[bool]) -> None:
        """Tokens that all rows have by now, and the nearest tokens of the tail that remains (`put_draft`).

        Args:
            committed: a [`Committed`]. tail: a [`Tail`] that moved up. running: which rows still run.
        """
        if self.streamer is None:
            return
        counts = committed.counts
        ready = min((count for count, runs in zip(counts, running) if runs), default=max(counts))
        for place in range(self.told, ready):
            self.streamer.put(committed.ids[:, committed.prompt_length + place].cpu())
        self.told = max(ready, self.told)
        if self.shows_tail:
            tokens, maturity = tail.nearest_tokens(committed.remaining)
            self.streamer.put_draft(tokens.cpu(), maturity=maturity)

    def end(self) -> None:
        if self.streamer is not None:
            self.streamer.end()
