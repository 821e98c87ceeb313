# Copyright 2026 The TokMat authors. Licensed under the Apache License, Version 2.0.
"""Template attractors: what embryo noise changes, the skeleton of a text or its words."""

import difflib
import itertools
import math
import re
from collections import Counter
from collections.abc import Iterable, Sequence

import matplotlib.pyplot as plt
import numpy as np
import torch

from .lab import TAIL_LENGTH, Finding, Lab, with_ends

NEW_TOKENS = 50
FREQUENT = 100  # words that a skeleton keeps
MASK = "_"
DEFAULT = f"embryo norm 0.1, K = {TAIL_LENGTH}"
# What embryo noise may change: the norm as it is saved, and one at which noise is as long as an embedding.
CONDITIONS = {
    f"embryo norm {norm:g}, K = {tail}": {"embryo_norm": norm, "tail_length": tail}
    for norm in (0.1, 1.0)
    for tail in (TAIL_LENGTH, 16)
}
LOUD = next(reversed(CONDITIONS))
FEWEST = 5  # prompts that vary, below which an interval over prompts means nothing
# The second is there because argmax text is plainer than sampled text: more of its words are frequent ones.
CONTROLS = {
    "nucleus 0.95": {"do_sample": True, "top_p": 0.95, "top_k": 0},
    "temperature 0.5": {"do_sample": True, "temperature": 0.5, "top_k": 0},
}
OTHERS = "different prompts"


def split_words(text: str) -> list[str]:
    """Lower-case words and single punctuation marks, without white space."""
    return re.findall(r"\w+(?:'\w+)?|[^\w\s]", text.lower())


def frequent_words(texts: Iterable[str], count: int = FREQUENT) -> set[str]:
    """The `count` most frequent words of `texts`, punctuation marks among them."""
    counts = Counter()
    for text in texts:
        counts.update(split_words(text))
    return {word for word, _ in counts.most_common(count)}


def skeleton(words: Sequence[str], kept: set[str]) -> list[str]:
    """`words` with every one that is not `kept` masked, the length as before."""
    return [word if word in kept else MASK for word in words]


def agreement(pairs: Iterable[tuple[Sequence[str], Sequence[str]]]) -> float:
    """Mean over pairs of texts of difflib's ratio of their words, in [0, 1]; nan without a pair."""
    ratios = [difflib.SequenceMatcher(None, *pair, autojunk=False).ratio() for pair in pairs]
    return sum(ratios) / len(ratios) if ratios else math.nan


def agreements(groups: Sequence[Sequence[str]], kept: set[str], others: bool = False) -> np.ndarray:
    """Word agreement and skeleton agreement of each group of texts, shape (groups, 2).

    Args:
        groups: the continuations of each prompt. others: pair each text with the one at its place in the next group.
    """
    rows = []
    for place, group in enumerate(groups):
        following = groups[(place + 1) % len(groups)]
        row = []
        for shown in (lambda words: words, lambda words: skeleton(words, kept)):
            first = [shown(split_words(text)) for text in group]
            second = [shown(split_words(text)) for text in following]
            row.append(agreement(zip(first, second) if others else itertools.combinations(first, 2)))
        rows.append(row)
    return np.array(rows)


def gain(found: np.ndarray) -> float:
    """Of what differs in words, the share that masking makes alike: 1 - sum(1 - skeleton) / sum(1 - word agreement).

    Masking raises any agreement, more so where little agrees. But texts that share a part and are unrelated otherwise
    lie on a straight line to (1, 1), whatever part they share, so this share is the same for all of them: it compares
    texts that agree much with controls that agree little. nan where all texts are identical.

    Args:
        found: of `agreements`, shape (groups, 2).
    """
    words, skeletons = (1 - found).sum(axis=0)
    return 1 - skeletons / words if words > 0 else math.nan


def gain_draws(found: np.ndarray, control: np.ndarray | None = None, seed: int = 0) -> np.ndarray:
    """`gain`, or its excess over that of `control`, of 1,000 bootstrap samples of the prompts, the same for both."""
    drawn = np.random.default_rng(seed).integers(0, len(found), (1000, len(found)))
    return np.array([gain(found[rows]) - (0 if control is None else gain(control[rows])) for rows in drawn])


def gain_interval(found: np.ndarray, control: np.ndarray | None = None) -> tuple[float, float, float]:
    """`gain`, or its excess over that of `control`, and its 95 % interval; nan where texts do not vary."""
    middle = gain(found) - (0 if control is None else gain(control))
    if math.isnan(middle):
        return math.nan, math.nan, math.nan
    low, high = np.nanpercentile(gain_draws(found, control), [2.5, 97.5])
    return middle, float(low), float(high)


def as_groups(runs: list[torch.Tensor], tokenizer) -> list[list[str]]:
    """Runs of ids (n, tokens) as n groups of texts, one text per run."""
    return [list(group) for group in zip(*(tokenizer.batch_decode(run, skip_special_tokens=True) for run in runs))]


def identical_share(groups: Sequence[Sequence[str]]) -> float:
    """Share of the pairs of siblings that are the same text."""
    pairs = [first == second for group in groups for first, second in itertools.combinations(group, 2)]
    return sum(pairs) / len(pairs)


@torch.no_grad()
def study(lab: Lab) -> Finding:
    prompts = lab.prompts(NEW_TOKENS, count=min(lab.budget.prompts, 30))
    seeds, total = range(min(lab.budget.continuations, 10)), len(prompts.ids)
    kept = frequent_words(lab.documents[0]["text"])
    texts, found, quality = {}, {}, {}
    for path, load, settings in ((lab.tokmat(), lab.load_tokmat, CONDITIONS), (lab.baseline(), lab.load, CONTROLS)):
        model = load(path)
        for name, given in settings.items():
            runs = lab.continuations(model, prompts, seeds, **given)
            texts[name], quality[name] = as_groups(runs, lab.tokenizer), lab.measure(runs, prompts)
            found[name] = agreements(texts[name], kept)
    # Of the model's own texts, so that the kind of words is the same.
    found[OTHERS] = agreements(texts[LOUD], kept, others=True)

    rows, above = [], {}
    for name, values in found.items():
        row = {"texts": name, "word_agreement": values[:, 0].mean(), "skeleton_agreement": values[:, 1].mean()}
        row |= with_ends("gain", gain_interval(values))
        if name in texts:
            row["identical"] = identical_share(texts[name])
            row["prompts_that_vary"] = sum(len(set(group)) > 1 for group in texts[name])
            row |= {key: quality[name][key] for key in ("rep_2", "judge_perplexity")}
        if name in CONDITIONS:
            above[name] = row["prompts_that_vary"] >= FEWEST
            for control in (*CONTROLS, OTHERS):
                ends = gain_interval(values, found[control])
                row |= {f"over {control}{end}": value for end, value in zip(("", " low", " high"), ends)}
                above[name] &= ends[1] > 0
        rows.append(row)
    by_name = {row["texts"]: row for row in rows}
    verdict = lab.verdict(above.values())
    parts = [
        f"{row['texts']}: {row['identical']:.0%} of siblings identical ({row['prompts_that_vary']} of {total} "
        f"prompts vary at all), words agree {row['word_agreement']:.2f}, skeletons {row['skeleton_agreement']:.2f}"
        for row in (by_name[DEFAULT], by_name[LOUD])
    ]
    excess = []
    for name in (*CONTROLS, OTHERS):
        ends = (by_name[LOUD][f"over {name}{end}"] for end in ("", " low", " high"))
        excess.append("{:+.2f} [{:+.2f}, {:+.2f}] over ".format(*ends) + name)
    return Finding(
        claim="With different embryo noise one prompt keeps one structural template while names and phrases vary.",
        finding=f"{parts[0]}; {parts[1]}. Of what differs there in words, masking rare words makes "
        f"{by_name[LOUD]['gain']:.0%} alike: {', '.join(excess)}.",
        verdict=verdict,
        rows=rows,
        figure=_figure(found, by_name),
        text=_samples(texts, prompts, lab.tokenizer, kept),
    )


def _figure(found, by_name):
    figure, axes = plt.subplots(1, 2, figsize=(12, 4.6), layout="constrained")
    grey = dict(zip((*CONTROLS, OTHERS), ("0.35", "0.1", "0.6")))
    for marker, (name, values) in zip("os^Dvx+", found.items()):
        axes[0].scatter(*values.T, s=22, marker=marker, alpha=0.5, color=grey.get(name), label=name)
    axes[0].plot([0, 1], [by_name["nucleus 0.95"]["gain"], 1], color="0.35", linewidth=1, linestyle="--")
    axes[0].set(xlabel="word agreement of siblings", ylabel="skeleton agreement", xlim=(0, 1.03), ylim=(0, 1.03))
    axes[0].legend(fontsize=8, title="one point per prompt\n(dashed: as nucleus 0.95)", title_fontsize=8)
    names = list(found)[::-1]
    for place, name in enumerate(names):
        middle, low, high = (by_name[name][key] for key in ("gain", "gain_low", "gain_high"))
        axes[1].errorbar(middle, place, xerr=[[middle - low], [high - middle]], marker="o", capsize=3,
                         color=grey.get(name, "C0"))  # fmt: skip
    axes[1].set_yticks(range(len(names)), names)
    axes[1].set(xlabel="of what differs in words, share that masking makes alike", ylim=(-0.6, len(names) - 0.4))
    return figure


def _samples(texts, prompts, tokenizer, kept: set[str], count: int = 4) -> str:
    varied = [len(set(group)) for group in texts[LOUD]]
    place = varied.index(max(varied))
    prompt = tokenizer.decode(prompts.ids[place], skip_special_tokens=True)
    lines = [f"How often each sibling of one prompt occurs, and below it its skeleton. The prompt: {prompt!r}", ""]
    for name in (DEFAULT, LOUD, "nucleus 0.95"):
        lines += [f"{name}:", "", "```"]
        for text, times in Counter(texts[name][place]).most_common(count):
            lines += [f"{times} x {' '.join(text.split())}", f"    {' '.join(skeleton(split_words(text), kept))}"]
        lines += ["```", ""]
    return "\n".join(lines).rstrip()
