# Copyright 2026 The TokMat authors. Licensed under the Apache License, Version 2.0.
"""Training speed and peak memory on the CPU: TokMatTrainer against transformers' Trainer on the same backbone.

    python benchmarks/train.py                  # GPT-2 small, random weights; best on an otherwise idle machine
    python benchmarks/train.py --preset tiny    # a smoke run of seconds
    python benchmarks/train.py --source models/smollm2-135m-instruct --dtype fp32 --steps 2

Three variants: cross-entropy (GPT2LMHeadModel), TokMat with 256 uniform negatives, TokMat with the whole vocabulary.
With `--source` two: LoRA of that pretrained model (PEFT, every linear layer, cross-entropy), and a tail beside it
(`tokmat train --train tail`) whose adapters have the same rank. Everybody trains on the same random tokens.
Speed: one process per variant, all alive at once, that take turns in segments of `--steps` optimizer steps (a whole
number of logging periods); the figure is the median over segments of seconds per step. Peak memory: one process per
variant, one after another, without the allocator settings that the timed ones have; the largest resident size over a
few steps, some of which log. The last line on stdout is one JSON object.
"""

import argparse
import multiprocessing
import os
import resource
import statistics
import sys
import tempfile
import time
from pathlib import Path

import torch
import transformers
from decode import (
    ALLOCATOR,
    PRESETS,
    backbone_config,
    command_line,
    judged,
    machine_facts,
    machine_line,
    progress_bar,
    report,
    stdout_console,
)
from rich.table import Table
from transformers import (
    AutoConfig,
    AutoModelForCausalLM,
    GPT2LMHeadModel,
    PrinterCallback,
    Trainer,
    TrainerCallback,
    TrainingArguments,
)

from modeling_tokmat import TokMatConfig, TokMatForContinuousLM
from trainer.conversion import from_autoregressive
from trainer.recipes import SOURCE_TAIL
from trainer.tokmat_trainer import TokMatTrainer
from trainer.training_args import TokMatTrainingArguments

VARIANTS = ("cross_entropy", "uniform", "all")  # the first is the baseline
VARIANTS_OF_SOURCE = ("lora", "tail")
TARGET_SPEED = {"uniform": 1.0, "tail": 1 / 0.6}  # at least this much of the baseline's; "all" is reported only
TARGET_MEMORY = {"uniform": 1.0, "all": 1.0, "tail": 0.6}  # at most this much of the baseline's
LOGGING_STEPS = 10
MEMORY_STEPS = 4


class Segments(TrainerCallback):
    """Hands the machine to the parent process after the warm-up and after every segment, and takes it back."""

    def __init__(self, connection, warmup: int, steps: int, repeats: int, clock):
        self.connection, self.warmup, self.steps, self.clock = connection, warmup, steps, clock
        self.last, self.times = warmup + repeats * steps, []

    def on_step_end(self, args, state, control, **kwargs):
        self.times.append(self.clock())
        done = state.global_step - self.warmup
        if done >= 0 and done % self.steps == 0:
            taken = [after - before for before, after in zip(self.times, self.times[1:])]
            self.connection.send(taken)  # seconds of each step of this segment; of the warm-up, one too few
            self.connection.recv()
            control.should_training_stop = state.global_step == self.last
            self.times = [self.clock()]


def make_trainer(variant: str, options: dict, max_steps: int, logging_steps: int, folder: str) -> Trainer:
    torch.manual_seed(options["seed"])
    size, source = (options["batch_size"], options["block_size"]), options["source"]
    backbone = AutoConfig.from_pretrained(source) if source else backbone_config(options["preset"])
    ids = torch.randint(backbone.vocab_size, (size[0] * max_steps, size[1]))
    arguments = {"output_dir": folder, "max_steps": max_steps, "logging_steps": logging_steps, "use_cpu": True}
    arguments |= {"per_device_train_batch_size": size[0], "bf16": options["dtype"] == "bf16", "report_to": "none"}
    arguments |= {"save_strategy": "no", "disable_tqdm": True, "dataloader_pin_memory": False}
    if variant in ("cross_entropy", "lora"):
        trainer_class, args = Trainer, TrainingArguments(**arguments)
        model = lora_model(source, options["rank"]) if source else GPT2LMHeadModel(backbone)
    else:
        trainer_class, args = TokMatTrainer, TokMatTrainingArguments(**arguments)
        if source:
            fields = SOURCE_TAIL | {"tail_adapter_rank": options["rank"], "parallel_tails": options["parallel_tails"]}
            model = from_autoregressive(AutoModelForCausalLM.from_pretrained(source, dtype=torch.float32), **fields)
        else:
            model = TokMatForContinuousLM(TokMatConfig(backbone_config=backbone, negatives=variant))
    trainer = trainer_class(model=model, args=args, train_dataset=[{"input_ids": row, "labels": row} for row in ids])
    trainer.remove_callback(PrinterCallback)
    return trainer


def lora_model(source: str, rank: int) -> torch.nn.Module:
    """A pretrained model with LoRA in every linear layer, as PEFT has it."""
    from peft import LoraConfig, get_peft_model

    config = LoraConfig(r=rank, target_modules="all-linear", task_type="CAUSAL_LM")
    return get_peft_model(AutoModelForCausalLM.from_pretrained(source, dtype=torch.float32), config)


def time_variant(connection, variant: str, options: dict) -> None:
    """In a process of its own: train in segments."""
    prepare(options)
    clock = time.process_time if options["processor_time"] else time.perf_counter
    callback = Segments(connection, options["warmup"], options["steps"], options["repeats"], clock)
    with tempfile.TemporaryDirectory() as folder:
        # One step more than is taken: the very last step of a run always logs.
        trainer = make_trainer(variant, options, callback.last + 1, LOGGING_STEPS, folder)
        trainer.add_callback(callback)
        trainer.train()


def measure_memory(connection, variant: str, options: dict) -> None:
    """In a process of its own: the largest resident size in MB, logging included."""
    prepare(options)
    with tempfile.TemporaryDirectory() as folder:
        make_trainer(variant, options, MEMORY_STEPS, MEMORY_STEPS // 2, folder).train()
    unit = 1 if sys.platform == "darwin" else 1024  # bytes there, kilobytes elsewhere
    connection.send(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit / 1e6)


def prepare(options: dict) -> None:
    sys.stdout = sys.stderr  # the parent's stdout ends with the JSON line
    if options["threads"]:
        torch.set_num_threads(options["threads"])
    transformers.logging.set_verbosity_error()


def start(function, variant: str, options: dict, allocator: bool):
    """A process that runs `function` with or without the allocator variables, and our end of a pipe to it."""
    for name, value in ALLOCATOR.items():
        os.environ.pop(name, None)
        if allocator:
            os.environ[name] = value
    context = multiprocessing.get_context("spawn")  # a fresh interpreter: the allocator reads its variables at start
    ours, theirs = context.Pipe()
    process = context.Process(target=function, args=(theirs, variant, options), daemon=True)
    process.start()
    theirs.close()
    return process, ours


def receive(variant: str, connection):
    try:
        return connection.recv()
    except EOFError:
        raise SystemExit(f"The process of variant {variant!r} ended early; its error is above.") from None


def run_speed(options: dict, advance) -> dict[str, list[list[float]]]:
    """Seconds of every step, per variant and segment; the variants take turns."""
    variants = options["variants"]
    workers = {variant: start(time_variant, variant, options, allocator=True) for variant in variants}
    for variant, (_, connection) in workers.items():
        receive(variant, connection)
    seconds = {variant: [] for variant in variants}
    for _ in range(options["repeats"]):
        for variant, (_, connection) in workers.items():
            connection.send("go")
            seconds[variant].append(receive(variant, connection))
            advance(f"speed, {variant}")
    for process, connection in workers.values():
        connection.send("stop")
        process.join()
    return seconds


def run_memory(options: dict, advance) -> dict[str, float]:
    """Peak memory in MB per variant."""
    found = {}
    for variant in options["variants"]:
        process, connection = start(measure_memory, variant, options, allocator=False)
        found[variant] = receive(variant, connection)
        process.join()
        advance(f"memory, {variant}")
    return found


def compare(seconds: dict[str, list[list[float]]], memory: dict[str, float], options: dict) -> list[dict]:
    rows = []
    for variant in options["variants"]:
        per_step = statistics.median(sum(segment) / len(segment) for segment in seconds[variant])
        row = {"variant": variant, "seconds_per_step": per_step}
        row["tokens_per_second"] = options["batch_size"] * options["block_size"] / per_step
        # Most steps log nothing, so this is the cost without logging.
        row["median_step_seconds"] = statistics.median(step for segment in seconds[variant] for step in segment)
        rows.append(row | {"peak_memory_mb": memory[variant], "step_seconds": seconds[variant]})
    first = (VARIANTS_OF_SOURCE if options["source"] else VARIANTS)[0]
    base = next((row for row in rows if row["variant"] == first), None)
    for row in rows if base is not None else []:
        row["speed_ratio"] = row["tokens_per_second"] / base["tokens_per_second"]
        row["memory_ratio"] = row["peak_memory_mb"] / base["peak_memory_mb"]
        row["target_speed"] = TARGET_SPEED.get(row["variant"])
        row["target_memory"] = TARGET_MEMORY.get(row["variant"])
        row["speed_met"] = None if row["target_speed"] is None else row["speed_ratio"] >= row["target_speed"]
        row["memory_met"] = None if row is base else row["memory_ratio"] <= row["target_memory"]
    return rows


def show(result: dict) -> None:
    console = stdout_console()
    console.print(machine_line(result["machine"]))
    names = ("variant", "s/step", "tokens/s", "x baseline (target)", "peak MB", "x baseline (target)")
    model = result["source"] or result["preset"]
    title = f"Training, {model}, {result['batch_size']} x {result['block_size']} tokens, {result['dtype']}"
    table = Table(*names, title=title)
    for row in result["variants"]:
        table.add_row(
            row["variant"],
            f"{row['seconds_per_step']:.3f}",
            f"{row['tokens_per_second']:.0f}",
            judged(row.get("speed_ratio"), row.get("target_speed")),
            f"{row['peak_memory_mb']:.0f}",
            judged(row.get("memory_ratio"), row.get("target_memory"), at_least=False),
        )
    console.print(table)


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--preset", choices=PRESETS, default="gpt2")
    parser.add_argument("--source", help="a pretrained model, folder or Hub name, instead of a preset")
    parser.add_argument("--rank", type=int, default=16, help="of LoRA and of the tail's adapters")
    tails = SOURCE_TAIL["parallel_tails"]
    parser.add_argument("--parallel-tails", type=int, default=tails, help=f"beside each row (default: {tails})")
    parser.add_argument("--variants", type=lambda text: text.split(","), help="comma-separated (default: all)")
    parser.add_argument("--batch-size", type=int, default=4)
    parser.add_argument("--block-size", type=int, default=256)
    parser.add_argument("--dtype", choices=("bf16", "fp32"), default="bf16", help="bf16 is autocast")
    parser.add_argument(
        "--steps", type=int, default=LOGGING_STEPS, help=f"per segment; every {LOGGING_STEPS}th optimizer step logs"
    )
    parser.add_argument("--repeats", type=int, default=3, help="segments per variant")
    parser.add_argument("--warmup", type=int, default=2, help="optimizer steps before the first segment")
    parser.add_argument("--processor-time", action="store_true", help="instead of wall time: others use the machine")
    parser.add_argument("--threads", type=int, help="torch's intra-op threads")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--output", type=Path, help="also write the JSON object to this file")
    args = parser.parse_args()
    possible = VARIANTS_OF_SOURCE if args.source else VARIANTS
    args.variants = args.variants or list(possible)
    if unknown := set(args.variants) - set(possible):
        parser.error(f"--variants: {', '.join(sorted(unknown))}; allowed: {', '.join(possible)}")
    if min(args.steps, args.repeats, args.warmup) < 1:
        parser.error("--steps, --repeats and --warmup must be at least 1")
    if not 2 <= args.block_size <= 1024:
        parser.error("--block-size must be in [2, 1024]")
    return args


def main() -> None:
    args = parse_arguments()
    options = {name: value for name, value in vars(args).items() if name != "output"}
    if args.threads:
        torch.set_num_threads(args.threads)
    with progress_bar() as progress:
        task = progress.add_task("starting", total=len(args.variants) * (args.repeats + 1))

        def advance(text: str) -> None:
            progress.update(task, advance=1, description=text)

        memory = run_memory(options, advance)
        seconds = run_speed(options, advance)
    machine = machine_facts() | {"allocator_variables": "timing only"}
    result = {"benchmark": "train", "command": command_line(__file__), "machine": machine}
    result |= {**options, "logging_steps": LOGGING_STEPS}
    result["variants"] = compare(seconds, memory, options)
    show(result)
    report(result, args.output)


if __name__ == "__main__":
    main()
