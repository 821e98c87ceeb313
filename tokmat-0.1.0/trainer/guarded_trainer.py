# Copyright 2026 The TokMat authors. Licensed under the Apache License, Version 2.0.
"""transformers' Trainer whose checkpoints appear whole, and which saves no weights that are not finite."""

import shutil
from collections.abc import Callable
from pathlib import Path

import torch
import torch.nn.functional as F
from huggingface_hub import CommitInfo, run_as_future
from safetensors import SafetensorError
from transformers import Trainer
from transformers.trainer_utils import HubStrategy, rotate_checkpoints
from transformers.utils import logging
from transformers.utils.hub import PushInProgress

from modeling_tokmat.checks_tokmat import require

from . import hub
from .checkpoints import SAVING, move_folder, remove_leftovers, whole_checkpoint

logger = logging.get_logger(__name__)

SHOWN_IDS = 8  # of a batch, in an error that tells which it was


class GuardedTrainer(Trainer):
    """
    `transformers.Trainer`, which training may leave at any moment without loss:

    - a checkpoint is written beside its place and then moved there;
    - training stops at the first loss that is not finite: at once on a CPU, at the next logging step or save on
      accelerators and with several processes, where reading every loss would cost time;
    - weights that are not finite are not saved;
    - what is pushed to the Hub is what `tokmat push` would take: no pickle, no state of training.

    Attributes:
        make_room: called once, when the first whole checkpoint is about to take its place; see `replace`.

    Raises:
        ValueError: the loss or the weights are not finite, or `hub_strategy` asks for checkpoints on the Hub.
        OSError: a checkpoint cannot be written.
    """

    make_room: Callable[[], None] | None = None

    def __init__(self, *args, **kwargs):
        super().__init__(*args, **kwargs)
        self._beside: Path | None = None  # where a checkpoint is being written
        self._broken: torch.Tensor | None = None  # the first step whose loss is not finite (0: none), and its ids

    def replace(self) -> None:
        """Call `make_room`, once: something whole is about to take the place of what it removes."""
        make_room, self.make_room = self.make_room, None
        if make_room is not None and self.args.should_save:
            make_room()

    # -- checkpoints --------------------------------------------------------------------------------------------------

    def _get_output_dir(self, trial) -> str:
        return super()._get_output_dir(trial) if self._beside is None else str(self._beside)

    def _save_checkpoint(self, model, trial):
        folder = Path(self._get_output_dir(trial))
        self._beside = beside = folder / SAVING
        written, place = (parent / f"checkpoint-{self.state.global_step}" for parent in (beside, folder))
        try:
            super()._save_checkpoint(model, trial)
        except (OSError, RuntimeError, SafetensorError) as error:
            shutil.rmtree(beside, ignore_errors=True)
            problem = f"the checkpoint of step {self.state.global_step} cannot be written to {folder}"
            raise OSError(f"{problem}: is the disk full? ({error}); {self._last_good()}") from error
        finally:
            self._beside = None
        self.accelerator.wait_for_everyone()
        moved = self.state.best_model_checkpoint == str(written)
        if moved:
            self.state.best_model_checkpoint = str(place)
        if self.args.should_save:
            if moved:
                self.state.save_to_json(str(written / "trainer_state.json"))
            self.replace()
            move_folder(written, place)
            remove_leftovers(folder)
            self._finish_current_push()  # it may read a checkpoint that goes now
            best = self.state.best_model_checkpoint
            rotate_checkpoints(str(folder), self.args.save_total_limit, best, use_mtime=True)
        self.accelerator.wait_for_everyone()
        if self.args.push_to_hub:
            self._push_from_checkpoint(str(place))

    def save_model(self, output_dir=None, _internal_call=False):
        self._stop_if_broken()
        weights = dict(self.model.named_parameters())
        finite = torch.stack([_local(weight).isfinite().all() for weight in weights.values()])
        if self._anywhere(~finite.all()):
            names = [name for name, good in zip(weights, finite.tolist()) if not good]
            raise ValueError(
                f"after step {self.state.global_step} there are NaN or infinite values in {names[:3]}: such weights "
                f"are not saved; {self._last_good()}"
            )
        super().save_model(output_dir, _internal_call)

    # -- the Hub ------------------------------------------------------------------------------------------------------

    def init_hf_repo(self, token=None, private=None):
        strategy = self.args.hub_strategy
        allowed = '"end" or "every_save": checkpoints hold pickles, which are not pushed'
        require(strategy in (HubStrategy.END, HubStrategy.EVERY_SAVE), "hub_strategy", strategy.value, allowed)
        super().init_hf_repo(token, private)

    def push_to_hub(
        self, commit_message="End of training", blocking=True, token=None, revision=None, private=None, **kwargs
    ):
        """As transformers' `push_to_hub`, with what `tokmat push` takes up, and its errors."""
        if self.hub_model_id is None:
            self.init_hf_repo(token=token, private=private)
        self.save_model(_internal_call=True)
        return self.push_saved(commit_message, blocking, token, revision, **kwargs)

    def push_saved(self, commit_message="End of training", blocking=True, token=None, revision=None, **kwargs):
        """Push the output folder as it is; a card is made first if there is none."""
        if not self.is_world_process_zero():
            return None
        self.callback_handler.on_push_begin(self.args, self.state, self.control)
        self.create_model_card(**kwargs)
        self._finish_current_push()
        arguments = str(self.args.output_dir), commit_message, token, revision
        return self._push(*arguments) if blocking else run_as_future(self._push, *arguments)

    def _push(self, folder: str, commit_message, token=None, revision=None) -> CommitInfo:
        return hub.push(
            hub.prepare(Path(folder)),
            str(self.hub_model_id),
            revision=revision or self.args.hub_revision,
            token=token or self.args.hub_token,
            commit_message=commit_message,
        )

    def _push_from_checkpoint(self, checkpoint_folder):
        # The checkpoint itself, which holds code and tokenizer; transformers would copy a part of it to the output
        # folder, where a finished model would seem to lie.
        busy = self.push_in_progress is not None and not self.push_in_progress.is_done()
        waits = busy and not self.args.hub_always_push
        written = self._beside is None  # else it still has to move
        if self.is_world_process_zero() and self.args.hub_strategy != HubStrategy.END and written and not waits:
            self.callback_handler.on_push_begin(self.args, self.state, self.control)
            message = f"Training in progress, step {self.state.global_step}"
            job = run_as_future(self._push, checkpoint_folder, message)
            job.add_done_callback(_tell_failure)
            self.push_in_progress = PushInProgress([job, *(self.push_in_progress.jobs if busy else [])])

    # -- losses that are not finite -----------------------------------------------------------------------------------

    def training_step(self, model, inputs, num_items_in_batch=None):
        ids = inputs.get("input_ids", inputs.get("labels"))
        loss = super().training_step(model, inputs, num_items_in_batch)
        here = torch.full((1,), self.state.global_step + 1, device=loss.device)
        if ids is not None:
            first = ids[0, :SHOWN_IDS].to(loss.device, non_blocking=True)
            here = torch.cat([here, F.pad(first, (0, SHOWN_IDS - len(first)), value=-1)])
        before = torch.zeros_like(here) if self._broken is None else self._broken
        self._broken = torch.where((before[0] == 0) & ~loss.isfinite(), here, before)
        if loss.device.type == "cpu" and self.args.world_size == 1:
            self._stop_if_broken()
        return loss

    def log(self, logs, *args, **kwargs):
        self._stop_if_broken()
        super().log(logs, *args, **kwargs)

    def _stop_if_broken(self) -> None:
        if self._broken is None or not self._anywhere(self._broken[0] > 0):
            return
        step, *ids = self._broken.tolist()
        shown = f", whose first row begins with the ids {[id for id in ids if id >= 0]}" if ids else ""
        where = f"step {step} (batch {step} in the order of seed {self.args.seed}{shown})" if step else "a step"
        raise ValueError(f"training diverged: the loss of {where} is not finite; {self._last_good()}")

    def _anywhere(self, flag: torch.Tensor) -> bool:
        """Whether the flag, shape (), is set in any process."""
        return bool(self.accelerator.reduce(flag.float(), "sum") > 0 if self.args.world_size > 1 else flag)

    def _last_good(self) -> str:
        # Until room was made, the checkpoints in the folder are those of the run that is to be replaced.
        found = None if self.make_room else whole_checkpoint(Path(str(self.args.output_dir)))
        return f"the last good checkpoint is {found}" if found else "there is no checkpoint of this run yet"


def _local(weight: torch.Tensor) -> torch.Tensor:
    return weight.to_local() if hasattr(weight, "to_local") else weight  # sharded by FSDP2


def _tell_failure(job) -> None:
    """Training goes on without a push that failed."""
    if not job.cancelled() and job.exception() is not None:
        logger.warning(str(job.exception()))
