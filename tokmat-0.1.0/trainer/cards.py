# Copyright 2026 The TokMat authors. Licensed under the Apache License, Version 2.0.
"""Model cards, made of what lies in a folder and of what was measured: nothing is claimed that no file says."""

import json
import math
import os
import tempfile
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from huggingface_hub import EvalResult, ModelCard, ModelCardData
from safetensors import safe_open

from modeling_tokmat import TokMatConfig

from .card_samples import LORA, MODEL, PROMPT, TAIL, snippet, take_sample
from .checkpoints import ORIGIN, read_json, tokmat_config
from .evaluation.table import COLUMNS, columns, markdown
from .hub import PICTURES, has_card, listed
from .pictures import NotInstalled, heatmap, losses, save
from .traces import Run

TEMPLATE = Path(__file__).with_name("model_card.md.jinja")
TAGS = ("custom_code", "token-maturation", "arxiv:2601.04854")
# What is drawn for a card, by its name in the folder, and what is written under it.
HEATMAP, LOSSES = "pictures/heatmap.png", "pictures/losses.png"
CAPTIONS = {HEATMAP: "How the sample matured, step by step", LOSSES: "The curves of the training"}


@dataclass
class CardOptions:
    """What a card says that no file of the folder does.

    Args:
        repo_id: its name on the Hub. base_model, datasets: Hub names. language: of the text, such as "en".
        license, data_license: of the weights, and of what they were trained on.
        results: the results.json of `tokmat evaluate`. prompt: of the sample; the first that was evaluated if None.
        source: where an adapter's base lies here. sample: run the loading snippet, and show what it writes.
        pictures: draw how the sample matured, and the curves of the training, where they are known.
        trust_remote_code: run code that is not this package's.
    """

    repo_id: str | None = None
    base_model: str | None = None
    datasets: list[str] = field(default_factory=list)
    language: str | None = None
    license: str | None = None
    data_license: str | None = None
    results: Path | None = None
    prompt: str | None = None
    source: str | None = None
    sample: bool = True
    pictures: bool = True
    trust_remote_code: bool = False


def write_card(folder: Path, options: CardOptions, overwrite: bool = False) -> Path:
    """Write README.md of a model or adapter, and its pictures.

    Raises:
        ValueError: as for `make_card`, or a card is there that is not to be overwritten.
    """
    path = folder / "README.md"
    if has_card(folder) and not overwrite:
        raise ValueError(f"{path} exists: --overwrite replaces it")
    kind_of(folder)
    with tempfile.TemporaryDirectory(dir=folder, prefix=".card-") as temporary:
        make_card(folder, options, Path(temporary)).save(Path(temporary) / path.name)
        for name in (HEATMAP, LOSSES, path.name):
            if (Path(temporary) / name).is_file():
                (folder / name).parent.mkdir(exist_ok=True)
                os.replace(Path(temporary) / name, folder / name)
    return path


def make_card(folder: Path, options: CardOptions, drawn: Path | None = None) -> ModelCard:
    """The card of a model, tail adapter or LoRA adapter; sections of which nothing is known are left out.

    Args:
        drawn: a folder for the pictures that it shows and that are not in `folder` yet; none are drawn without it.

    Raises:
        ValueError, OSError: no model or adapter, results of another one, or a snippet that does not run.
    """
    kind = kind_of(folder)
    upload = listed(folder)
    run = read_json(folder / ORIGIN)
    base = options.base_model or base_of(folder, kind, run)
    result = read_results(options.results) if options.results else None
    row = row_of(result, folder.resolve().name, kind) if result else None
    held_out = {name: value for name, value in read_json(folder / "eval_results.json").items() if name in HELD_OUT}
    prompt = options.prompt or first_prompt(options.results) or PROMPT
    name = options.repo_id or folder.resolve().name
    sample = None
    if options.sample:
        sample = take_sample(folder, kind, options.source or base, prompt, options.trust_remote_code)
    training = read_json(folder / "trainer_state.json")
    pictures = {file: file for file in upload.files if file.endswith(PICTURES) and file not in CAPTIONS}
    if drawn is not None and options.pictures:
        pictures |= draw(drawn, sample["run"] if sample else None, training.get("log_history", []))
    data = ModelCardData(
        model_name=name.split("/")[-1],
        eval_results=[*evaluated(result, row), *held_out_results(held_out, run)] or None,
        base_model=base,
        base_model_relation="adapter" if base and kind != MODEL else None,
        datasets=options.datasets or run.get("datasets") or None,
        language=options.language,
        license=options.license,
        library_name="peft" if kind == LORA else "transformers",
        pipeline_tag="text-generation",
        tags=[*TAGS, *{TAIL: ["tail-adapter"], LORA: ["lora"]}.get(kind, [])],
    )
    return ModelCard.from_template(
        data,
        template_path=str(TEMPLATE),
        kind=kind,
        name=name.split("/")[-1],
        place=name,
        base=base,
        snippet=snippet(kind, name if kind != TAIL else "attached", base or "BASE", prompt),
        sample=sample,
        settings=settings(folder, kind, upload.files),
        run=run,
        training=training,
        held_out={HELD_OUT[name]: f"{value:.4g}" for name, value in held_out.items()},
        table=markdown(result) if result else None,
        result=result,
        row=row,
        pictures=pictures,
        losses=pictures.pop(LOSSES, None) and LOSSES,
        data_license=options.data_license,
        code="config.json" in upload.files,
    )


def kind_of(folder: Path) -> str:
    """Raises:
    FileNotFoundError: no such folder. ValueError: it holds neither a TokMat model nor an adapter.
    """
    if not folder.is_dir():
        raise FileNotFoundError(f"there is no folder {folder}")
    if (folder / "config.json").is_file():
        tokmat_config(str(folder.resolve()))
        return MODEL
    for name, kind in (("tail_adapter_config.json", TAIL), ("adapter_config.json", LORA)):
        if (folder / name).is_file():
            return kind
    raise ValueError(f"{folder} holds no TokMat model, tail adapter or LoRA adapter, of which a card could be made")


def base_of(folder: Path, kind: str, run: dict) -> str | None:
    """The Hub name of what a model was made from, as far as it is written down; a folder's name is none."""
    if kind == LORA:
        found = read_json(folder / "adapter_config.json").get("base_model_name_or_path")
    elif kind == TAIL:
        found = read_json(folder / "tail_adapter_config.json").get("source")
    else:
        found = run.get("base_model")
    return found if found and found.count("/") == 1 and not Path(found).exists() else None


# -- what was measured ------------------------------------------------------------------------------------------------

HELD_OUT = {
    "eval_perplexity": "perplexity of the implied next-token distribution",
    "eval_accuracy": "next-token accuracy",
    "eval_loss": "the loss of training",
} | {f"eval_slot_acc_{slot}": f"accuracy of simulated slot {slot}" for slot in range(2, 6)}


def read_results(path: Path) -> dict:
    """Raises:
    ValueError: not a results.json of `tokmat evaluate`.
    """
    path = path / "results.json" if path.is_dir() else path
    result = read_json(path)
    missing = [name for name in ("models", "decoders", "data", "conventions") if name not in result]
    if missing:
        raise ValueError(f"--results {path} is no results.json of `tokmat evaluate`: it has no {missing[0]!r}")
    return result


def row_of(result: dict, name: str, kind: str) -> dict:
    """The results of the model `name` among those of an evaluation.

    Raises:
        ValueError: it was not evaluated.
    """
    rows = {row["name"]: row for row in result["decoders"]}
    row = rows.get("tokmat") if len(result["models"]) == 1 else rows.get(f"tokmat ({name})")
    # An adapter is evaluated as part of a model, under the name of that.
    if row is None or (kind == MODEL and name not in result["models"]):
        raise ValueError(f"--results are of {', '.join(result['models'])}, not of {name}")
    return row


def first_prompt(results: Path | None) -> str | None:
    path = results and (results if results.is_dir() else results.parent) / "samples.json"
    return json.loads(path.read_text(encoding="utf-8"))[0]["prompt"] if path and path.is_file() else None


def evaluated(result: dict | None, row: dict | None) -> list[EvalResult]:
    """What `tokmat evaluate` measured, for the model-index."""
    found = []
    for name in columns({"decoders": [row]}) if result and row else ():
        assert result is not None and row is not None
        mean, *interval = row[name] if isinstance(row[name], list) else [row[name]]
        arguments: dict[str, Any] = {"interval": [round(value, 4) for value in interval]} if interval else {}
        arguments |= {"judge": result["judge"]} if name.startswith("judge") or name == "mauve" else {}
        shared: dict[str, Any] = {"dataset_type": ", ".join(result["data"]), "dataset_name": ", ".join(result["data"])}
        shared["dataset_args"] = {key: result[key] for key in ("prompts", "prompt_tokens", "new_tokens", "seeds")}
        found.append(_result(name, COLUMNS[name], mean, metric_args=arguments or None, **shared))
    return found


def held_out_results(held_out: dict, run: dict) -> list[EvalResult]:
    """What training measured on held-out text, for the model-index, if it is known of which text."""
    data = ", ".join(run.get("validation_data") or run.get("data") or [])
    shared: dict[str, Any] = {
        "dataset_type": data,
        "dataset_name": f"{data} (held out)",
        "dataset_split": "validation",
    }
    names = [name for name in held_out if data and name != "eval_loss"]
    return [_result(name.removeprefix("eval_"), HELD_OUT[name], held_out[name], **shared) for name in names]


def _result(kind: str, name: str, value: float, **kwargs) -> EvalResult:
    task: dict[str, Any] = {"task_type": "text-generation", "task_name": "Text Generation"}
    return EvalResult(metric_type=kind, metric_name=name, metric_value=round(value, 4), **task, **kwargs)


def draw(folder: Path, run: Run | None, history: list[dict]) -> dict[str, str]:
    """Draw what is known into `folder`: captions by name. Without matplotlib that is nothing, and a line says so."""
    known = {HEATMAP: run and (heatmap, run), LOSSES: any("loss" in entry for entry in history) and (losses, history)}
    try:
        for name, picture in known.items():
            if picture:
                save(picture[0](picture[1]), folder / name)
    except NotInstalled as error:
        print(f"The card has no pictures: {error}", flush=True)
        return {}
    return {name: CAPTIONS[name] for name, picture in known.items() if picture}


# -- what it is -------------------------------------------------------------------------------------------------------


def settings(folder: Path, kind: str, files: dict[str, int]) -> dict[str, str]:
    """What a model or adapter is and was trained for, by its own configuration."""
    parameters = sum(count_parameters(folder / name) for name in files if name.endswith(".safetensors"))
    if kind == LORA:
        values = read_json(folder / "adapter_config.json")
        adapted = values.get("target_modules")
        shown = adapted if isinstance(adapted, str) else ", ".join(sorted(adapted or []))
        rank = f"rank {values.get('r')}, alpha {values.get('lora_alpha')}, of `{shown}`"
        return {"parameters": f"{parameters:,}", "LoRA": rank}
    if kind == TAIL:
        values = read_json(folder / "tail_adapter_config.json")
        source, saved = values.get("fingerprint", {}), values.get("generation", {})
        config = TokMatConfig(backbone_config={"model_type": "gpt2"}, **values["config"] | {"geometry": "pretrained"})
        backbone = (
            f"{source.get('model_type')}, {source.get('num_hidden_layers')} layers of {source.get('hidden_size')}"
        )
        backbone += f", {source.get('vocab_size'):,} tokens"
    else:
        config, saved = tokmat_config(str(folder.resolve())), read_json(folder / "generation_config.json")
        inner: Any = config.backbone_config
        backbone = f"{inner.model_type}, {config.num_hidden_layers} layers of {config.hidden_size}"
        backbone += f", {config.vocab_size:,} tokens"
    found = {"backbone": backbone, "parameters": f"{parameters:,}", "geometry": config.geometry}
    if kind == MODEL and config.embedding_radius:
        found["radius R"] = f"{config.embedding_radius:.4g}"
    found["loss"] = f"{config.regression_weight:g} * regression + {config.contrastive_weight:g} * InfoNCE"
    drawn = "" if config.negatives == "all" else f"{config.num_negatives} "
    found["negatives"] = f"{drawn}{config.negatives}"
    if config.context_negatives:
        reach = f"the last {config.context_window} positions" if config.context_window else "the whole document"
        completing = f", those that complete a {config.context_ngram}-gram" if config.context_ngram > 1 else ""
        found["context negatives"] = f"{config.context_negatives:g} nats, of {reach}{completing}"
    lengths = sorted({config.min_tail_length, config.max_tail_length})
    trained = f"{config.maturation}, K = {' to '.join(map(str, lengths))}"
    trained += f", {config.parallel_tails} parallel tails" if config.parallel_tails else ""
    found["tails in training"] = trained
    if config.tail_adapter_rank:
        found["tail adapters"] = f"rank {config.tail_adapter_rank}" + ", successor head" * config.successor_head
    names = ("tail_length", "commit", "schedule", "alpha_max", "embryo_norm", "guidance_scale")
    found["decoding"] = ", ".join(f"`{name}={saved[name]!r}`" for name in names if name in saved)
    return {name: value for name, value in found.items() if value}


def count_parameters(path: Path) -> int:
    with safe_open(path, "pt") as file:
        return sum(math.prod(file.get_slice(name).get_shape()) for name in file.keys())
