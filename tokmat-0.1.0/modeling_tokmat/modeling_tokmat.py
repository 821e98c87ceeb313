# Copyright 2026 The TokMat authors. Licensed under the Apache License, Version 2.0.
"""TokMat: a causal Transformer that reads and predicts continuous vectors (arXiv 2601.04854)."""

import inspect
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import nn
from transformers import AutoModel, PreTrainedModel
from transformers import initialization as init
from transformers.cache_utils import Cache
from transformers.modeling_outputs import CausalLMOutputWithPast
from transformers.utils import can_return_tuple

from .adapters_tokmat import Gate, TailAdapter, TailAdapters, TokMatSuccessorHead
from .checks_tokmat import require
from .conditioning_tokmat import Conditions, TokMatMaturityEmbedding, TokMatTailLengthFiLM
from .configuration_tokmat import TokMatConfig
from .generation_tokmat import TokMatGenerationMixin
from .inputs_tokmat import CACHE, check_inputs, check_own_forward, check_training, one_cache
from .loading_tokmat import require_settings, require_whole
from .losses_tokmat import Reference, draw_negatives
from .maturation_tokmat import MAX_TAIL_LENGTH
from .settings_tokmat import default_generation_config
from .tails_tokmat import SimulatedTails
from .training_tokmat import lesson_losses, make_lesson, simulate_tails
from .vocabulary_tokmat import PretrainedVocabulary, Vocabulary, computing_device


@dataclass
class TokMatOutput(CausalLMOutputWithPast):
    """
    Output of [`TokMatForContinuousLM`]. The usual fields of a causal language model come first.

    Args:
        loss (`torch.Tensor` of shape `()`): rho * regression + lambda * InfoNCE (Eq. 8), when `labels` are given.
        logits (`torch.Tensor` of shape `(batch, length, vocab_size)`): logit_scale * cos(z^, e_i), the implied
            next-token distribution; None in training mode with `labels`, where nothing reads it.
        past_key_values (`Cache`; the field `cache` from transformers 5.24 on), hidden_states, attentions: backbone's.
        predicted_embeds (`torch.Tensor` of shape `(batch, length, d)`): z^, the predicted NEXT vector per position.
        regression_loss, contrastive_loss (`torch.Tensor` of shape `()`): the two parts of the loss, unweighted.
        successor_loss (`torch.Tensor` of shape `()`): InfoNCE of what the successor head makes of z^, weighted as
            `contrastive_loss` is.
    """

    predicted_embeds: torch.FloatTensor | None = None
    regression_loss: torch.FloatTensor | None = None
    contrastive_loss: torch.FloatTensor | None = None
    successor_loss: torch.FloatTensor | None = None


ADDED_FOR_THE_TAIL = ("tail_adapters.", "maturity_embedding.", "tail_length_film.", "successor.")


class TokMatPreTrainedModel(PreTrainedModel):
    """What transformers is to know of a TokMat model: its configuration, the kernels it supports, its tags."""

    config: TokMatConfig
    config_class = TokMatConfig
    base_model_prefix = "backbone"
    supports_gradient_checkpointing = True
    _skip_keys_device_placement = ["past_key_values", "cache"]
    _supports_sdpa = _supports_flash_attn = _supports_flex_attn = True
    model_tags = ["custom_code", "token-maturation", "arxiv:2601.04854"]  # of the card that `push_to_hub` makes
    _supports_attention_backend = True
    _can_compile_fullgraph = True


class TokMatForContinuousLM(TokMatPreTrainedModel, TokMatGenerationMixin):
    """
    Token Maturation over an unmodified decoder-only transformers backbone (paper section 3), as `config` has it.

    `forward` predicts the next vector at every position; `generate` matures text (see `generate` for its settings);
    `forward` with `labels` in training mode simulates maturation by itself, so that any Trainer trains the model.
    """

    token_counts: torch.Tensor | None
    accepts_loss_kwargs = False  # the plain Trainer then takes the loss for a per-batch mean, which it is

    def __init__(self, config: TokMatConfig):
        super().__init__(config)
        config.check_fields()
        self.backbone = AutoModel.from_config(config.backbone_config)
        accepted = inspect.signature(self.backbone.forward).parameters
        require(
            "inputs_embeds" in accepted,
            "backbone_config",
            self.backbone.config.model_type,
            "a model that accepts `inputs_embeds`",
        )
        embeddings = self.get_input_embeddings()
        vector_size = embeddings.weight.shape[1]
        self.maturity_embedding = TokMatMaturityEmbedding(vector_size)
        self.tail_length_film = TokMatTailLengthFiLM(vector_size)
        self.head = nn.Linear(config.hidden_size, vector_size)
        pretrained = config.geometry == "pretrained"
        self.lm_head = None
        if pretrained and not config.tie_word_embeddings:
            self.lm_head = nn.Linear(vector_size, config.vocab_size, bias=config.output_bias)
        rank = config.tail_adapter_rank
        self.tail_adapters = TailAdapters(self.backbone, rank, config.tail_adapter_modules) if rank else None
        self.successor = TokMatSuccessorHead(vector_size) if config.successor_head else None
        counts = torch.zeros(config.vocab_size) if config.negatives == "unigram" else None
        self.register_buffer("token_counts", counts)
        self.post_init()
        if embeddings.padding_idx is not None:
            # transformers zeroes this row, but a zero vector has no direction and would tie with every other row.
            embeddings.padding_idx = None
            self._init_weights(embeddings)
        if config.embedding_radius is None and embeddings.weight.device.type != "meta":
            config.embedding_radius = self.embedding_radius
        self.generation_config = default_generation_config(config)
        self.freeze()

    @classmethod
    def from_pretrained(cls, pretrained_model_name_or_path=None, *args, initialise_missing: bool = False, **kwargs):
        """As in transformers. Weights on the CPU are laid out as in the model that was saved, so that its logits are
        reproduced to the bit: matrix kernels round differently for addresses that are not multiples of 64.

        Args:
            initialise_missing: draw tensors that the file lacks as in a fresh model, instead of refusing it. Those of
                a part that the given configuration has and the saved one has not are drawn in any case.

        Raises:
            ValueError: names the file and the tensors that it lacks, or a generation_config.json that is damaged.
        """
        told, name = kwargs.pop("output_loading_info", False), pretrained_model_name_or_path
        require_settings(name, kwargs)
        loaded: Any = super().from_pretrained(name, *args, output_loading_info=True, **kwargs)
        model, info = loaded
        if not initialise_missing:
            require_whole(model, name, set(info["missing_keys"]), kwargs)
        for weight in model.parameters():
            if weight.device.type == "cpu" and weight.data_ptr() % 64:
                weight.data = weight.data.clone()
        model.freeze()
        return (model, info) if told else model

    def freeze(self) -> None:
        """Take the gradient from what the configuration says is not trained (`train`, `freeze_embeddings`)."""
        for name, weight in self.named_parameters():
            if self.config.train == "tail" and not name.startswith(ADDED_FOR_THE_TAIL):
                weight.requires_grad_(False)
        if self.config.freeze_embeddings:
            self.get_input_embeddings().weight.requires_grad_(False)

    def train(self, mode: bool = True):
        """As in torch; a frozen source stays in evaluation mode, without dropout."""
        super().train(mode)
        if mode:
            check_own_forward(self)
        if mode and self.config.train == "tail":
            self.backbone.eval()
        return self

    def initialize_weights(self):
        """As in transformers. The backbone initialises itself: in a model that is not transformers' own, modules
        without weights of their own are passed over, and so is what they do to their parts (GPT-2's scaled c_proj)."""
        self.backbone.initialize_weights()
        super().initialize_weights()

    @torch.no_grad()
    def _init_weights(self, module):
        super()._init_weights(module)
        if module is self.head and module.in_features == module.out_features:
            init.eye_(module.weight)
        elif module in (self.maturity_embedding.fc_out, self.tail_length_film.table):
            init.zeros_(module.weight)
        elif self.successor is not None and module is self.successor.fc_out:
            init.zeros_(module.weight)
        elif isinstance(module, TailAdapter):
            module.reset_parameters()
        elif module is self and self.token_counts is not None:
            init.zeros_(self.token_counts)

    def get_input_embeddings(self) -> nn.Embedding:
        return self.backbone.get_input_embeddings()

    def set_input_embeddings(self, value: nn.Module):
        self.backbone.set_input_embeddings(value)

    def get_output_embeddings(self) -> nn.Linear | None:
        """The output table, where there is one beside the input embeddings; otherwise None."""
        return self.lm_head

    def set_output_embeddings(self, value: nn.Linear) -> None:
        require(self.lm_head is not None, "output embeddings", "set", "left alone: the input embeddings are the keys")
        self.lm_head = value

    def resize_token_embeddings(
        self, new_num_tokens=None, pad_to_multiple_of=None, mean_resizing=True
    ) -> nn.Embedding:
        """As in transformers; `token_counts`, where the model has them, are cut or extended with zeros."""
        embeddings = super().resize_token_embeddings(new_num_tokens, pad_to_multiple_of, mean_resizing)
        if self.token_counts is not None:
            self.token_counts = F.pad(self.token_counts, (0, embeddings.weight.shape[0] - len(self.token_counts)))
        return embeddings

    def set_token_counts(self, counts: torch.Tensor) -> None:
        """Set the token frequencies that `negatives="unigram"` draws from. `counts`: shape (V,), at least 0."""
        require(self.token_counts is not None, "negatives", self.config.negatives, '"unigram" to take token counts')
        assert self.token_counts is not None
        shape, allowed = tuple(counts.shape), tuple(self.token_counts.shape)
        require(shape == allowed, "counts", shape, f"of shape {allowed}")
        self.token_counts.copy_(counts)

    @property
    def device(self) -> torch.device:
        """Where the model computes."""
        return computing_device(self.get_input_embeddings())

    @property
    def embedding_radius(self) -> float:
        """R, the norm of every row of `token_embeddings()`: the configuration's, or the mean row norm of the table."""
        radius = self.config.embedding_radius
        return Vocabulary(self.get_input_embeddings(), 1.0, 1.0).mean_row_norm() if radius is None else radius

    def vocabulary(self) -> Vocabulary:
        """Everything between tokens and vectors, as the weights are now."""
        measures = self.get_input_embeddings(), self.embedding_radius, self.config.logit_scale
        return (
            PretrainedVocabulary(*measures, self.lm_head)
            if self.config.geometry == "pretrained"
            else Vocabulary(*measures)
        )

    def token_embeddings(self) -> torch.Tensor:
        """E: the committed vectors of all tokens, shape (V, d); at norm R (paper 3.1) under geometry "sphere"."""
        return self.vocabulary().rows()

    def embed_tokens(self, input_ids: torch.Tensor) -> torch.Tensor:
        """z = e_x, the committed vectors of ids: shape (..., ) -> (..., d). Equals `token_embeddings()[input_ids]`."""
        return self.vocabulary().embed(input_ids)

    def implied_logits(self, vectors: torch.Tensor) -> torch.Tensor:
        """logit_scale * cos(z^, e_i), or what the geometry has instead, of `vectors`: (..., d) -> (..., V)."""
        return self.vocabulary().scores(vectors)

    @can_return_tuple
    def forward(
        self,
        input_ids: torch.LongTensor | None = None,
        attention_mask: torch.Tensor | None = None,
        position_ids: torch.LongTensor | None = None,
        past_key_values: Cache | None = None,
        inputs_embeds: torch.FloatTensor | None = None,
        maturity: torch.FloatTensor | None = None,
        tail_length: int | torch.LongTensor | None = None,
        labels: torch.LongTensor | None = None,
        use_cache: bool | None = None,
        logits_to_keep: int | torch.Tensor = 0,
        maturation_seeds: torch.LongTensor | None = None,
        negative_ids: torch.LongTensor | None = None,
        tail_only: torch.BoolTensor | None = None,
        reference: Reference | None = None,
        tails: SimulatedTails | None = None,
        conditions: Conditions | None = None,
        num_items_in_batch: torch.Tensor | float | None = None,
        cache: Cache | None = None,
        **kwargs,
    ) -> TokMatOutput:
        r"""
        Args:
            input_ids (`(batch, length)`): token ids, read as committed vectors. Or:
            inputs_embeds (`(batch, length, d)`): vectors of the z space, before conditioning.
            attention_mask (`(batch, length)` or a float additive 4-D mask), position_ids, use_cache, past_key_values
                (or cache, its name from transformers 5.24 on): as in transformers. Documents packed in one row are
                told from `position_ids` that restart.
            maturity (`(batch, length)` or `(1, length)`, in [0, 1]): alpha; 1 everywhere if not given.
            tail_length (`int`, `(batch,)` or `(batch, length)`, in [1, 64]): K; 1 if not given.
            labels (`(batch, length)`): unshifted ids, -100 is ignored. In training mode without `maturity`, the
                loss is taken on simulated tails (paper 4.1); otherwise on what was given.
            logits_to_keep (`int` or index tensor): positions to compute `logits` for; 0 is all of them, an empty
                tensor none.
            maturation_seeds (`(batch,)`): of the simulated tails; from torch's global generator if not given.
            negative_ids (`(num_negatives,)`): the negatives; drawn by the model if not given.
            tail_only (`(batch,)`): rows that train the simulated tails alone, such as text of the model's own.
            reference: what a frozen model predicts in these rows, which their committed positions then follow, without
                what it repeats (`phrase_penalty`).
            tails: the simulated tails, as `simulate_tails` gave them, instead of seeds.
            conditions: what `conditions(maturity, tail_length)` returned, instead of these two.
            num_items_in_batch: divisor of the loss, the summed weights of all it accumulates; of this batch if None.
            kwargs: handed to the backbone (`output_hidden_states`, `output_attentions`, ...).

        Raises:
            ValueError: for inputs that contradict one another, and ids or K out of range.
        """
        past_key_values = one_cache(past_key_values, cache)
        committed = maturity is None and conditions is None
        told = (position_ids, maturity, attention_mask)
        check_inputs(self.config, input_ids, labels, inputs_embeds, committed, kwargs, *told)
        if self.training and conditions is None:
            check_training(labels, maturity, self.get_input_embeddings())
        inputs = {"attention_mask": attention_mask, "position_ids": position_ids, **kwargs}
        if labels is None:
            vectors = inputs_embeds if input_ids is None else self.embed_tokens(input_ids)
            conditions = self.conditions(maturity, tail_length) if conditions is None else conditions
            cached = {"past_key_values": past_key_values, "use_cache": use_cache}
            predicted, outputs = self.predict(vectors, conditions, **cached, **inputs)
            return self._output(predicted, outputs, logits_to_keep)

        # 1. where the tails of this batch lie: in training, unless the caller says what to show
        if tails is None and maturity is None and (self.training or maturation_seeds is not None):
            seeds = torch.randint(2**62, (len(labels),)) if maturation_seeds is None else maturation_seeds
            tails, _ = simulate_tails(self.config, seeds, labels, position_ids, attention_mask)
        if negative_ids is None:
            negative_ids = self.draw_negatives(labels)
        # 2. what the network is shown, and what it is asked
        shown = (input_ids, inputs_embeds, maturity, tail_length, tails, negative_ids, tail_only, reference)
        lesson = make_lesson(self, labels, *shown, inputs)
        # 3. z^ for every position. With a cache transformers would not see where packed documents begin.
        cached = {"past_key_values": past_key_values, "use_cache": bool(use_cache)}
        conditions = self.conditions(lesson.maturity, lesson.tail_length, lesson.committed)
        predicted, outputs = self.predict(lesson.vectors, conditions, **(cached | lesson.inputs))
        # 4. rho * regression + lambda * InfoNCE (Eq. 8)
        losses = lesson_losses(self, lesson, predicted, num_items_in_batch)
        return self._output(predicted, outputs, None if self.training else logits_to_keep, **losses)

    def draw_negatives(self, labels: torch.Tensor, generator: torch.Generator | None = None) -> torch.Tensor | None:
        """One set of negatives for all positions, shape (num_negatives,); None for `negatives="all"`.

        Args:
            labels: the pool of `negatives="batch"`, any shape.
            generator: a CPU generator. If None: torch's global one in training mode, a fixed one in evaluation.
        """
        config = self.config
        if generator is None and not self.training:
            generator = torch.Generator().manual_seed(0)
        counts, weights = self.token_counts, None
        if counts is not None:
            weights = counts.float() ** config.unigram_exponent * (counts > 0)  # 0 ** 0 is 1
        return draw_negatives(config.negatives, config.num_negatives, config.vocab_size, labels, weights, generator)

    def predict(self, vectors, conditions: Conditions, use_cache=None, past_key_values=None, **kwargs):
        """z^ for every position, (batch, length, d), and the backbone's output: condition `vectors`, of that shape, by
        `conditions` (Eq. 2 and 3), run the backbone (`use_cache`, `past_key_values`, `kwargs`), apply the head."""
        hidden = conditions.apply(vectors)
        if self.tail_adapters is not None:
            self.tail_adapters.gate.set(conditions.gate)
        use_cache = self.config.use_cache and not self.training if use_cache is None else use_cache
        kwargs |= {CACHE: past_key_values, "use_cache": use_cache, "return_dict": True}
        outputs = self.backbone(inputs_embeds=hidden, **kwargs)
        return self.head(outputs.last_hidden_state), outputs

    def conditions(self, maturity=None, tail_length=None, committed: int | None = None) -> Conditions:
        """What the network is told of maturity and tail length, as `forward` takes it (Eq. 2 and 3).

        Decoding asks for the same at every step, at some 3 % of a step's cost, and so keeps what it was given.

        Args:
            maturity, tail_length: as for `forward`.
            committed: that many leading positions are committed, and all behind them are slots. Where it is not given
                the maturity tells, which on an accelerator waits for the device.
        """
        gate = None
        if self.config.geometry == "pretrained":
            if maturity is None or committed == maturity.shape[1]:
                return Conditions()
            gate, maturity, tail_length = self._gate(maturity, tail_length, committed)
        device = computing_device(self.tail_length_film.table)
        if tail_length is None or isinstance(tail_length, int):
            length = 1 if tail_length is None else tail_length
            require(1 <= length <= MAX_TAIL_LENGTH, "tail_length", tail_length, f"in [1, {MAX_TAIL_LENGTH}]")
            lengths = torch.full((1, 1), length, device=device)
        else:
            lengths = tail_length[:, None] if tail_length.dim() == 1 else tail_length
        if self.config.film_scope == "tail":
            lengths = torch.ones_like(lengths) if maturity is None else torch.where(maturity < 1, lengths, 1)
        shift = self.maturity_embedding(torch.ones(1, 1, device=device) if maturity is None else maturity)
        gamma, beta = self.tail_length_film(lengths)
        return Conditions(shift, gamma, beta, gate)

    def _gate(self, maturity, tail_length, committed) -> tuple:
        """The gate of a pass, and what is told to the positions that it is open for."""
        if committed is None:
            slots = maturity < 1
            all_open = not torch.compiler.is_compiling() and bool(slots.all())
            return Gate(0, None if all_open else slots[..., None]), maturity, tail_length
        per_position = torch.is_tensor(tail_length) and tail_length.dim() == 2
        lengths = tail_length[:, committed:] if per_position and tail_length.shape[1] > 1 else tail_length
        return Gate(committed), maturity[:, committed:], lengths

    def _output(self, predicted, outputs, logits_to_keep, **losses) -> TokMatOutput:
        kept = slice(-logits_to_keep, None) if isinstance(logits_to_keep, int) else logits_to_keep
        wanted = logits_to_keep is not None and not (torch.is_tensor(kept) and kept.numel() == 0)
        return TokMatOutput(
            logits=self.implied_logits(predicted[:, kept]) if wanted else None,
            hidden_states=outputs.hidden_states,
            attentions=outputs.attentions,
            predicted_embeds=predicted,
            **{CACHE: getattr(outputs, CACHE)},
            **losses,
        )


TokMatForContinuousLM.register_for_auto_class("AutoModelForCausalLM")

__all__ = ["TokMatForContinuousLM", "TokMatOutput", "TokMatPreTrainedModel"]
