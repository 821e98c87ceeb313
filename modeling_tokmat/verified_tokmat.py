# Copyright 2026 The TokMat authors. Licensed under the Apache License, Version 2.0.
"""Lossless multi-token steps: a tail that drafts what is then checked."""

from math import exp

import torch

from .committed_tokmat import REMEMBERED
from .decoding_tokmat import accelerated
from .draft_budget_tokmat import DraftBudget, PromptLookup
from .drafts_tokmat import LOOKUP, TAIL, Draft, DraftTree
from .maturation_tokmat import update_tail
from .tail_tokmat import Feed, Shown, Tail

AT_ONCE = 32  # positions that are scored together, though one branch alone is needed: the table is then read once
SUCCESSORS = 32  # likeliest tokens of a slot that the successor head chooses among


class VerifiedTail(Tail):
    """
    `commit="verified"`: the text of tail_length = 1, alpha_max = 1, in fewer forwards where the tail knows it.

    A step feeds [committed ; drafts ; branches]. Drafts are tokens that the tail holds likely, as exact embeddings,
    told maturity 1 and K = 1 like everything committed; they form a tree, each seeing those before it alone. So z^ at
    the last committed vector and at each draft that came true are the reference's own: what the reference would commit
    is committed, draft by draft, until none says so. Behind every draft, and behind none, a branch holds the tail's
    vectors, told K and their schedule's maturities, and sees that draft, those before it and itself: whichever drafts
    come true, one branch has continued from just there, and finds the next drafts.
    """

    came_true: dict[str, int]
    lockstep = False

    def __init__(self, *args):
        super().__init__(*args)
        wide = torch.finfo(self.model.dtype).bits > 16
        most, foreseeing = DraftBudget.most(self.settings.tail_length), self.model.config.parallel_tails > 0
        adapted, self.accelerated = self.model.tail_adapters is not None, accelerated(self.device)
        self.budget = DraftBudget(most, self.batch_size, wide, foreseeing, adapted, self.accelerated)
        looked_up = self.settings.prompt_lookup_num_tokens or 0
        self.lookups = [PromptLookup(looked_up) for _ in range(self.batch_size)]
        self.trees = [DraftTree()] * self.batch_size
        self.walks = [[0]] * self.batch_size  # the drafts that came true, counted from 1, behind a 0
        self.came_true = {TAIL: 0, LOOKUP: 0}  # drafts by where they came from
        # Branches reach this far beyond slot K, where embryos are.
        reach = max(self.budget.longest, looked_up) + 1
        beyond = self.noise.embryos([self.settings.tail_length] * self.batch_size, reach)
        self.vectors = torch.cat([self.vectors, beyond], dim=1)
        if self._queries is not None:
            self._queries = torch.cat([self._queries, torch.zeros_like(beyond)], dim=1)
        self._conditions, self._shapes = {}, {}

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
        self.slots = slots = self.within(self.budget.length(), committed.remaining - 2)  # of each branch
        tokens, parents, places = self._shape_of_trees()
        exact = self.vocabulary.embed(tokens)
        branches = self._behind(0).to(exact.dtype)
        usual = own == 1 and slots == self.budget.longest
        # A row of drafts without branches is text like any other, and needs no mask of its own.
        plain = drafts == 0 or (slots == 0 and all(tree.depth == len(tree) for tree in self.trees))
        return Feed(
            torch.cat([exact, branches], dim=1),
            committed.positions_after(places),
            self._conditions_of(own, drafts, slots, committed.cache is not None),
            committed.attention_mask(drafts + slots)
            if plain or not drafts
            else committed.branches_mask(parents, slots),
            usual=usual and drafts == self.most_drafts,
        )

    def _shape_of_trees(self):
        """Ids of all rows' drafts, (batch, n); per row, or once if all are alike, the parents of drafts, and places of
        drafts and branches after the last committed position."""
        filled = [(tree, self.drafts - len(tree)) for tree in self.trees]
        # What fills a row up hangs on nothing, and nothing hangs on it.
        tokens = torch.tensor([tree.tokens + [0] * more for tree, more in filled], dtype=torch.long)
        parents = tuple(tree.parents + (0,) * more for tree, more in filled)
        if len(set(parents)) == 1:
            parents, filled = parents[:1], filled[:1]
        if (parents, self.slots) not in self._shapes:
            if len(self._shapes) == REMEMBERED:
                self._shapes.clear()
            depths = torch.tensor([[0, *tree.depths, *[1] * more] for tree, more in filled], device=self.device)
            index = (depths[..., None] + torch.arange(self.slots, device=self.device)).flatten(1)
            self._shapes[parents, self.slots] = torch.cat([depths[:, 1:], index + 1], dim=1), index
        places, self._index = self._shapes[parents, self.slots]
        return tokens.view(self.batch_size, self.drafts).to(self.device), parents, places

    def _behind(self, count: int) -> torch.Tensor:
        """The tail's vectors that all branches hold, `count` places further on, (batch, (drafts + 1) * slots, d)."""
        index = self._index + count
        if len(index) == 1:
            return self.vectors[:, index[0]]
        return self.vectors.gather(1, index[..., None].expand(-1, -1, self.vectors.shape[-1]))

    def _conditions_of(self, own: int, drafts: int, slots: int, recurs: bool):
        if (own, drafts, slots) not in self._conditions:
            if not recurs:  # without a cache, all that is committed is fed again
                self._conditions.clear()
            exact, branches = own + drafts, drafts + 1
            told = self.maturity_before.new_ones(1, exact + branches * slots)
            told[0, exact:] = self.maturity_before[:slots].repeat(branches)
            lengths = torch.ones_like(told, dtype=torch.long)
            lengths[0, exact:] = self.settings.tail_length
            self._conditions[own, drafts, slots] = self.model.conditions(told, lengths if slots else 1, exact)
        return self._conditions[own, drafts, slots]

    def update(self, predicted):
        exact, slots = self.drafts + 1, self.slots
        self.walks = [[0] for _ in self.trees]
        self.predicted, ahead = predicted[:, :exact], predicted[:, exact:]
        if self.vocabulary.one_space:
            ahead = update_tail(self._behind(1), ahead, self.eta[1 : slots + 1].repeat(exact))
            predicted = torch.cat([self.predicted, ahead], dim=1)
        together = predicted.shape[1] <= AT_ONCE
        logits = self.vocabulary.scores(predicted if together else self.predicted)
        self.logits = logits[:, :exact]
        self.ahead = ahead.view(self.batch_size, exact, slots, ahead.shape[-1])
        self.ahead_logits = logits[:, exact:].view(*self.ahead.shape[:-1], logits.shape[-1]) if together else None

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

    def fed_right(self):
        return [[draft - 1 for draft in walk[1:]] for walk in self.walks]

    def move_up(self, counts, committed):
        super().move_up(counts, committed)
        ahead, known = self._where_walks_end(self.ahead), self.ahead_logits
        logits = self.vocabulary.scores(ahead) if known is None else self._where_walks_end(known)
        running = [row for row, count in enumerate(counts) if count > 0]
        walks = [self.walks[row][1:] for row in running]
        self.budget.learn([self.trees[row] for row in running], walks)
        for row, walk in zip(running, walks):
            looked_up = len(set(walk) & set(self.trees[row].looked_up()))
            self.came_true[LOOKUP] += looked_up
            self.came_true[TAIL] += len(walk) - looked_up
        self.trees = self.propose(ahead, logits, committed)
        if self.vocabulary.one_space:
            self.vectors[:, : self.slots] = ahead
        elif self.slots:
            inputs = self.vocabulary.as_inputs(ahead, logits)
            moved = update_tail(self.vectors[:, : self.slots], inputs, self.eta[1 : self.slots + 1])
            self.vectors[:, : self.slots], self._queries[:, : self.slots] = moved, ahead

    def propose(self, ahead, logits, committed) -> list[DraftTree]:
        """Every row's drafts of the next step: what the tail foresees, and what followed the same tokens before.

        Args:
            ahead, logits: of the branch that came true, (batch, slots, d) and (batch, slots, V).
            committed: a [`Committed`].
        """
        trees = []
        for row, tree in enumerate(self.foreseen(ahead, logits, committed.last_vector)):
            found = []
            if self.settings.prompt_lookup_num_tokens:
                found = self.lookups[row].propose(committed.ids[row, : committed.length(row)].tolist())
            trees.append(self.budget.choose(tree, found, committed.remaining - 1))
        return trees

    def foreseen(self, ahead, logits, last) -> list[DraftTree]:
        """What every row's branch that came true holds likely: the nearest token of each slot; or, where there is a
        successor head, the likeliest ways through its slots, each token after the one before it (a beam).

        Args:
            ahead, logits: as for `propose`. last: the vector of the token committed last, (batch, d).
        """
        successor, vocabulary = self.model.successor, self.vocabulary
        if successor is None or self.slots == 0:
            # As argmax, which takes six times as long over several rows of bfloat16 on the CPU.
            nearest, chances = logits.max(dim=-1).indices.tolist(), self.budget.tail.of_all(self.slots)
            return [DraftTree(map(Draft, row, range(self.slots), chances)) for row in nearest]
        likeliest = logits.topk(min(SUCCESSORS, logits.shape[-1]), dim=-1).indices
        keys, ways = vocabulary.keys_of(likeliest).to(ahead.dtype), []  # small products are slow in bfloat16
        previous, chance, first = last[:, None], torch.zeros_like(ahead[:, 0, :1]), 0
        for slot in range(self.slots):
            queries = successor(ahead[:, slot, None].expand(-1, previous.shape[1], -1), previous, vocabulary.radius)
            scores = vocabulary.scores_among(queries, likeliest[:, slot, None], keys[:, slot])
            chances = (chance[..., None] + torch.log_softmax(scores, dim=-1)).flatten(1)
            chance, place = chances.topk(min(self.budget.ways, chances.shape[1]), dim=-1)
            tokens = likeliest[:, slot].gather(1, place % scores.shape[-1])
            ways.append((tokens, first + place // scores.shape[-1], chance))
            previous, first = vocabulary.embed(tokens), first + (previous.shape[1] if slot else 1)
        found = [torch.cat(level, dim=1).double() for level in zip(*ways)]
        rows = torch.stack(found, dim=-1).tolist()  # to the host at once
        return [DraftTree(Draft(int(id_), int(parent), exp(chance)) for id_, parent, chance in row) for row in rows]

    def nearest_tokens(self, remaining):
        """As of any tail, for the slots that the last step looked for: those behind them hold noise."""
        return super().nearest_tokens(min(remaining, self.slots))

    def shown(self, counts):
        """The exact slots that were committed, and behind them the branch that came true; of rows that committed
        different numbers as many as all of them have. What is exact does not mature: its maturity is 1."""
        least, exact = min(count for count in counts if count), self.drafts + 1
        width = least + self.slots
        branch, taken = list(range(exact, exact + self.slots)), [max(count, least) for count in counts]
        places = [((walk + [0] * least)[:count] + branch)[:width] for walk, count in zip(self.walks, taken)]
        place, rows = (
            torch.tensor(places, device=self.device),
            torch.arange(self.batch_size, device=self.device)[:, None],
        )
        ahead = self._where_walks_end(self.ahead)
        before, after = self.vectors[:, :width], torch.cat([self.predicted, ahead], dim=1)
        queries = after[rows, place]
        if not self.vocabulary.one_space:
            ends = torch.tensor(taken, device=self.device)[:, None]
            behind = self.vectors[rows, ends + torch.arange(self.slots, device=self.device)]
            moved = update_tail(behind, self.vocabulary.as_inputs(ahead), self.eta[1 : self.slots + 1])
            after = torch.cat([self.vocabulary.as_inputs(self.predicted, self.logits), moved], dim=1)
        maturity = torch.cat([self.maturity_after.new_ones(least), self.maturity_after[1 : self.slots + 1]])
        return Shown(before, after[rows, place], queries, maturity)
