# Copyright 2026 The TokMat authors. Licensed under the Apache License, Version 2.0.
"""What `generate` is asked is refused in one sentence, before any work is done, or answered."""

import pytest
import torch
from transformers import GenerationConfig

IDS = torch.tensor([[5, 6, 7], [8, 9, 10]])
ONES = torch.ones_like(IDS)


@pytest.mark.parametrize(
    ("arguments", "name", "allowed"),
    [
        ({"inputs": IDS.float()}, "input_ids", "integer dtype"),
        ({"inputs": IDS.bool()}, "input_ids", "integer dtype"),
        ({"inputs": torch.zeros(1, 0, dtype=torch.long)}, "input_ids", "at least one token"),
        ({"inputs": IDS[0]}, "input_ids", "(batch, length)"),
        ({"inputs": IDS[None]}, "input_ids", "(batch, length)"),
        ({"inputs": [[5, 6, 7]]}, "input_ids", "a tensor of ids"),
        ({"inputs": "Once"}, "input_ids", "a tensor of ids"),
        ({"inputs": IDS + 90}, "input_ids", "[0, 96]"),
        ({"inputs_embeds": torch.zeros(1, 0, 32)}, "inputs_embeds", "at least one token"),
        ({"inputs_embeds": torch.zeros(1, 3, 31)}, "inputs_embeds", "(batch, length, 32)"),
        ({"attention_mask": ONES[:, :2]}, "attention_mask", "shape (2, 3)"),
        ({"attention_mask": ONES[0]}, "attention_mask", "shape (2, 3)"),
        ({"attention_mask": [[1, 1, 1]] * 2}, "attention_mask", "a tensor"),
        ({"attention_mask": ONES * 0.3}, "attention_mask", "0 in padding and 1 elsewhere"),
        ({"attention_mask": torch.stack([ONES[0], 0 * ONES[0]])}, "attention_mask", "rows [1]"),
        ({"pad_token_id": 97}, "pad_token_id", "[0, 96]"),
        ({"pad_token_id": -3}, "pad_token_id", "[0, 96]"),
        ({"pad_token_id": "x"}, "pad_token_id", "[0, 96]"),
        ({"generation_config": GenerationConfig(pad_token_id=97)}, "pad_token_id", "[0, 96]"),
        ({"eos_token_id": 2.5}, "eos_token_id", "a list of ids"),
        ({"eos_token_id": []}, "eos_token_id", "a list of ids"),
        ({"prefill_chunk_size": 0}, "prefill_chunk_size", "at least 1"),
        ({"max_new_tokens": "3"}, "max_new_tokens", "at least 1"),
        ({"max_new_tokens": 2.5}, "max_new_tokens", "at least 1"),
        ({"max_new_tokens": True}, "max_new_tokens", "at least 1"),
        ({"max_new_tokens": 0}, "max_new_tokens", "at least 1"),
        ({"max_new_tokens": 10**30}, "max_length", "64 positions"),
        ({"min_new_tokens": -1}, "min_new_tokens", "at least 0"),
        ({"num_return_sequences": 10**9}, "num_return_sequences", "bytes"),
        ({"generation_config": {"tail_length": 3}}, "generation_config", "GenerationConfig"),
        ({"streamer": 3}, "streamer", "`put`"),
        ({"past_key_values": ()}, "past_key_values", "a cache"),
    ],
)
def test_what_cannot_be_is_refused_by_name(arguments, name, allowed, make_model):
    model = make_model()
    model.predict = None  # nothing is computed
    prompt = {} if "inputs_embeds" in arguments else {"inputs": IDS}
    with pytest.raises(ValueError) as error:
        model.generate(**(prompt | {"max_new_tokens": 4} | arguments))
    assert f"`{name}` is " in str(error.value) and allowed in str(error.value)


def test_what_can_be_is_answered(make_model):
    model = make_model()
    expected = model.generate(IDS, max_new_tokens=4)
    for arguments in ({"attention_mask": ONES.bool()}, {"eos_token_id": -1}, {"prefill_chunk_size": 1}):
        assert torch.equal(model.generate(IDS, max_new_tokens=4, **arguments), expected)
    assert torch.equal(model.generate(IDS.int(), max_new_tokens=4).long(), expected)
    assert model.generate(max_new_tokens=4).shape == (1, 5)
    model.generation_config.bos_token_id = None
    with pytest.raises(ValueError, match="no bos token"):
        model.generate(max_new_tokens=4)
