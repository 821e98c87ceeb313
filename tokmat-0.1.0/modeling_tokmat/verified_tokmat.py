# Copyright 2026 The TokMat authors. Licensed under the Apache License, Version 2.0.
"""Lossless multi-token steps: a tail that drafts what is then checked."""

from functools import partial
from math import exp

import torch

from .committed_tokmat import REMEMBERED
from .decoding_tokmat import accelerated
from .draft_budget_tokmat import DraftBudget, PromptLookup
from .drafts_tokmat import LOOKUP, TAIL, Draft, DraftTree
from .maturation_tokmat import update_tail
from .tail_tokmat import Feed, Shown, Tail

AT_ONCE = 32  # positions that are scored together, though one branch alone is needed: the table is then read once
SUCCESSORS = 64  # likeliest tokens of a slot that the successor head chooses among


class VerifiedTail(Tail):
    """
    `commit="verified"`: the text of tail_length = 1, alpha_max = 1, in fewer forwards where the tail knows it.

    A step feeds [committed ; drafts ; branches]. Drafts are tokens that the tail holds likely, as exact embeddings,
    told maturity 1 and K = 1 like everything committed; they form a tree, each seeing those before it alone. So z^ at
    the last committed vector and at each draft that came true are the reference's own: what the reference would commit
    is committed, draft by draft, until none says so. Behind every draft, and behind none, a branch holds the tail's
    vectors, told K and their schedule's maturities, and sees that draft, those before it and itself: whichever drafts
    come true, one branch has continued from just there, and finds the next drafts. How many slots it has, the budget
    says: few where the text is unlikely to go on from there.
    """

    came_true: dict[str, int]
    lockstep = False

    def __init__(self, *args):
        super().__init__(*args)
        wide = torch.finfo(self.model.dtype).bits > 16
        most, foreseeing = DraftBudget.most(self.settings.tail_length), self.model.config.parallel_tails > 0
        adapted, self.accelerated = self.model.tail_adapters is not None, accelerated(self.device)
        # A tail that somebody looks at is there, whatever it costs.
        large = self.model.num_parameters() >= DraftBudget.LARGE and not self.watched
        self.budget = DraftBudget(most, self.batch_size, wide, foreseeing, adapted, self.accelerated, large)
        looked_up = self.settings.prompt_lookup_num_tokens or 0
        self.lookups = [PromptLookup(looked_up) for _ in range(self.batch_size)]
        self.trees = [self.budget.choose(DraftTree(), [], 0)] * self.batch_size
        self.walks = [[0]] * self.batch_size  # the drafts that came true, counted from 1, behind a 0
        self.came_true = {TAIL: 0, LOOKUP: 0}  # drafts by where they came from
        # Branches reach this far beyond slot K, where embryos are.
        reach = max(self.budget.longest, looked_up) + 1
        beyond = self.noise.embryos([self.settings.tail_length] * self.batch_size, reach)
        self.vectors = torch.cat([self.vectors, beyond], dim=1)
        if self._queries is not None:
            self._queries = torch.cat([self._queries, torch.zeros_like(beyond)], dim=1)
        # Of one committed position, and of all slots that a branch may have.
        told = torch.cat([self.maturity_before.new_ones(1), self.maturity_before[: self.budget.longest]])[None]
        lengths = torch.full_like(told, self.settings.tail_length, dtype=torch.long)
        lengths[0, 0] = 1
        self._conditions, self._shapes = self.model.conditions(told, lengths, 1), {}

    @property
    def told_length(self) -> int:
        return 1

    @property
    def most_drafts(self) -> int:
        """Of the tail alone: without a successor head it says one thing only."""
        return self.budget.longest if self.model.successor is None else self.budget.at_once

    @property
    def candidates(self) -> int:
        return max(tree.depth for tree in self.trees) + 1

    def feed(self, committed):
        own = committed.vectors.shape[1]
        self.drafts = drafts = max(map(len, self.trees))
        if drafts and self.accelerated:  # of one shape, so that it can be compiled
            self.drafts = drafts = max(drafts, self.most_drafts)
        parents, branches, places = self._shape_of_trees(self.within(self.budget.longest, committed.remaining - 2))
        ids = [tree.tokens + [0] * (drafts - len(tree)) for tree in self.trees]
        exact = self.vocabulary.embed(torch.tensor(ids, dtype=torch.long, device=self.device).view(len(ids), drafts))
        slots = self._slot.shape[1]
        # A row of drafts without branches is text like any other, and needs no mask of its own.
        plain = drafts == 0 or (slots == 0 and all(tree.depth == len(tree) for tree in self.trees))
        return Feed(
            torch.cat([exact, self._behind(0).to(exact.dtype)], dim=1),
            committed.positions_after(places),
            self._conditions.at(own + drafts, self._slot),
            committed.attention_mask(drafts + slots)
            if plain or not drafts
            else committed.branches_mask(parents, branches),
            usual=own == 1 and drafts == self.most_drafts and slots == (1 + drafts) * self.budget.longest,
        )

    def _shape_of_trees(self, most: int):
        """Per row, or once if all are alike, the parents of drafts and the branches of slots; and the places of both
        after the last committed position, (batch or 1, n). Of `most` slots that a branch may have.

        What fills a row up hangs on nothing, and nothing hangs on it.
        """
        lengths = [[min(slots, most) for slots in tree.slots] for tree in self.trees]
        missing = [self.drafts - len(tree) for tree in self.trees]
        if self.accelerated and most:
            lengths = [row + [most] * more for row, more in zip(lengths, missing)]
        parents = tuple(tree.parents + (0,) * more for tree, more in zip(self.trees, missing))
        self.lengths = lengths
        shape = parents, tuple(map(tuple, lengths))
        if shape not in self._shapes:
            if len(self._shapes) == REMEMBERED:
                self._shapes.clear()
            self._shapes[shape] = self._new_shape(*shape)
        parents, branches, places, self._slot, self._index = self._shapes[shape]
        return parents, branches, places

    def _new_shape(self, parents, lengths):
        if len(set(zip(parents, lengths))) == 1:
            parents, lengths = parents[:1], lengths[:1]
        most, branches, slots, places, index = max(map(sum, lengths)), [], [], [], []
        for row, of_each in zip(parents, lengths):
            depths = [0]
            for parent in row:
                depths.append(depths[parent] + 1)
            pairs = [(branch, slot) for branch, length in enumerate(of_each) for slot in range(length)]
            pairs += [(0, 0)] * (most - len(pairs))
            branches.append(tuple(branch for branch, _ in pairs))
            slots.append([slot for _, slot in pairs])
            index.append([depths[branch] + slot for branch, slot in pairs])
            places.append(depths[1:] + [place + 1 for place in index[-1]])
        as_long = partial(torch.tensor, dtype=torch.long, device=self.device)
        return parents, tuple(branches), as_long(places), as_long(slots), as_long(index)

    def _behind(self, count: int) -> torch.Tensor:
        """The tail's vectors that all branches hold, `count` places further on, (batch, slots, d)."""
        index = self._index + count
        if len(index) == 1:
            return self.vectors[:, index[0]]
        return self.vectors.gather(1, index[..., None].expand(-1, -1, self.vectors.shape[-1]))

    def update(self, predicted):
        exact = self.drafts + 1
        self.walks = [[0] for _ in self.trees]
        self.predicted, ahead = predicted[:, :exact], predicted[:, exact:]
        if self.vocabulary.one_space:
            ahead = update_tail(self._behind(1), ahead, self.eta[1 + self._slot])
            predicted = torch.cat([self.predicted, ahead], dim=1)
        together = predicted.shape[1] <= AT_ONCE
        logits = self.vocabulary.scores(predicted if together else self.predicted)
        self.logits = logits[:, :exact]
        self.ahead, self.ahead_logits = ahead, logits[:, exact:] if together else None

    def accepts(self, slot, rows, tokens):
        """Slot 1, and each further slot as long as the token committed before it is a draft that its prediction was
        made from."""
        if slot == 0:
            return rows
        found = [False] * self.batch_size
        for row, (token, runs) in enumerate(zip(tokens.tolist(), rows.tolist())):
            draft = self.trees[row].child(self.walks[row][-1], token) if runs else None
            if draft is not None:
                self.walks[row].append(draft)
                found[row] = True
        return torch.tensor(found, device=self.device)

    def logits_of(self, slot):
        return self._where_walks_end(self.logits)

    def _where_walks_end(self, values: torch.Tensor) -> torch.Tensor:
        """Of every row what belongs to the draft that came true last: (batch, 1 + drafts, ...) -> (batch, ...)."""
        places = [walk[-1] for walk in self.walks]
        if self.batch_size == 1:
            return values[:, places[0]]
        return values[torch.arange(self.batch_size, device=self.device), torch.tensor(places, device=self.device)]

    def _found(self) -> list[int]:
        """How many slots each row's branch that came true has."""
        return [row[walk[-1]] for row, walk in zip(self.lengths, self.walks)]

    def _branches_that_came_true(self, slots: int, *values: torch.Tensor) -> list[torch.Tensor]:
        """Of every row the first slots of the branch behind the draft that came true last: (batch, all slots, ...) ->
        (batch, slots, ...). Branches that have fewer are filled up with what means nothing."""
        starts = [sum(row[: walk[-1]]) for row, walk in zip(self.lengths, self.walks)]
        if self.batch_size == 1:
            return [value[:, starts[0] : starts[0] + slots] for value in values]
        rows = torch.arange(self.batch_size, device=self.device)[:, None]
        index = torch.tensor(starts, device=self.device)[:, None] + torch.arange(slots, device=self.device)
        return [value[rows, index.clamp(max=value.shape[1] - 1)] for value in values]

    def fed_right(self):
        return [[draft - 1 for draft in walk[1:]] for walk in self.walks]

    def move_up(self, counts, committed):
        super().move_up(counts, committed)
        found = self._found()
        longest, self.slots = max(found), min(found)
        known = [] if self.ahead_logits is None else [self.ahead_logits]
        ahead, *known = self._branches_that_came_true(longest, self.ahead, *known)
        logits = known[0] if known else self.vocabulary.scores(ahead)
        running = [row for row, count in enumerate(counts) if count > 0]
        walks = [self.walks[row][1:] for row in running]
        self.budget.learn([self.trees[row] for row in running], walks)
        for row, walk in zip(running, walks):
            looked_up = len(set(walk) & set(self.trees[row].looked_up()))
            self.came_true[LOOKUP] += looked_up
            self.came_true[TAIL] += len(walk) - looked_up
        self.trees = self.propose(ahead, logits, committed)
        if longest == 0:
            return
        queries, moved = ahead, ahead
        if not self.vocabulary.one_space:
            inputs = self.vocabulary.as_inputs(ahead, logits)
            moved = update_tail(self.vectors[:, :longest], inputs, self.eta[1 : longest + 1])
        if self.slots < longest:
            index = torch.arange(longest, device=self.device)
            own = (index < torch.tensor(found, device=self.device)[:, None])[..., None]
            moved = torch.where(own, moved, self.vectors[:, :longest])
            queries = torch.where(own, queries, self.queries[:, :longest])
        self.vectors[:, :longest], self.queries[:, :longest] = moved, queries

    def propose(self, ahead, logits, committed) -> list[DraftTree]:
        """Every row's drafts of the next step: what the tail foresees, and what followed the same tokens before.

        Args:
            ahead, logits: of the branch that came true, (batch, slots, d) and (batch, slots, V).
            committed: a [`Committed`].
        """
        trees = []
        for row, tree in enumerate(self.foreseen(ahead, logits, committed.last_vector)):
            found, repeated = [], 0
            if self.settings.prompt_lookup_num_tokens:
                found, repeated = self.lookups[row].propose(committed.ids[row, : committed.length(row)].tolist())
            trees.append(self.budget.choose(tree, found, committed.remaining - 1, repeated))
        return trees

    def foreseen(self, ahead, logits, last) -> list[DraftTree]:
        """What every row's branch that came true holds likely: the nearest token of each slot; or, where there is a
        successor head, the likeliest ways through its slots, each token after the one before it (a beam).

        Args:
            ahead, logits: as for `propose`. last: the vector of the token committed last, (batch, d).
        """
        successor, vocabulary, found = self.model.successor, self.vocabulary, self._found()
        if successor is None or max(found) == 0:
            # As argmax, which takes six times as long over several rows of bfloat16 on the CPU.
            nearest, chances = logits.max(dim=-1).indices.tolist(), self.budget.tail.of_all(max(found))
            return [DraftTree(map(Draft, row, range(own), chances)) for row, own in zip(nearest, found)]
        likeliest = logits.topk(min(SUCCESSORS, logits.shape[-1]), dim=-1).indices
        keys, ways = vocabulary.keys_of(likeliest).to(ahead.dtype), []  # small products are slow in bfloat16
        previous, chance, first = last[:, None], torch.zeros_like(ahead[:, 0, :1]), 0
        for slot in range(max(found)):
            queries = successor(ahead[:, slot, None].expand(-1, previous.shape[1], -1), previous, vocabulary.radius)
            scores = vocabulary.scores_among(queries, likeliest[:, slot, None], keys[:, slot])
            chances = (chance[..., None] + torch.log_softmax(scores, dim=-1)).flatten(1)
            chance, place = chances.topk(min(self.budget.ways, chances.shape[1]), dim=-1)
            tokens = likeliest[:, slot].gather(1, place % scores.shape[-1])
            ways.append((tokens, first + place // scores.shape[-1], chance))
            previous, first = vocabulary.embed(tokens), first + (previous.shape[1] if slot else 1)
        drafts = [torch.cat(level, dim=1).double() for level in zip(*ways)]
        rows = torch.stack(drafts, dim=-1).tolist()  # to the host at once
        ends = [sum(tokens.shape[1] for tokens, _, _ in ways[:own]) for own in found]
        return [
            DraftTree(
                Draft(int(id_), int(parent), self.budget.believed(exp(chance))) for id_, parent, chance in row[:end]
            )
            for row, end in zip(rows, ends)
        ]

    def nearest_tokens(self, remaining):
        """As of any tail, for the slots that the last step looked for: those behind them hold noise."""
        return super().nearest_tokens(min(remaining, self.slots))

    def shown(self, counts):
        """The exact slots that were committed, and behind them the branch that came true; of rows that committed
        different numbers as many as all of them have. What is exact does not mature: its maturity is 1."""
        least, slots = min(count for count in counts if count), min(self._found())
        taken, exact = [max(count, least) for count in counts], self.drafts + 1
        branch = list(range(exact, exact + slots))
        places = [((walk + [0] * least)[:count] + branch)[: least + slots] for walk, count in zip(self.walks, taken)]
        place = torch.tensor(places, device=self.device)
        rows = torch.arange(self.batch_size, device=self.device)[:, None]
        ahead = self._branches_that_came_true(slots, self.ahead)[0]
        before, after = self.vectors[:, : least + slots], torch.cat([self.predicted, ahead], dim=1)
        queries = after[rows, place]
        if not self.vocabulary.one_space:
            ends = torch.tensor(taken, device=self.device)[:, None]
            behind = self.vectors[rows, ends + torch.arange(slots, device=self.device)]
            moved = update_tail(behind, self.vocabulary.as_inputs(ahead), self.eta[1 : slots + 1])
            after = torch.cat([self.vocabulary.as_inputs(self.predicted, self.logits), moved], dim=1)
        maturity = torch.cat([self.maturity_after.new_ones(least), self.maturity_after[1 : slots + 1]])
        return Shown(before, after[rows, place], queries, maturity)
