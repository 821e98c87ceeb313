# Copyright 2026 The TokMat authors. Licensed under the Apache License, Version 2.0.
"""Random hostile input: whatever comes in, the answer is a named error in one sentence, or a right result.

`TOKMAT_HOSTILE_SHARE=0.1` runs a tenth of it.
"""

import os
import random
import shutil
import time

import pytest
import torch
from command_line import TINY, assert_one_line_error, invoke

from modeling_tokmat import TokMatConfig, TokMatForContinuousLM
from modeling_tokmat.configuration_tokmat import tokmat_fields

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("own_folder")]

SHARE = float(os.environ.get("TOKMAT_HOSTILE_SHARE", "1"))
MINUTES = 20  # for each of them; what is not done by then has not been tried
HOSTILE = (10**30, -(10**30), 10**400, 2**63, -1, 0, 1e308, -1e308, 1e-320, float("nan"), float("inf"), 0.5)
HOSTILE += ("", "x", b"x", True, None, [], [1], {}, (1, 2), object())


def turns(count: int):
    """Numbers of the turns, and a generator of random choices for each, until the time is over."""
    end = time.monotonic() + 60 * MINUTES
    for number in range(max(round(count * SHARE), 1)):
        if time.monotonic() > end:
            return
        yield number, random.Random(number)


FAIR = {
    "negatives": ("uniform", "unigram", "batch", "all"),
    "num_negatives": (1, 7),
    "maturation": ("simulated", "rollout"),
    "parallel_tails": (0, 1, 3),
    "parallel_slots": (0, 2),
    "rollout_passes": (0, 1, 3),
    "rollout_jump": (0, 2),
    "film_scope": ("sequence", "tail"),
    "max_tail_length": (1, 2, 8, 64),
    "min_tail_length": (1, 2),
    "clean_probability": (0.0, 0.5, 1.0),
    "context_negatives": (0.0, 2.0),
    "context_window": (0, 3),
    "context_ngram": (1, 2),
    "schedule": ("linear", "cosine", "geometric", "power"),
    "alpha_max": (0.5, 1.0),
    "embryo_norm": (0.0, 0.1),
    "tail_weight_floor": (0.0, 1.0),
    "freeze_embeddings": (True, False),
    "geometry": ("sphere", "pretrained"),
    "tail_adapter_rank": (0, 2),
    "successor_head": (True, False),
    "output_bias": (True, False),
    "tie_word_embeddings": (True, False),
    "train": ("all", "tail"),
    "regression_weight": (0.0, 1.0),
    "use_cache": (True, False),
}


def test_configurations_are_refused_by_name_or_train_and_write():
    names = [name for name in tokmat_fields() if name != "backbone_config"]
    names += ["bos_token_id", "eos_token_id", "pad_token_id", "use_cache", "tie_word_embeddings"]
    ids = torch.randint(2, 97, (2, 10), generator=torch.Generator().manual_seed(0))
    made = 0
    for number, draw in turns(1000):
        fields = {name: draw.choice(FAIR[name]) for name in draw.sample(sorted(FAIR), draw.randint(0, 6))}
        if number % 2:
            fields |= {name: draw.choice(HOSTILE) for name in draw.sample(names, draw.randint(1, 2))}
        if fields.get("geometry") == "pretrained" and draw.random() < 0.8:
            fields |= {"negatives": "all", "regression_weight": 0.0}
        try:
            config = TokMatConfig.tiny(model_type=draw.choice(("gpt2", "llama", "qwen3")), **fields)
        except ValueError as error:
            assert type(error) is ValueError and any(f"`{name}`" in str(error) for name in TokMatConfig().to_dict())
            continue
        made += 1
        torch.manual_seed(number)
        model = TokMatForContinuousLM(config)
        if model.token_counts is not None:
            model.set_token_counts(torch.ones(97))
        loss = model.train()(ids, labels=ids).loss
        assert bool(loss.isfinite()), fields
        if loss.requires_grad:
            loss.backward()
        assert model.eval().generate(ids, max_new_tokens=2, min_new_tokens=2, tail_length=2).shape == (2, 12), fields
    assert made > 0


SETTINGS = {
    "tail_length": (1, 2, 5, 64),
    "schedule": ("linear", "cosine", "geometric", "power"),
    "alpha_max": (0.5, 1.0),
    "rate": ("paper", "consistent"),
    "embryo_norm": (0.0, 0.1, 2.0),
    "maturation_seed": (0, 7),
    "guidance_scale": (0.0, 1.0, 2.5),
    "commit": ("front", "stable", "verified"),
    "max_refinements": (1, 3),
    "history_noise": (0.0, 0.5),
    "history_smoothing": (0.0, 0.5),
    "dynamics_noise": (0.0, 0.5),
    "direction_rate": (None, 0.5),
    "prompt_lookup_num_tokens": (None, 3),
    "prefill_chunk_size": (None, 1, 3),
    "cache_implementation": (None, "static"),
    "use_cache": (True, False),
    "max_new_tokens": (1, 3, 9),
    "repetition_penalty": (1.0, 1.3),
}


def test_generate_refuses_by_name_or_writes_in_a_batch_what_it_writes_alone(make_model):
    model = make_model(double=True)
    answered = 0
    for number, draw in turns(1000):
        asked = {name: draw.choice(SETTINGS[name]) for name in draw.sample(sorted(SETTINGS), draw.randint(0, 7))}
        asked.setdefault("max_new_tokens", 6)
        hostile = draw.choice([*SETTINGS, "pad_token_id", "eos_token_id", "num_return_sequences"])
        if number % 2:
            asked[hostile] = draw.choice(HOSTILE)
        lengths = [draw.randint(1, 9) for _ in range(draw.randint(1, 3))]
        rows = [[draw.randint(2, 96) for _ in range(length)] for length in lengths]
        ids = torch.tensor([[1] * (max(lengths) - len(row)) + row for row in rows])
        mask = torch.tensor([[0] * (max(lengths) - len(row)) + [1] * len(row) for row in rows])
        try:
            together = model.generate(ids, attention_mask=mask, **asked)
        except (ValueError, TypeError) as error:  # of other settings than ours transformers' own checks speak
            ours = isinstance(error, ValueError) or hostile not in model.generation_config.to_dict()
            ours = ours or hostile in ("cache_implementation", "repetition_penalty")
            assert (number % 2 or isinstance(error, ValueError)) and ours, (asked, error)
            continue
        answered += 1
        if asked.get("num_return_sequences") not in (None, 1):
            continue
        for row, tokens in enumerate(rows):
            alone = model.generate(torch.tensor([tokens]), **asked)[0, len(tokens) :]
            ends = together[row, max(lengths) :]
            assert torch.equal(ends[: len(alone)], alone) and (ends[len(alone) :] == 1).all(), (asked, rows)
    assert answered > 0


COMMANDS = {
    "generate": (
        "MODEL hello --max-new-tokens 2".split(),
        ("--tail-length", "--alpha-max", "--schedule", "--commit", "--guidance-scale", "--max-new-tokens", "--dtype")
        + ("--num-return-sequences", "--maturation-seed", "--embryo-norm", "--nonsense"),
    ),
    "train": (
        "--data STORY --output-dir out --overwrite".split() + [*TINY, "--max-steps", "1"],
        ("--data", "--learning-rate", "--num-negatives", "--parallel-tails", "--block-size", "--vocab-size", "--model")
        + ("--backbone", "--tokenizer", "--max-steps", "--deepspeed", "--optim", "--logit-scale", "--tail-data")
        + ("--validation-fraction", "--resume-from-checkpoint", "--lr-scheduler-type", "--objective"),
    ),
    "evaluate": (
        "MODEL --data STORY --prompts 2 --new-tokens 3 --seeds 1 --look-ahead 0 --mauve-continuations 0".split(),
        ("--data", "--baseline", "--judge", "--prompts", "--new-tokens", "--output", "--tail-length", "--batch-size"),
    ),
    "own-text": (
        "MODEL --prompts STORY --output own.jsonl --texts 2 --max-new-tokens 2".split(),
        ("--prompts", "--texts", "--max-new-tokens", "--shares", "--prompt-tokens", "--dtype", "--output"),
    ),
    "convert": ("AR converted".split(), ("--geometry", "--tail-adapter-rank", "--gguf")),
}
WORDS = (
    "",
    "x",
    "-1",
    "0",
    "nan",
    "inf",
    "1e400",
    "9" * 30,
    "nowhere",
    "nowhere/at/all",
    "/",
    ".",
    "a\nb",
    "ü",
    "None",
)
WORDS += ("STORY", "DAMAGED", "{", "--")


def test_command_lines_end_well_or_in_one_line(models, story_file, datasets_cache):
    shutil.copytree(models[0], "damaged")
    with open("damaged/model.safetensors", "r+b") as file:
        file.truncate(1000)
    known = {"MODEL": models[0], "AR": models[2], "STORY": story_file, "DAMAGED": "damaged"}
    for _, draw in turns(120):
        verb = draw.choice(sorted(COMMANDS))
        command, flags = COMMANDS[verb]
        command = [*command, draw.choice(flags), draw.choice(WORDS)]
        result = invoke(verb, *(known.get(word, word) for word in command))
        if result.exit_code == 2 and "Usage:" not in result.output:
            assert_one_line_error(result, f"tokmat {verb}: ")
        assert result.exit_code in (0, 2), (verb, command, result.exception)
        for left in ("converted", "own.jsonl"):
            shutil.rmtree(left, ignore_errors=True)
