# Copyright 2026 The TokMat authors. Licensed under the Apache License, Version 2.0.
"""The tables of pretrained models; `figures.py` writes them."""

from functools import partial

from tables import lm_eval_rows, load, study, table, with_interval


def spec_bench(name: str) -> list[list[str]]:
    """tokens per forward and speed over greedy of each decoder, by kind of prompt."""
    groups = load(name)["groups"]
    decoders = [decoder for decoder in groups["all"] if decoder not in ("greedy", "K = 1")]
    rows = [["prompts", "number", *(f"{decoder}: tokens/forward, x greedy, same text" for decoder in decoders)]]
    for kind, found in groups.items():
        cells = []
        for decoder in decoders:
            row = found[decoder]
            cells.append(f"{row['tokens_per_forward']:.2f}, {row['speed']:.2f}, {row['same_text']}/{row['prompts']}")
        rows.append([kind, str(found["greedy"]["prompts"]), *cells])
    return rows


for name in ("spec-bench-fp32", "spec-bench-bf16", "spec-bench-avx2"):
    table(name, name)(partial(spec_bench, name))


@table("tail-accuracy", "tail-accuracy")
def tail_accuracy():
    found = load("tail-accuracy")["rows"]
    slots = range(2, len(found[0]["accuracy"]) + 2)
    rows = [["slots hold", "read", *(f"slot {slot}" for slot in slots), "tokens per forward"]]
    for row in found:
        shares = [f"{share:.3f}" for share in row["accuracy"]]
        rows.append([row["slots"], row["read"], *shares, f"{row['tokens_per_forward']:.2f}"])
    return rows


ENDS = ("", "_low", "_high")
LESSON = "negatives of bigrams, 9 nats, twice the steps"
TUNED = "argmax, phrases unlearned"  # which is round 3 of the source's phrases unlearned
NAMES = {"human": "people", "greedy": "SmolLM2, greedy", TUNED: "phrases unlearned, round 3"}


def perplexities(name: str) -> dict[str, float]:
    """Of held-out text, times the source's, by decoder."""
    found = {row["decoder"]: row["perplexity"] for row in study(name, "studies-135m") if row.get("perplexity")}
    kept = {decoder.removeprefix("held-out text, "): float(value) for decoder, value in found.items()}
    source = kept.get("source") or kept["greedy"]
    return {decoder: value / source for decoder, value in kept.items()}


def unlearnt(new_tokens: str) -> list[list[str]]:
    """People, what was taught, and every way to decode the source, at one length."""
    measures = {"dist_2": "Dist-2", "rep_2": "Rep-2", "rep_3": "Rep-3", "loop": "Loop", "bits": "bits per byte"}
    all_rows = [row for name in ("pretrained", "practice", "decoding") for row in study(name, "studies-135m")]
    by_name = {row["decoder"]: row for row in all_rows if row["new_tokens"] == new_tokens}
    ours = perplexities("pretrained")
    kept = {f"argmax, {name}": value for name, value in ours.items()} | {TUNED: ours["round 3"]}
    kept |= perplexities("practice") | perplexities("decoding")
    rows = [["", *measures.values(), "perplexity"]]
    for name in sorted(by_name, key=lambda name: (name != "human", name not in kept)):
        cells = [with_interval(measure, (by_name[name][f"{measure}{end}"] for end in ENDS)) for measure in measures]
        shown = name.replace("argmax", "phrases unlearned") if name in kept else f"SmolLM2, {name}"
        rows.append([NAMES.get(name, shown), *cells, f"{kept[name]:.3f}" if name in kept else ""])
    return rows


@table("unlearnt-50", "studies-135m")
def unlearnt_at_50():
    return unlearnt("50")


@table("unlearnt-200", "studies-135m")
def unlearnt_at_200():
    return unlearnt("200")


@table("unlearnt-1000", "studies-135m")
def unlearnt_at_1000():
    return unlearnt("1000")


FUNCTIONS = ("functions", "functions-negatives", "functions-sequence", "functions-practice", "functions-twice")


@table("functions", *FUNCTIONS)
def functions():
    rows = [["", "passed", "pass@1", "Rep-3 of what it wrote"]]
    for found in map(load, FUNCTIONS):
        for row in found["rows"]:
            share = row["passed"] / found["problems"]
            cells = [f"{row['passed']} of {found['problems']}", f"{share:.3f}", f"{row['rep_3']:.3f}"]
            rows.append([row["model"], *cells])
    return rows


@table("likeness", "studies-135m")
def likeness():
    """MAUVE of every decoder."""
    rows = [["", "MAUVE", "Rep-2, 50 tokens"]]
    for row in study("likeness", "studies-135m"):
        name = row["decoder"]
        cells = [with_interval("mauve", (row[f"mauve{end}"] for end in ENDS)), f"{float(row['rep_2']):.3f}"]
        rows.append([NAMES.get(name, name if "unlikelihood" in name else f"SmolLM2, {name}"), *cells])
    return rows


@table("paper-135m", "studies-135m")
def paper():
    """The project page's table of repetition, from SmolLM2's weights."""
    measures = {"dist_1": "Dist-1", "dist_2": "Dist-2", "rep_2": "Rep-2", "rep_3": "Rep-3", "loop": "Loop"}
    measures |= {"bits": "bits per byte"}
    rows = [["", *measures.values()]]
    for row in study("paper", "studies-135m"):
        if row["new_tokens"]:
            name = row["decoder"]
            cells = [with_interval(measure, (row[f"{measure}{end}"] for end in ENDS)) for measure in measures]
            rows.append([NAMES.get(name, name if "TokMat" in name else f"SmolLM2, {name}"), *cells])
    return rows


@table("lm-eval-135m", "lm_eval-135m")
def lm_eval():
    return lm_eval_rows("lm_eval-135m")


@table("peers", "peers-135m")
def peers():
    return lesson_by_lesson("peers")


@table("lessons", "lessons-135m")
def lessons():
    return lesson_by_lesson("lessons")


@table("argmax", "lessons-135m")
def argmax():
    """The best lesson beside people and its rivals: repetition and bits at each length, and what it forgets."""
    shown = {"human": "people", "greedy": "SmolLM2, greedy", "penalty 1.1": "SmolLM2, penalty 1.1"}
    shown |= {"penalty 1.2": "SmolLM2, penalty 1.2", LESSON: "with the adapter, argmax"}
    found, kept = study("decoding", "studies-135m"), perplexities("decoding")
    by_place = {(row["decoder"], row["new_tokens"]): row for row in found if row["new_tokens"]}
    lengths = sorted({length for _, length in by_place}, key=int)
    rows = [["", *(f"{title}, {length}" for length in lengths for title in ("Rep-2", "bits per byte")), "perplexity"]]
    for name, title in shown.items():
        cells = []
        for length in lengths:
            row = by_place.get((name, length))
            for measure in ("rep_2", "bits"):
                ends = [row[f"{measure}{end}"] for end in ENDS] if row else []
                cells.append(with_interval(measure, ends) if row else "")
        rows.append([title, *cells, {"greedy": "1.000", LESSON: f"{kept[LESSON]:.3f}"}.get(name, "")])
    return rows


def lesson_by_lesson(name: str) -> list[list[str]]:
    """What a study teaches SmolLM2 in the steps of one round: repetition and bits at both lengths, what it forgets."""
    found = study(name, "studies-135m")
    kept = {row["decoder"].removeprefix("held-out text, "): float(row["perplexity"] or "nan") for row in found}
    columns = {"rep_2": "Rep-2", "rep_3": "Rep-3", "bits": "bits per byte"}
    lengths = sorted({row["new_tokens"] for row in found if row["new_tokens"]}, key=int)
    rows = [["", *(f"{title}, {length}" for length in lengths for title in columns.values()), "perplexity"]]
    for name in dict.fromkeys(row["decoder"] for row in found if row["new_tokens"]):
        by_length = {row["new_tokens"]: row for row in found if row["decoder"] == name}
        cells = [f"{float(by_length[length][measure]):.3f}" for length in lengths for measure in columns]
        cells.append("" if name == "human" else f"{kept[name] / kept['greedy']:.3f}")
        rows.append([{"human": "people", "greedy": "SmolLM2, greedy"}.get(name, name), *cells])
    return rows


@table("controls", "studies-135m")
def controls():
    """Doses of each control, and what they do to SmolLM2's text at K = 1."""
    columns = {"rep_2": "Rep-2", "bits": "bits per byte", "changed": "tokens changed"}
    rows, ends = [["control", "dose", *columns.values()]], ("", "_low", "_high")
    for row in study("controls", "studies-135m"):
        cells = [with_interval(measure, (row[f"{measure}{end}"] for end in ends)) for measure in columns]
        rows.append([row["control"].replace("human", "people"), f"{float(row['dose']):g}", *cells])
    return rows


@table("convert", "convert")
def convert():
    found = load("convert")
    rows = [["", "processor seconds", "peak MB", f"x {found['weights_mb']:.0f} MB of weights"]]
    for name, title in (("import", "importing what the command imports"), ("convert", "`tokmat convert`, all of it")):
        row = found[name]
        rows.append([title, f"{row['cpu_seconds']:.1f}", f"{row['peak_memory_mb']:.0f}", f"{row['memory_ratio']:.2f}"])
    return rows


TRAIN_TAIL = ("train-tail-256", "train-tail-1024", "train-tail-1024-of-16")


@table("train-tail", *TRAIN_TAIL)
def train_tail():
    rows = [["", "tokens in a row", "ms per token", "x time", "peak MB", "x memory"]]
    for found in map(load, TRAIN_TAIL):
        tails = found.get("parallel_tails", 40)  # the default, before it was an option of the benchmark
        names = {"lora": "LoRA, PEFT and transformers' Trainer", "tail": f"`--train tail`, {tails} tails a row"}
        for row in found["variants"]:
            cells = [f"{found['block_size']:,}", f"{1000 / row['tokens_per_second']:.2f}"]
            cells += [f"{1 / row['speed_ratio']:.2f}", f"{row['peak_memory_mb']:.0f}", f"{row['memory_ratio']:.2f}"]
            rows.append([names[row["variant"]], *cells])
    return rows


@table("wide-pass", "wide-pass", "wide-pass-int8")
def wide_pass():
    found = load("wide-pass")
    measured = found["rows"] + [row for row in load("wide-pass-int8")["rows"] if row["kernel"] == "int8"]
    rows = [["", "computed", "1 position, ms", *(f"{positions}" for positions in found["positions"][1:])]]
    for of in ("linear layers", "whole model"):
        for row in (row for row in measured if row["of"] == of):
            rows.append([of, row["kernel"], *(f"{time:.0f}" for time in row["milliseconds"])])
    return rows


DRAFT_COSTS = {"draft-costs-bf16": "bf16", "draft-costs-fp32": "fp32", "draft-costs-avx2": "fp32, AVX2 alone"}


@table("draft-costs", *DRAFT_COSTS)
def draft_costs():
    found = {name: load(file) for file, name in DRAFT_COSTS.items()}
    rows = [["", "K = 1, ms", *(f"{part}: cost, price" for part in next(iter(found.values()))["costs"])]]
    for name, result in found.items():
        cells = [f"{cost:.2f}, {result['prices'][part]:.2f}" for part, cost in result["costs"].items()]
        rows.append([name, f"{result['milliseconds']:.0f}", *cells])
    return rows


def tail_ablations(name: str) -> list[list[str]]:
    """What slots foresee, and what a step cost, by the setting that was changed."""
    found = load(name)["rows"]
    slots = range(2, len(found[0]["carried"]["accuracy"]) + 2)
    rows = [["", *(f"slot {slot}" for slot in slots), "tokens per forward", "where nothing loops"]]
    rows[0] += ["fresh embryos at every step", "parameters", "ms per token", "peak MB"]
    for row in found:
        held = row["fresh" if row["name"] == "fresh embryos" else "carried"]
        cells = [*(f"{share:.3f}" for share in held["accuracy"]), f"{row['carried']['tokens_per_forward']:.2f}"]
        cells += [f"{row['carried']['without_loops']:.2f}", f"{row['fresh']['tokens_per_forward']:.2f}"]
        cells += [f"{row['parameters']:,}", f"{row['cpu_ms_per_token']:.2f}", f"{row['peak_memory_mb']:.0f}"]
        rows.append([row["name"], *cells])
    return rows


for name in ("tail-ablations", "tail-ablations-135m"):
    table(name, name)(partial(tail_ablations, name))
