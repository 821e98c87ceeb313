# Copyright 2026 The TokMat authors. Licensed under the Apache License, Version 2.0.
"""All noise of decoding: embryos, and what perturbs the history and the dynamics (METHOD: interventions)."""

import torch

from .maturation_tokmat import DYNAMICS, EMBRYO, HISTORY, decoding_noise

AHEAD = 16  # embryos that are drawn together: one by one, they would cost a small model's steps a few per cent


class DecodingNoise:
    """
    Noise per row and generated position, a function of (maturation_seed, return index, position, step) alone.

    Args:
        settings: [`MaturationSettings`]. several: return sequences per prompt, which lie next to one another.
        dim: d. radius: R, the unit of all norms. dtype, device: of the noise.
        done: tokens and steps of the runs before, whose noise this run's goes on from.
    """

    def __init__(self, settings, several: int, dim: int, radius: float, dtype: torch.dtype, device, done=(0, 0)):
        self.settings, self.several, (self.tokens, self.steps) = settings, several, done
        self.dim, self.radius, self.dtype, self.device = dim, radius, dtype, device
        self._embryos: dict[tuple[int, int], torch.Tensor] = {}  # by return index and position

    def embryos(self, first: list[int], count: int) -> torch.Tensor:
        """Fresh vectors for `count` generated positions per row from its `first`, (batch, count, d)."""
        passed = self.tokens + min(first)
        for key in [key for key in self._embryos if key[1] < passed]:
            del self._embryos[key]
        return self._draw(EMBRYO, first, count, self.settings.embryo_norm, drawn=self._embryos, ahead=AHEAD)

    def of_history(self, positions: list[int]) -> torch.Tensor:
        """What is added to the vector committed at one generated position per row, (batch, d)."""
        return self._draw(HISTORY, positions, 1, self.settings.history_noise)[:, 0]

    def of_dynamics(self, first: list[int], count: int, step: int) -> torch.Tensor:
        """What is added, times eta, to `count` slots per row in a step, (batch, count, d)."""
        return self._draw(DYNAMICS, first, count, self.settings.dynamics_noise, self.steps + step)

    def _draw(self, stream, first: list[int], count: int, norm: float, step=0, drawn=None, ahead=1) -> torch.Tensor:
        """Vectors at `count` positions per row from its `first`. `drawn`: those that are there already, by return
        index and position; further ones join them, `ahead` at a time."""
        norm = norm * self.radius
        if norm == 0:
            return torch.zeros(len(first), count, self.dim, dtype=self.dtype, device=self.device)
        seed, drawn, rows = self.settings.maturation_seed, {} if drawn is None else drawn, []
        for row, start in enumerate(first):
            index, begin = row % self.several, self.tokens + start
            for place in range(begin, begin + count):
                if (index, place) not in drawn:
                    places = range(place, place + ahead)
                    noise = decoding_noise(seed, stream, index, places, step, self.dim, norm, self.dtype)
                    drawn.update(zip([(index, each) for each in places], noise))
            rows.append(torch.stack([drawn[index, place] for place in range(begin, begin + count)]))
        return torch.stack(rows).to(self.device)
