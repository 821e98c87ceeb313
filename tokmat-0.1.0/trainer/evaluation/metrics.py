# Copyright 2026 The TokMat authors. Licensed under the Apache License, Version 2.0.
"""Degeneration of text, as pure functions of sequences of tokens (ids, words, anything hashable).

A sequence shorter than n has no n-grams: it counts as free of repetition, and as holding no distinct n-gram.
"""

import math
from collections import Counter
from collections.abc import Hashable, Sequence

Tokens = Sequence[Hashable]


def ngrams(tokens: Tokens, n: int) -> list[tuple]:
    return [tuple(tokens[i : i + n]) for i in range(len(tokens) - n + 1)]


def _mean(values: list[float]) -> float:
    return sum(values) / len(values) if values else math.nan


def rep_n(sequences: Sequence[Tokens], n: int, pooled: bool = False) -> float:
    """1 - |distinct n-grams| / |n-grams|, in [0, 1]: mean over sequences (Welleck et al. 2020: seq-rep-n).

    Args:
        pooled: sum distinct and all n-grams over the sequences first; n-grams are distinct within a sequence
            (Su et al. 2022).
    """
    counts = [(len(set(grams)), len(grams)) for grams in (ngrams(tokens, n) for tokens in sequences)]
    if pooled:
        distinct, total = map(sum, zip(*counts)) if counts else (0, 0)
        return 1 - distinct / total if total else 0.0
    return _mean([1 - distinct / total if total else 0.0 for distinct, total in counts])


def dist_n(sequences: Sequence[Tokens], n: int, pooled: bool = False, per_token: bool = False) -> float:
    """|distinct n-grams| / |n-grams|, in [0, 1]: mean over sequences, so that Dist-n = 1 - Rep-n.

    Args:
        pooled: one set of n-grams of all sequences, over the number of all of them: diversity between sequences too.
        per_token: divide by the number of tokens instead (Li et al. 2016, who pool).
    """
    parts = [ngrams(tokens, n) for tokens in sequences]
    totals = [len(tokens) if per_token else len(grams) for tokens, grams in zip(sequences, parts)]
    if pooled:
        return len({gram for grams in parts for gram in grams}) / sum(totals) if sum(totals) else 0.0
    return _mean([len(set(grams)) / total if total else 0.0 for grams, total in zip(parts, totals)])


def diversity(sequences: Sequence[Tokens], pooled: bool = True) -> float:
    """Product of 1 - Rep-n for n = 2, 3, 4 (Su et al. 2022)."""
    return math.prod(1 - rep_n(sequences, n, pooled) for n in (2, 3, 4))


def repeats_ngram(tokens: Tokens, n: int = 3) -> bool:
    """Whether any n-gram occurs twice: a sample that counts for the paper's Loop % (n = 3)."""
    grams = ngrams(tokens, n)
    return len(set(grams)) < len(grams)


def repeated_ngrams(tokens: Tokens, n: int = 3) -> list[bool]:
    """For each token whether it belongs to an n-gram that has been there before; any only if `repeats_ngram`."""
    seen, marked = set(), [False] * len(tokens)
    for place, gram in enumerate(ngrams(tokens, n)):
        if gram in seen:
            marked[place : place + n] = [True] * n
        seen.add(gram)
    return marked


def loop_share(sequences: Sequence[Tokens], n: int = 3) -> float:
    """Share of the sequences that repeat an n-gram: the paper's Loop %, in [0, 1]."""
    return _mean([float(repeats_ngram(tokens, n)) for tokens in sequences])


def ends_in_a_loop(tokens: Tokens, longest: int = 90) -> bool:
    """Whether the end repeats itself back to back (Holtzman et al. 2020): of the phrase lengths 1..longest the one
    that is repeated most often, the shortest of equals, is repeated, and has 3 tokens or more than 50 repeats."""
    best, length = 0, 0
    for n in range(1, min(longest, len(tokens)) + 1):
        phrase, repeats = list(tokens[-n:]), 0
        while list(tokens[len(tokens) - (repeats + 1) * n : len(tokens) - repeats * n]) == phrase:
            repeats += 1
        if repeats > best:
            best, length = repeats, n
    return best > 1 and (length >= 3 or best > 50)


def ending_loop_share(sequences: Sequence[Tokens]) -> float:
    return _mean([float(ends_in_a_loop(tokens)) for tokens in sequences])


def unique_tokens(sequences: Sequence[Tokens]) -> int:
    """Distinct tokens over all sequences (Welleck et al. 2020: uniq-seq)."""
    return len({token for tokens in sequences for token in tokens})


def zipf_coefficient(sequences: Sequence[Tokens], ranks: int = 5000) -> float:
    """Minus the slope of log frequency against log rank (Holtzman et al. 2020), by least squares over the `ranks` most
    frequent tokens; nan for fewer than two distinct tokens."""
    counts = sorted(Counter(token for tokens in sequences for token in tokens).values(), reverse=True)[:ranks]
    if len(counts) < 2:
        return math.nan
    x, y = [math.log(rank) for rank in range(1, len(counts) + 1)], [math.log(count) for count in counts]
    mean_x, mean_y = _mean(x), _mean(y)
    return -sum((a - mean_x) * (b - mean_y) for a, b in zip(x, y)) / sum((a - mean_x) ** 2 for a in x)


def self_bleu(sequences: Sequence[Tokens], n: int = 4, max_hypotheses: int = 500) -> float:
    """Mean BLEU-n of each sequence against all others (Zhu et al. 2018), in [0, 1]; lower is more diverse. Uniform
    weights, NLTK's smoothing method 1, the first `max_hypotheses` sequences as hypotheses.

    Raises:
        ImportError: without NLTK (`pip install tokmat[eval]`). ValueError: fewer than two sequences.
    """
    from nltk.translate.bleu_score import SmoothingFunction, sentence_bleu

    if len(sequences) < 2:
        raise ValueError(f"self-BLEU needs at least 2 sequences, not {len(sequences)}")
    sequences = [list(tokens) for tokens in sequences]
    weights, smoothing = [1 / n] * n, SmoothingFunction().method1
    scores = []
    for place, tokens in enumerate(sequences[:max_hypotheses]):
        others = sequences[:place] + sequences[place + 1 :]
        scores.append(float(sentence_bleu(others, tokens, weights, smoothing_function=smoothing)))
    return _mean(scores)


# -- exactly as others computed them ----------------------------------------------------------------------------------


def welleck_seq_rep_n(sequences: Sequence[Tokens], n: int) -> float:
    """seq-rep-n of Welleck et al. (2020): `rep_n`, the mean over continuations."""
    return rep_n(sequences, n)


def li_distinct_n(sequences: Sequence[Tokens], n: int) -> float:
    """distinct-n of Li et al. (2016): distinct n-grams of all sequences over the number of all their tokens."""
    return dist_n(sequences, n, pooled=True, per_token=True)


def simctg_rep_n(texts: Sequence[str], n: int) -> float:
    """rep-n of Su et al. (2022) as their code has it, in percent, rounded to 2 decimals: words between white space,
    the last n-gram of each text left out, counts pooled."""
    parts = [ngrams(text.split(), n)[:-1] for text in texts]
    distinct, total = sum(len(set(grams)) for grams in parts), sum(len(grams) for grams in parts)
    return round(100 * (1 - distinct / total), 2) if total else 0.0


def simctg_diversity(texts: Sequence[str]) -> float:
    """diversity of Su et al. (2022): product of 1 - rep-n / 100 over n = 2, 3, 4, of the rounded values."""
    return math.prod(1 - simctg_rep_n(texts, n) / 100 for n in (2, 3, 4))


def holtzman_distinct_n(sequences: Sequence[Tokens], n: int) -> float:
    """distinct-n in the code of Holtzman et al. (2020): n-grams that occur once in all sequences, over all n-grams."""
    counts = Counter(gram for tokens in sequences for gram in ngrams(tokens, n))
    return sum(count == 1 for count in counts.values()) / counts.total() if counts else 0.0
