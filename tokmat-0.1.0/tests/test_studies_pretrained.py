# Copyright 2026 The TokMat authors. Licensed under the Apache License, Version 2.0.
"""The study of a pretrained model: its test set, its judge, its target, and that it goes on where it was."""

import runpy
import sys
from pathlib import Path

import pytest
import torch
from peft import PeftModel
from transformers import AutoModelForCausalLM

from trainer.evaluation.prompts import passages
from trainer.models import make_baseline
from trainer.studies import pretrained
from trainer.studies.lab import SMALL, Lab
from trainer.studies.pretrained import Bench, Size
from trainer.studies.target import TUNED, judged

BENCHMARKS = Path(__file__).parents[1] / "benchmarks"
WORDS = ["fox", "hen", "owl", "cow", "pig", "cat", "dog", "bear"]
TEXTS = [
    "\n\n".join(
        f"One {word} saw {WORDS[(place + part) % 8]} number {part}, and went home at once." for part in range(12)
    )
    for place, word in enumerate(WORDS)
]


# -- the test set -----------------------------------------------------------------------------------------------------


def test_passages_begin_paragraphs_and_share_nothing(tokenizer):
    ids = passages(TEXTS, tokenizer, 16, 40)
    found = [tokenizer.decode(row) for row in ids]
    assert ids.shape == (16, 40) and len(set(found)) == 16
    owners = []
    for text in found:
        owners.append(next(number for number, whole in enumerate(TEXTS) if text in whole))
        place = TEXTS[owners[-1]].index(text)
        assert place == 0 or TEXTS[owners[-1]][place - 2 : place] == "\n\n"
    assert sorted(owners[:8]) == list(range(8))  # one of each text before a second one of any
    places = [(owner, TEXTS[owner].index(text)) for owner, text in zip(owners, found)]
    for (owner, place), text in zip(places, found):
        assert not any(owner == other and place < start < place + len(text) for other, start in places)
    assert torch.equal(ids, passages(TEXTS, tokenizer, 16, 40))
    assert not torch.equal(ids, passages(TEXTS, tokenizer, 16, 40, seed=1))
    with pytest.raises(ValueError, match="1000 passages of 40 tokens are asked for, but the texts hold"):
        passages(TEXTS, tokenizer, 1000, 40)


def test_wikitext_becomes_plain_text(tmp_path, monkeypatch):
    source = (
        " \n = First = \n \n It was , as ever , a well @-@ known 1 @,@ 200 m ( 3 @.@ 9 ft ) thing 's "
        '" good end " . \n'
        " <unk> said <unk> . \n \n = = Part = = \n \n More . \n \n = Second = \n \n Other text . \n"
    )
    (tmp_path / "wiki.txt").write_text(source)
    monkeypatch.setattr(sys, "argv", ["wikitext.py", str(tmp_path / "wiki.txt"), str(tmp_path / "plain.txt")])
    runpy.run_path(str(BENCHMARKS / "wikitext.py"), run_name="__main__")
    assert (tmp_path / "plain.txt").read_text() == (
        'It was, as ever, a well-known 1,200 m (3.9 ft) thing\'s "good end".\n\nMore.\n<|endoftext|>\n'
        "Other text.\n<|endoftext|>\n"
    )


# -- the target -------------------------------------------------------------------------------------------------------


def row(decoder, rep_2, bits, dist_2=0.9):
    means = {"dist_2": dist_2, "rep_2": rep_2, "rep_3": 0.01, "loop": 0.2, "bits": bits}
    ends = {
        f"{name}_{end}": value + off for name, value in means.items() for end, off in (("low", -0.02), ("high", 0.02))
    }
    return {"decoder": decoder, **means, **ends}


@pytest.mark.parametrize(
    ("tuned", "reached"),
    [
        (row(TUNED, 0.05, 0.9), [True, True]),
        (row(TUNED, 0.09, 0.9), [False, True]),  # people's interval ends at 0.07
        (row(TUNED, 0.05, 0.9, dist_2=0.8), [False, True]),
        (row(TUNED, 0.05, 1.1), [True, False]),  # penalty 1.2, which repeats as little, is at 1.0
    ],
)
def test_the_target_is_peoples_repetition_and_the_best_penaltys_bits(tuned, reached):
    rivals = [row("greedy", 0.4, 0.5), row("penalty 1.1", 0.2, 0.7), row("penalty 1.2", 0.05, 1.0)]
    text, found = judged([row("human", 0.05, 1.2), tuned, *rivals, row("penalty 1.3", 0.01, 1.5)])
    assert found == reached and ("penalty 1.2" in text)


# -- the run ----------------------------------------------------------------------------------------------------------


def test_a_killed_study_goes_on(tokenizer, tmp_path, monkeypatch):
    size = Size(rounds=2, steps=3, batch=2, block=32, prompts=2, long_prompts=2, held_out=2)
    monkeypatch.setitem(pretrained.SIZES, "small", size)
    torch.manual_seed(0)
    make_baseline(None, "tiny", tokenizer).save_pretrained(tmp_path / "source")
    tokenizer.save_pretrained(tmp_path / "source")
    texts = tmp_path / "texts.txt"
    texts.write_text("\n<|endoftext|>\n".join(TEXTS))
    said = []

    def bench():
        return Bench(Lab(tmp_path / "out", SMALL, str(texts), pretrained=str(tmp_path / "source"), say=said.append))

    first = bench().round(1)
    assert [text.split()[0] for text in said] == ["converting", "writing", "round"]
    files = {path: path.stat().st_mtime_ns for path in first.iterdir()}
    said.clear()
    second = bench().round(2)
    assert said[0].startswith("writing 4 texts after 1 rounds") and said[1].startswith("round 2")
    assert files == {path: path.stat().st_mtime_ns for path in first.iterdir()}
    assert not list(second.parent.glob("*.training"))
    ids = torch.tensor([[5, 6, 7, 5, 6, 7]])
    logits = [bench().load(adapter)(ids).logits for adapter in (None, first, second)]
    assert not torch.equal(logits[0], logits[1]) and not torch.equal(logits[1], logits[2])
    # The source itself wears the adapter, without TokMat.
    monkeypatch.setattr(
        sys, "argv", ["ship_adapter.py", str(second), str(tmp_path / "source"), str(tmp_path / "worn")]
    )
    runpy.run_path(str(BENCHMARKS / "ship_adapter.py"), run_name="__main__")
    plain = AutoModelForCausalLM.from_pretrained(tmp_path / "source", dtype=torch.float32)
    worn = PeftModel.from_pretrained(plain, tmp_path / "worn").eval()(ids).logits
    torch.testing.assert_close(worn, logits[2], atol=2e-3, rtol=1e-2)  # it was rounded to bfloat16
    assert (worn - logits[0]).abs().max() > 5 * (worn - logits[2]).abs().max()
