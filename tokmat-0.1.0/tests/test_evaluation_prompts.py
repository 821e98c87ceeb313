# Copyright 2026 The TokMat authors. Licensed under the Apache License, Version 2.0.
"""Prompts from held-out text."""

import pytest
import torch

from trainer.data import load_documents
from trainer.evaluation.prompts import held_out_prompts, windows


def test_prompts_are_beginnings_of_documents_that_are_long_enough(story_file, tokenizer):
    documents = load_documents(str(story_file))
    prompts = held_out_prompts(documents, tokenizer, 5, 6, 10)
    starts = {tuple([tokenizer.bos_token_id, *tokenizer(text)["input_ids"]][:16]) for text in documents["text"]}
    assert prompts.ids.shape == (5, 6) and prompts.human.shape == (5, 10)
    assert {tuple(row) for row in torch.cat([prompts.ids, prompts.human], dim=1).tolist()} <= starts
    assert torch.equal(prompts.ids, held_out_prompts(documents, tokenizer, 5, 6, 10).ids)
    with pytest.raises(ValueError, match="--prompts 5: only 0 held-out documents have 5000 tokens or more"):
        held_out_prompts(documents, tokenizer, 5, 1000, 4000)


def test_windows_do_not_overlap_where_there_are_enough(story_file, tokenizer):
    documents = load_documents(str(story_file))
    rows = [[tokenizer.bos_token_id, *tokenizer(text)["input_ids"]] for text in documents["text"]]
    found, stride = windows(documents, tokenizer, 60, 6, 10)
    assert stride == 16 and found.ids.shape == (60, 6) and found.human.shape == (60, 10)
    expected = {tuple(ids[at : at + 16]) for ids in rows for at in range(0, len(ids) - 15, 16)}
    whole = torch.cat([found.ids, found.human], dim=1).tolist()
    assert {tuple(row) for row in whole} <= expected
    starts = sum(row[0] == tokenizer.bos_token_id for row in whole)
    assert 0 < starts < 60  # of documents, and other places
    again, _ = windows(documents, tokenizer, 60, 6, 10)
    assert torch.equal(found.ids, again.ids)


def test_windows_start_nearer_where_there_are_too_few(story_file, tokenizer):
    documents = load_documents(str(story_file))
    lengths = [1 + len(tokenizer(text)["input_ids"]) for text in documents["text"]]

    def number(stride):
        return sum((length - 16) // stride + 1 for length in lengths)

    count = number(16) + 20
    found, stride = windows(documents, tokenizer, count, 6, 10)
    assert 6 <= stride < 16 and number(stride) >= count > number(stride + 1) and len(found.ids) == count
    with pytest.raises(ValueError, match=f"--mauve-continuations 9999: .* only {number(6)} windows of 16 tokens"):
        windows(documents, tokenizer, 9999, 6, 10)
