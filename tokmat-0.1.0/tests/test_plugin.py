# Copyright 2026 The TokMat authors. Licensed under the Apache License, Version 2.0.
"""The `custom_generate` plugin, in a process where the package cannot be imported."""

from pathlib import Path

import torch
from test_remote_code import run_isolated

PLUGIN = Path(__file__).parents[1] / "hub_cards" / "maturation_generate"


def test_the_plugin_matures_text_and_refuses_other_models(make_model, tokenizer, tmp_path):
    model = make_model(vocab_size=len(tokenizer))
    model.generation_config.eos_token_id = None
    model.save_pretrained(tmp_path / "saved")
    ids = torch.arange(2, 12)[None]
    torch.save(model.generate(ids, max_new_tokens=9, tail_length=3), tmp_path / "expected.pt")
    out = run_isolated(
        tmp_path,
        """
        from transformers import GPT2Config, GPT2LMHeadModel
        expected = torch.load(sys.argv[2])
        model = AutoModelForCausalLM.from_pretrained(folder, trust_remote_code=True)
        plugin = {"custom_generate": sys.argv[3], "trust_remote_code": True}
        run = {"max_new_tokens": 9, "tail_length": 3}
        assert torch.equal(model.generate(ids, **run), expected)
        assert torch.equal(model.generate(ids, **plugin, **run), expected)
        assert torch.equal(model.generate(input_ids=ids, **plugin, **run), expected)
        output = model.generate(ids, **plugin, **run, return_dict_in_generate=True, output_maturation=True)
        assert torch.equal(output.sequences, expected) and len(output.maturation) == 9
        try:
            model.generate(ids, **plugin, tail_length=0)
        except ValueError as error:
            assert "`tail_length` is 0" in str(error)
        else:
            raise SystemExit("a wrong setting was accepted")
        other = GPT2LMHeadModel(GPT2Config(vocab_size=50, n_embd=8, n_layer=1, n_head=1))
        try:
            other.generate(ids, **plugin)
        except ValueError as error:
            assert "needs a TokMat checkpoint" in str(error), error
        else:
            raise SystemExit("another model was accepted")
        print("ok")
        """,
        tmp_path / "saved",
        tmp_path / "expected.pt",
        PLUGIN,
    )
    assert out.endswith("ok\n")
