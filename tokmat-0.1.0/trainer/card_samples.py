# Copyright 2026 The TokMat authors. Licensed under the Apache License, Version 2.0.
"""The loading snippet of a model card, and what it writes where it is run."""

import inspect
import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path

import modeling_tokmat

from .checkpoints import load_tokenizer
from .tail_adapter import attach_folder
from .traces import Run, plain_trace

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
# Goes on in the process that ran the snippet, which has none of this package's code.
PROBE = """
import json, torch, transformers
{plain_trace}
output = model.generate(**inputs, max_new_tokens={new_tokens}, return_dict_in_generate=True, output_maturation=True)
run = plain_trace(output, inputs["input_ids"].shape[1]) | {{"commit": model.generation_config.commit}}
print("\\x1e" + json.dumps({{"run": run, "torch": torch.__version__, "transformers": transformers.__version__}}))
"""


def snippet(kind: str, name: str, base: str, prompt: str) -> str:
    load = LOAD[kind].format(name=json.dumps(name), base=json.dumps(base))
    return load + WRITE.format(prompt=json.dumps(prompt, ensure_ascii=False), new_tokens=NEW_TOKENS)


def take_sample(folder: Path, kind: str, source: str | None, prompt: str, trust_remote_code: bool) -> dict:
    """Run the card's snippet on the folder, in a process that has none of this package's code, and watch the tail.

    Args:
        source: what an adapter is an adapter of. trust_remote_code: run code that is not this package's.

    Returns:
        what it printed, `text`; how that matured, `run`; lines that show the tail at some steps, `tail`; `torch` and
        `transformers`.

    Raises:
        ValueError: code that is not this package's, no base for an adapter, or a snippet that fails.
    """
    if kind != MODEL and source is None:
        raise ValueError(f"{folder} does not say what it is an adapter of: give --source, or --no-sample")
    with tempfile.TemporaryDirectory() as elsewhere:
        place, beside = str(folder.resolve()), str(source)
        if kind == TAIL:
            place = str(Path(elsewhere) / "attached")
            attach_folder(beside, str(folder), Path(place))
        else:
            beside = str(Path(beside).resolve()) if Path(beside).is_dir() else beside
            check_code(beside if kind == LORA else place, trust_remote_code)
        probe = PROBE.format(plain_trace=inspect.getsource(plain_trace), new_tokens=NEW_TOKENS)
        code = snippet(kind, place, beside, prompt) + probe
        environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
        environment |= {"HF_MODULES_CACHE": f"{elsewhere}/modules", "PYTHONIOENCODING": "utf-8"}
        command = [sys.executable, "-c", code]
        done = subprocess.run(command, cwd=elsewhere, env=environment, capture_output=True, encoding="utf-8")
        if done.returncode:
            last = done.stderr.strip().splitlines()[-1:] or ["no message"]
            raise ValueError(f"the loading snippet of the card of {folder} does not run: {last[0]}")
        tokenizer = load_tokenizer(beside if kind == LORA else place, trust_remote_code)
    text, _, found = done.stdout.rpartition("\x1e")
    sample = json.loads(found)
    run = Run(tokenizer, **sample["run"])
    tail = [_shown(run, number) for number in SHOWN_STEPS if number <= len(run.steps)]
    return {**sample, "run": run, "text": text.rstrip("\n"), "prompt": prompt, "tail": tail}


def _shown(run: Run, number: int) -> str:
    step = run.steps[number - 1]
    tail = [run.tokenizer.decode([token]) for token in step["token_ids"][:SHOWN_SLOTS]]
    slots = "  ".join(f"{token!r} {value:.2f}" for token, value in zip(tail, step["maturity"]))
    return f"step {number:2}  ...{run.tokenizer.decode(run.committed(step))[-40:]!r}  |  {slots}"


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
