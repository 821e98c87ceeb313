# Copyright 2026 The TokMat authors. Licensed under the Apache License, Version 2.0.
"""A corpus of what a model itself writes, so that its tail can learn to foresee the model rather than the world.

    python examples/own_text.py MODEL --data stories.txt --texts 4000 --output own.txt
    tokmat train --model MODEL --data stories.txt --tail-data own.txt --output-dir TRAINED

Every text begins with 4 to 64 tokens of a document of --data and goes on under pure argmax to the end of text, or to
that of the last sentence that fits.
"""

import argparse
import os
import re
from pathlib import Path

import torch
from rich.progress import track
from transformers import AutoModelForCausalLM, AutoTokenizer

from trainer.data import END_OF_TEXT, load_documents

PROMPT_TOKENS = (4, 8, 16, 32, 64)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", help="a TokMat model: folder or Hub name")
    parser.add_argument("--data", required=True, help="text whose beginnings are continued, as for tokmat train")
    parser.add_argument("--output", type=Path, required=True)
    parser.add_argument("--texts", type=int, default=4000)
    parser.add_argument("--max-new-tokens", type=int, default=160)
    parser.add_argument("--batch-size", type=int, default=128)
    parser.add_argument("--tail-length", type=int, default=1)
    args = parser.parse_args()
    model = AutoModelForCausalLM.from_pretrained(args.model, trust_remote_code=True).eval()
    tokenizer = AutoTokenizer.from_pretrained(args.model, trust_remote_code=True)
    bos = tokenizer.eos_token_id if tokenizer.bos_token_id is None else tokenizer.bos_token_id
    documents, rows = load_documents(args.data), []
    for number in torch.randperm(len(documents), generator=torch.Generator().manual_seed(0)).tolist():
        ids = [bos, *tokenizer(documents[number]["text"], add_special_tokens=False, verbose=False)["input_ids"]]
        length = PROMPT_TOKENS[len(rows) // args.batch_size % len(PROMPT_TOKENS)]  # one length per batch
        if len(ids) >= length:
            rows.append(ids[:length])
        if len(rows) == args.texts:
            break

    temporary, tokens = args.output.with_name(args.output.name + ".tmp"), 0
    with temporary.open("w", encoding="utf-8") as file:
        for first in track(range(0, len(rows), args.batch_size), description="writing"):
            ids = torch.tensor(rows[first : first + args.batch_size])
            run = {"max_new_tokens": args.max_new_tokens, "tail_length": args.tail_length}
            for row in model.generate(ids, attention_mask=torch.ones_like(ids), **run).tolist():
                text, ended = tokenizer.decode(row[1:]), False
                if END_OF_TEXT in text:
                    text, ended = text.split(END_OF_TEXT)[0], True
                sentences = re.match(r"(?s).*[.!?][\"']?(?=\s|$)", text)
                text = text if ended or sentences is None else sentences[0]
                tokens += len(row)
                file.write(f"{text.strip()}\n{END_OF_TEXT}\n")
    os.replace(temporary, args.output)
    print(f"{len(rows)} texts, at most {tokens:,} tokens, in {args.output}")


if __name__ == "__main__":
    main()
