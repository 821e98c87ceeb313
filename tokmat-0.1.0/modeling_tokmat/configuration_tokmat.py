# Copyright 2026 The TokMat authors. Licensed under the Apache License, Version 2.0.
"""TokMat configuration: a decoder-only backbone, and what the weights were trained for."""

from dataclasses import fields

import torch
from transformers import AutoConfig, PreTrainedConfig
from transformers.models.auto.configuration_auto import CONFIG_MAPPING
from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING_NAMES
from transformers.utils import logging

from .checks_tokmat import is_integer, is_number, is_pattern, require
from .maturation_tokmat import MAX_TAIL_LENGTH, SCHEDULE_SETTINGS, validate_schedule
from .vocabulary_tokmat import GEOMETRIES

logger = logging.get_logger(__name__)

NEGATIVES = ("uniform", "unigram", "batch", "all")
MATURATIONS = ("simulated", "rollout")
FILM_SCOPES = ("sequence", "tail")
TRAINED = ("all", "tail")
STRONGEST = 1e6  # of what is multiplied with losses and vectors: far from where float32 ends
MOST_BYTES = 2**33  # that one part of a training step may take
INTEGERS = (
    ("num_negatives", 1, 2**31),
    ("context_window", 0, 2**31),
    ("context_ngram", 1, 8),
    ("rollout_passes", 0, MAX_TAIL_LENGTH),
    ("rollout_jump", 0, MAX_TAIL_LENGTH),
    ("parallel_tails", 0, 2**20),
    ("parallel_slots", 0, MAX_TAIL_LENGTH),
)

# What a saved folder loads with: `AutoModel` and `AutoModelForCausalLM` give the one class that generates.
AUTO_MAP = {
    "AutoConfig": "configuration_tokmat.TokMatConfig",
    "AutoModel": "modeling_tokmat.TokMatForContinuousLM",
    "AutoModelForCausalLM": "modeling_tokmat.TokMatForContinuousLM",
}

# Names that transformers itself writes into, or reads from, a config.json beside a class's declared fields.
_FOREIGN_KEYS = {"auto_map", "model_type", "quantization_config", "name_or_path", "attn_implementation", "num_labels"}
_FOREIGN_KEYS |= {"torch_dtype", "experts_implementation", "output_attentions", "return_dict", "task_specific_params"}


def _of_the_backbone(name: str) -> property:
    """A measure that tools read from a configuration, and set when they resize: the backbone's own."""
    return property(
        lambda config: getattr(config.backbone_config, name),
        lambda config, value: setattr(config.backbone_config, name, value),
    )


class TokMatConfig(PreTrainedConfig):
    r"""
    Configuration of a [`TokMatForContinuousLM`]. Every wrong value is refused with a `ValueError` that names the
    field, the value and what is allowed; so is an unknown name, except in a file, whose unknown names are kept with a
    warning: other tools note things there.

    The measures of the backbone (`vocab_size`, `hidden_size`, `num_hidden_layers`, ...) can be read and set here too.

    Args:
        backbone_config (`PreTrainedConfig` or `dict`, *optional*, defaults to `GPT2Config()`):
            Any decoder-only transformers model with full attention that accepts `inputs_embeds`. A dict needs a
            `"model_type"`.
        geometry (`str`, *optional*, defaults to `"sphere"`):
            Where tokens lie: all at norm R (`"sphere"`, paper 3.1), or where a pretrained source has them
            (`"pretrained"`): committed vectors are its embeddings, `logits` are its logits, and whatever was added to
            it acts in the tail alone.
        embedding_radius (`float`, *optional*):
            R, the norm of every row of `token_embeddings()`, in the units of the backbone's embedding table. Measured
            when the model is made (the mean row norm of its table) if not given.
        logit_scale (`float`, *optional*, defaults to 20.0):
            Inverse InfoNCE temperature on cosines (Eq. 7), and the scale of `logits`; on `<z^, k_i> / R^2` under
            geometry "pretrained".
        tail_adapter_rank (`int`, *optional*, defaults to 0):
            Rank of the adapters in every linear layer of the backbone that act on tail positions alone; 0 is none.
            Needs geometry "pretrained".
        tail_adapter_modules (`str`, *optional*):
            Regular expression that the names of the adapted layers match whole, as PEFT's `target_modules`; all if not
            given.
        successor_head (`bool`, *optional*, defaults to `False`):
            Whether drafts are read off through a head that knows the token before them. Needs geometry "pretrained".
        output_bias (`bool`, *optional*, defaults to `False`):
            Whether an output table of its own (geometry "pretrained", `tie_word_embeddings` False) has a bias.
        train (`str`, *optional*, defaults to `"all"`):
            What is trained: `"all"` weights, or what was added for the `"tail"` alone, beside a frozen source: its
            committed positions are then read once, without gradient. Needs geometry "pretrained" and parallel tails.
        regression_weight (`float`, *optional*, defaults to 1.0):
            rho, the weight of `||z^ - e||^2 / R^2` (Eq. 6). With `train="tail"` e is what the frozen source predicts
            there; otherwise geometry "pretrained", whose z^ are no embeddings, takes 0 alone.
        contrastive_weight (`float`, *optional*, defaults to 1.0):
            lambda, the weight of the InfoNCE term (Eq. 7).
        negatives (`str`, *optional*, defaults to `"uniform"`):
            Source of the negatives: `"uniform"`, `"unigram"`, `"batch"` or `"all"` (the whole vocabulary, exact).
        num_negatives (`int`, *optional*, defaults to 256):
            How many are drawn, with replacement, one set for all positions; unused with `"all"`.
        unigram_exponent (`float`, *optional*, defaults to 0.75):
            Exponent of the token frequencies under `negatives="unigram"`.
        context_negatives (`float`, *optional*, defaults to 0.0):
            w in nats: the distinct earlier ids of the same document enter the denominator with their score + w.
            0 leaves them out.
        context_window (`int`, *optional*, defaults to 0):
            How many positions back `context_negatives` and `phrase_penalty` reach; 0 is the whole document.
        context_ngram (`int`, *optional*, defaults to 1):
            n: only ids that would complete an n-gram which the document holds already; 1 is every earlier id.
        phrase_penalty (`float`, *optional*, defaults to 0.0):
            Rows of the model's own text (`tail_only`) follow a frozen `reference` from which this is taken: nats off
            what completes a bigram of the row, twice as many a trigram, four times from there on. 0: tails alone.
        maturation (`str`, *optional*, defaults to `"simulated"`):
            What the tails of training hold: the true future (`"simulated"`, 4.1), or what decoding steps from fresh
            embryos leave there (`"rollout"`, parallel tails only).
        rollout_passes (`int`, *optional*, defaults to 2):
            How many decoding steps, each one pass without gradient; 0: the embryos themselves.
        rollout_jump (`int`, *optional*, defaults to 0):
            Up to how many tokens each of these steps commits beyond the first, drawn per tail and step: what
            `commit="verified"` does where drafts come true, which leaves slots less mature than their place.
        parallel_tails (`int`, *optional*, defaults to 0):
            Tails per training sequence that lie beside an unmasked copy of it, each continuing a place of its own; all
            go through the network in one pass under a block mask. 0 is the paper's: one tail, at the end.
        parallel_slots (`int`, *optional*, defaults to 0):
            How many slots of each parallel tail are trained, from the front on; 0 is all of them. Under causal
            attention the others do not matter to these: more tails of fewer slots train the near ones more densely.
        tail_weight_floor (`float`, *optional*, defaults to 0.0):
            Least weight of a prediction made from a tail slot, whose weight is otherwise its maturity (4.1).
        film_scope (`str`, *optional*, defaults to `"sequence"`):
            Which positions are told the tail length K (Eq. 3): the whole `"sequence"`, or the `"tail"` alone;
            committed positions (maturity 1) are then told 1, and their keys and values do not depend on K.
        min_tail_length, max_tail_length (`int`, *optional*, defaults to 1 and 32):
            Range of K in training, within [1, 64].
        clean_probability (`float`, *optional*, defaults to 0.5):
            Share of training sequences without a tail; parallel tails leave the sequence itself whole anyway.
        embryo_norm (`float`, *optional*, defaults to 0.1):
            Norm of a fresh vector in units of R.
        schedule, alpha_max, schedule_gamma, schedule_beta (*optional*, default to `"linear"`, 0.9, 0.8, 1.0):
            The maturity schedule: `"linear"`, `"cosine"`, `"geometric"` (gamma) or `"power"` (beta) (paper 3.3).
        freeze_embeddings (`bool`, *optional*, defaults to `False`):
            Whether the embedding table stays as it is in training.
        bos_token_id, eos_token_id, pad_token_id (`int`, *optional*):
            Default to the backbone's.
        use_cache (`bool`, *optional*, defaults to `True`):
            Whether the model returns its keys and values.
        tie_word_embeddings (`bool`, *optional*, defaults to `False`):
            Whether the embeddings are the output table too, under geometry "pretrained"; "sphere" has no other.
    """

    model_type = "tokmat"
    sub_configs = {"backbone_config": AutoConfig}
    keys_to_ignore_at_inference = ["past_key_values", "cache", "regression_loss", "contrastive_loss"]
    keys_to_ignore_at_inference += ["successor_loss", "predicted_embeds", "hidden_states", "attentions"]

    backbone_config: dict | PreTrainedConfig | None = None
    geometry: str = "sphere"
    embedding_radius: float | None = None
    logit_scale: float = 20.0
    tail_adapter_rank: int = 0
    tail_adapter_modules: str | None = None
    successor_head: bool = False
    output_bias: bool = False
    train: str = "all"
    regression_weight: float = 1.0
    contrastive_weight: float = 1.0
    negatives: str = "uniform"
    num_negatives: int = 256
    unigram_exponent: float = 0.75
    context_negatives: float = 0.0
    context_window: int = 0
    context_ngram: int = 1
    phrase_penalty: float = 0.0
    maturation: str = "simulated"
    rollout_passes: int = 2
    rollout_jump: int = 0
    parallel_tails: int = 0
    parallel_slots: int = 0
    tail_weight_floor: float = 0.0
    film_scope: str = "sequence"
    min_tail_length: int = 1
    max_tail_length: int = 32
    clean_probability: float = 0.5
    embryo_norm: float = 0.1
    schedule: str = "linear"
    alpha_max: float = 0.9
    schedule_gamma: float = 0.8
    schedule_beta: float = 1.0
    freeze_embeddings: bool = False
    bos_token_id: int | None = None
    eos_token_id: int | list[int] | None = None
    pad_token_id: int | None = None
    use_cache: bool = True
    tie_word_embeddings: bool = False

    def __post_init__(self, **kwargs):
        unknown = unknown_names(kwargs)
        require(not unknown, "TokMatConfig fields", unknown, "among " + ", ".join(tokmat_fields()))
        kwargs.setdefault("auto_map", dict(AUTO_MAP))
        self.backbone_config = _resolve_backbone(self.backbone_config)
        for name in ("bos_token_id", "eos_token_id", "pad_token_id"):
            if getattr(self, name) is None:
                setattr(self, name, _own_tokens(getattr(self.backbone_config, name, None), self.vocab_size))
        self.check_fields()
        named = not isinstance(self.dtype, str) or isinstance(getattr(torch, self.dtype, None), torch.dtype)
        require(named and isinstance(self.dtype, str | torch.dtype | None), "dtype", self.dtype, "a dtype of torch")
        super().__post_init__(**kwargs)

    @classmethod
    def from_dict(cls, config_dict, **kwargs):
        has, allowed = "backbone_config" in config_dict, "in the configuration (a dict with `model_type`)"
        require(has, "backbone_config", None, allowed)
        noted = {name: config_dict[name] for name in unknown_names(config_dict)}
        if noted:
            logger.warning_once(
                f"This TokMat configuration holds names that TokMat does not know: {', '.join(noted)}. They are kept "
                "and change nothing."
            )
        known = {name: value for name, value in config_dict.items() if name not in noted}
        loaded = super().from_dict(known, **kwargs)
        for name, value in noted.items():
            setattr(loaded[0] if isinstance(loaded, tuple) else loaded, name, value)
        return loaded

    @classmethod
    def tiny(cls, vocab_size: int = 97, model_type: str = "gpt2", **fields) -> "TokMatConfig":
        """About 20,000 parameters without dropout, for trials: a `model_type`, `vocab_size` tokens, any `fields`."""
        backbone: dict = {
            "vocab_size": vocab_size,
            "hidden_size": 32,
            "num_hidden_layers": 2,
            "num_attention_heads": 4,
            "max_position_embeddings": 64,
            "bos_token_id": 0,
            "eos_token_id": 0,
            "pad_token_id": 1,
        }
        if model_type == "gpt2":
            backbone |= {"resid_pdrop": 0.0, "embd_pdrop": 0.0, "attn_pdrop": 0.0}
        else:
            backbone |= {"intermediate_size": 64, "num_key_value_heads": 2, "head_dim": 8}
        fields.setdefault("max_tail_length", 8)
        fields.setdefault("num_negatives", 16)
        return cls(backbone_config=AutoConfig.for_model(model_type, **backbone), **fields)

    def check_fields(self) -> None:
        """Refuse wrong values with a `ValueError` that names the field, the value and what is allowed."""

        def check(name, ok, allowed):
            require(ok(getattr(self, name)), name, getattr(self, name), allowed)

        measure = "a number in [1e-9, 1e9]"  # within what float32 can square and divide by
        check("embedding_radius", lambda value: value is None or is_number(value, 1e-9, 1e9), f"None or {measure}")
        check("logit_scale", lambda value: is_number(value, 1e-9, 1e9), measure)
        for name in ("regression_weight", "contrastive_weight", "context_negatives", "phrase_penalty", "embryo_norm"):
            check(name, lambda value: is_number(value, 0, STRONGEST), f"a number of at least 0, at most {STRONGEST:g}")
        check("unigram_exponent", lambda value: is_number(value, 0, 4), "a number of at least 0, at most 4")
        sources = ("all",) if self.phrase_penalty else NEGATIVES
        check("negatives", lambda value: value in sources, f"one of {', '.join(sources)}")
        for name, low, high in INTEGERS:
            allowed = f"an integer of at least {low}, at most {high}"
            check(name, lambda value, low=low, high=high: is_integer(value, low, high), allowed)
        check("maturation", lambda value: value in MATURATIONS, f"one of {', '.join(MATURATIONS)}")
        check("tail_weight_floor", lambda value: is_number(value, 0, 1), "a number in [0, 1]")
        scopes = ("tail",) if self.parallel_tails else FILM_SCOPES
        which = " when parallel_tails is above 0" if self.parallel_tails else ""
        check("film_scope", lambda value: value in scopes, f"one of {', '.join(scopes)}{which}")
        possible = self.maturation != "rollout" or self.parallel_tails > 0
        require(possible, "parallel_tails", self.parallel_tails, 'at least 1 when maturation is "rollout"')
        check("max_tail_length", lambda value: is_integer(value, 1, MAX_TAIL_LENGTH), f"in [1, {MAX_TAIL_LENGTH}]")
        longest = self.max_tail_length
        check("min_tail_length", lambda value: is_integer(value, 1, longest), f"in [1, max_tail_length = {longest}]")
        check("clean_probability", lambda value: is_number(value, 0, 1), "a number in [0, 1]")
        for name in ("freeze_embeddings", "successor_head", "output_bias", "use_cache", "tie_word_embeddings"):
            check(name, lambda value: isinstance(value, bool), "True or False")
        self._check_geometry(check)
        self._check_memory()
        self._check_tokens()
        validate_schedule(**self.schedule_settings())

    def _check_memory(self) -> None:
        """What one step holds at once, at the least: keys of negatives, (n, d), and the mask among parallel slots."""
        negatives = 4 * self.num_negatives * self.hidden_size
        slots = self.parallel_tails * min(self.parallel_slots or MAX_TAIL_LENGTH, max(self.max_tail_length - 1, 1))
        for name, needed, holds in (
            ("num_negatives", negatives, f"their keys, of hidden_size {self.hidden_size}"),
            ("parallel_tails", 4 * slots**2, f"the mask among {slots:,} slots of one sequence"),
        ):
            few = f"so few that {holds}, fit into {MOST_BYTES:,} bytes (these would take {needed:,})"
            require(needed <= MOST_BYTES, name, getattr(self, name), few)

    def _check_tokens(self) -> None:
        size = self.vocab_size
        for name in ("bos_token_id", "eos_token_id", "pad_token_id"):
            value = getattr(self, name)
            several = name == "eos_token_id" and isinstance(value, list) and value
            ok = value is None or all(is_integer(token, 0, size - 1) for token in (value if several else [value]))
            require(ok, name, value, f"None or an id in [0, {size - 1}]{', or a list of them' * (name[0] == 'e')}")

    def _check_geometry(self, check) -> None:
        check("geometry", lambda value: value in GEOMETRIES, f"one of {', '.join(GEOMETRIES)}")
        check("tail_adapter_rank", lambda value: is_integer(value, 0, 1024), "an integer in [0, 1024]")
        check("tail_adapter_modules", lambda value: value is None or is_pattern(value), "None or a regular expression")
        check("train", lambda value: value in TRAINED, f"one of {', '.join(TRAINED)}")
        if self.geometry == "sphere":
            for name, off in (("tail_adapter_rank", 0), ("successor_head", False), ("train", "all")):
                check(name, lambda value, off=off: value == off, f'{off!r} under geometry "sphere"')
            return
        check("negatives", lambda value: value == "all", '"all" under geometry "pretrained", whose loss is exact')
        if self.train == "tail":
            check("parallel_tails", lambda value: value > 0, 'at least 1 when train is "tail"')
        else:
            rule = '0 under geometry "pretrained", unless train is "tail"'
            check("regression_weight", lambda value: value == 0, rule)

    def schedule_settings(self) -> dict:
        """The maturity schedule as keyword arguments of `schedule_maturity`."""
        return {name: getattr(self, name) for name in SCHEDULE_SETTINGS}

    def get_text_config(self, decoder=None, encoder=None) -> PreTrainedConfig:
        """The backbone's configuration, `decoder` or `encoder`: caches and resizing read its measures."""
        assert isinstance(self.backbone_config, PreTrainedConfig)  # from `__post_init__` on
        return self.backbone_config

    vocab_size = _of_the_backbone("vocab_size")
    hidden_size = _of_the_backbone("hidden_size")
    intermediate_size = _of_the_backbone("intermediate_size")
    num_hidden_layers = _of_the_backbone("num_hidden_layers")
    num_attention_heads = _of_the_backbone("num_attention_heads")
    num_key_value_heads = _of_the_backbone("num_key_value_heads")
    head_dim = _of_the_backbone("head_dim")

    @property
    def max_position_embeddings(self) -> int | None:
        """Positions that the backbone has; None if it sets no limit."""
        return getattr(self.backbone_config, "max_position_embeddings", None)

    @max_position_embeddings.setter
    def max_position_embeddings(self, value: int) -> None:
        self.get_text_config().max_position_embeddings = value


def unknown_names(names) -> list[str]:
    """Which of `names` neither TokMatConfig nor transformers knows."""
    known = {field.name for field in fields(TokMatConfig)} | _FOREIGN_KEYS
    return sorted(
        name for name in names if name not in known and not name.startswith("_") and not hasattr(TokMatConfig, name)
    )


def _own_tokens(token, size: int):
    """A backbone's special token, or None where its vocabulary has none such: defaults of another size."""
    tokens = token if isinstance(token, list) else [token]
    return token if tokens and all(is_integer(one, 0, size - 1) for one in tokens) else None


def tokmat_fields() -> list[str]:
    """Names of the fields that TokMatConfig adds to transformers' own."""
    inherited = {field.name for field in fields(PreTrainedConfig)}
    return [field.name for field in fields(TokMatConfig) if field.name not in inherited]


def _resolve_backbone(backbone) -> PreTrainedConfig:
    if backbone is None:
        backbone = {"model_type": "gpt2"}
    if isinstance(backbone, dict):
        require("model_type" in backbone, "backbone_config", backbone, 'a dict with a "model_type", e.g. "gpt2"')
        values = dict(backbone)
        model_type = values.pop("model_type")
        try:
            known = isinstance(model_type, str) and model_type in CONFIG_MAPPING
            require(known, "backbone_config.model_type", model_type, "a model type that transformers knows")
            backbone = AutoConfig.for_model(model_type, **values)
        except Exception as error:
            if not type(error).__module__.startswith("huggingface_hub"):  # whose validation has errors of its own
                raise
            raise ValueError(f"`backbone_config` has a wrong value. {' '.join(str(error).split())}") from error
    require(isinstance(backbone, PreTrainedConfig), "backbone_config", backbone, "a dict or a PreTrainedConfig")

    name = backbone.model_type
    sizes = ("vocab_size", "hidden_size", "num_hidden_layers", "num_attention_heads")
    decoder_only = name in MODEL_FOR_CAUSAL_LM_MAPPING_NAMES and getattr(backbone, "is_decoder", True) is not False
    decoder_only = decoder_only and not backbone.is_encoder_decoder and hasattr(backbone, "num_attention_heads")
    allowed = "a decoder-only attention model (gpt2, llama, qwen3, ...)"
    require(decoder_only, "backbone_config.model_type", name, allowed)
    nested = backbone.get_text_config() is not backbone
    require(not nested, "backbone_config.model_type", name, "a model of text alone, not one with a text model inside")
    for size in sizes:
        value = getattr(backbone, size, None)
        require(is_integer(value, 1, 2**31), f"backbone_config.{size}", value, "an integer of at least 1, below 2**31")
    window = getattr(backbone, "sliding_window", None) if getattr(backbone, "use_sliding_window", True) else None
    kinds = set(getattr(backbone, "layer_types", None) or ["full_attention"]) - {"full_attention"}
    found = f"{name} with sliding_window={window}, layer_types={sorted(kinds)}"
    require(window is None and not kinds, "backbone_config", found, "a model with full attention in every layer")
    return backbone


TokMatConfig.register_for_auto_class()

__all__ = ["TokMatConfig"]
