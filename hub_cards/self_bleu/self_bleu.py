# Copyright 2026 The TokMat authors. Licensed under the Apache License, Version 2.0.
"""Self-BLEU, as a module of the `evaluate` library."""

import datasets
import evaluate

from trainer.evaluation import metrics

_DESCRIPTION = """
Self-BLEU-n: the mean BLEU-n of each generated text against all the others. Lower is more diverse.
"""
_INPUTS = """
Args:
    predictions: generated texts; words are what lies between white space.
    n (int): the longest n-gram, with uniform weights; default 4.
    max_hypotheses (int): how many texts are compared with all others; default 500.
Returns:
    self_bleu, in [0, 1], and `conventions`.
Examples:
    >>> module = evaluate.load("self_bleu")
    >>> module.compute(predictions=["a b c d e", "a b c d e"])["self_bleu"]
    1.0
"""
_CITATION = """
@inproceedings{zhu2018texygen, title={Texygen: A Benchmarking Platform for Text Generation Models}, author={Zhu,
Yaoming and Lu, Sidi and Zheng, Lei and Guo, Jiaxian and Zhang, Weinan and Wang, Jun and Yu, Yong}, booktitle={SIGIR},
year={2018}}
"""


class SelfBleu(evaluate.Measurement):
    def _info(self):
        features = datasets.Features({"predictions": datasets.Value("string")})
        return evaluate.MeasurementInfo(
            description=_DESCRIPTION, citation=_CITATION, inputs_description=_INPUTS, features=features
        )

    def _compute(self, predictions, n=4, max_hypotheses=500):
        if not isinstance(n, int) or n < 1:
            raise ValueError(f"`n` is {n!r}, but it must be an integer of at least 1.")
        value = metrics.self_bleu([text.split() for text in predictions], n, max_hypotheses)
        conventions = f"words, {n}-grams, uniform weights, smoothing method 1, up to {max_hypotheses} hypotheses"
        return {"self_bleu": value, "conventions": conventions}
