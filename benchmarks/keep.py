# Copyright 2026 The TokMat authors. Licensed under the Apache License, Version 2.0.
"""Runs a `tokmat evaluate` and keeps what it found for docs/, command included, with the machine.

    python benchmarks/keep.py docs/results/stories-50.json \
        tokmat evaluate stories --baseline ar-stories --judge judge --data tinystories-valid.txt --output evaluation-50

Run it where the models and texts lie, so that the command names no path of this machine.
"""

import json
import os
import subprocess
import sys
from pathlib import Path

from decode import machine_facts


def main() -> int:
    if len(sys.argv) < 4 or "--output" not in sys.argv:
        raise SystemExit(f"usage: {__doc__}")
    kept, command = Path(sys.argv[1]), sys.argv[2:]
    code = subprocess.run(command).returncode
    if code:
        return code
    result = json.loads((Path(command[command.index("--output") + 1]) / "results.json").read_text(encoding="utf-8"))
    result |= {"machine": machine_facts()}
    kept.with_suffix(".tmp").write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")
    os.replace(kept.with_suffix(".tmp"), kept)
    print(f"Kept in {kept}.")
    return 0


if __name__ == "__main__":
    sys.exit(main())
