# Copyright 2026 The TokMat authors. Licensed under the Apache License, Version 2.0.
"""What a model itself writes under argmax: text for its tail to learn from, which is to foresee the model, not people.

    sources = [("stories.txt", document_prompts(load_documents("stories.txt"), tokenizer, "stories", seed=0))]
    batches = draw_batches(sources, [1.0], batch_size=32, texts=4000, seed=0)
    write_own_text(model, tokenizer, batches, Path("own.jsonl"), {"max_new_tokens": 160, "stop_loops": True})
    rows = load_own_text("own.jsonl", loop_share=0.3)

The output is one JSON object per line and answer:

    prompt_ids   ids of the prompt, chat template included
    answer_ids   ids of the greedy answer, which ends with an end-of-sequence id, where it is stuck in a
                 loop, or after `max_new_tokens`
    text         prompt and answer, without a bos in front and an end-of-sequence id behind, which training rows have
                 anyway; where the answer was cut, up to the last whole sentence: so the file is a
                 corpus for `tokmat train --tail-data`
    kind         the prompt's "kind", or the name of the file it comes from
    rep3         share of the answer's trigrams that repeat one in it (Welleck et al. 2020: seq-rep-3), in [0, 1]
    loops        whether that is more than 0.3, or the answer is stuck (`is_stuck`)
"""

import itertools
import json
import os
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from datasets import Dataset

from modeling_tokmat.inputs_tokmat import CACHE

from .collator import IGNORED
from .data import load_documents
from .evaluation.metrics import rep_n

PROMPT_TOKENS = (4, 8, 16, 32, 64)  # of a document that is continued
LOOP = 0.3  # Rep-3 above which an answer counts as a loop
STAGE = 32  # tokens after which finished answers leave the batch
POOL = 8  # batches that are drawn together and sorted by length
CHARACTERS_PER_TOKEN = 16  # more than any prompt has; only so much of a document is tokenized


@dataclass(frozen=True)
class Prompt:
    ids: list[int]
    kind: str


# -- where prompts come from ------------------------------------------------------------------------------------------


def document_prompts(
    documents, tokenizer, kind: str, seed: int, lengths=PROMPT_TOKENS, add_bos: bool = False
) -> Iterator[Prompt]:
    """The beginnings of documents, in an order drawn by `seed`, one length after the other; every document once with
    each length that it has, then the end. None comes twice, as its answer would be the same.

    Args:
        documents: a `Dataset` with the column "text".
        add_bos: begin with bos (eos in a tokenizer without bos), as training rows do; otherwise only if the tokenizer
            itself does.
    """
    order, seen = np.random.default_rng(seed).permutation(len(documents)), set()
    for turn in range(len(lengths)):
        for place, number in enumerate(order.tolist()):
            length = lengths[(place + turn) % len(lengths)]
            text = documents[number]["text"][: CHARACTERS_PER_TOKEN * length]
            ids = tokenizer(text, add_special_tokens=not add_bos, verbose=False)["input_ids"]
            ids = [_begin(tokenizer), *ids] if add_bos else ids
            begun = tuple(ids[:length])
            if len(begun) == length and begun not in seen:
                seen.add(begun)
                yield Prompt(list(begun), kind)


def _begin(tokenizer) -> int | None:
    return tokenizer.eos_token_id if tokenizer.bos_token_id is None else tokenizer.bos_token_id


def chat_ids(tokenizer, messages: list[dict]) -> list[int]:
    """A chat through the tokenizer's template, up to the answer; special tokens are the template's own."""
    text = tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=True)
    return tokenizer(text, add_special_tokens=False, verbose=False)["input_ids"]


def chat_prompts(path: Path, tokenizer, seed: int, max_prompt_tokens: int = 512) -> Iterator[Prompt]:
    """The rows of a .jsonl file through the tokenizer's chat template, in an order drawn by `seed`, each once. A row
    has "messages" (a list of {"role": ..., "content": ...}) or "prompt" (the user's text), and may have a "kind".
    Longer ones than `max_prompt_tokens` are left out.

    Raises:
        ValueError: a tokenizer without chat template, or a row of another form.
    """
    if not tokenizer.chat_template:
        raise ValueError(f"{path} holds chat prompts, but the model's tokenizer has no chat template")
    rows = path.read_text(encoding="utf-8").splitlines()
    for number in np.random.default_rng(seed).permutation(len(rows)).tolist():
        if not rows[number].strip():
            continue
        try:
            row = json.loads(rows[number])
            messages = row["messages"] if "messages" in row else [{"role": "user", "content": row["prompt"]}]
            ids = chat_ids(tokenizer, messages)
        except Exception as error:  # templates raise errors of their own
            raise ValueError(f'{path}, line {number + 1}: no "prompt" or "messages" of a chat ({error})') from error
        if len(ids) <= max_prompt_tokens:
            yield Prompt(ids, str(row.get("kind", path.stem)))


def is_chat(source: str) -> bool:
    """Whether `source` is a .jsonl file whose first row has "prompt" or "messages"."""
    path = Path(source).expanduser()
    if path.suffix.lower() != ".jsonl" or not path.is_file():
        return False
    with path.open(encoding="utf-8") as file:
        try:
            row = json.loads(file.readline())
        except ValueError as error:
            raise ValueError(f"{source}, line 1: {error}") from error
    return isinstance(row, dict) and bool({"prompt", "messages"} & row.keys())


def source_prompts(source: str, tokenizer, seed: int, *, lengths, add_bos, max_prompt_tokens, **columns):
    """The prompts of one source: chat prompts (`is_chat`), or the documents that `load_documents(source, **columns)`
    reads."""
    if is_chat(source) and columns.get("text_column", "text") == "text":
        return chat_prompts(Path(source).expanduser(), tokenizer, seed, max_prompt_tokens)
    return document_prompts(
        load_documents(source, **columns), tokenizer, Path(source).stem, seed, lengths=lengths, add_bos=add_bos
    )


def draw_batches(
    sources: list[tuple[str, Iterator[Prompt]]], shares: list[float], batch_size: int, texts: int, seed: int
) -> list[list[Prompt]]:
    """`texts` prompts in batches. Every pool of `POOL` batches holds the sources in the given shares and is sorted by
    length, so that a batch needs little padding; the batches of a pool come in an order drawn by `seed`. So any
    beginning of the output is a fair mixture.

    Args:
        sources: names and prompts.
        shares: a positive number per source; they need not sum to 1.

    Raises:
        ValueError: a source has too few prompts.
    """
    total = [round(texts * share / sum(shares)) for share in shares]
    total[int(np.argmax(total))] += texts - sum(total)
    lists = []
    for (name, source), wanted in zip(sources, total):
        lists.append(list(itertools.islice(source, wanted)))
        if len(lists[-1]) < wanted:
            raise ValueError(
                f"prompts: {name} gives {len(lists[-1])} different prompts, but its share of {texts} texts is {wanted}"
                ": ask for fewer texts, or give it a smaller share"
            )
    # Spread evenly: the i-th of n prompts of a source stands at (i + 1/2) / n of the whole.
    places = [((i + 0.5) / len(prompts), prompt) for prompts in lists for i, prompt in enumerate(prompts)]
    prompts = [prompt for _, prompt in sorted(places, key=lambda pair: pair[0])]
    batches, size = [], POOL * batch_size
    for pool, first in enumerate(range(0, texts, size)):
        members = sorted(prompts[first : first + size], key=lambda prompt: len(prompt.ids))
        parts = [members[begin : begin + batch_size] for begin in range(0, len(members), batch_size)]
        batches += [parts[place] for place in np.random.default_rng([seed, pool]).permutation(len(parts))]
    return batches


# -- writing ----------------------------------------------------------------------------------------------------------


@torch.inference_mode()
def answer(
    model, tokenizer, prompts: list[list[int]], max_new_tokens: int, stop_loops=True, may_end=True, **asked
) -> list[list[int]]:
    """Greedy answers to a batch of prompts, each up to and with its first end-of-sequence id.

    It is what the model's `generate` writes with its own generation config, without sampling; a TokMat model writes
    with a tail of one slot whose prediction is taken as it is. Every `STAGE` tokens the answers that are finished, and
    with `stop_loops` those that are stuck (`is_stuck`), leave the batch. Without `may_end` no end-of-sequence id is
    taken. Other arguments are `generate`'s.
    """
    ends, longest = _ends(model, tokenizer), max(map(len, prompts))
    pad = ends[0] if tokenizer.pad_token_id is None else tokenizer.pad_token_id
    ids = torch.tensor([[pad] * (longest - len(row)) + row for row in prompts], device=model.device)
    mask = torch.tensor([[0] * (longest - len(row)) + [1] * len(row) for row in prompts], device=model.device)
    options = {"eos_token_id": ends, "pad_token_id": pad, "return_dict_in_generate": True, **asked}
    if model.config.model_type == "tokmat":
        options |= {"tail_length": 1, "alpha_max": 1.0, "commit": "front"}
    else:
        options |= {"do_sample": False, "num_beams": 1, "temperature": None, "top_p": None, "top_k": None}
    if not may_end:
        options["suppress_tokens"] = ends
    answers, places, cache = [[] for _ in prompts], list(range(len(prompts))), None
    for written in range(0, max_new_tokens, STAGE):
        new = min(STAGE, max_new_tokens - written)
        output = model.generate(ids, attention_mask=mask, max_new_tokens=new, **{CACHE: cache}, **options)
        going = []
        for row, place in enumerate(places):
            found = output.sequences[row, longest:].tolist()
            end = next((at + 1 for at, token in enumerate(found) if token in ends), None)
            answers[place] = found[:end]
            if end is None and not (stop_loops and is_stuck(found)):
                going.append(row)
        if not going:
            break
        ids, cache = output.sequences[going], output[CACHE]
        mask = torch.cat([mask[going], mask.new_ones(len(going), new)], dim=1)
        if len(going) < len(places):
            cache.batch_select_indices(torch.tensor(going, device=model.device))
            places = [places[row] for row in going]
    return answers


def is_stuck(tokens: list[int], times: int = 3, repeated: int = 24) -> bool:
    """Whether the end is one phrase at least `times` in a row, at least `repeated` tokens being repeats of earlier
    ones."""
    for length in range(1, len(tokens) // times + 1):
        again = max((times - 1) * length, repeated)
        if len(tokens) >= again + length and tokens[-again:] == tokens[-again - length : -length]:
            return True
    return False


def _ends(model, tokenizer) -> list[int]:
    ends = model.generation_config.eos_token_id
    ends = tokenizer.eos_token_id if ends is None else ends
    if ends is None:
        raise ValueError("the model has no end-of-sequence token (eos_token_id), so its answers cannot end")
    return [ends] if isinstance(ends, int) else list(ends)


def make_row(prompt: Prompt, answer_ids: list[int], ends: list[int], tokenizer) -> dict:
    ended = answer_ids[-1] in ends
    ids = [*prompt.ids, *(answer_ids[:-1] if ended else answer_ids)]
    text = tokenizer.decode(ids[1:] if ids[0] == _begin(tokenizer) else ids)
    sentences = re.match(r"(?s).*[.!?][\"']?(?=\s|$)", text)
    text = text if ended or sentences is None else sentences[0]
    rep3 = round(rep_n([answer_ids], 3), 3)
    row = {"prompt_ids": prompt.ids, "answer_ids": answer_ids, "text": text.strip(), "kind": prompt.kind}
    return row | {"rep3": rep3, "loops": rep3 > LOOP or is_stuck(answer_ids)}


def write_own_text(
    model, tokenizer, batches: list[list[Prompt]], output: Path, settings: dict, progress=lambda rows, written: None
) -> None:
    """Write the answers to `batches` of prompts to `output`, and `settings` beside it in `<output>.settings.json`.

    A batch is appended as soon as it is there. If `output` exists the run goes on behind its last whole batch, and
    what is there in the end does not depend on where it was interrupted.

    Args:
        settings: "max_new_tokens", "stop_loops", "may_end", and whatever else the answers depend on; a run goes on
            only under the same ones.
        progress: called with the rows of each batch and whether they are new.

    Raises:
        ValueError: `output` was written under other settings or from other prompts, or a prompt and its answer are
            more than the model's positions. Nothing is changed then.
    """
    longest = max(len(prompt.ids) for batch in batches for prompt in batch)
    limit, new = getattr(model.config, "max_position_embeddings", None), settings["max_new_tokens"]
    if limit is not None and longest + new > limit:
        raise ValueError(
            f"max_new_tokens: {new} after a prompt of {longest} tokens are too many for the model's {limit} positions"
        )
    check_settings(output, settings)
    side = settings_file(output)
    if not side.exists():
        temporary = side.with_name(side.name + ".tmp")
        temporary.write_text(json.dumps(settings, indent=1) + "\n", encoding="utf-8")
        os.replace(temporary, side)
    ends = _ends(model, tokenizer)
    with open(output, "r+b" if output.exists() else "x+b") as file:
        for batch in batches:
            start, rows = file.tell(), _next_rows(file, len(batch))
            known = [row["prompt_ids"] for row in rows]
            if known != [prompt.ids for prompt in batch[: len(known)]]:
                raise ValueError(
                    f"output: {output} was written from other prompts: give the same ones, choose another file, or "
                    f"delete it"
                )
            written = len(rows) < len(batch)
            if written:
                how = settings["stop_loops"], settings.get("may_end", True)
                answers = answer(model, tokenizer, [prompt.ids for prompt in batch], new, *how)
                rows = [make_row(prompt, ids, ends, tokenizer) for prompt, ids in zip(batch, answers)]
                file.seek(start)
                file.truncate()
                file.write("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows).encode())
                file.flush()
            progress(rows, written)


def settings_file(output: Path) -> Path:
    return output.with_name(output.name + ".settings.json")


def check_settings(output: Path, settings: dict) -> None:
    """Raise a `ValueError` where `output` was begun under other settings."""
    side = settings_file(output)
    if not (output.exists() or side.exists()):
        return
    if not side.is_file():
        raise ValueError(f"output: {output} exists and has no {side.name}, so it is not known how it was written")
    found = json.loads(side.read_text(encoding="utf-8"))
    for name, value in settings.items():
        if found.get(name) != value:
            raise ValueError(
                f"output: {output} was written with {name}={found.get(name)!r}, not {value!r}: give the same settings "
                "to go on, choose another file, or delete it"
            )


def _next_rows(file, count: int) -> list[dict]:
    """Up to `count` whole rows; a line that was not finished ends the file."""
    rows = []
    for line in itertools.islice(iter(file.readline, b""), count):
        if not line.endswith(b"\n"):
            break
        rows.append(json.loads(line))
    return rows


# -- reading ----------------------------------------------------------------------------------------------------------


def load_own_text(path: str | Path, loop_share: float = 1.0) -> Dataset:
    """The rows of an own text, with the columns named at the top of this module; one that is being written gives what
    is there.

    Args:
        loop_share: in [0, 1]; of the rows that loop, the first ones are kept up to this share of all rows.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: `loop_share` out of range, or a file of another kind.
    """
    path = Path(path).expanduser()
    if not 0 <= loop_share <= 1:
        raise ValueError(f"loop_share={loop_share} must be in [0, 1]")
    if not path.is_file():
        raise FileNotFoundError(f"there is no file {path}")
    kept, loops = [], 0
    with path.open("rb") as file:
        for number, line in enumerate(file, start=1):
            if not line.endswith(b"\n"):
                break
            try:
                row = json.loads(line)
                loop = row["loops"]
                if not (row["prompt_ids"] and row["answer_ids"]):
                    raise ValueError("an empty prompt or answer")
            except (ValueError, KeyError, TypeError) as error:
                raise ValueError(f"{path}, line {number}, is no row of `tokmat own-text` ({error!r})") from error
            # Judged at every row, so that any beginning has the share: a loop stays if it does not exceed it.
            if loop and loops + 1 > loop_share * (len(kept) + 1):
                continue
            loops += loop
            kept.append(row)
    if not kept:
        raise ValueError(f"{path} holds no row" + (" that does not loop" if loop_share < 1 else ""))
    return Dataset.from_list(kept)


def is_own_text(path: str | Path) -> bool:
    """Whether a file is one that `write_own_text` wrote."""
    path = Path(path).expanduser()
    if path.suffix != ".jsonl" or not path.is_file():
        return False
    with path.open("rb") as file:
        return b'"answer_ids"' in file.readline()


def answer_rows(answers: Dataset, block_size: int) -> Dataset:
    """Training rows of whole answers, as many to a row as fit: "input_ids", "labels" (-100 in prompts) and
    "position_ids", which restart at every prompt. Where prompt and answer are too long together, the prompt loses its
    beginning and then the answer its end.

    Args:
        answers: what `load_own_text` gives. block_size: most ids in a row.
    """
    rows: list[dict[str, list[int]]] = []
    for answer in answers:
        reply = answer["answer_ids"][: block_size - 1]
        prompt = answer["prompt_ids"][-(block_size - len(reply)) :]
        size = len(prompt) + len(reply)
        if not rows or len(rows[-1]["input_ids"]) + size > block_size:
            rows.append({"input_ids": [], "labels": [], "position_ids": []})
        rows[-1]["input_ids"] += prompt + reply
        rows[-1]["labels"] += [IGNORED] * len(prompt) + reply
        rows[-1]["position_ids"] += range(size)
    return Dataset.from_list(rows)
