# Copyright 2026 The TokMat authors. Licensed under the Apache License, Version 2.0.
"""Decoding by delayed commitment (arXiv 2601.04854, section 3 and Algorithm 1) under transformers' own `generate`."""

import copy
from dataclasses import dataclass
from typing import Any

import torch
from transformers import GenerationMixin, QuantizedCache
from transformers.generation import GenerateDecoderOnlyOutput, GenerationMode
from transformers.utils import logging

from .checks_tokmat import require
from .committed_tokmat import Committed
from .decoding_tokmat import Ending, Network, accelerated, decode
from .draft_budget_tokmat import DraftBudget
from .inputs_tokmat import CACHE, check_positions, check_range, one_cache
from .noise_tokmat import DecodingNoise
from .requests_tokmat import check_objects, check_prompt, check_return_sequences, check_rows, check_settings
from .settings_tokmat import SETTINGS, MaturationSettings
from .tail_tokmat import StableTail, Tail, TailState
from .trace_tokmat import Record, Stream
from .verified_tokmat import VerifiedTail

logger = logging.get_logger(__name__)

SAMPLING_FLAGS = ("do_sample", "temperature", "top_k", "top_p", "top_h", "min_p", "typical_p")
SAMPLING_FLAGS += ("epsilon_cutoff", "eta_cutoff")
TAILS = {"front": Tail, "stable": StableTail, "verified": VerifiedTail}
TRAINING_INPUTS = ("maturity", "labels", "maturation_seeds", "negative_ids", "num_items_in_batch", "tails")
TRAINING_INPUTS += ("tail_only", "reference", "conditions")


@dataclass
class TokMatGenerateOutput(GenerateDecoderOnlyOutput):
    """
    `GenerateDecoderOnlyOutput` of transformers, and what maturation did and cost.

    Args:
        num_forwards (`int`): forward passes, the one over the prompt included.
        tokens_per_forward (`float`): committed tokens per row and forward pass.
        maturation (`tuple` of [`MaturationStep`]): the trace, one entry per step, with `output_maturation`.
        drafts_taken (`dict`): with `commit="verified"`, how many drafts of the "tail" and of the "lookup" came true.
        tail ([`TailState`]): the tail that remains, with `output_tail`.
    """

    num_forwards: int | None = None
    tokens_per_forward: float | None = None
    maturation: tuple | None = None
    drafts_taken: dict | None = None
    tail: TailState | None = None


class TokMatGenerationMixin(GenerationMixin):
    # The model's own.
    config: Any
    device: Any
    dtype: Any
    embed_tokens: Any

    _supported_generation_modes = [GenerationMode.GREEDY_SEARCH, GenerationMode.SAMPLE]

    def generate(self, inputs=None, generation_config=None, **kwargs):
        """
        Matures text after a prompt: transformers' `generate`, whose arguments all keep their meaning (length limits,
        stopping criteria, stop strings, logits processors, streamers, caches, `num_return_sequences`, ...), with
        Algorithm 1 as its decoding loop and the settings of [`MaturationSettings`], each of which may be given per
        call or saved on `generation_config`.

        Args:
            inputs (`(batch, length)`): prompt ids, padded on the left with an `attention_mask`.
            tail_length (`int`): K, in [1, 64]. For all other settings see [`MaturationSettings`].
            tail ([`TailState`]): a tail to begin with, instead of embryos: what `output_tail=True` returned, with the
                cache of the same output, and its sequences as the prompt.

        Decoding is a pure argmax: sampling flags change nothing; return sequences differ in their noise alone. A
        `streamer` that has `put_draft` gets, after each step, the nearest tokens of the tail that remains, shape
        (batch, slots), and their `maturity`, shape (slots,).

        Returns:
            Ids of shape (batch * num_return_sequences, length), or a [`TokMatGenerateOutput`].

        Raises:
            ValueError: for a wrong setting, ids out of range, beams or an assistant, more positions than the backbone
                has, or weights that are not finite; always before a token is committed.
        """
        for name in TRAINING_INPUTS:
            require(kwargs.get(name) is None, name, "given", "left out: `generate` sets it itself")
        for name in ("negative_prompt_ids", "negative_prompt_attention_mask"):
            require(kwargs.get(name) is None, name, "given", "left out: guidance compares with the tail alone")
        ids = inputs if inputs is not None else kwargs.get("input_ids")
        cache = one_cache(kwargs.pop("past_key_values", None), kwargs.pop("cache", None))
        kwargs |= {} if cache is None else {CACHE: cache}
        check_objects(generation_config, **kwargs)

        def asked(name):
            values = (
                kwargs.get(name),
                getattr(generation_config, name, None),
                getattr(self.generation_config, name, None),
            )
            return next((value for value in values if value is not None), None)

        check_settings(asked, self.config.vocab_size)
        size, dim = self.get_input_embeddings().weight.shape
        prompt = ids, kwargs.get("inputs_embeds"), kwargs.get("attention_mask")
        past = int(cache.get_seq_length()) if cache is not None else 0
        rows, lengths = check_prompt(*prompt, size, dim, asked("bos_token_id"), past)
        if (positions := kwargs.get("position_ids")) is not None:
            check_positions(positions, rows, lengths)
            check_range(positions, self.config.max_position_embeddings)
            kwargs["position_ids"] = positions.expand(rows, -1)
        return super().generate(inputs, generation_config=generation_config, **kwargs)

    def init_continuous_batching(self, *args, **kwargs):
        """Refused: its loop of its own would commit the argmax of every prediction, without a tail.

        Raises:
            ValueError: always.
        """
        require(False, "continuous batching (generate_batch)", "asked for", "left out: use `generate` on a batch")

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
        several = resolve("num_return_sequences", 1)
        check_return_sequences(several, settings.tail_length, self.config.hidden_size)
        implementation = self.backbone.config._attn_implementation
        masked = settings.guidance_scale != 1 or (settings.commit == "verified" and settings.tail_length > 1)
        possible = not masked or implementation in ("eager", "sdpa")
        allowed = 'eager or sdpa for guidance_scale other than 1 and for commit="verified"'
        require(possible, "attn_implementation", implementation, allowed)

        tail = kwargs.pop("tail", None)
        # Sampling warpers and transformers' own guidance must not join in, nor may its validation refuse several
        # return sequences, which differ here without sampling.
        hidden = (*SAMPLING_FLAGS, "num_return_sequences", "guidance_scale", "prompt_lookup_num_tokens")
        asked = {name: kwargs.pop(name) for name in SAMPLING_FLAGS if name in kwargs}
        if given is not None:
            asked = {name: getattr(given, name, None) for name in SAMPLING_FLAGS} | asked
            for name in hidden:
                setattr(given, name, None)
        if asked.get("do_sample") or any(asked.get(name) is not None for name in SAMPLING_FLAGS[1:]):
            logger.warning_once(
                "Sampling flags (do_sample, temperature, top_k, top_p, ...) change nothing here: TokMat commits the "
                "nearest token of a matured vector, always by argmax. For other texts use num_return_sequences or "
                "another maturation_seed, whose embryo noise differs."
            )
        # The same for what is saved on the model, which other threads may be reading: on a stand-in for the model.
        stand_in = copy.copy(self)
        stand_in.generation_config = copy.copy(self.generation_config)
        for name in hidden:
            setattr(stand_in.generation_config, name, None)
        resolved, model_kwargs = super(TokMatGenerationMixin, stand_in)._prepare_generation_config(given, **kwargs)
        resolved.do_sample, resolved.num_return_sequences = False, several
        resolved._maturation_settings, resolved._tail = settings, tail
        return resolved, model_kwargs

    def _prepare_cache_for_generation(self, generation_config, model_kwargs, mode, batch_size, max_cache_length):
        # What is not in step leaves holes in the cache of a batch, and drafts are fed beyond what is committed.
        settings, positions = generation_config._maturation_settings, model_kwargs["position_ids"]
        if model_kwargs.get(CACHE) is None:
            # transformers remembers the longest static cache it ever made, so what cannot run must not ask for one.
            self._require_room(positions, max_cache_length + 1 - positions.shape[1])
        if settings.commit != "front":
            new_tokens = min(max_cache_length, generation_config.max_new_tokens or max_cache_length)
            max_cache_length += batch_size * generation_config.num_return_sequences * new_tokens
        if settings.commit == "verified":
            max_cache_length += DraftBudget.most_positions(
                settings.tail_length, settings.prompt_lookup_num_tokens or 0
            )
        elif settings.commit != "front" or settings.guidance_scale != 1 or settings.output_tail:
            max_cache_length += 2 * settings.tail_length
        return super()._prepare_cache_for_generation(
            generation_config, model_kwargs, mode, batch_size, max_cache_length
        )

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
        """Algorithm 1 as transformers calls it (see [`decode`])."""
        settings, pad = generation_config._maturation_settings, generation_config._pad_token_tensor
        cache = model_kwargs.get(CACHE) if model_kwargs.get("use_cache") else None
        new_tokens = generation_config.max_length - input_ids.shape[1]
        committed = self._prepare_prompt(input_ids, cache, generation_config, model_kwargs, new_tokens)
        batch_size, dim = len(committed.vectors), committed.vectors.shape[-1]
        dtype = torch.promote_types(committed.vectors.dtype, torch.float32)

        compiled = None
        if self._valid_auto_compile_criteria(model_kwargs, generation_config):
            compiled = self.get_compiled_call(generation_config.compile_config)
        outputs = [name for name in ("output_attentions", "output_hidden_states") if model_kwargs.get(name)]
        network = Network(self, cache, dtype, generation_config.prefill_chunk_size, compiled, outputs)
        vocabulary = self.vocabulary()
        several, before = generation_config.num_return_sequences, generation_config._tail
        in_step = settings.commit == "front" or batch_size == 1
        allowed = 'False for several rows, unless commit is "front": out of step, they leave holes in the cache'
        require(in_step or not settings.output_tail, "output_tail", True, allowed)
        if before is not None:
            before.check(batch_size, settings.tail_length, dim, committed.vectors.shape[1])
            if before.committed is not None:
                committed.vectors = before.committed.to(committed.vectors)
            several = before.num_return_sequences or several
        done = (0, 0) if before is None else (before.tokens, before.steps)
        noise = DecodingNoise(settings, several, dim, vocabulary.radius, dtype, self.device, done)
        record, stream = Record(generation_config), Stream(streamer)
        watched = stream.shows_tail or bool(record.maturation)
        tail = TAILS[settings.commit](self, vocabulary, settings, noise, batch_size, before, watched)
        if cache is not None and self.config.film_scope == "sequence" and self.config.geometry == "sphere":
            told = getattr(cache, "told_tail_length", tail.told_length) if cache.get_seq_length() else tail.told_length
            found, allowed = tail.told_length, f"{told}, which this cache was filled at"
            require(found == told, "tail_length", found, allowed)
            cache.told_tail_length = told
        late = accelerated(self.device) and tail.lockstep and not record.asked and streamer is None
        ends_by_row = any(hasattr(criterion, "eos_token_id") for criterion in stopping_criteria)
        ending = Ending(network, settings, stopping_criteria, pad if ends_by_row else None, batch_size, late)

        def goes_on(finished):
            return self._has_unfinished_sequences(finished, synced_gpus, device=self.device)

        decode(network, committed, tail, noise, logits_processor, ending, record, stream, goes_on)
        if cache is not None and not committed.in_step:
            cache.in_step = False
        # Padded on the right where a row stopped early.
        sequences = committed.ids[:, : committed.prompt_length + max(committed.counts) - ending.overrun]
        if not record.asked:
            return sequences
        return TokMatGenerateOutput(
            sequences=sequences,
            num_forwards=network.num_forwards,
            tokens_per_forward=sum(committed.counts) / batch_size / network.num_forwards,
            maturation=record.trace,
            drafts_taken=tail.came_true,
            tail=tail.state(committed) if settings.output_tail else None,
            **{CACHE: cache},
            **record.by_name,
        )

    def _prepare_prompt(self, input_ids, cache, generation_config, model_kwargs, new_tokens: int) -> Committed:
        """The prompt as committed vectors; refuses what does not fit before any work is done."""
        past_length = int(cache.get_seq_length()) if cache is not None else 0
        allowed = 'of one row or of commit="front": of rows that were out of step it has holes'
        require(getattr(cache, "in_step", True), CACHE, "of several rows that committed different numbers", allowed)
        mask, positions = model_kwargs.get("attention_mask"), model_kwargs["position_ids"].to(self.device)
        embeds = model_kwargs.get("inputs_embeds")
        vectors = embeds.to(self.device) if embeds is not None else self.embed_tokens(input_ids.to(self.device))
        whole = mask.shape[1] if mask is not None else positions.shape[1]
        if vectors.shape[1] == whole:
            vectors = vectors[:, past_length:]
        pending = vectors.shape[1]
        require(
            pending > 0,
            CACHE,
            f"a cache of {past_length} positions for a prompt of {whole}",
            "at least one position shorter than the prompt",
        )
        self._require_room(positions, new_tokens)
        settings = generation_config._maturation_settings
        rolled_back = cache is not None and (settings.tail_length > 1 or settings.commit != "front")
        # A quantized cache has no layers before its first pass, and rounds what was cropped.
        croppable = not rolled_back or (
            not isinstance(cache, QuantizedCache) and (cache.is_compileable or cache.is_croppable)
        )
        require(croppable, CACHE, type(cache).__name__, "a dynamic or static cache, to be rolled back")
        mask = torch.ones_like(positions) if mask is None else mask.to(self.device)
        mask = mask.bool().expand(len(vectors), -1)
        check_rows(mask)  # transformers may have told padding from pad_token_id
        return Committed(
            input_ids.to(self.device),
            new_tokens,
            generation_config._pad_token_tensor,
            vectors,
            positions[:, -pending:].expand(len(vectors), -1),
            mask[:, -pending:],
            cache,
            None if bool(mask[:, :-pending].all()) else mask[:, :-pending],
            self.dtype,
            self._reach(positions) if settings.output_tail else 0,
        )

    def _reach(self, positions: torch.Tensor) -> int:
        """How many positions after those of a prompt, (batch, length), a tail's slots may have."""
        limit = self.config.max_position_embeddings
        return 2**31 if limit is None else limit - 1 - int(positions[:, -1].max())

    def _require_room(self, positions: torch.Tensor, new_tokens: int) -> None:
        """Refuse more tokens after `positions` (batch, length) of a prompt than the backbone has positions."""
        limit, last = self.config.max_position_embeddings, int(positions[:, -1].max())
        # The token committed last is never fed, so it needs no position.
        require(
            limit is None or last + new_tokens <= limit,
            "max_length",
            f"{last + 1 + new_tokens} (a prompt of {last + 1} positions and {new_tokens} new tokens)",
            f"within the backbone's {limit} positions (max_position_embeddings)",
        )
