# Copyright 2026 The TokMat authors. Licensed under the Apache License, Version 2.0.
"""Where the simulated tails of a training batch lie (paper 4.1): drawn once per step, and never changed."""

from dataclasses import dataclass, replace

import torch
import torch.nn.functional as F

from .maturation_tokmat import MAX_TAIL_LENGTH, low_norm_noises, mix_seed, schedule_maturity


@dataclass(frozen=True, eq=False)
class SimulatedTails:
    """
    Where the simulated tails of a batch lie. `draw_tails` draws them; nothing changes them.

    The network reads a line of positions per sequence. A tail at the end is the end of the sequence itself. With
    parallel tails the sequence stays whole, and the slots of all tails follow it on the line.

    Attributes, all of shape (batch, line) unless another is given:
        slot: j = 1..K at tail positions, 0 elsewhere.
        tail_length: K, shape (batch,), or (batch, line) with parallel tails; 1 where there is no tail.
        maturity: alpha, float32: a_{j+1} at slot j, 1 elsewhere.
        place: the position of the sequence whose vector a position of the line stands for.
        start: the last committed position that a slot sees; its own place elsewhere.
        predicted_slot: the slot that a prediction made there is for: j + 1 at slot j < K, 1 where a tail begins, or 0.
        documents: document of each position of the sequence, (batch, length), -1 in padding.
        seeds: one per sequence, (batch,), int64, on the CPU.
        lead: how many positions of the line come before the first parallel tail: `length`, or 0 if slots `alone`.
        parallel: tails per sequence; 0 is a tail at the end.
        owner: which parallel tail a position belongs to, (line,); -1 in the sequence.
        jumps: tokens beyond the first that each decoding step of a rollout commits, (batch, rollout_passes, line).
        begun: which slots existed as many steps earlier as `back` went.
    """

    slot: torch.Tensor
    tail_length: torch.Tensor
    maturity: torch.Tensor
    place: torch.Tensor
    start: torch.Tensor
    predicted_slot: torch.Tensor
    documents: torch.Tensor
    seeds: torch.Tensor
    lead: int
    parallel: int = 0
    owner: torch.Tensor | None = None
    jumps: torch.Tensor | None = None
    begun: torch.Tensor | None = None

    @property
    def length(self) -> int:
        """Positions of the sequence."""
        return self.documents.shape[1]

    def alone(self) -> "SimulatedTails":
        """The parallel tails on a line of their own, for a network that has read the sequence already."""
        names = ("slot", "tail_length", "maturity", "place", "start", "predicted_slot", "jumps", "owner")
        return replace(self, lead=0, **{name: getattr(self, name)[..., self.lead :] for name in names})

    def used(self) -> torch.Tensor:
        """Positions of the line that stand for something; parallel tails leave some of theirs empty."""
        return (self.slot > 0) | (torch.arange(self.slot.shape[1], device=self.slot.device) < self.lead)

    def mask(self, dtype: torch.dtype) -> torch.Tensor | None:
        """Float additive attention mask (batch, 1, line, length + slots) for parallel tails; None without them.

        Positions of the sequence see it causally within their document; a slot sees it up to where its tail starts,
        and its own tail up to itself.
        """
        if not self.parallel:
            return None
        batch, line = self.slot.shape
        device, slots = self.slot.device, line - self.lead
        visible = torch.zeros(batch, line, self.length + slots, dtype=torch.bool, device=device)
        same = self.at_place(self.documents)[:, :, None] == self.documents[:, None]
        visible[..., : self.length] = same & (torch.arange(self.length, device=device) <= self.start[:, :, None])
        assert self.owner is not None  # as all parallel tails have it, and `jumps`
        own = self.owner[self.lead :]
        visible[:, self.lead :, self.length :] = (own[:, None] == own).tril()
        mask = torch.zeros(visible.shape, dtype=dtype, device=device)
        return mask.masked_fill_(~visible, torch.finfo(dtype).min)[:, None]

    def at_place(self, values: torch.Tensor) -> torch.Tensor:
        """`values` of the sequence, (batch, length, ...), for every position of the line."""
        if not self.parallel:  # the line is the sequence
            return values
        index = self.place.view(*self.place.shape, *[1] * (values.dim() - 2))
        return values.gather(1, index.expand(-1, -1, *values.shape[2:]))

    def back(self, steps: int) -> "SimulatedTails":
        """The same parallel tails as many decoding steps earlier, before those had committed 1 + `jumps` tokens each.
        Those that then had not begun stay where they are and are not `begun`."""
        assert self.jumps is not None
        in_tail = self.slot > 0
        since = torch.where(in_tail, steps + self.jumps[:, :steps].sum(1), 0)
        start = self.start - since
        begun = in_tail & (start >= 0)
        begun = begun & (self.documents.gather(1, start.clamp(min=0)) == self.documents.gather(1, self.start))
        start, place = torch.where(begun, start, self.start), torch.where(begun, self.place - since, self.place)
        return replace(self, begun=begun, start=start, place=place)

    def moved_up(self, tail: torch.Tensor, entering: torch.Tensor, places: torch.Tensor | int = 1) -> torch.Tensor:
        """The vector that slot j + `places` held, for every slot j of parallel tails; `entering` where the line of
        that tail has no such slot. All of shape (batch, line, d), `places` an int or (batch, line)."""
        # Clamped to the end of the line, an index finds no slot as late as the one that is looked for.
        there = torch.arange(self.slot.shape[1], device=tail.device).expand_as(self.slot) + places
        there = there.clamp(max=self.slot.shape[1] - 1)
        followed = (self.slot > 0) & (self.slot.gather(1, there) == self.slot + places)
        moved = tail.gather(1, there[..., None].expand_as(tail))
        return torch.where(followed[..., None], moved, entering.to(tail))

    def noise(self, dim: int, norm: float, stream: int = 1) -> torch.Tensor:
        """Embryo noise of norm `norm` at the tail positions, zeros elsewhere, (batch, line, dim), float32."""
        seeds = [mix_seed(seed, stream) for seed in self.seeds.tolist()]
        if self.parallel:
            drawn = low_norm_noises(self.slot.shape[1] - self.lead, dim, norm, seeds)
            drawn = F.pad(drawn.to(self.slot.device, non_blocking=True), (0, 0, self.lead, 0))
        else:
            rows = low_norm_noises(MAX_TAIL_LENGTH, dim, norm, seeds)
            index = (self.slot - 1).clamp(min=0)[..., None].expand(-1, -1, dim)
            drawn = rows.to(self.slot.device, non_blocking=True).gather(1, index)
        return drawn * (self.slot > 0)[..., None]


def draw_tails(seeds: torch.Tensor, labels: torch.Tensor, documents: torch.Tensor, config) -> SimulatedTails:
    """Draw the simulated tails of a batch, a function of the arguments alone.

    Args:
        seeds: one per sequence, shape (batch,), int64.
        labels: shape (batch, length); a tail at the end ends at the last label that is not -100.
        documents: document index per position, shape (batch, length), -1 in padding.
        config: a `TokMatConfig`: parallel_tails, min/max_tail_length, clean_probability and the schedule.
    """
    seeds = seeds.cpu()
    positions = torch.arange(labels.shape[1], device=labels.device).expand_as(labels)
    usable = (labels != -100) & (documents >= 0)
    draw = _draw_parallel if config.parallel_tails else _draw_last
    found = draw(seeds, positions, usable, documents, config)
    slot, start = found["slot"], found["start"]
    length = found["tail_length"] if config.parallel_tails else found["tail_length"][:, None]
    before = schedule_maturity(slot + 1, length, **config.schedule_settings())
    before_front = (start if config.parallel_tails else positions - 1).clamp(min=0)
    fronts = torch.zeros_like(slot).scatter_reduce(1, before_front, (slot == 1).long(), reduce="amax")
    return SimulatedTails(
        maturity=torch.where(slot > 0, before, 1.0).float(),
        predicted_slot=torch.where((slot > 0) & (slot < length), slot + 1, fronts * (slot == 0)),
        documents=documents,
        seeds=seeds,
        lead=labels.shape[1],
        parallel=config.parallel_tails,
        **found,
    )


def _draw_last(seeds, positions, usable, documents, config) -> dict:
    drawn = []
    for seed in seeds.tolist():
        generator = torch.Generator().manual_seed(seed)
        clean = torch.rand((), generator=generator).item() < config.clean_probability
        length = torch.randint(config.min_tail_length, config.max_tail_length + 1, (), generator=generator).item()
        drawn.append(0 if clean else length)
    drawn = torch.tensor(drawn).to(positions.device, non_blocking=True)
    end = torch.where(usable, positions + 1, 0).amax(dim=1)
    last_document = documents.gather(1, (end - 1).clamp(min=0)[:, None])
    start = torch.where(documents == last_document, positions, positions.shape[1]).amin(dim=1)
    # At least one committed position of the same document comes before the tail.
    tail = torch.minimum(drawn, end - start - 1).clamp(min=0)
    slot = positions - (end - tail)[:, None] + 1
    slot = torch.where((slot >= 1) & (slot <= tail[:, None]), slot, 0)
    return {"slot": slot, "tail_length": tail.clamp(min=1), "place": positions, "start": positions}


def _draw_parallel(seeds, positions, usable, documents, config) -> dict:
    """Each tail continues a place of its own, from which at least two positions of the document follow, the second
    with a label. Its slots 1..K-1 are on the line as far as the document goes: nothing reads slot K's vector."""
    (batch, length), device = positions.shape, positions.device
    tails, longest = config.parallel_tails, config.max_tail_length
    width = min(config.parallel_slots or longest - 1, longest - 1)
    lengths, orders, jumps = [], [], []
    for seed in seeds.tolist():
        generator = torch.Generator().manual_seed(seed)
        lengths.append(torch.randint(config.min_tail_length, longest + 1, (tails,), generator=generator))
        orders.append(torch.rand(max(length - 2, 0), dtype=torch.float64, generator=generator))
        jumps.append(torch.randint(config.rollout_jump + 1, (config.rollout_passes, tails), generator=generator))
    lengths, orders, jumps = (torch.stack(drawn).to(device, non_blocking=True) for drawn in (lengths, orders, jumps))
    # The possible places of the highest random numbers: the device need not tell how many there are.
    possible = (documents[:, :-2] == documents[:, 2:]) & usable[:, 2:]
    order, starts = torch.where(possible, orders, -1.0).sort(dim=1, descending=True)
    starts = torch.where(order >= 0, starts, -1)[:, :tails]
    starts = F.pad(starts, (0, tails - starts.shape[1]), value=-1)[..., None]
    slot, lengths = torch.arange(1, width + 1, device=device), lengths[..., None]
    place = (starts + slot).clamp(max=length - 1)
    there = documents.gather(1, place.flatten(1)).view_as(place)
    document = documents.gather(1, starts.clamp(min=0).flatten(1))[..., None]
    real = (starts >= 0) & (slot < lengths) & (starts + slot < length) & (there == document)

    def line(before, slots):
        return torch.cat([before, slots.expand(batch, tails, width).flatten(1)], dim=1)

    zeros, numbers = torch.zeros_like(positions), torch.arange(tails, device=device)
    owner = torch.cat([numbers.new_full((length,), -1), numbers.repeat_interleave(width)])
    jumps = F.pad(jumps[..., None].expand(*jumps.shape, width).flatten(2), (length, 0))
    return {
        "slot": line(zeros, torch.where(real, slot, 0)),
        "tail_length": line(zeros + 1, torch.where(real, lengths, 1)),
        "place": line(positions, place),
        "start": line(positions, starts.clamp(min=0)),
        "owner": owner,
        "jumps": jumps,
    }
