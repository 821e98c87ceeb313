# Copyright 2026 The TokMat authors. Licensed under the Apache License, Version 2.0.
"""Degeneration of generated text, as a module of the `evaluate` library."""

import datasets
import evaluate

from trainer.evaluation import metrics

_DESCRIPTION = """
How far generated text repeats itself: Dist-n, Rep-n (seq-rep-n), Loop (share of samples that repeat an n-gram), ending
loops, distinct tokens and the Zipf coefficient. Papers differ in tokens or words, per-sample means or pooled counts,
and with or without the prompt, so the conventions are arguments and come back with the numbers.
"""
_INPUTS = """
Args:
    predictions: generated texts, or lists of token ids; without their prompts.
    prompts (list, optional): what each text continued; with `include_prompt=True` it is counted too.
    unit: "words" (between white space; texts only) or "tokens" (predictions are lists of ids).
    pooled (bool): sum counts over samples instead of averaging the samples' values.
    include_prompt (bool): count the prompts as part of the texts.
    length (int, optional): cut every sample to this many units: repetition grows with length.
    compat: None, or "welleck", "simctg", "li2016" or "holtzman": the numbers of those papers' code, under their names.
Returns:
    dist_1 ... dist_3, rep_2 ... rep_4, loop, ending_loop, unique_tokens, zipf, diversity, all but the last but one in
    [0, 1], and `conventions`; or the numbers that `compat` names.
Examples:
    >>> module = evaluate.load("degeneration")
    >>> module.compute(predictions=["the cat sat on the mat the cat sat"], unit="words")["rep_2"]
    0.25
"""
_CITATION = """
@inproceedings{welleck2020neural, title={Neural Text Generation With Unlikelihood Training}, author={Welleck, Sean and
Kulikov, Ilia and Roller, Stephen and Dinan, Emily and Cho, Kyunghyun and Weston, Jason}, booktitle={ICLR},
year={2020}}
"""
UNITS = ("words", "tokens")
COMPATS = ("welleck", "simctg", "li2016", "holtzman")


class Degeneration(evaluate.Measurement):
    def _info(self):
        text = datasets.Features({"predictions": datasets.Value("string")})
        ids = datasets.Features({"predictions": datasets.Sequence(datasets.Value("int64"))})
        return evaluate.MeasurementInfo(
            description=_DESCRIPTION, citation=_CITATION, inputs_description=_INPUTS, features=[text, ids]
        )

    def _compute(
        self, predictions, prompts=None, unit="words", pooled=False, include_prompt=False, length=None, compat=None
    ):
        if unit not in UNITS:
            raise ValueError(f"`unit` is {unit!r}, but it must be one of {', '.join(UNITS)}.")
        if compat is not None and compat not in COMPATS:
            raise ValueError(f"`compat` is {compat!r}, but it must be None or one of {', '.join(COMPATS)}.")
        if unit == "words" and predictions and not isinstance(predictions[0], str):
            raise ValueError('`unit` is "words", but the predictions are lists of ids: give unit="tokens".')
        if unit == "tokens" and predictions and isinstance(predictions[0], str):
            raise ValueError('`unit` is "tokens", but the predictions are texts: give lists of ids.')
        if include_prompt and (prompts is None or len(prompts) != len(predictions)):
            raise ValueError("`include_prompt` is True, but `prompts` does not hold one prompt per prediction.")
        if compat == "simctg":
            if unit != "words":
                raise ValueError('`compat` is "simctg", which counts words: give texts and unit="words".')
            found = {f"rep_{n}": metrics.simctg_rep_n(predictions, n) for n in (2, 3, 4)}
            return {**found, "diversity": metrics.simctg_diversity(predictions)}

        def units(value):
            return value.split() if isinstance(value, str) else list(value)

        samples = [units(value) for value in predictions]
        if include_prompt:
            samples = [units(prompt) + sample for prompt, sample in zip(prompts, samples)]
        samples = [sample[:length] for sample in samples]
        if compat == "welleck":
            found = {f"seq_rep_{n}": metrics.welleck_seq_rep_n(samples, n) for n in (1, 2, 3, 4)}
            return {**found, "uniq_seq": metrics.unique_tokens(samples)}
        if compat == "li2016":
            return {f"distinct_{n}": metrics.li_distinct_n(samples, n) for n in (1, 2)}
        if compat == "holtzman":
            found = {f"distinct_{n}": metrics.holtzman_distinct_n(samples, n) for n in (1, 2, 3)}
            found["repetition"] = metrics.ending_loop_share(samples)
            return {**found, "zipf": metrics.zipf_coefficient(samples)}
        found = {f"dist_{n}": metrics.dist_n(samples, n, pooled) for n in (1, 2, 3)}
        found |= {f"rep_{n}": metrics.rep_n(samples, n, pooled) for n in (2, 3, 4)}
        found |= {"loop": metrics.loop_share(samples), "ending_loop": metrics.ending_loop_share(samples)}
        found |= {"unique_tokens": metrics.unique_tokens(samples), "zipf": metrics.zipf_coefficient(samples)}
        found["diversity"] = metrics.diversity(samples, pooled)
        means = "pooled counts" if pooled else "means over samples"
        whose = "prompt and continuation" if include_prompt else "continuation alone"
        found["conventions"] = f"{unit}, {means}, {whose}, {'full length' if length is None else f'first {length}'}"
        return found
