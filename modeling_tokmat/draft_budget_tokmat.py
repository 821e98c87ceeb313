# Copyright 2026 The TokMat authors. Licensed under the Apache License, Version 2.0.
"""How many drafts are worth their positions: the economics of `commit="verified"`, in plain numbers."""


class DraftBudget:
    """
    Learns how often drafts come true, and tells how many promise most tokens per time.

    n drafts with n slots behind every number of them that may come true cost n + (n + 1) n positions. At first, and
    now and then when none was worth it, single drafts are tried all the same; where positions cost so much that even
    perfect drafts would not pay, never.

    Args:
        longest: how many drafts there may be at most.
        rows: of the batch; each costs its own positions, and each step is as many chances to learn.
        wide: whether a forward is one of 32-bit weights or wider over a single position.
    """

    LONGEST = 3
    # A draft's chance to come true before any was seen, for how many that counts, and how many are remembered.
    FIRST_CHANCE, FIRST_SEEN, MEMORY = 0.2, 4, 32
    TRIES, FIRST_REST, LONGEST_REST = 5, 16, 128  # drafts in a try, steps per row without drafts after they failed
    POSITION_COST = 0.01  # of one more position per row, in forwards over one position
    DRAFT_COST = 0.1  # of drafting at all, whatever the length
    WIDE_COST = 0.3  # the same with 32-bit weights at batch 1: matrix-vector kernels are fast there

    def __init__(self, longest: int, rows: int = 1, wide: bool = False):
        self.rows, self.position_cost = rows, self.POSITION_COST * rows
        self.fixed_cost = self.WIDE_COST if wide and rows == 1 else self.DRAFT_COST
        worth_it = self.positions(1) * self.position_cost + self.fixed_cost < 1  # as a single draft gains one token
        self.longest = longest if worth_it else 0
        self.chances, self.seen = [self.FIRST_CHANCE] * self.longest, [self.FIRST_SEEN] * self.longest
        self.tries, self.rest = self.TRIES if self.longest else 0, 0
        self.next_rest = self.FIRST_REST * rows

    @classmethod
    def most(cls, tail_length: int) -> int:
        """How many drafts a tail can give."""
        return min(tail_length - 1, cls.LONGEST)

    @staticmethod
    def positions(length: int) -> int:
        """What `length` drafts and a branch as long behind each number of them feed."""
        return length + (length + 1) * length

    def chance(self, place: int) -> float:
        """That the draft at a place comes true once those before it have; until it was seen, as those."""
        return self.chances[place] if place == 0 or self.seen[place] > self.FIRST_SEEN else self.chance(place - 1)

    def best_length(self) -> int:
        """How many drafts promise most tokens per time."""
        best, most, tokens, chance = 0, 1.0, 1.0, 1.0
        for length in range(1, self.longest + 1):
            chance *= self.chance(length - 1)
            tokens += chance
            gain = tokens / (1 + self.fixed_cost + self.position_cost * self.positions(length))
            if gain > most:
                best, most = length, gain
        return max(best, 1) if self.tries else best

    def length(self) -> int:
        """How many drafts this step should look for; none while it rests."""
        return 0 if self.rest else self.best_length()

    def learn(self, drafts: int, counts: list[int]) -> None:
        """After a step.

        Args:
            drafts: how many were fed. counts: tokens committed by each row that still runs, at least 1 each.
        """
        for place in range(drafts):
            reached = [count > place + 1 for count in counts if count > place]
            if reached:
                before, true = self.chance(place), sum(reached) / len(reached)
                self.seen[place] = min(self.seen[place] + len(reached), self.MEMORY)
                self.chances[place] = before + (true - before) * len(reached) / self.seen[place]
        if drafts and self.tries:
            self.tries -= 1
        if self.rest:
            self.rest -= 1
            if self.rest == 0 and self.longest:
                self.tries = self.TRIES
        elif self.best_length() == 0:
            self.rest = self.next_rest
            self.next_rest = min(2 * self.next_rest, self.LONGEST_REST * self.rows)
        elif drafts and max(counts, default=0) > 1:
            self.next_rest = self.FIRST_REST * self.rows
