# Copyright 2026 The TokMat authors. Licensed under the Apache License, Version 2.0.
"""How many drafts are worth their positions, and where they come from besides the tail: `commit="verified"` in plain
numbers."""

from .drafts_tokmat import LOOKUP, TAIL, DraftTree

AGREED = "agreed"


class Chances:
    """
    How often the drafts of one source come true, by place, once those before them have.

    Args:
        places: how many drafts it may give. first: the chance of a draft before any was seen.
    """

    FIRST_SEEN, MEMORY = 4, 32  # how many seen drafts the first chance counts for, and how many are remembered

    def __init__(self, places: int, first: float):
        self.chances, self.seen = [first] * places, [self.FIRST_SEEN] * places

    def of_all(self, length: int) -> list[float]:
        """That the drafts at the first places come true, each with those before it."""
        found, chance = [], 1.0
        for place in range(length):
            chance *= self.chance(place)
            found.append(chance)
        return found

    def chance(self, place: int) -> float:
        """That the draft at a place comes true; until one was seen there, as at the place before it."""
        return self.chances[place] if place == 0 or self.seen[place] > self.FIRST_SEEN else self.chance(place - 1)

    def learn(self, drafts: list[int], counts: list[int]) -> None:
        """After a step.

        Args:
            drafts: how many each row was given. counts: how many tokens it committed, at least 1.
        """
        for place in range(max(drafts, default=0)):
            reached = [count > place + 1 for given, count in zip(drafts, counts) if given > place and count > place]
            if reached:
                before, true = self.chance(place), sum(reached) / len(reached)
                self.seen[place] = min(self.seen[place] + len(reached), self.MEMORY)
                self.chances[place] = before + (true - before) * len(reached) / self.seen[place]


class DraftBudget:
    """
    Learns how often drafts come true, and tells which promise most tokens per time.

    n drafts with n slots behind each of them, and behind none, cost n + (n + 1) n positions. At first, and now and
    then when none was worth it, single drafts are tried all the same; where positions cost so much that even perfect
    drafts would not pay, never. Which drafts are fed, each step decides by their chances.

    Args:
        longest: how far the tail may draft at most.
        rows: of the batch; each costs its own positions, and each step is as many chances to learn.
        wide: whether a forward is one of 32-bit weights or wider over a single position.
        foreseeing: whether the tail was trained to know what comes next.
        adapted: whether adapters act in the tail, whose small products cost time of their own.
        accelerated: whether an accelerator runs the passes.
    """

    LONGEST, LONGEST_LOOKUP, MOST = 4, 10, 24  # slots, tokens of a repeated n-gram, drafts in all
    WAYS, FEW_WAYS, CHEAP = 8, 4, 0.01  # of going on that are followed from slot to slot, by the price of a position
    FIRST_CHANCE, FORESEEING_CHANCE, LOOKUP_CHANCE = 0.2, 0.6, 0.4  # before any draft was seen
    TRIES, FIRST_REST, LONGEST_REST = 5, 16, 128  # drafts in a try, steps per row without drafts after they failed
    # In forwards over one position. The price of a position is what text of 6M and 135M parameters was written
    # fastest at, on a CPU with AVX512 and bf16; what else a draft costs was measured there.
    POSITION_COST = 0.03  # of one more position per row
    ACCELERATED_POSITION_COST = 0.0005  # the same on an accelerator, whose time goes to launches
    WIDEST = 0.25  # what a pass there may cost more, being always as wide: one shape can be compiled
    DRAFT_COST = 0.1  # of drafting at all, whatever the length
    WIDE_COST = 0.3  # the same with 32-bit weights at batch 1: matrix-vector kernels are fast there
    ADAPTED_COST, WIDE_ADAPTED_COST = 0.35, 0.15  # more than that where adapters act

    def __init__(self, longest: int, rows=1, wide=False, foreseeing=False, adapted=False, accelerated=False):
        self.rows, wide = rows, wide and rows == 1
        self.position_cost = (self.ACCELERATED_POSITION_COST if accelerated else self.POSITION_COST) * rows
        self.at_once = self.MOST
        if accelerated and self.position_cost:
            self.at_once = max(longest, min(self.MOST, int(self.WIDEST / (self.position_cost * (1 + longest)))))
        self.ways = self.WAYS if self.position_cost < self.CHEAP else self.FEW_WAYS
        self.fixed_cost = self.WIDE_COST if wide else self.DRAFT_COST
        self.fixed_cost += adapted * (self.WIDE_ADAPTED_COST if wide else self.ADAPTED_COST)
        worth_it = self.positions(1) * self.position_cost + self.fixed_cost < 1  # as a single draft gains one token
        self.longest = longest if worth_it else 0
        self.longest_lookup = self.LONGEST_LOOKUP if worth_it else 0
        self.tail = Chances(self.longest, self.FORESEEING_CHANCE if foreseeing else self.FIRST_CHANCE)
        # A repeated n-gram is believed more where the tail agrees on what follows first.
        self.agreed = Chances(self.longest_lookup, self.FORESEEING_CHANCE)
        self.lookup = Chances(self.longest_lookup, self.LOOKUP_CHANCE)
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

    @classmethod
    def most_positions(cls, tail_length: int, lookup: int) -> int:
        """The most that a pass may feed."""
        drafts = cls.MOST if tail_length > 1 else min(lookup, cls.MOST)
        return drafts + (drafts + 1) * cls.most(tail_length)

    def best_length(self) -> int:
        """How many drafts of the tail promise most tokens per time."""
        best, most, tokens = 0, 1.0, 1.0
        for length, chance in enumerate(self.tail.of_all(self.longest), start=1):
            tokens += chance
            gain = tokens / (1 + self.fixed_cost + self.position_cost * self.positions(length))
            if gain > most:
                best, most = length, gain
        return max(best, 1) if self.tries else best

    def length(self) -> int:
        """How many drafts of the tail this step should look for; none while it rests."""
        return 0 if self.rest else self.best_length()

    def choose(self, tail: DraftTree, found: list[int], room: int) -> DraftTree:
        """The drafts that a row is given: the likeliest ones, as long as one more promises more tokens per time.

        Args:
            tail: what the tail foresees. found: what followed the same tokens before, as [`PromptLookup`] has it.
            room: how many drafts may come true, one after another.
        """
        found = found[: self.longest_lookup]
        if found:
            arm = AGREED if tail.child(0, found[0]) == 1 else LOOKUP
            chances = self.agreed if arm == AGREED else self.lookup
            tail = tail.with_chain(found, chances.of_all(len(found)), arm)
        slots, chosen = self.length(), []
        each, first = self.position_cost * (1 + slots), self.fixed_cost
        tokens, cost = 1.0, 1 + self.position_cost * slots
        if slots:  # branches are fed without any draft too
            first, cost = 0.0, cost + self.fixed_cost
        for place in sorted(range(1, len(tail) + 1), key=lambda place: -tail.drafts[place - 1].chance):
            chance, more = tail.drafts[place - 1].chance, each + (0 if chosen else first)
            trying = self.tries > 0 and not chosen
            if len(chosen) == self.at_once or (chance * cost < tokens * more and not trying):
                break
            if tail.depths[place - 1] <= room:
                chosen.append(place)
                tokens, cost = tokens + chance, cost + more
        return tail.kept(chosen)

    def learn(self, trees: list[DraftTree], walks: list[list[int]]) -> None:
        """After a step, of the rows that still run.

        Args:
            trees: the drafts of each. walks: those of them that came true, one after another, counted from 1.
        """
        given, true = [], []
        for tree, walk in zip(trees, walks):
            of_tail = [draft.source == TAIL for draft in tree.drafts]
            given.append(max((depth for depth, own in zip(tree.depths, of_tail) if own), default=0))
            true.append(1 + sum(of_tail[place - 1] for place in walk))
        self.tail.learn(given, true)
        for arm, chances in ((AGREED, self.agreed), (LOOKUP, self.lookup)):
            rows = [(tree.looked_up(), walk) for tree, walk in zip(trees, walks) if tree.arm == arm and tree.found]
            given = [len(places) for places, _ in rows]
            chances.learn(given, [1 + len(set(places) & set(walk)) for places, walk in rows])
        drafted = any(map(len, trees))
        if drafted and self.tries:
            self.tries -= 1
        if self.rest:
            self.rest -= 1
            if self.rest == 0 and self.longest:
                self.tries = self.TRIES
        elif self.best_length() == 0:
            self.rest = self.next_rest
            self.next_rest = min(2 * self.next_rest, self.LONGEST_REST * self.rows)
        elif drafted and any(walks):
            self.next_rest = self.FIRST_REST * self.rows


class PromptLookup:
    """
    What followed the last tokens of a row when they stood in it before: a repeated n-gram proposes how it goes on.

    Args:
        most: tokens that are proposed at most.
    """

    LENGTHS = (3, 2)  # of the n-grams, the longer one first

    def __init__(self, most: int):
        self.most, self.read = most, 0
        self.ends: dict[tuple[int, ...], int] = {}  # behind which place an n-gram stood last

    def propose(self, ids: list[int]) -> list[int]:
        """`ids`: the row as it is now; it only ever grows. Returns at most `most` ids, none if nothing repeats."""
        for end in range(self.read + 1, len(ids)):  # but for the last n-grams, which are those to be found
            for length in self.LENGTHS:
                if end >= length:
                    self.ends[tuple(ids[end - length : end])] = end
        self.read = max(len(ids) - 1, 0)
        for length in self.LENGTHS:
            end = self.ends.get(tuple(ids[-length:])) if len(ids) > length else None
            if end is not None:
                return ids[end : end + self.most]
        return []
