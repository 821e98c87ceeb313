# Copyright 2026 The TokMat authors. Licensed under the Apache License, Version 2.0.
"""What others teach a model against repetition, with the steps, rows, rate and adapters of one round of `pretrained`.

Prompts, judge and lengths are those of that study. All start from the same source. Rows are people's text, or half of
them where an arm has rows of its own:

- fine-tuning: cross-entropy.
- token unlikelihood (Welleck et al. 2020): cross-entropy, and -log(1 - p) of every earlier token.
- sequence unlikelihood (the same): cross-entropy; on the source's own endless text, -log(1 - p) of each token of a
  4-gram that was there before.
- DITTO (Xu et al. 2022): cross-entropy; on a sentence repeated to the end of the row, the probability of a token is to
  be half of what it was one repetition before.
- ScaleGrad (Lin et al. 2021): cross-entropy, in which tokens that were not there before have a fifth of their
  probability, so that they have to be wanted five times as much.
- SimCTG (Su et al. 2022): cross-entropy; the cosine of two positions' states is to be half of 1 at most. Decoded
  greedily, as all the others, and by the contrastive search that it was made for.
"""

import math
from pathlib import Path

import matplotlib.pyplot as plt
import torch
import torch.nn.functional as F
from datasets import Dataset
from peft import PeftModel
from transformers import Trainer, TrainingArguments, default_data_collator

from ..evaluation.contrastive_search import contrastive_search
from ..evaluation.prompts import passages
from ..own_text import load_own_text
from .lab import Finding, Lab, slug
from .pretrained import MEASURES, Bench, adapted, train
from .repetition import tables
from .target import perplexity_rows

OURS = "argmax, round 1"
SEQUENCE = "sequence unlikelihood"
SCALED, SPREAD = "ScaleGrad", "SimCTG"
ARMS = ("fine-tuning", "token unlikelihood", SEQUENCE, "DITTO", SCALED, SPREAD)
SEARCH = {"custom_generate": contrastive_search, "penalty_alpha": 0.6, "top_k": 4}
NGRAM = 4  # of sequence unlikelihood
DECAY = 0.5  # of DITTO, from one repetition to the next
OWN = -1  # the period of a row that the model wrote; 0 of people's text, else the tokens of the repeated sentence
GAMMA = 0.2  # of ScaleGrad
MARGIN = 0.5  # of SimCTG
FLOOR = 1e-6  # of what a logarithm is taken of


# -- losses -----------------------------------------------------------------------------------------------------------


def token_unlikelihood(logits: torch.Tensor, ids: torch.Tensor) -> torch.Tensor:
    """Mean over positions of the sum of -log(1 - p(c)) over the different tokens c before a position, but for the one
    that is right there.

    Args:
        logits, ids: of each position's token, (batch, n, V) and (batch, n).
    """
    length = ids.shape[1]
    same = ids[:, :, None] == ids[:, None, :]
    earlier = torch.ones(length, length, dtype=torch.bool, device=ids.device).tril(-1)
    first = ~(same & earlier).any(dim=2)  # where a token occurs first
    candidates = earlier & first[:, None, :] & ~same
    p = logits.softmax(-1).gather(2, ids[:, None, :].expand(-1, length, -1))
    return -((1 - p).clamp(min=FLOOR).log() * candidates).sum() / ids.numel()


def repeated(ids: torch.Tensor, n: int = NGRAM) -> torch.Tensor:
    """Which tokens lie in an n-gram that the row has held before, (batch, length), bool."""
    grams = ids.unfold(1, n, 1)
    same = (grams[:, :, None] == grams[:, None, :]).all(dim=-1)
    again = same.tril(-1).any(dim=2)
    found = torch.zeros_like(ids, dtype=torch.bool)
    for offset in range(n):
        found[:, offset : offset + again.shape[1]] |= again
    return found


def sequence_unlikelihood(logits: torch.Tensor, ids: torch.Tensor, lies: torch.Tensor) -> torch.Tensor:
    """Mean of -log(1 - p) over the tokens that lie in a repeated n-gram, (batch, n) as `ids`."""
    p = logits.softmax(-1).gather(2, ids[..., None])[..., 0]
    return -((1 - p).clamp(min=FLOOR).log() * lies).sum() / lies.sum().clamp(min=1)


def ditto(logits: torch.Tensor, ids: torch.Tensor, period: int) -> torch.Tensor:
    """Mean of -log(1 - |p - DECAY p'|), p' being what p was one repetition before, taken as it is.

    Args:
        logits, ids: of each position's token in one row, (n, V) and (n,).
    """
    p = logits.softmax(-1).gather(1, ids[:, None])[:, 0]
    gap = (p[period:] - DECAY * p[:-period].detach()).abs()
    return -(1 - gap).clamp(min=FLOOR).log().mean()


def scale_grad(logits: torch.Tensor, ids: torch.Tensor) -> torch.Tensor:
    """Cross-entropy per row of probabilities that are multiplied by GAMMA, for tokens that are not before a position,
    and normalised again. Arguments as for `ditto`."""
    earlier = torch.ones(len(ids), len(ids), device=ids.device).tril(-1)
    seen = torch.zeros_like(logits).scatter_add(1, ids.expand(len(ids), -1), earlier.to(logits)) > 0
    return F.cross_entropy(logits + math.log(GAMMA) * ~seen, ids)


def spread(states: torch.Tensor) -> torch.Tensor:
    """Mean over pairs of different positions of how far their cosine is above 1 - MARGIN; states: (n, d)."""
    cosines = F.normalize(states, dim=-1) @ F.normalize(states, dim=-1).T
    above = (cosines - (1 - MARGIN)).clamp(min=0)
    return (above.sum() - above.diagonal().sum()) / (len(states) * (len(states) - 1))


class Peer(Trainer):
    """Rows of people's text under cross-entropy, with whatever the `arm` adds; other rows as the arm has it."""

    arm: str = ARMS[0]

    def compute_loss(self, model, inputs, return_outputs=False, num_items_in_batch=None):
        ids, period = inputs["input_ids"], inputs["period"]
        outputs = model(input_ids=ids, output_hidden_states=self.arm == SPREAD)
        logits, next_ids = outputs.logits[:, :-1].float(), ids[:, 1:]
        losses = []
        for row in range(len(ids)):
            one = slice(row, row + 1)
            if period[row] == OWN:
                losses.append(sequence_unlikelihood(logits[one], next_ids[one], repeated(ids[one])[:, 1:]))
            elif period[row] > 0:
                losses.append(ditto(logits[row], next_ids[row], int(period[row])))
            else:
                entropy = scale_grad if self.arm == SCALED else F.cross_entropy
                loss = entropy(logits[row], next_ids[row])
                if self.arm == SPREAD:
                    loss = loss + spread(outputs.hidden_states[-1][row].float())
                if self.arm == "token unlikelihood":
                    loss = loss + token_unlikelihood(logits[one], next_ids[one])
                losses.append(loss)
        loss = torch.stack(losses).mean()
        return (loss, outputs) if return_outputs else loss


# -- what is taught and written ---------------------------------------------------------------------------------------


def study(lab: Lab) -> Finding:
    bench = Bench(lab)
    return concluded(lab, bench, *examined(bench, decoders(bench)))


def examined(bench: Bench, decoders) -> tuple[list[dict], dict[str, float]]:
    """Rows of every decoder at the lengths that all prompts get, and the perplexity of held-out text under each."""
    lengths = bench.lab.budget.lengths[:-1]
    prompts = bench.prompts(bench.size.prompts, lengths[-1])
    rows, kept = [], {}
    for name, model, settings in decoders:
        rows += bench.told([(name, model, settings)], prompts, lengths)
        if model is not None:
            kept[name] = bench.perplexity(model, name)
    return rows, kept


def decoders(bench: Bench):
    """(name, model or None for people, settings), one model at a time."""
    greedy = {"do_sample": False}
    yield "human", None, {}
    yield "greedy", bench.lab.load(Path(bench.source)), greedy
    yield OURS, bench.load(bench.round(1)), {"tail_length": 1, "alpha_max": 1.0}
    for arm in ARMS:
        model = worn(bench, arm)
        yield arm, model, greedy
        if arm == SPREAD:
            yield f"{SPREAD}, contrastive search", model, greedy | SEARCH


def worn(bench: Bench, arm: str, seed: int = 1):
    """The source with an arm's adapters merged into it."""
    return merged(bench, taught(bench, arm, seed))


def merged(bench: Bench, folder: Path | None = None):
    """The source with adapters merged into it, if any."""
    source = bench.lab.load(Path(bench.source))
    return source if folder is None else PeftModel.from_pretrained(source, folder).merge_and_unload().eval()


def taught(bench: Bench, arm: str, seed: int = 1) -> Path:
    """The folder of an arm's adapters, trained unless they are there."""
    folder = bench.lab.path(f"peer-{slug(arm)}" + (f"-{seed}" if seed > 1 else ""))
    if not (folder / "adapter_model.safetensors").is_file():
        bench.lab.say(f"{arm}, seed {seed}: {bench.size.steps} steps")
        args = TrainingArguments(**bench.schedule(folder.with_name(f"{folder.name}.training"), seed))
        args.remove_unused_columns = False
        source = bench.lab.load(Path(bench.source))
        torch.manual_seed(seed)  # of the adapters' weights
        adapters = adapted(source, f"{source.base_model_prefix}.")
        trainer = Peer(adapters, args, train_dataset=rows_of(bench, arm), data_collator=default_data_collator)
        trainer.arm = arm
        train(trainer, folder)
    return folder


def rows_of(bench: Bench, arm: str) -> Dataset:
    """Rows of a block of tokens: people's text, half of it, or all, and what the arm is taught on."""
    size, count = bench.size, bench.size.steps * bench.size.batch
    texts = bench.lab.documents[0]["text"]
    special = count // 2 if arm in (SEQUENCE, "DITTO") else 0
    people = passages(texts, bench.tokenizer, count - special, size.block, seed=300).tolist()
    rows = [{"input_ids": ids, "period": 0} for ids in people]
    if special and arm == "DITTO":
        for ids in passages(texts, bench.tokenizer, special, size.block, seed=301).tolist():
            sentence = ids[: sentence_end(bench.tokenizer, ids, size.block // 4)]
            again = sentence * math.ceil(size.block / len(sentence))
            rows.append({"input_ids": again[: size.block], "period": len(sentence)})
    elif special:
        own = load_own_text(bench.own_text(0, None))
        chosen = [own[place % len(own)] for place in range(special)]
        rows += [{"input_ids": row["prompt_ids"] + row["answer_ids"], "period": OWN} for row in chosen]
    return Dataset.from_list(rows)


def sentence_end(tokenizer, ids: list[int], most: int) -> int:
    """How many tokens the first sentence takes, at most `most`."""
    for place in range(4, most):
        if tokenizer.decode(ids[:place]).rstrip().endswith((".", "!", "?")):
            return place
    return most


# -- what is concluded ------------------------------------------------------------------------------------------------


def concluded(lab: Lab, bench: Bench, rows: list[dict], perplexities: dict[str, float]) -> Finding:
    told, fewer = [], []
    for length in lab.budget.lengths[:-1]:
        by_name = {row["decoder"]: row for row in rows if row["new_tokens"] == length}
        names = ("human", "greedy", OURS, *ARMS)
        told.append(
            f"{length} tokens, Rep-2 and bits per byte: "
            + ", ".join(f"{name} {by_name[name]['rep_2']:.3f} / {by_name[name]['bits']:.3f}" for name in names)
        )
        fewer += [by_name[OURS]["rep_2"] < by_name[arm]["rep_2"] for arm in ARMS]
    told.append(
        "Perplexity of held-out text, times the source's: "
        + ", ".join(f"{name} {kept / perplexities['greedy']:.3f}" for name, kept in perplexities.items())
    )
    size = bench.size
    return Finding(
        claim="With the same steps, rows and adapters, following the source without its phrases takes more of the "
        "repetition away than unlikelihood training, DITTO, ScaleGrad or SimCTG do.",
        finding=". ".join(told) + ".",
        verdict=lab.verdict(fewer),
        rows=[*rows, *perplexity_rows(perplexities)],
        figure=draw(rows, perplexities, lab.budget.lengths[:-1]),
        text=tables(rows, (*MEASURES, "bits"))
        + f"\n\nEach {size.steps} steps of {size.batch} rows of {size.block} tokens; greedy decoding of all; one "
        "training seed. Intervals: 95 %, bootstrap over prompts.",
    )


def draw(rows: list[dict], perplexities: dict[str, float], lengths):
    figure, axes = plt.subplots(1, len(lengths), figsize=(4.5 * len(lengths) + 2, 4), layout="constrained")
    for axis, length in zip(axes, lengths):
        for place, row in enumerate(row for row in rows if row["new_tokens"] == length):
            name = row["decoder"]
            if name == "human":
                axis.axvspan(row["rep_2_low"], row["rep_2_high"], color="gray", alpha=0.3, label="people")
                continue
            ends = [[row["rep_2"] - row["rep_2_low"]], [row["rep_2_high"] - row["rep_2"]]]
            axis.errorbar(row["rep_2"], perplexities[name] / perplexities["greedy"], xerr=ends, elinewidth=0.7,
                          marker="osD^vP*X<>p"[place % 11], linestyle="none", label=name)  # fmt: skip
        axis.set(xlabel="Rep-2", title=f"{length} new tokens")
    axes[0].set_ylabel("perplexity of held-out text, times the source's")
    figure.legend(*axes[0].get_legend_handles_labels(), loc="outside right upper", fontsize=8)
    return figure
