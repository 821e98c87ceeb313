# Copyright 2026 The TokMat authors. Licensed under the Apache License, Version 2.0.
"""A training run: from a plan to data, tokenizer, model, training and the folder that it leaves."""

import dataclasses
import functools
import json
import math
import shlex
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from datasets import Dataset, Value, interleave_datasets
from rich.console import Console
from rich.table import Table
from transformers import set_seed

from modeling_tokmat import TokMatConfig
from modeling_tokmat.configuration_tokmat import tokmat_fields

from . import data as corpus
from .arguments import DataArguments, ModelArguments
from .callbacks import CheckpointOnInterrupt
from .checkpoints import (
    base_model,
    find_checkpoint,
    load_model,
    load_tokenizer,
    public_name,
    put_aside,
    put_back,
    remove_leftovers,
    save_origin,
    save_whole,
    tokmat_config,
)
from .collator import TokMatDataCollator
from .guarded_trainer import GuardedTrainer
from .models import bf16_supported, machine_device, make_baseline, make_model, read_backbone
from .own_text import answer_rows, is_own_text, load_own_text
from .recipes import LOOK_AHEAD, SCRATCH, SOURCE_TAIL, TRAINING_DEFAULTS
from .tail_adapter import save_tail_adapter
from .tokmat_trainer import TokMatTrainer
from .training_args import TokMatTrainingArguments

TOKENIZER_DOCUMENTS = 100_000  # of a stream, for the tokenizer
STREAMED_VALIDATION_ROWS = 256  # of a stream, held in memory
# What a card tells of the arguments.
TOLD = ("per_device_train_batch_size", "gradient_accumulation_steps", "learning_rate", "lr_scheduler_type")
TOLD += ("warmup_steps", "weight_decay", "adam_beta1", "adam_beta2", "max_grad_norm", "seed", "bf16", "fp16")
# What the backbone, the tokenizer or the run itself decides.
_NOT_GIVEN = {"backbone_config", "bos_token_id", "eos_token_id", "pad_token_id", "use_cache", "tie_word_embeddings"}


def config_fields() -> list[str]:
    """The fields of `TokMatConfig` that a training run may be given."""
    return [name for name in tokmat_fields() if name not in _NOT_GIVEN]


@dataclass
class TrainingPlan:
    """What a run reads, starts from and does.

    Args:
        fields: of `TokMatConfig`, those that are given; a new model has the recipes' defaults otherwise, a saved one
            keeps its own.
        training: arguments of `TokMatTrainingArguments`; the others are `recipes.TRAINING_DEFAULTS`.
        prepare: called with the model before it is trained.
        go_on: how the user resumes after an interruption.
    """

    data: DataArguments
    model: ModelArguments = field(default_factory=ModelArguments)
    fields: dict[str, Any] = field(default_factory=dict)
    training: dict[str, Any] = field(default_factory=dict)
    prepare: Callable | None = None
    go_on: str = "the same command and --resume-from-checkpoint last"

    @classmethod
    def of(cls, prepare: Callable | None = None, go_on: str | None = None, **values) -> "TrainingPlan":
        """A plan of arguments by name, each going to the class that has a field of this name.

        A field of `TokMatConfig` that is None is one that was not given.

        Raises:
            TypeError: a name that no class has.
        """
        homes = (DataArguments, ModelArguments, TokMatTrainingArguments)
        names = [{item.name for item in dataclasses.fields(home) if item.init} for home in homes]
        names.append(set(config_fields()))
        unknown = [name for name in values if not any(name in group for group in names)]
        if unknown:
            raise TypeError(f"{unknown[0]!r} is no argument of a training run")
        data, model, training, fields = ({name: values[name] for name in values if name in group} for group in names)
        given = {name: value for name, value in fields.items() if value is not None}
        plan = cls(DataArguments(**data), ModelArguments(**model), given, training, prepare)
        return plan if go_on is None else dataclasses.replace(plan, go_on=go_on)

    def training_arguments(self) -> TokMatTrainingArguments:
        """Of this machine: bf16 where it pays; and evaluation where text is held out."""
        values: dict[str, Any] = TRAINING_DEFAULTS | self.training
        values["use_cpu"] = values.get("use_cpu") or machine_device().type == "cpu"  # or bf16 is refused
        if values.get("bf16") is None:
            values["bf16"] = bf16_supported(bool(values.get("use_cpu"))) and not values.get("fp16")
        if values.get("eval_strategy") is None:
            held_out = self.data.validation_data or self.data.validation_fraction
            values["eval_strategy"] = "steps" if held_out else "no"
        return TokMatTrainingArguments(**values)


# -- data and tokenizer -----------------------------------------------------------------------------------------------


def make_tokenizer(source: str | None, train_documents, arguments: DataArguments, trust_remote_code=False):
    if source is not None:
        tokenizer = load_tokenizer(source, trust_remote_code)
    else:
        most = TOKENIZER_DOCUMENTS if arguments.streaming else None
        tokenizer = corpus.train_tokenizer(train_documents, arguments.vocab_size, max_documents=most)
    if tokenizer.pad_token_id is None:
        tokenizer.pad_token = tokenizer.eos_token
    tokenizer.padding_side = "left"
    return tokenizer


def load_source(sources: list[str], arguments: DataArguments, **kwargs):
    source = sources[0] if len(sources) == 1 else sources
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


def prepare_rows(data: DataArguments, tokenizer_source: str | None, seed: int, trust_remote_code: bool = False):
    """(tokenizer, training rows, held-out rows or None)."""
    if len(data.data) == 1 and is_own_text(data.data[0]):
        return prepare_answers(data, tokenizer_source, seed, trust_remote_code)
    documents, held_out = load_splits(data, seed)
    tokenizer = make_tokenizer(tokenizer_source, documents, data, trust_remote_code)
    rows, held_out_rows = make_rows(documents, tokenizer, data), make_rows(held_out, tokenizer, data)
    if data.tail_data:
        rows = with_tail_rows(rows, make_rows(load_source(data.tail_data, data), tokenizer, data), data, seed)
    if held_out_rows is not None and data.streaming:
        held_out_rows = Dataset.from_list(list(held_out_rows.take(STREAMED_VALIDATION_ROWS)))
    return tokenizer, rows, held_out_rows


def prepare_answers(data: DataArguments, tokenizer_source: str | None, seed: int, trust_remote_code: bool = False):
    """As `prepare_rows`, for a file of `tokmat own-text`, whose ids are those of the model that wrote it."""
    if tokenizer_source is None:
        raise ValueError("--data is a model's own text, which holds that model's token ids: give it by --model")
    answers, held_out = load_own_text(data.data[0], data.loop_share), None
    if data.validation_data:
        held_out = load_own_text(data.validation_data[0], data.loop_share)
    elif data.validation_fraction:
        parts = answers.train_test_split(data.validation_fraction, seed=seed)
        answers, held_out = parts["train"], parts["test"]
    rows = [None if part is None else answer_rows(part, data.block_size) for part in (answers, held_out)]
    return make_tokenizer(tokenizer_source, None, data, trust_remote_code), *rows


# -- the run ----------------------------------------------------------------------------------------------------------


def fit(plan: TrainingPlan) -> int:
    """Train as the plan says; returns the exit code: 0, or 128 + the number of the signal that interrupted.

    Raises:
        ValueError, OSError: wrong arguments or data, with a message for the user.
    """
    args, data, start = plan.training_arguments(), plan.data, plan.model
    fields = recipe_of(plan) | plan.fields
    check_plan(plan, fields)
    folder, baseline = Path(str(args.output_dir)), start.objective == "ar"
    with args.main_process_first(desc="looking at the output folder"):
        if args.should_save:
            put_back(folder)
    checkpoint = find_checkpoint(folder, args.resume_from_checkpoint, start.overwrite)
    args.resume_from_checkpoint = None if checkpoint is None else str(checkpoint)
    source = args.resume_from_checkpoint or start.model
    if not baseline:
        check_fields(source, start.backbone, fields)

    with args.main_process_first(desc="preparing the data"):
        tokenizer_source = args.resume_from_checkpoint or data.tokenizer or source
        tokenizer, rows, held_out_rows = prepare_rows(data, tokenizer_source, args.seed, start.trust_remote_code)
    set_seed(args.seed)
    if baseline:
        model = make_baseline(source, start.backbone, tokenizer, start.trust_remote_code)
        model.config.use_cache = False  # with a cache transformers would not see where packed documents begin
    else:
        model = make_model(source, start.backbone, fields, tokenizer)
    if plan.prepare is not None:
        plan.prepare(model)
    limit = getattr(model.config, "max_position_embeddings", None)
    if limit is not None and data.block_size > limit:
        raise ValueError(f"--block-size {data.block_size} is more than the model's {limit} positions")

    interrupt = CheckpointOnInterrupt()
    followed = {"reference": load_model(start.reference)} if start.reference else {}
    trainer = (GuardedTrainer if baseline else TokMatTrainer)(
        model,
        args,
        train_dataset=rows,
        eval_dataset=held_out_rows,
        processing_class=tokenizer,
        data_collator=TokMatDataCollator(tokenizer),
        callbacks=[interrupt],
        **followed,
    )
    if args.should_save:
        remove_leftovers(folder)
        if checkpoint is None and start.overwrite:
            trainer.make_room = functools.partial(replace_outputs, folder, tokenizer)
        else:
            save_whole(tokenizer.save_pretrained, folder)
    size = "streamed rows" if data.streaming else f"{len(rows):,} rows"
    print(
        f"{model.num_parameters():,} parameters, {len(tokenizer):,} tokens in the vocabulary, {size} of at most "
        f"{data.block_size} tokens; {'bf16' if args.bf16 else 'fp16' if args.fp16 else 'fp32'} on {args.device}",
        flush=True,
    )
    trainer.train(resume_from_checkpoint=args.resume_from_checkpoint)
    if interrupt.interrupted:
        step = trainer.state.global_step
        print(f"Interrupted: step {step} is saved in {folder}. Go on with {plan.go_on}", flush=True)
        return 128 + interrupt.interrupted

    if baseline:
        model.config.use_cache = True
    save_whole(functools.partial(trainer.save_model, _internal_call=True), folder, trainer.replace)
    if args.should_save:
        remove_leftovers(folder)
    if args.should_save and isinstance(trainer, TokMatTrainer) and fields.get("train") == "tail":
        save_tail_adapter(trainer.tokmat, folder, start.model)
    metrics = last_metrics(trainer) if held_out_rows is not None else {}
    if baseline and metrics:  # its loss is the cross-entropy, which TokMat's is not
        metrics["eval_perplexity"] = math.exp(metrics["eval_loss"])
    if args.should_save:
        report(trainer, metrics, folder)
        save_origin(folder, **origin_of(plan, args))
    if args.push_to_hub:
        trainer.push_saved()
    return 0


def origin_of(plan: TrainingPlan, args: TokMatTrainingArguments) -> dict[str, Any]:
    """What a model card tells of a run: its data and what it started from, by names that say nothing of this machine,
    and its settings."""
    data, start = plan.data, plan.model.model
    sources = {
        name: [*map(public_name, getattr(data, name) or [])] for name in ("data", "tail_data", "validation_data")
    }
    on_hub = [name for name in data.data if name != "builtin" and not Path(name).expanduser().exists()]
    settings = {name: getattr(args, name) for name in TOLD}
    settings = {name: value for name, value in settings.items() if value is not None and value is not False}
    settings |= {"processes": args.world_size, "block_size": data.block_size}
    started = {"model": start and public_name(start), "base_model": start and base_model(start)}
    started |= {"reference": public_name(plan.model.reference)} if plan.model.reference else {}
    return {**sources, "datasets": on_hub, **started, "settings": settings}


def replace_outputs(folder: Path, tokenizer) -> None:
    put_aside(folder)
    try:
        save_whole(tokenizer.save_pretrained, folder)
    except OSError:
        put_back(folder)
        raise


def recipe_of(plan: TrainingPlan) -> dict[str, Any]:
    """What `--look-ahead` and `--train tail` stand for; a model that has a tail of its own keeps what it says of it.

    Raises:
        ValueError: adapters of another rank than the model's.
    """
    if plan.fields.get("train") != "tail":
        return LOOK_AHEAD if plan.model.look_ahead else {}
    rank = tokmat_config(plan.model.model).tail_adapter_rank if plan.model.model else 0
    given = plan.fields.get("tail_adapter_rank", rank)
    if rank and given != rank:
        raise ValueError(f"`tail_adapter_rank` is {given}, but {plan.model.model} has adapters of rank {rank}")
    return {} if rank else SOURCE_TAIL


def check_plan(plan: TrainingPlan, fields: dict) -> None:
    """Raises:
    ValueError: arguments that exclude one another.
    """
    data, start = plan.data, plan.model
    if data.tail_data and data.streaming:
        raise ValueError("--tail-data cannot be mixed into a stream: leave out --streaming")
    if not 0 < data.tail_share < 1:
        raise ValueError(f"`tail_share` is {data.tail_share}, but it must lie between 0 and 1, both excluded")
    if start.model and start.backbone:
        raise ValueError("--model goes on with a saved model and --backbone makes a new one: give one of them")
    if start.objective == "ar" and data.tail_data:
        raise ValueError("--objective ar has no tails, so --tail-data means nothing")
    follows = bool(start.reference), bool(data.tail_data and fields.get("phrase_penalty"))
    if follows[0] != follows[1]:
        raise ValueError("--reference, --phrase-penalty and --tail-data belong together: rows of own text follow it")
    if start.objective == "ar" and fields:
        raise ValueError(
            f"--objective ar has no maturation, so --{next(iter(fields)).replace('_', '-')} means nothing"
        )


def check_fields(source: str | None, backbone: str | None, fields: dict) -> None:
    """Raises:
    ValueError: a field with a wrong value, of a new model or of the saved one in `source`.
    """
    if source is None:
        TokMatConfig.from_dict(SCRATCH | read_backbone(backbone or "small") | fields)
    else:
        tokmat_config(source, **fields).check_fields()


def last_metrics(trainer) -> dict[str, float]:
    """The evaluation of the final weights: the one training ended with, if it did."""
    for entry in reversed([] if trainer.args.load_best_model_at_end else trainer.state.log_history):
        if entry["step"] == trainer.state.global_step and "eval_loss" in entry:
            return entry
    return trainer.evaluate()


def report(trainer, metrics: dict[str, float], folder: Path) -> None:
    trainer.save_state()
    if metrics:
        names = ("eval_perplexity", "eval_accuracy", "eval_loss", *(f"eval_slot_acc_{slot}" for slot in range(2, 6)))
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
