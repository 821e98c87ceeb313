# Copyright 2026 The TokMat authors. Licensed under the Apache License, Version 2.0.
"""How many drafts are worth their positions, and where they come from besides the tail: `commit="verified"` in plain
numbers."""

from .drafts_tokmat import TAIL, Arm, DraftTree

AGREED, BESIDE, ALONE = "agreed", "beside", "alone"  # what the tail says first, of what a repeated n-gram does


class Chances:
    """
    How often the drafts of one source come true, by place, once those before them have.

    Args:
        places: how many drafts it may give. first: the chance of a draft before any was seen. later: the same of
            those behind the first; None for that of the one before it, as it is learnt.
    """

    FIRST_SEEN, MEMORY = 4, 32  # how many seen drafts the first chance counts for, and how many are remembered

    def __init__(self, places: int, first: float, later: float | None = None):
        self.chances, self.seen = [first] + [later or first] * (places - 1), [self.FIRST_SEEN] * places
        self.known = later is not None

    def of_all(self, length: int) -> list[float]:
        """That the drafts at the first places come true, each with those before it."""
        found, chance = [], 1.0
        for place in range(length):
            chance *= self.chance(place)
            found.append(chance)
        return found

    def chance(self, place: int) -> float:
        """That the draft at a place comes true, once those before it have."""
        seen = place == 0 or self.known or self.seen[place] > self.FIRST_SEEN
        return self.chances[place] if seen else self.chance(place - 1)

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


class Rate:
    """Tokens per time lately, in forwards over one position; 1 at first, as of text without drafts."""

    MEMORY = 32  # passes

    def __init__(self):
        self.tokens, self.time = self.MEMORY / 4, self.MEMORY / 4

    @property
    def value(self) -> float:
        return self.tokens / self.time

    def learn(self, tokens: float, time: float) -> None:
        kept = 1 - 1 / self.MEMORY
        self.tokens, self.time = kept * self.tokens + tokens, kept * self.time + time


class DraftBudget:
    """
    Learns how often drafts come true, and tells which of them, and which slots behind them, promise most tokens per
    time.

    A draft is worth the chance that it is committed. A slot behind it is worth the chance that the text goes on from
    just there, times the chance that what the slot finds is committed at the next step. Both are fed where that is
    more than their positions would bring at the present rate of tokens per time, which is another one where a
    repeated n-gram drafts. At first, and now and then when no slot was worth it, they are tried all the same, but
    for where a repeated n-gram drafts; where a pass with slots costs so much that the tail would not pay, never.

    Args:
        longest: how far the tail may draft at most.
        rows: of the batch; each costs its own positions, and each step is as many chances to learn.
        wide: whether a forward is one of 32-bit weights or wider over a single position.
        large: whether those weights are so many that such a forward waits for them (`LARGE` and more).
        foreseeing: whether the tail was trained to know what comes next.
        adapted: whether adapters act in the tail, whose small products cost time of their own.
        accelerated: whether an accelerator runs the passes, which then are always as wide, so that one shape can be
            compiled: every branch has all slots.
    """

    LONGEST, LONGEST_LOOKUP, MOST = 4, 10, 24  # slots, tokens of a repeated n-gram, drafts in all
    WAYS, FEW_WAYS, CHEAP = 8, 4, 0.01  # of going on that are followed from slot to slot, by the price of a position
    FIRST_CHANCE, FORESEEING_CHANCE = 0.2, 0.6  # before any draft was seen
    # That what followed the same 1, 2 and 3 tokens before follows again, and that it then goes on so: about as counted
    # in 45 greedy texts of SmolLM2.
    LOOKUP_CHANCES, LOOKUP_LATER = {1: 0.2, 2: 0.5, 3: 0.65}, 0.75
    TRIES, FIRST_REST, LONGEST_REST = 4, 16, 128  # drafts in a try, steps per row without drafts after they failed
    LARGE = 50_000_000  # parameters
    # In forwards over one position. The price of a position is what text of 6M and 135M parameters was written
    # fastest at, on a CPU with AVX512 and bf16; what else a draft costs was measured there. Those of large models are
    # regressed on the seconds of 135M parameters in float32, with AVX2 alone and with AVX512.
    POSITION_COST = 0.02  # of one more position per row
    LARGE_POSITION_COST = 0.04  # the same of a large model with 32-bit weights at batch 1
    ACCELERATED_POSITION_COST = 0.0005  # the same on an accelerator, whose time goes to launches
    WIDEST = 0.25  # what a pass there may cost more
    DRAFT_COST = 0.1  # of drafting at all, whatever the length
    WIDE_COST = 0.3  # the same with 32-bit weights at batch 1: matrix-vector kernels are fast there
    LARGE_WIDE_COST = 0.65  # and if the model is large
    ADAPTED_COST, WIDE_ADAPTED_COST, LARGE_ADAPTED_COST = 0.35, 0.15, 0.2  # of slots where adapters act
    TAIL_GAIN = 0.95  # tokens beyond the first of a pass over drafts of a tail that knows what comes next, as measured

    def __init__(
        self, longest: int, rows=1, wide=False, foreseeing=False, adapted=False, accelerated=False, large=False
    ):
        self.rows, wide = rows, wide and rows == 1
        large = large and wide and not accelerated
        position = self.LARGE_POSITION_COST if large else self.POSITION_COST
        self.position_cost = (self.ACCELERATED_POSITION_COST if accelerated else position) * rows
        self.uniform = accelerated or self.position_cost == 0
        self.at_once = self.MOST
        if accelerated and self.position_cost:
            self.at_once = max(longest, min(self.MOST, int(self.WIDEST / (self.position_cost * (1 + longest)))))
        self.ways = self.WAYS if self.position_cost < self.CHEAP else self.FEW_WAYS
        self.draft_cost, slots = self.DRAFT_COST, self.ADAPTED_COST
        if wide:
            self.draft_cost, slots = self.WIDE_COST, self.WIDE_ADAPTED_COST
        if large:
            self.draft_cost, slots = self.LARGE_WIDE_COST, self.LARGE_ADAPTED_COST
        self.slots_cost = adapted * slots
        # With the only draft of a tail, two slots are fed. What a repeated n-gram proposes comes in chains, without.
        one, tail = self.position_cost + self.draft_cost, 2 * self.position_cost + self.slots_cost
        self.longest = longest if one + tail < self.TAIL_GAIN else 0
        self.longest_lookup = self.LONGEST_LOOKUP if one < 1 else 0
        first = self.FORESEEING_CHANCE if foreseeing else self.FIRST_CHANCE
        self.tail = Chances(self.longest, first)
        # Of the tokens that the tail finds beyond those that a repeated n-gram finds as well.
        self.beside = Chances(self.longest, self.FIRST_CHANCE)
        self.lookups: dict[Arm, Chances] = {}
        self.rates = {False: Rate(), True: Rate()}  # by whether a repeated n-gram drafts
        self.truth = Rate()  # drafts of the tail that came true, by how many its successor head promised
        self.tries, self.rest = self.TRIES if self.longest else 0, 0
        self.next_rest = self.FIRST_REST * rows

    @classmethod
    def most(cls, tail_length: int) -> int:
        """How many drafts in a row a tail can give."""
        return min(tail_length - 1, cls.LONGEST)

    @classmethod
    def most_positions(cls, tail_length: int, lookup: int) -> int:
        """The most that a pass may feed."""
        drafts = cls.MOST if tail_length > 1 else min(lookup, cls.MOST)
        return drafts + (drafts + 1) * cls.most(tail_length)

    def branch(self, chance: float, rate: float, true_of: list[float]) -> tuple[int, float]:
        """How many slots a branch is given that the text goes on from with this chance, and what they are worth, in
        tokens above their price; `true_of` each slot the chance that what it finds is committed."""
        price, slots, worth = rate * self.position_cost, 0, 0.0
        for true in true_of:
            more = chance * (true - price) - price  # what it finds is a draft, which has its price too
            if more <= 0:
                break
            slots, worth = slots + 1, worth + more
        return slots, worth

    def lookup(self, arm: Arm) -> Chances:
        """Of what a repeated n-gram proposes, by its length and what the tail says of it: where they agree, half of
        what would fail is gone; where they do not, half of what would come true."""
        if arm not in self.lookups:
            first = self.LOOKUP_CHANCES[arm[0]]
            first = {AGREED: (1 + first) / 2, BESIDE: first / 2, ALONE: first}[arm[1]]
            self.lookups[arm] = Chances(self.longest_lookup, first, self.LOOKUP_LATER)
        return self.lookups[arm]

    def believed(self, chance: float) -> float:
        """The chance of a draft, by what the successor head says of it, and by what came true of what it said."""
        return min(chance * self.truth.value, 1.0)

    def pays(self) -> bool:
        """Whether slots are worth their price where nothing else drafts, and text comes no slower than without."""
        rate = self.rates[False].value
        return rate >= 1 and self.branch(1.0, rate, self.tail.of_all(self.longest))[1] > rate * (
            self.draft_cost + self.slots_cost
        )

    def choose(self, tail: DraftTree, found: list[int], room: int, repeated: int = 2) -> DraftTree:
        """The drafts that a row is given, and the slots behind each of them and behind none.

        Args:
            tail: what the tail foresees. found: what followed the same tokens before, as [`PromptLookup`] has it.
            room: how many drafts may come true, one after another.
            repeated: how many tokens stood there before, when something was found.
        """
        found = found[: self.longest_lookup]
        if found:
            arm = repeated, (AGREED if tail.child(0, found[0]) == 1 else BESIDE) if len(tail) else ALONE
            tail = tail.with_chain(found, self.lookup(arm).of_all(len(found)), arm)
        given = tail, bool(found), room
        may_look = self.longest and not self.rest
        if may_look and self.uniform:
            return tail.kept(dict.fromkeys([0, *self._likeliest(tail, room)[: self.at_once]], self.longest))
        if may_look:
            looking, worth = self._chosen(*given, slots=True)
            if self.tries and not found:
                return tail.kept(looking)
            worth -= self.rates[bool(found)].value * (self.draft_cost + self.slots_cost)
        chosen, without = self._chosen(*given, slots=False)
        return tail.kept(looking if may_look and worth > without else chosen)

    @staticmethod
    def _likeliest(tail: DraftTree, room: int) -> list[int]:
        """The drafts that may come true, the likeliest first, none before that which it stands behind."""
        allowed = [place for place, depth in enumerate(tail.depths, start=1) if depth <= room]
        return sorted(allowed, key=lambda place: -tail.drafts[place - 1].chance)

    def _chosen(self, tail: DraftTree, found: bool, room: int, slots: bool) -> tuple[dict[int, int], float]:
        """Slots by draft, 0 for none, and what all that is worth, in tokens above its price, at the best."""
        rate, trying = self.rates[found].value, slots and self.tries > 0 and not found
        price = rate * self.position_cost
        # Behind what a repeated n-gram proposed, it will most likely propose again.
        usual, beside, looked_up = self.tail.of_all(self.longest), self.beside.of_all(self.longest), tail.looked_up()

        def branch(place, chance):
            true_of = beside if place in looked_up else usual
            return (chance, *(self.branch(max(chance, 0.0), rate, true_of) if slots else (0, 0.0)))

        ends = {0: branch(0, 1.0)}  # the chance that the text goes on from there, slots, and what those are worth
        worth = ends[0][2] if slots else -rate * self.draft_cost
        for place in self._likeliest(tail, room):
            _, parent, chance, _ = tail.drafts[place - 1]
            own, _, before = ends[parent]
            left, behind = branch(parent, own - chance), branch(place, chance)
            more = chance - price + left[2] + behind[2] - before
            # What repeats would be found at the next step as well, so that the tail loses nothing by it now.
            gain = chance - price if place in looked_up else more
            if len(ends) > self.at_once or (gain <= 0 and not (trying and len(ends) == 1)):
                break
            ends[parent], ends[place] = left, behind
            worth += more
        if worth <= 0 and not slots:
            return {0: 0}, 0.0
        return {place: max(fed, int(trying)) for place, (_, fed, _) in ends.items()}, worth

    def learn(self, trees: list[DraftTree], walks: list[list[int]]) -> None:
        """After a step, of the rows that still run.

        Args:
            trees: the drafts of each. walks: those of them that came true, one after another, counted from 1.
        """
        for tree, walk in zip(trees, walks):
            own = max((depth for depth, draft in zip(tree.depths, tree.drafts) if draft.source == TAIL), default=0)
            if tree.arm:
                places = tree.looked_up()
                true = len(set(places) & set(walk))
                self.lookup(tree.arm).learn([len(places)], [1 + true])
                self.beside.learn([own], [1 + len(walk) - true])
            else:
                self.tail.learn([own], [1 + len(walk)])
                self.truth.learn(len(walk), sum(draft.chance for draft in tree.drafts) / self.truth.value)
            fed, slots = len(tree) + sum(tree.slots), any(tree.slots)
            time = 1 + fed * self.position_cost + (fed > 0) * self.draft_cost + slots * self.slots_cost
            self.rates[bool(tree.found)].learn(1 + len(walk), time)
        drafted = any(map(len, trees))
        if drafted and self.tries:
            self.tries -= 1
        if self.rest:
            self.rest -= 1
            if self.rest == 0 and self.longest:
                self.tries = self.TRIES
        elif self.tries == 0 and not self.pays():
            self.rest, self.rates[False] = self.next_rest, Rate()
            self.next_rest = min(2 * self.next_rest, self.LONGEST_REST * self.rows)
        elif drafted and any(walks):
            self.next_rest = self.FIRST_REST * self.rows


class PromptLookup:
    """
    What followed the last tokens of a row when they stood in it before: a repeated n-gram proposes how it goes on.

    Args:
        most: tokens that are proposed at most.
    """

    LENGTHS = tuple(sorted(DraftBudget.LOOKUP_CHANCES, reverse=True))  # of the n-grams

    def __init__(self, most: int):
        self.most, self.read = most, 0
        self.ends: dict[tuple[int, ...], int] = {}  # behind which place an n-gram stood last

    def propose(self, ids: list[int]) -> tuple[list[int], int]:
        """`ids`: the row as it is now; it only ever grows. Returns `most` ids and the length of the longest n-gram
        that repeats, or none and 0. Where the row ends first, what was found goes on as it began: a loop."""
        for end in range(self.read + 1, len(ids)):  # but for the last n-grams, which are those to be found
            for length in self.LENGTHS:
                if end >= length:
                    self.ends[tuple(ids[end - length : end])] = end
        self.read = max(len(ids) - 1, 0)
        for length in self.LENGTHS:
            end = self.ends.get(tuple(ids[-length:])) if len(ids) > length else None
            if end is not None:
                period = ids[end : end + self.most]
                return [period[place % len(period)] for place in range(self.most)], length
        return [], 0
