# Copyright 2026 The TokMat authors. Licensed under the Apache License, Version 2.0.
"""Writes the tables of README.md and docs/ from the committed result files, so that no figure is copied by hand.

    python benchmarks/figures.py               # rewrite what stands between the markers (make figures)
    python benchmarks/figures.py --commands    # the command that each result file came from

A document holds `<!-- figures: NAME -->` and `<!-- /figures -->`; between them stand the table NAME below and the
commands that its numbers came from. Results are docs/results/*.json, each with its command and machine, and
docs/studies*/*/results.csv, whose commands are those of docs/results/studies*.json. To measure anew, run a command
with `--output docs/results/NAME.json` (the benchmarks) and then `make figures`.
"""

import argparse
import os

import pretrained_tables  # noqa: F401, registers its tables
from tables import ROOT, documents, lm_eval_rows, load, rewritten, study, table, with_interval

# -- repetition: what is measured -------------------------------------------------------------------------------------

MEASURES = {"dist_2": "Dist-2", "rep_2": "Rep-2", "rep_3": "Rep-3", "loop": "Loop", "judge_perplexity": "judge ppl"}
DECODERS = {
    "human": "people",
    "tokmat, seed 0": "**TokMat**, K = 8, training seed 0",
    "tokmat, seed 1": "**TokMat**, K = 8, training seed 1",
    "tokmat K = 1, seed 0": "TokMat, K = 1, seed 0",
    "tokmat K = 1, seed 1": "TokMat, K = 1, seed 1",
    "tokmat look-ahead, seed 0": "TokMat with `--look-ahead`, seed 0",
    "tokmat look-ahead, seed 1": "TokMat with `--look-ahead`, seed 1",
    "ar greedy": "baseline, greedy",
    "ar penalty 1.1": "baseline, greedy, penalty 1.1",
    "ar penalty 1.2": "baseline, greedy, penalty 1.2",
    "ar penalty 1.3": "baseline, greedy, penalty 1.3",
    "ar nucleus 0.95": "baseline, nucleus 0.95",
}


def repetition(new_tokens: str, names: list[str]) -> list[list[str]]:
    found = {row["decoder"]: row for row in study("repetition") if row["new_tokens"] == new_tokens}
    rows = [["", *MEASURES.values()]]
    for name in names:
        row, ends = found[name], ("", "_low", "_high")
        cells = [with_interval(measure, (row[f"{measure}{end}"] for end in ends)) for measure in MEASURES]
        rows.append([DECODERS[name], *cells])
    return rows


@table("summary", "studies")
def summary():
    return repetition("50", ["human", "tokmat, seed 0", "tokmat, seed 1", "ar penalty 1.2", "ar greedy"])


@table("repetition", "studies")
def repetition_at_50():
    return repetition("50", list(DECODERS))


@table("repetition-200", "studies")
def repetition_at_200():
    return repetition("200", [name for name in DECODERS if "seed 1" not in name])


STORIES = {
    "human": "people",
    "tokmat": "**tokmat-stories**, argmax",
    "ar greedy": "ar-stories, greedy",
    "ar penalty 1.1": "ar-stories, penalty 1.1",
    "ar penalty 1.2": "ar-stories, penalty 1.2",
    "ar penalty 1.3": "ar-stories, penalty 1.3",
    "ar nucleus 0.95": "ar-stories, nucleus 0.95",
}


def stories(new_tokens: int) -> list[list[str]]:
    found = {row["name"]: row for row in load(f"stories-{new_tokens}")["decoders"]}
    measures = MEASURES | {"judge_bits": "judge bits/byte", "mauve": "MAUVE"}
    measures = {name: title for name, title in measures.items() if name in found["human"]}
    measures |= {"held_out_perplexity": "held-out ppl"}
    rows = [["", *measures.values()]]
    for name, title in STORIES.items():
        values = {measure: found[name].get(measure) for measure in measures}
        cells = [with_interval(measure, value) if value else "" for measure, value in values.items()]
        rows.append([title, *cells])
    return rows


@table("stories-diary", "stories-diary")
def stories_diary():
    names = {"human": "people", "ar greedy": "twin, greedy"}
    return diary("stories-diary", names, ("front", "unlikely", "round2", "round3", "round4"))


@table("stories-practice", "stories-practice")
def stories_practice():
    names = {"human": "people", "ar greedy": "twin, greedy"}
    names |= {f"ar penalty {penalty}": f"twin, penalty {penalty}" for penalty in ("1.2", "1.3")}
    return diary("stories-practice", names, ("round3", "practice8", "settled", "averaged"))


def diary(file: str, names: dict[str, str], models: tuple[str, ...]) -> list[list[str]]:
    names = names | {f"tokmat ({name})": name for name in models}
    found = {row["name"]: row for row in load(file)["decoders"]}
    measures = ("rep_2", "rep_3", "loop", "judge_perplexity")
    rows = [["", *(MEASURES[measure] for measure in measures)]]
    for name, title in names.items():
        means = [found[name][measure][0] for measure in measures]
        rows.append([title, *(f"{mean:.{2 if at > 1 else 3}f}" for at, mean in enumerate(means))])
    return rows


@table("phrases", "phrases")
def phrases():
    rows = [["", *(f"{name}, {length} tokens" for length in (50, 200) for name in ("Rep-2", "Rep-3", "judge ppl"))]]
    for row in load("phrases")["rows"]:
        cells = []
        for length in ("50", "200"):
            means = [row[length][name][0] for name in ("rep_2", "rep_3", "judge_perplexity")]
            cells += [f"{means[0]:.3f}", f"{means[1]:.3f}", f"{means[2]:.2f}"]
        rows.append([row["name"], *cells])
    return rows


@table("phrases-cost", "phrases-cost")
def phrases_cost():
    rows = [["", "Rep-2, 50 tokens", "Rep-2, 200 tokens", "held-out ppl", "the same, least change"]]
    for row in load("phrases-cost")["rows"]:
        if "held_out" in row:
            repeats = [f"{row[length]['rep_2'][0]:.3f}" for length in ("50", "200")]
            costs = [f"{row[kind]:.2f}" if kind in row else "" for kind in ("held_out", "held_out_least")]
            rows.append([row["name"], *repeats, *costs])
    return rows


@table("stories-50", "stories-50")
def stories_at_50():
    return stories(50)


@table("stories-200", "stories-200")
def stories_at_200():
    return stories(200)


@table("stories-tail", "stories-tail")
def stories_tail():
    found = load("stories-tail")["look_ahead"]
    slots = {f"slot {slot}": found[f"tail_acc_{slot}"] for slot in range(2, 6)}
    cells = [with_interval(slot, values) for slot, values in slots.items()]
    same = "yes" if found["verified_same_text"] else "no"
    heads = [*slots, "verified: tokens per forward", "speed over K = 1", "text of K = 1"]
    return [heads, [*cells, f"{found['verified_tokens_per_forward']:.2f}", f"{found['verified_speed']:.2f}", same]]


@table("stories-speed", "decode-stories")
def stories_speed():
    found = load("decode-stories")
    greedy = f"x greedy (single repetitions of {found['repeats']})"
    rows = [["", "format", "ms per token", greedy, "tokens per forward", "text of K = 1"]]
    for row in found["measurements"]:
        if row["decoder"] == "K=8":  # as the model is saved, so these are verified commits too
            continue
        forward, same = row["tokens_per_forward"], {None: "", True: "yes", False: "no"}[row["same_text"]]
        ratio = f"{row['ratio']:.2f} ({min(row['ratios']):.2f} to {max(row['ratios']):.2f})"
        cells = [f"{1000 * row['seconds_per_token']:.1f}", ratio, forward and f"{forward:.2f}", same]
        rows.append([row["decoder"], row["dtype"], *(cell or "" for cell in cells)])
    return rows


@table("mauve", "mauve")
def mauve():
    names = {"human": "people, two halves", "tokmat (base)": "TokMat, seed 0", "tokmat (base-1)": "TokMat, seed 1"}
    names |= {"tokmat (tokmat)": "TokMat with `--look-ahead`, seed 0"}
    names |= {"tokmat (tokmat-1)": "TokMat with `--look-ahead`, seed 1"}
    rows = [[(names | DECODERS)[row["name"]], f"{row['mauve']:.2f}"] for row in load("mauve")["decoders"]]
    rows[0][0] = names["human"]
    return [["", "MAUVE"], *rows]


@table("lm-eval", "lm_eval")
def lm_eval():
    return lm_eval_rows("lm_eval")


@table("guidance", "studies")
def guidance():
    scales = study("guidance")
    shares = [f"{100 * float(row['slot_2']):.0f}" for row in scales]
    return [["guidance scale", *(row["guidance_scale"] for row in scales)], ["slot 2 agrees, %", *shares]]


# -- speed ------------------------------------------------------------------------------------------------------------


def by_place(result: dict) -> dict[tuple, dict[str, dict]]:
    """Measurements by (dtype, batch, prefix), and there by decoder."""
    found = {}
    for row in result["measurements"]:
        found.setdefault((row["dtype"], row["batch"], row["prefix"]), {})[row["decoder"]] = row
    return found


@table("decode", "decode")
def decode():
    rows = [["", "greedy, ms/token", "K = 1", "K = 4", "K = 16", "16 positions, bare"]]
    for (dtype, batch, prefix), found in by_place(load("decode")).items():
        ratios = [f"{found[f'K={k}']['ratio']:.2f}" for k in (1, 4, 16)]
        cells = [f"{1000 * found['greedy']['seconds_per_token']:.1f}", *ratios, f"{found['K=16']['bare']:.2f}"]
        rows.append([f"{dtype}, batch {batch}, prefix {prefix}", *cells])
    return rows


@table("decode-rules", "decode-rules")
def decode_rules():
    result = load("decode-rules")
    rows = [["batch, prefix", "greedy, ms/token; static cache", "K = 1", "K", "`front`; static cache"]]
    rows[0] += ["guided (cost over unguided)", "`verified` (over K = 1)", "`stable` (tokens per forward)"]
    for (_, batch, prefix), found in by_place(result).items():
        greedy, static = found["greedy"], found["greedy static"]
        times = f"{1000 * greedy['seconds_per_token']:.1f}; {static['ratio']:.2f}"
        first = [f"{batch}, {prefix}", times, f"{found['K=1']['ratio']:.2f}"]
        for k in (k for k in result["tail_lengths"] if k > 1):
            rules = {rule: found[f"K={k} {rule}"] for rule in ("static", "guided", "verified", "stable")}
            cells = [str(k), f"{found[f'K={k}']['ratio']:.2f}; {rules['static']['ratio']:.2f}"]
            for rule, extra in (("guided", "cost"), ("verified", "over_one"), ("stable", "tokens_per_forward")):
                cells.append(f"{rules[rule]['ratio']:.2f} ({rules[rule][extra]:.2f})")
            rows.append([*first, *cells])
            first = ["", "", ""]
    return rows


@table("decode-verified", "decode-verified")
def decode_verified():
    found = [row for row in load("decode-verified")["measurements"] if row["decoder"] == "K=8 verified"]
    rows = [[str(row["batch"]), f"{row['over_one']:.2f}"] for row in found]
    return [["batch", "`verified`, K = 8, speed over K = 1"], *rows]


@table("train", "train")
def train():
    names = {"cross_entropy": "cross-entropy, transformers' Trainer"}
    names |= {"uniform": "TokMatTrainer, 256 uniform negatives"}
    names |= {"all": 'TokMatTrainer, `negatives="all"` (exact, chunked)'}
    rows = [["", "s/step", "tokens/s", "x speed", "peak MB", "x memory"]]
    for row in load("train")["variants"]:
        cells = [f"{row['seconds_per_step']:.3f}", f"{row['tokens_per_second']:.0f}", f"{row['speed_ratio']:.2f}"]
        cells += [f"{row['peak_memory_mb']:.0f}", f"{row['memory_ratio']:.2f}"]
        rows.append([names[row["variant"]], *cells])
    return rows


# -- look-ahead -------------------------------------------------------------------------------------------------------

WINNERS = ("rollout", "own-quarter", "own-long")
LOOK_AHEAD_RUNS = ("decode-own-long-eager", "decode-own-long-sdpa", "decode-own-quarter", "decode-rollout")


def percent(row: dict, name: str) -> str:
    return f"{row[name]:.1f} ±{row[f'{name}_half']:.1f}" if name in row else ""


def fixed(row: dict, name: str, digits: int) -> str:
    return f"{row[name]:.{digits}f}" if name in row else ""


@table("look-ahead", "lookahead")
def look_ahead():
    rows = [["", "tail_acc_2 %", "3 %", "4 %", "5 / 6 / 7 / 8 %", "with guidance 2: 2 %", "tokens per forward"]]
    rows[0] += ["Rep-2 %", "Loop %", "judge ppl", "held-out ppl", "minutes"]
    for row in load("lookahead")["models"]:
        name = f"**{row['model']}**" if row["model"] in WINNERS else row["model"]
        far = " / ".join(fixed(row, f"tail_acc_{slot}", 0) for slot in (5, 6, 7, 8))
        cells = [percent(row, f"tail_acc_{slot}") for slot in (2, 3, 4)]
        cells += [far if "tail_acc_5" in row else "", percent(row, "guided_tail_acc_2")]
        cells += [fixed(row, "tokens_per_forward", 2), percent(row, "rep_2"), percent(row, "loop")]
        cells += [fixed(row, "judge_perplexity", 2), fixed(row, "held_out_perplexity", 2), fixed(row, "minutes", 1)]
        rows.append([name, *cells])
    return rows


@table("look-ahead-tail-lengths", "lookahead")
def look_ahead_tail_lengths():
    rows = [
        ["K", "trained for 8: tail_acc_2, 3, 4 %", "trained for K: 2, 3, 4 %", "tokens per forward", "held-out ppl"]
    ]
    for row in load("lookahead")["tail_lengths"]:
        shares = [
            ", ".join(percent(row, f"{kind}_tail_acc_{slot}") for slot in (2, 3, 4)) for kind in ("for_8", "for_K")
        ]
        forwards = f"{row['for_8_tokens_per_forward']:.2f}, then {row['for_K_tokens_per_forward']:.2f}"
        rows.append([str(row["tail_length"]), *shares, forwards, f"{row['held_out_perplexity']:.2f}"])
    return rows


@table("look-ahead-decode", *LOOK_AHEAD_RUNS)
def look_ahead_decode():
    names = {"greedy": "transformers' greedy, same-size autoregressive model", "K=1": "K = 1"}
    names |= {"K=8 verified": "K = 8, `verified`"}
    texts = {True: "yes", False: "no: rounding", None: ""}
    rows = [["", "", "ms/token", "x greedy", "x K = 1", "tokens per forward", "text of K = 1"]]
    for result in map(load, LOOK_AHEAD_RUNS):
        for row in result["measurements"]:
            greedy, alone = row["decoder"] == "greedy", len(result["measurements"]) == 1
            model = "" if greedy else f"`{result['model']}`, "
            kind = row["dtype"] if greedy else f"{row['dtype']}, {result['attention']}"
            cells = [f"{1000 * row['seconds_per_token']:.2f}", f"{row['ratio']:.2f}", fixed(row, "over_one", 2)]
            cells += [fixed(row, "tokens_per_forward", 2), texts[row.get("same_text")]]
            best = not alone and row["decoder"] == "K=8 verified" and kind == "bf16, eager"
            mark = "**" if best else ""
            rows.append([kind, f"{mark}{model}{names[row['decoder']]}{mark}", *cells])
    return rows


# -- versions ---------------------------------------------------------------------------------------------------------


@table("versions", "matrix")
def versions():
    found = load("matrix")["rows"]
    packages = list(dict.fromkeys(name for row in found for name in row.get("packages", ())))
    rows = [["Python", "end", *packages, "passed", "failed", "skipped"]]
    for row in found:
        if "packages" in row:
            installed = [row["packages"][name].partition("+")[0] for name in packages]
            rows.append([row["python"], row["end"], *installed, *(str(row[name]) for name in rows[0][-3:])])
        else:
            rows.append([row["python"], row["end"], *["" for _ in packages], "not run", "", ""])
    return rows


# -- settings ---------------------------------------------------------------------------------------------------------


@table("settings", "settings")
def settings():
    rows = [["changed", "meaning", "text", "tokens per forward"]]
    for row in load("settings")["rows"]:
        text = row["text"].replace("|", "\\|")
        rows.append([f"`{row['changed']}`", row["meaning"], text, f"{row['tokens_per_forward']:.2f}"])
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--commands", action="store_true", help="print the command behind each result file")
    if parser.parse_args().commands:
        for path in sorted((ROOT / "docs" / "results").glob("*.json")):
            print(f"{path.relative_to(ROOT)}\n    {load(path.stem)['command']}")
        return
    for path in documents():
        before = path.read_text(encoding="utf-8")
        after = rewritten(before)
        if after != before:
            temporary = path.with_name(path.name + ".tmp")
            temporary.write_text(after, encoding="utf-8")
            os.replace(temporary, path)
            print(f"rewritten: {path.relative_to(ROOT)}")


if __name__ == "__main__":
    main()
