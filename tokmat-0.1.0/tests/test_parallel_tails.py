# Copyright 2026 The TokMat authors. Licensed under the Apache License, Version 2.0.
"""Parallel tails against loops over single tails: where they lie, what they hold, loss, gradient, and no leaks."""

import copy
import pickle

import pytest
import torch
import torch.nn.functional as F
from conftest import BACKBONES

from modeling_tokmat import TokMatConfig
from modeling_tokmat.maturation_tokmat import tail_maturities
from modeling_tokmat.training_tokmat import line_inputs, mature, simulate_tails

SEEDS = torch.tensor([11, 12])
FIELDS = {
    "parallel_tails": 6,
    "film_scope": "tail",
    "min_tail_length": 2,
    "max_tail_length": 5,
    "tail_weight_floor": 0.3,
    "embryo_norm": 0.5,
    "negatives": "all",
    "context_negatives": 1.0,
}


@pytest.fixture
def packed():
    """Two rows of 24 ids in two documents each, one label left out."""
    ids = torch.randint(2, 97, (2, 24), generator=torch.Generator().manual_seed(3))
    positions = torch.stack([torch.cat([torch.arange(n), torch.arange(24 - n)]) for n in (14, 5)])
    labels = ids.masked_fill(positions == 0, -100)
    labels[0, 8] = -100
    return {"input_ids": ids, "position_ids": positions, "labels": labels}


def single_tails(tails):
    """(row, places of the slots on the line, first place of the document, last committed place, K) per tail."""
    width = (tails.slot.shape[1] - tails.length) // tails.parallel
    for row in range(len(tails.slot)):
        for first in range(tails.length, tails.slot.shape[1], width):
            used = [place for place in range(first, first + width) if tails.slot[row, place] > 0]
            if used:
                start = int(tails.start[row, first])
                document = tails.documents[row]
                begin = int((document == document[start]).nonzero()[0])
                yield row, used, begin, start, int(tails.tail_length[row, first])


def read_one(model, history, slots, length):
    """z^ of [committed ; slots] on their own: (n, d)."""
    vectors = torch.cat([history, slots])[None]
    told = tail_maturities(length)[1 : 1 + len(slots)]
    maturity = torch.cat([torch.ones(len(history)), told.float()])[None]
    return model(inputs_embeds=vectors, maturity=maturity, tail_length=length).predicted_embeds[0]


def naive_slots(model, kind, passes, tails, clean, norm, row, used, begin, start, length):
    """What the slots 1.. of one tail hold, by the definition of each kind of maturation."""
    noise = tails.noise(32, norm).to(clean)[row, used]
    a = tail_maturities(length).to(clean)
    told = a[1 : 1 + len(used), None].float().to(clean)
    if kind == "simulated":
        return told * clean[row, start + 1 : start + 1 + len(used)] + (1 - told) * noise
    slots = noise
    with torch.no_grad():
        for step in range(passes, 0, -1):
            jumps = [int(tails.jumps[row, earlier, used[0]]) for earlier in range(step)]
            now, jump = start - step - sum(jumps), jumps[-1]
            if now >= begin:
                predicted = read_one(model, clean[row, begin : now + 1], slots, length)[-len(used) :]
                embryos = tails.noise(32, norm, stream=1 + step).to(clean)[row, used]
                before = torch.cat([slots[1:], embryos[-1:]])
                slots = before + told * (predicted - before)
                slots = torch.cat([slots[jump:], embryos[max(len(used) - jump, 0) :]])
    return slots


@pytest.mark.parametrize("backbone", BACKBONES)
@pytest.mark.parametrize(
    ("kind", "passes", "slots", "jump"),
    [
        ("simulated", 1, 0, 0),
        ("rollout", 0, 0, 2),
        ("rollout", 1, 0, 0),
        ("rollout", 3, 0, 0),
        ("rollout", 2, 2, 0),
        ("rollout", 2, 0, 3),
    ],
)
def test_loss_and_gradient_equal_loops_over_single_tails(make_model, packed, backbone, kind, passes, slots, jump):
    fields = FIELDS | {"parallel_slots": slots, "rollout_jump": jump}
    model = make_model(backbone, double=True, maturation=kind, rollout_passes=passes, **fields).train()
    ids, labels = packed["input_ids"], packed["labels"]
    output = model(**packed, maturation_seeds=SEEDS)
    output.loss.backward()
    gradient = {name: weight.grad.clone() for name, weight in model.named_parameters()}
    model.zero_grad()

    tails, _ = simulate_tails(model.config, SEEDS, labels, packed["position_ids"])
    clean, table = model.embed_tokens(ids), model.token_embeddings()
    regression = contrastive = total = 0.0

    def add(z, row, place, begin, weight):
        nonlocal regression, contrastive, total
        target = int(labels[row, place + 1])
        scores = 20 * F.cosine_similarity(z[None], table, dim=-1)
        past = set(ids[row, begin : place + 1].tolist()) - {target}
        scores = scores + torch.tensor([1.0 if i in past else 0.0 for i in range(97)], dtype=z.dtype)
        regression = regression + weight * ((z - table[target].detach()) ** 2).sum()
        contrastive = contrastive - weight * torch.log_softmax(scores, 0)[target]
        total = total + weight

    for row in range(2):
        for place in range(23):
            begin = place - int(packed["position_ids"][row, place])
            if labels[row, place + 1] != -100:
                add(read_one(model, clean[row, begin : place + 1], clean[0, :0], 1)[-1], row, place, begin, 1.0)
    count = 0
    for row, used, begin, start, length in single_tails(tails):
        slots = naive_slots(model, kind, passes, tails, clean, 0.5, row, used, begin, start, length)
        predicted = read_one(model, clean[row, begin : start + 1], slots, length)[-len(used) :]
        a = tail_maturities(length)
        end = int((tails.documents[row] == tails.documents[row, start]).nonzero()[-1])
        for j, z in enumerate(predicted, start=1):
            if start + j + 1 <= end and labels[row, start + j + 1] != -100:
                add(z, row, start + j, begin, max(float(a[j].float()), 0.3))
                count += 1
    assert count > 15
    torch.testing.assert_close(output.regression_loss, (regression / total).to(output.regression_loss))
    torch.testing.assert_close(output.contrastive_loss, (contrastive / total).to(output.contrastive_loss))
    ((regression + contrastive) / total).backward()
    for name, weight in model.named_parameters():
        torch.testing.assert_close(gradient[name], weight.grad, msg=name, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("parallel", [0, 6])
def test_rows_that_train_the_tails_alone(make_model, packed, parallel):
    """The loss of a row of each kind: committed predictions of the marked row drop out, those of its tails stay."""
    fields = FIELDS | {"parallel_tails": parallel, "clean_probability": 0.0}
    model = make_model(double=True, **fields).train()
    output = model(**packed, maturation_seeds=SEEDS, tail_only=torch.tensor([True, False]))
    tails, weights = simulate_tails(model.config, SEEDS, packed["labels"], packed["position_ids"])
    kept = weights.clone()
    kept[0, tails.slot[0] == 0] = 0
    assert 0 < kept[0].sum() < weights[0].sum() and torch.equal(kept[1], weights[1])
    with torch.no_grad():
        predicted = model(**packed, maturation_seeds=SEEDS).predicted_embeds
    targets = tails.at_place(F.pad(packed["labels"][:, 1:], (0, 1)).clamp(min=0))
    squared = ((predicted - model.token_embeddings()[targets]) ** 2).sum(-1)
    expected = (squared * kept).sum() / kept.sum()
    torch.testing.assert_close(output.regression_loss, expected.to(output.regression_loss))


def test_where_tails_lie(make_model, packed):
    model = make_model(**FIELDS | {"parallel_tails": 40})
    tails, weights = simulate_tails(model.config, SEEDS, packed["labels"], packed["position_ids"])
    starts, lengths = [], set()
    for row, used, _, start, length in single_tails(tails):
        starts.append((row, start))
        lengths.add(length)
        assert tails.slot[row, used].tolist() == list(range(1, len(used) + 1)) and len(used) <= length - 1
        assert tails.place[row, used].tolist() == list(range(start + 1, start + 1 + len(used)))
        assert (tails.documents[row, start] == tails.documents[row, tails.place[row, used]]).all()
        assert torch.equal(tails.maturity[row, used], tail_maturities(length)[1 : 1 + len(used)].float())
        assert weights[row, used[0]] > 0 or packed["labels"][row, start + 2] == -100
    assert len(set(starts)) == len(starts) and lengths == {2, 3, 4, 5}
    # Every place from which two tokens of its document follow, and whose second has a label.
    positions, labels = packed["position_ids"], packed["labels"]
    possible = (positions[:, 2:] == positions[:, :-2] + 2) & (labels[:, 2:] != -100)
    assert set(starts) == {tuple(pair) for pair in possible.nonzero().tolist()}
    assert (weights[:, 24:][tails.slot[:, 24:] == 0] == 0).all()
    alone, _ = simulate_tails(model.config, SEEDS[1:], packed["labels"][1:], packed["position_ids"][1:])
    assert torch.equal(alone.slot[0], tails.slot[1]) and torch.equal(alone.start[0], tails.start[1])
    assert torch.equal(alone.noise(8, 0.3)[0], tails.noise(8, 0.3)[1])


@pytest.mark.parametrize("backbone", BACKBONES)
def test_nothing_leaks(make_model, packed, backbone):
    """What is perturbed changes nothing that must not see it, and something that must."""
    model = make_model(backbone, double=True, **FIELDS)
    tails, _ = simulate_tails(model.config, SEEDS, packed["labels"], packed["position_ids"])
    inputs = {"attention_mask": None, "position_ids": packed["position_ids"]}
    line = mature(tails, model.embed_tokens(packed["input_ids"]), model.config, model.embedding_radius, None)

    def predict(vectors):
        with torch.no_grad():
            given = line_inputs(tails, vectors, inputs)
            conditions = model.conditions(tails.maturity, tails.tail_length)
            return model.predict(vectors, conditions, use_cache=False, **given)[0]

    def changed_by(row, place):
        disturbed = line.clone()
        disturbed[row, place] += 1.0
        changed = (predict(disturbed) != expected).any(dim=-1)
        assert not changed[1 - row].any()
        return [q for q in changed[row].nonzero()[:, 0].tolist() if q < 24 or tails.slot[row, q] > 0]

    expected = predict(line)
    cases = list(single_tails(tails))
    for row, used, *_ in cases:
        for number, place in enumerate(used):
            # Itself and later slots, so z^_{j+1} and on, but never z^_1 .. z^_j.
            assert changed_by(row, place) == used[number:]
    for row in range(2):
        for place in (3, 9, 16):
            document = tails.documents[row]
            seeing = {q for q in range(place, 24) if document[q] == document[place]}
            for _, used, begin, start, _ in (case for case in cases if case[0] == row):
                seeing |= set(used) if start >= place >= begin else set()
            assert set(changed_by(row, place)) == seeing


def test_the_front_does_not_depend_on_the_tail_length(make_model):
    """With film_scope="tail" committed positions are told K = 1, whatever K is."""
    model = make_model(film_scope="tail", double=True)
    ids = torch.arange(2, 14)[None]
    with torch.no_grad():
        one, eight = model(ids, tail_length=1).predicted_embeds, model(ids, tail_length=8).predicted_embeds
        assert torch.equal(one, eight)
        maturity = torch.ones(1, 12)
        maturity[:, 8:] = 0.5
        parts = [model(ids, maturity=maturity, tail_length=k).predicted_embeds for k in (1, 8)]
    assert torch.equal(parts[0][:, :8], parts[1][:, :8]) and (parts[0][:, 8:] != parts[1][:, 8:]).any()


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"parallel_tails": -1}, "`parallel_tails` is -1"),
        ({"parallel_tails": 4}, "`film_scope` is 'sequence', but it must be one of tail when parallel_tails"),
        ({"maturation": "rollout"}, "`parallel_tails` is 0, but it must be at least 1 when maturation"),
        ({"tail_weight_floor": 1.5}, "`tail_weight_floor` is 1.5"),
    ],
)
def test_wrong_settings_are_refused(fields, message):
    with pytest.raises(ValueError, match=message):
        TokMatConfig.tiny(**fields)


@pytest.mark.parametrize("copied", [copy.deepcopy, lambda model: pickle.loads(pickle.dumps(model))])
def test_a_copy_of_a_model_with_a_tail_has_layers_and_adapters_of_its_own(make_converted, copied):
    model = make_converted()
    other = copied(model)
    told = {"input_ids": torch.tensor([[5, 6, 7, 8]]), "maturity": torch.full((1, 4), 0.5), "tail_length": 4}
    with torch.no_grad():
        before = model(**told).logits
        assert torch.equal(other(**told).logits, before)
        for weight in other.tail_adapters.parameters():
            weight.zero_()
        for layer in other.backbone.layers:
            layer.mlp.down_proj.weight.zero_()
        assert torch.equal(model(**told).logits, before) and not torch.equal(other(**told).logits, before)
