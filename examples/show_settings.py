# Copyright 2026 The TokMat authors. Licensed under the Apache License, Version 2.0.
"""Show what every maturation setting does to one continuation; the table of docs/SETTINGS.md is made of it.

python examples/show_settings.py checkpoints/tokmat-stories "Once upon a time" --output settings.json
"""

import argparse
import json
import os
import shlex
import sys
from pathlib import Path

import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

ROWS = [
    ("none", "Algorithm 1, one token a step (`commit = front`), otherwise as the model was saved", {}),
    (
        "tail_length = 1",
        "K, the number of uncommitted vectors, in [1, 64]; 1 is greedy decoding on z^",
        {"tail_length": 1},
    ),
    ("tail_length = 4", "", {"tail_length": 4}),
    (
        "schedule = cosine",
        "linear, cosine, geometric (schedule_gamma) or power (schedule_beta)",
        {"schedule": "cosine"},
    ),
    (
        "alpha_max = 0.5",
        "the front's maturity after an update, in (0, 1]: lower blends in older guesses",
        {"alpha_max": 0.5},
    ),
    (
        "rate = consistent",
        "eta_j = (a_j - a_j+1) / (1 - a_j+1); use it with alpha_max = 1",
        {"rate": "consistent", "alpha_max": 1.0},
    ),
    ("embryo_norm = 1", "norm of fresh vectors in units of R; 0 is independent of the seed", {"embryo_norm": 1.0}),
    ("maturation_seed = 1", "seed of all noise", {"maturation_seed": 1}),
    (
        "guidance_scale = 2",
        "z^ <- u + s (z^ - u), u predicted by the tail alone; in one forward pass",
        {"guidance_scale": 2.0},
    ),
    (
        "commit = stable",
        "commit what has settled (stability_tolerance 0.05), wait at most max_refinements",
        {"commit": "stable"},
    ),
    (
        "commit = verified",
        "text of tail_length 1, alpha_max 1, in fewer forwards where the tail knows it",
        {"commit": "verified"},
    ),
    (
        "prompt_lookup_num_tokens = 10",
        "with commit = verified: so many tokens that followed the same ones earlier are a draft too",
        {"commit": "verified", "prompt_lookup_num_tokens": 10},
    ),
    (
        "history_noise = 0.5",
        "committed vector = R normalise(e_x + 0.5 R unit noise), cached as such",
        {"history_noise": 0.5},
    ),
    ("history_smoothing = 0.3", "committed vector = R normalise(0.3 previous + 0.7 e_x)", {"history_smoothing": 0.3}),
    ("dynamics_noise = 0.5", "every update adds 0.5 eta_j R unit noise", {"dynamics_noise": 0.5}),
    ("direction_rate = 0.5", "polar update: turn by 0.5 eta_j of the angle, norm by eta_j", {"direction_rate": 0.5}),
]


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model")
    parser.add_argument("prompt")
    parser.add_argument("--max-new-tokens", type=int, default=32)
    parser.add_argument("--output", type=Path)
    arguments = parser.parse_args()
    tokenizer = AutoTokenizer.from_pretrained(arguments.model, trust_remote_code=True)
    model = AutoModelForCausalLM.from_pretrained(arguments.model, trust_remote_code=True).eval()
    ids = tokenizer(arguments.prompt, return_tensors="pt").input_ids
    base, rows = model.generation_config, []
    for name, meaning, settings in ROWS:
        torch.manual_seed(0)
        settings = {"commit": "front", "eos_token_id": None, "return_dict_in_generate": True} | settings
        output = model.generate(ids, max_new_tokens=arguments.max_new_tokens, **settings)
        text = " ".join(tokenizer.decode(output.sequences[0, ids.shape[1] :]).split())
        rows.append({"changed": name, "meaning": meaning, "text": text})
        rows[-1]["tokens_per_forward"] = round(output.tokens_per_forward, 2)
        print(f"{name}: {text}", flush=True)
    if arguments.output:
        result = {"command": shlex.join(["python", "examples/show_settings.py", *sys.argv[1:]]), "machine": {}}
        result |= {"prompt": arguments.prompt, "max_new_tokens": arguments.max_new_tokens}
        saved = ("tail_length", "schedule", "alpha_max", "rate")
        result |= {"saved": {name: getattr(base, name) for name in saved}, "rows": rows}
        temporary = arguments.output.with_name(arguments.output.name + ".tmp")
        temporary.write_text(json.dumps(result, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
        os.replace(temporary, arguments.output)


if __name__ == "__main__":
    main()
