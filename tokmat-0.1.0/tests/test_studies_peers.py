# Copyright 2026 The TokMat authors. Licensed under the Apache License, Version 2.0.
"""What others teach against repetition, as their papers have it: losses compared with loops that say the same."""

import dataclasses
import math

import numpy as np
import pytest
import torch

from trainer.evaluation.contrastive_search import contrastive_search
from trainer.evaluation.measures import interval
from trainer.models import make_baseline
from trainer.own_text import answer, load_own_text
from trainer.studies import decoding, lessons, likeness, peers, practice, pretrained, pretrained_lab, structured
from trainer.studies.lab import SMALL, Lab
from trainer.studies.pretrained import Bench
from trainer.studies.pretrained_lab import OPENING, PretrainedLab

V, LENGTH = 7, 12


@pytest.fixture
def drawn():
    generator = torch.Generator().manual_seed(0)
    ids = torch.randint(V, (3, LENGTH), generator=generator)
    return torch.randn(3, LENGTH, V, generator=generator, dtype=torch.float64), ids


@pytest.fixture
def bench(tokenizer, tmp_path, monkeypatch):
    size = pretrained.Size(rounds=1, steps=2, batch=4, block=48, prompts=2, long_prompts=2, held_out=2)
    monkeypatch.setitem(pretrained.SIZES, "small", size)
    torch.manual_seed(0)
    make_baseline(None, "tiny", tokenizer).save_pretrained(tmp_path / "source")
    tokenizer.save_pretrained(tmp_path / "source")
    words = ["fox", "hen", "owl", "cow", "pig", "cat", "dog", "bear"]
    texts = [
        "\n\n".join(f"One {word} saw {words[(place + part) % 8]} number {part}. It went." for part in range(24))
        for place, word in enumerate(words)
    ]
    (tmp_path / "texts.txt").write_text("\n<|endoftext|>\n".join(texts))
    made = Lab(tmp_path / "out", SMALL, str(tmp_path / "texts.txt"), pretrained=str(tmp_path / "source"), say=str)
    return Bench(made)


def test_token_unlikelihood_pushes_every_other_earlier_token_once(drawn):
    logits, ids = drawn
    total = 0.0
    for scores, row in zip(logits.softmax(-1).tolist(), ids.tolist()):
        for place, token in enumerate(row):
            for candidate in set(row[:place]) - {token}:
                total -= math.log(1 - scores[place][candidate])
    assert float(peers.token_unlikelihood(logits, ids)) == pytest.approx(total / ids.numel())


def test_sequence_unlikelihood_pushes_what_lies_in_a_repeated_four_gram(drawn):
    logits, _ = drawn
    ids = torch.tensor([[1, 2, 3, 4, 1, 2, 3, 4, 5, 6, 0, 1], [1, 1, 1, 1, 1, 1, 2, 3, 4, 5, 6, 0], [0, 1, 2, 3] * 3])
    lies = peers.repeated(ids)
    for row, found in zip(ids.tolist(), lies.tolist()):
        wanted = [False] * LENGTH
        for start in range(LENGTH - 3):
            gram = row[start : start + 4]
            if any(row[before : before + 4] == gram for before in range(start)):
                wanted[start : start + 4] = [True] * 4
        assert found == wanted and any(wanted) and not all(wanted)
    p = logits.softmax(-1)
    terms = [
        -math.log(1 - float(p[row, place, ids[row, place]]))
        for row in range(3)
        for place in range(12)
        if lies[row, place]
    ]
    assert float(peers.sequence_unlikelihood(logits, ids, lies)) == pytest.approx(sum(terms) / len(terms))
    assert float(peers.sequence_unlikelihood(logits, ids, torch.zeros_like(lies))) == 0


def test_ditto_wants_half_of_the_probability_one_repetition_before(drawn):
    logits, ids = (part[0] for part in drawn)
    logits.requires_grad_()
    loss = peers.ditto(logits, ids, 5)
    p = logits.detach().softmax(-1)[range(LENGTH), ids].tolist()
    terms = [-math.log(1 - abs(p[place] - 0.5 * p[place - 5])) for place in range(5, LENGTH)]
    assert float(loss) == pytest.approx(sum(terms) / len(terms))
    loss.backward()
    assert not logits.grad[:5].any() and logits.grad[5:].any(dim=-1).all()  # what it was before is taken as it is


def test_scale_grad_takes_from_what_is_new(drawn):
    logits, ids = (part[0] for part in drawn)
    total = 0.0
    for place, (row, token) in enumerate(zip(logits.softmax(-1).tolist(), ids.tolist())):
        scaled = [p if candidate in ids[:place].tolist() else 0.2 * p for candidate, p in enumerate(row)]
        total -= math.log(scaled[token] / sum(scaled))
    assert float(peers.scale_grad(logits, ids)) == pytest.approx(total / LENGTH)


def test_spread_leaves_states_alone_that_are_far_enough_apart():
    states = torch.tensor([[1.0, 0.0], [0.6, 0.8], [-3.0, 0.0], [2.0, 0.0]])  # cosines 0.6, -1, 1; -0.6, 0.6; -1
    assert float(peers.spread(states)) == pytest.approx(2 * (0.1 + 0.5 + 0.1) / 12)
    assert float(peers.spread(states[:3])) == pytest.approx(2 * 0.1 / 6)


def test_contrastive_search_weighs_likelihood_against_familiar_states(bench):
    model = bench.lab.load(bench.source)
    prompts = torch.tensor([[5, 6, 7, 5, 6, 7], [9, 8, 7, 6, 5, 4]])
    given = {"custom_generate": contrastive_search, "penalty_alpha": 0.6, "top_k": 3, "do_sample": False}
    settings = {"max_new_tokens": 6, "min_new_tokens": 6, "attention_mask": torch.ones_like(prompts)}
    found = model.generate(prompts, **given, **settings)
    ids = prompts.tolist()
    for row in ids:
        for _ in range(6):
            with torch.no_grad():
                before = model(torch.tensor([row]), output_hidden_states=True)
            scores = before.logits[0, -1].clone()
            scores[model.generation_config.eos_token_id] = -torch.inf
            worth = {}
            for p, token in zip(*(part.tolist() for part in scores.softmax(-1).topk(3))):
                with torch.no_grad():
                    states = model(torch.tensor([[*row, token]]), output_hidden_states=True).hidden_states[-1][0]
                familiar = torch.nn.functional.cosine_similarity(states[-1], states[:-1], dim=-1).max()
                worth[token] = 0.4 * p - 0.6 * float(familiar)
            row.append(max(worth, key=worth.__getitem__))
    assert found.tolist() == ids
    assert found.tolist() != model.generate(prompts, do_sample=False, **settings).tolist()
    stops = model.generate(prompts, **given, max_new_tokens=4, return_dict_in_generate=True)
    assert stops.sequences.shape[1] <= 10


def test_rows_are_what_each_arm_is_taught_on(bench):
    size, width = bench.size, bench.size.block
    for arm in peers.ARMS:
        rows = peers.rows_of(bench, arm)
        assert len(rows) == size.steps * size.batch and {len(ids) for ids in rows["input_ids"]} == {width}
        special = [row for row in rows if row["period"]]
        assert len(special) == (len(rows) // 2 if arm in ("sequence unlikelihood", "DITTO") else 0)
        for row in special:
            if arm == "DITTO":
                ids, period = row["input_ids"], row["period"]
                assert 4 <= period <= width // 4 and ids[period:] == ids[:-period]
                assert bench.tokenizer.decode(ids[:period]).rstrip()[-1] in ".!?" or period == width // 4


def test_an_arm_is_trained_once_and_differs_from_the_others(bench):
    ids = torch.tensor([[5, 6, 7, 5, 6, 7]])
    found = {}
    for arm in ("fine-tuning", "token unlikelihood", "DITTO", "ScaleGrad", "SimCTG"):
        found[arm] = peers.worn(bench, arm)(ids).logits
        saved = bench.lab.path(f"peer-{arm.replace(' ', '-')}") / "adapter_model.safetensors"
        written = saved.stat().st_mtime_ns
        assert torch.equal(peers.worn(bench, arm)(ids).logits, found[arm]) and saved.stat().st_mtime_ns == written
    assert len({float(logits.detach().sum()) for logits in found.values()}) == 5


def test_training_seeds_give_other_adapters_and_each_is_trained_once(bench, monkeypatch):
    ids, trained = torch.tensor([[5, 6, 7, 5, 6, 7]]), []
    train = peers.train
    monkeypatch.setattr(peers, "train", lambda trainer, folder: trained.append(folder.name) or train(trainer, folder))
    found = [peers.worn(bench, peers.SEQUENCE, seed)(ids).logits for seed in (1, 2, 2)]
    assert trained == ["peer-sequence-unlikelihood", "peer-sequence-unlikelihood-2"]
    assert torch.equal(found[1], found[2]) and not torch.equal(found[0], found[1])


def test_mauve_compares_every_decoder_with_people(bench, tmp_path, monkeypatch):
    monkeypatch.setattr(likeness, "NEW_TOKENS", 8)
    texts = str(tmp_path / "texts.txt")
    made = Lab(bench.lab.folder, SMALL, texts, texts, pretrained=bench.source, judged_by=bench.source, say=str)
    rows = likeness.study(made).rows
    assert [row["decoder"] for row in rows] == [
        "human", "sequence unlikelihood", "greedy", "penalty 1.1", "penalty 1.2", *decoding.SAMPLING
    ]  # fmt: skip
    for row in rows:
        assert row["texts"] == 20 and 0 < row["mauve_low"] <= row["mauve"] <= row["mauve_high"] <= 1
    prompts = Bench(made).prompts(20, 8)
    found = likeness.features(Bench(made), prompts, prompts.human)
    whole = bench.tokenizer(bench.tokenizer.decode([*prompts.ids[3], *prompts.human[3]]), return_tensors="pt")
    states = made.load(bench.source)(whole["input_ids"], output_hidden_states=True).hidden_states[-1]
    assert torch.allclose(torch.from_numpy(found[3]), states[0, -1].detach(), rtol=1e-4, atol=1e-5)
    monkeypatch.setattr(likeness, "write", lambda *args, **kwargs: pytest.fail("written again"))
    assert likeness.study(made).rows == rows


def test_the_papers_recipe_starts_from_the_source_on_a_sphere(bench, monkeypatch):
    monkeypatch.setitem(
        pretrained_lab.SIZES, "small", pretrained_lab.Size(steps=2, batch=2, block=48, prompts=3, continuations=2)
    )
    made = PretrainedLab.of(bench.lab)
    assert made.identity() == bench.lab.identity() and PretrainedLab.of(made) is made
    model = made.load_tokmat(made.tokmat())
    config = model.config
    assert (config.geometry, config.negatives, config.num_negatives, config.maturation) == (
        "sphere", "uniform", 256, "simulated"
    )  # fmt: skip
    assert (config.regression_weight, config.contrastive_weight, config.logit_scale) == (1.0, 1.0, 20.0)
    assert config.context_negatives == 0 and not config.freeze_embeddings
    before = made.load_tokmat(made.start()).token_embeddings()
    source = made.load(made.baseline()).get_input_embeddings().weight
    cosines = torch.nn.functional.cosine_similarity(before, source, dim=-1)[source.any(dim=-1)]  # padding has no row
    assert len(cosines) >= len(source) - 1 and torch.allclose(cosines, torch.ones(len(cosines)), atol=1e-5)
    assert not torch.equal(model.token_embeddings(), before)
    arithmetic, found, sample = structured.measure_domain(made, "arithmetic", structured.sums(80), 3)
    assert [row["text"] for row in arithmetic] == ["TokMat", "greedy", "human", "sampling"] and sample
    assert arithmetic[2]["correct"] == 1 and set(found) == {"TokMat", "sampling"}
    prompts = made.prompts(20)
    assert prompts.ids.shape == (3, 16) and prompts.human.shape == (3, 20)
    assert OPENING.endswith(made.tokenizer.decode(prompts.ids[0]))


def test_practice_goes_on_from_the_round_before_on_its_own_text_and_peoples(bench, monkeypatch):
    made, trained = practice.Practice(bench.lab), []
    train = pretrained.train
    monkeypatch.setattr(pretrained, "train", lambda trainer, folder: trained.append(trainer) or train(trainer, folder))
    drill = practice.Drill(blocks=(32, 48), own=192, step=96, passes=2)
    monkeypatch.setitem(practice.DRILLS, "small", drill)
    made.drill = drill
    second = made.practised(2)
    assert [made.practised(number) for number in (1, 2)] == [made.lab.path("practised-1"), second]
    assert len(trained) == 2
    for trainer, own, peoples, block, rate in zip(trained, (6, 4), (3, 2), drill.blocks, (8e-4, 7e-4)):
        rows = trainer.train_dataset
        assert [sum(rows["tail_only"]), len(rows) - sum(rows["tail_only"])] == [own, peoples]
        assert {len(ids) for ids in rows["input_ids"]} == {block}
        assert trainer.args.learning_rate == pytest.approx(rate)
        assert trainer.args.max_steps == 2 * (len(rows) // (96 // block))
    ids = torch.tensor([[5, 6, 7, 5, 6, 7]])
    found = [made.load(folder)(ids).logits for folder in (None, made.practised(1), second)]
    assert not torch.equal(found[0], found[1]) and not torch.equal(found[1], found[2])
    written = load_own_text(made.lab.path("own-practised-1.jsonl"))
    one = written[0]
    wanted = answer(made.load(made.practised(1)), made.tokenizer, [one["prompt_ids"]], 32, False, False)
    assert one["answer_ids"] == wanted[0]  # by the model of the round before


# -- lessons, choice by choice ----------------------------------------------------------------------------------------


def test_rows_of_a_lesson_are_the_models_own_and_peoples(bench):
    size = bench.size
    for name, arm in lessons.ARMS.items():
        rows = lessons.rows_of(bench, arm)
        count = size.steps * size.batch * arm.times // arm.longer
        lengths = [len(ids) for ids in rows["input_ids"]]
        chats = round(count * arm.chats)  # end where an answer does
        assert set(lengths[: count - chats]) == {size.block * arm.longer} and len(rows) == count, name
        assert all(0 < length <= size.block for length in lengths[count - chats :])
        assert sum(rows["tail_only"]) == round(count * arm.own)
        assert (arm.own > 0) == ("phrase_penalty" in arm.fields)


def test_chat_answers_of_a_lesson_are_the_sources_own(bench):
    path = lessons.chat_answers(bench, 3, bench.size.block)
    model, rows = bench.load(), load_own_text(path)
    assert len({tuple(row["prompt_ids"]) for row in rows}) == 3
    wanted = answer(model, bench.tokenizer, [row["prompt_ids"] for row in rows], len(rows[0]["answer_ids"]), False)
    assert rows[0]["answer_ids"] == wanted[0]
    asked = [bench.tokenizer.decode(row["prompt_ids"]) for row in rows]
    assert all(question.split()[0] in text for question, text in zip(lessons.ASKED, asked))
    before = path.read_bytes()
    lessons.chat_answers(bench, 3, bench.size.block)
    assert path.read_bytes() == before


def test_a_lesson_teaches_what_its_arm_says(bench, monkeypatch):
    trainers, train = [], pretrained.train
    monkeypatch.setattr(pretrained, "train", lambda trainer, *to: trainers.append(trainer) or train(trainer, *to))
    names = ("negatives, 64 tokens back", "negatives, every weight", "phrases")
    folders = [lessons.taught(bench, name) for name in names]
    assert [lessons.taught(bench, name) for name in names] == folders and len(trainers) == 3
    near, whole, followed = trainers
    assert (near.tokmat.config.context_negatives, near.tokmat.config.context_window) == (3.0, 64)
    assert near.reference is None and whole.reference is None and followed.reference is not None
    assert (followed.args.reference_rows, followed.args.reference_sharpness) == ("own", 2.0)
    assert all(weight.requires_grad for weight in whole.model.parameters()) and whole.args.learning_rate == 5e-5
    learn = sum(weight.requires_grad for weight in near.model.parameters())
    assert 0 < learn < len(list(near.model.parameters()))
    ids = torch.tensor([[5, 6, 7, 5, 6, 7]])
    found = [bench.load(folder)(ids).logits.detach() for folder in (None, *folders)]
    assert len({float(logits.sum()) for logits in found}) == 4
    weights = bench.load(folders[1]).state_dict()
    assert all(torch.equal(weights[name], value) for name, value in whole.model.state_dict().items())


def test_intervals_span_training_seeds_too():
    draw = np.random.default_rng(0)
    same = np.tile(draw.normal(size=50), (3, 1))
    apart = same + np.array([[-1.0], [0.0], [1.0]])
    (mean, low, high), (_, lowest, highest) = interval(same), interval(apart)
    assert mean == pytest.approx(same.mean()) and low < mean < high
    assert interval(same[0])[0] == pytest.approx(mean) and (high - low) == pytest.approx(
        interval(same[0])[2] - interval(same[0])[1], rel=0.2
    )
    assert highest - lowest > 2 * (high - low)  # what the seeds differ by dwarfs what the prompts do


def test_the_study_of_lessons_judges_every_arm_once(bench, tmp_path, monkeypatch):
    few = ("negatives", "negatives of bigrams", "phrases")
    monkeypatch.setattr(lessons, "ARMS", {name: lessons.ARMS[name] for name in few})
    made = short_lab(bench, tmp_path)
    found = lessons.study(made)
    assert [row["decoder"] for row in found.rows if row.get("new_tokens") == 16] == ["human", "greedy", *few]
    assert {path.name for path in made.folder.glob("models/lesson-*") if path.is_dir()} == {
        "lesson-negatives", "lesson-negatives-of-bigrams", "lesson-phrases"
    }  # fmt: skip
    kept = {row["decoder"]: row["perplexity"] for row in found.rows if "perplexity" in row}
    assert len(set(kept.values())) == 4
    monkeypatch.setattr(pretrained, "write", lambda *args, **kwargs: pytest.fail("written again"))
    monkeypatch.setattr(pretrained, "judge_nll", lambda *args, **kwargs: pytest.fail("measured again"))
    assert lessons.study(made).rows == found.rows


def test_the_best_lesson_is_told_over_its_training_seeds(bench, tmp_path, monkeypatch):
    monkeypatch.setattr(decoding, "SAMPLING", {})
    made = short_lab(bench, tmp_path)
    found = decoding.study(made)
    for length in (8, 16, 24):
        rows = {row["decoder"]: row for row in found.rows if row.get("new_tokens") == length}
        seeds = [rows[decoding.named(decoding.LESSON, seed)] for seed in decoding.SEEDS]
        assert rows[decoding.LESSON]["rep_2"] == pytest.approx(sum(row["rep_2"] for row in seeds) / 3)
        assert rows[decoding.LESSON]["bits"] == pytest.approx(sum(row["bits"] for row in seeds) / 3)
        assert ("contrastive search" in rows) == (length < 24)
    kept = {
        row["decoder"].removeprefix("held-out text, "): row["perplexity"] for row in found.rows if "perplexity" in row
    }
    assert len({kept[decoding.named(decoding.LESSON, seed)] for seed in decoding.SEEDS}) == 3
    assert "seed 3" in found.finding and decoding.SEQUENCE in found.text


def short_lab(bench, tmp_path) -> Lab:
    texts = str(tmp_path / "texts.txt")
    made = Lab(bench.lab.folder, SMALL, texts, texts, pretrained=bench.source, judged_by=bench.source, say=str)
    made.budget = dataclasses.replace(SMALL, lengths=(8, 16, 24))
    return made
