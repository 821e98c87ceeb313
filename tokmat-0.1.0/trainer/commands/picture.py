# Copyright 2026 The TokMat authors. Licensed under the Apache License, Version 2.0.
"""`tokmat picture`: a picture of a model's tail, or of its training."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from .. import pictures
from ..arguments import OneLineParser, argument, given_settings, maturation_flags
from ..checkpoints import check_folder, in_the_box, load_model, load_tokenizer, read_json, tokmat_config
from ..data import count_tokens, load_documents, tokenize_and_pack
from ..evaluation.look_ahead import tail_agreement
from ..evaluation.measures import interval
from ..traces import by_slot, watch

KINDS = {
    "heatmap": "the nearest token of every slot, step by step",
    "animation": "the same as a moving GIF of the text",
    "entropy": "entropy, displacement and distance of a vector by its age",
    "guidance": "what the tail knows of later commits, by guidance scale",
    "drift": "how far the embeddings moved since --start",
    "losses": "the curves of the training in the folder",
}
SCALES = (1.0, 1.5, 2.0, 3.0)
LONGEST = 1 << 30  # tokens of a document, all of which count
PROMPT = "Once upon a time"


@dataclass
class PictureArguments:
    _argument_group_name = "picture"

    output: str = argument("file to write: .png, .svg or .pdf, .gif for an animation (default: KIND.png)", "")
    max_new_tokens: int = argument("length of a continuation, in tokens", 60)
    steps: int = argument("rows of a heat map", 16)
    frames_per_second: int = argument("of an animation", 6)
    start: str = argument("of drift: the model that training started from", "", metavar="MODEL")
    data: str = argument("of drift: the training text, for counts of tokens", "", metavar="SOURCE")


def run(arguments: list[str]) -> int:
    parser = OneLineParser(
        [PictureArguments, maturation_flags()],
        prog="tokmat picture",
        usage="tokmat picture KIND MODEL [PROMPT ...] [--output FILE] [options]",
        description="Draw " + "; ".join(f"{name}: {text}" for name, text in KINDS.items()) + ".",
    )
    parser.add_argument("kind", metavar="KIND", help=", ".join(KINDS))
    parser.add_argument("model", metavar="MODEL", help="folder or Hub name")
    parser.add_argument("prompts", nargs="*", metavar="PROMPT", help=f"texts to continue (default: {PROMPT})")
    values = parser.parse(arguments)
    options, flags = parser.parse_dict(values, allow_extra_keys=True)
    kind, model, settings = values["kind"], values["model"], given_settings(flags)
    path = check(kind, options, values["prompts"], settings)
    pictures.require_matplotlib("tokmat picture")
    if kind == "losses":
        history = read_json(Path(in_the_box(model)) / "trainer_state.json").get("log_history")
        if history is None:
            raise ValueError(f"{model} holds no trainer_state.json, which training leaves")
        pictures.save(pictures.losses(history), path)
    elif kind == "drift":
        pictures.save(drift(model, options), path)
    else:
        tail(kind, model, values["prompts"] or [PROMPT], options, settings, path)
    print(f"Saved {path}.", flush=True)
    return 0


def check(kind: str, options: PictureArguments, prompts: list[str], settings: dict) -> Path:
    """Where the picture goes.

    Raises:
        ValueError: an unknown kind, or options that mean nothing for it.
    """
    if kind not in KINDS:
        raise ValueError(f"KIND is {kind!r}, but it must be among {', '.join(KINDS)}")
    formats = pictures.MOVING if kind == "animation" else pictures.FORMATS
    path = Path(options.output or kind + formats[0])
    if path.suffix not in formats or path.is_dir():
        raise ValueError(f"`output` is {str(path)!r}, but {kind} needs a file named {' or '.join(formats)}")
    check_folder(str(path.parent))
    for name in ("max_new_tokens", "steps", "frames_per_second"):
        if getattr(options, name) < 1:
            raise ValueError(f"`{name}` is {getattr(options, name)}, but it must be at least 1")
    of_training, first = kind in ("drift", "losses"), next(iter(settings), "").replace("_", "-")
    meaningless = (
        ("PROMPT", prompts and of_training),
        ("a second PROMPT", len(prompts) > 1 and kind in ("heatmap", "animation")),
        (f"--{first}", first and of_training),
        ("--guidance-scale", kind == "guidance" and "guidance_scale" in settings),
        ("--start", options.start and kind != "drift"),
        ("--data", options.data and kind != "drift"),
    )
    for name, wrong in meaningless:
        if wrong:
            raise ValueError(f"{kind} does not use {name}: leave it out")
    if kind in ("entropy", "guidance") and settings.get("commit", "front") != "front":
        raise ValueError(f"`commit` is {settings['commit']!r}, but {kind} follows vectors, one slot a step: front")
    if kind == "drift" and not options.start:
        raise ValueError("drift is between two models: say with --start what training started from")
    return path


def tail(kind: str, model: str, prompts: list[str], options: PictureArguments, settings: dict, path: Path) -> None:
    """Raises:
    ValueError, OSError: no such model, or settings or prompts that do not fit it.
    """
    settings = {"commit": "front"} | settings
    tokmat_config(model)
    tokenizer = load_tokenizer(model)
    loaded = load_model(model).eval()
    loaded.to(torch.accelerator.current_accelerator() or "cpu")
    rows = [tokenizer(prompt)["input_ids"] or [tokenizer.bos_token_id] for prompt in prompts]
    if [None] in rows:
        raise ValueError("an empty prompt needs a tokenizer with a bos token, which this one has not")
    new = options.max_new_tokens
    if kind in ("heatmap", "animation"):
        seen = watch(loaded, tokenizer, rows[0], new, **settings)
        if kind == "animation":
            pictures.animate(seen, path, options.frames_per_second)
        else:
            pictures.save(pictures.heatmap(seen, options.steps), path)
    elif kind == "entropy":
        runs = [watch(loaded, tokenizer, ids, new, min_new_tokens=new, **settings) for ids in rows]
        slots = settings.get("tail_length", loaded.generation_config.tail_length)
        pictures.save(pictures.entropy(by_slot(runs, slots)), path)
    else:
        shares = {}
        for scale in SCALES:
            run = settings | {"guidance_scale": scale}
            found = [tail_agreement(loaded, torch.tensor([ids], device=loaded.device), new, **run) for ids in rows]
            shares[f"guidance {scale:g}"] = [interval(values) for values in torch.cat(found).numpy().T[1:]]
        if not shares["guidance 1"]:
            raise ValueError("`tail_length` is 1, but what a tail knows is asked of slot 2 on")
        pictures.save(pictures.guidance(shares), path)


def drift(model: str, options: PictureArguments):
    before, after = (embeddings(name) for name in (options.start, model))
    values, tokenizer, counts = pictures.drifts(before, after), load_tokenizer(model), None
    if options.data:
        rows = tokenize_and_pack(load_documents(options.data), tokenizer, LONGEST, packing=False)
        counts = count_tokens(rows, len(values)).numpy()
    return pictures.drift(values, [tokenizer.decode([token]) for token in range(len(values))], counts)


def embeddings(name: str) -> torch.Tensor:
    table: Any = load_model(name).get_input_embeddings()
    return table.weight
