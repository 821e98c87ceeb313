# Copyright 2026 The TokMat authors. Licensed under the Apache License, Version 2.0.
"""The model as transformers sees it, and its loss against a naive reference."""

import math

import pytest
import torch
import torch.nn.functional as F
from conftest import BACKBONES
from transformers import AutoConfig, AutoModel, AutoModelForCausalLM, GPT2Model

from modeling_tokmat import TokMatConfig, TokMatForContinuousLM
from modeling_tokmat.maturation_tokmat import corrupt
from modeling_tokmat.training_tokmat import simulate_tails


@pytest.fixture
def ids():
    torch.manual_seed(3)
    return torch.randint(2, 97, (2, 12))


# -- the network (METHOD section 2) ---------------------------------------------------------------------------------


@pytest.mark.parametrize("backbone", BACKBONES)
@torch.no_grad()
def test_a_fresh_model_equals_its_backbone(make_model, ids, backbone):
    model = make_model(backbone, fresh=True)
    output = model(ids)
    plain = model.backbone(inputs_embeds=model.token_embeddings()[ids])
    assert torch.equal(output.predicted_embeds, plain.last_hidden_state)
    assert output.logits.shape == (2, 12, 97)
    rows = model.token_embeddings().norm(dim=-1)
    torch.testing.assert_close(rows, torch.full((97,), model.config.embedding_radius))
    assert model.config.embedding_radius == pytest.approx(
        model.get_input_embeddings().weight.norm(dim=-1).mean().item()
    )


@torch.no_grad()
def test_logits_are_scaled_cosines(make_model, ids):
    model = make_model()
    output = model(ids)
    cosines = F.cosine_similarity(output.predicted_embeds[:, :, None], model.token_embeddings(), dim=-1)
    torch.testing.assert_close(output.logits, 20.0 * cosines, atol=1e-4, rtol=1e-4)
    torch.testing.assert_close(model(ids, logits_to_keep=3).logits, output.logits[:, -3:])
    torch.testing.assert_close(model(ids, logits_to_keep=torch.tensor([4, 1])).logits, output.logits[:, [4, 1]])


@torch.no_grad()
@pytest.mark.parametrize("write", ["in place", "through .data", "by numpy", "under inference_mode"])
def test_logits_follow_weights_however_they_are_written(make_model, ids, write):
    model = make_model()
    first, weight = model(ids).logits, model.get_input_embeddings().weight
    lengths = torch.linspace(0.5, 2, 97)[:, None]  # lengths change, directions do not
    if write == "in place":
        weight.mul_(lengths)
    elif write == "through .data":
        weight.data.mul_(lengths)
    elif write == "by numpy":
        weight.detach().numpy()[:] *= lengths.numpy()
    else:
        with torch.inference_mode():
            weight.mul_(lengths)
    torch.testing.assert_close(model(ids).logits, first, atol=1e-4, rtol=1e-4)


@torch.no_grad()
def test_conditioning_acts_and_conditioned_models_accept_every_form(make_model, ids):
    model = make_model()
    plain = model(ids).predicted_embeds
    maturity = torch.ones(2, 12)
    torch.testing.assert_close(model(ids, maturity=maturity).predicted_embeds, plain)
    assert torch.equal(model(ids, tail_length=1).predicted_embeds, plain)
    assert torch.equal(model(inputs_embeds=model.embed_tokens(ids)).predicted_embeds, plain)
    maturity[1, -1] = 0.5
    changed = model(ids, maturity=maturity).predicted_embeds
    torch.testing.assert_close(changed[0], plain[0])
    assert not torch.allclose(changed[1, -1], plain[1, -1])
    per_row = model(ids, tail_length=torch.tensor([1, 5])).predicted_embeds
    torch.testing.assert_close(per_row[0], plain[0])
    torch.testing.assert_close(per_row[1], model(ids, tail_length=5).predicted_embeds[1])
    assert not torch.allclose(per_row[1], plain[1])


@pytest.mark.parametrize("backbone", BACKBONES)
@torch.no_grad()
def test_predictions_depend_on_nothing_at_or_after_the_predicted_slot(make_model, backbone):
    model = make_model(backbone, double=True)
    vectors, maturity = torch.randn(1, 10, 32, dtype=torch.float64), torch.rand(1, 10)
    before = model(inputs_embeds=vectors, maturity=maturity, tail_length=4).predicted_embeds
    for changed in range(10):
        other, alpha = vectors.clone(), maturity.clone()
        other[0, changed] += 1
        alpha[0, changed] = 1 - alpha[0, changed]
        after = model(inputs_embeds=other, maturity=alpha, tail_length=4).predicted_embeds
        # The output at position t predicts t + 1, so t is the first to see a change at t.
        assert torch.equal(after[:, :changed], before[:, :changed])
        assert not torch.equal(after[:, changed:], before[:, changed:])


@pytest.mark.parametrize("backbone", BACKBONES)
@torch.no_grad()
def test_padding_and_batching_change_nothing(make_model, ids, backbone):
    model = make_model(backbone, double=True)
    alone = [model(row[None]).logits[0] for row in (ids[0], ids[1, 4:])]
    padded = ids.clone()
    padded[1, :4] = 1
    mask = torch.ones_like(ids)
    mask[1, :4] = 0
    positions = (mask.cumsum(-1) - 1).clamp(min=0)
    together = model(padded, attention_mask=mask, position_ids=positions).logits
    torch.testing.assert_close(together[0], alone[0])
    torch.testing.assert_close(together[1, 4:], alone[1])


@pytest.mark.parametrize("backbone", BACKBONES)
@torch.no_grad()
def test_eager_equals_sdpa(make_model, ids, backbone):
    model = make_model(backbone)
    sdpa = model(ids).logits
    model.set_attn_implementation("eager")
    assert model.backbone.config._attn_implementation == "eager"
    torch.testing.assert_close(model(ids).logits, sdpa, atol=1e-4, rtol=1e-4)
    assert model(ids, output_attentions=True).attentions[0].shape == (2, 4, 12, 12)
    assert len(model(ids, output_hidden_states=True).hidden_states) == 3


@torch.no_grad()
def test_bf16(make_model, ids):
    model = make_model()
    exact = model(ids).logits
    half = model.to(torch.bfloat16)(ids).logits
    assert half.dtype == torch.bfloat16
    assert (half.float() - exact).abs().mean() < 0.2
    assert half.isfinite().all()


def test_tuples_and_labels_follow_transformers(make_model, ids):
    model = make_model()
    assert torch.equal(model(ids, return_dict=False)[0], model(ids).logits)
    loss, logits = model(ids, labels=ids, return_dict=False)[:2]
    assert loss.shape == () and logits.shape == (2, 12, 97)


@torch.no_grad()
def test_resizing_the_vocabulary(make_model, ids):
    model = make_model(negatives="unigram")
    model.set_token_counts(torch.arange(97))
    before = model(ids).logits
    model.resize_token_embeddings(105)
    assert model.config.vocab_size == 105 and model.token_counts.shape == (105,)
    torch.testing.assert_close(model(ids).logits[..., :97], before, atol=1e-4, rtol=1e-4)
    assert model(ids).logits.shape[-1] == 105
    model.resize_token_embeddings(90)
    assert model.token_counts.tolist() == list(range(90))


def test_the_auto_classes_know_the_package():
    config = TokMatConfig.tiny()
    assert isinstance(AutoConfig.for_model("tokmat"), TokMatConfig)
    assert (
        type(AutoModel.from_config(config)) is type(AutoModelForCausalLM.from_config(config)) is TokMatForContinuousLM
    )


@pytest.mark.parametrize("backbone", BACKBONES)
@torch.no_grad()
def test_save_and_load(make_model, ids, tmp_path, backbone):
    model = make_model(backbone, negatives="unigram", freeze_embeddings=True)
    model.set_token_counts(torch.arange(97))
    model.generation_config.tail_length = 5
    model.save_pretrained(tmp_path)
    loaded, info = TokMatForContinuousLM.from_pretrained(tmp_path, output_loading_info=True)
    assert not any(info[key] for key in ("missing_keys", "unexpected_keys", "mismatched_keys"))
    assert torch.equal(loaded.eval()(ids).logits, model(ids).logits)
    assert torch.equal(loaded.token_counts, model.token_counts)
    assert loaded.generation_config.tail_length == 5
    assert loaded.config.embedding_radius == model.config.embedding_radius
    assert not loaded.get_input_embeddings().weight.requires_grad


def test_missing_weights_are_initialised_as_in_a_fresh_model(make_model, tmp_path):
    from safetensors.torch import load_file, save_file

    make_model().save_pretrained(tmp_path)
    weights = load_file(tmp_path / "model.safetensors")
    for name in [name for name in weights if not name.startswith("backbone")]:
        del weights[name]
    save_file(weights, tmp_path / "model.safetensors", metadata={"format": "pt"})
    loaded = TokMatForContinuousLM.from_pretrained(tmp_path, initialise_missing=True)
    assert torch.equal(loaded.head.weight, torch.eye(32)) and (loaded.head.bias == 0).all()
    assert (loaded.tail_length_film.table.weight == 0).all()
    assert (loaded.maturity_embedding.fc_out.weight == 0).all()
    assert loaded.maturity_embedding.fc_in.weight.std() > 0


def test_missing_weights_of_the_backbone_are_drawn_as_the_backbone_draws_them(tmp_path):
    from safetensors.torch import load_file, save_file

    TokMatForContinuousLM(TokMatConfig.tiny()).save_pretrained(tmp_path)
    weights = load_file(tmp_path / "model.safetensors")
    missing = [name for name in weights if name.endswith(("c_proj.weight", "c_fc.weight"))]
    kept = {name: weight for name, weight in weights.items() if name not in missing}
    save_file(kept, tmp_path / "model.safetensors", metadata={"format": "pt"})
    loaded = TokMatForContinuousLM.from_pretrained(tmp_path, initialise_missing=True).state_dict()
    for name in missing:  # GPT-2 draws what leads back to the residual stream narrower, by 1 / sqrt(2 * layers)
        expected = 0.01 if "c_proj" in name else 0.02
        assert loaded[name].std().item() == pytest.approx(expected, rel=0.15), name
    assert all(torch.equal(loaded[name], weight) for name, weight in kept.items())


def test_gradient_checkpointing_gives_the_same_gradients(make_model, ids):
    def gradients(checkpointing):
        torch.manual_seed(0)
        model = make_model(double=True).train()
        if checkpointing:
            model.gradient_checkpointing_enable()
            assert any(getattr(part, "gradient_checkpointing", False) for part in model.modules())
        model(ids, labels=ids, maturation_seeds=torch.tensor([1, 2]), negative_ids=torch.arange(9)).loss.backward()
        return {name: weight.grad for name, weight in model.named_parameters()}

    plain, checkpointed = gradients(False), gradients(True)
    for name, gradient in plain.items():
        torch.testing.assert_close(checkpointed[name], gradient, msg=name)


@pytest.mark.parametrize(
    ("inputs", "message"),
    [
        ({}, "`input_ids`"),
        ({"input_ids": torch.tensor([[97]])}, r"ids in \[0, 96\]"),
        ({"input_ids": torch.tensor([[-1]])}, r"ids in \[0, 96\]"),
        ({"input_ids": torch.tensor([[5, 6]]), "labels": torch.tensor([[5, 99]])}, "`labels`"),
        ({"input_ids": torch.tensor([[5]]), "inputs_embeds": torch.zeros(1, 1, 32)}, "`input_ids`"),
        ({"input_ids": torch.tensor([[5]]), "tail_length": 65}, r"`tail_length` is 65, but it must be in \[1, 64\]"),
        ({"input_ids": torch.tensor([[5]]), "tail_length": 0}, "`tail_length` is 0"),
    ],
)
def test_wrong_inputs_are_refused(make_model, inputs, message):
    with pytest.raises(ValueError, match=message):
        make_model()(**inputs)


# -- the loss (METHOD section 4) ------------------------------------------------------------------------------------


def naive_loss(model, ids, labels, maturity, vectors, tail_length, negative_ids):
    """Eq. 6 to 8 written out, for one row without padding."""
    with torch.no_grad():
        predicted = model(inputs_embeds=vectors, maturity=maturity, tail_length=tail_length).predicted_embeds
    table, radius = model.token_embeddings(), model.embedding_radius
    regression = contrastive = total = 0.0
    for t in range(ids.shape[1] - 1):
        target, weight = labels[0, t + 1], maturity[0, t]
        if target == -100:
            continue
        z, e = predicted[0, t], table[target]
        keys = [i for i in negative_ids if i != target]
        cosines = F.cosine_similarity(z[None], table[[int(target), *map(int, keys)]], dim=-1)
        regression += weight * ((z - e) ** 2).sum() / radius**2
        contrastive += weight * -torch.log_softmax(20 * cosines, 0)[0]
        total += weight
    return regression / total, contrastive / total


@pytest.mark.parametrize("negatives", ["uniform", "all"])
def test_the_simulated_loss_equals_its_definition(make_model, ids, negatives):
    model = make_model(double=True, negatives=negatives, clean_probability=0.0, embryo_norm=0.5).train()
    labels = ids[:1].clone()
    labels[0, 2] = -100
    seeds = torch.tensor([4])
    drawn = torch.arange(3, 40, 2)
    output = model(
        ids[:1], labels=labels, maturation_seeds=seeds, negative_ids=drawn if negatives == "uniform" else None
    )
    tails, _ = simulate_tails(model.config, seeds, labels)
    length = int(tails.tail_length)
    noise = tails.noise(32, 0.5 * model.embedding_radius)
    vectors = corrupt(model.embed_tokens(ids[:1]), noise, tails.maturity)
    keys = drawn if negatives == "uniform" else torch.arange(97)
    regression, contrastive = naive_loss(model.eval(), ids[:1], labels, tails.maturity, vectors, length, keys)
    torch.testing.assert_close(output.regression_loss, regression.to(output.regression_loss))
    torch.testing.assert_close(output.contrastive_loss, contrastive.to(output.contrastive_loss))
    torch.testing.assert_close(output.loss, output.regression_loss + output.contrastive_loss)


def test_evaluation_is_deterministic_and_on_committed_positions(make_model, ids):
    model = make_model()
    with torch.no_grad():
        first, second = model(ids, labels=ids), model(ids, labels=ids)
        explicit = model(ids, labels=ids, maturity=torch.ones(2, 12))
    assert first.loss == second.loss
    torch.testing.assert_close(explicit.loss, first.loss)
    exact = make_model(negatives="all", regression_weight=0.0)
    with torch.no_grad():
        output = exact(ids, labels=ids)
    expected = F.cross_entropy(output.logits[:, :-1].flatten(0, 1), ids[:, 1:].flatten())
    torch.testing.assert_close(output.loss, expected, atol=1e-4, rtol=1e-4)


def test_training_simulates_maturation_by_itself_and_draws_from_the_global_generator(make_model, ids):
    model = make_model(clean_probability=0.0).train()
    torch.manual_seed(5)
    first = model(ids, labels=ids).loss
    second = model(ids, labels=ids).loss
    torch.manual_seed(5)
    assert model(ids, labels=ids).loss == first != second
    assert model(ids, labels=ids).logits is None


def test_learned_embeddings_learn_from_the_contrast_and_the_input_alone(make_model, ids):
    def gradient(**fields):
        model = make_model(double=True, fresh=True, **fields).train()
        model(ids, labels=ids, maturation_seeds=torch.tensor([1, 2]), negative_ids=torch.arange(9)).loss.backward()
        return model.get_input_embeddings().weight.grad

    # Ids that are only targets (the last of each row) get a gradient from the contrast, not from the regression.
    last = ids[:, -1]
    only_targets = [int(i) for i in last if (ids[:, :-1] == i).sum() == 0]
    assert only_targets
    regression = gradient(contrastive_weight=0.0)
    contrast = gradient(regression_weight=0.0)
    for i in only_targets:
        assert (regression[i] == 0).all() and (contrast[i] != 0).any()
    assert (regression[ids[0, 3]] != 0).any()  # through the input path
    assert gradient(freeze_embeddings=True) is None


def test_packed_documents_equal_separate_ones(make_model):
    model = make_model(double=True, negatives="all", context_negatives=1.0)
    torch.manual_seed(2)
    first, second = torch.randint(2, 97, (1, 7)), torch.randint(2, 97, (1, 9))
    packed = torch.cat([first, second], dim=1)
    positions = torch.cat([torch.arange(7), torch.arange(9)])[None]
    with torch.no_grad():
        together = model(packed, labels=packed, position_ids=positions)
        parts = [model(part, labels=part) for part in (first, second)]
    torch.testing.assert_close(together.predicted_embeds[:, :7], parts[0].predicted_embeds)
    torch.testing.assert_close(together.predicted_embeds[:, 7:], parts[1].predicted_embeds)
    expected = (6 * parts[0].loss + 8 * parts[1].loss) / 14  # the boundary itself is nobody's target
    torch.testing.assert_close(together.loss, expected)


def test_padding_does_not_enter_the_loss(make_model, ids):
    model = make_model(double=True, negatives="all", context_negatives=1.0, clean_probability=0.0)
    seeds = torch.tensor([3])
    alone = model(ids[:1, :9], labels=ids[:1, :9], maturation_seeds=seeds)
    padded = torch.cat([ids[:1, :9], torch.ones(1, 3, dtype=torch.long)], dim=1)
    mask = torch.tensor([[1] * 9 + [0] * 3])
    labels = padded.masked_fill(mask == 0, -100)
    together = model(padded, labels=labels, attention_mask=mask, maturation_seeds=seeds)
    torch.testing.assert_close(together.loss, alone.loss)


@pytest.mark.parametrize("negatives", ["uniform", "batch", "all"])
def test_a_fully_masked_batch_gives_zero_with_gradients(make_model, ids, negatives):
    model = make_model(negatives=negatives, context_negatives=1.0).train()
    output = model(ids, labels=torch.full_like(ids, -100))
    output.loss.backward()
    assert output.loss == 0
    for name, weight in model.named_parameters():
        assert weight.grad is not None and weight.grad.abs().sum() == 0, name


def test_a_tiny_model_overfits_one_sentence(make_model):
    model = make_model(fresh=True, negatives="all", regression_weight=0.1, embedding_radius=math.sqrt(32)).train()
    ids = torch.randint(2, 97, (1, 24), generator=torch.Generator().manual_seed(0)).repeat(8, 1)
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2)
    for _ in range(150):
        optimizer.zero_grad()
        model(ids, labels=ids).loss.backward()
        optimizer.step()
    model.eval()
    for tail_length in (1, 4, 8):
        text = model.generate(ids[:1, :4], max_new_tokens=20, tail_length=tail_length, eos_token_id=None)
        assert (text == ids[:1]).float().mean() > 0.9, tail_length


def test_a_pretrained_backbone_fits_in(tmp_path):
    """The weights of a plain transformers model load into the backbone by name."""
    config = TokMatConfig.tiny()
    plain = GPT2Model(config.backbone_config)
    model = TokMatForContinuousLM(config)
    model.backbone.load_state_dict(plain.state_dict())
    ids = torch.arange(2, 10)[None]
    with torch.no_grad():
        expected = plain.eval()(inputs_embeds=model.token_embeddings()[ids]).last_hidden_state
        assert torch.equal(model.eval()(ids).predicted_embeds, expected)
