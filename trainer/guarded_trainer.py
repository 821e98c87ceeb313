# Copyright 2026 The TokMat authors. Licensed under the Apache License, Version 2.0.
"""transformers' Trainer whose checkpoints appear whole, and which saves no weights that are not finite."""

import shutil
from collections.abc import Callable
from pathlib import Path

import torch
import torch.nn.functional as F
from safetensors import SafetensorError
from transformers import Trainer
from transformers.trainer_utils import rotate_checkpoints

from .checkpoints import SAVING, move_folder, remove_leftovers, whole_checkpoint

SHOWN_IDS = 8  # of a batch, in an error that tells which it was


class GuardedTrainer(Trainer):
    """
    `transformers.Trainer`, which training may leave at any moment without loss:

    - a checkpoint is written beside its place and then moved there;
    - training stops at the first loss that is not finite: at once on a CPU, at the next logging step or save on
      accelerators and with several processes, where reading every loss would cost time;
    - weights that are not finite are not saved.

    Attributes:
        make_room: called once, when the first whole checkpoint is about to take its place; see `replace`.

    Raises:
        ValueError: the loss or the weights are not finite. OSError: a checkpoint cannot be written.
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

    def _push_from_checkpoint(self, checkpoint_folder):
        if self._beside is None:  # else it still has to move
            super()._push_from_checkpoint(checkpoint_folder)

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
