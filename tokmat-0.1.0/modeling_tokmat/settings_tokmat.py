# Copyright 2026 The TokMat authors. Licensed under the Apache License, Version 2.0.
"""How text matures: the settings of decoding, saved on `generation_config`."""

from dataclasses import dataclass, fields

from transformers import GenerationConfig

from .checks_tokmat import is_integer, is_number, require
from .maturation_tokmat import MAX_TAIL_LENGTH, RATES, SCHEDULE_SETTINGS, validate_schedule

COMMITS = ("front", "stable", "verified")
STRONGEST = 1e6  # of what multiplies vectors: beyond it their norms leave the range of floats


@dataclass(frozen=True)
class MaturationSettings:
    """
    How text matures: generation settings, saved on `generation_config` and overridable per `generate` call.

    Args:
        tail_length: K, the number of uncommitted vectors, in [1, 64].
        schedule, alpha_max, schedule_gamma, schedule_beta: the maturity schedule (paper 3.3).
        rate: `"paper"` (eta_j = a_j, Eq. 4) or `"consistent"` (use it with alpha_max = 1).
        embryo_norm: norm of a fresh vector in units of R; 0 is deterministic whatever the seed.
        maturation_seed: seed of all noise.
        guidance_scale: s; z^ <- u + s (z^ - u), u being what the tail alone predicts. 1 is off.
        commit: `"front"` (Algorithm 1), `"stable"` or `"verified"` (see `tail_tokmat` and `verified_tokmat`).
        stability_tolerance, max_refinements: of `commit="stable"`.
        history_noise: a committed vector is R * normalise(e_x + history_noise * R * unit noise).
        history_smoothing: m; a committed vector is R * normalise(m * previous + (1 - m) * e_x).
        dynamics_noise: each update adds dynamics_noise * eta_j * R * unit noise.
        direction_rate: polar updates that turn by direction_rate * eta_j of the angle; None is off.
        prompt_lookup_num_tokens: with `commit="verified"`, how many tokens a repeated n-gram may propose as drafts
            beside the tail, in [1, 10]; None is off.
        output_maturation: return the trace; `"vectors"`: with the vectors themselves.
        output_tail: return the tail that remains, a [`TailState`] that `generate` takes as `tail`; slots beyond the
            length limit are then refined too. Both outputs come with `return_dict_in_generate=True`.

    Raises:
        ValueError: names the setting, its value and what is allowed.
    """

    tail_length: int = 16
    schedule: str = "linear"
    alpha_max: float = 0.9
    schedule_gamma: float = 0.8
    schedule_beta: float = 1.0
    rate: str = "paper"
    embryo_norm: float = 0.1
    maturation_seed: int = 0
    guidance_scale: float = 1.0
    commit: str = "front"
    stability_tolerance: float = 0.05
    max_refinements: int = 8
    history_noise: float = 0.0
    history_smoothing: float = 0.0
    dynamics_noise: float = 0.0
    direction_rate: float | None = None
    prompt_lookup_num_tokens: int | None = None
    output_maturation: bool | str = False
    output_tail: bool = False

    def __post_init__(self):
        def check(name, ok, allowed):
            require(ok, name, getattr(self, name), allowed)

        check("tail_length", is_integer(self.tail_length, 1, MAX_TAIL_LENGTH), f"in [1, {MAX_TAIL_LENGTH}]")
        validate_schedule(**self.schedule_settings())
        check("rate", self.rate in RATES, f"one of {', '.join(RATES)}")
        check("maturation_seed", is_integer(self.maturation_seed, 0), "an integer of at least 0")
        scale = f"a number in [0, {STRONGEST:g}]"
        check("guidance_scale", is_number(self.guidance_scale, 0, STRONGEST), f"{scale} (1 = off)")
        check("commit", self.commit in COMMITS, f"one of {', '.join(COMMITS)}")
        check("max_refinements", is_integer(self.max_refinements, 1), "an integer of at least 1")
        for name in ("embryo_norm", "history_noise", "dynamics_noise"):
            check(name, is_number(getattr(self, name), 0, STRONGEST), scale)
        check("stability_tolerance", is_number(self.stability_tolerance, 0), "a number of at least 0")
        check("history_smoothing", is_number(self.history_smoothing, 0) and self.history_smoothing < 1, "in [0, 1)")
        turns = self.direction_rate is None or is_number(self.direction_rate, 0, STRONGEST)
        check("direction_rate", turns, f"None or {scale}")
        lookup = self.prompt_lookup_num_tokens
        check("prompt_lookup_num_tokens", lookup is None or is_integer(lookup, 1, 10), "None or an integer in [1, 10]")
        exact = lookup is None or self.commit == "verified"
        check("prompt_lookup_num_tokens", exact, 'None, unless commit is "verified": its drafts are checked')
        check("output_tail", isinstance(self.output_tail, bool), "True or False")
        check("output_maturation", self.output_maturation in (False, True, "vectors"), 'False, True or "vectors"')
        if self.commit == "verified":
            off = {"guidance_scale": 1.0, "history_noise": 0.0, "history_smoothing": 0.0}
            off |= {"dynamics_noise": 0.0, "direction_rate": None}
            for name, value in off.items():
                check(name, getattr(self, name) == value, f'{value} with commit="verified", which is exact')

    def schedule_settings(self) -> dict:
        """The maturity schedule as keyword arguments of `tail_maturities`."""
        return {name: getattr(self, name) for name in SCHEDULE_SETTINGS}


SETTINGS = tuple(field.name for field in fields(MaturationSettings))


def default_generation_config(config) -> GenerationConfig:
    """The `generation_config` of a fresh model: the maturation settings that its `TokMatConfig` trains for."""
    settings = MaturationSettings(
        tail_length=min(MaturationSettings.tail_length, config.max_tail_length),
        embryo_norm=config.embryo_norm,
        **config.schedule_settings(),
    )
    tokens = {name: getattr(config, name) for name in ("bos_token_id", "eos_token_id", "pad_token_id")}
    return GenerationConfig(**tokens, **{name: getattr(settings, name) for name in SETTINGS})
