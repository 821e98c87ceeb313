# Copyright 2026 The TokMat authors. Licensed under the Apache License, Version 2.0.
"""TokMat: a causal Transformer that reads and predicts continuous vectors (arXiv 2601.04854)."""

import inspect
import math
from dataclasses import dataclass
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import nn
from transformers import AutoModel, PreTrainedModel
from transformers import initialization as init
from transformers.cache_utils import Cache
from transformers.utils import ModelOutput, can_return_tuple

from .checks_tokmat import require
from .configuration_tokmat import TokMatConfig
from .generation_tokmat import TokMatGenerationMixin
from .losses_tokmat import ContextNegatives, document_index, draw_negatives, info_nce, regression
from .maturation_tokmat import MAX_TAIL_LENGTH, corrupt
from .settings_tokmat import default_generation_config
from .tails_tokmat import SimulatedTails
from .vocabulary_tokmat import Vocabulary


@dataclass
class TokMatOutput(ModelOutput):
    """
    Output of [`TokMatForContinuousLM`]. The usual fields of a causal language model come first.

    Args:
        loss (`torch.Tensor` of shape `()`): rho * regression + lambda * InfoNCE (Eq. 8), when `labels` are given.
        logits (`torch.Tensor` of shape `(batch, length, vocab_size)`): logit_scale * cos(z^, e_i), the implied
            next-token distribution; None in training mode with `labels`, where nothing reads it.
        past_key_values (`Cache`), hidden_states, attentions: the backbone's.
        predicted_embeds (`torch.Tensor` of shape `(batch, length, d)`): z^, the predicted NEXT vector per position.
        regression_loss, contrastive_loss (`torch.Tensor` of shape `()`): the two parts of the loss, unweighted.
    """

    loss: torch.FloatTensor | None = None
    logits: torch.FloatTensor | None = None
    past_key_values: Cache | None = None
    hidden_states: tuple[torch.FloatTensor, ...] | None = None
    attentions: tuple[torch.FloatTensor, ...] | None = None
    predicted_embeds: torch.FloatTensor | None = None
    regression_loss: torch.FloatTensor | None = None
    contrastive_loss: torch.FloatTensor | None = None


class Conditions(NamedTuple):
    """MLP(SinEmb(alpha)), gamma(K) and beta(K), each broadcasting with (batch, length, d)."""

    shift: torch.Tensor
    gamma: torch.Tensor
    beta: torch.Tensor


class TokMatMaturityEmbedding(nn.Module):
    """MLP(SinEmb(alpha)) of Eq. 2; SinEmb takes 1000 * alpha. The last layer starts at zero."""

    dim = 256

    def __init__(self, hidden_size: int):
        super().__init__()
        self.fc_in = nn.Linear(self.dim, hidden_size)
        self.fc_out = nn.Linear(hidden_size, hidden_size)

    def forward(self, maturity: torch.Tensor) -> torch.Tensor:
        """(...,) in [0, 1] -> (..., hidden_size)."""
        exponents = torch.arange(self.dim // 2, device=maturity.device, dtype=torch.float32) / (self.dim // 2)
        angles = 1000 * maturity.float()[..., None] * torch.exp(-math.log(10000) * exponents)
        features = torch.cat([angles.sin(), angles.cos()], dim=-1).to(self.fc_in.weight.dtype)
        return self.fc_out(F.silu(self.fc_in(features)))


class TokMatTailLengthFiLM(nn.Module):
    """gamma(K) and beta(K) of h <- (1 + gamma(K)) * h + beta(K) (Eq. 3), one row per K; both start at zero."""

    def __init__(self, hidden_size: int):
        super().__init__()
        self.table = nn.Embedding(MAX_TAIL_LENGTH, 2 * hidden_size)

    def forward(self, tail_length: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """(batch or 1, length or 1) in [1, 64] -> gamma and beta, (batch or 1, length or 1, hidden_size)."""
        return self.table(tail_length - 1).chunk(2, dim=-1)


class TokMatPreTrainedModel(PreTrainedModel):
    config: TokMatConfig
    config_class = TokMatConfig
    base_model_prefix = "backbone"
    supports_gradient_checkpointing = True
    _skip_keys_device_placement = ["past_key_values"]
    _supports_sdpa = True
    _supports_flash_attn = True
    _supports_flex_attn = True
    _supports_attention_backend = True
    _can_compile_fullgraph = True


class TokMatForContinuousLM(TokMatPreTrainedModel, TokMatGenerationMixin):
    """
    Token Maturation over an unmodified decoder-only transformers backbone (paper section 3).

    `forward` predicts the next vector at every position; `generate` matures text (see `generate` for its settings);
    `forward` with `labels` in training mode simulates maturation by itself, so that any Trainer trains the model.
    """

    accepts_loss_kwargs = False  # the plain Trainer then takes the loss for a per-batch mean, which it is

    def __init__(self, config: TokMatConfig):
        super().__init__(config)
        config.check_fields()
        self.backbone = AutoModel.from_config(config.backbone_config)
        accepted = inspect.signature(self.backbone.forward).parameters
        require(
            "inputs_embeds" in accepted,
            "backbone_config",
            config.backbone_config.model_type,
            "a model that accepts `inputs_embeds`",
        )
        embeddings = self.get_input_embeddings()
        vector_size = embeddings.weight.shape[1]
        self.maturity_embedding = TokMatMaturityEmbedding(vector_size)
        self.tail_length_film = TokMatTailLengthFiLM(vector_size)
        self.head = nn.Linear(config.hidden_size, vector_size)
        counts = torch.zeros(config.vocab_size) if config.negatives == "unigram" else None
        self.register_buffer("token_counts", counts)
        embeddings.weight.requires_grad_(not config.freeze_embeddings)
        self.post_init()
        if embeddings.padding_idx is not None:
            # transformers zeroes this row, but a zero vector has no direction and would tie with every other row.
            embeddings.padding_idx = None
            self._init_weights(embeddings)
        if config.embedding_radius is None and embeddings.weight.device.type != "meta":
            config.embedding_radius = self.embedding_radius
        self.generation_config = default_generation_config(config)

    @classmethod
    def from_pretrained(cls, *args, **kwargs):
        """As in transformers. Weights on the CPU are laid out as in the model that was saved, so that its logits are
        reproduced to the bit: matrix kernels round differently for addresses that are not multiples of 64."""
        loaded = super().from_pretrained(*args, **kwargs)
        model = loaded[0] if isinstance(loaded, tuple) else loaded
        for weight in model.parameters():
            if weight.device.type == "cpu" and weight.data_ptr() % 64:
                weight.data = weight.data.clone()
        if model.config.freeze_embeddings:
            model.get_input_embeddings().weight.requires_grad_(False)
        return loaded

    @torch.no_grad()
    def _init_weights(self, module):
        super()._init_weights(module)
        if module is self.head and module.in_features == module.out_features:
            init.eye_(module.weight)
        elif module is self.maturity_embedding.fc_out or module is self.tail_length_film.table:
            init.zeros_(module.weight)
        elif module is self and self.token_counts is not None:
            init.zeros_(self.token_counts)

    def get_input_embeddings(self) -> nn.Module:
        return self.backbone.get_input_embeddings()

    def set_input_embeddings(self, value: nn.Module):
        self.backbone.set_input_embeddings(value)

    def get_output_embeddings(self) -> None:
        """None: the projection to tokens reads the input embeddings, there is no second table."""
        return None

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
        require(
            counts.shape == self.token_counts.shape,
            "counts",
            tuple(counts.shape),
            f"of shape ({self.config.vocab_size},)",
        )
        self.token_counts.copy_(counts)

    @property
    def embedding_radius(self) -> float:
        """R, the norm of every row of `token_embeddings()`: the configuration's, or the mean row norm of the table."""
        radius = self.config.embedding_radius
        return Vocabulary(self.get_input_embeddings(), 1.0, 1.0).mean_row_norm() if radius is None else radius

    def vocabulary(self) -> Vocabulary:
        """Everything between tokens and vectors, as the weights are now."""
        return Vocabulary(self.get_input_embeddings(), self.embedding_radius, self.config.logit_scale)

    def token_embeddings(self) -> torch.Tensor:
        """E: the embedding rows, l2-normalised and scaled to R (paper 3.1), shape (V, d)."""
        return self.vocabulary().rows()

    def embed_tokens(self, input_ids: torch.Tensor) -> torch.Tensor:
        """z = e_x, the committed vectors of ids: shape (..., ) -> (..., d). Equals `token_embeddings()[input_ids]`."""
        return self.vocabulary().embed(input_ids)

    def implied_logits(self, vectors: torch.Tensor) -> torch.Tensor:
        """logit_scale * cos(z, e_i): shape (..., d) -> (..., V)."""
        return self.vocabulary().scores(vectors)

    def document_index(self, labels, position_ids=None, attention_mask=None) -> torch.Tensor:
        """Document of each position, shape (batch, length), -1 in padding (see `losses_tokmat.document_index`)."""
        return document_index(position_ids, attention_mask, labels.shape, labels.device)

    def loss_weights(self, labels: torch.Tensor, documents: torch.Tensor, tails=None, tail_only=None) -> torch.Tensor:
        """w_t = alpha_t of the position a prediction is made FROM, in tails at least `tail_weight_floor`; 0 where its
        target is -100, padding or another document's.

        Args:
            labels, documents: shape (batch, length). tails: the simulated tails; None for committed positions alone.
            tail_only: rows whose committed positions weigh 0, shape (batch,), bool.

        Returns:
            Shape (batch, length), or (batch, length + n) with `tails`.
        """
        predictable = (labels[:, 1:] != -100) & (documents[:, 1:] == documents[:, :-1]) & (documents[:, 1:] >= 0)
        predictable = F.pad(predictable, (0, 1))
        if tails is None:
            return predictable.float()
        weights = torch.where(tails.slot > 0, tails.maturity.clamp(min=self.config.tail_weight_floor), 1.0)
        if tail_only is not None:
            weights = weights * ((tails.slot > 0) | ~tail_only.to(weights.device)[:, None])
        if tails.parallel:  # slots that are not used take up room on the line
            weights[:, tails.length :] *= tails.slot[:, tails.length :] > 0
        return weights * tails.at_place(predictable)

    def simulate_tails(
        self, seeds, labels, position_ids=None, attention_mask=None, tail_only=None
    ) -> tuple[SimulatedTails, torch.Tensor]:
        """The simulated tails that `forward` will use for these `maturation_seeds`, and the weights of its loss.

        Returns:
            The tails, and w of the prediction made from each position of their line, (batch, length + n).
        """
        documents = self.document_index(labels, position_ids, attention_mask)
        tails = SimulatedTails(seeds, labels, documents, self.config)
        return tails, self.loss_weights(labels, documents, tails, tail_only)

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
        conditions: Conditions | None = None,
        num_items_in_batch: torch.Tensor | float | None = None,
        **kwargs,
    ) -> TokMatOutput:
        r"""
        Args:
            input_ids (`(batch, length)`): token ids, read as committed vectors. Or:
            inputs_embeds (`(batch, length, d)`): vectors of the z space, before conditioning.
            attention_mask (`(batch, length)` or a float additive 4-D mask), position_ids, past_key_values, use_cache:
                as in transformers. Documents packed in one row are told from `position_ids` that restart.
            maturity (`(batch, length)` or `(1, length)`, in [0, 1]): alpha; 1 everywhere if not given.
            tail_length (`int`, `(batch,)` or `(batch, length)`, in [1, 64]): K; 1 if not given.
            labels (`(batch, length)`): unshifted ids, -100 is ignored. In training mode without `maturity`, the
                loss is taken on simulated tails (paper 4.1); otherwise on what was given.
            logits_to_keep (`int` or index tensor): positions to compute `logits` for; 0 is all of them, an empty
                tensor none.
            maturation_seeds (`(batch,)`): one seed per sequence for its simulated tail; from torch's global
                generator if not given.
            negative_ids (`(num_negatives,)`): the negatives; drawn by the model if not given.
            tail_only (`(batch,)`): rows that train the simulated tails alone, such as text of the model's own; their
                committed positions weigh 0.
            conditions: what `conditions(maturity, tail_length)` returned, instead of these two.
            num_items_in_batch: divisor of the loss, the summed weights of the whole accumulated batch; those of
                this batch if not given.
            kwargs: handed to the backbone (`output_hidden_states`, `output_attentions`, ...).

        Raises:
            ValueError: for inputs that contradict one another, and ids or K out of range.
        """
        given = (input_ids is not None) + (inputs_embeds is not None)
        require(
            given == 1, "input_ids", f"given with{'' if given else 'out'} inputs_embeds", "the only one of the two"
        )
        if input_ids is not None:
            self._check_ids(input_ids, "input_ids")
        backbone_inputs = {"attention_mask": attention_mask, "position_ids": position_ids, **kwargs}
        if labels is None:
            content = self.embed_tokens(input_ids) if inputs_embeds is None else inputs_embeds
            conditions = self.conditions(maturity, tail_length) if conditions is None else conditions
            predicted, outputs = self._predict(
                content, conditions, past_key_values=past_key_values, use_cache=use_cache, **backbone_inputs
            )
            return self._output(predicted, outputs, logits_to_keep)

        self._check_ids(labels, "labels")
        # With a cache, transformers would not see that position_ids restart, and documents would mix.
        use_cache = False if use_cache is None else use_cache
        documents = self.document_index(labels, position_ids, attention_mask)
        tails, targets = None, F.pad(labels[:, 1:], (0, 1)).clamp(min=0)
        if negative_ids is None:
            negative_ids = self.draw_negatives(labels)
        vocabulary = self.vocabulary()
        content, target_unit, negative_unit = vocabulary.look_up(input_ids, targets, negative_ids)
        content = inputs_embeds if content is None else content * self.embedding_radius

        if maturity is None and (self.training or maturation_seeds is not None):
            if maturation_seeds is None:
                maturation_seeds = torch.randint(2**62, (labels.shape[0],))
            tails = SimulatedTails(maturation_seeds, labels, documents, self.config)
            maturity, tail_length = tails.maturity, tails.tail_length
            vectors = self._mature(content, tails, backbone_inputs)
            backbone_inputs = self._line_inputs(tails, vectors, backbone_inputs)
            targets, target_unit = tails.at_place(targets), tails.at_place(target_unit)
            weights = self.loss_weights(labels, documents, tails, tail_only)
        else:
            weights, vectors = self.loss_weights(labels, documents), content
            weights = weights if maturity is None else weights * maturity
        predicted, outputs = self._predict(
            vectors,
            self.conditions(maturity, tail_length),
            past_key_values=past_key_values,
            use_cache=use_cache,
            **backbone_inputs,
        )

        context = None
        if self.config.context_negatives > 0:
            ids = labels.clamp(min=0) if input_ids is None else input_ids
            unit = None if negative_ids is None else F.normalize(content, dim=-1)
            window, nats = self.config.context_window, self.config.context_negatives
            context = ContextNegatives(ids, documents, window, nats, unit, None if tails is None else tails.place)
        contrastive = info_nce(
            predicted,
            targets,
            vocabulary.keys(predicted.dtype) if negative_ids is None else negative_unit,
            self.config.logit_scale,
            self.config.vocab_size,
            target_unit=target_unit,
            negative_ids=negative_ids,
            context=context,
        )
        # Detached, or all learned rows would drift together toward the predictions.
        squared = regression(predicted, target_unit.detach() * self.embedding_radius, self.embedding_radius)
        total = weights.sum().clamp(min=1e-6) if num_items_in_batch is None else num_items_in_batch
        regression_loss, contrastive_loss = (squared * weights).sum() / total, (contrastive * weights).sum() / total
        loss = self.config.regression_weight * regression_loss + self.config.contrastive_weight * contrastive_loss
        return self._output(
            predicted,
            outputs,
            None if self.training else logits_to_keep,
            loss=loss,
            regression_loss=regression_loss,
            contrastive_loss=contrastive_loss,
        )

    def _check_ids(self, ids: torch.Tensor, name: str) -> None:
        if ids.device.type == "cpu" and ids.numel() > 0:  # on an accelerator this would wait for the device
            low, high = ids.min().item(), ids.max().item()
            in_range = (low >= 0 or (name == "labels" and low >= -100)) and high < self.config.vocab_size
            require(in_range, name, f"ids from {low} to {high}", f"ids in [0, {self.config.vocab_size - 1}]")

    def draw_negatives(self, labels: torch.Tensor, generator: torch.Generator | None = None) -> torch.Tensor | None:
        """One set of negatives for all positions, shape (num_negatives,); None for `negatives="all"`.

        Args:
            labels: the pool of `negatives="batch"`, any shape.
            generator: a CPU generator. If None: torch's global one in training mode, a fixed one in evaluation.
        """
        config = self.config
        if generator is None and not self.training:
            generator = torch.Generator().manual_seed(0)
        weights = None if self.token_counts is None else self.token_counts.float() ** config.unigram_exponent
        if weights is not None:
            weights = weights * (self.token_counts > 0)  # 0 ** 0 is 1
        return draw_negatives(config.negatives, config.num_negatives, config.vocab_size, labels, weights, generator)

    def _predict(self, vectors, conditions: "Conditions", use_cache=None, **kwargs):
        """z^ for every position: condition (Eq. 2 and 3), run the backbone, apply the head."""
        shift, gamma, beta = conditions
        hidden = (1 + gamma) * (vectors.to(shift.dtype) + shift) + beta
        use_cache = self.config.use_cache and not self.training if use_cache is None else use_cache
        outputs = self.backbone(inputs_embeds=hidden, use_cache=use_cache, return_dict=True, **kwargs)
        return self.head(outputs.last_hidden_state), outputs

    def conditions(self, maturity=None, tail_length=None) -> "Conditions":
        """What the network is told of maturity and tail length, as `forward` takes it (Eq. 2 and 3).

        Decoding asks for the same at every step, at some 3 % of a step's cost, and so keeps what it was given.

        Args: as for `forward`.
        """
        device = self.tail_length_film.table.weight.device
        if tail_length is None or isinstance(tail_length, int):
            length = 1 if tail_length is None else tail_length
            require(1 <= length <= MAX_TAIL_LENGTH, "tail_length", tail_length, f"in [1, {MAX_TAIL_LENGTH}]")
            lengths = torch.full((1, 1), length, device=device)
        else:
            lengths = tail_length[:, None] if tail_length.dim() == 1 else tail_length
        if self.config.film_scope == "tail":
            lengths = torch.ones_like(lengths) if maturity is None else torch.where(maturity < 1, lengths, 1)
        shift = self.maturity_embedding(torch.ones(1, 1, device=device) if maturity is None else maturity)
        return Conditions(shift, *self.tail_length_film(lengths))

    def _output(self, predicted, outputs, logits_to_keep, **losses) -> TokMatOutput:
        kept = slice(-logits_to_keep, None) if isinstance(logits_to_keep, int) else logits_to_keep
        wanted = logits_to_keep is not None and not (torch.is_tensor(kept) and kept.numel() == 0)
        return TokMatOutput(
            logits=self.implied_logits(predicted[:, kept]) if wanted else None,
            past_key_values=outputs.past_key_values,
            hidden_states=outputs.hidden_states,
            attentions=outputs.attentions,
            predicted_embeds=predicted,
            **losses,
        )

    def _line_inputs(self, tails: SimulatedTails, vectors, backbone_inputs: dict) -> dict:
        """The mask and the positions of a line of parallel tails; without them, the inputs as they are."""
        if not tails.parallel:
            return backbone_inputs
        positions = backbone_inputs["position_ids"]
        if positions is None:
            positions = torch.arange(tails.length, device=vectors.device)[None]
        positions = tails.at_place(positions.expand(len(vectors), -1))
        return backbone_inputs | {"attention_mask": tails.mask(vectors.dtype), "position_ids": positions}

    def _mature(self, content, tails: SimulatedTails, backbone_inputs) -> torch.Tensor:
        """The vectors that simulated tails show the network (paper 4.1), shape (batch, length + n, d)."""
        norm, dim = self.config.embryo_norm * self.embedding_radius, content.shape[-1]
        line, tail = tails.at_place(content), tails.noise(dim, norm).to(content.dtype)
        if self.config.maturation == "simulated":
            return corrupt(line, tail, tails.maturity)
        # "rollout": decoding steps at the rate "paper", whose commitments are the sequence's own tokens.
        in_tail = (tails.slot > 0)[..., None]
        with torch.no_grad():
            for steps in range(self.config.rollout_passes, 0, -1):
                earlier = tails.back(steps)
                seen = torch.where(in_tail, tail, earlier.at_place(content))
                inputs = self._line_inputs(earlier, seen, backbone_inputs)
                conditions = self.conditions(tails.maturity, tails.tail_length)
                following, _ = self._predict(seen, conditions, use_cache=False, **inputs)
                embryos = tails.noise(dim, norm, stream=1 + steps)
                moved = tails.moved_up(tail, embryos)
                moved = torch.lerp(moved, following.to(moved), tails.maturity[..., None].to(moved))
                if self.config.rollout_jump:
                    moved = tails.moved_up(moved, embryos, tails.jumps[steps - 1])
                tail = torch.where(earlier.begun[..., None], moved, tail)
        return torch.where(in_tail, tail, line)


TokMatForContinuousLM.register_for_auto_class("AutoModelForCausalLM")

__all__ = ["TokMatForContinuousLM", "TokMatOutput", "TokMatPreTrainedModel"]
