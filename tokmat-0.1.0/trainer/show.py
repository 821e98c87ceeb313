# Copyright 2026 The TokMat authors. Licensed under the Apache License, Version 2.0.
"""A saved model in a process that has none of our modelling code: `python -m trainer.show FOLDER`."""

import sys

from transformers import AutoModelForCausalLM, AutoTokenizer
from transformers.generation.streamers import BaseStreamer
from transformers.utils import logging

from .recipes import DEMO_NEW_TOKENS, DEMO_PROMPTS
from .streamers import MaturationStreamer

LOGGED_STEPS = (1, 10, 20, 30)


class TailLog(BaseStreamer):
    """For logs: after some steps, what is committed and the nearest tokens of the tail; at the end the text."""

    def __init__(self, tokenizer):
        self.tokenizer, self.ids, self.step = tokenizer, [], 0

    def put(self, value):
        self.ids = self.ids + value.flatten().tolist()

    def put_draft(self, value, **kwargs):
        self.step += 1
        if self.step in LOGGED_STEPS:
            words = self.tokenizer.decode(self.ids, skip_special_tokens=True).split()[-5:]
            tail = "|".join(repr(self.tokenizer.decode([token]))[1:-1] for token in value[0, :8].tolist())
            print(f"  step {self.step}: ... {' '.join(words)}  tail: {tail}")

    def end(self):
        print(self.tokenizer.decode(self.ids, skip_special_tokens=True), flush=True)


def show(folder: str) -> None:
    """Load a saved model with nothing but transformers, and let it continue the demo's prompts with its tail shown."""
    logging.disable_progress_bar()
    model = AutoModelForCausalLM.from_pretrained(folder, trust_remote_code=True).eval()
    tokenizer = AutoTokenizer.from_pretrained(folder, trust_remote_code=True)  # it reads the model's configuration
    print(f"Code: {type(model).__module__}\n", flush=True)
    for prompt in DEMO_PROMPTS:
        streamer = MaturationStreamer(tokenizer) if sys.stdout.isatty() else TailLog(tokenizer)
        inputs = tokenizer(prompt, return_tensors="pt", return_token_type_ids=False)
        model.generate(**inputs, max_new_tokens=DEMO_NEW_TOKENS, streamer=streamer)
        print(flush=True)


if __name__ == "__main__":
    show(sys.argv[1])
