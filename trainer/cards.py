# Copyright 2026 The TokMat authors. Licensed under the Apache License, Version 2.0.
"""Model cards, made of what lies in a folder and of what was measured: nothing is claimed that no file says."""

import json
import math
import os
import subprocess
import sys
import tempfile
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from huggingface_hub import EvalResult, ModelCard, ModelCardData
from safetensors import safe_open

import modeling_tokmat
from modeling_tokmat import TokMatConfig

from .checkpoints import ORIGIN, read_json, tokmat_config
from .evaluation.table import COLUMNS, columns, markdown
from .hub import PICTURES, has_card, listed
from .tail_adapter import attach_folder

TEMPLATE = Path(__file__).with_name("model_card.md.jinja")
TAGS = ("custom_code", "token-maturation", "arxiv:2601.04854")
PROMPT, NEW_TOKENS, SHOWN_STEPS, SHOWN_SLOTS = "Once upon a time", 40, (1, 10, 20, 30), 6
MODEL, TAIL, LORA = "model", "tail adapter", "LoRA adapter"
LOAD = {
    MODEL: """\
from transformers import AutoModelForCausalLM, AutoTokenizer

model = AutoModelForCausalLM.from_pretrained({name}, trust_remote_code=True)
tokenizer = AutoTokenizer.from_pretrained({name}, trust_remote_code=True)
""",
    LORA: """\
from peft import PeftModel
from transformers import AutoModelForCausalLM, AutoTokenizer

base = AutoModelForCausalLM.from_pretrained({base}, trust_remote_code=True)
model = PeftModel.from_pretrained(base, {name}).eval()
tokenizer = AutoTokenizer.from_pretrained({base}, trust_remote_code=True)
""",
}
LOAD[TAIL] = LOAD[MODEL]
WRITE = """\
inputs = tokenizer({prompt}, return_tensors="pt")
ids = model.generate(**inputs, max_new_tokens={new_tokens})
print(tokenizer.decode(ids[0]))
"""
# Goes on in the process that ran the snippet.
PROBE = """
import json, torch, transformers
output = model.generate(**inputs, max_new_tokens={new_tokens}, return_dict_in_generate=True, output_maturation=True)
ids, prompt, rows = output.sequences[0].tolist(), inputs["input_ids"].shape[1], []
for number, step in enumerate(output.maturation, 1):
    if number in {steps}:
        tail = [tokenizer.decode([token]) for token in step.token_ids[0, :{slots}].tolist()]
        committed = tokenizer.decode(ids[: prompt + int(step.position[0])])
        rows.append([number, committed, tail, step.maturity[:{slots}].tolist()])
print("\\x1e" + json.dumps({{"rows": rows, "torch": torch.__version__, "transformers": transformers.__version__}}))
"""


@dataclass
class CardOptions:
    """What a card says that no file of the folder does.

    Args:
        repo_id: its name on the Hub. base_model, datasets: Hub names. language: of the text, such as "en".
        license, data_license: of the weights, and of what they were trained on.
        results: the results.json of `tokmat evaluate`. prompt: of the sample; the first that was evaluated if None.
        source: where an adapter's base lies here. sample: run the loading snippet, and show what it writes.
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
    trust_remote_code: bool = False


def write_card(folder: Path, options: CardOptions, overwrite: bool = False) -> Path:
    """Write README.md of a model or adapter.

    Raises:
        ValueError: as for `make_card`, or a card is there that is not to be overwritten.
    """
    path = folder / "README.md"
    if has_card(folder) and not overwrite:
        raise ValueError(f"{path} exists: --overwrite replaces it")
    temporary = folder / ".README.md.tmp"
    try:
        make_card(folder, options).save(temporary)
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)
    return path


def make_card(folder: Path, options: CardOptions) -> ModelCard:
    """The card of a model, tail adapter or LoRA adapter; sections of which nothing is known are left out.

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
    sample = take_sample(folder, kind, base, prompt, options) if options.sample else None
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
        training=read_json(folder / "trainer_state.json"),
        held_out={HELD_OUT[name]: f"{value:.4g}" for name, value in held_out.items()},
        table=markdown(result) if result else None,
        result=result,
        row=row,
        pictures=[file for file in upload.files if file.endswith(PICTURES)],
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
        arguments |= {"judge": result["judge"]} if name in ("judge_perplexity", "mauve") else {}
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
    task = {"task_type": "text-generation", "task_name": "Text Generation"}
    return EvalResult(metric_type=kind, metric_name=name, metric_value=round(value, 4), **task, **kwargs)


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


# -- the snippet and what it writes -----------------------------------------------------------------------------------


def snippet(kind: str, name: str, base: str, prompt: str) -> str:
    load = LOAD[kind].format(name=json.dumps(name), base=json.dumps(base))
    return load + WRITE.format(prompt=json.dumps(prompt, ensure_ascii=False), new_tokens=NEW_TOKENS)


def take_sample(folder: Path, kind: str, base: str | None, prompt: str, options: CardOptions) -> dict:
    """Run the card's snippet on the folder, in a process that has none of this package's code, and watch the tail.

    Returns:
        what it printed, `text`; lines that show the tail at some steps, `tail`; `torch` and `transformers`.

    Raises:
        ValueError: code that is not this package's, no base for an adapter, or a snippet that fails.
    """
    source = options.source or base
    if kind != MODEL and source is None:
        raise ValueError(f"{folder} does not say what it is an adapter of: give --source, or --no-sample")
    with tempfile.TemporaryDirectory() as elsewhere:
        place, beside = str(folder.resolve()), str(source)
        if kind == TAIL:
            place = str(Path(elsewhere) / "attached")
            attach_folder(beside, str(folder), Path(place))
        else:
            beside = str(Path(beside).resolve()) if Path(beside).is_dir() else beside
            check_code(beside if kind == LORA else place, options.trust_remote_code)
        steps = {"steps": SHOWN_STEPS, "slots": SHOWN_SLOTS, "new_tokens": NEW_TOKENS}
        code = snippet(kind, place, beside, prompt) + PROBE.format(**steps)
        environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
        environment |= {"HF_MODULES_CACHE": f"{elsewhere}/modules", "PYTHONIOENCODING": "utf-8"}
        command = [sys.executable, "-c", code]
        done = subprocess.run(command, cwd=elsewhere, env=environment, capture_output=True, encoding="utf-8")
    if done.returncode:
        last = done.stderr.strip().splitlines()[-1:] or ["no message"]
        raise ValueError(f"the loading snippet of the card of {folder} does not run: {last[0]}")
    text, _, found = done.stdout.rpartition("\x1e")
    sample = json.loads(found)
    return {**sample, "text": text.rstrip("\n"), "prompt": prompt, "tail": [_shown(*row) for row in sample["rows"]]}


def _shown(number: int, committed: str, tail: list[str], maturity: list[float]) -> str:
    slots = "  ".join(f"{token!r} {value:.2f}" for token, value in zip(tail, maturity))
    return f"step {number:2}  ...{committed[-40:]!r}  |  {slots}"


def check_code(place: str, trusted: bool) -> None:
    """Raises:
    ValueError: the snippet would run code that is not this package's, and that nobody said is trusted.
    """
    own = Path(modeling_tokmat.__file__).parent
    files = list(Path(place).glob("*.py")) if Path(place).is_dir() else []
    same = [(own / file.name).is_file() and (own / file.name).read_bytes() == file.read_bytes() for file in files]
    if not trusted and not (files and all(same)):
        what = (
            "is on the Hub, and its code"
            if not Path(place).is_dir()
            else "holds code that is not this package's, which"
        )
        raise ValueError(
            f"{place} {what} is not run unasked: read it, and make the card with `tokmat card "
            "--trust-remote-code` if you trust it, or with --no-sample"
        )
