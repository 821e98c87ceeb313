# Copyright 2026 The TokMat authors. Licensed under the Apache License, Version 2.0.
"""Contrastive search, which transformers keeps on the Hub, as a `custom_generate`."""

import torch
import torch.nn.functional as F
from transformers import DynamicCache
from transformers.generation import GenerateDecoderOnlyOutput

from modeling_tokmat.inputs_tokmat import CACHE


@torch.no_grad()
def contrastive_search(model, input_ids, logits_processor, stopping_criteria, generation_config, **kwargs):
    """`generate(custom_generate=contrastive_search, penalty_alpha=0.6, top_k=4)`: of the `top_k` likeliest tokens the
    one with the largest (1 - penalty_alpha) p - penalty_alpha max cos(its state, an earlier state), where states are
    the last layer's (Su et al. 2022, Eq. 5).

    Args:
        input_ids: prompts of one length, (batch, length), without padding.
    """
    alpha, among = generation_config.penalty_alpha, generation_config.top_k
    batch, cache = len(input_ids), DynamicCache(config=model.config)

    def read(ids):
        output = model(input_ids=ids, use_cache=True, **{CACHE: cache}, output_hidden_states=True)
        return output.logits[:, -1].float(), F.normalize(output.hidden_states[-1].float(), dim=-1)

    logits, states = read(input_ids)
    finished = torch.zeros(batch, dtype=torch.bool, device=input_ids.device)
    while not finished.all():
        p, tokens = logits_processor(input_ids, logits).softmax(dim=-1).topk(among)
        cache.batch_repeat_interleave(among)
        logits, state = read(tokens.view(-1, 1))
        state = state.view(batch, among, -1)
        familiar = (state @ states.transpose(1, 2)).amax(dim=-1)
        chosen = ((1 - alpha) * p - alpha * familiar).argmax(dim=-1, keepdim=True)
        rows = (torch.arange(batch, device=chosen.device)[:, None] * among + chosen)[:, 0]
        cache.batch_select_indices(rows)
        logits, token = logits[rows], tokens.gather(1, chosen)
        states = torch.cat([states, state.gather(1, chosen[..., None].expand(-1, -1, state.shape[-1]))], dim=1)
        token = torch.where(finished[:, None], generation_config._pad_token_tensor, token) if finished.any() else token
        input_ids = torch.cat([input_ids, token], dim=1)
        finished = finished | stopping_criteria(input_ids, logits)
    return GenerateDecoderOnlyOutput(sequences=input_ids) if generation_config.return_dict_in_generate else input_ids
