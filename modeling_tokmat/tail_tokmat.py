# Copyright 2026 The TokMat authors. Licensed under the Apache License, Version 2.0.
"""The liquid tail: what is fed of it, how it moves toward its predictions, and which of its slots become tokens."""

from dataclasses import dataclass
from typing import NamedTuple

import torch

from .checks_tokmat import described, is_integer, require
from .committed_tokmat import Committed
from .maturation_tokmat import tail_maturities, update_rates, update_tail
from .noise_tokmat import DecodingNoise


class Feed(NamedTuple):
    """
    What a pass reads after the pending committed vectors.

    Args:
        vectors: (batch, slots, d). positions: (batch, slots). conditions: of pending vectors and slots.
        mask: of the whole pass.
        usual: whether most passes have this shape, so that compiling it pays.
    """

    vectors: torch.Tensor
    positions: torch.Tensor
    conditions: tuple
    mask: torch.Tensor | None
    usual: bool = False


class Shown(NamedTuple):
    """
    What a trace tells of.

    Args:
        before, after: the slots, before and after the update, (batch, slots, d). queries: what they are scored by.
        maturity: (slots,), after it.
    """

    before: torch.Tensor
    after: torch.Tensor
    queries: torch.Tensor
    maturity: torch.Tensor


@dataclass
class TailState:
    """
    The tail between two calls of `generate`: what `output_tail=True` returns and `tail` takes. With the cache of the
    same output and its sequences as the prompt, text goes on as if it had never stopped. `vectors` may be changed, or
    given alone, before the text goes on.

    Args:
        vectors (`(rows, K, d)`): the slots, slot 1 first, rows being batch * num_return_sequences.
        queries (`(rows, K, d)`): what the slots are scored by, where that is another space (`geometry="pretrained"`).
        committed (`(rows, n, d)`): the vectors that the last tokens were committed as, those that the cache lacks
            (all, without a cache).
        waited, known (`(rows,)`, `(rows, K)`): steps without a commit and nearest tokens, of `commit="stable"`.
        tokens, steps, num_return_sequences (`int`): how far the noise was drawn, and for how many rows of a prompt.
    """

    vectors: torch.Tensor
    queries: torch.Tensor | None = None
    committed: torch.Tensor | None = None
    waited: torch.Tensor | None = None
    known: torch.Tensor | None = None
    tokens: int = 0
    steps: int = 0
    num_return_sequences: int | None = None

    def check(self, rows: int, slots: int, dim: int, pending: int) -> None:
        """Raise a `ValueError` where this is no state of a tail of shape (rows, slots, dim) behind `pending` committed
        vectors that the cache lacks."""
        shapes = {"vectors": (rows, slots, dim), "queries": (rows, slots, dim), "committed": (rows, pending, dim)}
        for name, shape in (shapes | {"waited": (rows,), "known": (rows, slots)}).items():
            value = getattr(self, name)
            fits = torch.is_tensor(value) and tuple(value.shape) == shape
            fits = fits and value.is_floating_point() == (name in shapes)
            fits = fits or (value is None and name != "vectors")
            kind = "floats" if name in shapes else "integers"
            allowed = f"{kind} of shape {shape}, as its prompt, cache and settings ask"
            require(fits, f"tail.{name}", described(value), allowed)
        for name in ("tokens", "steps"):
            value = getattr(self, name)
            require(is_integer(value, 0), f"tail.{name}", value, "an integer of at least 0")
        several = self.num_return_sequences
        fits = several is None or is_integer(several, 1)
        require(fits, "tail.num_return_sequences", several, "None or an integer of at least 1")


class Tail:
    """
    K uncommitted vectors per row, under Algorithm 1: every step commits slot 1, whatever its state.

    `vectors` are fed (they lie in input space), `queries` are scored (they lie in query space, and are the same where
    the two are one), `logits` say what a slot would become if it were committed now; all of them follow from `update`,
    the one place where predictions enter.

    Args:
        model: for `conditions` and the type of its weights. vocabulary: a [`Vocabulary`], one for the whole run.
        settings: [`MaturationSettings`]. noise: a [`DecodingNoise`]. batch_size: rows.
        state: a [`TailState`] to go on from, or None for embryos.
    """

    came_true: dict[str, int] | None = None  # drafts by where they came from, where there are any
    # From the first update on: the slots that the last one moved, before it, and logits of those it may commit.
    before: torch.Tensor
    logits: torch.Tensor
    lockstep = True  # every row commits the same number of tokens at every step, so nothing waits for the device

    def __init__(self, model, vocabulary, settings, noise: DecodingNoise, batch_size: int, state=None, watched=False):
        self.model, self.vocabulary, self.settings, self.noise = model, vocabulary, settings, noise
        self.batch_size, self.device, self.watched = batch_size, noise.device, watched
        a = tail_maturities(settings.tail_length, **settings.schedule_settings())
        self.maturity_after, self.maturity_before = a[:-1].float(), a[1:].float().to(self.device)
        self.eta = update_rates(a, settings.rate).to(self.device, noise.dtype)
        self.first = [0] * batch_size  # per row the index, among generated tokens, of the one that slot 1 becomes
        self.vectors = noise.embryos(self.first, settings.tail_length)
        # Noise says nothing of any token.
        self._queries = None if vocabulary.one_space else torch.zeros_like(self.vectors)
        if state is not None:
            self.vectors = state.vectors.to(self.vectors, copy=True)
            if self._queries is not None and state.queries is not None:
                self._queries = state.queries.to(self._queries, copy=True)
        self.steps, self.slots, self.copies = 0, 0, 1
        self._layout: tuple = (None, None, None)

    @property
    def queries(self) -> torch.Tensor:
        """What the slots are scored by, (batch, slots, d)."""
        return self.vectors if self._queries is None else self._queries

    @property
    def told_length(self) -> int:
        """The tail length that committed positions are told."""
        return self.settings.tail_length

    @property
    def candidates(self) -> int:
        """How many slots a step may commit at most."""
        return 1

    def state(self, committed: Committed) -> TailState:
        """What the next call goes on from; after `move_up`."""
        length, noise = self.settings.tail_length, self.noise
        return TailState(
            vectors=self.vectors[:, :length],
            queries=None if self._queries is None else self._queries[:, :length],
            committed=committed.vectors,
            tokens=noise.tokens + self.first[0],
            steps=noise.steps + self.steps,
            num_return_sequences=noise.several,
        )

    # -- 1. read ------------------------------------------------------------------------------------------------------

    def within(self, slots: int, room: int) -> int:
        """How many of `slots` slots are fed: those in the `room` that the length limit leaves, or all where the tail
        is to go on."""
        return slots if self.settings.output_tail else min(slots, max(room, 0))

    def feed(self, committed: Committed) -> Feed:
        """Slots 1 .. K - 1 within the length limit (nothing reads slot K), and a copy of them for guidance."""
        length, own = self.settings.tail_length, committed.vectors.shape[1]
        self.slots = slots = self.within(length - 1, committed.remaining - 1)
        self.copies = copies = 2 if self.settings.guidance_scale != 1 and slots > 0 else 1
        if self._layout[0] != (own, slots, copies):
            told = torch.cat([self.maturity_before.new_ones(own), *[self.maturity_before[:slots]] * copies])
            places = torch.arange(1, slots + 1, device=self.device).repeat(copies)
            self._layout = (own, slots, copies), self.model.conditions(told[None], length, own), places
        vectors = self.vectors[:, :slots].to(committed.vectors.dtype)
        _, conditions, places = self._layout
        return Feed(
            vectors if copies == 1 else torch.cat([vectors, vectors], dim=1),
            committed.positions_after(places),
            conditions,
            committed.attention_mask(slots) if copies == 1 else committed.guidance_mask(slots),
            usual=slots == length - 1 and own == 1,
        )

    # -- 2. update ----------------------------------------------------------------------------------------------------

    def update(self, predicted: torch.Tensor) -> None:
        """z~_j <- z~_j + eta_j (z^_j - z~_j) for every slot (Eq. 4).

        Args:
            predicted: what was predicted at the last committed vector and at everything fed after it,
                (batch, 1 + slots fed, d); its first 1 + slots are z^_1, z^_2, ...
        """
        predicted = self.guided(predicted)
        moved = predicted.shape[1]
        eta = self.eta[:moved]
        self.before, rest = self.vectors[:, :moved], self.vectors[:, moved:]
        # A single slot in lockstep is committed and gone: it is scored, and never fed.
        unseen = moved == 1 and self.lockstep and not self.settings.output_maturation
        inputs = predicted if unseen else self.vocabulary.as_inputs(predicted)
        noise = None
        if self.settings.dynamics_noise > 0:
            noise = eta[:, None] * self.noise.of_dynamics(self.first, moved, self.steps)

        def after(slots, target):
            slots = update_tail(slots, target, eta, self.settings.direction_rate)
            return slots if noise is None else slots + noise

        # The same noise, in units of R, in both spaces: a slot is fed as the one and committed by the other.
        self.vectors = torch.cat([after(self.before, inputs), rest], dim=1)
        if self._queries is not None:
            queries = after(self._queries[:, :moved], predicted)
            self._queries = torch.cat([queries, self._queries[:, moved:]], dim=1)
        # One projection for all slots that this step may commit.
        self.logits = self.vocabulary.scores(self.queries[:, : self.candidates])

    def guided(self, predicted: torch.Tensor) -> torch.Tensor:
        """z^ <- u + s (z^ - u), u being what the copy predicts, which sees the tail alone."""
        if self.copies == 1:
            return predicted
        # Slot 1 is predicted from a committed position, so guidance leaves it alone.
        exact, seeing, alone = predicted.split([1, self.slots, self.slots], dim=1)
        return torch.cat([exact, alone + self.settings.guidance_scale * (seeing - alone)], dim=1)

    # -- 3. commit ----------------------------------------------------------------------------------------------------

    def accepts(self, slot: int, rows: torch.Tensor, tokens: torch.Tensor | None) -> torch.Tensor:
        """Which rows (batch,) commit the slot of this index.

        Args:
            rows: those that still run and committed the slot before it, as `tokens` (None at slot 0); both (batch,).
        """
        return torch.ones_like(rows)  # also those that have ended, so that all stay in step

    def logits_of(self, slot: int) -> torch.Tensor:
        """What the slot of this index is committed by, once rows accept it, (batch, V)."""
        return self.logits[:, slot]

    def fed_right(self) -> list[list[int]]:
        """Per row, which of the vectors that were fed are what was committed then, in order."""
        return [[] for _ in range(self.batch_size)]

    # -- 4. move up ---------------------------------------------------------------------------------------------------

    def move_up(self, counts: list[int], committed: Committed) -> None:
        """Drop the first counts[r] slots of row r, which `committed` took in; embryos enter at the end."""
        self.steps += 1
        longest = max(counts)
        if longest == 0:
            return
        length = self.vectors.shape[1]
        entering = self.noise.embryos([first + length for first in self.first], longest)
        self.vectors = self._shifted(self.vectors, entering, counts)
        if self._queries is not None:
            self._queries = self._shifted(self._queries, torch.zeros_like(entering), counts)
        self.first = [first + count for first, count in zip(self.first, counts)]

    def _shifted(self, slots: torch.Tensor, entering: torch.Tensor, counts: list[int]) -> torch.Tensor:
        if min(counts) == max(counts):
            return torch.cat([slots, entering], dim=1)[:, counts[0] :]
        return shift(slots, entering, torch.tensor(counts, device=self.device))

    # -- what it shows ------------------------------------------------------------------------------------------------

    def shown(self, counts: list[int]) -> Shown:
        """The slots that the last update moved; until `move_up`.

        Args:
            counts: per row how many of them were committed.
        """
        slots = self.before.shape[1]
        return Shown(self.before, self.vectors[:, :slots], self.queries[:, :slots], self.maturity_after[:slots])

    def nearest_tokens(self, remaining: int) -> tuple[torch.Tensor, torch.Tensor]:
        """What the tail would become, for slots within `remaining` tokens, (batch, slots), and their maturity,
        (slots,); after `move_up`."""
        slots = min(self.settings.tail_length - 1, max(remaining, 0))
        return self.vocabulary.nearest(self.queries[:, :slots]), self.maturity_after[1 : slots + 1]


class StableTail(Tail):
    """
    `commit="stable"`: commits the front run of slots that have stabilised: last displacement under
    `stability_tolerance` * R and the nearest neighbour unchanged (the abstract's "only when it has sufficiently
    converged"). A row that committed nothing for `max_refinements` steps in a row commits slot 1 at the last of them,
    so max_refinements = 1 commits at every step.
    """

    lockstep = False

    def __init__(self, model, vocabulary, settings, noise, batch_size, state=None, watched=False):
        super().__init__(model, vocabulary, settings, noise, batch_size, state, watched)
        self.waited = torch.zeros(self.batch_size, dtype=torch.long, device=self.device)
        # Nearest neighbours after the last step; -1 where a slot had none.
        self.known = torch.full((self.batch_size, self.settings.tail_length), -1, device=self.device)
        if state is not None and state.waited is not None and state.known is not None:
            self.waited, self.known = state.waited.to(self.waited, copy=True), state.known.to(self.known, copy=True)

    def state(self, committed):
        state = super().state(committed)
        state.waited, state.known = self.waited, self.known
        return state

    @property
    def candidates(self) -> int:
        return self.slots + 1

    def update(self, predicted):
        super().update(predicted)
        nearest = self.logits.argmax(dim=-1)
        moved = nearest.shape[1]
        moved_by = (self.vectors[:, : self.before.shape[1]] - self.before).norm(dim=-1) / self.vocabulary.radius
        still = moved_by <= self.settings.stability_tolerance
        settled = still & (nearest == self.known[:, :moved])
        self.known[:, :moved] = nearest
        self.run = settled.long().cumprod(dim=1).sum(dim=1)  # settled slots from the front, per row

    def accepts(self, slot, rows, tokens):
        if slot > 0:
            return rows & (self.run > slot)
        self.waited += 1
        rows = rows & ((self.run > 0) | (self.waited >= self.settings.max_refinements))
        self.waited[rows] = 0
        return rows

    def move_up(self, counts, committed):
        super().move_up(counts, committed)
        none = torch.full_like(self.known, -1)
        self.known = shift(self.known, none, torch.tensor(counts, device=self.device))


def shift(slots: torch.Tensor, entering: torch.Tensor, counts: torch.Tensor) -> torch.Tensor:
    """Move each row of (batch, slots, ...) up by its count (batch,); `entering` (batch, n, ...) follows it."""
    index = torch.arange(slots.shape[1], device=slots.device) + counts[:, None]
    index = index.view(*index.shape, *[1] * (slots.dim() - 2)).expand_as(slots)
    return torch.cat([slots, entering.to(slots)], dim=1).gather(1, index)
