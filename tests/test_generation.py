# Copyright 2026 The TokMat authors. Licensed under the Apache License, Version 2.0.
"""Decoding by delayed commitment, token-exact in float64 (near-ties flip in float32)."""

import logging
import sys
import threading
from contextlib import nullcontext

import pytest
import torch
from conftest import BACKBONES
from transformers import (
    DynamicCache,
    GenerationConfig,
    LogitsProcessor,
    LogitsProcessorList,
    MaxLengthCriteria,
    StoppingCriteria,
    StoppingCriteriaList,
    TextDiffusionStreamer,
)

from modeling_tokmat import TokMatForContinuousLM, TokMatGenerateOutput
from modeling_tokmat.inputs_tokmat import CACHE
from modeling_tokmat.maturation_tokmat import tail_maturities

TAIL_LENGTHS = (1, 3, 16)
NEW = 20
# Embryos as large as embeddings and slow rates, so that noise and blending decide what is committed.
NOISY = {"embryo_norm": 1.0, "alpha_max": 0.7, "eos_token_id": None}


@pytest.fixture
def prompt():
    return torch.randint(2, 97, (3, 9), generator=torch.Generator().manual_seed(1))


def test_rows_stop_at_their_eos(make_model, prompt):
    model = make_model(double=True)
    free = model.generate(prompt, max_new_tokens=NEW, tail_length=4, **NOISY)
    eos = int(free[0, 9 + 6])
    where = [(row[9:] == eos).nonzero() for row in free]
    text = model.generate(prompt, max_new_tokens=NEW, tail_length=4, **{**NOISY, "eos_token_id": eos}, pad_token_id=1)
    ends = [int(hits[0]) if len(hits) else NEW - 1 for hits in where]
    assert ends[0] <= 6 and text.shape[1] == 9 + max(ends) + 1
    for row, end in enumerate(ends):
        assert torch.equal(text[row, : 9 + end + 1], free[row, : 9 + end + 1])
        assert (text[row, 9 + end + 1 :] == 1).all()


def test_length_limits_and_stopping_criteria(make_model, prompt):
    model = make_model()
    assert model.generate(prompt, max_length=14, eos_token_id=None).shape == (3, 14)
    with pytest.raises(ValueError, match="max_length"):
        model.generate(prompt, max_length=9)
    criteria = StoppingCriteriaList([MaxLengthCriteria(max_length=12)])
    assert model.generate(prompt, max_new_tokens=NEW, stopping_criteria=criteria, eos_token_id=None).shape == (3, 12)

    class EvenRows(StoppingCriteria):
        def __call__(self, input_ids, scores, **kwargs):
            assert len(scores) == input_ids.shape[1] - 9
            return torch.tensor([row % 2 == 0 for row in range(len(input_ids))]) | (input_ids.shape[1] >= 15)

    out = model.generate(
        prompt,
        max_new_tokens=NEW,
        stopping_criteria=StoppingCriteriaList([EvenRows()]),
        eos_token_id=96,
        pad_token_id=1,
        output_scores=True,
        return_dict_in_generate=True,
    )
    assert out.sequences.shape == (3, 15)
    assert (out.sequences[[0, 2], 10:] == 1).all() and (out.sequences[1, 10:] != 1).any()
    assert model.generate(prompt, max_new_tokens=50, max_time=0.0, eos_token_id=None).shape == (3, 10)


def test_stop_strings(make_model, tokenizer):
    model = make_model(vocab_size=len(tokenizer), double=True)
    inputs = tokenizer(["the fox", "a river was"], return_tensors="pt", padding=True)
    inputs.pop("token_type_ids", None)
    free = model.generate(**inputs, max_new_tokens=NEW, eos_token_id=None)
    word = tokenizer.decode(free[0, inputs.input_ids.shape[1] + 3])
    text = model.generate(**inputs, max_new_tokens=NEW, stop_strings=word, tokenizer=tokenizer, eos_token_id=None)
    new = tokenizer.decode(text[0, inputs.input_ids.shape[1] :])
    assert word in new and text.shape[1] <= free.shape[1]


def test_logits_processors_act_on_the_implied_logits_of_slot_1(make_model, prompt):
    model = make_model(double=True)
    plain = model.generate(
        prompt,
        max_new_tokens=6,
        tail_length=4,
        output_logits=True,
        output_scores=True,
        return_dict_in_generate=True,
        **NOISY,
    )
    assert isinstance(plain, TokMatGenerateOutput)
    assert len(plain.logits) == len(plain.scores) == 6 and plain.logits[0].shape == (3, 97)
    assert all(logits.abs().max() <= 20.0 + 1e-9 for logits in plain.logits)
    assert torch.equal(torch.stack([logits.argmax(-1) for logits in plain.logits], 1), plain.sequences[:, 9:])
    banned = int(plain.sequences[0, 9])
    calls = []

    class Ban(LogitsProcessor):
        def __call__(self, input_ids, scores):
            calls.append(input_ids.shape[1])
            return scores.index_fill(1, torch.tensor([banned]), -torch.inf)

    text = model.generate(
        prompt, max_new_tokens=6, tail_length=4, logits_processor=LogitsProcessorList([Ban()]), **NOISY
    )
    assert calls == list(range(9, 15)) and not (text[:, 9:] == banned).any()
    assert not (model.generate(prompt, max_new_tokens=6, suppress_tokens=[banned], **NOISY)[:, 9:] == banned).any()
    repeated = model.generate(prompt, max_new_tokens=30, no_repeat_ngram_size=1, tail_length=4, **NOISY)
    assert all(
        len(set(row.tolist())) == len(set(old.tolist())) + 30 for row, old in zip(repeated, prompt, strict=True)
    )


def test_outputs_by_step(make_model, prompt):
    model = make_model()
    model.set_attn_implementation("eager")
    out = model.generate(
        prompt,
        max_new_tokens=5,
        tail_length=3,
        output_hidden_states=True,
        output_attentions=True,
        return_dict_in_generate=True,
        eos_token_id=None,
    )
    assert [step[0].shape[1] for step in out.hidden_states] == [9 + 2, 3, 3, 2, 1]
    assert len(out.attentions) == 5 and out.scores is None and out.logits is None
    assert out.past_key_values.get_seq_length() == 9 + 5 - 1


class Recorder:
    def __init__(self):
        self.put_calls, self.drafts, self.ended = [], [], 0

    def put(self, value):
        self.put_calls.append(value)

    def put_draft(self, value, maturity=None):
        self.drafts.append((value, maturity))

    def end(self):
        self.ended += 1


def test_streamers_get_commits_in_order_and_the_tail_behind_them(make_model, prompt):
    model = make_model(double=True)
    streamer = Recorder()
    text = model.generate(prompt, max_new_tokens=8, tail_length=4, streamer=streamer, **NOISY)
    assert torch.equal(streamer.put_calls[0], prompt)
    assert torch.equal(torch.stack(streamer.put_calls[1:], 1), text[:, 9:])
    assert streamer.ended == 1
    # K = 4: three slots remain after a commit, fewer near the length limit.
    assert [draft.shape for draft, _ in streamer.drafts] == [(3, 3)] * 5 + [(3, 2), (3, 1), (3, 0)]
    before = tail_maturities(4, schedule="linear", alpha_max=0.7)[1:4]
    for draft, maturity in streamer.drafts:
        torch.testing.assert_close(maturity.double(), before[: draft.shape[1]], atol=1e-6, rtol=0)


def test_transformers_own_draft_streamer(make_model, prompt, tokenizer, capsys):
    model = make_model(vocab_size=len(tokenizer))
    ids = model.generate(prompt[:1], max_new_tokens=6, streamer=TextDiffusionStreamer(tokenizer), eos_token_id=None)
    assert "".join(tokenizer.decode(ids[0]).split()) in "".join(capsys.readouterr().out.split()) or ids.shape == (
        1,
        15,
    )


def test_sampling_flags_change_nothing_and_say_why_once(make_model, prompt, caplog):
    model = make_model(double=True)
    model.generation_config.eos_token_id = None
    settings = {"max_new_tokens": NEW, "tail_length": 4, **NOISY}
    plain = model.generate(prompt, **settings)
    library = logging.getLogger("transformers")
    library.addHandler(caplog.handler)
    try:
        from transformers.utils import logging as transformers_logging

        transformers_logging.warning_once.cache_clear()
        flags = {"do_sample": True, "temperature": 0.3, "top_k": 2, "top_p": 0.5, "typical_p": 0.4}
        assert torch.equal(model.generate(prompt, **settings, **flags), plain)
        given = GenerationConfig(do_sample=True, temperature=2.0, top_k=1, max_new_tokens=NEW, eos_token_id=None)
        others = {name: value for name, value in settings.items() if name not in ("max_new_tokens", "eos_token_id")}
        assert torch.equal(model.generate(prompt, generation_config=given, **others), plain)
        assert given.do_sample and given.temperature == 2.0  # the caller's object is left as it was
    finally:
        library.removeHandler(caplog.handler)
    messages = [record.getMessage() for record in caplog.records if "argmax" in record.getMessage()]
    assert len(messages) == 1
    assert not [record for record in caplog.records if "not valid" in record.getMessage()]


def test_beams_and_assistants_are_refused(make_model, prompt):
    model = make_model()
    with pytest.raises(ValueError, match="(?i)only supports.*beam_search"):
        model.generate(prompt, num_beams=2, max_new_tokens=4)
    with pytest.raises(ValueError, match="(?i)only supports.*assisted_generation"):
        model.generate(prompt, assistant_model=make_model(), max_new_tokens=4)
    with pytest.raises(ValueError, match='`prompt_lookup_num_tokens` is 3, .* unless commit is "verified"'):
        model.generate(prompt, prompt_lookup_num_tokens=3, max_new_tokens=4)


def test_a_callers_own_decoding_loop_is_passed_through(make_model, prompt):
    def loop(model, input_ids, generation_config, **kwargs):
        return input_ids[:, :1]

    assert torch.equal(make_model().generate(prompt, custom_generate=loop, max_new_tokens=3), prompt[:, :1])


@pytest.mark.filterwarnings("error::FutureWarning")
@pytest.mark.parametrize("commit", ["front", "stable", "verified"])
def test_nothing_goes_by_a_name_that_transformers_has_no_longer(make_model, make_converted, prompt, commit):
    model = make_model()
    model.generate(prompt, max_new_tokens=4, tail_length=3, commit=commit, eos_token_id=None)
    for trained in (model, make_converted()):
        trained.train()(prompt, labels=prompt)
    cache = DynamicCache()
    with pytest.warns(FutureWarning, match="is deprecated") if CACHE == "cache" else nullcontext():
        model.eval()(prompt, past_key_values=cache, use_cache=True, tail_length=4)
    assert cache.get_seq_length() == prompt.shape[1]


def test_continuing_from_a_cache(make_model, prompt):
    model = make_model(double=True)
    settings = {"tail_length": 4, **NOISY}
    first = model.generate(prompt, max_new_tokens=6, return_dict_in_generate=True, **settings)
    expected = model.generate(first.sequences, max_new_tokens=6, **settings)
    again = model.generate(first.sequences, past_key_values=first.past_key_values, max_new_tokens=6, **settings)
    assert torch.equal(again, expected)
    full = DynamicCache()
    model(prompt, past_key_values=full, use_cache=True, tail_length=4)
    with pytest.raises(ValueError, match="at least one position shorter"):
        model.generate(prompt, past_key_values=full, max_new_tokens=2)


def test_prompts_as_vectors_or_none_at_all(make_model, prompt):
    model = make_model(double=True)
    settings = {"max_new_tokens": 8, "tail_length": 4, **NOISY}
    text = model.generate(prompt, **settings)
    assert torch.equal(model.generate(inputs_embeds=model.embed_tokens(prompt), **settings), text[:, 9:])
    assert torch.equal(model.generate(input_ids=prompt, **settings), text)
    unconditional = model.generate(**settings)
    assert torch.equal(unconditional, model.generate(torch.tensor([[0]]), **settings))


@pytest.mark.parametrize("backbone", BACKBONES)
@pytest.mark.parametrize("tail_length", TAIL_LENGTHS)
def test_a_prompt_that_fills_the_context_works(make_model, backbone, tail_length):
    model = make_model(backbone, double=True)
    for length in (63, 64):  # the model has 64 positions; the new token itself is never fed
        full = torch.randint(2, 97, (1, length))
        with torch.no_grad():
            expected = model(full).logits[:, -1].argmax(-1)
        for cache in ({}, {"use_cache": False}, {"cache_implementation": "static"}):
            settings = {"tail_length": tail_length, "embryo_norm": 0.0, "eos_token_id": None, **cache}
            assert model.generate(full, max_new_tokens=1, **settings).shape == (1, length + 1)
            if tail_length == 1:
                assert model.generate(full, max_new_tokens=1, **settings)[0, -1] == expected
    exact = model.generate(full[:, :40], max_new_tokens=24, tail_length=tail_length, eos_token_id=None)
    assert exact.shape == (1, 64)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"tail_length": 0}, r"`tail_length` is 0, but it must be in \[1, 64\]"),
        ({"tail_length": 65}, "`tail_length` is 65"),
        ({"tail_length": 2.5}, "`tail_length` is 2.5"),
        ({"schedule": "step"}, "`schedule` is 'step'.*linear, cosine, geometric, power"),
        ({"alpha_max": 1.5}, "`alpha_max` is 1.5"),
        ({"schedule_gamma": 0.0}, "`schedule_gamma` is 0.0"),
        ({"schedule_beta": -1.0}, "`schedule_beta` is -1.0"),
        ({"rate": "fast"}, "`rate` is 'fast'.*paper, consistent"),
        ({"embryo_norm": -0.5}, "`embryo_norm` is -0.5"),
        ({"maturation_seed": -1}, "`maturation_seed` is -1"),
        ({"maturation_seed": 1.5}, "`maturation_seed` is 1.5"),
        ({"num_return_sequences": 0}, "`num_return_sequences` is 0"),
        ({"tail_lenght": 4}, "tail_lenght"),
        ({"labels": torch.zeros(1, 9)}, "`labels`"),
        ({"maturity": torch.zeros(1, 9)}, "`maturity`"),
        ({"max_new_tokens": 60}, r"`max_length` is '69.*64 positions"),
    ],
)
def test_wrong_arguments_are_refused_before_any_work(make_model, prompt, arguments, message):
    model = make_model()
    model.backbone.register_forward_pre_hook(lambda *args: pytest.fail("the network ran"))
    with pytest.raises(ValueError, match=message):
        model.generate(prompt, **{"max_new_tokens": 4, **arguments})


@pytest.mark.parametrize("bad", [97, -1])
def test_ids_out_of_range_are_refused(make_model, prompt, bad):
    prompt[0, 3] = bad
    with pytest.raises(ValueError, match=r"`input_ids`.*ids in \[0, 96\]"):
        make_model().generate(prompt, max_new_tokens=2)


def test_broken_weights_are_refused_by_name(make_model, prompt):
    model = make_model()
    with torch.no_grad():
        model.backbone.h[1].mlp.c_fc.weight[0, 0] = float("nan")
    streamer = Recorder()
    with pytest.raises(ValueError, match="backbone.h.1.mlp.c_fc.weight"):
        model.generate(prompt, max_new_tokens=2, streamer=streamer)
    assert len(streamer.put_calls) == 1  # the prompt, and no token


def test_right_padding_warns_as_in_transformers(make_model, prompt, caplog):
    mask = torch.ones_like(prompt)
    mask[0, -2:] = 0
    library = logging.getLogger("transformers")
    library.addHandler(caplog.handler)
    try:
        make_model().generate(prompt, attention_mask=mask, max_new_tokens=2, eos_token_id=None)
    finally:
        library.removeHandler(caplog.handler)
    assert any("right-padding was detected" in record.getMessage() for record in caplog.records)


def test_settings_live_on_the_generation_config(make_model, prompt, tmp_path):
    model = make_model(double=True, schedule="cosine", embryo_norm=0.3)
    assert (model.generation_config.schedule, model.generation_config.embryo_norm) == ("cosine", 0.3)
    settings = {"tail_length": 3, "rate": "consistent", "alpha_max": 1.0, "maturation_seed": 7, "embryo_norm": 1.0}
    expected = model.generate(prompt, max_new_tokens=NEW, eos_token_id=None, **settings)
    assert model.generation_config.tail_length == 8  # a call leaves no trace
    model.generation_config.update(**settings)
    model.save_pretrained(tmp_path)
    loaded = TokMatForContinuousLM.from_pretrained(tmp_path)
    assert torch.equal(loaded.generate(prompt, max_new_tokens=NEW, eos_token_id=None), expected)
    given = GenerationConfig(max_new_tokens=NEW, tail_length=3)
    others = {name: value for name, value in settings.items() if name != "tail_length"}
    fresh = make_model(double=True, schedule="cosine", embryo_norm=0.3)
    fresh.load_state_dict(model.state_dict())
    fresh.generation_config.update(**others)
    fresh.generation_config.eos_token_id = None
    assert torch.equal(fresh.generate(prompt, generation_config=given), expected)


def test_a_saved_setting_that_is_wrong_is_refused(make_model, prompt):
    model = make_model()
    model.generation_config.rate = "fast"
    with pytest.raises(ValueError, match="`rate` is 'fast'"):
        model.generate(prompt, max_new_tokens=2)


def test_inference_mode_and_changed_weights(make_model, prompt):
    """What is remembered between steps is dropped when the weights change."""
    model, other = make_model(double=True), make_model(double=True)
    run = {"max_new_tokens": NEW, "tail_length": 4, **NOISY}
    expected = model.generate(prompt, **run)
    with torch.inference_mode():
        assert torch.equal(model.generate(prompt, **run), expected)
        assert torch.equal(make_like(model).generate(prompt, **run), expected)
    changed = other.generate(prompt, **run)
    assert not torch.equal(changed, expected)
    model.load_state_dict(other.state_dict())
    assert torch.equal(model.generate(prompt, **run), changed)


def make_like(model):
    twin = TokMatForContinuousLM(model.config).double().eval()
    twin.load_state_dict(model.state_dict())
    return twin


def test_half_precision_runs(make_model, prompt):
    model = make_model().to(torch.bfloat16)
    assert model.generate(prompt, max_new_tokens=6, eos_token_id=None).shape == (3, 15)


def test_threads_share_a_model_and_its_saved_settings(make_model, prompt):
    model = make_model()
    saved = {"num_return_sequences": 2, "guidance_scale": 2.0, "temperature": 0.7, "top_k": 5}
    for name, value in {**saved, "eos_token_id": None}.items():
        setattr(model.generation_config, name, value)
    run = {"max_new_tokens": 2, "tail_length": 3}
    expected = model.generate(prompt[:1], **run)
    wrong, interval = [], sys.getswitchinterval()

    def work():
        for _ in range(15):
            try:
                text = model.generate(prompt[:1], **run)
            except Exception as error:  # in a thread it would be lost
                wrong.append(error)
            else:
                if not torch.equal(text, expected):
                    wrong.append(tuple(text.shape))

    sys.setswitchinterval(1e-6)  # threads take turns often, so that what one does for a moment is seen by others
    try:
        threads = [threading.Thread(target=work) for _ in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    finally:
        sys.setswitchinterval(interval)
    assert not wrong
    assert {name: getattr(model.generation_config, name) for name in saved} == saved


@pytest.mark.parametrize("refused", [{"max_new_tokens": 10**7}, {"max_new_tokens": 60, "commit": "verified"}])
def test_a_refused_call_leaves_no_longer_static_cache_behind(make_model, prompt, refused):
    """transformers remembers the longest static cache, and makes every later one as long."""
    model = make_model()
    settings = {"cache_implementation": "static", "eos_token_id": None, "return_dict_in_generate": True}
    with pytest.raises(ValueError, match="`max_length` is .*64 positions"):
        model.generate(prompt, **refused, **settings)
    padded, mask = torch.cat([torch.ones_like(prompt), prompt], dim=1), torch.ones(3, 18, dtype=torch.long)
    mask[:, :9] = 0  # padding takes up the cache, but no positions
    output = model.generate(padded, attention_mask=mask, max_new_tokens=4, tail_length=3, **settings)
    assert output.past_key_values.get_max_length() == 18 + 4 - 1
    exact = model.generate(padded, attention_mask=mask, max_new_tokens=64 - 9 + 1, tail_length=1, **settings)
    assert exact.sequences.shape[1] == 18 + 64 - 9 + 1
    embeds = {"inputs_embeds": model.embed_tokens(prompt), **settings}
    with pytest.raises(ValueError, match="`max_length` is '66 .a prompt of 9 positions and 57 new tokens"):
        model.generate(max_new_tokens=57, **embeds)
    assert model.generate(max_new_tokens=56, **embeds).sequences.shape[1] == 56
