# Copyright 2026 The TokMat authors. Licensed under the Apache License, Version 2.0.
"""What decoders write, the judge, and intervals."""

import numpy as np
import pytest
import torch
from transformers import AutoModelForCausalLM

from trainer.data import load_documents
from trainer.evaluation import metrics
from trainer.evaluation.decoders import write
from trainer.evaluation.measures import interval, judge_nll, per_prompt
from trainer.evaluation.prompts import held_out_prompts


def test_the_interval_holds_the_mean_and_shrinks_with_more_prompts():
    values = np.random.default_rng(0).normal(size=400)
    mean, low, high = interval(values)
    assert low < mean < high and mean == pytest.approx(values.mean())
    assert high - low == pytest.approx(2 * 1.96 * values.std() / 20, rel=0.15)
    assert interval(values[:100])[2] - interval(values[:100])[1] > 1.5 * (high - low)


def test_the_judge_reads_the_continuation_alone(models):
    judge = AutoModelForCausalLM.from_pretrained(models[2]).eval()
    prompt, text = torch.randint(2, 200, (3, 4)), torch.randint(2, 200, (3, 7))
    found = judge_nll(judge, prompt, text, batch_size=2)
    with torch.no_grad():
        log_p = judge(torch.cat([prompt, text], dim=1)).logits.log_softmax(-1)
    for row in range(3):
        expected = -sum(log_p[row, 3 + place, token] for place, token in enumerate(text[row])) / 7
        torch.testing.assert_close(found[row], expected)


def test_continuations_have_one_length_and_seeds_differ(models, story_file, tokenizer):
    prompts = held_out_prompts(load_documents(str(story_file)), tokenizer, 4, 6, 10)
    tokmat = AutoModelForCausalLM.from_pretrained(models[0], trust_remote_code=True).double().eval()
    run = {"embryo_norm": 3.0, "alpha_max": 0.3}
    written = write("noisy", tokmat, prompts, 10, 3, [0, 1], **run)
    assert [part.shape for part in written.runs] == [(4, 10)] * 2 and not torch.equal(*written.runs)
    again = write("noisy", tokmat, prompts, 10, 4, [0], **run)
    assert torch.equal(again.runs[0], written.runs[0])  # whatever the batch
    values = per_prompt(written.runs, prompts)
    expected = np.mean([[metrics.rep_n([row], 2) for row in run.tolist()] for run in written.runs], axis=0)
    np.testing.assert_allclose(values["rep_2"], expected)
