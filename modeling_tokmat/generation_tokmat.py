# Copyright 2026 The TokMat authors. Licensed under the Apache License, Version 2.0.
"""Decoding by delayed commitment (arXiv 2601.04854, section 3 and Algorithm 1) under transformers' own `generate`."""

import copy
from dataclasses import dataclass

import torch
from transformers import GenerationMixin
from transformers.generation import GenerateDecoderOnlyOutput, GenerationMode
from transformers.utils import logging

from .checks_tokmat import is_integer, require
from .commitment_tokmat import Committed
from .decoding_tokmat import Run
from .settings_tokmat import SETTINGS, MaturationSettings
from .verified_tokmat import VerifiedRun

logger = logging.get_logger(__name__)

SAMPLING_FLAGS = ("do_sample", "temperature", "top_k", "top_p", "top_h", "min_p", "typical_p")
SAMPLING_FLAGS += ("epsilon_cutoff", "eta_cutoff")
TRAINING_INPUTS = ("maturity", "labels", "maturation_seeds", "negative_ids", "num_items_in_batch")


@dataclass
class TokMatGenerateOutput(GenerateDecoderOnlyOutput):
    """
    `GenerateDecoderOnlyOutput` of transformers, and what maturation did and cost.

    Args:
        num_forwards (`int`): forward passes, the one over the prompt included.
        tokens_per_forward (`float`): committed tokens per row and forward pass.
        maturation (`tuple` of [`MaturationStep`]): the trace, one entry per step, with `output_maturation`.
    """

    num_forwards: int | None = None
    tokens_per_forward: float | None = None
    maturation: tuple | None = None


class TokMatGenerationMixin(GenerationMixin):
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
        several = resolve("num_return_sequences", 1)
        require(is_integer(several, 1), "num_return_sequences", several, "an integer of at least 1")
        implementation = self.backbone.config._attn_implementation
        masked = settings.guidance_scale != 1 or (settings.commit == "verified" and settings.tail_length > 1)
        possible = not masked or implementation in ("eager", "sdpa")
        allowed = 'eager or sdpa for guidance_scale other than 1 and for commit="verified"'
        require(possible, "attn_implementation", implementation, allowed)

        # Sampling warpers and transformers' own guidance must not join in, nor may its validation refuse several
        # return sequences, which differ here without sampling.
        hidden = (*SAMPLING_FLAGS, "num_return_sequences", "guidance_scale")
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
        saved = {name: getattr(self.generation_config, name, None) for name in hidden}
        try:
            for name in hidden:
                setattr(self.generation_config, name, None)
            resolved, model_kwargs = super()._prepare_generation_config(given, **kwargs)
        finally:
            for name, value in saved.items():
                setattr(self.generation_config, name, value)
        resolved.do_sample, resolved.num_return_sequences = False, several
        resolved._maturation_settings = settings
        return resolved, model_kwargs

    def _prepare_cache_for_generation(self, generation_config, model_kwargs, mode, batch_size, max_cache_length):
        # What is not in step leaves holes in the cache of a batch, and drafts are fed beyond what is committed.
        settings = generation_config._maturation_settings
        if settings.commit != "front":
            new_tokens = min(max_cache_length, generation_config.max_new_tokens or max_cache_length)
            max_cache_length += batch_size * generation_config.num_return_sequences * new_tokens
        if settings.commit == "verified":
            drafts = VerifiedRun.longest_draft(settings.tail_length)
            max_cache_length += drafts + (drafts + 1) * drafts
        elif settings.commit != "front" or settings.guidance_scale != 1:
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
        r"""
        Algorithm 1. With a_j the maturity that slot j has after an update and eta_j its rate:

            0. the tail is K embryos
            repeat
            1. read [committed ; tail] with maturities [1 .. 1, a_2 .. a_{K+1}], giving z^_1 .. z^_K; guide them
            2. z~_j <- z~_j + eta_j (z^_j - z~_j) for every slot
            3. commit slot 1: x = argmax_i of the processed logit_scale * cos(z~_1, e_i);
               other rules than "front" commit none, or more slots in the same way
            4. its place takes e_x, the tail moves up by what was committed, embryos enter at its end

        Keys and values of committed positions are cached, so a step feeds K positions: the vector committed last and
        slots 1 .. K - 1 (nothing reads slot K). Slots at or beyond the length limit are not fed.
        """
        kind = VerifiedRun if generation_config._maturation_settings.commit == "verified" else Run
        run = kind(self, input_ids, logits_processor, stopping_criteria, generation_config, model_kwargs, streamer)
        while self._has_unfinished_sequences(run.finished, synced_gpus, device=self.device):
            # 1. read [committed ; tail]
            predicted = run.read()
            if synced_gpus and run.finished:
                run.forget()
                continue
            # 2. move every slot toward its prediction
            run.update(predicted)
            # 3. commit
            counts, vectors = run.commit()
            # 4. committed slots become exact embeddings, the tail moves up, embryos enter
            run.move_up(counts, vectors)
        if streamer is not None:
            streamer.end()
        return TokMatGenerateOutput(**run.result()) if generation_config.return_dict_in_generate else run.ids()

    def _prepare_prompt(self, input_ids, cache, generation_config, model_kwargs, new_tokens: int) -> Committed:
        """The prompt as committed vectors; refuses what does not fit before any work is done."""
        past_length = int(cache.get_seq_length()) if cache is not None else 0
        mask, positions = model_kwargs.get("attention_mask"), model_kwargs["position_ids"].to(self.device)
        embeds = model_kwargs.get("inputs_embeds")
        vectors = embeds.to(self.device) if embeds is not None else self.embed_tokens(input_ids.to(self.device))
        whole = mask.shape[1] if mask is not None else positions.shape[1]
        if vectors.shape[1] == whole:
            vectors = vectors[:, past_length:]
        pending = vectors.shape[1]
        require(
            pending > 0,
            "past_key_values",
            f"a cache of {past_length} positions for a prompt of {whole}",
            "at least one position shorter than the prompt",
        )
        limit, last = self.config.max_position_embeddings, int(positions[:, -1].max())
        # The token committed last is never fed, so it needs no position.
        require(
            limit is None or last + new_tokens <= limit,
            "max_length",
            f"{last + 1 + new_tokens} (a prompt of {last + 1} positions and {new_tokens} new tokens)",
            f"within the backbone's {limit} positions (max_position_embeddings)",
        )
        settings = generation_config._maturation_settings
        rolled_back = cache is not None and (settings.tail_length > 1 or settings.commit != "front")
        croppable = not rolled_back or cache.is_compileable or cache.is_croppable
        require(croppable, "past_key_values", type(cache).__name__, "a dynamic or static cache, to be rolled back")
        mask = torch.ones_like(positions) if mask is None else mask.to(self.device)
        mask = mask.bool().expand(len(vectors), -1)
        return Committed(
            input_ids.to(self.device),
            new_tokens,
            generation_config._pad_token_tensor,
            vectors,
            positions[:, -pending:].expand(len(vectors), -1),
            mask[:, -pending:],
            cache,
            None if bool(mask[:, :-pending].all()) else mask[:, :-pending],
        )
