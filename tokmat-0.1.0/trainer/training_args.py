# Copyright 2026 The TokMat authors. Licensed under the Apache License, Version 2.0.
"""Arguments of the TokMatTrainer."""

import atexit
import time
from dataclasses import dataclass, field
from pathlib import Path

import torch
from transformers import TrainingArguments

from modeling_tokmat.checks_tokmat import is_integer, is_number, require
from modeling_tokmat.maturation_tokmat import MAX_TAIL_LENGTH

REFERENCE_ROWS = ("own", "all")


@dataclass
class TokMatTrainingArguments(TrainingArguments):
    """`transformers.TrainingArguments`, and what the TokMatTrainer measures while it trains.

    What the weights are trained FOR (schedule, tails, negatives, loss weights) is on `TokMatConfig`, because it
    travels with the checkpoint.

    Args:
        slot_metrics: up to which slot accuracy on simulated tails is logged in training, in [0, 64]; 0 is none.
        tail_metrics: up to which slot evaluation reports `eval_tail_acc_k`, in [0, 64]; 0 is none.
        sample_prompts: prompts to continue at every evaluation (or save), printed and logged.
        sample_max_new_tokens: length of those continuations, in tokens.
        reference_sharpness: rows that follow a reference compare both distributions raised to this power, above 0:
            under argmax it matters what is likeliest, less so how likely it is.
        reference_rows: "own": rows of own text follow the reference, others learn from their text. "all": those too
            follow it, as it is: they keep what it knows, and are less noisy than their text.

    Raises:
        ValueError: names the argument, its value and what is allowed.
    """

    _argument_group_name = "training (all of transformers' TrainingArguments)"

    slot_metrics: int = field(
        default=4, metadata={"help": "Report slot_acc_1 .. slot_acc_k: accuracy of z^_k on simulated tails. 0 = none."}
    )
    tail_metrics: int = field(
        default=8,
        metadata={
            "help": "At evaluation, report eval_tail_acc_1 .. eval_tail_acc_k: continue held-out beginnings with a "
            "tail of length k; slot j's share of steps in which it holds what is committed there later. 0 = none."
        },
    )
    sample_prompts: list[str] | None = field(
        default=None, metadata={"help": "Prompts to continue at every evaluation (or save), printed and logged."}
    )
    sample_max_new_tokens: int = field(default=50, metadata={"help": "Length of those continuations, in tokens."})
    reference_sharpness: float = field(
        default=1.0,
        metadata={
            "help": "Power that the model's distribution and the reference's are raised to before they are compared."
        },
    )

    reference_rows: str = field(
        default="own",
        metadata={
            "help": "Rows that follow the reference: own text alone (own), or other rows too, as it is, instead of "
            "learning from their text (all).",
            "choices": list(REFERENCE_ROWS),
        },
    )

    def __post_init__(self):
        for name in ("deepspeed", "fsdp_config"):  # else read as base64 or found missing when much is set up
            value = getattr(self, name)
            given = not isinstance(value, str) or value.lstrip().startswith("{") or Path(value).is_file()
            require(given, name, value, "a JSON file that exists, or JSON itself")
        super().__post_init__()
        for name in ("learning_rate", "weight_decay", "max_grad_norm"):
            require(is_number(getattr(self, name), 0), name, getattr(self, name), "a number of at least 0")
        allowed = f"an integer in [0, {MAX_TAIL_LENGTH}]"
        require(is_integer(self.slot_metrics, 0, MAX_TAIL_LENGTH), "slot_metrics", self.slot_metrics, allowed)
        require(is_integer(self.tail_metrics, 0, MAX_TAIL_LENGTH), "tail_metrics", self.tail_metrics, allowed)
        new_tokens = self.sample_max_new_tokens
        require(is_integer(new_tokens, 1), "sample_max_new_tokens", new_tokens, "an integer of at least 1")
        sharpness = self.reference_sharpness
        ok = is_number(sharpness, 0) and sharpness > 0
        require(ok, "reference_sharpness", sharpness, "a number above 0")
        require(self.reference_rows in REFERENCE_ROWS, "reference_rows", self.reference_rows, "own or all")


def refuse_other_losses(args: TrainingArguments, compute_loss_func=None) -> None:
    """The loss is the model's own (Eq. 8), and so is the noise it is trained with: refuse what would replace them.

    Raises:
        ValueError: names the argument, its value and what is allowed.
    """
    rule = "left out: the loss is the model's own (see regression_weight and contrastive_weight)"
    require(args.label_smoothing_factor == 0, "label_smoothing_factor", args.label_smoothing_factor, rule)
    require(compute_loss_func is None, "compute_loss_func", compute_loss_func, rule)
    require(not args.use_liger_kernel, "use_liger_kernel", args.use_liger_kernel, rule)
    alpha = args.neftune_noise_alpha
    require(alpha is None, "neftune_noise_alpha", alpha, "None: maturation adds noise of its own (see embryo_norm)")


@atexit.register
def end_process_group() -> None:
    """Let torch.distributed's threads come to rest while Python still runs.

    A worker of gloo lets go of the tensors of its last collective after that collective has ended, and needs the
    interpreter for that: one that is shutting down ends the thread in the middle of C++, and with it the process
    ("terminate called without an active exception", exit code -6). Destroying the group does not wait for it where a
    DistributedDataParallel still holds the group, and would wait without giving the interpreter away; sleeping does.
    """
    if torch.distributed.is_available() and torch.distributed.is_initialized():
        torch.distributed.destroy_process_group()
        time.sleep(0.5)
