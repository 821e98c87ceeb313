# Copyright 2026 The TokMat authors. Licensed under the Apache License, Version 2.0.
"""Guidance and the look-ahead of the tail (paper 5.6, Fig. 5)."""

import torch

from .. import pictures
from ..evaluation.decoders import continue_prompts
from ..evaluation.look_ahead import agreement_with_commits
from ..evaluation.measures import interval
from .lab import TAIL_LENGTH, Finding, Lab, with_ends

SCALES = (0.5, 0.75, 1.0, 1.5, 2.0, 3.0)


@torch.no_grad()
def study(lab: Lab) -> Finding:
    model = lab.load_tokmat(lab.tokmat())
    prompts = lab.prompts(50)
    rows, shares, known, tails = [], {}, {}, []
    for scale in SCALES:
        agreement, written = [], []
        for ids in prompts.ids.split(50):
            output = continue_prompts(model, ids.to(lab.device), 50, guidance_scale=scale, output_maturation=True)
            sequences = output.sequences[:, ids.shape[1] :].cpu()
            agreement.append(agreement_with_commits(output.maturation, sequences))
            written.append(sequences)
            if len(written) == 1 and scale >= 1:
                tails.append(_tail(output, lab.tokenizer, scale))
        shares[scale] = torch.cat(agreement).numpy()
        row = {"guidance_scale": scale}
        known[f"s = {scale:g}"] = [interval(shares[scale][:, slot - 1]) for slot in range(2, TAIL_LENGTH + 1)]
        for slot, ends in enumerate(known[f"s = {scale:g}"], start=2):
            row |= with_ends(f"slot_{slot}", ends)
        rows.append(row | lab.measure([torch.cat(written)], prompts))
    change = interval((shares[2.0] - shares[1.0])[:, 1:4].mean(axis=1))  # paired by prompt, slots 2 to 4
    verdict = lab.verdict(change[1] > 0)
    off, on = rows[SCALES.index(1.0)], rows[SCALES.index(2.0)]
    best = max(rows, key=lambda row: row["slot_2"])

    return Finding(
        claim="The tail reads as noise at guidance 1 and as look-ahead at guidance 2.",
        finding=f"Slot 2 holds the token committed there later in {off['slot_2']:.0%} of steps at s = 1 and in "
        f"{on['slot_2']:.0%} at s = 2; over slots 2 to 4 guidance 2 changes the agreement by {change[0]:+.3f} "
        f"[{change[1]:+.3f}, {change[2]:+.3f}]. Slot 2 agrees most at s = {best['guidance_scale']:g} "
        f"({best['slot_2']:.0%}). Judge perplexity of the text: {off['judge_perplexity']:.2f} at s = 1 and "
        f"{on['judge_perplexity']:.2f} at s = 2.",
        verdict=verdict,
        rows=rows,
        figure=pictures.guidance(known),
        text="\n\n".join(tails),
    )


def _tail(output, tokenizer, scale: float, steps=range(8, 14)) -> str:
    lines = [f"Guidance {scale:g}, first prompt: committed so far | the tail, slot 1 first", "", "```"]
    start = output.sequences.shape[1] - len(output.maturation)
    for step in steps:
        written = tokenizer.decode(output.sequences[0, start : start + step])
        tail = " ".join(tokenizer.decode([int(i)]).strip() or "_" for i in output.maturation[step].token_ids[0])
        lines.append(f"{written[-40:]!r} | {tail}")
    return "\n".join([*lines, "```"])
