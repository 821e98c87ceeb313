# Copyright 2026 The TokMat authors. Licensed under the Apache License, Version 2.0.
"""A reference for look-ahead: plain multi-token-prediction heads on the same backbone, data and number of steps.

    python benchmarks/multi_token_heads.py MODEL --data stories.txt --held-out held-out.txt

Head k maps a hidden state h to h + silu(W_k h), through the model's own head, to the vector k tokens ahead; heads 2
and 3 and the model train together with the model's own loss. Reported is the share of the model's own K = 1 commits
that head k had foreseen, comparable with tail_acc_k. The last line on stdout is one JSON object.
"""

import argparse
import json

import torch
import torch.nn.functional as F
from rich.progress import track
from torch import nn
from torch.utils.data import DataLoader
from transformers import AutoModelForCausalLM, AutoTokenizer, get_cosine_schedule_with_warmup

from modeling_tokmat.losses_tokmat import document_index, info_nce, regression
from trainer.collator import TokMatDataCollator
from trainer.data import load_documents, tokenize_and_pack
from trainer.evaluation.prompts import held_out_prompts


class Heads(nn.Module):
    def __init__(self, model, most: int):
        super().__init__()
        size = model.head.in_features
        self.model, self.maps = model, nn.ModuleList(nn.Linear(size, size) for _ in range(2, most + 1))
        for part in self.maps:
            nn.init.zeros_(part.weight), nn.init.zeros_(part.bias)

    def predicted(self, hidden: torch.Tensor, ahead: int) -> torch.Tensor:
        """The vectors that are `ahead` tokens away, (batch, length, d)."""
        if ahead > 1:
            hidden = hidden + F.silu(self.maps[ahead - 2](hidden))
        return self.model.head(hidden)

    def hidden(self, input_ids, position_ids=None):
        none = torch.empty(0, dtype=torch.long)
        kwargs = {"output_hidden_states": True, "use_cache": False, "logits_to_keep": none}
        return self.model(input_ids, position_ids=position_ids, **kwargs).hidden_states[-1]

    def loss(self, batch):
        """The model's loss for every head, averaged over heads."""
        model, config, labels = self.model, self.model.config, batch["labels"]
        hidden = self.hidden(batch["input_ids"], batch["position_ids"])
        documents = document_index(batch["position_ids"], None, labels.shape, labels.device)
        vocabulary, total = model.vocabulary(), 0.0
        keys = vocabulary.keys(torch.float32)
        for ahead in range(1, len(self.maps) + 2):
            targets = labels[:, ahead:]
            valid = (targets != -100) & (documents[:, ahead:] == documents[:, :-ahead])
            targets, predicted = targets.clamp(min=0), self.predicted(hidden, ahead)[:, :-ahead]
            queries = vocabulary.queries(predicted)
            contrast = info_nce(queries, targets, keys, vocabulary.scale, config.vocab_size)
            squared = regression(predicted, model.embed_tokens(targets).detach(), model.embedding_radius)
            losses = config.contrastive_weight * contrast + config.regression_weight * squared
            total = total + (losses * valid).sum() / valid.sum()
        return total / (len(self.maps) + 1)


@torch.no_grad()
def agreement(heads: Heads, prompts, new_tokens: int) -> dict[str, float]:
    """Share of the K = 1 commits that head k foresaw, on the model's own text."""
    model, length = heads.model.eval(), prompts.ids.shape[1]
    run = {"max_new_tokens": new_tokens, "min_new_tokens": new_tokens, "tail_length": 1, "alpha_max": 1.0}
    ids = model.generate(prompts.ids, attention_mask=torch.ones_like(prompts.ids), **run)
    hidden, found = heads.hidden(ids), {}
    for ahead in range(1, len(heads.maps) + 2):
        nearest = model.implied_logits(heads.predicted(hidden, ahead)).argmax(-1)[:, length - 1 : -ahead]
        found[f"head_acc_{ahead}"] = (nearest == ids[:, length - 1 + ahead :]).float().mean().item()
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", help="a TokMat model to start from")
    parser.add_argument("--data", required=True)
    parser.add_argument("--held-out", required=True)
    parser.add_argument("--heads", type=int, default=3, help="the furthest token ahead")
    parser.add_argument("--steps", type=int, default=250)
    parser.add_argument("--batch-size", type=int, default=16)
    parser.add_argument("--block-size", type=int, default=256)
    parser.add_argument("--learning-rate", type=float, default=4e-4)
    parser.add_argument("--prompts", type=int, default=64)
    parser.add_argument("--new-tokens", type=int, default=50)
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    torch.manual_seed(args.seed)
    model = AutoModelForCausalLM.from_pretrained(args.model, trust_remote_code=True)
    tokenizer = AutoTokenizer.from_pretrained(args.model, trust_remote_code=True)
    heads = Heads(model, args.heads).train()
    rows = tokenize_and_pack(load_documents(args.data), tokenizer, args.block_size)
    loader = DataLoader(rows, args.batch_size, shuffle=True, collate_fn=TokMatDataCollator(tokenizer), drop_last=True)
    optimizer = torch.optim.AdamW(heads.parameters(), args.learning_rate, betas=(0.9, 0.95), weight_decay=0.1)
    schedule = get_cosine_schedule_with_warmup(optimizer, args.steps * 3 // 100, args.steps)
    batches = iter(loader)
    for _ in track(range(args.steps), description="training heads"):
        batch = next(batches, None)
        if batch is None:
            batches = iter(loader)
            batch = next(batches)
        with torch.autocast("cpu", torch.bfloat16):
            loss = heads.loss(batch)
        loss.backward()
        nn.utils.clip_grad_norm_(heads.parameters(), 1.0)
        optimizer.step(), schedule.step(), optimizer.zero_grad()
    prompts = held_out_prompts(load_documents(args.held_out), tokenizer, args.prompts, 16, args.new_tokens)
    print(
        json.dumps(
            {"benchmark": "multi_token_heads", "steps": args.steps, **agreement(heads, prompts, args.new_tokens)}
        )
    )


if __name__ == "__main__":
    main()
