# Copyright 2026 The TokMat authors. Licensed under the Apache License, Version 2.0.
"""Where the simulated tails of a training batch lie (paper 4.1)."""

import copy

import torch
import torch.nn.functional as F

from .maturation_tokmat import MAX_TAIL_LENGTH, low_norm_noise, mix_seed, schedule_maturity


class SimulatedTails:
    """
    Where the simulated tails of a training batch lie (paper 4.1); a function of (seeds, labels, documents) alone.

    The network reads a line of `length` + n positions per sequence. Without parallel tails n is 0 and the tail is the
    end of the sequence itself. With them, the sequence stays whole and the slots of all tails follow it on the line.

    Args:
        seeds: one per sequence, shape (batch,), int64.
        labels: shape (batch, length); a tail at the end ends at the last label that is not -100.
        documents: document index per position, shape (batch, length), -1 in padding.
        config: a `TokMatConfig`: parallel_tails, min/max_tail_length, clean_probability and the schedule.

    Attributes, all of shape (batch, length + n) but the first:
        tail_length: K, shape (batch,), or (batch, length + n) with parallel tails; 1 where there is no tail.
        slot: j = 1..K at tail positions, 0 elsewhere.
        maturity: alpha, float32: a_{j+1} at slot j, 1 elsewhere.
        place: the position of the sequence whose vector a position of the line stands for.
        start: the last committed position that a slot sees; its own place elsewhere.
        predicted_slot: the slot that a prediction made there is for: j + 1 at slot j < K, 1 where a tail begins, or 0.
        jumps: tokens beyond the first that each decoding step of a rollout commits, with rollout_passes in front.
    """

    def __init__(self, seeds: torch.Tensor, labels: torch.Tensor, documents: torch.Tensor, config):
        self.length, self.parallel = labels.shape[1], config.parallel_tails
        self.seeds, self.documents, self.schedule = seeds, documents, config.schedule_settings()
        positions = torch.arange(self.length, device=labels.device).expand_as(labels)
        self.place = self.start = positions
        usable = (labels != -100) & (documents >= 0)
        if self.parallel:
            self._draw_parallel(positions, usable, config)
        else:
            self._draw_last(positions, usable, config)
        length = self.tail_length if self.parallel else self.tail_length[:, None]
        before = schedule_maturity(self.slot + 1, length, **self.schedule)
        self.maturity = torch.where(self.slot > 0, before, 1.0).float()
        before_front = (self.start if self.parallel else positions - 1).clamp(min=0)
        fronts = torch.zeros_like(self.slot).scatter_reduce(1, before_front, (self.slot == 1).long(), reduce="amax")
        inner = (self.slot > 0) & (self.slot < length)
        self.predicted_slot = torch.where(inner, self.slot + 1, fronts * (self.slot == 0))

    def _draw_last(self, positions, usable, config) -> None:
        drawn = []
        for seed in self.seeds.tolist():
            generator = torch.Generator().manual_seed(seed)
            clean = torch.rand((), generator=generator).item() < config.clean_probability
            length = torch.randint(config.min_tail_length, config.max_tail_length + 1, (), generator=generator).item()
            drawn.append(0 if clean else length)
        drawn = torch.tensor(drawn, device=positions.device)
        end = torch.where(usable, positions + 1, 0).amax(dim=1)
        last_document = self.documents.gather(1, (end - 1).clamp(min=0)[:, None])
        start = torch.where(self.documents == last_document, positions, self.length).amin(dim=1)
        # At least one committed position of the same document comes before the tail.
        tail = torch.minimum(drawn, end - start - 1).clamp(min=0)
        slot = positions - (end - tail)[:, None] + 1
        self.slot = torch.where((slot >= 1) & (slot <= tail[:, None]), slot, 0)
        self.tail_length = tail.clamp(min=1)

    def _draw_parallel(self, positions, usable, config) -> None:
        """Each tail continues a place of its own, from which at least two positions of the document follow, the second
        with a label. Its slots 1..K-1 are on the line as far as the document goes: nothing reads slot K's vector."""
        batch, device, tails, longest = len(positions), positions.device, self.parallel, config.max_tail_length
        width = min(config.parallel_slots or longest - 1, longest - 1)
        starts = torch.full((batch, tails), -1)
        jumps = torch.zeros(config.rollout_passes, batch, tails, dtype=torch.long)
        lengths = torch.ones(batch, tails, dtype=torch.long)
        follows = (self.documents[:, :-2] == self.documents[:, 2:]) & usable[:, 2:]
        for row, (seed, possible) in enumerate(zip(self.seeds.tolist(), follows.cpu())):
            generator = torch.Generator().manual_seed(seed)
            lengths[row] = torch.randint(config.min_tail_length, longest + 1, (tails,), generator=generator)
            found = possible.nonzero()[:, 0]
            found = found[torch.randperm(len(found), generator=generator)[:tails]]
            starts[row, : len(found)] = found
            jumps[:, row] = torch.randint(config.rollout_jump + 1, jumps[:, row].shape, generator=generator)
        starts, lengths = starts.to(device)[..., None], lengths.to(device)[..., None]
        slot = torch.arange(1, width + 1, device=device)
        place = (starts + slot).clamp(max=self.length - 1)
        there = self.documents.gather(1, place.flatten(1)).view_as(place)
        document = self.documents.gather(1, starts.clamp(min=0).flatten(1))[..., None]
        real = (starts >= 0) & (slot < lengths) & (starts + slot < self.length) & (there == document)

        def line(before, slots):
            return torch.cat([before, slots.expand(batch, tails, width).flatten(1)], dim=1)

        zeros = torch.zeros_like(positions)
        self.slot = line(zeros, torch.where(real, slot, 0))
        self.tail_length = line(zeros + 1, torch.where(real, lengths, 1))
        self.place, self.start = line(positions, place), line(positions, starts.clamp(min=0))
        self.tail = line(zeros - 1, torch.arange(tails, device=device)[:, None])
        self.jumps = torch.stack([line(zeros, jump[..., None]) for jump in jumps.to(device)])

    def mask(self, dtype: torch.dtype) -> torch.Tensor | None:
        """Float additive attention mask (batch, 1, length + n, length + n) for parallel tails; None without them.

        Positions of the sequence see it causally within their document; a slot sees it up to where its tail starts,
        and its own tail up to itself.
        """
        if not self.parallel:
            return None
        documents = self.at_place(self.documents)
        batch, line = documents.shape
        visible = torch.zeros(batch, line, line, dtype=torch.bool, device=documents.device)
        same = documents[:, :, None] == self.documents[:, None]
        visible[..., : self.length] = same & (self.place[:, None, : self.length] <= self.start[:, :, None])
        own = self.tail[0, self.length :]
        visible[:, self.length :, self.length :] = (own[:, None] == own).tril()
        mask = torch.zeros(visible.shape, dtype=dtype, device=visible.device)
        return mask.masked_fill_(~visible, torch.finfo(dtype).min)[:, None]

    def at_place(self, values: torch.Tensor) -> torch.Tensor:
        """`values` of the sequence, (batch, length, ...), for every position of the line."""
        if not self.parallel:  # the line is the sequence
            return values
        index = self.place.view(*self.place.shape, *[1] * (values.dim() - 2))
        return values.gather(1, index.expand(-1, -1, *values.shape[2:]))

    def back(self, steps: int) -> "SimulatedTails":
        """The same parallel tails as many decoding steps earlier, before those had committed 1 + `jumps` tokens each.
        Those that then had not begun stay where they are and are not `begun`, (batch, length + n)."""
        earlier, in_tail = copy.copy(self), self.slot > 0
        since = torch.where(in_tail, steps + self.jumps[:steps].sum(0), 0)
        start = self.start - since
        begun = in_tail & (start >= 0)
        begun = begun & (self.documents.gather(1, start.clamp(min=0)) == self.documents.gather(1, self.start))
        earlier.begun, earlier.start = begun, torch.where(begun, start, self.start)
        earlier.place = torch.where(begun, self.place - since, self.place)
        return earlier

    def moved_up(self, tail: torch.Tensor, entering: torch.Tensor, places: torch.Tensor | int = 1) -> torch.Tensor:
        """The vector that slot j + `places` held, for every slot j of parallel tails; `entering` where the line of
        that tail has no such slot. All of shape (batch, length + n, d), `places` an int or (batch, length + n)."""
        # Clamped to the end of the line, an index finds no slot as late as the one that is looked for.
        there = torch.arange(self.slot.shape[1], device=tail.device).expand_as(self.slot) + places
        there = there.clamp(max=self.slot.shape[1] - 1)
        followed = (self.slot > 0) & (self.slot.gather(1, there) == self.slot + places)
        moved = tail.gather(1, there[..., None].expand_as(tail))
        return torch.where(followed[..., None], moved, entering.to(tail))

    def noise(self, dim: int, norm: float, stream: int = 1) -> torch.Tensor:
        """Embryo noise of norm `norm` at the tail positions, zeros elsewhere, (batch, length + n, dim), float32."""
        seeds = [mix_seed(seed, stream) for seed in self.seeds.tolist()]
        if self.parallel:
            count = self.slot.shape[1] - self.length
            drawn = torch.stack([low_norm_noise(count, dim, norm, seed) for seed in seeds])
            drawn = F.pad(drawn, (0, 0, self.length, 0)).to(self.slot.device)
        else:
            rows = [low_norm_noise(MAX_TAIL_LENGTH, dim, norm, seed) for seed in seeds]
            index = (self.slot - 1).clamp(min=0)[..., None].expand(-1, -1, dim)
            drawn = torch.stack(rows).to(self.slot.device).gather(1, index)
        return drawn * (self.slot > 0)[..., None]
