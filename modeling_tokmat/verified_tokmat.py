# Copyright 2026 The TokMat authors. Licensed under the Apache License, Version 2.0.
"""Lossless multi-token steps: a tail that drafts what is then checked."""

import torch

from .draft_budget_tokmat import DraftBudget
from .maturation_tokmat import update_tail
from .tail_tokmat import Feed, Tail


class VerifiedTail(Tail):
    """
    `commit="verified"`: the text of tail_length = 1, alpha_max = 1, in fewer forwards where the tail knows it.

    A step feeds [committed ; drafts ; branches]. Drafts are the tail's nearest tokens as exact embeddings, told
    maturity 1 and K = 1 like everything committed, so z^ at the last committed vector and at each draft that came true
    are the reference's own: slot by slot, what the reference would commit is committed, up to the first disagreement.
    Branch i holds the tail's vectors behind the first i drafts, told K and their schedule's maturities, and sees those
    drafts and itself alone: whatever number of drafts comes true, one branch has continued from just there, and finds
    the next drafts.
    """

    lockstep = False

    def __init__(self, *args):
        super().__init__(*args)
        wide = torch.finfo(self.model.dtype).bits > 16
        self.budget = DraftBudget(DraftBudget.most(self.settings.tail_length), self.batch_size, wide)
        self.drafts = torch.empty(self.batch_size, 0, dtype=torch.long, device=self.device)
        # Branches reach this far beyond slot K, where embryos are.
        beyond = self.noise.embryos([self.settings.tail_length] * self.batch_size, self.budget.longest + 1)
        self.vectors = torch.cat([self.vectors, beyond], dim=1)
        self._layouts = {}

    @property
    def told_length(self) -> int:
        return 1

    @property
    def candidates(self) -> int:
        return self.drafts.shape[1] + 1

    def feed(self, committed):
        own, remaining = committed.vectors.shape[1], committed.remaining
        self.drafts = self.drafts[:, : max(remaining - 1, 0)]
        drafts = self.drafts.shape[1]
        self.slots = slots = max(min(self.budget.length(), remaining - 2), 0)  # of each branch
        conditions, places = self._layout_of(own, drafts, slots, committed.cache is not None)
        exact = self.vocabulary.embed(self.drafts)
        branches = [self.vectors[:, i : i + slots].to(exact.dtype) for i in range(drafts + 1)]
        return Feed(
            torch.cat([exact, *branches], dim=1),
            committed.positions_after(places),
            conditions,
            committed.branches_mask(drafts, slots) if drafts and slots else committed.attention_mask(drafts + slots),
            exact=drafts,
        )

    def _layout_of(self, own: int, drafts: int, slots: int, recurs: bool):
        """Conditions of a pass, and the places of its drafts and slots after the last committed position."""
        if (own, drafts, slots) not in self._layouts:
            if not recurs:  # without a cache, all that is committed is fed again
                self._layouts.clear()
            exact, branches = own + drafts, drafts + 1
            told = self.maturity_before.new_ones(1, exact + branches * slots)
            told[0, exact:] = self.maturity_before[:slots].repeat(branches)
            lengths = torch.ones_like(told, dtype=torch.long)
            lengths[0, exact:] = self.settings.tail_length
            branch = torch.arange(branches, device=self.device).repeat_interleave(slots)
            slot = torch.arange(1, slots + 1, device=self.device).repeat(branches)
            places = torch.cat([torch.arange(1, drafts + 1, device=self.device), branch + slot])
            self._layouts[own, drafts, slots] = self.model.conditions(told, lengths if slots else 1), places
        return self._layouts[own, drafts, slots]

    def update(self, predicted):
        exact, slots = self.candidates, self.slots
        self.predicted, ahead = predicted[:, :exact], predicted[:, exact:]
        behind = [self.vectors[:, i + 1 : i + 1 + slots] for i in range(exact)]
        # The tail behind each number of drafts that may come true.
        ahead = update_tail(torch.cat(behind, dim=1), ahead, self.eta[1 : slots + 1].repeat(exact))
        logits = self.vocabulary.scores(torch.cat([self.predicted, ahead], dim=1))
        self.logits = logits[:, :exact]
        # As argmax, which takes six times as long over several rows of bfloat16 on the CPU.
        self.found = logits[:, exact:].max(dim=-1).indices.view(self.batch_size, exact, slots)
        self.ahead = ahead.view(self.batch_size, exact, slots, ahead.shape[-1])

    def accepts(self, slot, rows, tokens):
        """Slot 1, and each further slot as long as the token committed before it is the draft that its prediction was
        made from."""
        return rows if slot == 0 else rows & (self.drafts[:, slot - 1] == tokens)

    def move_up(self, counts):
        super().move_up(counts)
        rows, branch = slice(None), max(counts[0] - 1, 0)
        if min(counts) != max(counts):
            branch = torch.tensor([max(count - 1, 0) for count in counts], device=self.device)
            rows = torch.arange(self.batch_size, device=self.device)
        self.budget.learn(self.drafts.shape[1], [count for count in counts if count > 0])  # of rows that still run
        self.vectors[:, : self.slots] = self.ahead[rows, branch]
        self.drafts = self.propose(rows, branch)

    def propose(self, rows, branch) -> torch.Tensor:
        """Drafts of the next step, (batch, n): the nearest tokens of the branch that came true, `branch` of `rows`."""
        return self.found[rows, branch]

    def shown(self):
        """The exact slots, and the tail behind them all."""
        after = torch.cat([self.predicted, self.ahead[:, -1]], dim=1)
        return self.vectors[:, : after.shape[1]], after
