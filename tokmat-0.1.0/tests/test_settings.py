# Copyright 2026 The TokMat authors. Licensed under the Apache License, Version 2.0.
"""The settings of decoding and what is refused at the door."""

import pytest
import torch


@pytest.fixture
def prompt():
    return torch.randint(2, 97, (3, 9), generator=torch.Generator().manual_seed(1))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"commit": "sometimes"}, "`commit` is 'sometimes'.*front, stable, verified"),
        ({"stability_tolerance": -1.0}, "`stability_tolerance`"),
        ({"max_refinements": 0}, "`max_refinements` is 0"),
        ({"history_noise": -0.1}, "`history_noise`"),
        ({"history_smoothing": 1.0}, r"`history_smoothing` is 1.0.*\[0, 1\)"),
        ({"dynamics_noise": "much"}, "`dynamics_noise` is 'much'"),
        ({"direction_rate": -1.0}, "`direction_rate`"),
        ({"guidance_scale": -1.0}, "`guidance_scale`"),
        ({"output_maturation": "all"}, "`output_maturation` is 'all'"),
        ({"output_tail": 1}, "`output_tail` is 1"),
        ({"commit": "verified", "guidance_scale": 2.0}, "`guidance_scale` is 2.0.*verified"),
        ({"commit": "verified", "history_noise": 0.1}, "`history_noise` is 0.1.*verified"),
        ({"commit": "verified", "history_smoothing": 0.1}, "`history_smoothing`.*verified"),
        ({"commit": "verified", "dynamics_noise": 0.1}, "`dynamics_noise`.*verified"),
        ({"commit": "verified", "direction_rate": 0.5}, "`direction_rate`.*verified"),
    ],
)
def test_wrong_settings_are_refused(make_model, prompt, arguments, message):
    with pytest.raises(ValueError, match=message):
        make_model().generate(prompt, max_new_tokens=2, **arguments)


@pytest.mark.parametrize(
    "name", ["guidance_scale", "embryo_norm", "history_noise", "dynamics_noise", "direction_rate"]
)
@pytest.mark.parametrize("value", [1e7, 1e38, 1e39, float("inf"), float("nan")])
def test_what_would_leave_the_range_of_floats_is_refused(make_model, prompt, name, value):
    model = make_model()
    with pytest.raises(ValueError, match=rf"`{name}` is .*a number in \[0, 1e\+06\]"):
        model.generate(prompt, max_new_tokens=2, **{name: value})
    model.generate(prompt, max_new_tokens=2, **{name: 1e6})
