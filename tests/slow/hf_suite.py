# Copyright 2026 The TokMat authors. Licensed under the Apache License, Version 2.0.
"""transformers' own test classes over TokMat, as test_hf_suite.py runs them: it fetches what is imported here."""

import json
import unittest
from functools import cache, partial
from pathlib import Path
from unittest.mock import patch

import torch
from transformers import AutoModelForCausalLM
from transformers_tests.generation.test_utils import GenerationTesterMixin
from transformers_tests.test_configuration_common import ConfigTester
from transformers_tests.test_modeling_common import ModelTesterMixin, ids_tensor
from transformers_tests.test_training_mixin import TrainingTesterMixin

from modeling_tokmat import TokMatConfig, TokMatForContinuousLM
from trainer.conversion import from_autoregressive

REFUSED = json.loads(Path(__file__).with_name("hf_suite_skips.json").read_text(encoding="utf-8"))["refused"]

# What TokMat asks to be told, and what the tests of these names mean: draw what a file lacks; no maturation.
DRAW_MISSING = ("test_can_init_all_missing_weights", "test_model_weights_reload_no_missing_tied_weights")
COMMITTED = ("test_resize_tokens_embeddings", "test_retain_grad_hidden_states_attentions")
FROM_SCRATCH = {"negatives": "all", "regression_weight": 0.1, "embedding_radius": 32**0.5}


@cache
def converted_config() -> dict:
    """The configuration of a converted model with adapters for a tail."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        source = AutoModelForCausalLM.from_config(TokMatConfig.tiny(model_type="llama").backbone_config)
        return from_autoregressive(source, tail_adapter_rank=4, pad_token_id=0).config.to_dict()


class Tester:
    """What the suite asks a model for: a small configuration, and inputs for it."""

    causal_lm_class = TokMatForContinuousLM
    batch_size, seq_length, is_training = 3, 7, True
    vocab_size, hidden_size, num_hidden_layers, num_attention_heads = 97, 32, 2, 4

    def __init__(self, make_config, committed: bool):
        self.get_config, self.committed = make_config, committed

    def prepare_config_and_inputs_for_common(self):
        ids = ids_tensor([self.batch_size, self.seq_length], self.vocab_size)
        inputs = {"input_ids": ids, "attention_mask": torch.ones_like(ids)}
        return self.get_config(), inputs | ({"maturity": torch.ones(ids.shape)} if self.committed else {})


class Suite(ModelTesterMixin, GenerationTesterMixin, TrainingTesterMixin):
    all_model_classes = (TokMatForContinuousLM,)
    model_type = "gpt2"
    model_tester = None

    def make_config(self) -> TokMatConfig:
        # The suite's training has id 1 as a token, and ends with 0.
        return TokMatConfig.tiny(model_type=self.model_type, pad_token_id=0, **FROM_SCRATCH)

    def setUp(self):
        name = self._testMethodName
        if name in REFUSED:
            self.skipTest(REFUSED[name])
        self.model_tester = Tester(self.make_config, name in COMMITTED)
        if name in DRAW_MISSING:
            draw = partial(TokMatForContinuousLM.from_pretrained, initialise_missing=True)
            patched = patch.object(TokMatForContinuousLM, "from_pretrained", draw)
            patched.start()
            self.addCleanup(patched.stop)

    def test_config(self):
        ConfigTester(self, config_class=TokMatConfig).run_common_tests()


class TestGPT2(Suite, unittest.TestCase):
    pass


class TestLlama(Suite, unittest.TestCase):
    model_type = "llama"


class TestQwen3(Suite, unittest.TestCase):
    model_type = "qwen3"


class TestConverted(Suite, unittest.TestCase):
    model_type = "llama"

    def make_config(self) -> TokMatConfig:
        return TokMatConfig.from_dict(converted_config())
