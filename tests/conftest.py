# Copyright 2026 The TokMat authors. Licensed under the Apache License, Version 2.0.
"""Tiny models and tokenizers, made here: no test needs the network, a GPU or a file from outside the repository."""

import os

os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
os.environ.setdefault("OMP_NUM_THREADS", "1")  # for tiny models threads cost more than they give

import pytest
import torch
from hypothesis import settings

from modeling_tokmat import TokMatConfig, TokMatForContinuousLM

# The same examples at every run, and no time limit for one of them: machines are noisy.
settings.register_profile("tokmat", deadline=None, derandomize=True)
settings.load_profile("tokmat")

BACKBONES = ("gpt2", "llama", "qwen3")
STORY = (
    "Once upon a time there was a small fox. The fox lived in a green wood, and every day it went to the river. "
    "One day the river was gone. The fox asked the owl, and the owl said that the river was asleep."
)


@pytest.fixture(autouse=True)
def _seed():
    torch.manual_seed(0)


@pytest.fixture
def make_model():
    """make_model(model_type="gpt2", double=False, **fields): a tiny model whose every weight matters.

    Fresh conditioning is the identity and a fresh head too, so their weights are drawn anew.
    """

    def make(model_type="gpt2", double=False, fresh=False, **fields):
        if not fresh:
            fields.setdefault("embedding_radius", 1.0)
        model = TokMatForContinuousLM(TokMatConfig.tiny(model_type=model_type, **fields))
        if not fresh:
            with torch.no_grad():
                for weight in model.backbone.parameters():
                    if weight.dim() > 1:
                        weight.mul_(1 if weight is model.get_input_embeddings().weight else 8)
                for part in (model.maturity_embedding.fc_out, model.tail_length_film.table):
                    part.weight.normal_(std=0.05)
                # A head that turns: with the identity, a random model repeats its last token for ever. Predictions
                # are about as long as embeddings, as in a trained model, so that noise can matter.
                torch.nn.init.orthogonal_(model.head.weight, gain=0.2)
        return (model.double() if double else model).eval()

    return make


@pytest.fixture
def make_converted():
    """make_converted(tied=True, **fields): a tiny Llama, converted, with tail adapters that act."""
    from transformers import AutoModelForCausalLM

    from trainer.conversion import from_autoregressive

    def make(tied=True, **fields):
        backbone = TokMatConfig.tiny(model_type="llama").backbone_config
        backbone.tie_word_embeddings = tied
        source = AutoModelForCausalLM.from_config(backbone)
        fields = {"tail_adapter_rank": 4, "train": "tail", "parallel_tails": 2, "film_scope": "tail"} | fields
        model = from_autoregressive(source, max_tail_length=8, **fields)
        with torch.no_grad():
            for name, weight in model.named_parameters():
                if name.endswith(("lora_B", "fc_out.weight", "table.weight")):
                    weight.normal_(std=0.1)
        return model.eval()

    return make


@pytest.fixture(scope="session")
def tokenizer():
    """A byte-level BPE tokenizer of 300 tokens trained on one short story."""
    from trainer.data import train_tokenizer

    return train_tokenizer([STORY] * 4, vocab_size=300)


@pytest.fixture(scope="session")
def story_file(tmp_path_factory):
    """A text file of 60 documents."""
    path = tmp_path_factory.mktemp("corpus") / "stories.txt"
    documents = [
        STORY.replace("fox", animal) + f" That was day {day}."
        for animal in ("fox", "bear", "hen")
        for day in range(20)
    ]
    path.write_text("\n<|endoftext|>\n".join(documents) + "\n<|endoftext|>\n", encoding="utf-8")
    return path


@pytest.fixture
def own_folder(tmp_path, monkeypatch):
    """An empty working folder."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("TOKMAT_DEBUG", raising=False)


@pytest.fixture(scope="session")
def trained(story_file, tmp_path_factory):
    """(output folder, what was printed) of a finished `tokmat train` with two checkpoints."""
    from command_line import TINY, invoke

    folder = tmp_path_factory.mktemp("trained") / "model"
    flags = [*TINY, "--save-steps", 2, "--logging-steps", 1]
    result = invoke("train", "--data", story_file, "--output-dir", folder, *flags)
    assert result.exit_code == 0, result.output
    return folder, result.output


@pytest.fixture(scope="session")
def models(tokenizer, tmp_path_factory):
    """(folder of a TokMat model, of another one, of an autoregressive model), untrained, of one tokenizer."""
    from trainer.conversion import from_autoregressive
    from trainer.models import make_baseline

    folder = tmp_path_factory.mktemp("models")
    for number, name in enumerate(("one", "two")):
        torch.manual_seed(number)
        baseline = make_baseline(None, "tiny", tokenizer)
        converted = from_autoregressive(baseline, "sphere", negatives="all")
        for kind, model in ((name, converted), (f"ar-{name}", baseline)):
            model.save_pretrained(folder / kind)
            tokenizer.save_pretrained(folder / kind)
    return folder / "one", folder / "two", folder / "ar-one"


@pytest.fixture
def datasets_cache(tmp_path_factory, monkeypatch):
    """Nothing is written below the home directory, nothing is asked of the network."""
    import datasets

    folder = tmp_path_factory.getbasetemp() / "datasets-cache"
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", folder)
    monkeypatch.setattr(datasets.config, "HF_HUB_OFFLINE", True)
    datasets.disable_progress_bars()
