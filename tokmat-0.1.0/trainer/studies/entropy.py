# Copyright 2026 The TokMat authors. Licensed under the Apache License, Version 2.0.
"""Entropy over maturation, while the direction converges (paper 5.2, Fig. 2)."""

import torch

from .. import pictures
from ..evaluation.decoders import continue_prompts
from .lab import Finding, Lab

TAIL = 16


def lives(output, start: int, tail: int) -> dict[str, torch.Tensor]:
    """The vectors that pass through the whole tail, by age: tensors (age, token, batch).

    Age 0 is the first update of an embryo, in slot `tail`; age `tail` - 1 the update before the commit. Generated
    token t sits in slot k at step t + 1 - k; the first tokens, which begin nearer to the front, are left out.

    Args:
        output: `generate`'s, with `output_maturation="vectors"` under front commits. start: length of the prompt.
    """
    steps = output.maturation
    tokens = range(tail - 1, len(steps))
    names = ("entropy", "entropy_scaled", "token_ids", "vectors")
    return {
        name: torch.stack(
            [torch.stack([getattr(steps[t + 1 - tail + age], name)[:, tail - 1 - age] for t in tokens])
             for age in range(tail)]
        )
        for name in names
    } | {"committed": output.sequences[:, start:].cpu().T[tail - 1 : len(steps)]}  # fmt: skip


@torch.no_grad()
def study(lab: Lab) -> Finding:
    model = lab.load_tokmat(lab.tokmat())
    prompts = lab.prompts(50, count=min(lab.budget.prompts, 64))
    ids = prompts.ids.to(lab.device)
    output = continue_prompts(model, ids, 50, tail_length=TAIL, output_maturation="vectors")
    found = lives(output, ids.shape[1], TAIL)
    table = torch.nn.functional.normalize(model.token_embeddings().cpu(), dim=-1)
    final = torch.nn.functional.normalize(table[found["committed"]], dim=-1)
    cosine = torch.nn.functional.cosine_similarity(found["vectors"].float(), final, dim=-1)
    settled = (found["token_ids"] == found["committed"]).float()
    rows = [
        {
            "age": age,
            "slot": TAIL - age,
            "entropy_temperature_1": float(found["entropy"][age].mean()),
            "entropy_logit_scale": float(found["entropy_scaled"][age].mean()),
            "entropy_logit_scale_sd": float(found["entropy_scaled"][age].std()),
            "cosine_to_committed": float(cosine[age].mean()),
            "top_is_committed": float(settled[age].mean()),
        }
        for age in range(TAIL)
    ]
    entropies = [row["entropy_logit_scale"] for row in rows]
    first, last = entropies[0], entropies[-1]
    spread = (max(entropies) - min(entropies)) / (sum(entropies) / len(entropies))
    gain = rows[-1]["cosine_to_committed"] - rows[0]["cosine_to_committed"]
    constant, converges = spread < 0.1, gain > 0.2
    verdict = lab.verdict("holds" if constant and converges else "partly" if converges else "does not hold")
    vocabulary = model.config.vocab_size

    return Finding(
        claim="Entropy stays nearly constant (about 3.9 nats) over maturation while the direction converges.",
        finding=f"At the model's own logit scale entropy goes from {first:.2f} to {last:.2f} nats (it varies by "
        f"{spread:.0%} of its mean); at temperature 1 it is {rows[-1]['entropy_temperature_1']:.2f} (uniform over "
        f"{vocabulary} tokens: {torch.log(torch.tensor(float(vocabulary))):.2f}). The cosine to the committed "
        f"embedding goes from {rows[0]['cosine_to_committed']:.2f} to {rows[-1]['cosine_to_committed']:.2f}.",
        verdict=verdict,
        rows=rows,
        figure=pictures.entropy(rows),
        text=_candidates(found, lab.tokenizer),
    )


def _candidates(found, tokenizer, tokens: int = 8) -> str:
    """The nearest token at each step of the first few lives of the first continuation."""
    lines = [
        "Nearest token at every update, from the embryo to the commit (last column), one row per token:",
        "",
        "```",
    ]
    for token in range(min(tokens, found["token_ids"].shape[1])):
        names = [repr(tokenizer.decode([int(i)]))[1:-1] for i in found["token_ids"][:, token, 0]]
        lines.append(" ".join(f"{name[:9]:>9}" for name in names))
    return "\n".join([*lines, "```"])
