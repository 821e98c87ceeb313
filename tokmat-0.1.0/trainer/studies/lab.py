# Copyright 2026 The TokMat authors. Licensed under the Apache License, Version 2.0.
"""What studies share: a budget, data, models that are trained when first asked for, and how text is measured."""

import contextlib
import json
import math
from collections.abc import Callable, Iterable
from dataclasses import asdict, dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from transformers import AutoTokenizer

from modeling_tokmat import TokMatForContinuousLM

from ..checkpoints import is_finished, load_model
from ..conversion import convert_folder
from ..data import END_OF_TEXT, load_documents, split_documents
from ..evaluation.decoders import write
from ..evaluation.measures import interval, per_prompt
from ..evaluation.prompts import Prompts, held_out_prompts
from ..models import machine_device
from ..training_run import TrainingPlan, fit

NOT_JUDGED = "not judged"


@dataclass(frozen=True)
class Budget:
    """How much is trained and written. Steps are of `batch` rows of `block` tokens."""

    name: str
    judged: bool  # whether models of this size can say anything about a claim
    backbone: str
    vocabulary: int
    block: int
    batch: int
    baseline_steps: int
    judge_steps: int
    base_steps: int
    look_ahead_steps: int
    ablation_steps: int
    ablation_batch: int
    domain_steps: int
    training_seeds: int
    prompts: int
    embryo_seeds: int
    continuations: int
    lengths: tuple[int, ...]
    long_block: int
    long_steps: int


SMALL = Budget(
    name="small", judged=False, backbone="tiny", vocabulary=512, block=128, batch=8,
    baseline_steps=150, judge_steps=150, base_steps=60, look_ahead_steps=40, ablation_steps=20, ablation_batch=8,
    domain_steps=60, training_seeds=1, prompts=12, embryo_seeds=2, continuations=8, lengths=(50, 100, 150),
    long_block=256, long_steps=20,
)  # fmt: skip
FULL = Budget(
    name="full", judged=True, backbone="small", vocabulary=4096, block=256, batch=16,
    baseline_steps=1500, judge_steps=1500, base_steps=600, look_ahead_steps=250, ablation_steps=75, ablation_batch=8,
    domain_steps=150, training_seeds=2, prompts=200, embryo_seeds=3, continuations=50, lengths=(50, 200, 1000),
    long_block=1024, long_steps=100,
)  # fmt: skip
BUDGETS = {"small": SMALL, "full": FULL}

# The recipe behind every study's model, found on TinyStories: the past as negatives, 3 nats strong, against
# repetition; parallel tails for look-ahead (docs/LOOKAHEAD.md).
CONTEXT_NEGATIVES = 3.0
TAIL_LENGTH = 8
RECIPE: dict[str, Any] = {"context_negatives": CONTEXT_NEGATIVES, "film_scope": "tail"}


@dataclass
class Finding:
    """What a study leaves behind: `rows` become its CSV, `figure` its picture, the rest a paragraph."""

    claim: str
    finding: str
    verdict: str
    rows: list[dict]
    figure: Any  # matplotlib's, which is not imported here
    text: str = field(default="")  # samples and tables for finding.md
    pictures: dict[str, Any] = field(default_factory=dict)  # further ones, by the name of their file


class Lab:
    """
    Args:
        folder: where models are kept, under `models/`. data, held_out: sources as for `tokmat train`; without
            `held_out` a part of `data` is kept back.
        dialogue: text for the study of structured text, optional.
        pretrained, judged_by: models for the study of a pretrained one; the lab's own baseline and judge if not given.
    """

    def __init__(
        self,
        folder: Path,
        budget: Budget,
        data: str | list[str],
        held_out: str | list[str] | None = None,
        dialogue=None,
        pretrained: str | None = None,
        judged_by: str | None = None,
        say=print,
    ):
        self.folder, self.data, self.held_out, self.dialogue = folder, data, held_out, dialogue
        self.budget = self.of_budget = budget
        self.pretrained, self.judged_by, self.say = pretrained, judged_by, say
        self.device = machine_device()

    # -- data ---------------------------------------------------------------------------------------------------------

    @cached_property
    def documents(self):
        """(training documents, held-out documents)."""
        documents = load_documents(self.data)
        if self.held_out is not None:
            return documents, load_documents(self.held_out)
        return split_documents(documents, 0.05, seed=0)

    def check_sources(self) -> None:
        """Read what the studies need, before anything is written.

        Raises:
            ValueError, OSError: text that does not exist or is not text.
        """
        if self.documents and self.dialogue is not None:
            load_documents(self.dialogue)

    @cached_property
    def texts(self) -> dict[str, Path]:
        """Files of the training documents, of the held-out ones, and of both joined into documents that fill the long
        context: documents are separate sequences in training, so only long ones teach a long context."""
        folder = self.folder / "data"
        folder.mkdir(parents=True, exist_ok=True)
        found = {}
        for name, documents in zip(("train", "held-out"), self.documents):
            texts = list(documents["text"])
            found[name] = write_documents(folder / f"{name}.txt", texts)
            joined, characters = [[]], 0
            for text in texts:
                if characters > 6 * self.budget.long_block:
                    joined, characters = [*joined, []], 0
                joined[-1].append(text.strip())
                characters += len(text)
            found[f"{name}-long"] = write_documents(
                folder / f"{name}-long.txt", ["\n\n".join(part) for part in joined]
            )
        return found

    def prompts(self, new_tokens: int, count: int | None = None, prompt_tokens: int = 16, long=False) -> Prompts:
        """Beginnings of held-out documents, at most `count` of them (the budget's number)."""
        count = count or self.budget.prompts
        documents = load_documents(str(self.texts["held-out-long" if long else "held-out"]))
        enough = [
            text
            for text in documents["text"]
            if len(self.tokenizer(text, verbose=False)["input_ids"]) + 1 >= prompt_tokens + new_tokens
        ]
        return self.beginnings(enough, self.tokenizer, min(count, len(enough)), prompt_tokens, new_tokens)

    def beginnings(self, texts: list[str], tokenizer, count: int, prompt_tokens: int, new_tokens: int) -> Prompts:
        """Beginnings of `count` of these texts, drawn."""
        return held_out_prompts({"text": texts}, tokenizer, count, prompt_tokens, new_tokens)

    # -- models -------------------------------------------------------------------------------------------------------

    def path(self, name: str) -> Path:
        return self.folder / "models" / name

    def fit(
        self,
        name: str,
        steps: int,
        rate: float,
        data: str | list[str] = "train",
        prepare: Callable | None = None,
        **values,
    ) -> Path:
        """Train a model, unless it is there; a killed training goes on.

        Args:
            data: "train" or "train-long", with the held-out text that belongs to it, or sources without one.
            values: other arguments of a training run (`TrainingPlan.of`).
        """
        path, budget, texts = self.path(name), self.budget, self.texts
        if is_finished(path):
            return path
        values = {"block_size": budget.block, "per_device_train_batch_size": budget.batch} | values
        sources = [data] if isinstance(data, str) else data
        if isinstance(data, str) and data in texts:
            sources = [str(texts[data])]
            values["validation_data"] = [str(texts[data.replace("train", "held-out")])]
        plan = TrainingPlan.of(
            data=sources,
            output_dir=str(path),
            resume_from_checkpoint="last",
            max_steps=steps,
            learning_rate=rate,
            eval_steps=steps,
            logging_steps=50,
            save_total_limit=1,
            prepare=prepare,
            go_on="the same command",
            **values,
        )
        self.say(f"training {name}: {steps} steps")
        path.parent.mkdir(parents=True, exist_ok=True)
        log = open(path.parent / f"{name}.log", "a", encoding="utf-8")
        with log, contextlib.redirect_stdout(log), torch.enable_grad():  # studies may run without gradients
            code = fit(plan)
        if code:
            raise KeyboardInterrupt
        return path

    def baseline(self) -> Path:
        budget = self.budget
        new: dict[str, Any] = {"objective": "ar", "backbone": budget.backbone, "vocab_size": budget.vocabulary}
        return self.fit("ar", budget.baseline_steps, 2e-3, **new)

    def judge_path(self) -> Path:
        """An autoregressive model trained apart, from another seed: other weights, other order of the same text."""
        new: dict[str, Any] = {"objective": "ar", "backbone": self.budget.backbone, "tokenizer": str(self.baseline())}
        return self.fit("judge", self.budget.judge_steps, 2e-3, **new, seed=100)

    def start(self) -> Path:
        """The baseline made a TokMat model, not yet trained."""
        return self.converted("start", self.baseline())

    def converted(self, name: str, baseline: Path) -> Path:
        path = self.path(name)
        if not is_finished(path):
            convert_folder(str(baseline), path, geometry="sphere")
        return path

    def base(self, seed: int = 0) -> Path:
        """Repelled by its past; its tail has not been trained."""
        values = RECIPE | {"model": str(self.start()), "clean_probability": 1.0, "seed": seed}
        return self.fit(_numbered("base", seed), self.budget.base_steps, 6e-4, **values)

    def tokmat(self, seed: int = 0) -> Path:
        """`base`, then taught look-ahead: the model whose tail the studies look into."""
        values = RECIPE | {"model": str(self.base(seed)), "look_ahead": True, "seed": seed}
        return self.fit(_numbered("tokmat", seed), self.budget.look_ahead_steps, 4e-4, **values)

    def longer_baseline(self) -> Path:
        """The baseline with as many steps more as TokMat models get: what they are to be compared with."""
        steps = self.budget.base_steps + self.budget.look_ahead_steps
        return self.fit("ar-longer", steps, 6e-4, objective="ar", model=str(self.baseline()))

    def domain_models(self, name: str, train: Path) -> tuple[Path, Path]:
        """A baseline of a domain's text, with a tokenizer of its own, and a TokMat model made of it in a third of its
        steps."""
        budget = self.budget
        given: dict[str, Any] = {"data": str(train), "validation_fraction": 0.0}
        new: dict[str, Any] = {"objective": "ar", "backbone": budget.backbone, "vocab_size": budget.vocabulary}
        baseline = self.fit(f"{name}-ar", budget.domain_steps, 2e-3, **new, **given)
        converted: dict[str, Any] = {"model": str(self.converted(f"{name}-start", baseline)), "look_ahead": True}
        converted |= {"context_negatives": CONTEXT_NEGATIVES}
        return baseline, self.fit(f"{name}-tokmat", max(1, budget.domain_steps // 3), 6e-4, **converted, **given)

    def load(self, path: Path):
        model = load_model(str(path), dtype=torch.float32).eval()
        return model.to(self.device)

    def load_tokmat(self, path: Path) -> TokMatForContinuousLM:
        """A TokMat model, decoding with the tail length that it was trained for unless told otherwise."""
        model = TokMatForContinuousLM.from_pretrained(path, dtype=torch.float32).eval().to(self.device)
        model.generation_config.tail_length = TAIL_LENGTH
        return model

    @cached_property
    def tokenizer(self):
        return AutoTokenizer.from_pretrained(self.baseline())

    @cached_property
    def judge(self):
        return self.load(self.judge_path())

    def held_out_loss(self, path: Path) -> dict[str, float]:
        """What `tokmat train` measured at the end: perplexity and accuracy on the held-out documents."""
        return json.loads((path / "eval_results.json").read_text(encoding="utf-8"))

    # -- measuring ----------------------------------------------------------------------------------------------------

    def continuations(self, model, prompts: Prompts, seeds=None, **settings) -> list[torch.Tensor]:
        """Ids (n, new tokens), once per seed (default: the budget's number of embryo seeds)."""
        seeds = range(self.budget.embryo_seeds) if seeds is None else seeds
        return write("", model, prompts, prompts.human.shape[1], 50, list(seeds), **settings).runs

    def measure(self, runs: list[torch.Tensor], prompts: Prompts, judge=None) -> dict[str, float]:
        """Each metric, and the ends of its 95 % interval over prompts, under `name`, `name_low`, `name_high`."""
        found = {}
        for name, values in per_prompt(runs, prompts, judge or self.judge).items():
            ends = interval(values)
            if name == "judge_nll":
                name, ends = "judge_perplexity", (math.exp(ends[0]), math.exp(ends[1]), math.exp(ends[2]))
            found |= with_ends(name, ends)
        return found

    def verdict(self, holds: bool | str | Iterable[bool]) -> str:
        """ "holds", "does not hold", of several parts also "partly", or what is given; "not judged" where the budget
        is too small to judge."""
        if not self.budget.judged:
            return NOT_JUDGED
        if isinstance(holds, str):
            return holds
        parts = list(holds) if isinstance(holds, Iterable) else [holds]
        return "holds" if all(parts) else "partly" if any(parts) else "does not hold"

    def identity(self) -> dict:
        """What must not change between runs that share a folder."""
        budget = json.loads(json.dumps(asdict(self.of_budget)))
        found = {"budget": budget, "data": self.data, "held_out": self.held_out}
        return found | {name: getattr(self, name) for name in ("pretrained", "judged_by") if getattr(self, name)}


def slug(name: str) -> str:
    """The name of a decoder or a lesson, as that of a file."""
    return name.replace(" ", "-").replace(",", "")


def with_ends(name: str, ends: tuple[float, float, float]) -> dict[str, float]:
    """Columns of an `interval`: `name`, `name_low`, `name_high`."""
    return dict(zip((name, f"{name}_low", f"{name}_high"), ends))


def _numbered(name: str, seed: int) -> str:
    return f"{name}-{seed}" if seed else name


def write_documents(path: Path, texts: list[str]) -> Path:
    """A text file as `tokmat train` reads it, unless it is there."""
    if not path.exists():
        part = path.with_suffix(".part")
        part.write_text("".join(f"{text.strip()}\n{END_OF_TEXT}\n" for text in texts), encoding="utf-8")
        part.replace(path)
    return path
