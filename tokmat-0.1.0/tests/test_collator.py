# Copyright 2026 The TokMat authors. Licensed under the Apache License, Version 2.0.
"""The collator."""

import numpy as np
import pytest
import torch
from datasets import Dataset
from transformers import AutoTokenizer

from trainer.collator import TokMatDataCollator
from trainer.data import (
    tokenize_and_pack,
    train_tokenizer,
)

pytestmark = pytest.mark.usefixtures("datasets_cache")
STORIES = [f"Story {i}: the {animal} sat on the {i} mats." for i, animal in enumerate(["cat", "dog", "hen"] * 20)]


@pytest.fixture(scope="module")
def tokenizer():
    return train_tokenizer(STORIES, vocab_size=400)


def corpus(texts, streaming=False, shards=1):
    documents = Dataset.from_dict({"text": list(texts)})
    return documents.to_iterable_dataset(num_shards=shards) if streaming else documents


PACKED = [
    {"input_ids": [0, 5, 6, 0, 7], "position_ids": [0, 1, 2, 0, 1]},
    {"input_ids": [8, 0, 9], "position_ids": [0, 0, 1]},
]


def as_lists(batch):
    assert all(value.dtype == torch.long for value in batch.values())
    return {key: value.tolist() for key, value in batch.items()}


def test_collator_pads_packed_rows(tokenizer):
    assert as_lists(TokMatDataCollator(tokenizer)(PACKED)) == {
        "input_ids": [[0, 5, 6, 0, 7], [8, 0, 9, 1, 1]],
        "position_ids": [[0, 1, 2, 0, 1], [0, 0, 1, 0, 1]],
        "labels": [[-100, 5, 6, -100, 7], [-100, -100, 9, -100, -100]],
    }


def test_collator_pads_documents(tokenizer):
    features = [{"input_ids": np.array([0, 5, 0])}, {"input_ids": [0, 6, 7, 8]}]
    assert as_lists(TokMatDataCollator(pad_token_id=3)(features)) == {
        "input_ids": [[0, 5, 0, 3], [0, 6, 7, 8]],
        "attention_mask": [[1, 1, 1, 0], [1, 1, 1, 1]],
        "labels": [[0, 5, 0, -100], [0, 6, 7, 8]],
    }


def test_collator_keeps_a_given_mask():
    batch = TokMatDataCollator(pad_token_id=3)([{"input_ids": [3, 5, 6], "attention_mask": [0, 1, 1]}])
    assert batch["attention_mask"].tolist() == [[0, 1, 1]] and batch["labels"].tolist() == [[-100, 5, 6]]


def test_collator_uses_given_labels(tokenizer):
    collator = TokMatDataCollator(tokenizer)
    packed = [{**row, "labels": [-100] * 2 + row["input_ids"][2:]} for row in PACKED]
    assert collator(packed)["labels"].tolist() == [[-100, -100, 6, -100, 7], [-100, -100, 9, -100, -100]]
    whole = [{"input_ids": [0, 5], "labels": [-100, 5]}, {"input_ids": [0, 5, 6], "labels": [-100, -100, 6]}]
    assert collator(whole)["labels"].tolist() == [[-100, 5, -100], [-100, -100, 6]]


def test_collator_pads_to_a_multiple():
    collator = TokMatDataCollator(pad_token_id=1, pad_to_multiple_of=4)
    assert collator(PACKED)["position_ids"].tolist() == [[0, 1, 2, 0, 1, 0, 1, 2], [0, 0, 1, 0, 1, 2, 3, 4]]
    assert collator([{"input_ids": [1] * 4}])["input_ids"].shape == (1, 4)


def test_collator_leaves_equal_lengths_alone(tokenizer):
    rows = tokenize_and_pack(corpus(STORIES), tokenizer, 16)
    batch = TokMatDataCollator(tokenizer)([rows[i] for i in range(4)])
    assert set(batch) == {"input_ids", "position_ids", "labels"}
    assert batch["input_ids"].tolist() == rows[:4]["input_ids"]
    assert torch.equal(batch["labels"] == -100, batch["position_ids"] == 0)


def test_collator_takes_tensors(tokenizer):
    rows = tokenize_and_pack(corpus(STORIES), tokenizer, 16)
    collator = TokMatDataCollator(tokenizer)
    for form in ("numpy", "torch"):
        formatted = rows.with_format(form)
        assert as_lists(collator([formatted[i] for i in range(3)])) == as_lists(collator([rows[i] for i in range(3)]))


def test_collator_errors(tokenizer, tmp_path):
    collator = TokMatDataCollator(tokenizer)
    with pytest.raises(ValueError, match="1 of the 2 rows in this batch have 'position_ids'; allowed: all or none"):
        collator([PACKED[0], {"input_ids": [1, 2]}])
    with pytest.raises(ValueError, match="1 of the 2 rows in this batch have 'labels'"):
        collator([{"input_ids": [1, 2], "labels": [1, 2]}, {"input_ids": [1, 2]}])
    with pytest.raises(ValueError, match="pad_token_id=None"):
        TokMatDataCollator()

    tokenizer.save_pretrained(tmp_path)
    other = AutoTokenizer.from_pretrained(tmp_path)
    other.pad_token = None
    assert TokMatDataCollator(other).pad_token_id == 0  # eos stands in
    other.eos_token = None
    with pytest.raises(ValueError, match="pad_token_id=None"):
        TokMatDataCollator(other)
    assert TokMatDataCollator(other, pad_token_id=7).pad_token_id == 7


def test_collator_in_a_plain_trainer(tokenizer, tmp_path):
    from transformers import GPT2Config, GPT2LMHeadModel, Trainer, TrainingArguments

    torch.manual_seed(0)
    config = GPT2Config(vocab_size=len(tokenizer), n_positions=16, n_embd=16, n_layer=1, n_head=2)
    arguments = TrainingArguments(
        str(tmp_path), max_steps=2, per_device_train_batch_size=2, report_to="none", use_cpu=True, save_strategy="no"
    )
    for streaming in (False, True):
        rows = tokenize_and_pack(corpus(STORIES, streaming), tokenizer, 16)
        trainer = Trainer(
            GPT2LMHeadModel(config), arguments, train_dataset=rows, data_collator=TokMatDataCollator(tokenizer)
        )
        assert np.isfinite(trainer.train().training_loss)
