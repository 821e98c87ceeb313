# Copyright 2026 The TokMat authors. Licensed under the Apache License, Version 2.0.
"""Guidance, interventions, commit rules and the trace, against references written out, in float64."""

import pytest
import torch
import torch.nn.functional as F
from conftest import BACKBONES
from transformers import LogitsProcessor, LogitsProcessorList, StaticCache

from modeling_tokmat import MaturationSettings, generation_tokmat
from modeling_tokmat.maturation_tokmat import (
    DYNAMICS,
    EMBRYO,
    HISTORY,
    decoding_noise,
    tail_maturities,
    update_rates,
    update_tail,
)
from modeling_tokmat.verified_tokmat import VerifiedRun

NEW = 16
NOISY = {"embryo_norm": 1.0, "alpha_max": 0.7, "eos_token_id": None}
INTERVENTIONS = {
    "guidance": {"guidance_scale": 2.0},
    "history_noise": {"history_noise": 0.8},
    "history_smoothing": {"history_smoothing": 0.4},
    "smoothing_and_noise": {"history_smoothing": 0.4, "history_noise": 0.5},
    "dynamics_noise": {"dynamics_noise": 0.7},
    "direction_rate": {"direction_rate": 0.8},
    "everything": {"guidance_scale": 1.5, "history_noise": 0.3, "dynamics_noise": 0.3, "direction_rate": 1.0},
    "stable": {"commit": "stable", "stability_tolerance": 0.3, "max_refinements": 3},
    "stable_and_everything": {
        "commit": "stable", "stability_tolerance": 0.5, "max_refinements": 4, "guidance_scale": 1.5,
        "history_noise": 0.3, "dynamics_noise": 0.1, "history_smoothing": 0.2, "embryo_norm": 0.1,
    },
}  # fmt: skip


@pytest.fixture
def prompt():
    return torch.randint(2, 97, (3, 9), generator=torch.Generator().manual_seed(1))


def unit(vector):
    return F.normalize(vector, dim=-1)


@torch.no_grad()
def reference(model, ids, new_tokens, return_index=0, **settings):
    """One prompt, no cache, guidance in two passes, one vector at a time; text and (step, committed) counts."""
    settings = MaturationSettings(**settings)
    length, s = settings.tail_length, settings
    a = tail_maturities(length, **s.schedule_settings())
    eta = update_rates(a, s.rate)
    table, radius, dim = model.token_embeddings(), model.embedding_radius, model.token_embeddings().shape[1]

    def noise(stream, position, norm, step=0):
        return decoding_noise(
            s.maturation_seed, stream, return_index, position, step, dim, norm * radius, torch.float64
        )

    committed, tokens = [table[i] for i in ids[0]], ids[0].tolist()
    tail, known = [noise(EMBRYO, j, s.embryo_norm) for j in range(length)], [None] * length
    counts, step, waited = [], 0, 0
    while len(tokens) < ids.shape[1] + new_tokens:
        done = len(tokens) - ids.shape[1]
        slots = min(length, new_tokens - done)
        vectors = torch.stack([*committed, *tail[: slots - 1]])[None] if slots > 1 else torch.stack(committed)[None]
        maturity = torch.cat([torch.ones(len(committed)), a[1:slots].float()])[None]
        predicted = model(inputs_embeds=vectors, maturity=maturity, tail_length=length).predicted_embeds[0]
        predicted = list(predicted[len(committed) - 1 :])
        if s.guidance_scale != 1 and slots > 1:
            places = torch.arange(len(committed), len(committed) + slots - 1)[None]
            alone = model(
                inputs_embeds=torch.stack(tail[: slots - 1])[None],
                position_ids=places,
                maturity=a[1:slots].float()[None],
                tail_length=length,
            ).predicted_embeds[0]
            for j in range(1, slots):
                predicted[j] = alone[j - 1] + s.guidance_scale * (predicted[j] - alone[j - 1])
        settled = []
        for j in range(slots):
            before = tail[j]
            tail[j] = update_tail(before[None, None], predicted[j][None, None], eta[j : j + 1], s.direction_rate)[0, 0]
            if s.dynamics_noise:
                tail[j] = tail[j] + eta[j] * noise(DYNAMICS, done + j, s.dynamics_noise, step)
            nearest = int((table @ unit(tail[j])).argmax())
            change = (tail[j] - before).norm() / radius
            settled.append(change <= s.stability_tolerance and nearest == known[j])
            known[j] = nearest
        run = settled.index(False) if False in settled else slots
        if s.commit == "front":
            run = 1
        else:
            waited += 1
            run = 1 if run == 0 and waited >= s.max_refinements else run
            waited = 0 if run else waited
        for j in range(run):
            tokens.append(int((table @ unit(tail[j])).argmax()))
            vector = table[tokens[-1]]
            if s.history_smoothing:
                vector = radius * unit(s.history_smoothing * committed[-1] + (1 - s.history_smoothing) * vector)
            if s.history_noise:
                vector = radius * unit(vector + noise(HISTORY, done + j, s.history_noise))
            committed.append(vector)
        entering = [noise(EMBRYO, done + length + j, s.embryo_norm) for j in range(run)]
        tail, known = [*tail[run:], *entering], [*known[run:], *[None] * run]
        counts.append(run)
        step += 1
    return torch.tensor([tokens[: ids.shape[1] + new_tokens]]), counts


def padded_batch(prompt):
    lengths = (9, 5, 2)
    padded, mask = torch.ones_like(prompt), torch.zeros_like(prompt)
    for row, length in enumerate(lengths):
        padded[row, 9 - length :], mask[row, 9 - length :] = prompt[row, :length], 1
    return padded, mask, lengths


@pytest.mark.parametrize("backbone", BACKBONES)
@pytest.mark.parametrize("name", INTERVENTIONS)
def test_every_setting_equals_its_reference(make_model, prompt, backbone, name):
    model = make_model(backbone, double=True)
    settings = {"tail_length": 5, "embryo_norm": 1.0, "alpha_max": 0.7, "maturation_seed": 2, **INTERVENTIONS[name]}
    expected, counts = reference(model, prompt[:1], NEW, **settings)
    run = {"max_new_tokens": NEW, "eos_token_id": None, **settings}
    output = model.generate(prompt[:1], return_dict_in_generate=True, **run)
    assert torch.equal(output.sequences, expected)
    assert output.num_forwards == len(counts)
    for cache in ({"use_cache": False}, {"cache_implementation": "static"}):
        assert torch.equal(model.generate(prompt[:1], **run, **cache), expected), cache
    if name != "guidance":  # with alpha_max 0.7 the front blends predictions, so settings show in the text
        plain = model.generate(prompt[:1], **{**run, **{key: default(key) for key in INTERVENTIONS[name]}})
        assert not torch.equal(plain, expected)


def default(name):
    return getattr(MaturationSettings, name)


@pytest.mark.parametrize("name", INTERVENTIONS)
def test_batches_and_return_sequences_equal_singles(make_model, prompt, name):
    """Left padding, rows that commit different numbers of tokens, several return sequences; three kinds of cache."""
    model = make_model(double=True)
    settings = {"tail_length": 5, "embryo_norm": 1.0, "alpha_max": 0.7, **INTERVENTIONS[name]}
    padded, mask, lengths = padded_batch(prompt)
    for cache in ({}, {"use_cache": False}, {"cache_implementation": "static"}):
        together = model.generate(
            padded,
            attention_mask=mask,
            num_return_sequences=2,
            max_new_tokens=NEW,
            eos_token_id=None,
            **settings,
            **cache,
        )
        for row, length in enumerate(lengths):
            for index in range(2):
                expected, _ = reference(model, prompt[row : row + 1, :length], NEW, index, **settings)
                assert torch.equal(together[2 * row + index, 9:], expected[0, length:]), (cache, row, index)


# -- guidance -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("backbone", BACKBONES)
@pytest.mark.parametrize("attention", ["eager", "sdpa"])
@pytest.mark.parametrize("static", [False, True])
def test_guidance_in_one_forward_equals_two_passes(make_model, prompt, backbone, attention, static):
    model = make_model(backbone, double=True)
    model.set_attn_implementation(attention)
    forwards = []
    model.backbone.register_forward_hook(lambda *args: forwards.append(1))
    run = {"max_new_tokens": NEW, "tail_length": 6, "guidance_scale": 2.5, "output_maturation": "vectors", **NOISY}
    run |= {"cache_implementation": "static"} if static else {}
    output = model.generate(prompt, return_dict_in_generate=True, **run)
    assert len(forwards) == output.num_forwards == NEW
    # The vectors of the whole tail after the last full step, from the reference's two passes.
    model.set_attn_implementation("sdpa")
    settings = {key: run[key] for key in ("tail_length", "guidance_scale", "embryo_norm", "alpha_max")}
    for row in range(3):
        expected, _ = reference(model, prompt[row : row + 1], NEW, **settings)
        assert torch.equal(output.sequences[row], expected[0])
    unguided = model.generate(prompt, return_dict_in_generate=True, **{**run, "guidance_scale": 1.0})
    first, plain = output.maturation[0].vectors, unguided.maturation[0].vectors
    torch.testing.assert_close(first[:, 0], plain[:, 0])  # slot 1 is left alone
    a = tail_maturities(6, schedule="linear", alpha_max=0.7)
    embryos = torch.stack(
        [decoding_noise(0, EMBRYO, 0, j, 0, 32, model.embedding_radius, torch.float64) for j in range(6)]
    )
    with torch.no_grad():
        alone = model(
            inputs_embeds=embryos[None, :5],
            position_ids=torch.arange(9, 14)[None],
            maturity=a[1:6].float()[None],
            tail_length=6,
        ).predicted_embeds[0]
    unmoved = (plain - embryos) / a[:6, None] + embryos  # z^ without guidance, from its update
    guided = alone + 2.5 * (unmoved[:, 1:] - alone)
    moved = embryos[1:] + a[1:6, None] * (guided - embryos[1:])
    torch.testing.assert_close(first[:, 1:], moved, atol=1e-5, rtol=1e-5)


def test_guidance_needs_eager_or_sdpa(make_model, prompt):
    model = make_model()
    model.backbone.config._attn_implementation_internal = "flash_attention_2"
    with pytest.raises(ValueError, match="`attn_implementation` is 'flash_attention_2'"):
        model.generate(prompt, guidance_scale=2.0, max_new_tokens=2)


# -- commit rules ---------------------------------------------------------------------------------------------------


def test_stable_with_one_refinement_and_no_tolerance_is_front(make_model, prompt):
    model = make_model(double=True)
    run = {"max_new_tokens": NEW, "tail_length": 5, **NOISY}
    stable = {"commit": "stable", "max_refinements": 1, "stability_tolerance": 0.0}
    assert torch.equal(model.generate(prompt, **run, **stable), model.generate(prompt, **run))


def test_stable_refines_and_commits_several(make_model, prompt):
    model = make_model(double=True)
    run = {"max_new_tokens": NEW, "tail_length": 5, "eos_token_id": None, "return_dict_in_generate": True}
    run |= {"embryo_norm": 0.0, "rate": "paper", "alpha_max": 0.9, "commit": "stable", "output_maturation": True}
    output = model.generate(prompt[:1], stability_tolerance=0.5, max_refinements=6, **run)
    counts = [int(step.committed) for step in output.maturation]
    assert 0 in counts and max(counts) > 1 and sum(counts) == NEW
    assert output.tokens_per_forward == pytest.approx(NEW / len(counts))


@pytest.mark.parametrize("backbone", BACKBONES)
@pytest.mark.parametrize("tail_length", [1, 2, 8])
def test_verified_text_is_the_reference_text(make_model, backbone, tail_length, monkeypatch):
    """Token-identical over many prompts: padded batches, all caches, EOS inside runs, processors."""
    for cost in ("POSITION_COST", "DRAFT_COST", "WIDE_COST"):
        monkeypatch.setattr(VerifiedRun, cost, 1e-6)  # drafts go on although they fail
    model = make_model(backbone, double=True)
    generator = torch.Generator().manual_seed(4)
    forwards = committed = 0
    for batch in range(9):
        prompt = torch.randint(2, 97, (8, 9), generator=generator)
        mask = torch.ones_like(prompt)
        for row in range(8):
            mask[row, : int(torch.randint(0, 8, (), generator=generator))] = 0
        prompt = prompt.masked_fill(mask == 0, 1)
        inputs = {"input_ids": prompt, "attention_mask": mask, "max_new_tokens": 24, "pad_token_id": 1}
        inputs |= [{}, {"use_cache": False}, {"cache_implementation": "static"}][batch % 3]
        inputs["eos_token_id"] = [None, 5, [7, 11, 30, 42]][batch % 3]
        if batch > 5:
            inputs |= {"no_repeat_ngram_size": 2, "repetition_penalty": 1.3, "min_new_tokens": 4}
        expected = model.generate(**inputs, tail_length=1, alpha_max=1.0)
        output = model.generate(**inputs, tail_length=tail_length, commit="verified", return_dict_in_generate=True)
        assert torch.equal(output.sequences, expected), batch
        forwards, committed = forwards + output.num_forwards, committed + output.sequences.shape[1] - 9
    assert forwards <= committed


def test_verified_commits_several_tokens_where_the_tail_is_right(make_model):
    """A model that was taught to say one thing only, whatever comes before."""
    model = make_model(fresh=True, negatives="all", regression_weight=0.1, embedding_radius=5.6).train()
    text = torch.full((1, 60), 9)
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2)
    for _ in range(150):
        optimizer.zero_grad()
        model(text.expand(8, -1), labels=text.expand(8, -1)).loss.backward()
        optimizer.step()
    model.double().eval()
    run = {"max_new_tokens": 52, "eos_token_id": None, "return_dict_in_generate": True}
    for rows in (1, 3):
        prompt = text[:, :8].expand(rows, -1).clone()
        prompt[1:, 0] = 7  # rows that need not agree
        expected = model.generate(prompt, tail_length=1, alpha_max=1.0, **run)
        output = model.generate(prompt, tail_length=8, commit="verified", **run)
        assert torch.equal(output.sequences, expected.sequences)
        assert output.tokens_per_forward > 1.4  # it begins with single drafts, and rests


def count_fed(model):
    fed = []
    model.backbone.register_forward_pre_hook(
        lambda module, args, kwargs: fed.append(kwargs["inputs_embeds"].shape[1]), with_kwargs=True
    )
    return fed


class Unforeseen(LogitsProcessor):
    """Tokens that no tail can know."""

    def __call__(self, input_ids, scores):
        token = torch.full_like(input_ids[:, :1], input_ids.shape[1] * 29 % 97)
        return scores.scatter(1, token, 1e9)


def test_verified_drafts_shrink_to_nothing_when_they_fail(make_model, prompt):
    model = make_model()
    fed = count_fed(model)
    run = {"max_new_tokens": 55, "tail_length": 8, "commit": "verified", "eos_token_id": None}
    model.generate(prompt[:1], logits_processor=LogitsProcessorList([Unforeseen()]), **run)
    assert fed[0] > 9  # the prompt, and slots that find the first draft
    resting = "".join("1" if positions == 1 else "." for positions in fed).split(".")
    assert max(map(len, resting)) >= VerifiedRun.FIRST_REST
    assert sum(fed[1:]) < 2.5 * len(fed)


@pytest.mark.parametrize(("cost", "most"), [(0.0, 16), (1.0, 1)])
def test_verified_spends_positions_only_where_they_are_cheap(make_model, prompt, monkeypatch, cost, most):
    for name in ("POSITION_COST", "DRAFT_COST", "WIDE_COST"):
        monkeypatch.setattr(VerifiedRun, name, cost)
    monkeypatch.setattr(VerifiedRun, "FIRST_SEEN", 10**6)
    monkeypatch.setattr(VerifiedRun, "MEMORY", 10**6)  # drafts go on although they fail
    model = make_model()
    fed = count_fed(model)
    model.generate(prompt[:1], max_new_tokens=14, tail_length=8, commit="verified", eos_token_id=None)
    assert max(fed[1:]) == most  # 1 committed vector, 3 drafts and 4 branches of 3 slots


def test_every_branch_sees_its_own_drafts_and_itself(make_model, prompt, monkeypatch):
    """What one pass finds behind each number of drafts equals passes over one branch alone."""
    model = make_model(double=True)
    generator = torch.Generator().manual_seed(1)
    drafts = torch.randint(2, 97, (3, 2), generator=generator)
    tail = torch.randn(3, 5, 32, generator=generator).double()
    seen = {}

    class Watched(VerifiedRun):
        def read(self):
            if self.steps == 1:
                self.drafts, self.tail[:, :5] = drafts, tail
                self.chances, self.seen = [1.0, 1.0, 0.0], [100] * 3
                self.cost, self.rest = 0.0, 0
                seen["ids"] = self.ids().clone()
                return seen.setdefault("predicted", super().read())
            return super().read()

    monkeypatch.setattr(generation_tokmat, "VerifiedRun", Watched)
    model.generate(prompt, max_new_tokens=20, tail_length=4, commit="verified", eos_token_id=None)
    settings = {name: getattr(model.generation_config, name) for name in ("schedule", "alpha_max")}
    told = tail_maturities(4, **settings)[1:]
    for count in range(3):
        committed = model.embed_tokens(torch.cat([seen["ids"], drafts[:, :count]], dim=1))
        vectors = torch.cat([committed, tail[:, count : count + 2]], dim=1)
        maturity = torch.ones(1, vectors.shape[1])
        maturity[0, -2:] = told[:2]
        lengths = torch.ones(1, vectors.shape[1], dtype=torch.long)
        lengths[0, -2:] = 4
        alone = model(inputs_embeds=vectors, maturity=maturity, tail_length=lengths).predicted_embeds
        place = 3 + 2 * count
        torch.testing.assert_close(seen["predicted"][:, place : place + 2], alone[:, -2:])
        torch.testing.assert_close(seen["predicted"][:, count], alone[:, -3])


class CountCalls(LogitsProcessor):
    """Sees every length once, in order, and each row at its own length."""

    def __init__(self):
        self.lengths = []

    def __call__(self, input_ids, scores):
        self.lengths.append(input_ids.shape[1])
        assert not (input_ids[:, :9] == 96).any()
        return scores


@pytest.mark.parametrize("rule", ["stable", "verified"])
def test_processors_see_tokens_one_by_one(make_model, prompt, rule):
    model = make_model(double=True, fresh=True)
    seen = CountCalls()
    run = {
        "max_new_tokens": NEW,
        "tail_length": 5,
        "eos_token_id": None,
        "embryo_norm": 0.0,
        "stability_tolerance": 0.5,
    }
    model.generate(prompt[:1], commit=rule, logits_processor=LogitsProcessorList([seen]), **run)
    assert sorted(set(seen.lengths)) == list(range(9, 9 + NEW))
    assert seen.lengths == sorted(seen.lengths)


@pytest.mark.parametrize("rule", ["stable", "verified"])
def test_rows_out_of_step_reach_streamers_in_step(make_model, prompt, rule):
    class Recorder:
        def __init__(self):
            self.values, self.drafts, self.ended = [], 0, False

        def put(self, value):
            self.values.append(value)

        def put_draft(self, value, maturity=None):
            assert value.shape == (3, len(maturity))
            self.drafts += 1

        def end(self):
            self.ended = True

    model = make_model(double=True)
    streamer = Recorder()
    run = {
        "max_new_tokens": NEW,
        "tail_length": 5,
        "stability_tolerance": 0.4,
        "pad_token_id": 1,
        "eos_token_id": [3, 9, 50],
    }
    ids = model.generate(prompt, commit=rule, streamer=streamer, **run)
    assert torch.equal(torch.stack(streamer.values[1:], 1), ids[:, 9:]) and streamer.ended and streamer.drafts
    scored = model.generate(prompt, commit=rule, output_scores=True, return_dict_in_generate=True, **run)
    assert torch.equal(scored.sequences, ids) and len(scored.scores) == ids.shape[1] - 9
    for row in range(3):
        for place, scores in enumerate(scored.scores):
            token = int(ids[row, 9 + place])
            assert int(scores[row].argmax()) == token
            if token in (3, 9, 50):
                break


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"commit": "sometimes"}, "`commit` is 'sometimes'.*front, stable, verified"),
        ({"stability_tolerance": -1.0}, "`stability_tolerance`"),
        ({"max_refinements": 0}, "`max_refinements` is 0"),
        ({"history_noise": -0.1}, "`history_noise`"),
        ({"history_smoothing": 1.0}, r"`history_smoothing` is 1.0.*\[0, 1\)"),
        ({"dynamics_noise": "much"}, "`dynamics_noise` is 'much'"),
        ({"direction_rate": -1.0}, "`direction_rate`"),
        ({"guidance_scale": -1.0}, "`guidance_scale`"),
        ({"output_maturation": "all"}, "`output_maturation` is 'all'"),
        ({"commit": "verified", "guidance_scale": 2.0}, "`guidance_scale` is 2.0.*verified"),
        ({"commit": "verified", "history_noise": 0.1}, "`history_noise` is 0.1.*verified"),
        ({"commit": "verified", "history_smoothing": 0.1}, "`history_smoothing`.*verified"),
        ({"commit": "verified", "dynamics_noise": 0.1}, "`dynamics_noise`.*verified"),
        ({"commit": "verified", "direction_rate": 0.5}, "`direction_rate`.*verified"),
    ],
)
def test_wrong_settings_are_refused(make_model, prompt, arguments, message):
    with pytest.raises(ValueError, match=message):
        make_model().generate(prompt, max_new_tokens=2, **arguments)


# -- dynamics -------------------------------------------------------------------------------------------------------


def test_polar_updates_turn_by_the_rate_and_move_the_norm_by_eta():
    old, new = torch.randn(2, 3, 8, dtype=torch.float64), 3 * torch.randn(2, 3, 8, dtype=torch.float64)
    eta = torch.tensor([0.2, 0.5, 1.0], dtype=torch.float64)
    moved = update_tail(old, new, eta, direction_rate=0.6)
    angle = torch.acos((unit(old) * unit(new)).sum(-1))
    torch.testing.assert_close(torch.acos((unit(moved) * unit(new)).sum(-1)), (1 - 0.6 * eta) * angle)
    torch.testing.assert_close(torch.acos((unit(moved) * unit(old)).sum(-1)), 0.6 * eta * angle)
    torch.testing.assert_close(moved.norm(dim=-1), torch.lerp(old.norm(dim=-1), new.norm(dim=-1), eta))
    torch.testing.assert_close(
        unit(update_tail(old, new, eta, direction_rate=9.0)), unit(new)
    )  # never past the target
    zero = torch.zeros_like(old)
    torch.testing.assert_close(unit(update_tail(zero, new, eta, direction_rate=0.1)), unit(new))
    torch.testing.assert_close(update_tail(old, old, eta, direction_rate=0.5), old)
    assert update_tail(old, -old, eta, direction_rate=0.5).isfinite().all()


# -- the trace ------------------------------------------------------------------------------------------------------


def test_the_trace_shows_the_tail(make_model, prompt):
    model = make_model(double=True)
    run = {"max_new_tokens": 8, "tail_length": 4, "return_dict_in_generate": True, "output_logits": True, **NOISY}
    output = model.generate(prompt, output_maturation="vectors", **run)
    assert len(output.maturation) == 8
    a = tail_maturities(4, schedule="linear", alpha_max=0.7)
    table, radius = model.token_embeddings().detach(), model.embedding_radius
    previous = None
    for index, step in enumerate(output.maturation):
        slots = min(4, 8 - index)
        assert step.token_ids.shape == (3, slots) and step.top_ids.shape == step.top_cosines.shape == (3, slots, 5)
        assert step.position.tolist() == [index] * 3 and step.committed.tolist() == [1] * 3
        torch.testing.assert_close(step.maturity, a[:slots].float())
        vectors = step.vectors
        cosines = F.linear(unit(vectors), unit(table))
        assert torch.equal(step.token_ids, cosines.argmax(-1)) and torch.equal(step.token_ids, step.top_ids[..., 0])
        assert torch.equal(step.token_ids[:, 0], output.sequences[:, 9 + index])
        torch.testing.assert_close(step.norm, (vectors.norm(dim=-1) / radius).float())
        nearest = (vectors - table[step.token_ids]).norm(dim=-1) / radius
        torch.testing.assert_close(step.distance, nearest.float())
        for name, scale in (("entropy", 1.0), ("entropy_scaled", 20.0)):
            expected = torch.distributions.Categorical(logits=scale * cosines).entropy()
            torch.testing.assert_close(step[name], expected.float(), atol=1e-4, rtol=1e-4)
        if previous is not None:  # slot j was slot j + 1
            kept = min(slots, previous.shape[1] - 1)
            moved = (vectors[:, :kept] - previous[:, 1 : kept + 1]).norm(dim=-1) / radius
            torch.testing.assert_close(step.displacement[:, :kept], moved.float())
        previous = vectors
    light = model.generate(prompt, output_maturation=True, **run)
    assert light.maturation[0].vectors is None and torch.equal(light.sequences, output.sequences)
    assert model.generate(prompt, **run).maturation is None


def test_a_static_cache_of_the_callers_own(make_model, prompt):
    model = make_model(double=True)
    run = {"max_new_tokens": NEW, "tail_length": 4, "guidance_scale": 2.0, **NOISY}
    mine = StaticCache(config=model.config.get_text_config(), max_cache_len=64)
    assert torch.equal(model.generate(prompt, past_key_values=mine, **run), model.generate(prompt, **run))
