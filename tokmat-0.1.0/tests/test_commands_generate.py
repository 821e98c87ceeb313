# Copyright 2026 The TokMat authors. Licensed under the Apache License, Version 2.0.
"""`tokmat generate`: the texts that it prints, on a terminal and elsewhere."""

import os
import pty
import re
import select
import subprocess
import time

import pytest
from command_line import PROMPT, assert_one_line_error, invoke, start
from transformers import AutoModelForCausalLM, AutoTokenizer, LlamaConfig

pytestmark = pytest.mark.usefixtures("own_folder")


def expected_text(folder, prompt, **settings):
    model, tokenizer = AutoModelForCausalLM.from_pretrained(folder), AutoTokenizer.from_pretrained(folder)
    ids = model.eval().generate(**tokenizer(prompt, return_tensors="pt"), **settings)
    return tokenizer.decode(ids[0], skip_special_tokens=True)


def test_generate_prints_the_text_with_and_without_watch(trained):
    expected = expected_text(trained[0], PROMPT, max_new_tokens=12, tail_length=4, rate="consistent", alpha_max=1.0)
    settings = ["--tail_length", 4, "--rate", "consistent", "--alpha-max", 1.0]
    for extra in ([], ["--watch"], ["--dtype", "float32"]):
        result = invoke("generate", trained[0], *extra, PROMPT, "--max-new-tokens", 12, *settings)
        assert (result.exit_code, result.stdout) == (0, expected + "\n")


def test_generate_several_prompts_as_one_batch(trained):
    prompts = [PROMPT, "The fox"]
    texts = [expected_text(trained[0], prompt, max_new_tokens=8) for prompt in prompts]
    for extra in ([], ["--watch"]):
        result = invoke("generate", trained[0], *prompts, "--max-new-tokens", 8, *extra)
        assert result.stdout == f"[0] {texts[0]}\n[1] {texts[1]}\n"
    result = invoke("generate", trained[0], "Fox", "--max-new-tokens", 4, "--num-return-sequences", 3)
    assert [line[:3] for line in result.stdout.splitlines() if line.startswith("[")] == ["[0]", "[1]", "[2]"]


def test_generate_from_an_empty_prompt_begins_with_bos(trained):
    expected = expected_text(trained[0], "<|endoftext|>", max_new_tokens=6)
    for prompts in ([], [""]):
        assert invoke("generate", trained[0], *prompts, "--max-new-tokens", 6).stdout == expected + "\n"


def test_generate_watch_on_a_terminal(trained):
    expected = expected_text(trained[0], PROMPT, max_new_tokens=10)
    ours, theirs = pty.openpty()
    process = start(
        "generate", trained[0], PROMPT, "--max-new-tokens", 10, "--watch", stdout=theirs, stderr=subprocess.DEVNULL
    )
    os.close(theirs)
    output, deadline = b"", time.monotonic() + 60
    while time.monotonic() < deadline:
        if select.select([ours], [], [], 1)[0]:
            try:
                part = os.read(ours, 4096)
            except OSError:  # the other side is closed
                break
            if not part:
                break
            output += part
    os.close(ours)
    assert process.wait(10) == 0
    output = output.decode()
    assert "\x1b[38;" in output and "\x1b[J" in output  # coloured by maturity, redrawn in place
    plain = re.sub(r"\x1b\[[0-9;]*[A-Za-z]", "", output.split("\x1b[J")[-1])
    assert "".join(plain.split()) == "".join(expected.split())


@pytest.mark.parametrize(
    "flags, expected",
    [
        ("nowhere hello", "there is no folder nowhere"),
        ("./nowhere/at/all hello", "there is no folder ./nowhere/at/all"),
        ("MODEL hello --tail-length 0", "`tail_length` is 0"),
        ("MODEL hello --tail-length two", "invalid int value"),
        ("MODEL hello --rate slow", "`rate` is 'slow'"),
        ("MODEL hello --max-new-tokens 0", "`max_new_tokens` is 0"),
        ("MODEL hello --max-new-tokens 2000", "too many for the model's 1024 positions"),
        ("MODEL hello --dtype float8", "--dtype"),
        ("MODEL hello --tail-lenght 3", "did you mean --tail-length?"),
        ("MODEL hello --temperature 0.7", "always by argmax; other texts: --num-return-sequences"),
        (
            "storis hello",
            "a Hub name has the form owner/name; stories and ar-stories come with the package",
        ),
        ("gpt hello", "there is no folder gpt"),
        ("other hello", "not a TokMat model"),
        ("", "required: model"),
    ],
)
def test_errors_of_generate_are_one_line(flags, expected, trained):
    LlamaConfig().save_pretrained("other")
    flags = [str(trained[0]) if flag == "MODEL" else flag for flag in flags.split()]
    result = invoke("generate", *flags)
    assert_one_line_error(result, "tokmat generate: ", expected)
    assert result.stdout == ""
