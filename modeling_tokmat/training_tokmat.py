# Copyright 2026 The TokMat authors. Licensed under the Apache License, Version 2.0.
"""What a training forward shows the network and asks of it: simulated maturation and its loss (paper 4.1)."""

from collections.abc import Callable
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from transformers import DynamicCache

from .checks_tokmat import require
from .conditioning_tokmat import Conditions
from .losses_tokmat import (
    ContextNegatives,
    Reference,
    divergence_from_reference,
    document_index,
    info_nce,
    phrases,
    regression,
)
from .maturation_tokmat import corrupt
from .tails_tokmat import SimulatedTails, draw_tails


@dataclass
class Lesson:
    """
    One training forward: what it shows, and what is asked of the predictions made from each position.

    Attributes, of shape (batch, line) unless another is given; without parallel tails the line is the sequence:
        vectors: what the network reads, (batch, line, d).
        maturity, tail_length: what it is told, as `forward` takes them.
        inputs: further inputs of the backbone: mask, positions, cache.
        committed: how many leading positions of the line are committed, as `conditions` takes it.
        targets: ids of the NEXT token, 0 where there is none.
        target_keys: keys of `targets`, (batch, line, d); None under geometry "pretrained".
        near: what the regression draws z^ to, (batch, line, d); None if nothing.
        previous: committed vectors of the token before `targets`, for the successor head; None without one.
        weights: w of the loss, 0 where nothing is asked.
        negative_ids, negative_keys: the sampled negatives, (n,), and their keys, (n, d); None for "all".
        context: the past as negatives, or None.
        reference: what a frozen model predicts in rows of own text, or None; queries (batch, line, d).
        repeats: the phrases that it is taught without, or None.
        own: where the reference is followed, instead of the text, (batch, line), bool; or None.
    """

    vectors: torch.Tensor
    maturity: torch.Tensor | None
    tail_length: torch.Tensor | int | None
    inputs: dict
    committed: int | None
    near: torch.Tensor | None
    previous: torch.Tensor | None
    targets: torch.Tensor
    target_keys: torch.Tensor | None
    weights: torch.Tensor
    negative_ids: torch.Tensor | None
    negative_keys: torch.Tensor | None
    context: ContextNegatives | None
    reference: Reference | None
    repeats: list[ContextNegatives] | None
    own: torch.Tensor | None
    followed: torch.Tensor | None


def make_lesson(
    model,
    labels: torch.Tensor,
    input_ids: torch.Tensor | None,
    inputs_embeds: torch.Tensor | None,
    maturity: torch.Tensor | None,
    tail_length,
    tails: SimulatedTails | None,
    negative_ids: torch.Tensor | None,
    tail_only: torch.Tensor | None,
    reference: Reference | None,
    inputs: dict,
) -> Lesson:
    """What a forward with `labels` shows; its arguments are `forward`'s.

    With `tails` they are shown: mixtures of the truth and noise, or what decoding steps would leave there. Without,
    the vectors are shown as they are, at the maturity that was given.
    """
    config = model.config
    documents = document_index(inputs["position_ids"], inputs["attention_mask"], labels.shape, labels.device)
    targets = F.pad(labels[:, 1:], (0, 1)).clamp(min=0)
    content, target_keys, negative_keys = model.vocabulary().look_up(input_ids, targets, negative_ids)
    content = inputs_embeds if content is None else content
    assert content is not None  # `forward` has seen to it that one of the two is given
    at_place = (lambda values: values) if tails is None else tails.at_place

    context = repeats = own = followed = None
    ids = labels.clamp(min=0) if input_ids is None else input_ids
    places = None if tails is None else tails.place
    if config.context_negatives > 0:
        keys = None if negative_ids is None else F.normalize(content, dim=-1)
        window, weight, ngram = config.context_window, config.context_negatives, config.context_ngram
        context = ContextNegatives(ids, documents, window, weight, keys, places, ngram)
    if config.phrase_penalty > 0 and tail_only is not None and tails is not None:
        allowed = "what a frozen model predicts in rows of tail_only (TokMatTrainer(reference=model) does it)"
        require(reference is not None, "reference", None, f"given where phrase_penalty is above 0: {allowed}")
        assert reference is not None
        own, rows = tail_only, tail_only if reference.rows is None else reference.rows
        followed = rows[:, None] & (tails.slot == 0)
        repeats = phrases(ids, documents, config.phrase_penalty, places, config.context_window)
        queries = torch.zeros_like(content).index_put((rows,), reference.queries.to(content.dtype))
        reference = reference._replace(queries=at_place(queries))
    else:
        reference = None

    weights = loss_weights(labels, documents, tails, tail_only, config)
    if tails is None:
        weights = weights if maturity is None else weights * maturity
        shown = {"vectors": content, "maturity": maturity, "tail_length": tail_length, "inputs": inputs}
        shown |= {"committed": None, "near": None}
    else:
        show = _beside if config.train == "tail" else _on_the_line
        shown = show(model, tails, content, documents, inputs)
    if target_keys is not None:
        target_keys = at_place(target_keys)
        # Detached, or all learned rows would drift together toward the predictions.
        shown["near"] = target_keys.detach() * model.embedding_radius
    return Lesson(
        **shown,
        previous=at_place(content) if model.successor is not None else None,
        targets=at_place(targets),
        target_keys=target_keys,
        weights=weights,
        negative_ids=negative_ids,
        negative_keys=negative_keys,
        context=context,
        reference=reference,
        repeats=repeats,
        own=own,
        followed=followed,
    )


def lesson_losses(model, lesson: Lesson, predicted: torch.Tensor, total: torch.Tensor | float | None) -> dict:
    """The loss (Eq. 8) and its unweighted parts, each of shape ().

    Args:
        predicted: z^, shape (batch, line, d). total: divisor; the summed weights of this batch if None.
    """
    config, vocabulary = model.config, model.vocabulary()
    total = lesson.weights.sum().clamp(min=1e-6) if total is None else total
    keys = vocabulary.keys(predicted.dtype) if lesson.negative_ids is None else lesson.negative_keys

    def contrast(vectors):
        queries = vocabulary.queries(vectors)
        if lesson.followed is not None and bool(lesson.followed.all()):  # every prediction follows the reference
            dtype = torch.promote_types(vectors.dtype, torch.float32)
            losses = vectors.new_zeros(lesson.weights.shape, dtype=dtype)
        else:
            losses = info_nce(
                queries,
                lesson.targets,
                keys,
                vocabulary.scale,
                config.vocab_size,
                target_keys=lesson.target_keys,
                negative_ids=lesson.negative_ids,
                context=lesson.context,
                bias=vocabulary.bias,
            )
        if lesson.reference is not None:
            rows = lesson.followed.any(dim=1).nonzero()[:, 0]
            apart = divergence_from_reference(
                queries, keys, vocabulary.scale, rows, lesson.reference, lesson.repeats, lesson.own, vocabulary.bias
            )
            losses = torch.where(lesson.followed, torch.zeros_like(losses).index_put((rows,), apart), losses)
        return (losses * lesson.weights).sum() / total

    parts = {"contrastive_loss": contrast(predicted)}
    loss = config.contrastive_weight * parts["contrastive_loss"]
    if lesson.near is not None:
        squared = regression(predicted, lesson.near, vocabulary.radius)
        parts["regression_loss"] = (squared * lesson.weights).sum() / total
        loss = loss + config.regression_weight * parts["regression_loss"]
    if lesson.previous is not None:
        parts["successor_loss"] = contrast(model.successor(predicted, lesson.previous, vocabulary.radius))
        loss = loss + config.contrastive_weight * parts["successor_loss"]
    return {"loss": loss, **parts}


def simulate_tails(
    config, seeds, labels, position_ids=None, attention_mask=None, tail_only=None
) -> tuple[SimulatedTails, torch.Tensor]:
    """The simulated tails of a batch, for `forward(tails=...)`, and the weights of its loss.

    Args:
        seeds: one per sequence, (batch,), int64. The others: as for `forward`.

    Returns:
        The tails, and w of the prediction made from each position of their line, (batch, line).
    """
    documents = document_index(position_ids, attention_mask, labels.shape, labels.device)
    tails = draw_tails(seeds, labels, documents, config)
    tails = tails.alone() if config.train == "tail" else tails
    return tails, loss_weights(labels, documents, tails, tail_only, config)


def loss_weights(labels, documents, tails=None, tail_only=None, config=None) -> torch.Tensor:
    """w_t = alpha_t of the position a prediction is made FROM, in tails at least `tail_weight_floor`; 0 where its
    target is -100, padding or another document's.

    Args:
        labels, documents: shape (batch, length). tails: the simulated tails; None for committed positions alone.
        tail_only: rows whose committed positions weigh nothing, unless there is a `phrase_penalty`; (batch,), bool.
        config: with `tails`, a `TokMatConfig`.

    Returns:
        Shape (batch, length), or (batch, line) with `tails`.
    """
    predictable = (labels[:, 1:] != -100) & (documents[:, 1:] == documents[:, :-1]) & (documents[:, 1:] >= 0)
    predictable = F.pad(predictable, (0, 1))
    if tails is None:
        return predictable.float()
    assert config is not None
    weights = torch.where(tails.slot > 0, tails.maturity.clamp(min=config.tail_weight_floor), 1.0)
    if tail_only is not None:
        own = tail_only.to(weights.device)[:, None] & (tails.slot == 0)
        weights = torch.where(own, float(config.phrase_penalty > 0), weights)
    return weights * tails.used() * tails.at_place(predictable)


def _on_the_line(model, tails: SimulatedTails, content: torch.Tensor, documents: torch.Tensor, inputs: dict) -> dict:
    """What simulated tails show of committed vectors `content`, (batch, length, d), in one pass with them."""
    committed = tails.lead if tails.parallel else None

    def read(vectors, tails):
        conditions = model.conditions(tails.maturity, tails.tail_length, committed)
        given = line_inputs(tails, vectors, inputs)
        return as_inputs(model.predict(vectors, conditions, use_cache=False, **given)[0])

    as_inputs = model.vocabulary().as_inputs
    vectors = mature(tails, content, model.config, model.embedding_radius, read)
    told = {"maturity": tails.maturity, "tail_length": tails.tail_length, "committed": committed}
    return {"vectors": vectors, **told, "inputs": line_inputs(tails, vectors, inputs), "near": None}


def _beside(model, tails: SimulatedTails, content: torch.Tensor, documents: torch.Tensor, inputs: dict) -> dict:
    """What the slots show beside a frozen source, which has read the committed vectors `content` once, without
    gradient, and whose keys and values they read. The regression draws them to what it predicts at their places."""
    # transformers renamed its own property of this in 5.24.
    checkpointing = model.training and any(getattr(part, "gradient_checkpointing", False) for part in model.modules())
    require(not checkpointing, "gradient_checkpointing", True, 'False when train is "tail": slots read a cache')
    cache, vocabulary = DynamicCache(config=model.config.get_text_config()), model.vocabulary()
    with torch.no_grad():
        places = torch.arange(tails.length, device=content.device)
        visible = (documents[:, :, None] == documents[:, None]) & (places <= places[:, None])
        mask = torch.zeros(visible.shape, dtype=content.dtype, device=content.device)
        mask = mask.masked_fill_(~visible, torch.finfo(content.dtype).min)[:, None]
        given = {"position_ids": inputs["position_ids"], "attention_mask": mask}
        latents, _ = model.predict(content, Conditions(), use_cache=True, past_key_values=cache, **given)

    def read(vectors, earlier):
        conditions = model.conditions(tails.maturity, tails.tail_length, committed=0)
        given = line_inputs(earlier, vectors, inputs)
        predicted, _ = model.predict(vectors, conditions, use_cache=True, past_key_values=cache, **given)
        cache.crop(-vectors.shape[1])
        return vocabulary.as_inputs(predicted)

    vectors = mature(tails, content, model.config, model.embedding_radius, read)
    given = line_inputs(tails, vectors, inputs) | {"past_key_values": cache, "use_cache": True}
    told = {"maturity": tails.maturity, "tail_length": tails.tail_length, "committed": 0}
    return {"vectors": vectors, **told, "inputs": given, "near": tails.at_place(latents)}


def line_inputs(tails: SimulatedTails, vectors: torch.Tensor, inputs: dict) -> dict:
    """The mask and the positions of a line of parallel tails; without them, the inputs as they are."""
    if not tails.parallel:
        return inputs
    positions = inputs["position_ids"]
    if positions is None:
        positions = torch.arange(tails.length, device=vectors.device)[None]
    positions = tails.at_place(positions.expand(len(vectors), -1))
    return inputs | {"attention_mask": tails.mask(vectors.dtype), "position_ids": positions}


def mature(tails: SimulatedTails, content: torch.Tensor, config, radius: float, read: Callable) -> torch.Tensor:
    """The vectors that simulated tails show the network (paper 4.1), shape (batch, line, d).

    Args:
        content: the committed vectors of the sequence, (batch, length, d).
        read: `read(vectors, tails)` is z^ for every position of the line, (batch, line, d); asked by "rollout" alone.
    """
    norm, dim = config.embryo_norm * radius, content.shape[-1]
    line, tail = tails.at_place(content), tails.noise(dim, norm).to(content.dtype)
    if config.maturation == "simulated":
        return corrupt(line, tail, tails.maturity)
    # "rollout": decoding steps at the rate "paper", whose commitments are the sequence's own tokens.
    require(tails.parallel > 0, "parallel_tails", tails.parallel, 'at least 1 when maturation is "rollout"')
    in_tail = (tails.slot > 0)[..., None]
    with torch.no_grad():
        for steps in range(config.rollout_passes, 0, -1):
            earlier = tails.back(steps)
            assert tails.jumps is not None and earlier.begun is not None
            following = read(torch.where(in_tail, tail, earlier.at_place(content)), earlier)
            embryos = tails.noise(dim, norm, stream=1 + steps)
            moved = tails.moved_up(tail, embryos)
            moved = torch.lerp(moved, following.to(moved), tails.maturity[..., None].to(moved))
            if config.rollout_jump:
                moved = tails.moved_up(moved, embryos, tails.jumps[:, steps - 1])
            tail = torch.where(earlier.begun[..., None], moved, tail)
    return torch.where(in_tail, tail, line)
