# Copyright 2026 The TokMat authors. Licensed under the Apache License, Version 2.0.
"""The streamer, in plain text and on an emulated terminal."""

import copy
import io
import os
import struct
import subprocess
import sys
from pathlib import Path

import pyte
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from rich.cells import cell_len
from rich.style import Style
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import PreTrainedTokenizerFast

from trainer.streamers import _PRINTABLE, COARSE, MaturationStreamer, render_tail, wrap_rows

CORPUS = ["the cat sat on the mat", "the tail matures and the token is committed", "a naïve café"] * 4


def make_tokenizer() -> PreTrainedTokenizerFast:
    """Byte-level BPE with a few merges of English words; every character beyond ASCII is several tokens."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    end = "<|endoftext|>"
    bpe = trainers.BpeTrainer(vocab_size=300, initial_alphabet=alphabet, special_tokens=[end], show_progress=False)
    tokenizer.train_from_iterator([text.replace("ï", "i").replace("é", "e") for text in CORPUS], bpe)
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, eos_token=end, pad_token=end)


TOKENIZER = make_tokenizer()
EOS = TOKENIZER.eos_token_id


def encode(text: str) -> list[int]:
    return TOKENIZER(text)["input_ids"]


class Terminal(io.StringIO):
    """An emulated terminal to write to; its size is what shutil.get_terminal_size() reports."""

    def __init__(self, columns: int, lines: int):
        super().__init__()
        self.screen = pyte.HistoryScreen(columns, lines, history=10_000)
        self.screen.set_mode(pyte.modes.LNM)  # the line discipline of a real one turns \n into \r\n
        self.stream = pyte.Stream(self.screen)

    def isatty(self):
        return True

    def write(self, text):
        self.stream.feed(text)
        return super().write(text)

    def rows(self) -> list[str]:
        """Everything above the cursor and on its row: what has scrolled away and what is on the screen."""
        return rows_of(self.screen)

    def color_of(self, text: str) -> str:
        """The foreground of the first place where `text` is on the screen."""
        for number, row in enumerate(self.screen.display):
            if text in row:
                return self.screen.buffer[number][row.index(text)].fg
        raise AssertionError(f"{text!r} is not on the screen: {self.rows()}")


def rows_of(screen: pyte.HistoryScreen) -> list[str]:
    history = ["".join(line[column].data for column in range(screen.columns)) for line in screen.history.top]
    return [row.rstrip() for row in history + screen.display[: screen.cursor.y + 1]]


@pytest.fixture
def terminal(monkeypatch):
    def make(columns=40, lines=10):
        monkeypatch.setenv("COLUMNS", str(columns))
        monkeypatch.setenv("LINES", str(lines))
        monkeypatch.setenv("TERM", "xterm-256color")
        monkeypatch.setenv("COLORTERM", "truecolor")
        monkeypatch.delenv("NO_COLOR", raising=False)
        Style._add.cache_clear()  # rich keeps styles with the codes of the colours that an earlier terminal had
        return Terminal(columns, lines)

    return make


def stream(streamer: MaturationStreamer, prompts: list[list[int]], continuations: list[list[int]], tail: int = 4):
    """Calls the streamer as the decoding loop does, with the true continuation as draft; yields after every call.

    Shorter continuations are padded, as those of finished sequences are.
    """
    longest = max(map(len, continuations))
    ids = torch.tensor([row + [EOS] * (longest - len(row)) for row in continuations])
    streamer.put(torch.tensor(prompts))
    yield
    for step in range(ids.shape[1]):
        streamer.put(ids[:, step])
        yield
        draft = ids[:, step + 1 : step + 1 + tail]
        streamer.put_draft(draft, maturity=torch.linspace(0.9, 0.0, draft.shape[1]))
        yield
    streamer.end()


def test_a_terminal_of_256_colours_shows_six_steps_of_maturity(terminal, monkeypatch):
    at = terminal()
    monkeypatch.delenv("COLORTERM")
    streamer = MaturationStreamer(TOKENIZER, file=at)
    shown = [streamer._tail_style(level / 10).color.number for level in range(11)]
    assert len(set(shown)) == 6 and shown[0] == COARSE[0] and shown[-1] == COARSE[-1]


# render_tail


def test_render_tail_joins_to_the_text_and_keeps_spaces():
    ids = encode("the cat sat on the mat")
    cut = len(encode("the cat"))
    tail = ids[cut:]
    maturity = torch.linspace(1, 0, len(tail))
    pieces = render_tail(ids[:cut], tail, maturity, TOKENIZER)
    assert pieces[0] == ("the cat", None)
    assert "".join(text for text, _ in pieces) == "the cat sat on the mat"
    assert [level for _, level in pieces[1:]] == pytest.approx(maturity.tolist())


def test_render_tail_splits_no_character():
    word = encode("é")
    assert len(word) == 2
    committed = encode("caf") + word[:1]
    assert render_tail(committed, [], None, TOKENIZER) == [("caf", None)]
    # The token that completes the character brings it, and half a character at the end of the tail is not shown.
    assert render_tail(committed, word[1:] + word[:1], [0.75, 0.25], TOKENIZER) == [("caf", None), ("é", 0.75)]


def test_render_tail_special_tokens():
    ids, tail = encode("the"), [EOS] + encode(" cat")
    levels = [0.5] * len(tail)
    assert "".join(text for text, _ in render_tail(ids, tail, levels, TOKENIZER)) == "the cat"
    shown = render_tail(ids, tail, levels, TOKENIZER, skip_special_tokens=False)
    assert shown[1] == ("<|endoftext|>", 0.5)


def test_render_tail_default_maturity_falls_and_stays_inside():
    pieces = render_tail([], encode("zqx"), None, TOKENIZER)
    levels = [level for _, level in pieces]
    assert levels == sorted(levels, reverse=True) and 0 < levels[-1] < levels[0] < 1


def test_render_tail_refuses_a_maturity_of_another_length():
    with pytest.raises(ValueError, match="2 values for a tail of 1"):
        render_tail([], encode("z"), [0.5, 0.5], TOKENIZER)


# Plain text


def test_plain_text_streams_committed_text_only():
    out = io.StringIO()
    text = " sat on the naïve mat ☕"
    seen = []
    for _ in stream(MaturationStreamer(TOKENIZER, file=out), [encode("the cat")], [encode(text)]):
        seen.append(out.getvalue())
    final = out.getvalue()
    assert final == "the cat" + text + "\n"
    assert seen[0] == "the cat"
    assert all(final.startswith(earlier) and "\ufffd" not in earlier for earlier in seen)
    assert len(set(seen)) > 5


def test_plain_text_skip_prompt_and_reuse():
    out = io.StringIO()
    streamer = MaturationStreamer(TOKENIZER, skip_prompt=True, file=out)
    for _ in range(2):
        list(stream(streamer, [encode("the cat")], [encode(" sat") + [EOS]]))
    assert out.getvalue() == " sat\n sat\n"


def test_plain_text_keeps_a_character_that_never_completes():
    out = io.StringIO()
    list(stream(MaturationStreamer(TOKENIZER, file=out), [encode("caf")], [encode("é")[:1]]))
    assert out.getvalue() == "caf\ufffd\n"


def test_plain_text_batch_at_the_end():
    out = io.StringIO()
    continuations = [encode(" sat on"), encode(" ran")]
    for _ in stream(MaturationStreamer(TOKENIZER, file=out), [encode("the")] * 2, continuations):
        assert out.getvalue() == ""
    assert out.getvalue() == "[0] the sat on\n[1] the ran\n"


def test_without_drafts_or_prompt_dimension():
    out = io.StringIO()
    streamer = MaturationStreamer(TOKENIZER, file=out)
    streamer.put(torch.tensor(encode("the")))
    streamer.put(torch.tensor(encode(" cat")))
    streamer.end()
    streamer.end()
    assert out.getvalue() == "the cat\n"


@settings(max_examples=50, deadline=None)
@given(st.text(max_size=30), st.lists(st.integers(0, len(TOKENIZER) - 1), max_size=20))
def test_plain_text_is_the_decoding_whatever_the_tokens(prompt, tokens):
    out = io.StringIO()
    streamer = MaturationStreamer(TOKENIZER, file=out)
    ids = [EOS] + encode(prompt)
    streamer.put(torch.tensor([ids]))
    for token in tokens:
        streamer.put(torch.tensor([token]))
    streamer.end()
    expected = TOKENIZER.decode(ids + tokens, skip_special_tokens=True, clean_up_tokenization_spaces=False)
    assert out.getvalue() == expected + "\n"


# Terminal


def test_terminal_shows_the_tail_in_the_colours_of_its_maturity(terminal):
    out = terminal()
    streamer = MaturationStreamer(TOKENIZER, file=out, refresh_per_second=0)
    streamer.put(torch.tensor([encode("the")]))
    streamer.put(torch.tensor(encode("q")))
    streamer.put_draft(torch.tensor([encode("xzk")]), maturity=torch.tensor([1.0, 0.5, 0.0]))
    assert out.rows() == ["theqxzk"]
    assert out.screen.buffer[0][0].bold and not out.screen.buffer[0][3].bold
    assert [out.color_of(text) for text in "qxzk"] == ["default", "2ecc71", "55ac8a", "7c8ca4"]
    streamer.put(torch.tensor(encode("w")))
    streamer.put_draft(torch.empty(1, 0, dtype=torch.long), maturity=torch.empty(0))
    assert out.rows() == ["theqw"]
    streamer.end()
    assert out.rows() == ["theqw", ""]


def test_terminal_reads_the_environment_of_now(terminal, monkeypatch):
    monkeypatch.setattr(os, "environ", copy.deepcopy(os.environ))  # as datasets' map(num_proc=...) does
    out = terminal()
    streamer = MaturationStreamer(TOKENIZER, file=out, refresh_per_second=0)
    streamer.put(torch.tensor([encode("the")]))
    streamer.put_draft(torch.tensor([encode("x")]), maturity=torch.tensor([1.0]))
    assert out.color_of("x") == "2ecc71"


@pytest.mark.parametrize("how", ["NO_COLOR", "argument"])
def test_terminal_without_colour(terminal, monkeypatch, how):
    out = terminal()
    if how == "NO_COLOR":
        monkeypatch.setenv("NO_COLOR", "1")
    streamer = MaturationStreamer(TOKENIZER, file=out, color="maturity" if how == "NO_COLOR" else "none")
    list(stream(streamer, [encode("q")], [encode("xz")]))
    streamer.put(torch.tensor([encode("q")]))
    streamer.put_draft(torch.tensor([encode("x")]))
    assert out.rows() == ["qxz", "qx"]
    assert out.color_of("x") == "default"


def test_dumb_terminal_is_plain_text(terminal, monkeypatch):
    out = terminal()
    monkeypatch.setenv("TERM", "dumb")
    list(stream(MaturationStreamer(TOKENIZER, file=out), [encode("the")], [encode(" cat")]))
    assert out.rows() == ["the cat", ""]


def test_terminal_text_longer_than_the_screen(terminal):
    out = terminal(columns=20, lines=5)
    text = " ".join(f"line {number}\n" if number % 3 == 0 else f"naïve ☕ {number}" for number in range(40))
    for _ in stream(MaturationStreamer(TOKENIZER, file=out, refresh_per_second=0), [encode("the")], [encode(text)]):
        assert all(cell_len(row) < 20 for row in out.rows())
    expected = [("the" + text)[start:end].rstrip() for start, end in wrap_rows("the" + text, 19)]
    assert out.rows() == expected + [""]


def test_terminal_escapes_control_characters(terminal):
    out = terminal()
    list(stream(MaturationStreamer(TOKENIZER, file=out), [encode("a\tb")], [encode("\x1b[2J\r\x07c")]))
    assert out.rows() == ["a    b␛[2J␇c", ""]


def test_terminal_batch(terminal):
    out = terminal(columns=24, lines=9)
    continuations = [encode(" sat on the mat and the token is committed"), encode(" ran")]
    streamer = MaturationStreamer(TOKENIZER, file=out, refresh_per_second=0)
    for _ in stream(streamer, [encode("the cat")] * 2, continuations):
        rows = out.rows()
        assert rows[0].startswith("[0] the cat") and len(rows) <= 4
        assert [row[:11] for row in rows if row[0] == "["][1:] == ["[1] the cat"]
    assert out.rows() == [
        "[0] the cat sat on the",
        "    mat and the token",
        "    is committed",
        "[1] the cat ran",
        "",
    ]
    # Only the index is dim and only the prompt bold (the emulator knows no dim).
    assert "\x1b[2m[1] \x1b[0m\x1b[1mthe cat\x1b[0m ran" in out.getvalue()


def test_terminal_batch_larger_than_the_screen(terminal):
    out = terminal(columns=30, lines=4)
    rows = [encode(f" sat {row}") for row in range(8)]
    for _ in stream(MaturationStreamer(TOKENIZER, file=out, refresh_per_second=0), [encode("the")] * 8, rows):
        assert len(out.rows()) <= 3
    assert out.rows() == [f"[{row}] the sat {row}" for row in range(8)] + [""]


def test_finished_sequence_has_no_tail(terminal):
    out = terminal()
    streamer = MaturationStreamer(TOKENIZER, file=out, refresh_per_second=0)
    streamer.put(torch.tensor([encode("q"), encode("q")]))
    streamer.put(torch.tensor([encode("x")[0], EOS]))
    streamer.put_draft(torch.tensor([encode("zz"), encode("zz")]), maturity=torch.tensor([0.5, 0.5]))
    assert out.rows() == ["[0] qxzz", "[1] q"]


@settings(max_examples=30, deadline=None)
@given(
    st.lists(st.integers(1, len(TOKENIZER) - 1), min_size=1, max_size=60),
    st.lists(st.lists(st.integers(1, len(TOKENIZER) - 1), max_size=12), min_size=1, max_size=8),
    st.integers(9, 30),
    st.integers(2, 6),
)
def test_terminal_ends_with_the_committed_text_whatever_the_drafts(tokens, drafts, columns, lines):
    environment = {"COLUMNS": str(columns), "LINES": str(lines), "TERM": "xterm"}
    with pytest.MonkeyPatch.context() as patch:
        for name, value in environment.items():
            patch.setenv(name, value)
        out = Terminal(columns, lines)
        streamer = MaturationStreamer(TOKENIZER, file=out, refresh_per_second=0)
        streamer.put(torch.tensor([encode("the")]))
        for step, token in enumerate(tokens):
            streamer.put(torch.tensor([token]))
            streamer.put_draft(torch.tensor([drafts[step % len(drafts)]], dtype=torch.long))
        streamer.end()
    expected = TOKENIZER.decode(encode("the") + tokens, skip_special_tokens=True, clean_up_tokenization_spaces=False)
    # Where rows break depends on what was drawn when, so only the characters are compared.
    assert "".join("".join(out.rows()).split()) == "".join(expected.translate(_PRINTABLE).split())


@pytest.mark.parametrize(
    ("text", "width", "rows"),
    [
        ("", 8, [""]),
        ("one two three", 8, ["one two ", "three"]),
        ("one two three", 7, ["one two", "three"]),
        ("one two  three", 7, ["one two", " three"]),
        ("abcdefghij", 4, ["abcd", "efgh", "ij"]),
        ("a\n\nb\n", 4, ["a", "", "b", ""]),
        ("日本語日本", 5, ["日本", "語日", "本"]),
        ("cafe\u0301 x", 4, ["cafe\u0301", "x"]),
    ],
)
def test_wrap_rows(text, width, rows):
    assert [text[start:end] for start, end in wrap_rows(text, width)] == rows


# Mistakes


def test_errors():
    with pytest.raises(ValueError, match="'rainbow'; allowed are 'maturity', 'none'"):
        MaturationStreamer(TOKENIZER, color="rainbow")
    with pytest.raises(ValueError, match="refresh_per_second is -1"):
        MaturationStreamer(TOKENIZER, refresh_per_second=-1)
    streamer = MaturationStreamer(TOKENIZER, file=Terminal(40, 10))
    with pytest.raises(ValueError, match="the prompt comes first"):
        streamer.put_draft(torch.zeros(1, 2, dtype=torch.long))
    streamer.put(torch.zeros(2, 3, dtype=torch.long))
    with pytest.raises(ValueError, match="batch of 2"):
        streamer.put(torch.zeros(3, dtype=torch.long))
    with pytest.raises(ValueError, match=r"maturity has shape \(5,\)"):
        streamer.put_draft(torch.zeros(2, 2, dtype=torch.long), maturity=torch.zeros(5))


# A real pseudo-terminal

SCRIPT = """
import time
from test_streamers import TOKENIZER, encode, stream
from trainer.streamers import MaturationStreamer

print("$ tokmat generate")
text = " sat on the naïve café mat ☕ and\\nmatures"
for _ in stream(MaturationStreamer(TOKENIZER), [encode("the cat")], [encode(text)]):
    time.sleep(0.01)
print("done")
"""


def run_on_terminal(script: str, columns: int, lines: int) -> tuple[pyte.HistoryScreen, str]:
    """Runs Python code with a pseudo-terminal as its standard output; returns its last screen and all it was sent."""
    pty, fcntl, termios = (pytest.importorskip(name) for name in ("pty", "fcntl", "termios"))
    ours, theirs = pty.openpty()
    fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", lines, columns, 0, 0))
    here = Path(__file__).parent
    env = {name: value for name, value in os.environ.items() if name not in ("NO_COLOR", "COLUMNS", "LINES")}
    env |= {"TERM": "xterm-256color", "PYTHONPATH": os.pathsep.join([str(here), str(here.parent), *sys.path])}
    process = subprocess.Popen([sys.executable, "-c", script], stdin=theirs, stdout=theirs, stderr=theirs, env=env)
    os.close(theirs)
    received = b""
    try:
        while chunk := os.read(ours, 4096):
            received += chunk
    except OSError:  # how Linux reports that the other side has closed
        pass
    finally:
        os.close(ours)
    assert process.wait() == 0, received.decode()
    screen = pyte.HistoryScreen(columns, lines, history=1000)
    pyte.ByteStream(screen).feed(received)
    return screen, received.decode()


def test_real_terminal():
    screen, sent = run_on_terminal(SCRIPT, columns=20, lines=6)
    assert rows_of(screen) == [
        "$ tokmat generate",
        "the cat sat on the",
        "naïve café mat ☕",
        "and",
        "matures",
        "done",
        "",
    ]
    assert "\x1b[38;5;" in sent and "\x1b[J" in sent
