# Copyright 2026 The TokMat authors. Licensed under the Apache License, Version 2.0.
"""Watching a sequence mature: committed text with the liquid tail live behind it.

    model.generate(**inputs, streamer=MaturationStreamer(tokenizer))

A token of a byte-level vocabulary may end inside a character, so nothing here decodes token by token: a text is always
the decoding of a whole sequence, less a trailing U+FFFD, which may stand for a character that is not complete yet.
"""

import itertools
import os
import shutil
import sys
import time
from collections.abc import Sequence
from typing import Any, TextIO

import torch
from rich.cells import get_character_cell_size
from rich.color import Color, blend_rgb
from rich.color_triplet import ColorTriplet
from rich.console import Console
from rich.style import Style
from rich.text import Text
from transformers.generation.streamers import BaseStreamer

FRESH, MATURE = ColorTriplet(124, 140, 164), ColorTriplet(46, 204, 113)
COARSE = (103, 67, 73, 72, 78, 41)  # the same of a terminal of 256 colours, where most blends would look alike
COLORS = ("maturity", "none")

# Text that moves the cursor would break the display (and generated text could drive the terminal): control characters
# are shown as their pictures, tabs as spaces.
_PRINTABLE: dict[int, int | str | None] = {
    **{code: 0x2400 + code for code in range(32)},
    **{code: 0xFFFD for code in range(0x80, 0xA0)},
    **{ord("\n"): "\n", ord("\r"): None, ord("\t"): "    ", 0x7F: 0x2421, 0x2028: "\n", 0x2029: "\n"},
}


def decode_stable(tokenizer, ids: Sequence[int], **decode_kwargs: Any) -> str:
    """The text of `ids` that later tokens cannot change: without an incomplete character at its end.

    Special tokens are skipped and nothing is cleaned up (that would rewrite text already shown), unless asked for.
    """
    return _decode(tokenizer, ids, **decode_kwargs).rstrip("\ufffd")


def render_tail(
    committed_ids: Sequence[int] | torch.Tensor,
    tail_ids: Sequence[int] | torch.Tensor,
    maturity: Sequence[float] | torch.Tensor | None,
    tokenizer,
    **decode_kwargs: Any,
) -> list[tuple[str, float | None]]:
    """One sequence as pieces of text, for a terminal, a web page or a figure alike.

    Args:
        committed_ids: (length,) token ids that no longer change.
        tail_ids: (slots,) nearest token of each tail vector, front first; may be empty.
        maturity: (slots,) in [0, 1], 1 = committed, 0 = fresh embryo. None: falling evenly from front to back.
        tokenizer: a transformers tokenizer.
        decode_kwargs: for `tokenizer.decode`; `skip_special_tokens=True` unless given.

    Returns:
        (text, maturity) pairs whose texts joined are the text of the whole sequence, less an incomplete character at
        its end: first the committed text, with None, then what each tail token adds. A token that adds nothing (a
        special token, a part of a character) has no piece; a character of several tokens belongs to the last of them.

    Raises:
        ValueError: `maturity` and `tail_ids` differ in length.
    """
    committed, tail = _to_list(committed_ids), _to_list(tail_ids)
    levels = _default_maturity(len(tail)) if maturity is None else _to_list(maturity)
    if len(levels) != len(tail):
        raise ValueError(f"maturity has {len(levels)} values for a tail of {len(tail)} tokens")

    text = decode_stable(tokenizer, committed, **decode_kwargs)
    owners = [-1] * len(text)  # per character the tail token that brought it, -1 = committed
    for slot in range(len(tail)):
        longer = decode_stable(tokenizer, committed + tail[: slot + 1], **decode_kwargs)
        # Decoders add at the end; should one rewrite what came before, the rewritten part is this token's.
        kept = len(text) if longer.startswith(text) else len(os.path.commonprefix([text, longer]))
        owners[kept:] = [slot] * (len(longer) - kept)
        text = longer

    pieces, start = [], 0
    for owner, run in itertools.groupby(owners):
        end = start + len(list(run))
        pieces.append((text[start:end], None if owner < 0 else float(levels[owner])))
        start = end
    return pieces


class MaturationStreamer(BaseStreamer):
    """Shows the committed text of `generate()` and, on a terminal, the liquid tail behind it, coloured by maturity.

    The decoding loop calls `put(prompt)` with (batch, length) ids, then per step `put(tokens)` with the (batch,) ids
    just committed and `put_draft(tokens, maturity=...)` with the (batch, slots) nearest tokens of the remaining tail,
    then `end()`. With a loop that knows no drafts it is a plain text streamer.

    On a terminal (not TERM=dumb) the display is redrawn in place; rows of text that can no longer change scroll away
    as ordinary output, so texts may be longer than the screen. NO_COLOR is respected: the tail is then dim. In a batch
    each sequence has its rows behind its index; while it runs the last ones that fit, at the end all of them.
    Elsewhere (files, pipes, notebooks) only committed text is written: as it comes for one sequence, at the end for a
    batch.

    Args:
        tokenizer: a transformers tokenizer.
        skip_prompt: leave the prompt out of the display.
        file: where to write; `sys.stdout` by default.
        color: "maturity", or "none" for a dim tail.
        refresh_per_second: draws per second at most; 0 draws every step.
        decode_kwargs: for `tokenizer.decode`; `skip_special_tokens=True` unless given.

    Raises:
        ValueError: an unknown `color` or a negative `refresh_per_second`; in use, ids whose batch size is not the
            prompt's, or a maturity that does not fit its draft.
    """

    def __init__(
        self,
        tokenizer,
        skip_prompt: bool = False,
        file: TextIO | None = None,
        color: str = "maturity",
        refresh_per_second: float = 20.0,
        **decode_kwargs: Any,
    ):
        if color not in COLORS:
            raise ValueError(f"color is {color!r}; allowed are {', '.join(map(repr, COLORS))}")
        if refresh_per_second < 0:
            raise ValueError(f"refresh_per_second is {refresh_per_second}; it must be 0 or more")
        self.tokenizer = tokenizer
        self.skip_prompt = skip_prompt
        self.file = sys.stdout if file is None else file
        self.color = color
        self.decode_kwargs = decode_kwargs
        self._interval = 1.0 / refresh_per_second if refresh_per_second else 0.0
        # rich holds on to the os.environ of its import, and datasets' map(num_proc=...) puts a copy in its place.
        self._console = Console(
            file=self.file, force_terminal=True, highlight=False, legacy_windows=False, _environ=os.environ
        )
        self._live = self.file.isatty() and not self._console.is_dumb_terminal
        stop_ids = (tokenizer.eos_token_id, tokenizer.pad_token_id)
        self._stop_ids = {token for token in stop_ids if token is not None}
        self._reset()

    def _reset(self):
        self._ids: list[list[int]] = []  # per sequence the prompt and what was committed since
        self._prompt_chars: list[int] = []  # per sequence the length of the prompt's text
        self._tail: list[list[int]] = []
        self._maturity: list[list[float] | None] = []
        self._has_drafts = False
        self._last_draw = -float("inf")
        self._settled = 0  # characters (one sequence only) that are written for good
        self._live_rows = 0  # rows of the screen that the next draw may overwrite
        self._written = 0  # plain text: characters written

    def put(self, value: torch.Tensor):
        """`value`: the prompt, (batch, length), or the ids committed in one step, (batch,), on any device."""
        if not self._ids:
            prompts = value if value.ndim == 2 else value[None]
            self._ids = [row.tolist() for row in prompts]
            self._prompt_chars = [len(decode_stable(self.tokenizer, ids, **self.decode_kwargs)) for ids in self._ids]
        else:
            for ids, new in zip(self._ids, self._rows(value), strict=True):
                ids.extend(new)
            # Until the next draft comes, the tail is what the commit left of the last one.
            self._tail = [tail[1:] for tail in self._tail]
            self._maturity = [levels and levels[1:] for levels in self._maturity]
        if not self._live:
            if len(self._ids) == 1:
                self._write_plain(self._plain(0, final=False))
        elif not self._has_drafts:  # otherwise the draft that follows draws both
            self._draw()

    def put_draft(self, value: torch.Tensor, maturity: torch.Tensor | None = None, **kwargs: Any):
        """`value`: nearest tokens of the tail, (batch, slots), front first, and their `maturity`, (slots,) or (batch,
        slots). What else a decoding loop may tell (`kwargs`) is not shown."""
        if not self._ids:
            raise ValueError("put_draft() before put(): the prompt comes first")
        if not self._live:
            return
        self._tail = self._rows(value)
        batch, slots = len(self._tail), len(self._tail[0])
        if maturity is None:
            self._maturity = [None] * batch
        elif maturity.shape not in ((slots,), (batch, slots)):
            raise ValueError(f"maturity has shape {tuple(maturity.shape)} for a tail of shape {(batch, slots)}")
        else:
            self._maturity = maturity.expand(batch, slots).tolist()
        self._draw(now=not self._has_drafts)
        self._has_drafts = True

    def end(self):
        """Leaves the committed text, without a tail and followed by a newline, and gets ready for another prompt."""
        batch = len(self._ids)
        if self._live and batch:
            self._draw(now=True, final=True)
        elif batch == 1:
            self._write_plain(self._plain(0, final=True) + "\n")
        else:
            self._write("".join(f"[{row}] {self._plain(row, final=True)}\n" for row in range(batch)))
        self._reset()

    # What to show

    def _rows(self, value: torch.Tensor) -> list[list[int]]:
        """Ids as one list per sequence: (batch,), (batch, count), or (count,) for a batch of one."""
        batch = len(self._ids)
        rows = value if value.ndim == 2 else value[None] if batch == 1 else value[:, None]
        if rows.shape[0] != batch:
            raise ValueError(f"got ids of shape {tuple(value.shape)} for a batch of {batch}")
        return rows.tolist()

    def _text(self, row: int, final: bool) -> str:
        """The prompt and committed text of a sequence; only when final with an incomplete character at its end."""
        decode = _decode if final else decode_stable
        return decode(self.tokenizer, self._ids[row], **self.decode_kwargs)

    def _plain(self, row: int, final: bool) -> str:
        return self._text(row, final)[self._prompt_chars[row] if self.skip_prompt else 0 :]

    def _styled(self, row: int, final: bool) -> tuple[Text, int]:
        """A sequence with its colours, and how many of its characters are committed."""
        prompt_chars = self._prompt_chars[row]
        # Behind an end or padding token the tail means nothing: a finished sequence of a batch that goes on.
        if final or not self._tail or self._ids[row][-1] in self._stop_ids:
            pieces: list[tuple[str, float | None]] = [(self._text(row, final), None)]
        else:
            pieces = render_tail(
                self._ids[row], self._tail[row], self._maturity[row], self.tokenizer, **self.decode_kwargs
            )
        styled, committed = Text(), 0
        for text, level in pieces:
            if level is None:
                if not self.skip_prompt:
                    styled.append(text[:prompt_chars].translate(_PRINTABLE), Style(bold=True))
                styled.append(text[prompt_chars:].translate(_PRINTABLE))
                committed = len(styled)
            else:
                styled.append(text.translate(_PRINTABLE), self._tail_style(level))
        return styled, committed

    def _tail_style(self, level: float) -> Style:
        if self.color == "none" or self._console.no_color:
            return Style(dim=True)
        level = min(max(level, 0.0), 1.0)
        if self._console.color_system == "256":
            return Style(color=Color.from_ansi(COARSE[min(int(level * len(COARSE)), len(COARSE) - 1)]))
        return Style(color=Color.from_triplet(blend_rgb(FRESH, MATURE, level)))

    # How to show it

    def _write(self, text: str):
        self.file.write(text)
        self.file.flush()

    def _write_plain(self, text: str):
        self._write(text[self._written :])
        self._written = len(text)

    def _draw(self, now: bool = False, final: bool = False):
        """Overwrites the live rows. One write per draw, so that no half-drawn state is seen."""
        clock = time.monotonic()
        if not now and clock - self._last_draw < self._interval:
            return
        self._last_draw = clock
        columns, lines = _terminal_size(self.file)
        # One column stays free: terminals differ in what they do once the last one is written.
        width, height = max(columns - 1, 8), max(lines - 1, 1)
        if len(self._ids) == 1:
            settled, live = self._layout_single(width, height, final)
        else:
            settled, live = [], self._layout_batch(width, height, final)
        if final:
            settled, live = settled + live, []

        with self._console.capture() as capture:
            for line in settled:
                self._console.print(line, soft_wrap=True)
            self._console.print(Text("\n").join(live), soft_wrap=True, end="")
        up = f"\x1b[{self._live_rows - 1}A" if self._live_rows > 1 else ""
        self._write(f"\r{up}\x1b[J" + capture.get())
        self._live_rows = len(live)

    def _layout_single(self, width: int, height: int, final: bool) -> tuple[list[Text], list[Text]]:
        """Rows written for good, and the live ones: from the row in which the committed text ends."""
        text, committed = self._styled(0, final)
        spans = wrap_rows(text.plain, width, self._settled)
        anchor = max((row for row, (start, _) in enumerate(spans) if start < committed), default=0)
        self._settled = spans[anchor][0]
        rows = [text[start:end] for start, end in spans]
        return rows[:anchor], rows[anchor:] if final else rows[anchor:][:height]

    def _layout_batch(self, width: int, height: int, final: bool) -> list[Text]:
        """The rows of every sequence behind its index; while running, the last ones that fit on the screen."""
        batch = len(self._ids)
        indent = len(f"[{batch - 1}] ")
        lines = []
        for row in range(batch):
            text, _ = self._styled(row, final)
            spans = wrap_rows(text.plain, max(width - indent, 8))
            if not final:
                spans = spans[-max(height // batch, 1) :]
            for place, (start, end) in enumerate(spans):
                prefix = f"[{row}] " if place == 0 else ""
                lines.append(Text().append(prefix.ljust(indent), Style(dim=True)).append_text(text[start:end]))
        return lines if final else lines[:height]


def wrap_rows(text: str, width: int, start: int = 0) -> list[tuple[int, int]]:
    """The (start, end) of each display row of text[start:], broken between words where possible.

    `width` is in terminal cells. Newlines, and a space that would begin a row, belong to no row. At least one row.
    """
    rows, cells, word = [], 0, start  # word: where the word at hand begins, if not at the start of its row
    for place in range(start, len(text)):
        character = text[place]
        if character == "\n":
            rows.append((start, place))
            start, cells, word = place + 1, 0, place + 1
            continue
        size = get_character_cell_size(character)
        if cells + size > width:
            if character == " ":
                rows.append((start, place))
                start, cells, word = place + 1, 0, place + 1
                continue
            cut = word if word > start else place
            rows.append((start, cut))
            start, word = cut, cut
            cells = sum(map(get_character_cell_size, text[cut:place]))
        cells += size
        if character == " ":
            word = place + 1
    rows.append((start, len(text)))
    return rows


def _decode(tokenizer, ids: Sequence[int], **decode_kwargs: Any) -> str:
    return tokenizer.decode(
        ids, **{"skip_special_tokens": True, "clean_up_tokenization_spaces": False, **decode_kwargs}
    )


def _to_list(values: Sequence | torch.Tensor) -> list:
    return values.tolist() if isinstance(values, torch.Tensor) else list(values)


def _default_maturity(slots: int) -> list[float]:
    return [(slots - slot) / (slots + 1) for slot in range(slots)]


def _terminal_size(file: TextIO) -> tuple[int, int]:
    """(columns, lines) of the terminal behind `file`; a terminal that does not know its size says 0."""
    try:
        columns, lines = os.get_terminal_size(file.fileno())
    except (AttributeError, OSError, ValueError):
        columns = lines = 0
    fallback = shutil.get_terminal_size()
    return columns or fallback.columns, lines or fallback.lines
