# Copyright 2026 The TokMat authors. Licensed under the Apache License, Version 2.0.
"""The dynamics of Token Maturation as pure tensor functions (arXiv 2601.04854, sections 3 and 4).

Training simulates maturation and decoding performs it with these same functions, so the two cannot drift apart.
Throughout, maturity alpha is 1 for a committed vector and 0 for a fresh embryo; slot j = 1 is the front of the tail.
"""

import copy
import hashlib
import math

import torch
import torch.nn.functional as F

SCHEDULES = ("linear", "cosine", "geometric", "power")
SCHEDULE_SETTINGS = ("schedule", "alpha_max", "schedule_gamma", "schedule_beta")
RATES = ("paper", "consistent")
MAX_TAIL_LENGTH = 64  # rows of the FiLM table


def require(condition: bool, name: str, value, allowed: str) -> None:
    """Raise a `ValueError` that names the argument, its value and what is allowed, unless `condition` holds."""
    if not condition:
        raise ValueError(f"`{name}` is {value!r}, but it must be {allowed}.")


def is_number(value, low: float = -math.inf, high: float = math.inf) -> bool:
    """Whether `value` is a finite real number (not a bool) in [low, high]."""
    real = isinstance(value, (int, float)) and not isinstance(value, bool)
    return real and math.isfinite(value) and low <= value <= high


def is_integer(value, low: int, high: float = math.inf) -> bool:
    """Whether `value` is an int (not a bool) in [low, high]."""
    return isinstance(value, int) and not isinstance(value, bool) and low <= value <= high


def validate_schedule(schedule: str, alpha_max: float, schedule_gamma: float, schedule_beta: float) -> None:
    """Refuse wrong schedule settings with a `ValueError` that names the setting, its value and what is allowed."""
    require(schedule in SCHEDULES, "schedule", schedule, f"one of {', '.join(SCHEDULES)}")
    require(is_number(alpha_max, 0, 1) and alpha_max > 0, "alpha_max", alpha_max, "a number in (0, 1]")
    require(is_number(schedule_gamma, 0, 1) and schedule_gamma > 0, "schedule_gamma", schedule_gamma, "in (0, 1]")
    require(is_number(schedule_beta, 0) and schedule_beta > 0, "schedule_beta", schedule_beta, "a number above 0")


def schedule_maturity(
    slot: torch.Tensor,
    tail_length: torch.Tensor | int,
    schedule: str = "linear",
    alpha_max: float = 0.9,
    schedule_gamma: float = 0.8,
    schedule_beta: float = 1.0,
) -> torch.Tensor:
    """a_j, the maturity that slot j has AFTER an update; before it, the slot has a_{j+1} (paper 3.3).

    Args:
        slot: integer tensor of any shape, j >= 1.
        tail_length: K, an int or a tensor that broadcasts with `slot`.

    Returns:
        Tensor of the broadcast shape, dtype float64: non-increasing in j, alpha_max at j = 1, 0 for every j > K.
    """
    slot, tail_length = torch.broadcast_tensors(
        torch.as_tensor(slot), torch.as_tensor(tail_length, device=torch.as_tensor(slot).device)
    )
    done = ((slot - 1).double() / tail_length).clamp(max=1.0)
    if schedule == "linear":
        maturity = 1 - done
    elif schedule == "cosine":
        maturity = torch.cos(math.pi / 2 * done)
    elif schedule == "geometric":
        maturity = torch.full_like(done, schedule_gamma) ** (slot - 1)
    elif schedule == "power":
        maturity = (1 - done) ** schedule_beta
    else:
        require(False, "schedule", schedule, f"one of {', '.join(SCHEDULES)}")
    return torch.where(slot > tail_length, 0.0, alpha_max * maturity)


def tail_maturities(tail_length: int, **schedule_settings) -> torch.Tensor:
    """a_1, ..., a_{K+1} as a float64 tensor of shape (K + 1,): `[:-1]` is after an update, `[1:]` before it."""
    return schedule_maturity(torch.arange(1, tail_length + 2), tail_length, **schedule_settings)


def update_rates(maturities: torch.Tensor, rate: str = "paper") -> torch.Tensor:
    """eta_1, ..., eta_K: how far each slot moves toward its prediction in one step.

    "paper" is eta_j = a_j (Eq. 4 read literally). "consistent" is (a_j - a_{j+1}) / (1 - a_{j+1}), the only rate that
    carries a_{j+1} * content + (1 - a_{j+1}) * noise exactly to a_j * content + (1 - a_j) * noise.

    Args:
        maturities: a_1, ..., a_{K+1}, shape (K + 1,), as `tail_maturities` returns them.

    Returns:
        Tensor of shape (K,) in [0, 1].
    """
    after, before = maturities[:-1], maturities[1:]
    if rate == "paper":
        return after.clone()
    require(rate == "consistent", "rate", rate, f"one of {', '.join(RATES)}")
    # A slot that is told maturity 1 before the update holds no noise to carry along: it follows its prediction.
    return torch.where(before < 1, (after - before) / (1 - before).clamp(min=1e-12), 1.0)


def update_tail(
    tail: torch.Tensor, predicted: torch.Tensor, rates: torch.Tensor, direction_rate: float | None = None
) -> torch.Tensor:
    """z~_j <- z~_j + eta_j (z^_j - z~_j) for every slot (Eq. 4).

    With a `direction_rate` the update is polar: the angle between z~ and z^ shrinks by direction_rate * eta_j along
    the sphere, the norm moves by eta_j; a zero vector takes z^'s direction.

    Args:
        tail, predicted: z~ and z^, shape (batch, slots, d).
        rates: eta, shape (slots,).
    """
    predicted, rates = predicted.to(tail.dtype), rates.to(tail.dtype)[:, None]
    if direction_rate is None:
        return torch.lerp(tail, predicted, rates)
    old_norm, new_norm = tail.norm(dim=-1, keepdim=True), predicted.norm(dim=-1, keepdim=True)
    old, new = F.normalize(tail, dim=-1), F.normalize(predicted, dim=-1)
    share = (direction_rate * rates).clamp(max=1.0)
    angle = torch.acos((old * new).sum(-1, keepdim=True).clamp(-1, 1))
    sine = angle.sin()
    arc = (((1 - share) * angle).sin() * old + (share * angle).sin() * new) / sine.clamp(min=1e-12)
    # Nearly parallel (or opposite) directions span no plane to turn in; there the chord serves.
    direction = F.normalize(torch.where(sine > 1e-6, arc, torch.lerp(old, new, share.expand_as(old))), dim=-1)
    direction = torch.where(old_norm > 0, direction, new)
    return torch.lerp(old_norm, new_norm, rates) * direction


def committed_vector(
    embedding: torch.Tensor,
    previous: torch.Tensor,
    radius: float,
    history_smoothing: float = 0.0,
    noise: torch.Tensor | None = None,
) -> torch.Tensor:
    """The vector that takes a committed slot's place: e_x itself, or what history smoothing and noise make of it.

    R * normalise(m * previous + (1 - m) * e_x), then R * normalise(that + noise).

    Args:
        embedding, previous: e_x and the committed vector before it, shape (batch, d), of norm R.
        noise: shape (batch, d), already scaled.
    """
    vector = embedding
    if history_smoothing > 0:
        vector = F.normalize(torch.lerp(vector, previous, history_smoothing), dim=-1) * radius
    if noise is not None:
        vector = F.normalize(vector + noise.to(vector), dim=-1) * radius
    return vector


def corrupt(content: torch.Tensor, noise: torch.Tensor, maturity: torch.Tensor) -> torch.Tensor:
    """alpha * content + (1 - alpha) * noise (paper 4.1); exactly `content` where alpha = 1.

    Args:
        content, noise: shape (..., d). maturity: shape (...,).
    """
    alpha = maturity.to(content.dtype)[..., None]
    return alpha * content + (1 - alpha) * noise.to(content.dtype)


def project(vectors: torch.Tensor, table: torch.Tensor, chunk_size: int = 4096) -> torch.Tensor:
    """argmax_i <z, e_i> (Eq. 5): ids of the nearest rows of a table whose rows share one norm.

    Args:
        vectors: shape (..., d). table: shape (V, d). chunk_size: vectors compared with the table at a time.

    Returns:
        Ids of shape (...,).
    """
    flat = vectors.reshape(-1, vectors.shape[-1])
    ids = [F.linear(part.to(table.dtype), table).argmax(dim=-1) for part in flat.split(max(chunk_size, 1))]
    return torch.cat(ids).view(vectors.shape[:-1]) if ids else vectors.new_zeros(vectors.shape[:-1], dtype=torch.long)


def mix_seed(*parts: int) -> int:
    """One 63-bit seed that depends on every part and on their order; unrelated for neighbouring parts."""
    digest = hashlib.blake2b(b",".join(str(int(part)).encode() for part in parts), digest_size=8).digest()
    return int.from_bytes(digest, "little") >> 1


def low_norm_noise(count: int, dim: int, norm: float, seed: int, dtype: torch.dtype = torch.float32) -> torch.Tensor:
    """`count` isotropic vectors of norm `norm`, shape (count, dim), a function of `seed` alone, drawn on the CPU."""
    if norm == 0:
        return torch.zeros(count, dim, dtype=dtype)
    noise = torch.randn(count, dim, generator=torch.Generator().manual_seed(seed), dtype=torch.float32)
    return F.normalize(noise.to(dtype), dim=-1) * norm


EMBRYO, HISTORY, DYNAMICS = 0, 1, 2  # streams of decoding noise


def decoding_noise(
    maturation_seed: int, stream: int, return_index: int, position: int, step: int, dim: int, norm: float, dtype
) -> torch.Tensor:
    """One isotropic vector of norm `norm`, shape (dim,), a function of the first five arguments alone.

    It does not depend on the row of the batch nor on padding, so a batch equals its singles, and return sequences
    differ in nothing else. `position` counts generated tokens; embryos and history noise have step 0.
    """
    return low_norm_noise(1, dim, norm, mix_seed(maturation_seed, stream, return_index, position, step), dtype)[0]


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
