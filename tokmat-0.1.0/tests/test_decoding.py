# Copyright 2026 The TokMat authors. Licensed under the Apache License, Version 2.0.
"""Algorithm 1, token-exact in float64 (near-ties flip in float32), and what ends it."""

import pytest
import torch
from conftest import BACKBONES
from transformers import GenerationConfig, LogitsProcessor, LogitsProcessorList, StaticCache
from transformers.generation import CompileConfig

from modeling_tokmat import MaturationSettings, generation_tokmat
from modeling_tokmat.maturation_tokmat import EMBRYO, decoding_noise, tail_maturities, update_rates

TAIL_LENGTHS = (1, 3, 16)
NEW = 20
# Embryos as large as embeddings and slow rates, so that noise and blending decide what is committed.
NOISY = {"embryo_norm": 1.0, "alpha_max": 0.7, "eos_token_id": None}


@pytest.fixture
def prompt():
    return torch.randint(2, 97, (3, 9), generator=torch.Generator().manual_seed(1))


@torch.no_grad()
def reference(model, ids, new_tokens, return_index=0, **settings):
    """Algorithm 1 written out for one prompt: no cache, every slot always fed, one token per step."""
    settings = MaturationSettings(**{"tail_length": 8, **settings})
    length = settings.tail_length
    a = tail_maturities(length, **settings.schedule_settings())
    eta = update_rates(a, settings.rate)
    dim, norm = model.get_input_embeddings().weight.shape[1], settings.embryo_norm * model.embedding_radius

    def embryo(position):
        seed = settings.maturation_seed
        positions = range(position, position + 1)
        return decoding_noise(seed, EMBRYO, return_index, positions, 0, dim, norm, torch.float64)[0]

    table = model.token_embeddings()
    committed = [table[i] for i in ids[0]]
    tail, tokens = [embryo(j) for j in range(length)], ids[0].tolist()
    for step in range(new_tokens):
        maturity = torch.cat([torch.ones(len(committed)), a[1:].float()])[None]
        vectors = torch.stack([*committed, *tail])[None]
        predicted = model(inputs_embeds=vectors, maturity=maturity, tail_length=length).predicted_embeds[0]
        predicted = predicted[len(committed) - 1 : -1]  # the output at a position predicts the next one
        tail = [z + rate * (target - z) for z, rate, target in zip(tail, eta, predicted, strict=True)]
        tokens.append(int((table @ tail[0]).argmax()))
        committed.append(table[tokens[-1]])
        tail = [*tail[1:], embryo(step + length)]
    return torch.tensor([tokens])


@pytest.mark.parametrize("backbone", BACKBONES)
@pytest.mark.parametrize("settings", [{}, {"rate": "consistent", "alpha_max": 1.0}, {"schedule": "cosine"}])
@pytest.mark.parametrize("tail_length", TAIL_LENGTHS)
def test_generate_is_algorithm_1(make_model, prompt, backbone, tail_length, settings):
    model = make_model(backbone, double=True)
    settings = {**NOISY, **settings, "tail_length": tail_length, "maturation_seed": 3}
    text = model.generate(prompt[:1], max_new_tokens=NEW, **settings)
    assert len(set(text[0, 9:].tolist())) > 3  # text that varies enough to tell right from wrong
    del settings["eos_token_id"]
    assert torch.equal(text, reference(model, prompt[:1], NEW, **settings))


@pytest.mark.parametrize("backbone", BACKBONES)
@pytest.mark.parametrize("tail_length", TAIL_LENGTHS)
def test_uncached_dynamic_and_static_caches_agree(make_model, prompt, backbone, tail_length):
    model = make_model(backbone, double=True)
    settings = {"max_new_tokens": NEW, "tail_length": tail_length, **NOISY}
    dynamic = model.generate(prompt, **settings)
    assert torch.equal(model.generate(prompt, use_cache=False, **settings), dynamic)
    assert torch.equal(model.generate(prompt, cache_implementation="static", **settings), dynamic)
    assert torch.equal(model.generate(prompt, prefill_chunk_size=4, **settings), dynamic)
    mine = StaticCache(config=model.config.get_text_config(), max_cache_len=40)
    assert torch.equal(model.generate(prompt, past_key_values=mine, **settings), dynamic)
    model.set_attn_implementation("eager")
    assert torch.equal(model.generate(prompt, **settings), dynamic)


@pytest.mark.parametrize("backbone", BACKBONES)
@pytest.mark.parametrize("tail_length", TAIL_LENGTHS)
def test_a_left_padded_batch_equals_its_singles(make_model, prompt, backbone, tail_length):
    model = make_model(backbone, double=True)
    settings = {"max_new_tokens": NEW, "tail_length": tail_length, **NOISY}
    lengths = (9, 5, 2)
    padded, mask = torch.ones_like(prompt), torch.zeros_like(prompt)
    for row, length in enumerate(lengths):
        padded[row, 9 - length :], mask[row, 9 - length :] = prompt[row, :length], 1
    for cache in ({}, {"use_cache": False}, {"cache_implementation": "static"}, {"prefill_chunk_size": 4}):
        for attention_mask in (mask, mask.bool()):
            together = model.generate(padded, attention_mask=attention_mask, **settings, **cache)
            for row, length in enumerate(lengths):
                alone = model.generate(prompt[row : row + 1, :length], **settings)
                assert torch.equal(together[row, 9:], alone[0, length:]), (cache, row)


@pytest.mark.parametrize("backbone", BACKBONES)
@torch.no_grad()
def test_one_slot_is_greedy_nearest_neighbour_decoding(make_model, prompt, backbone):
    model = make_model(backbone, double=True)
    ids = prompt
    for _ in range(NEW):
        ids = torch.cat([ids, model(ids).logits[:, -1:].argmax(-1)], dim=1)
    for settings in ({"alpha_max": 1.0, "embryo_norm": 1.0}, {"alpha_max": 0.5, "embryo_norm": 0.0}):
        text = model.generate(prompt, max_new_tokens=NEW, tail_length=1, eos_token_id=None, **settings)
        assert torch.equal(text, ids)


def test_a_step_feeds_k_positions_whatever_the_prefix_and_never_beyond_the_limit(make_model, prompt):
    model = make_model()
    fed = []
    model.backbone.register_forward_pre_hook(
        lambda module, args, kwargs: fed.append((kwargs["inputs_embeds"].shape[1], int(kwargs["position_ids"].max()))),
        with_kwargs=True,
    )
    output = model.generate(prompt, max_new_tokens=10, tail_length=4, eos_token_id=None, return_dict_in_generate=True)
    assert [count for count, _ in fed] == [9 + 3] + [4] * 6 + [3, 2, 1]
    assert max(position for _, position in fed) == 9 + 10 - 2  # the token committed last is never fed
    assert output.num_forwards == 10 and output.tokens_per_forward == 1.0


def test_committed_tokens_never_change(make_model, prompt):
    """Whatever the length limit, a shorter run is a prefix of a longer one."""
    model = make_model(double=True)
    settings = {"tail_length": 8, **NOISY}
    longest = model.generate(prompt, max_new_tokens=24, **settings)
    for count in (1, 5, 23):
        assert torch.equal(model.generate(prompt, max_new_tokens=count, **settings), longest[:, : 9 + count])


def test_seeds_decide_and_nothing_else_does(make_model, prompt):
    model = make_model(double=True)
    settings = {"max_new_tokens": NEW, "tail_length": 8, **NOISY}
    first = model.generate(prompt, **settings)
    torch.manual_seed(99)
    assert torch.equal(model.generate(prompt, **settings), first)
    assert not torch.equal(model.generate(prompt, **settings, maturation_seed=1), first)
    still = {**settings, "embryo_norm": 0.0}
    assert torch.equal(model.generate(prompt, **still), model.generate(prompt, **still, maturation_seed=1))


def test_return_sequences_differ_in_their_embryos_alone(make_model, prompt):
    model = make_model(double=True)
    settings = {"max_new_tokens": NEW, "tail_length": 8, **NOISY}
    many = model.generate(prompt, num_return_sequences=3, **settings)
    assert many.shape == (9, 9 + NEW)
    for row in range(3):
        group = many[3 * row : 3 * row + 3]
        assert len({tuple(text.tolist()) for text in group}) == 3
        for index in range(3):
            expected = reference(
                model, prompt[row : row + 1], NEW, index, tail_length=8, embryo_norm=1.0, alpha_max=0.7
            )
            assert torch.equal(group[index], expected[0])
    saved = GenerationConfig(num_return_sequences=3, do_sample=True, max_new_tokens=NEW)
    saved = model.generate(
        prompt, generation_config=saved, tail_length=8, embryo_norm=1.0, alpha_max=0.7, eos_token_id=None
    )
    assert torch.equal(saved, many)


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


@pytest.mark.parametrize("eos", [None, 5, [3, 9, 50, 12], list(range(40, 97))])
@pytest.mark.parametrize("rows", [1, 3])
def test_an_end_that_is_seen_late_gives_the_same_text(make_model, prompt, monkeypatch, eos, rows):
    """On an accelerator the flag that all rows have ended is read a step later, and that step is taken back."""
    model = make_model(double=True)
    runs = [
        {**NOISY, "eos_token_id": eos, "max_new_tokens": NEW, "pad_token_id": 1},
        {**NOISY, "eos_token_id": eos, "max_length": 9 + 1, "pad_token_id": 1},
        {**NOISY, "eos_token_id": eos, "max_time": 0.0, "pad_token_id": 1},
    ]
    expected = [model.generate(prompt[:rows], tail_length=4, **run) for run in runs]
    monkeypatch.setattr(generation_tokmat, "accelerated", lambda device: True)
    late = [model.generate(prompt[:rows], tail_length=4, **run) for run in runs]
    for one, other in zip(expected, late, strict=True):
        assert torch.equal(one, other)
    assert eos is None or rows > 1 or isinstance(eos, int) or expected[0].shape[1] < 9 + NEW


def test_compiled_steps_give_the_same_text(make_model, prompt):
    """The step that transformers compiles on accelerators, here without a compiler."""
    model = make_model(double=True)
    settings = {"max_new_tokens": 12, "tail_length": 4, "cache_implementation": "static", **NOISY}
    expected = model.generate(prompt, **settings)
    compiling = CompileConfig(backend="eager", fullgraph=False)
    compiling._compile_all_devices = True
    assert torch.equal(model.generate(prompt, compile_config=compiling, **settings), expected)


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_a_real_compiler_gives_the_same_text(make_model, prompt):
    """torch.compile of the decode step with a static cache, through the C++ compiler where there is no accelerator."""
    model = make_model(double=True)
    settings = {"max_new_tokens": NEW, "tail_length": 4, "cache_implementation": "static", **NOISY}
    expected = model.generate(prompt, **settings)
    compiling = CompileConfig(fullgraph=True, mode="default")
    compiling._compile_all_devices = True
    torch._dynamo.utils.counters.clear()
    assert torch.equal(model.generate(prompt, compile_config=compiling, **settings), expected)
    assert torch._dynamo.utils.counters["stats"]["unique_graphs"] == 1


@pytest.mark.parametrize("late", [False, True])
@pytest.mark.parametrize("settings", [{}, {"commit": "stable"}, {"commit": "verified"}, {"streamed": True}])
@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_scores_that_are_not_finite_are_refused_wherever_they_come(
    make_model, prompt, monkeypatch, late, settings, bad
):
    """Predictions that break in the middle of a run, at its last step, or in the vector of one row alone."""
    model, passes, settings = make_model(), [], dict(settings)
    streamer = Told() if settings.pop("streamed", False) else None
    if late:
        monkeypatch.setattr(generation_tokmat, "accelerated", lambda device: True)
    break_at = 0

    def spoil(module, args, output):
        passes.append(1)
        if len(passes) == break_at:
            output = output.clone()
            output[1, :, 0] = bad
        return output

    model.head.register_forward_hook(spoil)
    run = {"max_new_tokens": 6, "tail_length": 4, "eos_token_id": None, "max_refinements": 1, **settings}
    model.generate(prompt, **run)
    for break_at in {2, len(passes)}:
        passes.clear()
        with pytest.raises(ValueError, match=r"scores of generated token \d are not finite.*overflows torch.float32"):
            model.generate(prompt, **run, streamer=streamer)
        assert streamer is None or len(streamer.put_calls) == break_at  # the prompt, and what was chosen before
        if streamer is not None:
            streamer.put_calls.clear()


class Told:
    def __init__(self):
        self.put_calls = []

    def put(self, value):
        self.put_calls.append(value)

    def end(self):
        pytest.fail("ended")


def test_what_is_not_finite_is_named(make_model, prompt):
    model = make_model()
    half = make_model().to(torch.float16)
    with pytest.raises(ValueError, match="not finite, though all weights are.*guidance_scale = 1000000.0"):
        half.generate(prompt, max_new_tokens=6, tail_length=4, guidance_scale=1e6, dynamics_noise=1e6)

    def break_a_weight(module, args):
        if module.steps == 3:
            module.mlp.c_fc.weight.data[0, 0] = float("nan")
        module.steps += 1

    model.backbone.h[1].steps = 0
    model.backbone.h[1].register_forward_pre_hook(break_a_weight)
    with pytest.raises(ValueError, match="token 4 are not finite: `backbone.h.1.mlp.c_fc.weight` holds NaN"):
        model.generate(prompt, max_new_tokens=6, tail_length=4, eos_token_id=None)


def test_a_row_that_has_ended_may_be_anything(make_model, prompt):
    """Rows are independent: what becomes of one after its end is nobody's concern."""
    model, calls = make_model(double=True), []
    eos = int(model.generate(prompt, max_new_tokens=1, tail_length=4, **NOISY)[0, -1])

    def spoil(module, args, output):
        calls.append(1)
        if len(calls) > 1:
            output = output.clone()
            output[0] = float("nan")
        return output

    run = {**NOISY, "eos_token_id": eos, "pad_token_id": 1, "max_new_tokens": 5, "tail_length": 4}
    expected = model.generate(prompt, **run)
    model.head.register_forward_hook(spoil)
    assert torch.equal(model.generate(prompt, **run), expected)


@pytest.mark.parametrize("rule", ["front", "stable", "verified"])
def test_a_rank_that_is_done_keeps_others_company_and_changes_nothing(make_model, prompt, monkeypatch, rule):
    """Sharded weights need every rank in every pass, until the last of them is done."""
    model = make_model(double=True)
    run = {**NOISY, "eos_token_id": [3, 9, 50, 12], "pad_token_id": 1, "max_new_tokens": NEW, "tail_length": 4}
    run |= {"commit": rule, "return_dict_in_generate": True, "output_scores": True}
    alone, left = model.generate(prompt, **run), 3

    def others_go_on(self, finished, synced_gpus, device):
        nonlocal left
        assert synced_gpus
        left -= finished
        return not finished or left >= 0

    monkeypatch.setattr(type(model), "_has_unfinished_sequences", others_go_on)
    together = model.generate(prompt, synced_gpus=True, **run)
    assert together.num_forwards == alone.num_forwards + 3
    assert torch.equal(together.sequences, alone.sequences) and len(together.scores) == len(alone.scores)
    assert together.past_key_values.get_seq_length() == alone.past_key_values.get_seq_length()
