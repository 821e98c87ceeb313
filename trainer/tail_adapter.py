# Copyright 2026 The TokMat authors. Licensed under the Apache License, Version 2.0.
"""A tail apart from its source: what `--train tail` trained, a folder of a few MB that is put on the source again.

tail_adapter.safetensors     adapters under PEFT's names (layers.0.self_attn.q_proj.lora_A.weight), the embeddings of
                             maturity and tail length, and the successor head
tail_adapter_config.json     what they were trained for, how they decode, and which source they fit
"""

import json
from pathlib import Path
from typing import cast

import torch
from huggingface_hub import snapshot_download
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from transformers import PreTrainedModel

from modeling_tokmat import TokMatForContinuousLM
from modeling_tokmat.checks_tokmat import is_number, require
from modeling_tokmat.configuration_tokmat import tokmat_fields
from modeling_tokmat.modeling_tokmat import ADDED_FOR_THE_TAIL
from modeling_tokmat.settings_tokmat import SETTINGS, MaturationSettings

from .checkpoints import (
    base_model,
    check_new,
    check_vocabulary,
    load_model,
    load_pretrained,
    load_tokenizer,
    public_name,
    save_origin,
    save_whole,
)
from .conversion import Agreement, agreement, check_source, from_autoregressive, probe_rows

WEIGHTS, CONFIG = "tail_adapter.safetensors", "tail_adapter_config.json"
ADAPTERS = ADDED_FOR_THE_TAIL[0]
# What the source decides, and not the tail.
_OF_THE_SOURCE = {"backbone_config", "embedding_radius", "logit_scale", "geometry", "output_bias"}
_OF_THE_SOURCE |= {"bos_token_id", "eos_token_id", "pad_token_id", "use_cache", "tie_word_embeddings"}
FINGERPRINT_ROWS, FINGERPRINT_TOLERANCE = 16, 0.05  # quantisation moves the norm of a row by less


def tail_tensors(model: TokMatForContinuousLM) -> dict[str, torch.Tensor]:
    """What was added to the source for the tail, by the names of the file."""
    found = {}
    for name, weight in model.named_parameters():
        if name.startswith(ADDED_FOR_THE_TAIL):
            found[_to_file(name)] = weight.detach()
    return found


def _to_file(name: str) -> str:
    if not name.startswith(ADAPTERS):
        return name
    layer, _, matrix = name.removeprefix(ADAPTERS).rpartition(".")
    return f"{layer.replace('/', '.')}.{matrix}.weight"


def fingerprint(model: PreTrainedModel) -> dict:
    """Of a source: its architecture, and the norms of some embedding rows."""
    config, embeddings = model.config.get_text_config(), model.get_input_embeddings()
    table = cast(torch.Tensor, embeddings.weight).detach()
    places = torch.linspace(0, len(table) - 1, FINGERPRINT_ROWS).long()
    shape = {name: getattr(config, name) for name in ("model_type", "hidden_size", "num_hidden_layers", "vocab_size")}
    return shape | {"row_norms": [round(norm, 4) for norm in table[places].float().norm(dim=-1).tolist()]}


def save_tail_adapter(
    model: TokMatForContinuousLM, folder: Path, source: str | None = None, dtype: torch.dtype = torch.bfloat16
) -> None:
    """Write the tail of `model` to `folder`.

    Args:
        source: the name of the source, for whoever reads the file. dtype: of the tensors.

    Raises:
        ValueError: the model has no tail adapters.
    """
    if model.tail_adapters is None:
        raise ValueError("`model` has no tail adapters (tail_adapter_rank is 0), so there is nothing to save apart")
    fields = {name: getattr(model.config, name) for name in tokmat_fields() if name not in _OF_THE_SOURCE}
    # A model that was saved before a setting existed has it not.
    settings = {name: getattr(model.generation_config, name, getattr(MaturationSettings, name)) for name in SETTINGS}
    values = {
        "source": source and public_name(source),
        "fingerprint": fingerprint(model),
        "config": fields,
        "generation": settings,
    }
    tensors = {name: weight.to(dtype).cpu().contiguous() for name, weight in tail_tensors(model).items()}

    def save(temporary):
        save_file(tensors, Path(temporary) / WEIGHTS, metadata={"format": "pt"})
        (Path(temporary) / CONFIG).write_text(json.dumps(values, indent=1) + "\n", encoding="utf-8")

    save_whole(save, folder)


def load_tail_adapter(name: str) -> tuple[dict, dict[str, torch.Tensor]]:
    """(configuration, tensors) of a folder or a Hub repository.

    Raises:
        OSError: neither. ValueError: a file of it is missing or damaged.
    """
    folder = Path(name).expanduser()
    if not folder.is_dir():
        folder = Path(load_pretrained(lambda repo: snapshot_download(repo, allow_patterns=[WEIGHTS, CONFIG]), name))
    for file in (CONFIG, WEIGHTS):
        if not (folder / file).is_file():
            raise ValueError(f"{name} holds no tail adapter: there is no {file}")
    try:
        values = json.loads((folder / CONFIG).read_text(encoding="utf-8"))
        check_values(values)
        tensors = load_file(folder / WEIGHTS)
        for name, weight in tensors.items():
            fits = weight.is_floating_point() and bool(weight.isfinite().all())
            require(fits, name, "not finite" if weight.is_floating_point() else weight.dtype, "finite numbers")
        return values, tensors
    except (ValueError, SafetensorError) as error:
        raise ValueError(f"the tail adapter in {name} is damaged: {error}") from error


def check_values(values) -> None:
    """Raises:
    ValueError: values that are none of a tail adapter's configuration.
    """
    parts = values if isinstance(values, dict) else {}
    for part in ("fingerprint", "config", "generation"):
        require(isinstance(parts.get(part), dict), part, parts.get(part), "an object")
    norms = parts["fingerprint"].get("row_norms")
    numbers = isinstance(norms, list) and len(norms) == FINGERPRINT_ROWS and all(is_number(norm, 0) for norm in norms)
    require(numbers, "row_norms", norms, f"{FINGERPRINT_ROWS} numbers")
    unknown = sorted(parts["config"].keys() - (set(tokmat_fields()) - _OF_THE_SOURCE))
    require(not unknown, "config", unknown, "without these, which are no fields of a tail")
    unknown = sorted(parts["generation"].keys() - set(SETTINGS))
    require(not unknown, "generation", unknown, f"among {', '.join(SETTINGS)}")
    MaturationSettings(**parts["generation"])


def attach(
    model: PreTrainedModel, values: dict, tensors: dict[str, torch.Tensor], copy: bool = True
) -> TokMatForContinuousLM:
    """A TokMat model of a source and of a tail that was trained beside it.

    Args:
        model: the autoregressive source. values, tensors: as `load_tail_adapter` gives them.
        copy: as `from_autoregressive` takes it.

    Raises:
        ValueError: the tail was trained beside another source, or its tensors do not fit its configuration.
    """
    check_fingerprint(values.get("fingerprint") or {}, fingerprint(model))
    tokmat = from_autoregressive(model, copy=copy, **values["config"])
    own = {_to_file(name): weight for name, weight in tokmat.named_parameters() if name.startswith(ADDED_FOR_THE_TAIL)}
    shapes = {name: tuple(weight.shape) for name, weight in own.items()}
    found = {name: tuple(weight.shape) for name, weight in tensors.items()}
    if shapes != found:
        wrong = sorted(set(shapes.items()) ^ set(found.items()))[0]
        raise ValueError(
            f"`{wrong[0]}` of the tail adapter is {found.get(wrong[0], 'missing')}, but the source and rank "
            f"{tokmat.config.tail_adapter_rank} need {shapes.get(wrong[0], 'no such tensor')}"
        )
    with torch.no_grad():
        for name, weight in own.items():
            weight.copy_(tensors[name])
    for name, value in values["generation"].items():
        setattr(tokmat.generation_config, name, value)
    return tokmat


def check_fingerprint(trained: dict, source: dict) -> None:
    """Raises:
    ValueError: a tail trained beside another source than this.
    """
    for name in ("model_type", "hidden_size", "num_hidden_layers", "vocab_size"):
        if trained.get(name) != source[name]:
            raise ValueError(
                f"the tail adapter was trained beside a source of {name} {trained.get(name)}, not {source[name]}"
            )
    for one, other in zip(trained["row_norms"], source["row_norms"]):
        if abs(one - other) > FINGERPRINT_TOLERANCE * max(one, other):
            raise ValueError(
                "the tail adapter was trained beside another source: an embedding row of norm "
                f"{one} there has {other} here"
            )


def attach_folder(source: str, adapter: str, folder: Path) -> Agreement:
    """Save the TokMat model of a source and a tail adapter, each a folder or a Hub name, in `folder`.

    Raises:
        ValueError: `folder` holds a model, or the two do not fit. OSError: one of them does not exist.
    """
    check_new(folder)
    if (Path(source).expanduser() / CONFIG).is_file() and not (Path(adapter).expanduser() / CONFIG).is_file():
        raise ValueError(f"{source} is a tail adapter, not a source: the order is SOURCE ADAPTER OUT")
    values, tensors = load_tail_adapter(adapter)
    check_source(source)
    model = load_model(source, dtype="auto").eval()
    tokenizer = load_tokenizer(source)
    check_vocabulary(tokenizer, model.config, source)
    tokmat = attach(model, values, tensors, copy=False)
    found = agreement(model, tokmat, probe_rows(tokenizer, tokmat.config.max_position_embeddings))

    def save(temporary):
        tokmat.save_pretrained(temporary)
        tokenizer.save_pretrained(temporary)
        save_origin(Path(temporary), base_model=base_model(source))

    save_whole(save, folder)
    return found
