# Copyright 2026 The TokMat authors. Licensed under the Apache License, Version 2.0.
"""Lossless multi-token steps: a tail that drafts what is then checked."""

import torch

from .draft_budget_tokmat import DraftBudget
from .maturation_tokmat import update_tail
from .tail_tokmat import Feed, Tail

SUCCESSORS = 32  # likeliest tokens of a slot that the successor head chooses among


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
        if self._queries is not None:
            self._queries = torch.zeros_like(self.vectors)
        self.layouts = {}

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
        if (own, drafts, slots) not in self.layouts:
            if not recurs:  # without a cache, all that is committed is fed again
                self.layouts.clear()
            exact, branches = own + drafts, drafts + 1
            told = self.maturity_before.new_ones(1, exact + branches * slots)
            told[0, exact:] = self.maturity_before[:slots].repeat(branches)
            lengths = torch.ones_like(told, dtype=torch.long)
            lengths[0, exact:] = self.settings.tail_length
            branch = torch.arange(branches, device=self.device).repeat_interleave(slots)
            slot = torch.arange(1, slots + 1, device=self.device).repeat(branches)
            places = torch.cat([torch.arange(1, drafts + 1, device=self.device), branch + slot])
            self.layouts[own, drafts, slots] = self.model.conditions(told, lengths if slots else 1, exact), places
        return self.layouts[own, drafts, slots]

    def update(self, predicted):
        exact, slots = self.candidates, self.slots
        self.predicted, ahead = predicted[:, :exact], predicted[:, exact:]
        if self.vocabulary.one_space:
            # The tail behind each number of drafts that may come true.
            behind = [self.vectors[:, i + 1 : i + 1 + slots] for i in range(exact)]
            ahead = update_tail(torch.cat(behind, dim=1), ahead, self.eta[1 : slots + 1].repeat(exact))
        logits = self.vocabulary.scores(torch.cat([self.predicted, ahead], dim=1))
        self.logits = logits[:, :exact]
        self.ahead = ahead.view(self.batch_size, exact, slots, ahead.shape[-1])
        self.ahead_logits = logits[:, exact:].view(self.batch_size, exact, slots, logits.shape[-1])

    def accepts(self, slot, rows, tokens):
        """Slot 1, and each further slot as long as the token committed before it is the draft that its prediction was
        made from."""
        return rows if slot == 0 else rows & (self.drafts[:, slot - 1] == tokens)

    def move_up(self, counts, last):
        super().move_up(counts, last)
        rows, branch = slice(None), max(counts[0] - 1, 0)
        if min(counts) != max(counts):
            branch = torch.tensor([max(count - 1, 0) for count in counts], device=self.device)
            rows = torch.arange(self.batch_size, device=self.device)
        self.budget.learn(self.drafts.shape[1], [count for count in counts if count > 0])  # of rows that still run
        ahead, logits = self.ahead[rows, branch], self.ahead_logits[rows, branch]
        self.drafts = self.propose(ahead, logits, last)
        if self.vocabulary.one_space:
            self.vectors[:, : self.slots] = ahead
        elif self.slots:
            inputs = self.vocabulary.as_inputs(ahead, logits)
            moved = update_tail(self.vectors[:, : self.slots], inputs, self.eta[1 : self.slots + 1])
            self.vectors[:, : self.slots], self._queries[:, : self.slots] = moved, ahead

    def propose(self, ahead, logits, last) -> torch.Tensor:
        """Drafts of the next step, (batch, n): the nearest tokens of the branch that came true; through the successor
        head, where there is one, each after the token before it.

        Args:
            ahead, logits: of that branch, (batch, n, d) and (batch, n, V). last: its last token's vector, (batch, d).
        """
        successor, vocabulary = self.model.successor, self.vocabulary
        if successor is None or self.slots == 0:
            # As argmax, which takes six times as long over several rows of bfloat16 on the CPU.
            return logits.max(dim=-1).indices
        likeliest = logits.topk(min(SUCCESSORS, logits.shape[-1]), dim=-1).indices
        keys, drafts = vocabulary.keys_of(likeliest), []
        for slot in range(self.slots):
            query = successor(ahead[:, slot], last, vocabulary.radius)
            scores = vocabulary.scores_among(query, likeliest[:, slot], keys[:, slot])
            drafts.append(likeliest[:, slot].gather(1, scores.argmax(dim=-1, keepdim=True)))
            last = vocabulary.embed(drafts[-1][:, 0])
        return torch.cat(drafts, dim=1)

    def shown(self):
        """The exact slots, and the tail behind them all."""
        exact, behind = self.candidates, self.vectors[:, self.candidates : self.candidates + self.slots]
        if self.vocabulary.one_space:
            after = torch.cat([self.predicted, self.ahead[:, -1]], dim=1)
        else:
            inputs = self.vocabulary.as_inputs(self.ahead[:, -1], self.ahead_logits[:, -1])
            moved = update_tail(behind, inputs, self.eta[1 : self.slots + 1])
            after = torch.cat([self.vocabulary.as_inputs(self.predicted, self.logits), moved], dim=1)
        return self.vectors[:, : exact + self.slots], after

    def scored(self):
        return torch.cat([self.predicted, self.ahead[:, -1]], dim=1)
