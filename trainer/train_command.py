# Copyright 2026 The TokMat authors. Licensed under the Apache License, Version 2.0.
"""`tokmat train`: from a command line to data, tokenizer, model, a training run and the folder it leaves."""

import dataclasses
import json
import logging
import math
import re
import shlex
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

import torch
from datasets import Dataset, Value, interleave_datasets
from rich.console import Console
from rich.table import Table
from transformers import AutoConfig, AutoTokenizer, Trainer, set_seed

from modeling_tokmat import MaturationSettings, TokMatConfig, TokMatForContinuousLM
from modeling_tokmat.configuration_tokmat import tokmat_fields

from . import data as corpus
from .argument_parser import OneLineParser, optional_fields
from .callbacks import CheckpointOnInterrupt
from .collator import TokMatDataCollator
from .output_folder import checkpoints, find_checkpoint, is_finished, missing_from, remove_outputs, save_whole
from .tokmat_trainer import TokMatTrainer
from .training_args import TokMatTrainingArguments

_LLAMA = {"model_type": "llama", "max_position_embeddings": 1024}
_GPT2 = {"model_type": "gpt2", "resid_pdrop": 0.0, "embd_pdrop": 0.0, "attn_pdrop": 0.0}
PRESETS = {
    "tiny": _LLAMA | {"hidden_size": 64, "intermediate_size": 176, "num_hidden_layers": 2, "num_attention_heads": 4},
    "small": _LLAMA | {"hidden_size": 256, "intermediate_size": 688, "num_hidden_layers": 6, "num_attention_heads": 4},
    "gpt2": _GPT2,
    "gpt2-medium": _GPT2 | {"n_embd": 1024, "n_layer": 24, "n_head": 16},
}
# Where a new model departs from TokMatConfig: the exact contrastive term with a small regression weight trains best,
# and the radius is sqrt(hidden_size), because with the mean row norm of a fresh table the regression term, which is
# divided by its square, would start 500 times too large.
SCRATCH = {"negatives": "all", "regression_weight": 0.1}
# What makes a tail know what comes next (docs/LOOKAHEAD.md).
LOOK_AHEAD = {
    "maturation": "rollout",
    "rollout_passes": 1,
    "parallel_tails": 40,
    "parallel_slots": 3,
    "tail_weight_floor": 0.5,
    "film_scope": "tail",
    "min_tail_length": 8,
    "max_tail_length": 8,
}
SCRATCH_HELP = {name: repr(value) for name, value in SCRATCH.items()} | {"embedding_radius": "sqrt(hidden_size)"}

TRAINING_DEFAULTS = {
    "output_dir": "tokmat-model",
    "learning_rate": 1e-3,
    "warmup_steps": 0.03,
    "lr_scheduler_type": "cosine",
    "weight_decay": 0.1,
    "adam_beta2": 0.95,
    "per_device_train_batch_size": 16,
    "per_device_eval_batch_size": 16,
    "logging_steps": 20,
    "save_steps": 200,
    "eval_steps": 200,
    "save_total_limit": 2,
    "seed": 0,
    "report_to": "none",
    "dataloader_pin_memory": torch.cuda.is_available(),
}
TOKENIZER_DOCUMENTS = 100_000  # of a stream, for the tokenizer
STREAMED_VALIDATION_ROWS = 256  # of a stream, held in memory
_NOT_FLAGS = {"backbone_config", "bos_token_id", "eos_token_id", "pad_token_id", "use_cache", "tie_word_embeddings"}


# -- the command line -------------------------------------------------------------------------------------------------


def _argument(text: str, default=None, **kwargs):
    return field(default=default, metadata={"help": text, **kwargs})


@dataclass
class DataArguments:
    _argument_group_name = "data"

    data: list[str] = field(
        metadata={
            "metavar": "SOURCE",
            "help": '"builtin", a text file, a folder, a .json, .jsonl, .csv or .parquet file (several files or '
            "folders may be given), or the name of a Hub data set",
        }
    )
    data_name: str | None = _argument("configuration of a Hub data set")
    data_split: str = _argument("split of a Hub data set", "train")
    text_column: str = _argument("column that holds the text", "text")
    streaming: bool = _argument("read the data while training, without a copy on the disk; needs --max-steps", False)
    tail_data: list[str] | None = _argument(
        "further text, which trains the tails alone: what the model itself wrote (tokmat own-text)",
        metavar="SOURCE",
    )
    tail_share: float = _argument("part of the training rows that --tail-data gives, some of them repeatedly", 0.5)
    validation_data: list[str] | None = _argument("held-out data, instead of a part of --data", metavar="SOURCE")
    validation_fraction: float = _argument("part of the documents of --data that is held out; 0 = none", 0.02)
    block_size: int = _argument("tokens per training row", 256)
    packing: bool = _argument("fill rows with several documents (otherwise a row is one document, cut)", True)
    tokenizer: str | None = _argument("name or folder; otherwise a byte-level BPE is trained on the data")
    vocab_size: int = _argument("size of a tokenizer that is trained", 4096)
    num_proc: int | None = _argument("processes that tokenize")


@dataclass
class ModelArguments:
    _argument_group_name = "model and run"

    objective: Literal["maturation", "ar"] = _argument(
        "maturation, or ar: the autoregressive baseline, the same backbone trained with cross-entropy on the same "
        "batches by transformers' Trainer",
        "maturation",
    )
    model: str | None = _argument("go on training this model: a folder or a Hub name")
    backbone: str | None = _argument(
        f"architecture of a new model: {', '.join(PRESETS)}, or a JSON file (or its folder) with a backbone's or a "
        'whole TokMat configuration (default: "small")'
    )
    look_ahead: bool = _argument(
        "train the tail to know what comes next; stands for "
        + " ".join(f"--{name.replace('_', '-')} {value}" for name, value in LOOK_AHEAD.items())
        + ", of which each can still be given",
        False,
    )
    overwrite: bool = _argument("replace the model and the checkpoints that --output-dir already holds", False)


def make_parser() -> OneLineParser:
    names = [name for name in tokmat_fields() if name not in _NOT_FLAGS]
    tokmat = optional_fields(TokMatConfig, "what the weights are trained for", names, SCRATCH_HELP)
    TokMatTrainingArguments._argument_group_name = "training (all of transformers' TrainingArguments)"
    parser = OneLineParser(
        [DataArguments, ModelArguments, tokmat, TokMatTrainingArguments],
        prog="tokmat train",
        usage="tokmat train --data SOURCE [options]",
        description="Train a TokMat model, from scratch or on from a saved one. Ctrl-C saves a checkpoint first; "
        '"--resume-from-checkpoint last" goes on from it. A bare --debug (or TOKMAT_DEBUG=1) shows tracebacks.',
    )
    parser.set_defaults(**TRAINING_DEFAULTS, bf16=None, eval_strategy=None)
    return parser


def bf16_supported(use_cpu: bool = False) -> bool:
    """Whether bf16 autocast pays here: on a GPU that has it, or a CPU with instructions for it."""
    if torch.cuda.is_available() and not use_cpu:
        return torch.cuda.is_bf16_supported()
    checks = ("_is_amx_tile_supported", "_is_avx512_bf16_supported")  # private, so possibly gone
    return any(getattr(torch.cpu, check, lambda: False)() for check in checks)


# -- data, tokenizer, model -------------------------------------------------------------------------------------------


def load_pretrained(load, name: str, **kwargs):
    """`load(name)`, with an error that says in one sentence what is wrong with the name.

    A name below a folder that exists is taken for a path; others of the form "name" or "owner/name" are the Hub's.

    Raises:
        OSError: there is no such folder or Hub repository.
    """
    local = Path(name).expanduser()
    if local.is_dir():
        if load != AutoTokenizer.from_pretrained and not is_finished(local):
            saved = next((path for path in checkpoints(local) if not missing_from(path)), None)
            hint = f"; its last checkpoint is {saved}" if saved else ""
            raise FileNotFoundError(f"{name} holds no config.json{hint}")
        return load(str(local), **kwargs)
    a_path = local.exists() or ("/" in name and local.parent.is_dir())
    if a_path or not re.fullmatch(r"\w[\w.-]*(/[\w.-]+)?", name):
        raise FileNotFoundError(f"there is no folder {name}")
    logging.getLogger("huggingface_hub").setLevel(logging.ERROR)  # of its retries the result is enough
    try:
        return load(name, **kwargs)
    except OSError as error:
        reason = str(error).splitlines()[0]
        raise OSError(f"{name} is neither a folder nor a Hub repository that can be reached ({reason})") from error


def tokmat_config(name: str, **kwargs) -> TokMatConfig:
    """The configuration of a saved TokMat model.

    Raises:
        OSError: there is no such model. ValueError: it is of another kind.
    """
    if (
        "/" not in name and not Path(name).expanduser().is_dir()
    ):  # the Hub has models without an owner, but none of ours
        raise FileNotFoundError(f"there is no folder {name}, and a Hub name has the form owner/name")
    config = load_pretrained(AutoConfig.from_pretrained, name, trust_remote_code=True, **kwargs)
    if config.model_type != TokMatConfig.model_type:
        raise ValueError(f"{name} is a {config.model_type} model, not a TokMat model")
    return config


def read_backbone(name: str) -> dict:
    """Fields of a TokMatConfig, at least `backbone_config`, from a preset, a JSON file or its folder.

    Raises:
        FileNotFoundError: neither a preset nor a file. ValueError: not the JSON of a configuration.
    """
    if name in PRESETS:
        return {"backbone_config": dict(PRESETS[name])}
    path = Path(name).expanduser()
    path = path / "config.json" if path.is_dir() else path
    if not path.is_file():
        raise FileNotFoundError(f"--backbone {name} is neither a preset ({', '.join(PRESETS)}) nor a JSON file")
    try:
        values = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise ValueError(f"--backbone {name} is not JSON ({error})") from error
    if not isinstance(values, dict) or "model_type" not in values:
        raise ValueError(f'--backbone {name} has no "model_type"')
    values = values if values["model_type"] == TokMatConfig.model_type else {"backbone_config": values}
    if not isinstance(values.get("backbone_config"), dict):
        raise ValueError(f'--backbone {name} is a TokMat configuration without "backbone_config"')
    for level in (values, values["backbone_config"]):  # weights from scratch are float32
        level.pop("dtype", None), level.pop("torch_dtype", None)
    return values


def special_tokens(tokenizer) -> dict[str, int]:
    bos = tokenizer.eos_token_id if tokenizer.bos_token_id is None else tokenizer.bos_token_id
    return dict(bos_token_id=bos, eos_token_id=tokenizer.eos_token_id, pad_token_id=tokenizer.pad_token_id)


def check_vocabulary(tokenizer, config, source: str) -> None:
    if len(tokenizer) > config.vocab_size:
        raise ValueError(f"the tokenizer has {len(tokenizer)} tokens, but {source} only {config.vocab_size}")


def make_model(source: str | None, backbone: str | None, given: dict, tokenizer) -> TokMatForContinuousLM:
    """A saved model (`source`) or a new one, with the fields that were `given` and the tokenizer's special tokens.

    Raises:
        ValueError: a field with a wrong value, or a tokenizer with more tokens than the saved model.
    """
    tokens = special_tokens(tokenizer)
    if source is None:
        values = SCRATCH | read_backbone("small" if backbone is None else backbone) | given | tokens
        values["backbone_config"] |= {"vocab_size": len(tokenizer), **tokens}
        config = TokMatConfig.from_dict(values)
        if config.embedding_radius is None:
            config.embedding_radius = math.sqrt(config.hidden_size)
        return TokMatForContinuousLM(config)
    config = tokmat_config(source, **given, **tokens)
    check_vocabulary(tokenizer, config, source)
    model = TokMatForContinuousLM.from_pretrained(source, config=config, dtype=torch.float32)
    settings = {item.name for item in dataclasses.fields(MaturationSettings)}
    for name, value in (given | tokens).items():  # decode as trained: one schedule for both
        if name in settings or name in tokens:
            setattr(model.generation_config, name, value)
    model.generation_config.tail_length = min(model.generation_config.tail_length, config.max_tail_length)
    return model


def load_tokenizer(source: str | None, train_documents, arguments: DataArguments):
    if source is not None:
        tokenizer = load_pretrained(AutoTokenizer.from_pretrained, source)
    else:
        most = TOKENIZER_DOCUMENTS if arguments.streaming else None
        tokenizer = corpus.train_tokenizer(train_documents, arguments.vocab_size, max_documents=most)
    if tokenizer.pad_token_id is None:
        tokenizer.pad_token = tokenizer.eos_token
    tokenizer.padding_side = "left"
    return tokenizer


def load_source(source: list[str], arguments: DataArguments, **kwargs):
    source = source[0] if len(source) == 1 else source
    return corpus.load_documents(source, text_column=arguments.text_column, streaming=arguments.streaming, **kwargs)


def load_splits(arguments: DataArguments, seed: int):
    """(training documents, validation documents or None)."""
    documents = load_source(arguments.data, arguments, name=arguments.data_name, split=arguments.data_split)
    if arguments.validation_data:
        return documents, load_source(arguments.validation_data, arguments)
    if arguments.validation_fraction == 0:
        return documents, None
    return corpus.split_documents(documents, arguments.validation_fraction, seed)


def make_rows(documents, tokenizer, arguments: DataArguments):
    if documents is None:
        return None
    options = {"packing": arguments.packing, "num_proc": arguments.num_proc}
    return corpus.tokenize_and_pack(documents, tokenizer, arguments.block_size, **options)


def with_tail_rows(rows: Dataset, tail_rows: Dataset, arguments: DataArguments, seed: int) -> Dataset:
    """Both kinds of rows mixed, told apart by the column `tail_only`; all of them occur, the rarer ones repeatedly."""
    marked = [part.add_column("tail_only", [kind] * len(part)) for kind, part in enumerate((rows, tail_rows))]
    marked = [part.cast_column("tail_only", Value("bool")) for part in marked]
    shares = [1 - arguments.tail_share, arguments.tail_share]
    return interleave_datasets(marked, shares, seed=seed, stopping_strategy="all_exhausted")


# -- the run ----------------------------------------------------------------------------------------------------------


def train(argv: list[str], go_on: str | None = None, prepare: Callable | None = None) -> int:
    """Train as the arguments say; returns the exit code: 0, or 128 + the number of the signal that interrupted.

    Args:
        argv: the command line behind `tokmat train`.
        go_on: how the user resumes after an interruption; by default with this command line.
        prepare: called with the model before it is trained.

    Raises:
        ValueError, OSError: wrong arguments or data, with a message for the user.
    """
    parser = make_parser()
    values = parser.parse(argv)
    values["use_cpu"] = values["use_cpu"] or torch.accelerator.current_accelerator() is None  # or bf16 is refused
    if values["bf16"] is None:
        values["bf16"] = bf16_supported(values["use_cpu"]) and not values["fp16"]
    if values["eval_strategy"] is None:
        values["eval_strategy"] = "steps" if values["validation_data"] or values["validation_fraction"] else "no"
    data, model_arguments, tokmat, args = parser.parse_dict(values)
    given = {name: value for name, value in vars(tokmat).items() if value is not None}
    if data.tail_data and data.streaming:
        raise ValueError("--tail-data cannot be mixed into a stream: leave out --streaming")
    if not 0 < data.tail_share < 1:
        raise ValueError(f"`tail_share` is {data.tail_share}, but it must lie between 0 and 1, both excluded")
    given = LOOK_AHEAD | given if model_arguments.look_ahead else given
    if model_arguments.model and model_arguments.backbone:
        raise ValueError("--model goes on with a saved model and --backbone makes a new one: give one of them")
    folder = Path(args.output_dir)
    checkpoint = find_checkpoint(folder, args.resume_from_checkpoint, model_arguments.overwrite)
    args.resume_from_checkpoint = None if checkpoint is None else str(checkpoint)
    source = args.resume_from_checkpoint or model_arguments.model
    baseline = model_arguments.objective == "ar"
    if baseline and data.tail_data:
        raise ValueError("--objective ar has no tails, so --tail-data means nothing")
    if baseline and given:
        raise ValueError(f"--objective ar has no maturation, so --{next(iter(given)).replace('_', '-')} means nothing")
    if source is None and not baseline:
        TokMatConfig.from_dict(SCRATCH | read_backbone(model_arguments.backbone or "small") | given)  # wrong values
    elif not baseline:
        tokmat_config(source, **given).check_fields()

    with args.main_process_first(desc="preparing the data"):
        documents, held_out = load_splits(data, args.seed)
        tokenizer = load_tokenizer(args.resume_from_checkpoint or data.tokenizer or source, documents, data)
        rows, held_out_rows = make_rows(documents, tokenizer, data), make_rows(held_out, tokenizer, data)
        if data.tail_data:
            rows = with_tail_rows(rows, make_rows(load_source(data.tail_data, data), tokenizer, data), data, args.seed)
        if held_out_rows is not None and data.streaming:
            held_out_rows = Dataset.from_list(list(held_out_rows.take(STREAMED_VALIDATION_ROWS)))
    set_seed(args.seed)
    if baseline:
        from .baseline import make_baseline

        model = make_baseline(source, model_arguments.backbone, tokenizer)
        model.config.use_cache = False  # with a cache transformers would not see where packed documents begin
    else:
        model = make_model(source, model_arguments.backbone, given, tokenizer)
    if prepare is not None:
        prepare(model)
    limit = getattr(model.config, "max_position_embeddings", None)
    if limit is not None and data.block_size > limit:
        raise ValueError(f"--block-size {data.block_size} is more than the model's {limit} positions")

    interrupt = CheckpointOnInterrupt()
    trainer = (Trainer if baseline else TokMatTrainer)(
        model,
        args,
        train_dataset=rows,
        eval_dataset=held_out_rows,
        processing_class=tokenizer,
        data_collator=TokMatDataCollator(tokenizer),
        callbacks=[interrupt],
    )
    if args.should_save:
        if checkpoint is None and model_arguments.overwrite:
            remove_outputs(folder)
        save_whole(tokenizer.save_pretrained, folder)
    size = "streamed rows" if data.streaming else f"{len(rows):,} rows"
    print(
        f"{model.num_parameters():,} parameters, {len(tokenizer):,} tokens in the vocabulary, {size} of at most "
        f"{data.block_size} tokens; {'bf16' if args.bf16 else 'fp16' if args.fp16 else 'fp32'} on {args.device}",
        flush=True,
    )
    trainer.train(resume_from_checkpoint=args.resume_from_checkpoint)
    if interrupt.interrupted:
        go_on = go_on or "the same command and --resume-from-checkpoint last"
        print(f"Interrupted: step {trainer.state.global_step} is saved in {folder}. Go on with {go_on}", flush=True)
        return 128 + interrupt.interrupted

    if baseline:
        model.config.use_cache = True
    save_whole(trainer.save_model, folder)
    metrics = last_metrics(trainer) if held_out_rows is not None else {}
    if baseline and metrics:  # its loss is the cross-entropy, which TokMat's is not
        metrics["eval_perplexity"] = math.exp(metrics["eval_loss"])
    if args.should_save:
        report(trainer, metrics, folder)
    return 0


def last_metrics(trainer) -> dict[str, float]:
    """The evaluation of the final weights: the one training ended with, if it did."""
    for entry in reversed([] if trainer.args.load_best_model_at_end else trainer.state.log_history):
        if entry["step"] == trainer.state.global_step and "eval_loss" in entry:
            return entry
    return trainer.evaluate()


def report(trainer, metrics: dict[str, float], folder: Path) -> None:
    trainer.save_state()
    if metrics:
        names = ("eval_perplexity", "eval_accuracy", "eval_loss")
        kept = {name: metrics[name] for name in names if name in metrics}
        (folder / "eval_results.json").write_text(json.dumps(kept, indent=2) + "\n", encoding="utf-8")
        table = Table("held-out text", "", title=None)
        for name, value in kept.items():
            table.add_row(name.removeprefix("eval_"), f"{value:.4g}")
        Console().print(table)
    if isinstance(trainer, TokMatTrainer):
        print(f"Saved in {folder}: the model with its code, tokenizer and generation settings.")
        print(f'Next: tokmat generate {shlex.quote(str(folder))} "Once upon a time" --watch', flush=True)
    else:
        print(f"Saved in {folder}: the autoregressive model and its tokenizer.")
        print(f"Next: tokmat convert {shlex.quote(str(folder))} FOLDER makes a TokMat model of it", flush=True)
