# Copyright 2026 The TokMat authors. Licensed under the Apache License, Version 2.0.
"""When a slot of the tail becomes a token, and what the rows of a batch have committed so far."""

import torch


class FrontCommit:
    """Algorithm 1: every step commits slot 1, whatever its state."""

    lockstep = True

    def first(self, rows: torch.Tensor, change: torch.Tensor, nearest: torch.Tensor | None) -> torch.Tensor:
        """Which of `rows` (batch,) commit slot 1. `change`, ||z~ after - before|| / R, `nearest`: (batch, slots)."""
        return rows

    def further(self, slot: int, tokens: torch.Tensor, rows: torch.Tensor) -> torch.Tensor:
        """Which of the `rows` that committed `tokens` (batch,) at slot index `slot` commit the next one too."""
        return torch.zeros_like(rows)


class StableCommit(FrontCommit):
    """
    Commits the front run of slots that have stabilised: last displacement under `stability_tolerance` * R and the
    nearest neighbour unchanged (the abstract's "only when it has sufficiently converged"). A row that committed
    nothing for `max_refinements` steps in a row commits slot 1 at the last of them, so max_refinements = 1 commits at
    every step.
    """

    lockstep = False

    def __init__(self, batch_size: int, tail_length: int, stability_tolerance: float, max_refinements: int, device):
        self.stability_tolerance, self.max_refinements = stability_tolerance, max_refinements
        self.waited = torch.zeros(batch_size, dtype=torch.long, device=device)
        self.known = torch.full((batch_size, tail_length), -1, device=device)  # nearest neighbours after the last step

    def first(self, rows, change, nearest):
        slots = nearest.shape[1]
        settled = (change <= self.stability_tolerance) & (nearest == self.known[:, :slots])
        self.known[:, :slots] = nearest
        self.run = settled.long().cumprod(dim=1).sum(dim=1)
        self.waited += 1
        committing = rows & ((self.run > 0) | (self.waited >= self.max_refinements))
        self.waited[committing] = 0
        return committing

    def further(self, slot, tokens, rows):
        return rows & (self.run > slot + 1)

    def shift(self, counts: torch.Tensor) -> None:
        """The tail moved up by `counts` (batch,)."""
        self.known = shift(self.known, torch.full_like(self.known, -1), counts)


class VerifiedCommit(FrontCommit):
    """Commits what the reference (tail_length = 1, alpha_max = 1) would: slot 1, and each further slot as long as the
    token committed before it is the draft that its prediction was made from."""

    lockstep = False
    drafts: torch.Tensor  # (batch, n), set at every step

    def further(self, slot, tokens, rows):
        return rows & (self.drafts[:, slot] == tokens) if slot < self.drafts.shape[1] else torch.zeros_like(rows)


def shift(tail: torch.Tensor, entering: torch.Tensor, counts: torch.Tensor) -> torch.Tensor:
    """Move each row of a tail (batch, slots, ...) up by its count (batch,); `entering` (batch, n, ...) follows it."""
    index = torch.arange(tail.shape[1], device=tail.device) + counts[:, None]
    index = index.view(*index.shape, *[1] * (tail.dim() - 2)).expand_as(tail)
    return torch.cat([tail, entering.to(tail)], dim=1).gather(1, index)


def right_align(rows: list[torch.Tensor]) -> torch.Tensor:
    """Rows (n_r, ...) of different lengths as one (batch, max n_r, ...), zeros on the left."""
    longest = max(len(row) for row in rows)
    block = rows[0].new_zeros(len(rows), longest, *rows[0].shape[1:])
    for place, row in zip(block, rows, strict=True):
        place[longest - len(row) :] = row
    return block


class Committed:
    """
    The committed part of every row: its ids, and those of its vectors that the cache does not hold.

    Rows may commit different numbers of tokens in a step. Then blocks are right-aligned, and cache columns that hold
    nothing of a row are barred by the mask, so that rows stay independent of one another.

    Args:
        input_ids: prompt ids, (batch, length). new_tokens: how many may follow.
        vectors, positions, mask: the vectors not cached, (batch, pending, d), their position ids and which of them are
            real, both (batch, pending). cache_mask: which cached columns are real, (batch, past) or None for all.
        cache: a transformers cache, or None: then all vectors stay and are fed again at every step.
    """

    def __init__(self, input_ids, new_tokens: int, pad_token_id, vectors, positions, mask, cache, cache_mask):
        pad = 0 if pad_token_id is None else pad_token_id
        filler = input_ids.new_zeros(input_ids.shape[0], new_tokens) + pad
        self.prompt_length, self.new_tokens = input_ids.shape[1], new_tokens
        self.ids = torch.cat([input_ids, filler], dim=1)
        self.counts = [0] * vectors.shape[0]  # tokens committed per row
        self.cache, self.cache_mask = cache, cache_mask
        self.last_vector = vectors[:, -1]
        self.vectors, self.positions, self.mask = vectors, positions, None
        if not bool(mask.all()):
            self._set_rows([v[m] for v, m in zip(vectors, mask)], [p[m] for p, m in zip(positions, mask)])
            self.last_vector = self.vectors[:, -1]

    def chunks(self, size: int | None):
        """Yield (vectors, positions, mask) of all but the last `size` columns, in turn; each is cached when the next
        is asked for."""
        while size is not None and self.cache is not None and self.vectors.shape[1] > size:
            mask = None
            if self.mask is not None or self.cache_mask is not None:
                mask = torch.cat([self._cache_columns(), self._own_mask()[:, :size]], dim=1)
            yield self.vectors[:, :size], self.positions[:, :size], mask
            self.cache_mask = mask
            self.vectors, self.positions = self.vectors[:, size:], self.positions[:, size:]
            self.mask = None if self.mask is None else self.mask[:, size:]

    def _set_rows(self, vectors: list[torch.Tensor], positions: list[torch.Tensor]) -> None:
        self.vectors, self.positions = right_align(vectors), right_align(positions)
        self.mask = right_align([torch.ones_like(row, dtype=torch.bool) for row in positions])

    def attention_mask(self, fed: int) -> torch.Tensor | None:
        """Mask over [cache ; vectors ; fed slots], (batch, columns), or None where nothing is barred."""
        if self.mask is None and self.cache_mask is None:
            return None
        ones = self.positions.new_ones(len(self.positions), fed, dtype=torch.bool)
        return torch.cat([self._cache_columns(), self._own_mask(), ones], dim=1)

    def _own_mask(self) -> torch.Tensor:
        return torch.ones_like(self.positions, dtype=torch.bool) if self.mask is None else self.mask

    def _cache_columns(self) -> torch.Tensor:
        if self.cache_mask is not None:
            return self.cache_mask
        past = 0 if self.cache is None else int(self.cache.get_seq_length())
        return self.positions.new_ones(len(self.positions), past, dtype=torch.bool)

    def length(self, row: int) -> int:
        return self.prompt_length + self.counts[row]

    def write(self, tokens: torch.Tensor, rows: list[bool]) -> None:
        """Commit `tokens` (batch,) in the rows that are True."""
        lengths = {self.length(row) for row, commits in enumerate(rows) if commits}
        if len(lengths) == 1 and all(rows):
            self.ids[:, lengths.pop()] = tokens
        else:
            for row, commits in enumerate(rows):
                if commits:
                    self.ids[row, self.length(row)] = tokens[row]
        self.counts = [count + commits for count, commits in zip(self.counts, rows)]

    def fed(self, slots: int, counts: list[int], vectors: list[torch.Tensor]) -> None:
        """After a forward pass over [vectors ; slots]: forget the slots, take in what each row committed.

        Args:
            counts: tokens committed per row in this step. vectors: (batch, d) per committed place, of which row r
                takes the first counts[r].
        """
        if not any(counts):
            # Nothing moved: the same vectors are fed again, because z^_1 is read from the last of them.
            roll_back(self.cache, slots + self.vectors.shape[1])
            return
        roll_back(self.cache, slots)
        self.last_vector = self._last_vectors(counts, vectors)
        new = torch.stack(vectors, dim=1)
        if min(counts) == max(counts):
            following = self.positions[:, -1:] + torch.arange(1, counts[0] + 1, device=new.device)
            if self.cache is None:
                mask = self.mask
                self.vectors = torch.cat([self.vectors, new], dim=1)
                self.positions = torch.cat([self.positions, following], dim=1)
                real = torch.ones_like(following, dtype=torch.bool)
                self.mask = None if mask is None else torch.cat([mask, real], dim=1)
            else:
                if self.cache_mask is not None or self.mask is not None:
                    # The cache holds these columns by now.
                    columns = self._cache_columns()[:, : self._cached_before()]
                    self.cache_mask = torch.cat([columns, self._own_mask()], dim=1)
                self.vectors, self.positions, self.mask = new, following, None
            return
        own = self._own_mask()
        vectors_by_row, positions_by_row = [], []
        for row, count in enumerate(counts):
            old_vectors, old_positions = self.vectors[row][own[row]], self.positions[row][own[row]]
            following = old_positions[-1:] + torch.arange(1, count + 1, device=new.device)
            keep = self.cache is None or count == 0
            vectors_by_row.append(torch.cat([old_vectors, new[row, :count]]) if keep else new[row, :count])
            positions_by_row.append(torch.cat([old_positions, following]) if keep else following)
        if self.cache is not None:
            # A row that committed nothing feeds its vectors again: the columns of this pass are not its own.
            committing = torch.tensor([count > 0 for count in counts], device=new.device)[:, None]
            columns = self._cache_columns()[:, : self._cached_before()]
            self.cache_mask = torch.cat([columns, own & committing], dim=1)
        self._set_rows(vectors_by_row, positions_by_row)

    def accepted(self, slots: int, counts: list[int], vectors: list[torch.Tensor]) -> None:
        """After a forward pass over [vectors ; slots] whose first slots were drafts fed as exact embeddings: what was
        committed by agreeing with its draft is cached already, so only the last committed vector is left to feed.

        Args: as for `fed`.
        """
        if self.cache is None or not any(counts):
            return self.fed(slots, counts, vectors)
        kept = max(max(counts) - 1, 0)
        roll_back(self.cache, slots - kept)
        own = self._own_mask()
        if self.cache_mask is not None or self.mask is not None or min(counts) != max(counts):
            count = torch.tensor(counts, device=self.positions.device)[:, None]
            columns = self._cache_columns()[:, : self._cached_before() - kept]
            drafts = torch.arange(kept, device=count.device) < count - 1
            self.cache_mask = torch.cat([columns, own & (count > 0), drafts], dim=1)
        self.last_vector = self._last_vectors(counts, vectors)
        moved = torch.tensor(counts, device=self.positions.device)[:, None]
        self.vectors, self.positions, self.mask = self.last_vector[:, None], self.positions[:, -1:] + moved, None

    def _cached_before(self) -> int:
        return int(self.cache.get_seq_length()) - self.vectors.shape[1]

    def _last_vectors(self, counts: list[int], vectors: list[torch.Tensor]) -> torch.Tensor:
        rows = [vectors[count - 1][row] if count else self.last_vector[row] for row, count in enumerate(counts)]
        return vectors[0] if max(counts) == min(counts) == 1 else torch.stack(rows)


def roll_back(cache, count: int) -> None:
    """Forget the last `count` positions, exactly: under causal attention nothing before them depends on them."""
    if cache is None or count == 0:
        return
    if cache.is_compileable:
        for layer in cache.layers:
            layer.cumulative_length.sub_(count)  # in place: a compiled graph holds its address
    else:
        cache.crop(-count)
