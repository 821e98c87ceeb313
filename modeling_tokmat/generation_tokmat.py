# Copyright 2026 The TokMat authors. Licensed under the Apache License, Version 2.0.
"""Decoding by delayed commitment (arXiv 2601.04854, section 3 and Algorithm 1) under transformers' own `generate`."""

import copy
from dataclasses import dataclass, fields

import torch
from transformers import GenerationConfig, GenerationMixin
from transformers.generation import GenerateDecoderOnlyOutput, GenerationMode
from transformers.utils import logging

from .maturation_tokmat import (
    MAX_TAIL_LENGTH,
    RATES,
    embryos,
    is_integer,
    is_number,
    project,
    require,
    tail_maturities,
    update_rates,
    update_tail,
    validate_schedule,
)

logger = logging.get_logger(__name__)

SAMPLING_FLAGS = ("do_sample", "temperature", "top_k", "top_p", "top_h", "min_p", "typical_p")
SAMPLING_FLAGS += ("epsilon_cutoff", "eta_cutoff")
TRAINING_INPUTS = ("maturity", "labels", "maturation_seeds", "negative_ids", "num_items_in_batch")


@dataclass(frozen=True)
class MaturationSettings:
    """
    How text matures: generation settings, saved on `generation_config` and overridable per `generate` call.

    Args:
        tail_length: K, the number of uncommitted vectors, in [1, 64].
        schedule, alpha_max, schedule_gamma, schedule_beta: the maturity schedule (paper 3.3).
        rate: `"paper"` (eta_j = a_j, Eq. 4) or `"consistent"` (use it with alpha_max = 1).
        embryo_norm: norm of a fresh vector in units of R; 0 is deterministic whatever the seed.
        maturation_seed: seed of the embryo noise.

    Raises:
        ValueError: names the setting, its value and what is allowed.
    """

    tail_length: int = 16
    schedule: str = "linear"
    alpha_max: float = 0.9
    schedule_gamma: float = 0.8
    schedule_beta: float = 1.0
    rate: str = "paper"
    embryo_norm: float = 0.1
    maturation_seed: int = 0

    def __post_init__(self):
        name = "tail_length"
        require(is_integer(self.tail_length, 1, MAX_TAIL_LENGTH), name, self.tail_length, f"in [1, {MAX_TAIL_LENGTH}]")
        validate_schedule(**self.schedule_settings())
        require(self.rate in RATES, "rate", self.rate, f"one of {', '.join(RATES)}")
        require(is_number(self.embryo_norm, 0), "embryo_norm", self.embryo_norm, "a number of at least 0")
        require(
            is_integer(self.maturation_seed, 0), "maturation_seed", self.maturation_seed, "an integer of at least 0"
        )

    def schedule_settings(self) -> dict:
        """The maturity schedule as keyword arguments of `tail_maturities`."""
        return {name: getattr(self, name) for name in ("schedule", "alpha_max", "schedule_gamma", "schedule_beta")}


SETTINGS = tuple(field.name for field in fields(MaturationSettings))


def default_generation_config(config) -> GenerationConfig:
    """The `generation_config` of a fresh model: the maturation settings that its `TokMatConfig` trains for."""
    settings = MaturationSettings(
        tail_length=min(MaturationSettings.tail_length, config.max_tail_length),
        embryo_norm=config.embryo_norm,
        **config.schedule_settings(),
    )
    tokens = {name: getattr(config, name) for name in ("bos_token_id", "eos_token_id", "pad_token_id")}
    return GenerationConfig(**tokens, **{name: getattr(settings, name) for name in SETTINGS})


@dataclass
class TokMatGenerateOutput(GenerateDecoderOnlyOutput):
    """
    `GenerateDecoderOnlyOutput` of transformers, and what maturation cost.

    Args:
        num_forwards (`int`): forward passes, the one over the prompt included.
        tokens_per_forward (`float`): committed tokens per row and forward pass.
    """

    num_forwards: int | None = None
    tokens_per_forward: float | None = None


class TokMatGenerationMixin(GenerationMixin):
    _supported_generation_modes = [GenerationMode.GREEDY_SEARCH, GenerationMode.SAMPLE]

    def generate(self, inputs=None, generation_config=None, **kwargs):
        """
        Matures text after a prompt: transformers' `generate`, whose arguments all keep their meaning (length limits,
        stopping criteria, stop strings, logits processors, streamers, caches, `num_return_sequences`, ...), with
        Algorithm 1 as its decoding loop and these settings, each of which may be given per call or saved on
        `generation_config`:

        Args:
            inputs (`(batch, length)`): prompt ids, padded on the left with an `attention_mask`.
            tail_length (`int`): K, in [1, 64].
            schedule, alpha_max, schedule_gamma, schedule_beta, rate, embryo_norm, maturation_seed:
                see [`MaturationSettings`].

        Decoding is a pure argmax: sampling flags change nothing; return sequences differ in their embryo noise alone.
        A `streamer` that has `put_draft` gets, after each commit, the nearest tokens of the tail that remains, shape
        (batch, slots), and their `maturity`, shape (slots,).

        Returns:
            Ids of shape (batch * num_return_sequences, length), or a [`TokMatGenerateOutput`].

        Raises:
            ValueError: for a wrong setting, ids out of range, beams or an assistant, more positions than the backbone
                has, or weights that are not finite; always before a token is committed.
        """
        for name in TRAINING_INPUTS:
            require(kwargs.get(name) is None, name, "given", "left out: `generate` sets it itself")
        ids = inputs if inputs is not None else kwargs.get("input_ids")
        if torch.is_tensor(ids) and ids.numel() > 0 and not ids.is_floating_point():
            low, high, size = ids.min().item(), ids.max().item(), self.config.vocab_size
            require(0 <= low and high < size, "input_ids", f"ids from {low} to {high}", f"ids in [0, {size - 1}]")
        return super().generate(inputs, generation_config=generation_config, **kwargs)

    def _prepare_generation_config(self, generation_config, **kwargs):
        """Resolve and validate the maturation settings; keep what would act beside them away from transformers."""
        given = copy.deepcopy(generation_config)

        def resolve(name, default):
            """Per call, else from the `generation_config` that was passed, else the model's, else the default."""
            value = kwargs.pop(name, None)
            for source in (given, self.generation_config):
                value = getattr(source, name, None) if value is None else value
            return default if value is None else value

        settings = MaturationSettings(**{name: resolve(name, getattr(MaturationSettings, name)) for name in SETTINGS})
        num_return_sequences = resolve("num_return_sequences", 1)
        name = "num_return_sequences"
        require(is_integer(num_return_sequences, 1), name, num_return_sequences, "an integer of at least 1")
        guidance_scale = resolve("guidance_scale", 1.0)
        require(guidance_scale == 1, "guidance_scale", guidance_scale, "1 (off)")

        # Sampling warpers and transformers' own guidance must not join in, nor may its validation refuse several
        # return sequences, which differ here without sampling.
        asked = {name: kwargs.pop(name) for name in SAMPLING_FLAGS if name in kwargs}
        if given is not None:
            asked |= {name: getattr(given, name, None) for name in SAMPLING_FLAGS if name not in asked}
            for name in SAMPLING_FLAGS:
                setattr(given, name, None)
            given.num_return_sequences = given.guidance_scale = None
        if asked.get("do_sample") or any(asked.get(name) is not None for name in SAMPLING_FLAGS[1:]):
            logger.warning_once(
                "Sampling flags (do_sample, temperature, top_k, top_p, ...) change nothing here: TokMat commits the "
                "nearest token of a matured vector, always by argmax. For other texts use num_return_sequences or "
                "another maturation_seed, whose embryo noise differs."
            )
        saved = {
            name: getattr(self.generation_config, name, None)
            for name in (*SAMPLING_FLAGS, "num_return_sequences", "guidance_scale")
        }
        try:
            for name in saved:
                setattr(self.generation_config, name, None)
            resolved, model_kwargs = super()._prepare_generation_config(given, **kwargs)
        finally:
            for name, value in saved.items():
                setattr(self.generation_config, name, value)
        resolved.do_sample, resolved.num_return_sequences = False, num_return_sequences
        for name in SETTINGS:
            setattr(resolved, name, getattr(settings, name))
        return resolved, model_kwargs

    def _sample(
        self,
        input_ids,
        logits_processor,
        stopping_criteria,
        generation_config,
        synced_gpus=False,
        streamer=None,
        **model_kwargs,
    ):
        r"""
        Algorithm 1. With a_j the maturity that slot j has after an update and eta_j its rate:

            0. the tail is K embryos
            repeat
            1. read [committed ; tail] with maturities [1 .. 1, a_2 .. a_{K+1}], giving z^_1 .. z^_K
            2. z~_j <- z~_j + eta_j (z^_j - z~_j) for every slot
            3. commit slot 1: x = argmax_i of the processed logit_scale * cos(z~_1, e_i)
            4. its place takes e_x, the tail moves up by one, an embryo enters at its end

        Keys and values of committed positions are cached, so a step feeds K positions: the vector committed last and
        slots 1 .. K - 1 (nothing reads slot K). Slots at or beyond the length limit are not fed.
        """
        settings = MaturationSettings(**{name: getattr(generation_config, name) for name in SETTINGS})
        dict_output = generation_config.return_dict_in_generate
        kept = {name: () for name in ("scores", "logits", "attentions", "hidden_states")}
        wanted = {name for name in kept if dict_output and getattr(generation_config, f"output_{name}")}
        has_eos = any(hasattr(criterion, "eos_token_id") for criterion in stopping_criteria)
        pad_token_id = generation_config._pad_token_tensor
        remaining = generation_config.max_length - input_ids.shape[1]
        num_return_sequences = generation_config.num_return_sequences
        cache = model_kwargs.get("past_key_values") if model_kwargs.get("use_cache") else None
        forward_kwargs = {
            name: True for name in ("output_attentions", "output_hidden_states") if model_kwargs.get(name)
        }
        # Logits are wanted of the updated slot 1 alone, not of the positions that forward returns.
        no_logits = torch.empty(0, dtype=torch.long, device=self.device)
        forward_kwargs |= {"use_cache": cache is not None, "past_key_values": cache, "logits_to_keep": no_logits}
        forward_kwargs["tail_length"] = settings.tail_length

        # The prompt as committed vectors, and its positions; `pending` are the ones that the cache does not hold yet.
        pending, positions, mask = self._prepare_prompt(input_ids, cache, generation_config, model_kwargs, remaining)
        input_ids = input_ids.to(self.device)
        batch_size = pending.shape[0]
        state_dtype = torch.promote_types(pending.dtype, torch.float32)

        a = tail_maturities(settings.tail_length, **settings.schedule_settings())
        eta = update_rates(a, settings.rate).to(self.device, state_dtype)
        maturity_before, maturity_after = a[1:].float().to(self.device), a[1:-1].float()
        norm = settings.embryo_norm * self.embedding_radius

        def embryo(position: int) -> torch.Tensor:
            noise = embryos(
                settings.maturation_seed, num_return_sequences, position, pending.shape[-1], norm, state_dtype
            )
            # Return sequences of one prompt lie next to one another.
            return noise.repeat(batch_size // num_return_sequences, 1)[:, None].to(self.device)

        # 0. the tail is K embryos
        tail = torch.cat([embryo(j) for j in range(min(settings.tail_length, remaining))], dim=1)
        unfinished = torch.ones(batch_size, dtype=torch.long, device=self.device)
        finished, committed, num_forwards, first = False, 0, 0, True
        compiled = self._valid_auto_compile_criteria(model_kwargs, generation_config)
        compiled = self.get_compiled_call(generation_config.compile_config) if compiled else None
        num_forwards += self._prefill_chunks(pending, positions, mask, generation_config, forward_kwargs)
        if num_forwards:
            pending = pending[:, num_forwards * generation_config.prefill_chunk_size :]

        while self._has_unfinished_sequences(finished, synced_gpus, device=self.device):
            # 1. read [committed ; tail]
            fed = tail.shape[1] - 1
            vectors = torch.cat([pending, tail[:, :fed].to(pending.dtype)], dim=1)
            ones = maturity_before.new_ones(pending.shape[1])
            whole_step = compiled is not None and not first and fed == settings.tail_length - 1
            outputs = (compiled if whole_step else self)(
                inputs_embeds=vectors,
                maturity=torch.cat([ones, maturity_before[:fed]])[None],
                position_ids=torch.cat([positions[:, -pending.shape[1] :], _following(positions, fed)], dim=1),
                attention_mask=None if mask is None else mask[:, : mask.shape[1] - remaining + fed],
                **forward_kwargs,
            )
            num_forwards += 1
            if synced_gpus and finished:
                _roll_back(cache, vectors.shape[1])
                continue
            _roll_back(cache, fed)
            predicted = outputs.predicted_embeds[:, -(fed + 1) :]
            if first:
                self._check_finite(predicted)

            # 2. move every slot toward its prediction
            tail = update_tail(tail, predicted, eta[: fed + 1])

            # 3. commit slot 1
            logits = self.implied_logits(tail[:, 0]).to(state_dtype)
            scores = logits_processor(input_ids, logits.clone() if "logits" in wanted else logits)
            tokens = scores.argmax(dim=-1)
            if has_eos:
                tokens = tokens * unfinished + pad_token_id.to(tokens.device) * (1 - unfinished)
            if wanted:
                step = {"scores": scores, "logits": logits}
                step |= {"attentions": outputs.attentions, "hidden_states": outputs.hidden_states}
                kept |= {name: (*kept[name], step[name]) for name in wanted}
            input_ids = torch.cat([input_ids, tokens[:, None]], dim=-1)
            committed, remaining = committed + 1, remaining - 1

            # 4. slot 1 becomes an exact embedding, the tail moves up, an embryo enters
            vector = self.embed_tokens(tokens)[:, None]
            pending = vector if cache is not None else torch.cat([pending, vector], dim=1)
            positions = torch.cat([positions, _following(positions, 1)], dim=1)
            tail = tail[:, 1:]
            if remaining >= settings.tail_length:
                tail = torch.cat([tail, embryo(committed + settings.tail_length - 1)], dim=1)

            if streamer is not None:
                streamer.put(tokens.cpu())
                if hasattr(streamer, "put_draft"):
                    shown = tail[:, : maturity_after.shape[0]]
                    draft = project(shown, self.token_embeddings())
                    streamer.put_draft(draft.cpu(), maturity=maturity_after[: shown.shape[1]])
            unfinished = unfinished & ~stopping_criteria(input_ids, kept["scores"] if "scores" in wanted else None)
            finished, first = bool(unfinished.max() == 0), False

        if streamer is not None:
            streamer.end()
        if not dict_output:
            return input_ids
        return TokMatGenerateOutput(
            sequences=input_ids,
            past_key_values=cache,
            num_forwards=num_forwards,
            tokens_per_forward=committed / num_forwards,
            **{name: kept[name] if name in wanted else None for name in kept},
        )

    def _prepare_prompt(self, input_ids, cache, generation_config, model_kwargs, remaining: int):
        """Committed vectors that the cache does not hold, positions of the whole prompt, and its mask, if any.

        Returns:
            Vectors (batch, pending, d); position ids (batch or 1, length); mask (batch, length + remaining) or None.
        """
        past_length = int(cache.get_seq_length()) if cache is not None else 0
        mask, positions = model_kwargs.get("attention_mask"), model_kwargs["position_ids"]
        embeds = model_kwargs.get("inputs_embeds")
        vectors = embeds if embeds is not None else self.embed_tokens(input_ids.to(self.device))
        whole = mask.shape[1] if mask is not None else positions.shape[1]
        if vectors.shape[1] == whole:
            vectors = vectors[:, past_length:]
        require(
            vectors.shape[1] > 0,
            "past_key_values",
            f"a cache of {past_length} positions for a prompt of {whole}",
            "at least one position shorter than the prompt",
        )
        limit, last = self.config.max_position_embeddings, int(positions[:, -1].max())
        # The token committed last is never fed, so it needs no position.
        require(
            limit is None or last + remaining <= limit,
            "max_length",
            f"{last + 1 + remaining} (a prompt of {last + 1} positions and {remaining} new tokens)",
            f"within the backbone's {limit} positions (max_position_embeddings)",
        )
        rollback = generation_config.tail_length > 1 and cache is not None
        croppable = not rollback or cache.is_compileable or cache.is_croppable
        require(
            croppable, "past_key_values", type(cache).__name__, "a cache that can be rolled back (dynamic or static)"
        )
        if mask is not None:
            mask = torch.nn.functional.pad(mask.to(self.device), (0, remaining), value=1)
        return vectors.to(self.device), positions.to(self.device), mask

    def _prefill_chunks(self, pending, positions, mask, generation_config, forward_kwargs) -> int:
        """Feed all but the last chunk of a long prompt (`prefill_chunk_size`), without a tail; number of forwards."""
        size = generation_config.prefill_chunk_size
        if size is None or forward_kwargs["past_key_values"] is None:
            return 0
        chunks = pending.split(size, dim=1)[:-1]
        start = positions.shape[1] - pending.shape[1]
        for chunk in chunks:
            stop = start + chunk.shape[1]
            self(
                inputs_embeds=chunk,
                position_ids=positions[:, start:stop],
                attention_mask=None if mask is None else mask[:, :stop],
                **forward_kwargs,
            )
            start = stop
        return len(chunks)

    def _check_finite(self, predicted: torch.Tensor) -> None:
        if not bool(predicted.isfinite().all()):
            broken = (name for name, weight in self.named_parameters() if not bool(weight.isfinite().all()))
            found = next(broken, None)
            raise ValueError(
                f"The predicted vectors are not finite: `{found}` holds NaN or infinite values."
                if found
                else "The predicted vectors are not finite, though all weights are: the prompt's activations overflow."
            )


def _following(positions: torch.Tensor, count: int) -> torch.Tensor:
    """The `count` positions after the last one, shape (batch, count)."""
    return positions[:, -1:] + torch.arange(1, count + 1, device=positions.device)


def _roll_back(cache, count: int) -> None:
    """Forget the last `count` positions, exactly: under causal attention nothing before them depends on them."""
    if cache is None or count == 0:
        return
    if cache.is_compileable:
        for layer in cache.layers:
            layer.cumulative_length.sub_(count)  # in place: a compiled graph holds its address
    else:
        cache.crop(-count)
