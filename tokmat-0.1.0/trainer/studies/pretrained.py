# Copyright 2026 The TokMat authors. Licensed under the Apache License, Version 2.0.
"""A pretrained model under pure argmax: its loops, and the same model when an adapter has unlearned its phrases.

Target, test set and judge stand here, before any model is judged:

- target, at 50, 200 and 1,000 new tokens (`Budget.lengths`): Rep-2, Rep-3 and Loop of pure argmax, without penalty, at
  or below the upper end of people's 95 % interval, Dist-2 at or above its lower end; bits per byte under the judge no
  more than those of the weakest penalty at decoding that repeats as little; perplexity of held-out text within 5 % of
  the source's.
- test set: passages of the held-out texts, from the beginnings of paragraphs, spread over the documents; 16 tokens
  are the prompt, the rest is how people went on.
- judge: a model of another family and tokenizer (`--judged-by`), so in bits per byte.
"""

import contextlib
import json
import math
import shutil
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch
from datasets import Dataset
from peft import LoraConfig, PeftModel, get_peft_model
from peft.tuners.lora import LoraLayer
from transformers.trainer_utils import get_last_checkpoint

from modeling_tokmat import TokMatForContinuousLM

from ..checkpoints import is_finished, load_tokenizer, save_whole
from ..collator import TokMatDataCollator
from ..conversion import convert_folder
from ..evaluation.bits import bits_per_byte
from ..evaluation.decoders import PhrasePenalty, write
from ..evaluation.measures import interval, judge_nll, per_prompt
from ..evaluation.prompts import Prompts, passages
from ..own_text import Prompt, load_own_text, write_own_text
from ..tokmat_trainer import TokMatTrainer
from ..training_args import TokMatTrainingArguments
from .lab import Finding, Lab, slug, with_ends
from .repetition import tables
from .target import TUNED, draw, judged_at_every_length, perplexity_rows

PROMPT_TOKENS = 16
MEASURES = ("dist_2", "rep_2", "rep_3", "loop")
NATS = 5.0  # off a repeated bigram
RATE, RANK = 8e-4, 16
STRENGTHS = (1.5,)  # of what the adapter adds, beyond what it was trained at
SHARPNESS = (1.0, 1.0, 3.0)  # of the rounds (`reference_sharpness`); the last one goes on
PEOPLES = 1 / 3  # of the rows are people's text, on which the source is followed as well


@dataclass(frozen=True)
class Size:
    """How much is taught and written."""

    rounds: int
    steps: int  # of a round, of `batch` rows of `block` tokens
    batch: int
    block: int
    prompts: int
    long_prompts: int  # of the longest texts
    held_out: int  # passages of `block` tokens, for the perplexity

    @property
    def peoples(self) -> int:
        """Rows of people's text in a round."""
        return round(self.steps * self.batch * PEOPLES)


SIZES = {
    "small": Size(rounds=2, steps=6, batch=4, block=96, prompts=3, long_prompts=3, held_out=3),
    "full": Size(rounds=3, steps=60, batch=4, block=256, prompts=40, long_prompts=8, held_out=30),
}


def study(lab: Lab) -> Finding:
    bench = Bench(lab)
    tuned = [bench.round(number) for number in range(1, bench.size.rounds + 1)]
    rows = bench.at_every_length(lambda most: bench.decoders(tuned, most))
    kept = bench.perplexities(tuned)
    return concluded(lab, bench.size, rows, kept)


class Bench:
    """The pretrained model, its adapters, and how text of both is measured."""

    def __init__(self, lab: Lab):
        self.lab, self.size = lab, SIZES[lab.budget.name]
        self.source = lab.pretrained or str(lab.baseline())
        self.exact = lab.path("pretrained")
        if not is_finished(self.exact):
            lab.say("converting the pretrained model")
            convert_folder(self.source, self.exact)
        self.tokenizer = load_tokenizer(str(self.exact))

    # -- what is taught -----------------------------------------------------------------------------------------------

    def load(self, adapter: Path | None = None, strength: float = 1.0):
        """The pretrained model as a TokMat model, an adapter merged into it, so many times what it adds; or what
        became of it where every weight learned."""
        whole = adapter is not None and is_finished(adapter)
        model = TokMatForContinuousLM.from_pretrained(adapter if whole else self.exact, dtype=torch.float32)
        if adapter is not None and not whole:
            adapters = PeftModel.from_pretrained(model, adapter)
            for part in adapters.modules():
                if isinstance(part, LoraLayer):
                    part.scale_layer(strength)
            model = adapters.merge_and_unload()
        return model.eval().to(self.lab.device)

    def round(self, number: int) -> Path:
        """The adapter after so many rounds: in each, the model of the round before writes on where no text may end,
        and is taught there, and on people's text, what the source would say without its phrases."""
        folder = self.lab.path(f"unlearnt-{number}")
        if (folder / "adapter_model.safetensors").is_file():
            return folder
        before = self.round(number - 1) if number > 1 else None
        own = [self.own_text(number - 1, before)]
        if number > 2:
            own.append(self.own_text(number - 2, None))  # is there
        rows = self.rows(own, seed=number)
        self.lab.say(f"round {number}: {self.size.steps} steps")
        sharpness = SHARPNESS[min(number, len(SHARPNESS)) - 1]
        work = folder.with_name(f"{folder.name}.training")
        self.follow(folder, before, rows, sharpness, self.schedule(work, number))
        return folder

    def follow(self, folder: Path, before: Path | None, rows: Dataset, sharpness: float, settings: dict[str, Any]):
        """Teach adapters, fresh ones or those in `before`, what the source says without its phrases, into `folder`.

        Args:
            rows: those of own text are `tail_only`. settings: arguments of the training.
        """
        self.teach(folder, rows, {"phrase_penalty": NATS}, settings | {"reference_sharpness": sharpness}, before)

    def teach(self, folder: Path, rows: Dataset, fields: dict, settings: dict, before=None, whole: bool = False):
        """Train adapters, fresh ones or those in `before`, into `folder`; or every weight, if `whole`.

        Args:
            fields: of the model's config, which say what the lesson is. settings: arguments of the training.
        """
        exact: dict[str, Any] = {"clean_probability": 1.0, "regression_weight": 0.0, "negatives": "all"}
        model = TokMatForContinuousLM.from_pretrained(self.exact, dtype=torch.float32, **exact | fields)
        torch.manual_seed(settings["seed"])  # of the adapters' weights
        learner = model
        if before is not None:
            learner = PeftModel.from_pretrained(model, before, is_trainable=True)
        elif not whole:
            learner = adapted(model, "backbone.")
        trainer = TokMatTrainer(
            learner,
            TokMatTrainingArguments(**settings),
            reference=self.load() if model.config.phrase_penalty else None,
            train_dataset=rows,
            processing_class=self.tokenizer,
            data_collator=TokMatDataCollator(self.tokenizer),
        )
        train(trainer, folder)

    def schedule(self, work: Path, seed: int) -> dict[str, Any]:
        """Arguments of a training of a round's length."""
        return schedule(work, self.size.steps, self.size.batch, RATE, seed, self.lab.device)

    def own_text(self, number: int, adapter: Path | None) -> Path:
        """What the model writes after so many rounds; batches that are there are not written again."""
        path, size = self.lab.path(f"own-{number}.jsonl"), self.size
        count = size.steps * size.batch - size.peoples
        count = count if number < 2 else math.ceil(count / 2)  # the others are of the round before
        rows = sum(1 for _ in path.open()) if path.exists() else 0
        if rows < count:
            self.lab.say(f"writing {count} texts after {number} rounds")
            self.write_endless(self.load(adapter), path, count, seed=100 + number)
        return path

    def write_endless(
        self, model, path: Path, count: int, seed: int, block: int | None = None, rows: int = 80
    ) -> None:
        """Greedy text without an end, a block of it with its beginning, so many `rows` at a time; batches that are
        there are kept."""
        starts = passages(self.lab.documents[0]["text"], self.tokenizer, count, PROMPT_TOKENS, seed=seed).tolist()
        batches = [[Prompt(ids, "text") for ids in starts[first : first + rows]] for first in range(0, count, rows)]
        new_tokens = (block or self.size.block) - PROMPT_TOKENS
        settings = {"max_new_tokens": new_tokens, "stop_loops": False, "may_end": False}
        write_own_text(model, self.tokenizer, batches, path, settings)

    def rows(self, own: list[Path], seed: int) -> Dataset:
        """Rows of own text, the newest file's first, and of people's text."""
        size, chosen = self.size, []
        each = math.ceil((size.steps * size.batch - size.peoples) / len(own))
        for path in own:
            chosen += [row["prompt_ids"] + row["answer_ids"] for row in load_own_text(path)][:each]
        texts = self.lab.documents[0]["text"]
        chosen += passages(texts, self.tokenizer, size.peoples, size.block, seed=200 + seed).tolist()
        return Dataset.from_list([{"input_ids": ids, "tail_only": True} for ids in chosen])

    # -- what is written ----------------------------------------------------------------------------------------------

    def prompts(self, count: int, new_tokens: int) -> Prompts:
        found = passages(self.lab.documents[1]["text"], self.tokenizer, count, PROMPT_TOKENS + new_tokens)
        return Prompts(found[:, :PROMPT_TOKENS], found[:, PROMPT_TOKENS:])

    def decoders(self, tuned: list[Path], most: bool):
        """(name, model or None for people, settings); the longest texts have fewer rivals."""
        yield "human", None, {}
        argmax = {"tail_length": 1, "alpha_max": 1.0}
        yield TUNED, self.load(tuned[-1]), argmax
        for number, adapter in enumerate(tuned[:-1] if most else [], start=1):
            yield f"argmax, round {number}", self.load(adapter), argmax
        for strength in STRENGTHS if most else ():
            yield f"argmax, adapter x {strength:g}", self.load(tuned[-1], strength), argmax
        source, greedy = self.lab.load(Path(self.source)), {"do_sample": False}
        yield "greedy", source, greedy
        for penalty in (1.1, 1.2) if most else (1.2,):
            yield f"penalty {penalty}", source, greedy | {"repetition_penalty": penalty}
        for nats in (1.5, 3.0) if most else ():
            yield f"phrases, {nats:g} nats", source, greedy | {"logits_processor": [PhrasePenalty(nats)]}

    def test_sets(self) -> list[tuple[Prompts, tuple[int, ...]]]:
        """Prompts, and the lengths of text that are asked of them; of the longest one fewer."""
        lengths, size = self.lab.budget.lengths, self.size
        parts = ((size.prompts, lengths[:-1]), (size.long_prompts, lengths[-1:]))
        return [(self.prompts(count, some[-1]), some) for count, some in parts]

    def at_every_length(self, decoders) -> list[dict]:
        """Rows of the decoders that `decoders(most)` yields, `most` of them but for the longest texts."""
        longest, rows = self.lab.budget.lengths[-1], []
        for prompts, some in self.test_sets():
            rows += self.told(decoders(some[-1] < longest), prompts, some)
        return rows

    def told(self, decoders, prompts: Prompts, lengths) -> list[dict]:
        """Rows of every decoder, each said as it comes."""
        rows = []
        for name, model, settings in decoders:
            for row in self.measured(name, model, settings, prompts, lengths):
                rows.append(row)
                said = f"{row['new_tokens']} tokens, {name}: Rep-2 {row['rep_2']:.3f}, {row['bits']:.3f} bits per byte"
                self.lab.say(said)
        return rows

    def measured(self, name, model, settings, prompts: Prompts, lengths, measures=MEASURES) -> list[dict]:
        """A row per length of one decoder's text."""
        found = self.values(name, model, settings, prompts, lengths, measures)
        return [row_of(name, length, values) for length, values in zip(lengths, found)]

    def values(self, name, model, settings, prompts: Prompts, lengths, measures=MEASURES) -> list[dict]:
        """Every measure of one decoder's texts, text by text, a dict per length; kept, so that a study that was killed
        goes on behind it."""
        path = self.kept(name, lengths[-1])
        if path.exists():
            return json.loads(path.read_text(encoding="utf-8"))
        if model is None:
            written = prompts.human
        else:
            model.generation_config.temperature = model.generation_config.top_p = None  # the source may sample
            written = write(name, model, prompts, lengths[-1], 40, [0], **settings).runs[0]
        bits, told = self.bits(prompts.ids, written, lengths)
        found = []
        for place, length in enumerate(lengths):
            values = per_prompt([written[:, :length]], prompts) | {"bits": bits[:, place]}
            found.append({measure: values[measure].tolist() for measure in (*measures, "bits")})
        path.parent.mkdir(parents=True, exist_ok=True)
        part = path.with_suffix(".part")
        part.write_text(json.dumps(found), encoding="utf-8")
        path.with_suffix(".txt").write_text("\n\n".join(told), encoding="utf-8")
        part.replace(path)
        return found

    def kept(self, name: str, of) -> Path:
        """Where a figure of one decoder lies."""
        return self.lab.path("written") / f"{slug(name)}-{of}.json"

    def bits(self, prompt_ids: torch.Tensor, written: torch.Tensor, lengths) -> tuple[np.ndarray, list[str]]:
        """Bits per byte of so many tokens of each text, (n, lengths), and the texts, their prompts before a bar."""
        beginnings = [self.tokenizer.decode(ids) for ids in prompt_ids]
        whole = torch.cat([prompt_ids, written], dim=1)
        cut = [[self.tokenizer.decode(ids[: PROMPT_TOKENS + length]) for length in lengths] for ids in whole]
        texts = [parts[-1][len(beginning) :] for beginning, parts in zip(beginnings, cut)]
        sizes = [[len(part) - len(beginning) for part in parts] for beginning, parts in zip(beginnings, cut)]
        told = [f"{beginning}|{text}" for beginning, text in zip(beginnings, texts)]
        judge, tokenizer = self.judge
        return bits_per_byte(judge, tokenizer, beginnings, texts, sizes), told

    @cached_property
    def judge(self):
        """The judge and its tokenizer."""
        path = self.lab.judged_by or str(self.lab.judge_path())
        return self.lab.load(Path(path)), load_tokenizer(path)

    def perplexities(self, tuned: list[Path]) -> dict[str, float]:
        """Of the held-out texts, under the source, after every round, and with a stronger adapter."""
        found: dict[str, float] = {}
        plans: dict[str, tuple] = {"source": (None,)}
        plans |= {f"round {number}": (adapter,) for number, adapter in enumerate(tuned, start=1)}
        plans |= {f"adapter x {strength:g}": (tuned[-1], strength) for strength in STRENGTHS}
        for name, plan in plans.items():
            found[name] = self.perplexity(self.load(*plan))
        return found

    def perplexity(self, model, name: str | None = None) -> float:
        """Of the held-out texts; by name it is kept, as texts are."""
        path = self.kept(name, "perplexity") if name else None
        if path is not None and path.exists():
            return json.loads(path.read_text(encoding="utf-8"))
        texts = passages(self.lab.documents[1]["text"], self.tokenizer, self.size.held_out, self.size.block, seed=1)
        found = math.exp(float(judge_nll(model, texts[:, :1], texts[:, 1:], batch_size=4).mean()))
        if path is not None:
            path.write_text(json.dumps(found), encoding="utf-8")
        return found


def row_of(name: str, length: int, values: dict) -> dict:
    """A decoder's row: each measure's mean and the ends of its interval.

    Args:
        values: by measure, (prompts,), or (training seeds, prompts).
    """
    arrays = {measure: np.array(found) for measure, found in values.items()}
    row = {"new_tokens": length, "prompts": arrays["bits"].shape[-1], "decoder": name}
    for measure, found in arrays.items():
        row |= with_ends(measure, interval(found))
    return row


def adapted(model, prefix: str):
    """A model that wears fresh LoRA adapters in every linear layer whose name begins with `prefix`."""
    linear = [name for name, part in model.named_modules() if isinstance(part, torch.nn.Linear)]
    chosen = [name for name in linear if name.startswith(prefix)]
    return get_peft_model(model, LoraConfig(r=RANK, lora_alpha=2 * RANK, target_modules=chosen))


def schedule(work: Path, steps: int, batch: int, rate: float, seed: int, device: torch.device) -> dict[str, Any]:
    """Arguments of a training of a pretrained model, which goes on from `work` where it was killed."""
    return {
        "output_dir": str(work),
        "max_steps": steps,
        "learning_rate": rate,
        "lr_scheduler_type": "cosine",
        "warmup_steps": steps // 10,
        "per_device_train_batch_size": batch,
        "save_steps": 20,
        "save_total_limit": 1,
        "logging_steps": 5,
        "seed": seed,
        "report_to": "none",
        "disable_tqdm": True,
        "use_cpu": device.type == "cpu",
    }


def train(trainer, folder: Path, *others) -> None:
    """Train what a trainer holds into `folder`, on from where a killed run was; the log lies beside it.

    Args:
        others: what is saved there as well, a tokenizer.
    """
    work = Path(trainer.args.output_dir)
    log = open(folder.with_name(f"{folder.name}.log"), "a", encoding="utf-8")
    with log, contextlib.redirect_stdout(log), torch.enable_grad():
        trainer.train(resume_from_checkpoint=get_last_checkpoint(work) if work.is_dir() else None)

    def save(temporary):
        for part in (trainer.model, *others):
            part.save_pretrained(temporary)

    save_whole(save, folder)
    shutil.rmtree(work)


# -- what is concluded ------------------------------------------------------------------------------------------------


def concluded(lab: Lab, size: Size, rows: list[dict], perplexities: dict[str, float]) -> Finding:
    told, holds = judged_at_every_length(rows, lab.budget.lengths)
    source, taught = perplexities["source"], perplexities[f"round {size.rounds}"]
    holds.append(taught <= 1.05 * source)
    told.append(
        f"Perplexity of held-out text: {source:.2f} of the source, {taught / source:.3f} times that at the end."
    )
    return Finding(
        claim="A pretrained model that loops under argmax repeats no more than people do, at 50, 200 and 1,000 "
        "tokens, when an adapter has been taught to follow it without its phrases; its text is judged no worse than "
        "with the weakest penalty at decoding that repeats as little, and it forgets nothing.",
        finding=" ".join(told),
        verdict=lab.verdict(holds),
        rows=[*rows, *perplexity_rows(perplexities)],
        figure=draw(rows, lab.budget.lengths),
        text=tables(rows, (*MEASURES, "bits"))
        + f"\n\n{size.rounds} rounds of {size.steps} steps, {size.batch} rows of {size.block} tokens each: LoRA of "
        f"rank {RANK} in every linear layer, learning rate {RATE:g}; {NATS:g} nats "
        "off a repeated bigram, twice that off a trigram, four times from there on; sharpness of the rounds "
        f"{', '.join(f'{power:g}' for power in SHARPNESS)}. bits: per byte, under a judge of "
        "another tokenizer. Intervals: 95 %, bootstrap over prompts; one training seed.",
    )
