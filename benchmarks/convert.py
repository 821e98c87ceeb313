# Copyright 2026 The TokMat authors. Licensed under the Apache License, Version 2.0.
"""What `tokmat convert SOURCE OUT --tail-adapter-rank R` takes: seconds and peak memory, import of torch included.

    python benchmarks/convert.py models/smollm2-135m-instruct      # on an otherwise idle machine

Each repetition is a process of its own that writes to a temporary folder; beside it stands one that only imports what
the command imports. Memory is the largest resident size, told in sizes of the source's weights too.
Figures are medians. The last line on stdout is one JSON object.
"""

import argparse
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

IMPORTS = "import trainer.conversion, transformers.models.auto.modeling_auto"
CONVERT = "from trainer.cli import main; main()"
TARGET_SECONDS, TARGET_MEMORY = 60.0, 3.0  # at most, the latter in sizes of the weights


def measured(program: str, *arguments: str) -> dict:
    """Of one process: wall and processor seconds, and the largest resident size in MB.

    Raises:
        SystemExit: it failed; its output is above.
    """
    begin = time.perf_counter()
    process = subprocess.Popen([sys.executable, "-c", program, *arguments], stdout=sys.stderr)
    _, status, used = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode:
        raise SystemExit(process.returncode)
    unit = 1 if sys.platform == "darwin" else 1024  # bytes there, kilobytes elsewhere
    seconds = {"seconds": time.perf_counter() - begin, "cpu_seconds": used.ru_utime + used.ru_stime}
    return seconds | {"peak_memory_mb": used.ru_maxrss * unit / 1e6}


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("source", type=Path, help="folder of an autoregressive model")
    parser.add_argument("--tail-adapter-rank", type=int, default=16)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--output", type=Path, help="also write the JSON object to this file")
    return parser.parse_args()


def measure(args) -> dict[str, list[dict]]:
    runs: dict[str, list[dict]] = {"import": [], "convert": []}
    for _ in range(args.repeats):
        runs["import"].append(measured(IMPORTS))
        with tempfile.TemporaryDirectory() as folder:
            given = ("convert", str(args.source), f"{folder}/out", "--tail-adapter-rank", str(args.tail_adapter_rank))
            runs["convert"].append(measured(CONVERT, *given))
    return runs


def main() -> None:
    args = parse_arguments()
    size = sum(path.stat().st_size for path in args.source.glob("*.safetensors")) / 1e6
    if not size:
        raise SystemExit(f"convert: {args.source} holds no *.safetensors")
    # torch is imported after the measurement only: a new process begins with the peak of the one that starts it.
    runs = measure(args)

    from decode import command_line, judged, machine_facts, machine_line, report, stdout_console
    from rich.table import Table

    result = {"benchmark": "convert", "command": command_line(__file__), "machine": machine_facts()}
    result |= {"weights_mb": size, "tail_adapter_rank": args.tail_adapter_rank, "repeats": args.repeats}
    for name, found in runs.items():
        result[name] = {measure: statistics.median(run[measure] for run in found) for measure in found[0]}
        result[name]["memory_ratio"] = result[name]["peak_memory_mb"] / size
    console = stdout_console()
    console.print(machine_line(result["machine"]))
    table = Table("", "seconds (target)", "processor seconds", "peak MB", f"x {size:.0f} MB of weights (target)")
    for name, targets in (("import", (None, None)), ("convert", (TARGET_SECONDS, TARGET_MEMORY))):
        row = result[name]
        seconds = judged(row["seconds"], targets[0], at_least=False)
        ratio = judged(row["memory_ratio"], targets[1], at_least=False)
        table.add_row(name, seconds, f"{row['cpu_seconds']:.1f}", f"{row['peak_memory_mb']:.0f}", ratio)
    console.print(table)
    report(result, args.output)


if __name__ == "__main__":
    main()
