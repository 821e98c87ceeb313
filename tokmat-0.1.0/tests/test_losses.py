# Copyright 2026 The TokMat authors. Licensed under the Apache License, Version 2.0.
"""The loss against naive references that loop over positions."""

import math

import pytest
import torch
import torch.nn.functional as F

from modeling_tokmat.losses_tokmat import (
    ContextNegatives,
    document_index,
    draw_negatives,
    info_nce,
    regression,
)

V, D, SCALE = 23, 8, 20.0


@pytest.fixture
def batch():
    torch.manual_seed(1)
    ids = torch.randint(0, 9, (3, 14))  # few ids, so that they recur
    documents = torch.zeros(3, 14, dtype=torch.long)
    documents[0, 5:] = 1
    documents[1, 11:] = -1
    return {
        "table": F.normalize(torch.randn(V, D, dtype=torch.float64), dim=-1),
        "predicted": torch.randn(3, 14, D, dtype=torch.float64),
        "targets": torch.randint(0, 9, (3, 14)),
        "ids": ids,
        "documents": documents,
        "negative_ids": torch.randint(0, V, (6,)),
    }


def past_of(batch, row, t, window, ngram=1):
    """The context negatives of a position, by the definition."""
    ids, documents = batch["ids"][row].tolist(), batch["documents"][row].tolist()
    first = documents.index(documents[t])
    before = ids[max(t - ngram + 2, first) : t + 1]
    places = range(first + ngram - 1, t + 1) if len(before) == ngram - 1 else []
    places = [s for s in places if ids[s - ngram + 1 : s] == before and (not window or t - s < window)]
    return {ids[s] for s in places} - {int(batch["targets"][row, t])}


def naive(batch, negative_ids, weight=None, window=0, ngram=1):
    """InfoNCE with context negatives, one position at a time (Eq. 7)."""
    losses = torch.zeros(batch["targets"].shape, dtype=torch.float64)
    for row in range(3):
        for t in range(14):
            target = int(batch["targets"][row, t])
            scores = SCALE * batch["table"] @ F.normalize(batch["predicted"][row, t], dim=-1)
            past = past_of(batch, row, t, window, ngram) if weight is not None else set()
            if negative_ids is None:
                terms = {i: scores[i] + (weight if i in past else 0) for i in range(V) if i != target}
                terms = list(terms.values())
            else:
                terms = [scores[int(i)] for i in negative_ids if int(i) != target and int(i) not in past]
                terms += [scores[i] + weight - math.log(V / len(negative_ids)) for i in past]
            terms = torch.stack([scores[target], *terms])
            losses[row, t] = torch.logsumexp(terms, 0) - scores[target]
    return losses


def chunked(batch, negative_ids, weight=None, window=0, chunk_elements=2**24, ngram=1, **changed):
    batch = {**batch, **changed}
    table = batch["table"]
    keys = table if negative_ids is None else table[negative_ids]
    context = None
    if weight is not None:
        unit = None if negative_ids is None else table[batch["ids"]]
        context = ContextNegatives(batch["ids"], batch["documents"], window, weight, unit, ngram=ngram)
    return info_nce(
        F.normalize(batch["predicted"], dim=-1),
        batch["targets"],
        keys,
        SCALE,
        V,
        target_keys=None if negative_ids is None else table[batch["targets"]],
        negative_ids=negative_ids,
        context=context,
        chunk_elements=chunk_elements,
    )


@pytest.mark.parametrize("sampled", [False, True])
@pytest.mark.parametrize(("weight", "window"), [(None, 0), (0.0, 0), (1.5, 0), (3.0, 4)])
def test_info_nce_equals_its_definition(batch, sampled, weight, window):
    negative_ids = batch["negative_ids"] if sampled else None
    torch.testing.assert_close(
        chunked(batch, negative_ids, weight, window), naive(batch, negative_ids, weight, window)
    )


@pytest.mark.parametrize("sampled", [False, True])
@pytest.mark.parametrize("ngram", [2, 3, 4])
@pytest.mark.parametrize("window", [0, 7])
def test_ngrams_of_the_past_as_negatives_equal_their_definition(batch, sampled, ngram, window):
    batch["ids"] = batch["ids"] % 2  # so that n-grams repeat
    negative_ids = batch["negative_ids"] if sampled else None
    expected = naive(batch, negative_ids, 1.5, window, ngram)
    torch.testing.assert_close(chunked(batch, negative_ids, 1.5, window, ngram=ngram), expected)
    assert any(past_of(batch, row, t, window, ngram) for row in range(3) for t in range(14))


def test_context_negatives_of_zero_nats_change_nothing_with_all(batch):
    torch.testing.assert_close(chunked(batch, None, 0.0), chunked(batch, None))


@pytest.mark.parametrize("sampled", [False, True])
@pytest.mark.parametrize("weight", [None, 1.5])
@pytest.mark.parametrize("chunk_elements", [1, 3 * V, 14 * V, 2 * 14 * V])
def test_chunks_equal_the_dense_loss_in_value_and_gradient(batch, sampled, weight, chunk_elements):
    results = []
    for elements in (2**24, chunk_elements):
        predicted = batch["predicted"].clone().requires_grad_()
        table = batch["table"].clone().requires_grad_()
        negative_ids = batch["negative_ids"] if sampled else None
        loss = chunked(batch, negative_ids, weight, 0, elements, predicted=predicted, table=table)
        (loss * torch.linspace(0, 1, loss.numel(), dtype=loss.dtype).view_as(loss)).sum().backward()
        results.append((loss.detach(), predicted.grad, table.grad))
    for dense, small in zip(*results, strict=True):
        torch.testing.assert_close(small, dense)


def test_the_full_vocabulary_never_meets_all_positions_at_once():
    """Nothing as large as positions x vocabulary is alive at any time of the forward and backward pass, and no batched
    product copies the table."""
    from torch.utils._python_dispatch import TorchDispatchMode

    largest, called = 0, set()

    class Watch(TorchDispatchMode):
        def __torch_dispatch__(self, func, types, args=(), kwargs=None):
            nonlocal largest
            called.add(func.name())
            out = func(*args, **(kwargs or {}))
            for tensor in out if isinstance(out, (tuple, list)) else (out,):
                if torch.is_tensor(tensor):
                    largest = max(largest, tensor.numel())
            return out

    vocabulary, positions = 1000, 64
    predicted = torch.randn(2, positions, 4, requires_grad=True)
    table = F.normalize(torch.randn(vocabulary, 4), dim=-1)
    targets = torch.randint(vocabulary, (2, positions))
    for learned in (True, False):  # of a frozen table torch would do otherwise
        with Watch():
            queries, keys = F.normalize(predicted, dim=-1), table.requires_grad_(learned)
            info_nce(queries, targets, keys, SCALE, vocabulary, chunk_elements=8 * vocabulary).sum().backward()
        assert largest <= 8 * vocabulary
        assert "aten::mm" in called and "aten::bmm" not in called
    assert predicted.grad is not None and table.grad is not None


def test_bf16_is_scored_in_its_own_type_and_summed_in_float32(batch):
    half = {name: batch[name].to(torch.bfloat16) for name in ("predicted", "table")}
    loss = chunked({**batch, **half}, None)
    assert loss.dtype == torch.float32
    torch.testing.assert_close(loss.double(), chunked(batch, None), atol=0.4, rtol=0.05)


def test_regression_is_the_squared_distance_over_the_squared_radius():
    predicted, targets = torch.randn(2, 3, 4), torch.randn(2, 3, 4)
    expected = ((predicted - targets) ** 2).sum(-1) / 2.5**2
    torch.testing.assert_close(regression(predicted, targets, 2.5), expected)


def test_documents_are_told_from_restarting_positions_or_from_the_mask():
    positions = torch.tensor([[0, 1, 2, 0, 1, 0]])
    assert document_index(positions, None, (1, 6), "cpu").tolist() == [[0, 0, 0, 1, 1, 2]]
    assert document_index(None, None, (2, 3), "cpu").tolist() == [[0, 0, 0]] * 2
    # With a mask (left padding gives 0, 0, 0, 1) positions are not read, as in transformers.
    mask = torch.tensor([[0, 0, 1, 1, 1, 1]])
    assert document_index(positions, mask, (1, 6), "cpu").tolist() == [[-1, -1, 0, 0, 0, 0]]


def test_negatives_are_drawn_from_their_source():
    labels = torch.tensor([[3, 3, -100, 5]])
    generator = torch.Generator().manual_seed(0)
    assert draw_negatives("all", 8, V, labels) is None
    uniform = draw_negatives("uniform", 5000, V, labels, generator=generator)
    assert uniform.shape == (5000,) and set(uniform.tolist()) == set(range(V))
    batch = draw_negatives("batch", 3000, V, labels, generator=generator)
    assert set(batch.tolist()) == {3, 5} and abs((batch == 3).float().mean() - 2 / 3) < 0.05
    weights = torch.zeros(V)
    weights[[2, 7]] = torch.tensor([1.0, 3.0])
    unigram = draw_negatives("unigram", 3000, V, labels, weights, generator)
    assert set(unigram.tolist()) == {2, 7} and abs((unigram == 7).float().mean() - 0.75) < 0.05
    with pytest.raises(ValueError, match="`token_counts`"):
        draw_negatives("unigram", 8, V, labels, torch.zeros(V))
