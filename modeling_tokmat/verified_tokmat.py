# Copyright 2026 The TokMat authors. Licensed under the Apache License, Version 2.0.
"""Lossless multi-token steps: a run of the decoding loop whose tail drafts what is then checked."""

import torch

from .commitment_tokmat import VerifiedCommit
from .decoding_tokmat import Run
from .maturation_tokmat import update_tail


class VerifiedRun(Run):
    """
    `commit="verified"`: the text of tail_length = 1, alpha_max = 1, in fewer forwards where the tail knows it.

    A step feeds [committed ; draft ; branches]. The draft is the tail's nearest tokens as exact embeddings, told
    maturity 1 and K = 1 like everything committed, so z^ at the last committed vector and at each draft that came true
    are the reference's own: slot by slot, what the reference would commit is committed, up to the first disagreement.
    Branch i holds the tail's vectors behind the first i drafts, told K and their schedule's maturities, and sees those
    drafts and itself alone: whatever number of drafts comes true, one branch has continued from just there, and finds
    the next draft.

    n drafts with n slots per branch cost n + (n + 1) n positions. n is what promises most tokens per time, going by
    how often drafts came true. At first, and now and then when none was worth it, single drafts are tried all the
    same; where positions cost so much that even perfect drafts would not pay, never.
    """

    LONGEST_DRAFT = 3
    # A draft's chance to come true before any was seen, for how many that counts, and how many are remembered.
    FIRST_CHANCE, FIRST_SEEN, MEMORY = 0.2, 4, 32
    TRIES, FIRST_REST, LONGEST_REST = 5, 16, 128  # drafts in a try, steps per row without drafts after they failed
    POSITION_COST = 0.01  # of one more position per row, in forwards over one position
    DRAFT_COST = 0.1  # of drafting at all, whatever the length
    WIDE_COST = 0.3  # of drafting at all with 32-bit weights at batch 1: matrix-vector kernels are fast there

    def __init__(self, *args):
        super().__init__(*args)
        self.cost = self.POSITION_COST * self.batch_size
        wide = torch.finfo(self.model.dtype).bits > 16 and self.batch_size == 1
        self.fixed_cost = self.WIDE_COST if wide else self.DRAFT_COST
        longest = self.longest_draft(self.settings.tail_length) if 3 * self.cost + self.fixed_cost < 1 else 0
        self.chances = [self.FIRST_CHANCE] * longest
        self.seen = [self.FIRST_SEEN] * longest
        self.tries, self.rest, self.next_rest = self.TRIES if longest else 0, 0, self.FIRST_REST * self.batch_size
        self.drafts = torch.empty(self.batch_size, 0, dtype=torch.long, device=self.device)
        # Branches reach this far beyond slot K, where embryos are.
        beyond = self.embryos([self.settings.tail_length] * self.batch_size, longest + 1)
        self.tail = torch.cat([self.tail, beyond], dim=1)
        self.layouts = {}

    @classmethod
    def longest_draft(cls, tail_length: int) -> int:
        return min(tail_length - 1, cls.LONGEST_DRAFT)

    def make_rule(self):
        return VerifiedCommit()

    def told_length(self) -> int:
        return 1

    def chance(self, place: int) -> float:
        """That the draft at a place comes true once those before it have; until it was seen, as those."""
        return self.chances[place] if place == 0 or self.seen[place] > self.FIRST_SEEN else self.chance(place - 1)

    def best_length(self) -> int:
        """How many drafts promise most tokens per time."""
        best, most, tokens, chance = 0, 1.0, 1.0, 1.0
        for length in range(1, len(self.chances) + 1):
            chance *= self.chance(length - 1)
            tokens += chance
            gain = tokens / (1 + self.fixed_cost + self.cost * (length + (length + 1) * length))
            if gain > most:
                best, most = length, gain
        return max(best, 1) if self.tries else best

    def layout(self, own: int, hard: int, soft: int):
        """(conditions, places after the last committed position, who sees whom) of a pass."""
        if (own, hard, soft) not in self.layouts:
            if self.cache is None:  # then all that is committed is fed again, and no layout recurs
                self.layouts.clear()
            told = self.maturity_before.new_ones(1, own + hard + (hard + 1) * soft)
            told[0, own + hard :] = self.maturity_before[:soft].repeat(hard + 1)
            lengths = torch.ones_like(told, dtype=torch.long)
            lengths[0, own + hard :] = self.settings.tail_length
            branch = torch.arange(hard + 1, device=self.device).repeat_interleave(soft)
            slot = torch.arange(1, soft + 1, device=self.device).repeat(hard + 1)
            places = torch.cat([torch.arange(1, hard + 1, device=self.device), branch + slot])
            allowed = None
            if hard and soft:
                committed = own + hard
                allowed = torch.ones(2 * [committed + len(branch)], dtype=torch.bool, device=self.device).tril()
                drafts = torch.arange(1, hard + 1, device=self.device)
                allowed[committed:, own:committed] = drafts <= branch[:, None]
                allowed[committed:, committed:] &= branch == branch[:, None]
            self.layouts[own, hard, soft] = self.model.conditions(told, lengths if soft else 1), places, allowed
        return self.layouts[own, hard, soft]

    def read(self):
        committed, own = self.committed, self.committed.vectors.shape[1]
        remaining = committed.new_tokens - min(committed.counts)
        hard = self.fed = max(min(self.drafts.shape[1], remaining - 1), 0)
        soft = self.soft = 0 if self.rest else max(min(self.best_length(), remaining - 2), 0)
        self.slots_fed = hard + (hard + 1) * soft
        self.rule.drafts = self.drafts[:, :hard]
        told, places, allowed = self.layout(own, hard, soft)
        drafts = self.vocabulary.embed(self.rule.drafts)
        branches = [self.tail[:, i : i + soft].to(drafts.dtype) for i in range(hard + 1)]
        slots = (committed.positions[:, -1:] + places).clamp(max=self.last_position)
        mask = committed.attention_mask(self.slots_fed) if allowed is None else None
        self.outputs = self.forward(
            torch.cat([committed.vectors, drafts, *branches], dim=1),
            told,
            torch.cat([committed.positions, slots], dim=1),
            mask if allowed is None else self.float_mask(allowed, self.slots_fed),
        )
        predicted = self.outputs.predicted_embeds[:, own - 1 :].to(self.dtype)
        if self.steps == 0:
            self.check_finite(predicted)
        return predicted

    def update(self, predicted):
        exact, soft = self.fed + 1, self.soft
        predicted, ahead = predicted[:, :exact], predicted[:, exact:]
        behind = [self.tail[:, i + 1 : i + 1 + soft] for i in range(exact)]
        # The tail behind each number of drafts that may come true.
        self.ahead = update_tail(torch.cat(behind, dim=1), ahead, self.eta[1 : soft + 1].repeat(exact))
        logits = self.vocabulary.scores(torch.cat([predicted, self.ahead], dim=1))
        self.logits = logits[:, :exact]
        # As argmax, which takes six times as long over several rows of bfloat16 on the CPU.
        self.found = logits[:, exact:].max(dim=-1).indices.view(self.batch_size, exact, soft)
        self.ahead = self.ahead.view(self.batch_size, exact, soft, self.dim)
        if self.trace is not None:  # which shows the exact slots, and the tail behind them all
            after = torch.cat([predicted, self.ahead[:, -1]], dim=1)
            before, rest = self.tail.split([exact + soft, self.tail.shape[1] - exact - soft], dim=1)
            self.change = (after - before).norm(dim=-1) / self.radius
            self.tail = torch.cat([after, rest], dim=1)

    def take_in(self, counts, vectors):
        self.committed.accepted(self.slots_fed, counts, vectors)

    def look_ahead(self, counts):
        rows, branch = slice(None), max(counts[0] - 1, 0)
        if min(counts) != max(counts):
            branch = torch.tensor([max(count - 1, 0) for count in counts], device=self.device)
            rows = torch.arange(self.batch_size, device=self.device)
        self.tail[:, : self.soft] = self.ahead[rows, branch]
        self.drafts = self.found[rows, branch]
        self.adapt([count for count in counts if count > 0])

    def adapt(self, counts: list[int]) -> None:
        """Learn from the rows that still run how often drafts come true, and rest when they do not pay."""
        for place in range(self.fed):
            reached = [count > place + 1 for count in counts if count > place]
            if reached:
                share = sum(reached) / len(reached)
                before = self.chance(place)
                self.seen[place] = min(self.seen[place] + len(reached), self.MEMORY)
                self.chances[place] = before + (share - before) * len(reached) / self.seen[place]
        if self.fed and self.tries:
            self.tries -= 1
        if self.rest:
            self.rest -= 1
            if self.rest == 0 and self.chances:
                self.tries = self.TRIES
        elif self.best_length() == 0:
            self.rest, longest = self.next_rest, self.LONGEST_REST * self.batch_size
            self.next_rest = min(2 * self.next_rest, longest)
        elif self.fed and max(counts, default=0) > 1:
            self.next_rest = self.FIRST_REST * self.batch_size
