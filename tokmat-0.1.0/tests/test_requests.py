# Copyright 2026 The TokMat authors. Licensed under the Apache License, Version 2.0.
"""What `generate` is asked is refused in one sentence, before any work is done, or answered."""

import pytest
import torch
from transformers import DynamicCache, GenerationConfig, MinLengthLogitsProcessor

from modeling_tokmat.inputs_tokmat import CACHE

IDS = torch.tensor([[5, 6, 7], [8, 9, 10]])
ONES = torch.ones_like(IDS)


@pytest.mark.parametrize(
    ("arguments", "name", "allowed"),
    [
        ({"inputs": IDS.float()}, "input_ids", "integer dtype"),
        ({"inputs": IDS.bool()}, "input_ids", "integer dtype"),
        ({"inputs": IDS.to(torch.int8)}, "input_ids", "integer dtype"),
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
        ({"eos_token_id": 2**63}, "eos_token_id", "a list of ids"),
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
        ({"past_key_values": ()}, CACHE, "a cache"),
        ({"use_cache": "x"}, "use_cache", "True or False"),
        ({"use_cache": 2}, "use_cache", "True or False"),
        ({"generation_config": GenerationConfig(use_cache="no")}, "use_cache", "True or False"),
        ({"return_dict_in_generate": "no"}, "return_dict_in_generate", "True or False"),
        ({"output_scores": "no"}, "output_scores", "True or False"),
        ({"is_assistant": True}, "is_assistant", "False"),
        ({"watermarking_config": 3}, "watermarking_config", "WatermarkingConfig"),
        ({"max_time": "3"}, "max_time", "seconds"),
        ({"max_time": -1.0}, "max_time", "seconds"),
        ({"max_time": float("nan")}, "max_time", "seconds"),
        ({"logits_processor": 3}, "logits_processor", "a list of callables"),
        ({"logits_processor": MinLengthLogitsProcessor(1, 2)}, "logits_processor", "a list of callables"),
        ({"logits_processor": ["x"]}, "logits_processor", "a list of callables"),
        ({"stopping_criteria": "x"}, "stopping_criteria", "a list of callables"),
        ({"prefix_allowed_tokens_fn": [1]}, "prefix_allowed_tokens_fn", "a function"),
        ({"position_ids": [[0, 1, 2]]}, "position_ids", "shape (2, 3)"),
        ({"position_ids": ONES[0]}, "position_ids", "shape (2, 3)"),
        ({"position_ids": ONES[:, :2]}, "position_ids", "shape (2, 3)"),
        ({"position_ids": torch.ones(3, 3, dtype=torch.long)}, "position_ids", "shape (2, 3)"),
        ({"position_ids": ONES.float()}, "position_ids", "integer dtype"),
        ({"position_ids": ONES.bool()}, "position_ids", "integer dtype"),
        ({"position_ids": ONES.to(torch.int8)}, "position_ids", "integer dtype"),
        ({"no_repeat_ngram_size": "x"}, "no_repeat_ngram_size", "at least 0"),
        ({"forced_eos_token_id": 500}, "forced_eos_token_id", "[0, 96]"),
        ({"forced_eos_token_id": "x"}, "forced_eos_token_id", "[0, 96]"),
        ({"suppress_tokens": "x"}, "suppress_tokens", "a list of ids"),
        ({"exponential_decay_length_penalty": 3}, "exponential_decay_length_penalty", "a pair"),
        ({"exponential_decay_length_penalty": (1,)}, "exponential_decay_length_penalty", "a pair"),
        ({"tails": 3}, "tails", "left out"),
        ({"conditions": 3}, "conditions", "left out"),
        ({"position_ids": ONES - 2}, "position_ids", "in [0, 63]"),
        ({"position_ids": ONES * torch.tensor([64, 1, 2])}, "position_ids", "in [0, 63]"),
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
    for arguments in (
        {"attention_mask": ONES.bool()},
        {"eos_token_id": -1},
        {"prefill_chunk_size": 1},
        {"use_cache": False},
        {"max_time": 1e6},
        {"max_time": float("inf")},
        {"logits_processor": [lambda ids, scores: scores]},
        {"position_ids": torch.arange(3).expand(2, 3)},
        {"position_ids": torch.arange(3)[None].int()},
        {"forced_eos_token_id": None, "suppress_tokens": [-1], "no_repeat_ngram_size": 0},
    ):
        assert torch.equal(model.generate(IDS, max_new_tokens=4, **arguments), expected)
    assert torch.equal(model.generate(IDS.int(), max_new_tokens=4).long(), expected)
    assert model.generate(max_new_tokens=4).shape == (1, 5)
    several = model.generate(IDS, max_new_tokens=4, num_return_sequences=3, position_ids=torch.arange(3)[None])
    assert torch.equal(several[::3], expected)
    model.generation_config.bos_token_id = None
    with pytest.raises(ValueError, match="no bos token"):
        model.generate(max_new_tokens=4)


@torch.no_grad()
def test_masks_and_positions_beside_a_cache_are_those_of_all_tokens(make_model):
    model = make_model()
    expected = model.generate(IDS, max_new_tokens=4)[:, 3:]

    def go_on(ids, **arguments):
        cache = DynamicCache(config=model.config.get_text_config())
        model(IDS[:, :1], past_key_values=cache, use_cache=True)
        return model.generate(ids, past_key_values=cache, max_new_tokens=4, **arguments)

    for positions in (torch.arange(3).expand(2, 3), torch.arange(3)[None]):
        assert torch.equal(go_on(IDS, position_ids=positions)[:, 3:], expected)
        for mask in ({}, {"attention_mask": ONES}):
            assert torch.equal(go_on(IDS[:, 1:], position_ids=positions, **mask)[:, 2:], expected)
    for arguments in ({"position_ids": ONES[:, :1]}, {"position_ids": ONES[:, 1:], "attention_mask": ONES}):
        with pytest.raises(ValueError, match="`position_ids` is .*shape .*2, 3"):
            go_on(IDS[:, 1:], **arguments)
    with pytest.raises(ValueError, match=r"`attention_mask` is .*\(2, 2\) or \(2, 3\)"):
        go_on(IDS[:, 1:], attention_mask=torch.ones(2, 4))


@pytest.mark.parametrize("backbone", ["gpt2", "llama"])
@pytest.mark.parametrize("positions", [ONES[:, :2], ONES.float(), ONES - 2, [[0, 1, 2]]])
def test_forward_refuses_positions_that_are_none(make_model, backbone, positions):
    with pytest.raises(ValueError, match="`position_ids` is "):
        make_model(backbone)(IDS, position_ids=positions)


@pytest.mark.parametrize(
    ("arguments", "name"),
    [
        ({"input_ids": IDS.float()}, "input_ids"),
        ({"input_ids": [[5, 6]]}, "input_ids"),
        ({"input_ids": IDS, "labels": IDS[:, :2]}, "labels"),
        ({"input_ids": IDS, "labels": IDS.float()}, "labels"),
    ],
)
def test_forward_refuses_ids_that_are_none(make_model, arguments, name):
    for model in (make_model(), make_model().train()):
        with pytest.raises(ValueError, match=f"`{name}` is .*integer dtype"):
            model(**arguments)
