# Copyright 2026 The TokMat authors. Licensed under the Apache License, Version 2.0.
"""A saved folder carries its own code: fresh processes in which the package cannot be imported."""

import json
import os
import subprocess
import sys
import textwrap

import pytest
import torch
from conftest import BACKBONES

from modeling_tokmat import TokMatForContinuousLM

PARTS = (
    "adapters checks committed conditioning configuration decoding draft_budget generation inputs loading losses "
    "maturation modeling noise requests settings tail tails trace training verified vocabulary"
).split()
PRELUDE = """
import importlib.util, sys
class Barred:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in ("modeling_tokmat", "trainer"):
            raise ModuleNotFoundError(name)
sys.meta_path.insert(0, Barred())
for name in ("modeling_tokmat", "trainer"):
    try:
        __import__(name)
    except ModuleNotFoundError:
        continue
    raise SystemExit(name + " can be imported")
import torch
from transformers import AutoConfig, AutoModel, AutoModelForCausalLM, AutoTokenizer, pipeline
folder, ids = sys.argv[1], torch.arange(2, 12)[None]
"""


def run_isolated(tmp_path, code: str, *arguments) -> str:
    """Run code where neither the repository nor the installed package can be imported, with fresh module caches."""
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    environment |= {"HF_MODULES_CACHE": str(tmp_path / "modules"), "HF_HUB_OFFLINE": "1"}
    command = [sys.executable, "-c", PRELUDE + textwrap.dedent(code), *map(str, arguments)]
    result = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=240)
    assert result.returncode == 0, result.stderr[-3000:]
    return result.stdout


@pytest.fixture
def saved(make_model, tokenizer, tmp_path):
    def save(backbone="gpt2", **fields):
        model = make_model(backbone, vocab_size=len(tokenizer), **fields)
        model.generation_config.update(tail_length=5, rate="consistent", alpha_max=1.0, eos_token_id=None)
        folder = tmp_path / "saved"
        model.save_pretrained(folder)
        tokenizer.save_pretrained(folder)
        return TokMatForContinuousLM.from_pretrained(folder).eval(), folder

    return save


@pytest.mark.parametrize("backbone", BACKBONES)
def test_a_saved_folder_loads_anywhere(saved, tmp_path, backbone):
    model, folder = saved(backbone)
    ids = torch.arange(2, 12)[None]
    with torch.no_grad():
        torch.save(
            {"logits": model(ids).logits, "text": model.generate(ids, max_new_tokens=9)}, tmp_path / "expected.pt"
        )
    out = run_isolated(
        tmp_path,
        """
        expected = torch.load(sys.argv[2])
        config = AutoConfig.from_pretrained(folder, trust_remote_code=True)
        assert type(config).__module__.startswith("transformers_modules"), type(config)
        for auto in (AutoModel, AutoModelForCausalLM):
            model, info = auto.from_pretrained(folder, trust_remote_code=True, output_loading_info=True)
            assert type(model).__module__.startswith("transformers_modules"), type(model)
            assert not any(info[key] for key in ("missing_keys", "unexpected_keys", "mismatched_keys")), info
            model.eval()
            with torch.no_grad():
                assert torch.equal(model(ids).logits, expected["logits"])
            settings = model.generation_config
            assert (settings.tail_length, settings.rate, settings.alpha_max) == (5, "consistent", 1.0)
            assert torch.equal(model.generate(ids, max_new_tokens=9), expected["text"])
        # load -> save -> load
        model.save_pretrained(sys.argv[3])
        AutoTokenizer.from_pretrained(folder, trust_remote_code=True).save_pretrained(sys.argv[3])
        print("ok")
        """,
        folder,
        tmp_path / "expected.pt",
        tmp_path / "again",
    )
    assert out.endswith("ok\n")
    names = {path.name for path in folder.iterdir()}
    code = {f"{part}_tokmat.py" for part in PARTS}
    assert code < names and code < {path.name for path in (tmp_path / "again").iterdir()}
    first, second = (json.loads((path / "config.json").read_text()) for path in (folder, tmp_path / "again"))
    assert first["auto_map"] == {
        "AutoConfig": "configuration_tokmat.TokMatConfig",
        "AutoModel": "modeling_tokmat.TokMatForContinuousLM",
        "AutoModelForCausalLM": "modeling_tokmat.TokMatForContinuousLM",
    }
    for config in (first, second):
        config["backbone_config"].pop("dtype")  # transformers writes it down when a model is loaded
    assert second == first
    out = run_isolated(
        tmp_path,
        """
        expected = torch.load(sys.argv[2])
        model = AutoModel.from_pretrained(folder, trust_remote_code=True).eval()
        with torch.no_grad():
            assert torch.equal(model(ids).logits, expected["logits"])
        assert torch.equal(model.generate(ids, max_new_tokens=9), expected["text"])
        print("ok")
        """,
        tmp_path / "again",
        tmp_path / "expected.pt",
    )
    assert out.endswith("ok\n")


def test_the_text_generation_pipeline(saved, tmp_path):
    model, folder = saved()
    out = run_isolated(
        tmp_path,
        """
        generator = pipeline("text-generation", model=folder, trust_remote_code=True)
        texts = [generator("The fox", max_new_tokens=8, tail_length=k)[0]["generated_text"] for k in (1, 5)]
        many = generator(["The fox", "Once upon"], max_new_tokens=4, return_full_text=False)
        assert all(text.startswith("The fox") for text in texts) and len(many) == 2, (texts, many)
        print("ok")
        """,
        folder,
    )
    assert out.endswith("ok\n")


def test_a_loaded_folder_trains_with_the_plain_trainer(saved, tmp_path):
    _, folder = saved(negatives="unigram")
    out = run_isolated(
        tmp_path,
        """
        from transformers import Trainer, TrainingArguments
        model = AutoModelForCausalLM.from_pretrained(folder, trust_remote_code=True)
        model.set_token_counts(torch.ones(model.config.vocab_size))
        rows = [{"input_ids": torch.arange(2, 26) + i, "labels": torch.arange(2, 26) + i} for i in range(8)]
        arguments = TrainingArguments(sys.argv[2], max_steps=3, per_device_train_batch_size=4, report_to="none",
                                      use_cpu=True, logging_steps=1, save_steps=3)
        trainer = Trainer(model, arguments, train_dataset=rows)
        trainer.train()
        assert all(entry["loss"] > 0 for entry in trainer.state.log_history if "loss" in entry)
        again = AutoModelForCausalLM.from_pretrained(sys.argv[2] + "/checkpoint-3", trust_remote_code=True)
        assert all(torch.equal(a, b) for a, b in zip(again.state_dict().values(), model.state_dict().values()))
        print("ok")
        """,
        folder,
        tmp_path / "run",
    )
    assert out.endswith("ok\n")
