# Copyright 2026 The TokMat authors. Licensed under the Apache License, Version 2.0.
"""What the tail knows."""

import pytest
import torch

from trainer.evaluation.look_ahead import tail_accuracy


def test_tail_accuracy_equals_a_loop_over_steps(make_model):
    model = make_model(double=True)
    ids = torch.randint(2, 97, (3, 6), generator=torch.Generator().manual_seed(0))
    run = {"tail_length": 4, "embryo_norm": 1.0, "alpha_max": 0.8}
    found = tail_accuracy(model, ids, 12, **run)
    output = model.generate(
        ids, max_new_tokens=12, eos_token_id=None, output_maturation="vectors", return_dict_in_generate=True, **run
    )
    table = model.token_embeddings()
    for slot in range(1, 5):
        hits = []
        for step, trace in enumerate(output.maturation):
            for row in range(3):
                if step + slot <= 12:
                    nearest = int((table @ trace.vectors[row, slot - 1]).argmax())
                    hits.append(nearest == int(output.sequences[row, 6 + step + slot - 1]))
        assert found[f"tail_acc_{slot}"] == pytest.approx(sum(hits) / len(hits))
    assert list(found) == [f"tail_acc_{slot}" for slot in range(1, 5)] and found["tail_acc_1"] == 1.0


def test_tail_accuracy_of_a_tail_that_knows_everything(make_model):
    """A model whose predictions are the same vector everywhere."""
    model = make_model()
    with torch.no_grad():
        model.head.weight.zero_()
        model.head.bias.copy_(model.token_embeddings()[41])
    found = tail_accuracy(model, torch.tensor([[5, 6, 7]]), 8, tail_length=3, embryo_norm=0.0)
    assert found == {"tail_acc_1": 1.0, "tail_acc_2": 1.0, "tail_acc_3": pytest.approx(1.0)}
