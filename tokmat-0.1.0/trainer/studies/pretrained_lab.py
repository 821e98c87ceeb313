# Copyright 2026 The TokMat authors. Licensed under the Apache License, Version 2.0.
"""The lab of a pretrained model: studies of the tail ask what the paper's recipe makes of it, as it is printed."""

import dataclasses
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from datasets import Dataset

from modeling_tokmat import TokMatForContinuousLM

from ..checkpoints import is_finished, load_tokenizer
from ..collator import TokMatDataCollator
from ..conversion import convert_folder
from ..evaluation.prompts import Prompts, passages
from ..tokmat_trainer import TokMatTrainer
from ..training_args import TokMatTrainingArguments
from .lab import Budget, Lab
from .pretrained import PROMPT_TOKENS, schedule, train

OPENING = "People have asked it ever since there were people, and nobody has answered it. The meaning of life is"
# Sections 3 and 4 of the paper: both losses with weight 1, 256 negatives (drawn uniformly, it does not say how), the
# linear schedule, learned embeddings on a sphere. Other fields are TokMatConfig's defaults, which are the paper's.
RECIPE: dict[str, Any] = {"negatives": "uniform", "regression_weight": 1.0, "logit_scale": 20.0}
RATE = 5e-4


@dataclasses.dataclass(frozen=True)
class Size:
    """Of the training, in rows of `block` tokens, and of what is asked of the model."""

    steps: int
    batch: int
    block: int
    prompts: int
    continuations: int


SIZES = {
    "small": Size(steps=4, batch=4, block=96, prompts=4, continuations=3),
    "full": Size(steps=240, batch=4, block=256, prompts=31, continuations=4),
}


class PretrainedLab(Lab):
    """A lab whose baseline is a pretrained model, and whose TokMat model starts from that one's weights and its
    embeddings, normalised (`--geometry sphere`), and is trained by the recipe of the paper. The source judges, since
    it shares the tokens."""

    pretrained: str

    def __init__(self, folder: Path, budget: Budget, *args, **kwargs):
        super().__init__(folder, budget, *args, **kwargs)
        self.size = SIZES[budget.name]
        prompts, continuations = self.size.prompts, self.size.continuations
        self.budget = dataclasses.replace(budget, prompts=prompts, continuations=continuations, embryo_seeds=1)

    @classmethod
    def of(cls, lab: Lab) -> "PretrainedLab":
        """The lab itself, or that of its own baseline where no pretrained model was given."""
        if isinstance(lab, cls):
            return lab
        source = lab.pretrained or str(lab.baseline())
        return cls(lab.folder, lab.budget, lab.data, lab.held_out, lab.dialogue, source, lab.judged_by, lab.say)

    def baseline(self) -> Path:
        return Path(self.pretrained)

    def start(self) -> Path:
        """The source with its rows on a sphere, not yet trained."""
        path = self.path("sphere")
        if not is_finished(path):
            convert_folder(self.pretrained, path, geometry="sphere")
        return path

    def tokmat(self, seed: int = 0) -> Path:
        folder, size = self.path("paper"), self.size
        if is_finished(folder):
            return folder
        rows = passages(self.documents[0]["text"], self.tokenizer, size.steps * size.batch, size.block, seed=600)
        model = TokMatForContinuousLM.from_pretrained(self.start(), dtype=torch.float32, **RECIPE)
        self.say(f"training paper: {size.steps} steps")
        work = folder.with_name("paper.training")
        trainer = TokMatTrainer(
            model,
            TokMatTrainingArguments(**schedule(work, size.steps, size.batch, RATE, seed, self.device)),
            train_dataset=Dataset.from_list([{"input_ids": ids} for ids in rows.tolist()]),
            processing_class=self.tokenizer,
            data_collator=TokMatDataCollator(self.tokenizer),
        )
        train(trainer, folder, self.tokenizer)
        return folder

    def domain_models(self, name: str, train: Path) -> tuple[Path, Path]:
        """The source and what the recipe made of it, for every domain: both have read all kinds of text."""
        return self.baseline(), self.tokmat()

    @cached_property
    def tokenizer(self):
        return load_tokenizer(self.pretrained)

    @cached_property
    def judge(self):
        return self.load(self.baseline())

    def prompts(self, new_tokens: int, count: int | None = None, prompt_tokens: int = PROMPT_TOKENS, long=False):
        """Passages of the held-out texts; the first prompt is the end of `OPENING`, the paper's own example."""
        texts, count = self.documents[1]["text"], count or self.budget.prompts
        found = self.beginnings(texts, self.tokenizer, count, prompt_tokens, new_tokens)
        found.ids[0] = torch.tensor(self.tokenizer(OPENING)["input_ids"][-prompt_tokens:])
        return found

    def beginnings(self, texts: list[str], tokenizer, count: int, prompt_tokens: int, new_tokens: int) -> Prompts:
        """Passages, without the token that begins a chat."""
        found = passages(texts, tokenizer, count, prompt_tokens + new_tokens)
        return Prompts(found[:, :prompt_tokens], found[:, prompt_tokens:])
