# Copyright 2026 The TokMat authors. Licensed under the Apache License, Version 2.0.
"""Decoding speed on the CPU: TokMat's `generate` against transformers' greedy `generate` of the same backbone.

    python benchmarks/decode.py                  # GPT-2 small, random weights; best on an otherwise idle machine
    python benchmarks/decode.py --preset tiny    # a smoke run of seconds
    python benchmarks/decode.py --tail-lengths 1,4,8,16,32 --rules guided,stable,verified,static
    python benchmarks/decode.py --model TOKMAT --baseline AR --data held-out.txt --rules verified    # trained models

Every repetition generates N new tokens with each decoder and prefix in turn. Seconds per decoding token are those from
the first token to the last over N - 1, which leaves the prefill out, medians over repetitions; whole-call figures keep
it in. `ratios` in the JSON are those of single repetitions.
`cost` is a rule's time per token over that of front commits at the same K, `over_one` the speed relative to K = 1.
`bare` is what the machine allows: a cached forward of the backbone over 1 position and one projection, divided by the
same over K positions. `same text` says of `verified` whether it wrote what K = 1 did. In bf16 that takes `--attention
eager`, for TokMat alone: PyTorch's fused attention rounds differently with the length of what is attended to.
The last line on stdout is one JSON object.
"""

import argparse
import json
import os
import platform
import shlex
import statistics
import sys
import time
from collections import defaultdict
from pathlib import Path

import torch
import transformers
from rich.console import Console
from rich.progress import MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn
from rich.table import Table
from transformers import (
    AutoModelForCausalLM,
    AutoTokenizer,
    DynamicCache,
    GPT2Config,
    GPT2LMHeadModel,
    StoppingCriteria,
    StoppingCriteriaList,
)

from modeling_tokmat import TokMatConfig, TokMatForContinuousLM
from modeling_tokmat.inputs_tokmat import CACHE
from trainer.data import load_documents

# Freshly mapped memory is slow on small machines; glibc reads these once, when the process starts.
ALLOCATOR = {
    "MALLOC_MMAP_MAX_": "0",
    "MALLOC_TRIM_THRESHOLD_": "1000000000000",
    "MALLOC_TOP_PAD_": "268435456",
}
DTYPES = {"bf16": torch.bfloat16, "fp32": torch.float32}
PRESETS = {
    "gpt2": {"vocab_size": 50257, "n_embd": 768, "n_layer": 12, "n_head": 12},
    "tiny": {"vocab_size": 97, "n_embd": 32, "n_layer": 2, "n_head": 4},
}
MAX_GROWTH_RATIO = 1.1
RULES = {
    "guided": {"guidance_scale": 2.0},
    "stable": {"commit": "stable"},
    "verified": {"commit": "verified"},
    "static": {"cache_implementation": "static"},
}


def backbone_config(preset: str) -> GPT2Config:
    """GPT-2 without dropout and without an end-of-text token, so that every call generates its full length."""
    tokens = {"bos_token_id": None, "eos_token_id": None, "pad_token_id": 0}
    dropout = {"resid_pdrop": 0.0, "embd_pdrop": 0.0, "attn_pdrop": 0.0}
    return GPT2Config(n_positions=1024, **PRESETS[preset], **tokens, **dropout)


def target_speed(tail_length: int | None, dtype: str, batch: int) -> float | None:
    """The least acceptable speed relative to greedy decoding; None where no target is set."""
    if tail_length == 16:
        return 0.9 if dtype == "bf16" and batch == 1 else 0.45
    return 0.95 if tail_length == 1 else None


# -- shared with train.py ---------------------------------------------------------------------------------------------


def machine_facts() -> dict:
    """What a figure depends on besides the code."""
    cpu = platform.processor() or platform.machine()
    if os.path.exists("/proc/cpuinfo"):
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        cpu = next((line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")), cpu)
    gpu = {"gpu": torch.cuda.get_device_name()} if torch.cuda.is_available() else {}
    return gpu | {
        "cpu": cpu,
        "cores": os.cpu_count(),
        "threads": torch.get_num_threads(),
        "cpu_capability": torch.backends.cpu.get_cpu_capability(),
        "python": platform.python_version(),
        "torch": torch.__version__,
        "transformers": transformers.__version__,
    }


def machine_line(facts: dict) -> str:
    return "; ".join(f"{name} {value}" for name, value in facts.items())


def command_line(script: str) -> str:
    """This run as it is typed in the repository's root."""
    return shlex.join(["python", f"benchmarks/{Path(script).name}", *sys.argv[1:]])


def allocator_set() -> bool:
    return all(os.environ.get(name) == value for name, value in ALLOCATOR.items())


def restart_tuned(keep_environment: bool, announce: bool = False) -> None:
    """Start this process anew, once, with the allocator's variables set; not where they are, or are to stay away."""
    if sys.platform != "linux" or keep_environment or allocator_set():
        return
    if announce:
        variables = " ".join(f"{name}={value}" for name, value in ALLOCATOR.items())
        print(f"Restarting once with {variables}", file=sys.stderr, flush=True)
    os.execve(sys.executable, sys.orig_argv, {**os.environ, **ALLOCATOR})


def progress_bar() -> Progress:
    columns = TextColumn("{task.description}"), MofNCompleteColumn(), TimeElapsedColumn()
    return Progress(*columns, console=Console(stderr=True))


def stdout_console() -> Console:
    return Console() if sys.stdout.isatty() else Console(width=119)


def judged(value: float | None, target: float | None, at_least: bool = True) -> str:
    """A ratio with its target, coloured by whether it is met."""
    if value is None:
        return "-"
    if target is None:
        return f"{value:.2f}"
    met = value >= target if at_least else value <= target
    return f"[{'green' if met else 'red'}]{value:.2f}[/] ({'>=' if at_least else '<='} {target:g})"


def report(result: dict, output: Path | None) -> None:
    """The JSON object, as the last line on stdout and, if asked for, in a file."""
    rounded = json.loads(json.dumps(result), parse_float=lambda digits: float(f"{float(digits):.6g}"))
    text = json.dumps(rounded, separators=(",", ":"))
    if output is not None:
        output.parent.mkdir(parents=True, exist_ok=True)
        temporary = output.with_name(output.name + ".tmp")
        temporary.write_text(text + "\n", encoding="utf-8")
        os.replace(temporary, output)
    print(text, flush=True)


def integers(text: str) -> list[int]:
    return [int(part) for part in text.split(",")]


# -- the measurement --------------------------------------------------------------------------------------------------


def make_models(args, dtype: str) -> tuple:
    """The autoregressive model and the TokMat model: those given, or two of random weights."""
    if args.model:
        # As users load one in bf16: a tail's adapters then stay in float32, where their small products are faster.
        greedy = AutoModelForCausalLM.from_pretrained(args.baseline, dtype=DTYPES[dtype])
        tokmat = AutoModelForCausalLM.from_pretrained(args.model, trust_remote_code=True, dtype=DTYPES[dtype])
        for model in (greedy, tokmat):  # every call generates its full length
            model.generation_config.eos_token_id = None
    else:
        greedy = GPT2LMHeadModel(backbone_config(args.preset))
        tokmat = TokMatForContinuousLM(TokMatConfig(backbone_config=backbone_config(args.preset)))
        greedy, tokmat = greedy.to(DTYPES[dtype]), tokmat.to(DTYPES[dtype])
    tokmat.set_attn_implementation(args.attention)
    return greedy.eval(), tokmat.eval()


def make_prompts(args, batch: int, vocab_size: int) -> dict[int, list[torch.Tensor]]:
    """Batches of prompts per prefix, each (batch, prefix): beginnings of held-out text, or random ids."""
    if not args.data:
        return {n: [torch.randint(vocab_size, (batch, n)) for _ in range(args.prompts)] for n in args.prefixes}
    tokenizer, found = AutoTokenizer.from_pretrained(args.model, trust_remote_code=True), {}
    rows = [tokenizer(text)["input_ids"] for text in load_documents(args.data)["text"]]
    for prefix in args.prefixes:
        long_enough, count = [row[:prefix] for row in rows if len(row) >= prefix], args.prompts * batch
        if len(long_enough) < count:
            raise SystemExit(f"--data {args.data} has fewer than {count} documents of {prefix} tokens")
        found[prefix] = list(torch.tensor(long_enough[:count]).split(batch))
    return found


class Clock(StoppingCriteria):
    """When each token came; stops nothing."""

    def __init__(self):
        self.times = []

    def __call__(self, input_ids, scores, **kwargs):
        self.times.append(time.perf_counter())
        return torch.zeros(len(input_ids), dtype=torch.bool)


def timed_call(model, ids: torch.Tensor, new_tokens: int, **settings) -> tuple:
    """Seconds of a call and per token after the first, its forwards where they are counted, what was written."""
    clock = Clock()
    start = time.perf_counter()
    output = model.generate(
        ids,
        attention_mask=torch.ones_like(ids),
        max_new_tokens=new_tokens,
        do_sample=False,
        return_dict_in_generate=True,
        stopping_criteria=StoppingCriteriaList([clock]),
        **settings,
    )
    seconds = time.perf_counter() - start
    assert output.sequences.shape[1] == ids.shape[1] + new_tokens
    per_token = (clock.times[-1] - clock.times[0]) / (new_tokens - 1)
    return seconds, per_token, output.get("num_forwards") or 0, output.sequences


@torch.no_grad()
def bare_seconds(model, batch: int, prefix: int, positions: int) -> float:
    """Median of 5: a cached forward over some positions and the projection of one of them."""
    cache, width, taken = DynamicCache(config=model.config), model.config.hidden_size, []
    vectors = torch.randn(batch, max(prefix, positions), width, dtype=model.dtype)
    model.base_model(inputs_embeds=vectors[:, :prefix], use_cache=True, **{CACHE: cache})
    for _ in range(5):
        start = time.perf_counter()
        output = model.base_model(inputs_embeds=vectors[:, :positions], use_cache=True, **{CACHE: cache})
        model.lm_head(output.last_hidden_state[:, -1:])
        taken.append(time.perf_counter() - start)
        cache.crop(-positions)
    return statistics.median(taken)


def decoders_of(args, greedy, tokmat) -> list[tuple]:
    """(name, K or None, model, settings), greedy first."""
    found = [("greedy", None, greedy, {})]
    if "static" in args.rules:
        found.append(("greedy static", None, greedy, RULES["static"]))
    for k in args.tail_lengths:
        # K = 1 is the reference of "verified", which has alpha_max = 1.
        found.append((f"K={k}", k, tokmat, {"tail_length": k} | ({"alpha_max": 1.0} if k == 1 else {})))
        found += [(f"K={k} {rule}", k, tokmat, {"tail_length": k, **RULES[rule]}) for rule in args.rules if k > 1]
    return found


def measure(dtype: str, batch: int, args, advance) -> list[dict]:
    """One row per prefix and decoder; all of them take turns on every prompt, repetition after repetition."""
    torch.manual_seed(args.seed)
    greedy, tokmat = make_models(args, dtype)
    decoders = decoders_of(args, greedy, tokmat)
    prompts = make_prompts(args, batch, tokmat.config.vocab_size)
    seconds = {(prefix, name): ([], []) for prefix in args.prefixes for name, *_ in decoders}
    bare = {(prefix, k): [] for prefix in args.prefixes for k in {1, *args.tail_lengths}}
    per_forward, texts = {}, {}
    for repetition in range(-1, args.repeats):  # -1 is the warm-up
        for prefix in args.prefixes:
            for k in {1, *args.tail_lengths}:
                bare[prefix, k].append(bare_seconds(greedy, batch, prefix, k))
            calls = defaultdict(list)
            for ids in prompts[prefix]:
                for name, _, model, settings in decoders:
                    calls[name].append(timed_call(model, ids, args.new_tokens, **settings))
                advance(f"{dtype}, batch {batch}")
            for name, found in calls.items():
                whole, each, forwards, written = zip(*found)
                texts[prefix, name] = torch.cat(written)
                per_forward[prefix, name] = len(found) * args.new_tokens / sum(forwards) if sum(forwards) else None
                if repetition >= 0:
                    for values, kept in zip((whole, each), seconds[prefix, name]):
                        kept.append(values)

    rows = []
    for prefix in args.prefixes:
        for name, k, _, _ in decoders:
            whole, each = (
                # What else the machine does hits single calls: the median of each prompt, then their mean.
                [statistics.median(of_one) for of_one in zip(*kept)]
                for kept in seconds[prefix, name]
            )
            per_token = statistics.mean(each)
            row = {"dtype": dtype, "batch": batch, "prefix": prefix, "decoder": name, "tail_length": k}
            row |= {"seconds_per_token": per_token, "tokens_per_second": batch / per_token}
            row["call_tokens_per_second"] = batch * args.new_tokens / statistics.mean(whole)
            base = next((r for r in rows if r["prefix"] == prefix), row)
            row["ratio"] = row["tokens_per_second"] / base["tokens_per_second"]
            row["call_ratio"] = row["call_tokens_per_second"] / base["call_tokens_per_second"]
            speed = {r["decoder"]: r["tokens_per_second"] for r in [*rows, row] if r["prefix"] == prefix}
            row["cost"] = None if k is None else speed[f"K={k}"] / row["tokens_per_second"]
            row["over_one"] = row["tokens_per_second"] / speed["K=1"] if k and "K=1" in speed else None
            medians = {length: statistics.median(taken[1:]) for (n, length), taken in bare.items() if n == prefix}
            row["bare"] = None if k is None else medians[1] / medians[k]
            row["target"] = target_speed(k, dtype, batch) if name == f"K={k}" else None
            row["met"] = None if row["target"] is None else row["ratio"] >= row["target"]
            row["tokens_per_forward"] = per_forward[prefix, name]
            comparable = name.endswith("verified") and (prefix, "K=1") in texts
            row["same_text"] = torch.equal(texts[prefix, name], texts[prefix, "K=1"]) if comparable else None
            row["seconds_of_calls"], row["seconds_of_tokens"] = whole, each
            # What else the machine does comes and goes: how much it may matter.
            times = zip(seconds[prefix, "greedy"][1], seconds[prefix, name][1])
            row["ratios"] = [statistics.mean(greedys) / statistics.mean(own) for greedys, own in times]
            rows.append(row)
    return rows


def growth_of(rows: list[dict]) -> list[dict]:
    """Growth of the time per token from the shortest to the longest prefix, relative to greedy decoding's own."""
    short, long = min(row["prefix"] for row in rows), max(row["prefix"] for row in rows)
    found = []
    for row in rows if long > short else []:
        same = [r for r in rows if (r["dtype"], r["batch"]) == (row["dtype"], row["batch"])]
        times = {(r["prefix"], r["decoder"]): r["seconds_per_token"] for r in same}
        name = row["decoder"]
        if row["prefix"] == short and row["tail_length"] is not None:
            growth, own = times[long, name] / times[short, name], times[long, "greedy"] / times[short, "greedy"]
            entry = {"dtype": row["dtype"], "batch": row["batch"], "decoder": name, "prefixes": [short, long]}
            entry |= {"growth": growth, "greedy_growth": own, "ratio": growth / own}
            found.append(entry | {"target": MAX_GROWTH_RATIO, "met": growth / own <= MAX_GROWTH_RATIO})
    return found


def show(result: dict) -> None:
    console = stdout_console()
    console.print(machine_line(result["machine"]))
    names = ("dtype", "batch", "prefix", "decoder", "ms/token", "tokens/s", "x greedy (target)", "bare", "call x")
    names += ("tokens/forward", "same text")
    table = Table(*names, title=f"Decoding, {result['model'] or result['preset']}, {result['new_tokens']} new tokens")
    last = result["measurements"][-1]["decoder"]
    for row in result["measurements"]:
        table.add_row(
            *(str(row[name]) for name in ("dtype", "batch", "prefix", "decoder")),
            f"{1000 * row['seconds_per_token']:.2f}",
            f"{row['tokens_per_second']:.1f}",
            judged(row["ratio"], row["target"]),
            judged(row["bare"], None),
            judged(row["call_ratio"], None),
            "-" if row["tokens_per_forward"] is None else f"{row['tokens_per_forward']:.2f}",
            {None: "-", True: "yes", False: "[red]no[/]"}[row["same_text"]],
            end_section=row["decoder"] == last,
        )
    console.print(table)
    if result["growth"]:
        short, long = result["growth"][0]["prefixes"]
        names = ("dtype", "batch", "decoder", "growth", "greedy's", "ratio of ratios (target)")
        table = Table(*names, title=f"Growth of the time per token, prefix {long} over {short}")
        for row in result["growth"]:
            table.add_row(
                *(str(row[name]) for name in ("dtype", "batch", "decoder")),
                f"{row['growth']:.2f}",
                f"{row['greedy_growth']:.2f}",
                judged(row["ratio"], row["target"], at_least=False),
            )
        console.print(table)


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--preset", choices=PRESETS, default="gpt2")
    parser.add_argument("--model", help="a trained TokMat model, instead of random weights; needs --baseline")
    parser.add_argument("--baseline", help="the autoregressive model of the same size and tokenizer")
    parser.add_argument("--data", help="held-out text whose documents' beginnings are the prompts; needs --model")
    parser.add_argument(
        "--prompts", type=int, default=1, help="batches of prompts per prefix; times are means over them"
    )
    parser.add_argument("--tail-lengths", type=integers, default=[1, 4, 16], help="K, comma-separated")
    parser.add_argument("--rules", type=lambda text: text.split(","), default=[], help=", ".join(RULES))
    parser.add_argument("--batches", type=integers, default=[1, 8], help="comma-separated")
    parser.add_argument("--prefixes", type=integers, default=[64, 768], help="prompt lengths, comma-separated")
    parser.add_argument("--dtypes", type=lambda text: text.split(","), default=["bf16", "fp32"], help="bf16, fp32")
    parser.add_argument("--attention", choices=("sdpa", "eager"), default="sdpa", help="TokMat's attention")
    parser.add_argument("--new-tokens", type=int, default=32)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--threads", type=int, help="torch's intra-op threads")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--output", type=Path, help="also write the JSON object to this file")
    parser.add_argument(
        "--keep-environment", action="store_true", help="do not restart with glibc's allocator keeping its pages"
    )
    args = parser.parse_args()
    if unknown := set(args.dtypes) - set(DTYPES):
        parser.error(f"--dtypes: {', '.join(sorted(unknown))}; allowed: {', '.join(DTYPES)}")
    if unknown := set(args.rules) - set(RULES):
        parser.error(f"--rules: {', '.join(sorted(unknown))}; allowed: {', '.join(RULES)}")
    if bool(args.model) != bool(args.baseline) or (args.data and not args.model):
        parser.error("--model and --baseline go together, and --data with them")
    if args.new_tokens < 2 or args.repeats < 1 or args.prompts < 1:
        parser.error("--new-tokens must be at least 2, --repeats and --prompts at least 1")
    if max(args.prefixes) + args.new_tokens > 1024:
        parser.error("a prefix and --new-tokens must fit in 1024 positions")
    return args


def main() -> None:
    args = parse_arguments()
    restart_tuned(args.keep_environment, announce=True)
    if args.threads:
        torch.set_num_threads(args.threads)
    transformers.logging.set_verbosity_error()

    rows = []
    turns = len(args.dtypes) * len(args.batches) * len(args.prefixes) * args.prompts * (args.repeats + 1)
    with progress_bar() as progress:
        task = progress.add_task("", total=turns)
        for dtype in args.dtypes:
            for batch in args.batches:
                rows += measure(dtype, batch, args, lambda text: progress.update(task, advance=1, description=text))
    result = {"benchmark": "decode", "command": command_line(__file__)}
    result |= {"machine": {**machine_facts(), "allocator_variables": allocator_set()}}
    result |= {
        "preset": args.preset,
        "model": args.model and Path(args.model).name,
        "new_tokens": args.new_tokens,
        "repeats": args.repeats,
        "seed": args.seed,
        "attention": args.attention,
    }
    result |= {"tail_lengths": args.tail_lengths, "measurements": rows, "growth": growth_of(rows)}
    show(result)
    report(result, args.output)


if __name__ == "__main__":
    main()
