# Copyright 2026 The TokMat authors. Licensed under the Apache License, Version 2.0.
"""Callbacks: text samples while training, and a checkpoint when training is interrupted."""

import signal

from transformers import TrainerCallback


class SampleCallback(TrainerCallback):
    """Continue some prompts at every evaluation, print them, and keep them in `trainer_state.json`'s log history."""

    def __init__(self, tokenizer, prompts: list[str], max_new_tokens: int = 50):
        if tokenizer is None:
            raise ValueError("`sample_prompts` is given, but no tokenizer: pass one as `processing_class`.")
        self.tokenizer, self.prompts, self.max_new_tokens = tokenizer, prompts, max_new_tokens

    def on_evaluate(self, args, state, control, model=None, **kwargs):
        was_training = model.training
        model.eval()
        inputs = self.tokenizer(self.prompts, return_tensors="pt", padding=True, padding_side="left").to(model.device)
        inputs.pop("token_type_ids", None)
        ids = model.generate(**inputs, max_new_tokens=self.max_new_tokens)
        texts = self.tokenizer.batch_decode(ids, skip_special_tokens=True)
        model.train(was_training)
        state.log_history.append({"step": state.global_step, "samples": texts})
        if state.is_world_process_zero:
            print("\n".join(f"[step {state.global_step}] {text}" for text in texts), flush=True)


class CheckpointOnInterrupt(TrainerCallback):
    """On SIGINT or SIGTERM: finish the step, save a checkpoint, stop. A second signal stops at once."""

    def __init__(self):
        self.interrupted = 0  # the number of the signal that came
        self._previous = {}

    def on_train_begin(self, args, state, control, **kwargs):
        for number in (signal.SIGINT, signal.SIGTERM):
            self._previous[number] = signal.signal(number, self._remember)

    def _remember(self, number, frame):
        if self.interrupted:
            raise KeyboardInterrupt
        self.interrupted = number

    def on_step_end(self, args, state, control, **kwargs):
        if self.interrupted:
            control.should_save = control.should_training_stop = True

    def on_train_end(self, args, state, control, **kwargs):
        for number, handler in self._previous.items():
            signal.signal(number, handler)
