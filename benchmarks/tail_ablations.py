# Copyright 2026 The TokMat authors. Licensed under the Apache License, Version 2.0.
"""What each part of training a tail beside a frozen source is worth: one setting changed at a time.

    python benchmarks/tail_ablations.py SOURCE runs/ablations --data stories.txt --held-out valid.txt

The source is converted exactly, writes its own answers to beginnings of `--data` (`tokmat own-text`), and each row of
the table trains a tail of its own from there, for the same steps (or for more or fewer, that take about the same time)
from the same seed: `tokmat train --train tail` as it is, or with one setting changed. Judged, as by
benchmarks/tail_accuracy.py, on the source's answers to beginnings of `--held-out`: with slots as decoding leaves them
(two steps after fresh embryos), and with fresh embryos at every step.
Every row runs in a process of its own; its time is processor time, so that other work on the machine hardly matters.
What is finished in the folder is kept: the same command goes on. The last line on stdout is one JSON object.
"""

import argparse
import contextlib
import json
import math
import os
import resource
import statistics
import sys
import time
from pathlib import Path

import torch
from decode import allocator_set, command_line, machine_facts, machine_line, report, stdout_console
from rich.table import Table
from tail_accuracy import STATES, right_slots
from train import receive, start

from modeling_tokmat import TokMatForContinuousLM
from trainer.commands import own_text as write
from trainer.conversion import convert_folder
from trainer.own_text import load_own_text
from trainer.recipes import SOURCE_TAIL
from trainer.tail_adapter import tail_tensors
from trainer.training_run import TrainingPlan, fit

REAL_TEXT, STEPS = "real text", "share of the steps"
ARMS: dict[str, dict] = {
    "as it is": {},
    "fresh embryos": {"rollout_passes": 0},
    "no successor head": {"successor_head": False},
    REAL_TEXT: {},
    "no distillation": {"regression_weight": 0.0},
    "rank 4": {"tail_adapter_rank": 4},
    "rank 64": {"tail_adapter_rank": 64},
    # More rows in about the same time, or more of each: that of "as it is", 40 tails, in rows of 1,024 tokens.
    "16 tails for more steps": {"parallel_tails": 16, STEPS: 1.3},
    "96 tails for fewer steps": {"parallel_tails": 96, STEPS: 0.65},
}
READ = {"carried": "carried, 2 steps", "fresh": "fresh embryos"}
WARM_STEPS = 2  # of each process, that are slower than the others
LEAST_STEPS = WARM_STEPS + 2  # so that one is timed


def train_arm(connection, name: str, options: dict) -> None:
    """In a process of its own: train one tail, and send what a step of it took."""
    sys.stdout = sys.stderr  # the parent's stdout ends with the JSON line
    folder, times = Path(options["folder"]), []
    given = {name: options[name] for name in ("learning_rate", "block_size", "loop_share")}
    given |= {"max_steps": steps_of(name, options["steps"]), "per_device_train_batch_size": options["batch_size"]}
    given |= {"validation_fraction": 0.0, "tail_metrics": 0, "logging_steps": 10}
    given |= {"save_steps": 25, "save_total_limit": 1, "resume_from_checkpoint": "last"}
    plan = TrainingPlan.of(
        prepare=lambda model: model.register_forward_pre_hook(lambda *_: times.append(time.process_time())),
        data=options["data"] if name == REAL_TEXT else [str(folder / "own.jsonl")],
        model=str(folder / "start"),
        output_dir=str(arm_folder(folder, name)),
        train="tail",
        **given,
        **{setting: value for setting, value in ARMS[name].items() if setting != STEPS},
    )
    code = fit(plan)
    taken = [after - before for before, after in zip(times, times[1:])][WARM_STEPS:]
    unit = 1 if sys.platform == "darwin" else 1024  # bytes there, kilobytes elsewhere
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit / 1e6
    connection.send({"code": code, "step_seconds": taken, "peak_memory_mb": peak})


def steps_of(name: str, steps: int) -> int:
    return max(round(ARMS[name].get(STEPS, 1) * steps), LEAST_STEPS)


def arm_folder(folder: Path, name: str) -> Path:
    return folder / name.replace(" ", "-")


def own_text(source: str, texts: list[str], output: Path, count: int, args) -> None:
    """`tokmat own-text`, which goes on where it was interrupted."""
    given = [source, "--prompts", *texts, "--texts", count, "--max-new-tokens", args.new_tokens, "--output", output]
    given += ["--batch-size", args.write_batch, "--prompt-tokens", 4, 8, 16, 32, "--dtype", "float32"]
    given += ["--add-bos"] * args.add_bos
    with contextlib.redirect_stdout(sys.stderr):
        write.run([str(value) for value in given])


def judge(folder: Path, name: str, answers) -> dict:
    """What the slots of a trained tail foresee, by what they hold, read as decoding reads them."""
    model = TokMatForContinuousLM.from_pretrained(arm_folder(folder, name)).eval()
    model.config.rollout_jump = 0
    found: dict = {"parameters": sum(weight.numel() for weight in tail_tensors(model).values())}
    plain, looping = ([row for row in answers if row["loops"] is loops] for loops in (False, True))
    for held, state in READ.items():
        parts = [right_slots(model, rows, STATES[state]) for rows in (plain, looping) if rows]
        parts = [ways.get("successor", ways["raw"]) for ways in parts]
        chains = [part.cumprod(dim=1).sum(dim=1).mean().item() for part in (torch.cat(parts), parts[0])]
        found[held] = {"accuracy": torch.cat(parts).mean(dim=0).tolist(), "places": sum(map(len, parts))}
        found[held] |= {"tokens_per_forward": 1 + chains[0]} | ({"without_loops": 1 + chains[1]} if plain else {})
    return found


def kept(path: Path, make) -> dict:
    """What is in a JSON file, made if there is none."""
    if not path.is_file():
        path.with_suffix(".tmp").write_text(json.dumps(make()) + "\n", encoding="utf-8")
        os.replace(path.with_suffix(".tmp"), path)
    return json.loads(path.read_text(encoding="utf-8"))


def run_arm(folder: Path, name: str, options: dict) -> dict:
    """Train and judge, as far as that was not done before."""

    def train() -> dict:
        process, connection = start(train_arm, name, options, allocator=True)
        trained = receive(name, connection)
        process.join()
        if trained["code"]:
            raise SystemExit(trained["code"])
        if not trained["step_seconds"]:
            raise SystemExit(f"{arm_folder(folder, name)} was trained, but not timed: delete it")
        return trained

    trained = kept(arm_folder(folder, name).with_suffix(".cost.json"), train)
    step = statistics.median(trained["step_seconds"])
    row = {"name": name, "steps_timed": len(trained["step_seconds"]), "peak_memory_mb": trained["peak_memory_mb"]}
    row |= {
        "cpu_seconds_per_step": step,
        "cpu_ms_per_token": 1000 * step / options["batch_size"] / options["block_size"],
    }
    answers = load_own_text(folder / "held-out.jsonl", 1.0)
    return row | kept(arm_folder(folder, name).with_suffix(".json"), lambda: judge(folder, name, answers))


def show(result: dict) -> None:
    console = stdout_console()
    console.print(machine_line(result["machine"]))
    slots = [f"slot {k}" for k in range(2, SOURCE_TAIL["parallel_slots"] + 2)]
    heads = ("tokens/forward", "no loops", "fresh at every step", "parameters", "CPU ms/token", "peak MB")
    table = Table("", *slots, *heads)
    for row in result["rows"]:
        held = row["fresh" if row["name"] == "fresh embryos" else "carried"]
        table.add_row(
            row["name"],
            *(f"{share:.3f}" for share in held["accuracy"]),
            f"{row['carried']['tokens_per_forward']:.2f}",
            f"{row['carried'].get('without_loops', math.nan):.2f}",
            f"{row['fresh']['tokens_per_forward']:.2f}",
            f"{row['parameters']:,}",
            f"{row['cpu_ms_per_token']:.2f}",
            f"{row['peak_memory_mb']:.0f}",
        )
    console.print(table)


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("source", help="the autoregressive model: folder or Hub name")
    parser.add_argument("folder", type=Path, help="where everything goes that is not the result")
    parser.add_argument("--data", nargs="+", required=True, help="texts whose beginnings the source continues")
    parser.add_argument("--held-out", nargs="+", required=True, help="texts for the answers that tails are judged on")
    parser.add_argument("--arms", type=lambda text: text.split(","), default=list(ARMS), help="comma-separated")
    parser.add_argument("--steps", type=int, default=100)
    parser.add_argument("--batch-size", type=int, default=8)
    parser.add_argument("--block-size", type=int, default=256)
    parser.add_argument("--learning-rate", type=float, default=1e-3)
    parser.add_argument("--texts", type=int, default=1024, help="answers of the source to train on")
    parser.add_argument("--held-out-texts", type=int, default=96, help="answers that tails are judged on")
    parser.add_argument("--new-tokens", type=int, default=192, help="longest answer")
    parser.add_argument("--write-batch", type=int, default=128, help="answers written at a time")
    parser.add_argument("--loop-share", type=float, default=0.25, help="most of them that may loop")
    parser.add_argument(
        "--add-bos", action="store_true", help="begin prompts with bos, as a model of stories is used to"
    )
    parser.add_argument("--output", type=Path, help="also write the JSON object to this file")
    args = parser.parse_args()
    if unknown := set(args.arms) - set(ARMS):
        parser.error(f"--arms: {', '.join(sorted(unknown))}; allowed: {', '.join(ARMS)}")
    if args.steps < LEAST_STEPS:
        parser.error(f"--steps must be at least {LEAST_STEPS}")
    return args


def main() -> None:
    args = parse_arguments()
    folder = args.folder
    folder.mkdir(parents=True, exist_ok=True)
    options = {name: value for name, value in vars(args).items() if name not in ("output", "arms")}
    options["folder"] = str(folder)
    same = folder / "settings.json"
    if same.is_file() and json.loads(same.read_text(encoding="utf-8")) != options:
        raise SystemExit(f"{folder} was made with other settings, {same.name}: choose another folder, or delete it")
    same.write_text(json.dumps(options) + "\n", encoding="utf-8")
    own_text(args.source, args.held_out, folder / "held-out.jsonl", args.held_out_texts, args)
    own_text(args.source, args.data, folder / "own.jsonl", args.texts, args)
    if not (folder / "start" / "config.json").is_file():
        convert_folder(args.source, folder / "start")
    result = {"benchmark": "tail_ablations", "command": command_line(__file__)}
    result |= {"machine": machine_facts() | {"allocator_variables": allocator_set()}, **options}
    result["rows"] = [run_arm(folder, name, options) for name in args.arms]
    del result["folder"]
    show(result)
    report(result, args.output)


if __name__ == "__main__":
    main()
