# Copyright 2026 The TokMat authors. Licensed under the Apache License, Version 2.0.
"""Lossless multi-token steps: a tail that drafts what is then checked."""

import torch

from .decoding_tokmat import accelerated
from .draft_budget_tokmat import DraftBudget, PromptLookup
from .maturation_tokmat import update_tail
from .tail_tokmat import Feed, Shown, Tail

AT_ONCE = 32  # positions that are scored together, though one branch alone is needed: the table is then read once
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

    came_true: dict[str, int]
    lockstep = False

    def __init__(self, *args):
        super().__init__(*args)
        wide = torch.finfo(self.model.dtype).bits > 16
        most, foreseeing = DraftBudget.most(self.settings.tail_length), self.model.config.parallel_tails > 0
        adapted = self.model.tail_adapters is not None
        self.budget = DraftBudget(most, self.batch_size, wide, foreseeing, adapted, accelerated(self.device))
        looked_up = self.settings.prompt_lookup_num_tokens or 0
        self.lookups = [PromptLookup(looked_up) for _ in range(self.batch_size if looked_up else 0)]
        self.arms, self.given = ["tail"] * self.batch_size, [0] * self.batch_size  # of each row's drafts
        self.came_true = {"tail": 0, "lookup": 0}  # drafts by where they came from
        self.drafts = torch.empty(self.batch_size, 0, dtype=torch.long, device=self.device)
        # Branches reach this far beyond slot K, where embryos are.
        reach = max(self.budget.longest, looked_up) + 1
        beyond = self.noise.embryos([self.settings.tail_length] * self.batch_size, reach)
        self.vectors = torch.cat([self.vectors, beyond], dim=1)
        if self._queries is not None:
            self._queries = torch.cat([self._queries, torch.zeros_like(beyond)], dim=1)
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
        self.slots = slots = self.within(self.budget.length(), remaining - 2)  # of each branch
        conditions, places = self._layout_of(own, drafts, slots, committed.cache is not None)
        exact = self.vocabulary.embed(self.drafts)
        branches = [self.vectors[:, i : i + slots].to(exact.dtype) for i in range(drafts + 1)]
        return Feed(
            torch.cat([exact, *branches], dim=1),
            committed.positions_after(places),
            conditions,
            committed.branches_mask(drafts, slots) if drafts and slots else committed.attention_mask(drafts + slots),
            exact=drafts,
            usual=own == 1 and drafts == slots == self.budget.longest,
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
            self._layouts[own, drafts, slots] = self.model.conditions(told, lengths if slots else 1, exact), places
        return self._layouts[own, drafts, slots]

    def update(self, predicted):
        exact, slots = self.candidates, self.slots
        self.predicted, ahead = predicted[:, :exact], predicted[:, exact:]
        if self.vocabulary.one_space:
            # The tail behind each number of drafts that may come true.
            behind = [self.vectors[:, i + 1 : i + 1 + slots] for i in range(exact)]
            ahead = update_tail(torch.cat(behind, dim=1), ahead, self.eta[1 : slots + 1].repeat(exact))
            predicted = torch.cat([self.predicted, ahead], dim=1)
        together = predicted.shape[1] <= AT_ONCE
        logits = self.vocabulary.scores(predicted if together else self.predicted)
        self.logits = logits[:, :exact]
        self.ahead = ahead.view(self.batch_size, exact, slots, ahead.shape[-1])
        self.ahead_logits = logits[:, exact:].view(*self.ahead.shape[:-1], logits.shape[-1]) if together else None

    def accepts(self, slot, rows, tokens):
        """Slot 1, and each further slot as long as the token committed before it is the draft that its prediction was
        made from."""
        return rows if slot == 0 else rows & (self.drafts[:, slot - 1] == tokens)

    def move_up(self, counts, committed):
        super().move_up(counts, committed)
        rows, branch = slice(None), max(counts[0] - 1, 0)
        if min(counts) != max(counts):
            branch = torch.tensor([max(count - 1, 0) for count in counts], device=self.device)
            rows = torch.arange(self.batch_size, device=self.device)
        self._learn(counts)
        ahead = self.ahead[rows, branch]
        logits = self.vocabulary.scores(ahead) if self.ahead_logits is None else self.ahead_logits[rows, branch]
        self.drafts = self.propose(ahead, logits, committed)
        if self.vocabulary.one_space:
            self.vectors[:, : self.slots] = ahead
        elif self.slots:
            inputs = self.vocabulary.as_inputs(ahead, logits)
            moved = update_tail(self.vectors[:, : self.slots], inputs, self.eta[1 : self.slots + 1])
            self.vectors[:, : self.slots], self._queries[:, : self.slots] = moved, ahead

    def _learn(self, counts: list[int]) -> None:
        running = [row for row, count in enumerate(counts) if count > 0]
        given = [min(self.given[row], self.drafts.shape[1]) for row in running]
        taken = [counts[row] for row in running]
        self.budget.learn([self.arms[row] for row in running], given, taken)
        for row, drafts, count in zip(running, given, taken):
            self.came_true["tail" if self.arms[row] == "tail" else "lookup"] += min(count - 1, drafts)

    def propose(self, ahead, logits, committed) -> torch.Tensor:
        """Drafts of the next step, (batch, n): what the tail foresees, or what followed the same tokens before.

        Args:
            ahead, logits: of the branch that came true, (batch, slots, d) and (batch, slots, V).
            committed: a [`Committed`].
        """
        foreseen = self.foreseen(ahead, logits, committed.last_vector)
        self.arms, self.given = ["tail"] * self.batch_size, [foreseen.shape[1]] * self.batch_size
        if not self.lookups:
            return foreseen
        rows = []
        for row, drafts in enumerate(foreseen.tolist()):
            written = committed.ids[row, : committed.length(row)].tolist()
            found = self.lookups[row].propose(written)
            self.arms[row], chosen = self.budget.choose(drafts, found)
            self.given[row] = len(chosen)
            rows.append(chosen)
        widest = max(self.given)
        # Whatever fills a row up is checked as drafts are, and so can do no harm.
        rows = [row + [0] * (widest - len(row)) for row in rows]
        return torch.tensor(rows, dtype=torch.long, device=self.device).view(self.batch_size, widest)

    def foreseen(self, ahead, logits, last) -> torch.Tensor:
        """The nearest tokens of the branch that came true, (batch, slots); through the successor head, where there is
        one, each after the token before it.

        Args:
            ahead, logits: as for `propose`. last: the vector of the token committed last, (batch, d).
        """
        successor, vocabulary = self.model.successor, self.vocabulary
        if successor is None or self.slots == 0:
            # As argmax, which takes six times as long over several rows of bfloat16 on the CPU.
            return logits.max(dim=-1).indices
        likeliest = logits.topk(min(SUCCESSORS, logits.shape[-1]), dim=-1).indices
        keys, drafts = vocabulary.keys_of(likeliest).to(ahead.dtype), []  # small products are slow in bfloat16
        for slot in range(self.slots):
            query = successor(ahead[:, slot], last, vocabulary.radius)
            scores = vocabulary.scores_among(query, likeliest[:, slot], keys[:, slot])
            drafts.append(likeliest[:, slot].gather(1, scores.argmax(dim=-1, keepdim=True)))
            last = vocabulary.embed(drafts[-1][:, 0])
        return torch.cat(drafts, dim=1)

    def nearest_tokens(self, remaining):
        """As of any tail, for the slots that the last step looked for: those behind them hold noise."""
        return super().nearest_tokens(min(remaining, self.slots))

    def shown(self, counts):
        """The exact slots that were committed, and behind them the branch that came true; of rows that committed
        different numbers as many as all of them have. What is exact does not mature: its maturity is 1."""
        least, exact = min(count for count in counts if count), self.candidates
        taken = torch.tensor(counts, device=self.device).clamp(min=least)[:, None]
        rows = torch.arange(self.batch_size, device=self.device)[:, None]
        ahead = self.ahead[rows[:, 0], taken[:, 0] - 1]
        place = torch.arange(least + self.slots, device=self.device)
        place = torch.where(place < taken, place, exact + place - taken)
        before, after = self.vectors[:, : place.shape[1]], torch.cat([self.predicted, ahead], dim=1)
        queries = after[rows, place]
        if not self.vocabulary.one_space:
            behind = self.vectors[rows, taken + torch.arange(self.slots, device=self.device)]
            moved = update_tail(behind, self.vocabulary.as_inputs(ahead), self.eta[1 : self.slots + 1])
            after = torch.cat([self.vocabulary.as_inputs(self.predicted, self.logits), moved], dim=1)
        maturity = torch.cat([self.maturity_after.new_ones(least), self.maturity_after[1 : self.slots + 1]])
        return Shown(before, after[rows, place], queries, maturity)
