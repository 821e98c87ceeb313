# Copyright 2026 The TokMat authors. Licensed under the Apache License, Version 2.0.
"""The dynamics of Token Maturation as pure tensor functions (arXiv 2601.04854, sections 3 and 4).

Training simulates maturation and decoding performs it with these same functions, so the two cannot drift apart.
Throughout, maturity alpha is 1 for a committed vector and 0 for a fresh embryo; slot j = 1 is the front of the tail.
"""

import hashlib
import math
from concurrent.futures import ThreadPoolExecutor

import torch
import torch.nn.functional as F

from .checks_tokmat import is_number, require

SCHEDULES = ("linear", "cosine", "geometric", "power")
SCHEDULE_SETTINGS = ("schedule", "alpha_max", "schedule_gamma", "schedule_beta")
RATES = ("paper", "consistent")
MAX_TAIL_LENGTH = 64  # rows of the FiLM table


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
        rates: eta, shape (slots,) or (batch, slots).
    """
    predicted, rates = predicted.to(tail.dtype), rates.to(tail.dtype)[..., None]
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


def mix_seed(*parts: int) -> int:
    """One 63-bit seed that depends on every part and on their order; unrelated for neighbouring parts."""
    digest = hashlib.blake2b(b",".join(str(int(part)).encode() for part in parts), digest_size=8).digest()
    return int.from_bytes(digest, "little") >> 1


def low_norm_noise(count: int, dim: int, norm: float, seed: int, dtype: torch.dtype = torch.float32) -> torch.Tensor:
    """`count` isotropic vectors of norm `norm`, shape (count, dim), a function of `seed` alone, drawn on the CPU."""
    if norm == 0:
        return torch.zeros(count, dim, dtype=dtype)
    return F.normalize(_normal(count, dim, seed).to(dtype), dim=-1) * norm


def low_norm_noises(count: int, dim: int, norm: float, seeds: list[int]) -> torch.Tensor:
    """`low_norm_noise` of each seed, (seeds, count, dim). Drawn side by side: a step on an accelerator would wait for
    one core otherwise."""
    if norm == 0:
        return torch.zeros(len(seeds), count, dim)
    with ThreadPoolExecutor(max_workers=max(torch.get_num_threads(), 1)) as pool:
        drawn = list(pool.map(lambda seed: _normal(count, dim, seed), seeds))
    return F.normalize(torch.stack(drawn), dim=-1) * norm


def _normal(count: int, dim: int, seed: int) -> torch.Tensor:
    return torch.randn(count, dim, generator=torch.Generator().manual_seed(seed), dtype=torch.float32)


EMBRYO, HISTORY, DYNAMICS = 0, 1, 2  # streams of decoding noise


def decoding_noise(
    maturation_seed: int, stream: int, return_index: int, positions: range, step: int, dim: int, norm: float, dtype
) -> torch.Tensor:
    """One isotropic vector of norm `norm` per position, shape (positions, dim), each a function of the first three
    arguments, its position and the step alone.

    It does not depend on the row of the batch nor on padding, so a batch equals its singles, and return sequences
    differ in nothing else. `positions` count generated tokens; embryos and history noise have step 0.
    """
    drawn, generator = torch.empty(len(positions), dim, dtype=torch.float32), torch.Generator()
    for vector, position in zip(drawn, positions):
        vector.normal_(
            generator=generator.manual_seed(mix_seed(maturation_seed, stream, return_index, position, step))
        )
    return F.normalize(drawn.to(dtype), dim=-1) * norm
