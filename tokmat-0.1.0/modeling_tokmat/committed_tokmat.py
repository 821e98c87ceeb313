# Copyright 2026 The TokMat authors. Licensed under the Apache License, Version 2.0.
"""What the rows of a batch have committed: ids, vectors, what the cache holds of them, and who may see whom."""

import torch
import torch.nn.functional as F

REMEMBERED = 64  # shapes of trees, and masks of theirs


class Committed:
    """
    The committed part of every row: its ids, and those of its vectors that the cache does not hold (pending).

    Rows may commit different numbers of tokens in a step. Then blocks are right-aligned, and cache columns that hold
    nothing of a row are barred by the mask, so that rows stay independent of one another.

    Args:
        input_ids: prompt ids, (batch, length). new_tokens: how many may follow.
        vectors, positions, mask: the vectors not cached, (batch, pending, d), their position ids and which of them are
            real, both (batch, pending). cache_mask: which cached columns are real, (batch, past) or None for all.
        cache: a transformers cache, or None: then all vectors stay and are fed again at every step.
        mask_dtype: of ready-made masks, the network's own.
        reach: how many positions after the last of `vectors` slots may have, where that is more than `new_tokens`.
    """

    def __init__(
        self,
        input_ids,
        new_tokens: int,
        pad_token_id,
        vectors,
        positions,
        mask,
        cache,
        cache_mask,
        mask_dtype,
        reach: int = 0,
    ):
        pad = 0 if pad_token_id is None else pad_token_id
        filler = input_ids.new_zeros(input_ids.shape[0], new_tokens) + pad
        self.prompt_length, self.new_tokens = input_ids.shape[1], new_tokens
        self.ids = torch.cat([input_ids, filler], dim=1)
        self.counts = [0] * len(vectors)  # tokens committed per row
        self.cache, self.cache_mask, self.mask_dtype = cache, cache_mask, mask_dtype
        self.vectors, self.positions, self.mask = vectors, positions, None
        # How many vectors of each row are pending: the last ones of its block.
        self.pending = [vectors.shape[1]] * len(vectors)
        if not bool(mask.all()):
            self.vectors = right_align([row[real] for row, real in zip(vectors, mask)])
            self.positions = right_align([row[real] for row, real in zip(positions, mask)])
            self.pending = mask.sum(dim=1).tolist()
            self.mask = right_align([real[real] for real in mask])
        # Slots beyond the last position that a row may feed, (batch, 1), influence nothing.
        self.last_position = self.positions[:, -1:] + max(new_tokens - 1, reach, 0)
        self.in_step = True  # whether all rows have committed alike, so that the cache has no holes
        self._allowed = {}

    @property
    def last_vector(self) -> torch.Tensor:
        """The vector committed last, (batch, d)."""
        return self.vectors[:, -1]

    @property
    def remaining(self) -> int:
        """Tokens that the row that is furthest behind may still commit."""
        return self.new_tokens - min(self.counts)

    def length(self, row: int) -> int:
        return self.prompt_length + self.counts[row]

    def positions_after(self, places: torch.Tensor) -> torch.Tensor:
        """Position ids of `places` (n,), counted from the last committed vector: (batch, n)."""
        return (self.positions[:, -1:] + places).clamp(max=self.last_position)

    def chunks(self, size: int | None):
        """Yield (vectors, positions, mask) of all but the last `size` columns, in turn; each is cached when the next
        is asked for."""
        while size is not None and self.cache is not None and self.vectors.shape[1] > size:
            mask = None
            if self._barred():
                mask = torch.cat([self._cache_columns(), self._pending_columns()[:, :size]], dim=1)
            yield self.vectors[:, :size], self.positions[:, :size], mask
            self.cache_mask = mask
            self.vectors, self.positions = self.vectors[:, size:], self.positions[:, size:]
            self.mask = None if self.mask is None else self.mask[:, size:]
            self.pending = [min(count, self.vectors.shape[1]) for count in self.pending]

    # -- what is committed --------------------------------------------------------------------------------------------

    def write(self, tokens: torch.Tensor, taking: list[bool]) -> None:
        """Commit `tokens` (batch,) in the rows that are True."""
        lengths = {self.length(row) for row, takes in enumerate(taking) if takes}
        if len(lengths) == 1 and all(taking):
            self.ids[:, lengths.pop()] = tokens
        else:
            for row, takes in enumerate(taking):
                if takes:
                    self.ids[row, self.length(row)] = tokens[row]
        self.counts = [count + takes for count, takes in zip(self.counts, taking)]

    def by_length(self, function, taking: list[bool]) -> torch.Tensor:
        """function(ids of one length) for each length among the rows that take part; their rows of the result are
        taken at their own length, those of other rows at some length."""
        lengths = [self.length(row) for row in range(len(taking))]
        first, *others = sorted({length for length, takes in zip(lengths, taking) if takes})
        result = function(self.ids[:, :first])
        for length in others:
            here = torch.tensor([other == length for other in lengths], device=self.ids.device)
            values = function(self.ids[:, :length])
            result = torch.where(here.view(-1, *[1] * (values.dim() - 1)), values, result)
        return result

    def advance(
        self, slots: int, counts: list[int], vectors: list[torch.Tensor], fed_right: list[list[int]] | None = None
    ) -> None:
        """After a pass over [pending ; slots]: forget the slots, take in what each row committed.

        Args:
            slots: how many were fed. counts: tokens committed per row in this step.
            vectors: (batch, d) per committed place, of which row r takes the first counts[r].
            fed_right: per row, which slots were fed as exact embeddings of what was then committed first, at most
                counts[r] - 1. They are cached already.
        """
        own, longest = self.vectors.shape[1], max(counts)
        if longest == 0:
            # Nothing moved: the same vectors are fed again, because z^_1 is read from the last of them.
            self.forget(slots)
            return
        ways = [[] for _ in counts] if fed_right is None or self.cache is None else fed_right
        cached = [len(way) for way in ways]
        kept, self.in_step = max(cached), self.in_step and min(counts) == longest
        keep_first(self.cache, slots, ways)
        roll_back(self.cache, slots - kept)
        if self.cache is not None and (self._barred() or min(counts) < longest):
            self.cache_mask = self._columns_after(kept, cached, counts)
        following = self.positions[:, -1:] + torch.arange(1, longest + 1, device=self.positions.device)
        block, places = torch.stack(vectors, dim=1), following
        # What a row feeds next of [pending ; committed], from and up to. A row that committed nothing feeds its
        # vectors again, and without a cache all do.
        again = [self.cache is None or count == 0 for count in counts]
        starts = [own - n if repeats else own + done for repeats, n, done in zip(again, self.pending, cached)]
        ends = [own + count for count in counts]
        shift = own
        if any(again):
            block, places, shift = torch.cat([self.vectors, block], 1), torch.cat([self.positions, following], 1), 0
        starts, ends = [start - shift for start in starts], [end - shift for end in ends]
        self.pending = [end - start for start, end in zip(starts, ends)]
        if min(ends) == max(ends):
            first = min(starts)
            self.vectors, self.positions = block[:, first:], places[:, first:]
            ragged = max(starts) > first
            self.mask = self._pending_mask() if ragged else None
        else:
            self._gather(block, places, ends)

    def _gather(self, block, places, ends: list[int]) -> None:
        """Take each row's pending vectors up to its end, right-aligned, zeros on the left."""
        ends = torch.tensor(ends, device=block.device)[:, None]
        width = max(self.pending)
        index = (ends - width + torch.arange(width, device=block.device)).clamp(min=0)
        mask = self._pending_mask(width)
        self.positions = places.gather(1, index) * mask
        vectors = block.gather(1, index[..., None].expand(-1, -1, block.shape[-1]))
        self.vectors, self.mask = torch.where(mask[..., None], vectors, 0), mask

    def forget(self, slots: int) -> None:
        """Undo a pass over [pending ; slots]."""
        roll_back(self.cache, slots + self.vectors.shape[1])

    # -- masks ------------------------------------------------------------------------------------------------------

    def attention_mask(self, slots: int) -> torch.Tensor | None:
        """Mask over [cache ; pending ; slots], (batch, columns), or None where nothing is barred."""
        if not self._barred():
            return None
        ones = self.positions.new_ones(len(self.positions), slots, dtype=torch.bool)
        return torch.cat([self._cache_columns(), self._pending_columns(), ones], dim=1)

    def guidance_mask(self, slots: int) -> torch.Tensor:
        """Mask of [cache ; pending ; tail ; copy of the tail]: the copy sees the copy alone."""

        def allowed(own):
            places = torch.arange(own + 2 * slots, device=self.ids.device)
            copied = places >= own + slots
            return ((places <= places[:, None]) & (~copied[:, None] | copied))[None], ~copied[:, None]

        return self._float_mask("guidance", (slots,), 2 * slots, allowed)

    def branches_mask(self, parents: tuple[tuple[int, ...], ...], branches: tuple[tuple[int, ...], ...]):
        """Mask of [cache ; pending ; drafts ; slots of branches]: a draft sees those before it and itself, a slot of
        the branch behind it what it sees, and the slots of that branch before it and itself.

        Args:
            parents: per row, or once for all, the draft before each, counted from 1; 0 where there is none.
            branches: of each slot, the draft that it stands behind, counted in the same way.
        """
        drafts, slots = len(parents[0]), len(branches[0])

        def allowed(own):
            seen = torch.tensor([ancestors(row) for row in parents], dtype=torch.bool, device=self.ids.device)
            seen = seen.view(len(parents), drafts + 1, drafts)
            branch = torch.tensor(branches, dtype=torch.long, device=self.ids.device)
            rows = torch.arange(len(branches), device=self.ids.device)[:, None]
            exact = own + drafts
            allowed = torch.ones(2 * [exact + slots], dtype=torch.bool, device=self.ids.device).tril()
            allowed = allowed.repeat(len(parents), 1, 1)
            allowed[:, own:exact, own:exact] = seen[:, 1:]
            allowed[:, exact:, own:exact] = seen[rows, branch]
            allowed[:, exact:, exact:] &= branch[:, None] == branch[:, :, None]
            return allowed, None

        return self._float_mask("branches", (parents, branches), drafts + slots, allowed)

    def _float_mask(self, kind: str, sizes: tuple, slots: int, allowed_of) -> torch.Tensor:
        """Float additive mask (batch, 1, n, columns) of a pass over n = pending vectors + slots.

        Args:
            kind, sizes: what `allowed_of` depends on, besides how many vectors are pending.
            slots: how many positions of the pass are slots.
            allowed_of: own -> which positions of the pass see which, (batch or 1, n, n), and which of them see the
                cache, (n, 1); None for all of them.
        """
        own = self.vectors.shape[1]
        if (kind, own, sizes) not in self._allowed:
            # Without a cache all that is committed is fed again, and no pass recurs; trees of drafts are many.
            if self.cache is None or len(self._allowed) == REMEMBERED:
                self._allowed.clear()
            allowed, history = allowed_of(own)
            self._allowed[kind, own, sizes] = allowed, history, self._additive(allowed)
        allowed, history, additive = self._allowed[kind, own, sizes]
        visible, past = self.attention_mask(slots), self._past()
        static = self.cache is not None and self.cache.is_compileable
        if visible is None and history is None and not static:  # as most passes
            return F.pad(additive, (past, 0))[:, None]
        whole = F.pad(allowed, (past, 0), value=True)
        if history is not None:
            whole[..., :past] &= history
        if visible is not None:
            # Positions in padding would see nothing; they may see themselves, since nothing reads them.
            columns = torch.arange(whole.shape[-1], device=whole.device)
            itself = columns == columns[past:, None]
            whole = (whole & visible[:, None]) | itself
        if static:
            whole = F.pad(whole, (0, self.cache.get_max_length() - whole.shape[-1]))
        return self._additive(whole)[:, None]

    def _additive(self, allowed: torch.Tensor) -> torch.Tensor:
        """0 where a position may be seen, and what no softmax lets through elsewhere."""
        mask = torch.zeros(allowed.shape, dtype=self.mask_dtype, device=allowed.device)
        return mask.masked_fill(~allowed, torch.finfo(self.mask_dtype).min)

    def _past(self) -> int:
        return 0 if self.cache is None else int(self.cache.get_seq_length())

    def _barred(self) -> bool:
        return self.mask is not None or self.cache_mask is not None

    def _pending_columns(self) -> torch.Tensor:
        return torch.ones_like(self.positions, dtype=torch.bool) if self.mask is None else self.mask

    def _pending_mask(self, width: int | None = None) -> torch.Tensor:
        width = self.vectors.shape[1] if width is None else width
        pending = torch.tensor(self.pending, device=self.ids.device)[:, None]
        return torch.arange(width, device=self.ids.device) >= width - pending

    def _cache_columns(self) -> torch.Tensor:
        if self.cache_mask is not None:
            return self.cache_mask
        return self.positions.new_ones(len(self.positions), self._past(), dtype=torch.bool)

    def _columns_after(self, kept: int, cached: list[int], counts: list[int]) -> torch.Tensor:
        """Which cached columns are real once a pass is cached, with the first `kept` of its slots."""
        before = self._cache_columns()[:, : self._past() - kept - self.vectors.shape[1]]
        device = self.positions.device
        # A row that committed nothing feeds its vectors again: the columns of this pass are not its own.
        committing = torch.tensor([count > 0 for count in counts], device=device)[:, None]
        drafts = torch.arange(kept, device=device) < torch.tensor(cached, device=device)[:, None]
        return torch.cat([before, self._pending_columns() & committing, drafts], dim=1)


def right_align(rows: list[torch.Tensor]) -> torch.Tensor:
    """Rows (n_r, ...) of different lengths as one (batch, max n_r, ...), zeros on the left."""
    longest = max(len(row) for row in rows)
    block = rows[0].new_zeros(len(rows), longest, *rows[0].shape[1:])
    for place, row in zip(block, rows, strict=True):
        place[longest - len(row) :] = row
    return block


def roll_back(cache, count: int) -> None:
    """Forget the last `count` positions, exactly: under causal attention nothing before them depends on them."""
    if cache is None or count == 0:
        return
    if cache.is_compileable:
        for layer in cache.layers:
            layer.cumulative_length.sub_(count)  # in place: a compiled graph holds its address
    else:
        cache.crop(-count)


def keep_first(cache, count: int, ways: list[list[int]]) -> None:
    """Of the last `count` positions, bring those of each row's way to their beginning, in order."""
    longest = max(map(len, ways))
    if cache is None or all(way == list(range(len(way))) for way in ways):
        return
    start = int(cache.get_seq_length()) - count
    index = start + torch.tensor([way + list(range(len(way), longest)) for way in ways])
    for layer in cache.layers:
        for states in (layer.keys, layer.values):  # (batch, heads, length, dim)
            places = index.to(states.device)[:, None, :, None].expand(-1, states.shape[1], -1, states.shape[-1])
            states[:, :, start : start + longest] = states.gather(2, places)


def ancestors(parents: tuple[int, ...]) -> list[list[bool]]:
    """Which drafts, counted from 0, come before each and are it; first of all of none.

    Args:
        parents: of each, counted from 1; 0 for none.
    """
    found = [[False] * len(parents)]
    for place, parent in enumerate(parents):
        found.append([*found[parent][:place], True, *found[parent][place + 1 :]])
    return found
