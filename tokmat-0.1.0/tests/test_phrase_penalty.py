# Copyright 2026 The TokMat authors. Licensed under the Apache License, Version 2.0.
"""Rows of own text follow a frozen reference without what it repeats; the other rows are trained as ever."""

import copy

import pytest
import torch
import torch.nn.functional as F
from command_line import invoke

from modeling_tokmat.losses_tokmat import Reference
from trainer import TokMatTrainer, TokMatTrainingArguments
from trainer.checkpoints import load_model
from trainer.evaluation.decoders import PhrasePenalty

IDS = torch.tensor([[5, 6, 7, 5, 6, 7, 5, 6, 7, 5], [8, 9, 10, 8, 9, 11, 8, 9, 12, 13]])
OWN = torch.tensor([True, False])
FIELDS = {"negatives": "all", "regression_weight": 0.0, "clean_probability": 1.0}


def said_by(model, ids) -> Reference:
    vocabulary = model.vocabulary()
    queries = vocabulary.queries(model(ids).predicted_embeds)
    return Reference(queries.detach(), vocabulary.keys(queries.dtype).detach(), vocabulary.scale, vocabulary.bias)


def without_phrases(logits, ids, penalty, window=None):
    """The reference's log-probabilities, each phrase looked for one by one; of the last `window` places if given."""
    wanted = logits.clone()
    for place in range(len(ids)):
        for length, nats in ((2, penalty), (3, penalty), (4, 2 * penalty)):
            end = ids[place - length + 2 : place + 1] if place >= length - 2 else None
            for start in range(place - length + 2):
                phrase = ids[start : start + length]
                near = window is None or place - (start + length - 1) < window
                if end is not None and phrase[:-1] == end and near:
                    token = phrase[-1]
                    earlier = [ids[first : first + length] for first in range(start + 1, place - length + 2)]
                    wanted[place, token] -= nats * (phrase not in earlier)  # each phrase counts once
    return wanted.log_softmax(-1)


@pytest.mark.parametrize("sharpness", [1.0, 3.0])
def test_own_rows_follow_the_reference_without_its_phrases(make_model, sharpness):
    model, reference = (make_model(double=True, phrase_penalty=1.5, **FIELDS) for _ in range(2))
    with torch.no_grad():
        for weight in reference.parameters():
            weight += 0.02 * torch.randn_like(weight)
    said = said_by(reference, IDS[:1])._replace(sharpness=sharpness)
    output = model.train()(IDS, labels=IDS, tail_only=OWN, reference=said)
    logits = model.eval()(IDS).logits
    wanted = without_phrases(reference(IDS[:1]).logits[0], IDS[0].tolist(), 1.5)
    wanted, found = (sharpness * wanted).log_softmax(-1), (sharpness * logits[0]).log_softmax(-1)
    follows = (wanted.exp() * (wanted - found)).sum(-1)[:-1]
    likely = logits[1, :-1].log_softmax(-1).gather(-1, IDS[1, 1:, None])
    torch.testing.assert_close(output.loss, (follows.sum() - likely.sum()) / 18, check_dtype=False)
    assert follows.min() > 0


def test_phrases_count_within_the_window_alone(make_model):
    wanted = {}
    for window in (0, 4):
        model = make_model(double=True, phrase_penalty=1.5, context_window=window, **FIELDS)
        said = said_by(model, IDS[:1])
        loss = model.train()(IDS[:1], labels=IDS[:1], tail_only=OWN[:1], reference=said).loss
        logits = model.eval()(IDS[:1]).logits[0].detach()
        wanted[window] = without_phrases(logits, IDS[0].tolist(), 1.5, window or None)
        apart = F.kl_div(logits.log_softmax(-1), wanted[window], reduction="none", log_target=True).sum(-1)[:-1]
        torch.testing.assert_close(loss, apart.sum() / 9, check_dtype=False)
    assert not torch.allclose(wanted[0], wanted[4])


def test_other_rows_can_follow_the_reference_as_it_is(make_model):
    model, reference = (make_model(double=True, phrase_penalty=1.5, **FIELDS) for _ in range(2))
    with torch.no_grad():
        for weight in reference.parameters():
            weight += 0.02 * torch.randn_like(weight)
    said = said_by(reference, IDS)._replace(sharpness=3.0, rows=OWN | ~OWN)
    loss = model.train()(IDS, labels=IDS, tail_only=OWN, reference=said).loss
    found, wanted = model.eval()(IDS).logits, reference(IDS).logits
    own = without_phrases(wanted[0], IDS[0].tolist(), 1.5)
    pairs = [(3 * own, 3 * found[0]), (wanted[1], found[1])]
    apart = [F.kl_div(p.log_softmax(-1), q.log_softmax(-1), reduction="none", log_target=True) for q, p in pairs]
    torch.testing.assert_close(loss, sum(part.sum(-1)[:-1].sum() for part in apart) / 18, check_dtype=False)


def test_the_penalty_at_decoding_is_what_is_taught():
    ids, scores = torch.stack([IDS[0], IDS[1].flip(0)]), torch.randn(2, 97, dtype=torch.float64)
    found = PhrasePenalty(1.5)(ids, scores).log_softmax(-1)
    for row in range(2):
        wanted = without_phrases(scores[row].expand(10, -1), ids[row].tolist(), 1.5)[-1]
        torch.testing.assert_close(found[row], wanted)
    assert float((found - scores.log_softmax(-1)).abs().max()) > 0.1


def test_steps_unlearn_the_phrase_and_keep_the_rest(make_model):
    model = make_model(phrase_penalty=1.5, **FIELDS)
    reference = said_by(model.eval(), IDS[:1])
    wanted = without_phrases(model(IDS[:1]).logits[0].detach(), IDS[0].tolist(), 1.5).exp()
    optimizer = torch.optim.AdamW(model.parameters(), 3e-3, weight_decay=0)
    model.train()
    for _ in range(80):
        model(IDS[:1], labels=IDS[:1], tail_only=OWN[:1], reference=reference).loss.backward()
        optimizer.step()
        optimizer.zero_grad()
    found = F.softmax(model.eval()(IDS[:1]).logits[0], -1)
    torch.testing.assert_close(found[:-1], wanted[:-1], atol=0.01, rtol=0.2)


def test_it_needs_the_exact_loss_and_a_reference(make_model):
    with pytest.raises(ValueError, match="negatives"):
        make_model(phrase_penalty=1.0, negatives="uniform")
    model = make_model(phrase_penalty=1.0, **FIELDS).train()
    with pytest.raises(ValueError, match="`reference` is None"):
        model(IDS, labels=IDS, tail_only=OWN)


def test_the_trainer_refuses_a_reference_that_it_cannot_follow(make_model, tmp_path):
    args = TokMatTrainingArguments(str(tmp_path), report_to="none", use_cpu=True)
    with pytest.raises(ValueError, match="'a model of 50 tokens', but it must be one of the model's 97"):
        TokMatTrainer(make_model(phrase_penalty=1.0, **FIELDS), args, reference=make_model(vocab_size=50, **FIELDS))
    with pytest.raises(ValueError, match="`phrase_penalty` is 0.0, but it must be above 0"):
        TokMatTrainer(make_model(**FIELDS), args, reference=make_model(**FIELDS))
    with pytest.raises(ValueError, match="`reference_sharpness` is 0, but it must be a number above 0"):
        TokMatTrainingArguments(str(tmp_path), report_to="none", use_cpu=True, reference_sharpness=0)
    with pytest.raises(ValueError, match="`reference_rows` is 'none', but it must be own or all"):
        TokMatTrainingArguments(str(tmp_path), report_to="none", use_cpu=True, reference_rows="none")


def test_a_batch_without_own_rows_is_one_of_text_alone(make_model, tmp_path):
    args = TokMatTrainingArguments(str(tmp_path), report_to="none", use_cpu=True)
    torch.manual_seed(0)
    model, reference = (make_model(phrase_penalty=1.0, **FIELDS) for _ in range(2))
    trainer = TokMatTrainer(model.train(), args, reference=reference)
    text = {"input_ids": IDS, "labels": IDS}
    loss = trainer.compute_loss(model, text | {"tail_only": ~OWN & OWN})
    torch.testing.assert_close(loss, trainer.compute_loss(model, text))
    assert not torch.allclose(loss, trainer.compute_loss(model, text | {"tail_only": OWN}))
    args.reference_rows = "all"  # then it follows the reference, as a batch with own rows does
    follows = trainer.compute_loss(model, text | {"tail_only": ~OWN & OWN})
    assert not torch.allclose(loss, follows)
    same = copy.deepcopy(reference).train()
    torch.testing.assert_close(trainer.compute_loss(same, text | {"tail_only": ~OWN & OWN}), 0 * loss)


@pytest.mark.usefixtures("own_folder")
def test_the_command_line_trains_on_own_text(story_file, trained, tmp_path):
    own = ["--prompts", story_file, "--texts", 4, "--max-new-tokens", 20, "--add-bos", "--stop-loops", "false"]
    written = invoke("own-text", trained[0], *own, "--may-end", "false", "--output", "own.jsonl")
    assert written.exit_code == 0, written.output
    flags = ["--tail-data", "own.jsonl", "--phrase-penalty", 1.5, "--clean-probability", 1]
    flags += ["--model", trained[0], "--block-size", 32, "--max-steps", 2, "--validation-fraction", 0]
    result = invoke("train", "--data", story_file, *flags, "--output-dir", "unlearnt")
    assert result.exit_code == 2 and "belong together" in result.output
    flags += ["--reference", trained[0], "--output-dir", "unlearnt"]
    result = invoke("train", "--data", story_file, *flags)
    assert result.exit_code == 0, result.output
    assert load_model("unlearnt").config.phrase_penalty == 1.5
