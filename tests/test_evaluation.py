# Copyright 2026 The TokMat authors. Licensed under the Apache License, Version 2.0.
"""Metrics of degeneration, the tail's look-ahead, and `tokmat evaluate`."""

import json
import math
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from transformers import AutoModelForCausalLM
from typer.testing import CliRunner

from trainer.cli import app
from trainer.conversion import from_autoregressive
from trainer.data import load_documents
from trainer.evaluation import metrics
from trainer.evaluation.decoders import write
from trainer.evaluation.look_ahead import tail_accuracy
from trainer.evaluation.measures import interval, judge_nll, per_prompt
from trainer.evaluation.prompts import held_out_prompts
from trainer.models import make_baseline

CARDS = Path(__file__).parents[1] / "hub_cards"
SEQUENCES = st.lists(st.lists(st.integers(0, 5), max_size=30), min_size=1, max_size=6)


# -- metrics ----------------------------------------------------------------------------------------------------------


def test_metrics_on_texts_that_are_easily_counted():
    words = "the cat sat on the mat the cat sat".split()
    assert metrics.rep_n([words], 1) == pytest.approx(1 - 5 / 9)
    assert metrics.rep_n([words], 2) == pytest.approx(1 - 6 / 8)
    assert metrics.rep_n([words], 3) == pytest.approx(1 - 6 / 7)
    assert metrics.dist_n([words], 2) == pytest.approx(6 / 8)
    assert metrics.dist_n([words], 2, per_token=True) == pytest.approx(6 / 9)
    assert metrics.dist_n([words, words], 2, pooled=True) == pytest.approx(6 / 16)
    # Su et al. count repetition within each text before they pool: a long text weighs more than a short one.
    assert metrics.rep_n([words, ["a", "b"]], 2, pooled=True) == pytest.approx(1 - 7 / 9)
    assert metrics.rep_n([words, ["a", "b"]], 2) == pytest.approx((2 / 8 + 0) / 2)
    assert metrics.loop_share([words, ["a", "b"]]) == 0.5
    assert metrics.unique_tokens([words, ["a"]]) == 6
    assert metrics.diversity([words]) == pytest.approx(6 / 8 * 6 / 7 * 6 / 6)


def test_an_ending_loop():
    assert metrics.ends_in_a_loop(list("xabcabc"))
    assert not metrics.ends_in_a_loop(list("xababab"))  # two tokens only, three times
    assert metrics.ends_in_a_loop(list("x" + "ab" * 51))
    assert metrics.ends_in_a_loop(["x"] + ["a"] * 51) and not metrics.ends_in_a_loop(["x"] + ["a"] * 50)
    assert not metrics.ends_in_a_loop(list("abcabcx"))
    assert metrics.ending_loop_share([list("xabcabc"), list("xyz")]) == 0.5


def test_zipf_of_an_exact_power_law():
    counts = [1000, 500, 333, 250, 200]
    tokens = [rank for rank, count in enumerate(counts) for _ in range(count)]
    assert metrics.zipf_coefficient([tokens]) == pytest.approx(1.0, abs=0.01)
    assert math.isnan(metrics.zipf_coefficient([[1, 1]]))


@given(SEQUENCES, st.integers(1, 4))
def test_repetition_and_distinctness_are_two_sides(sequences, n):
    long_enough = [tokens for tokens in sequences if len(tokens) >= n]
    assert 0 <= metrics.rep_n(sequences, n) < 1 and 0 <= metrics.rep_n(sequences, n, pooled=True) < 1
    if long_enough:
        assert metrics.dist_n(long_enough, n) == pytest.approx(1 - metrics.rep_n(long_enough, n))
    shuffled = sequences[::-1]
    assert metrics.rep_n(shuffled, n) == pytest.approx(metrics.rep_n(sequences, n))
    renamed = [[f"w{token}" for token in tokens] for tokens in sequences]
    assert metrics.loop_share(renamed) == metrics.loop_share(sequences)
    assert metrics.dist_n(renamed, n, pooled=True) == metrics.dist_n(sequences, n, pooled=True)


@given(st.integers(4, 40), st.integers(1, 3))
def test_all_the_same_and_all_different(length, n):
    assert metrics.rep_n([["a"] * length], n) == pytest.approx(1 - 1 / (length - n + 1))
    assert metrics.rep_n([list(range(length))], n) == 0 and metrics.loop_share([list(range(length))]) == 0
    assert metrics.ends_in_a_loop([7] * 2 + list(range(10, 10 + length)) * 2)


def test_the_interval_holds_the_mean_and_shrinks_with_more_prompts():
    values = np.random.default_rng(0).normal(size=400)
    mean, low, high = interval(values)
    assert low < mean < high and mean == pytest.approx(values.mean())
    assert high - low == pytest.approx(2 * 1.96 * values.std() / 20, rel=0.15)
    assert interval(values[:100])[2] - interval(values[:100])[1] > 1.5 * (high - low)


# -- what the tail knows ----------------------------------------------------------------------------------------------


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


# -- prompts, continuations, the judge --------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def models(tokenizer, tmp_path_factory):
    """(folder of a TokMat model, folder of an autoregressive model), untrained, of one tokenizer."""
    torch.manual_seed(0)
    folder = tmp_path_factory.mktemp("models")
    baseline = make_baseline(None, "tiny", tokenizer)
    converted = from_autoregressive(baseline, "sphere", negatives="all")
    for name, model in (("ar", baseline), ("tokmat", converted)):
        model.save_pretrained(folder / name)
        tokenizer.save_pretrained(folder / name)
    return folder / "tokmat", folder / "ar"


def test_prompts_are_beginnings_of_documents_that_are_long_enough(story_file, tokenizer):
    documents = load_documents(str(story_file))
    prompts = held_out_prompts(documents, tokenizer, 5, 6, 10)
    starts = {tuple([tokenizer.bos_token_id, *tokenizer(text)["input_ids"]][:16]) for text in documents["text"]}
    assert prompts.ids.shape == (5, 6) and prompts.human.shape == (5, 10)
    assert {tuple(row) for row in torch.cat([prompts.ids, prompts.human], dim=1).tolist()} <= starts
    assert torch.equal(prompts.ids, held_out_prompts(documents, tokenizer, 5, 6, 10).ids)
    with pytest.raises(ValueError, match="--prompts 5: only 0 held-out documents have 5000 tokens or more"):
        held_out_prompts(documents, tokenizer, 5, 1000, 4000)


def test_the_judge_reads_the_continuation_alone(models):
    judge = AutoModelForCausalLM.from_pretrained(models[1]).eval()
    prompt, text = torch.randint(2, 200, (3, 4)), torch.randint(2, 200, (3, 7))
    found = judge_nll(judge, prompt, text, batch_size=2)
    with torch.no_grad():
        log_p = judge(torch.cat([prompt, text], dim=1)).logits.log_softmax(-1)
    for row in range(3):
        expected = -sum(log_p[row, 3 + place, token] for place, token in enumerate(text[row])) / 7
        torch.testing.assert_close(found[row], expected)


def test_continuations_have_one_length_and_seeds_differ(models, story_file, tokenizer):
    prompts = held_out_prompts(load_documents(str(story_file)), tokenizer, 4, 6, 10)
    tokmat = AutoModelForCausalLM.from_pretrained(models[0], trust_remote_code=True).eval()
    run = {"embryo_norm": 3.0, "alpha_max": 0.3}
    written = write("noisy", tokmat, prompts, 10, 3, [0, 1], **run)
    assert [part.shape for part in written.runs] == [(4, 10)] * 2 and not torch.equal(*written.runs)
    again = write("noisy", tokmat, prompts, 10, 4, [0], **run)
    assert torch.equal(again.runs[0], written.runs[0])  # whatever the batch
    values = per_prompt(written.runs, prompts)
    expected = np.mean([[metrics.rep_n([row], 2) for row in run.tolist()] for run in written.runs], axis=0)
    np.testing.assert_allclose(values["rep_2"], expected)


def test_a_converted_model_ranks_tokens_like_its_source(models):
    """With one table for input and output, and rows of nearly one norm, as a fresh one has."""
    tokmat = AutoModelForCausalLM.from_pretrained(models[0], trust_remote_code=True).eval()
    source = AutoModelForCausalLM.from_pretrained(models[1]).eval()
    ids = torch.randint(2, 200, (4, 12))
    with torch.no_grad():
        ours, theirs = tokmat(ids), source(ids)
    cosine = torch.nn.functional.cosine_similarity(ours.logits, theirs.logits, dim=-1)
    assert cosine.mean() > 0.9
    radius = tokmat.embedding_radius
    assert radius == pytest.approx(source.get_input_embeddings().weight.norm(dim=-1).mean().item(), rel=1e-4)
    assert ours.predicted_embeds.norm(dim=-1).mean().item() == pytest.approx(radius, rel=0.3)


# -- the command ------------------------------------------------------------------------------------------------------


def test_evaluate_compares_and_saves(models, story_file, tmp_path):
    tokmat, ar = map(str, models)
    arguments = ["evaluate", tokmat, "--data", str(story_file), "--baseline", ar, "--judge", ar, "--prompts", "6"]
    arguments += ["--prompt-tokens", "6", "--new-tokens", "10", "--seeds", "2", "--look-ahead", "3"]
    arguments += ["--verified-prompts", "2", "--output", str(tmp_path / "out"), "--tail-length", "4"]
    arguments += ["--mauve-continuations", "0"]
    result = CliRunner().invoke(app, arguments)
    assert result.exit_code == 0, result.output
    saved = json.loads((tmp_path / "out" / "results.json").read_text())
    names = [row["name"] for row in saved["decoders"]]
    assert names[:3] == ["human", "tokmat", "ar greedy"] and len(names) == 9
    for row in saved["decoders"]:
        for name in ("dist_2", "rep_2", "loop", "judge_perplexity"):
            mean, low, high = row[name]
            assert low <= mean <= high
    assert saved["look_ahead"]["tail_acc_1"] == [1.0] * 3 and saved["look_ahead"]["verified_same_text"] is True
    assert saved["settings"] == {"tail_length": 4}
    assert (tmp_path / "out" / "results.md").read_text().startswith("| | Dist-1 |")
    samples = json.loads((tmp_path / "out" / "samples.json").read_text())
    assert len(samples) == 6 and set(samples[0]) == {"prompt", *names}
    assert "Loop" in result.output and "tail_acc_2" in result.output


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--prompts", "0"], "`prompts` is 0"),
        (["--prompts", "5000"], "--prompts 5000: only"),
        (["--prompts", "4", "--baseline", "no-such-folder/x"], "there is no folder|neither a folder"),
        (["--tail-length", "99"], "`tail_length` is 99"),
    ],
)
def test_errors_of_evaluate_are_one_line(models, story_file, arguments, message):
    arguments = ["evaluate", str(models[0]), "--data", str(story_file), "--prompt-tokens", "4", *arguments]
    result = CliRunner().invoke(app, arguments)
    assert result.exit_code == 2
    with pytest.raises(ValueError, match=message):
        raise ValueError(result.output)


# -- as others computed them, and the modules of `evaluate` -----------------------------------------------------------

TEXTS = ["the cat sat on the mat the cat sat", "a bird sang and a bird sang", "one two three four five"]


def test_the_variants_of_other_papers_on_fixed_strings():
    words = [text.split() for text in TEXTS]
    # Welleck et al.: mean over continuations of 1 - distinct / all.
    assert metrics.welleck_seq_rep_n(words, 2) == pytest.approx((2 / 8 + 2 / 6 + 0) / 3)
    # Li et al.: distinct n-grams of all texts over all tokens: 9, 7 and 5 tokens.
    assert metrics.li_distinct_n(words, 1) == pytest.approx((5 + 4 + 5) / 21)
    assert metrics.li_distinct_n(words, 2) == pytest.approx((6 + 4 + 4) / 21)
    # Su et al.: the last n-gram is left out, counts are pooled, percentages rounded. Bigrams but the last: 7, 5 and 3,
    # of which distinct: 6 (the cat twice), 4 (a bird twice), 3.
    assert metrics.simctg_rep_n(TEXTS, 2) == round(100 * (1 - 13 / 15), 2) == 13.33
    assert metrics.simctg_rep_n(TEXTS, 3) == 0.0 and metrics.simctg_diversity(TEXTS) == pytest.approx(1 - 0.1333)
    # Holtzman et al.: n-grams that occur exactly once. Bigrams: 18, of which "the cat", "cat sat", "a bird" and "bird
    # sang" occur twice.
    assert metrics.holtzman_distinct_n(words, 2) == pytest.approx(10 / 18)


def test_self_bleu():
    same = [["a", "b", "c", "d", "e"]] * 3
    assert metrics.self_bleu(same) == pytest.approx(1.0)
    different = [[f"{row}{place}" for place in range(8)] for row in range(3)]
    assert metrics.self_bleu(different) < 0.05
    assert metrics.self_bleu(same + different) < metrics.self_bleu(same)
    with pytest.raises(ValueError, match="at least 2 sequences, not 1"):
        metrics.self_bleu(same[:1])


@pytest.fixture(scope="module")
def degeneration():
    import evaluate

    return evaluate.load(str(CARDS / "degeneration"))


def test_the_degeneration_module(degeneration):
    found = degeneration.compute(predictions=TEXTS, unit="words")
    words = [text.split() for text in TEXTS]
    assert found["rep_2"] == pytest.approx(metrics.rep_n(words, 2)) and found["loop"] == pytest.approx(2 / 3)
    assert found["conventions"] == "words, means over samples, continuation alone, full length"
    ids = [[1, 2, 1, 2, 1], [3, 4, 5, 6, 7]]
    pooled = degeneration.compute(predictions=ids, unit="tokens", pooled=True, length=4)
    assert pooled["rep_2"] == pytest.approx(1 / 6) and "pooled counts" in pooled["conventions"]
    whole = degeneration.compute(predictions=["sat"], prompts=["the cat sat the cat"], include_prompt=True)
    assert whole["rep_2"] == pytest.approx(metrics.rep_n(["the cat sat the cat sat".split()], 2))
    assert degeneration.compute(predictions=TEXTS, compat="simctg")["rep_2"] == 13.33
    assert set(degeneration.compute(predictions=TEXTS, compat="holtzman")) == {
        "distinct_1", "distinct_2", "distinct_3", "repetition", "zipf"
    }  # fmt: skip


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"unit": "letters"}, "`unit` is 'letters', but it must be one of words, tokens"),
        ({"compat": "mine"}, "`compat` is 'mine'"),
        ({"unit": "tokens"}, "the predictions are texts"),
        ({"include_prompt": True}, "`prompts` does not hold one prompt per prediction"),
    ],
)
def test_the_degeneration_module_refuses(degeneration, arguments, message):
    with pytest.raises(ValueError, match=message):
        degeneration.compute(predictions=TEXTS, **arguments)


def test_the_self_bleu_module():
    import evaluate

    module = evaluate.load(str(CARDS / "self_bleu"))
    found = module.compute(predictions=TEXTS + TEXTS, n=3)
    assert found["self_bleu"] == pytest.approx(1.0) and found["conventions"].startswith("words, 3-grams")
