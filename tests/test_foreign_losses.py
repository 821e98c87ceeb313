# Copyright 2026 The TokMat authors. Licensed under the Apache License, Version 2.0.
"""What would train without maturation is refused, by transformers' Trainer, by TokMatTrainer and by trl's."""

import pytest
import torch
from transformers import Trainer, TrainingArguments

from trainer.collator import TokMatDataCollator
from trainer.tokmat_trainer import TokMatTrainer
from trainer.training_args import TokMatTrainingArguments

ROWS = [{"input_ids": list(range(2, 22))} for _ in range(4)]
COMMON = {"max_steps": 1, "per_device_train_batch_size": 2, "report_to": "none", "use_cpu": True}
COLLATOR = TokMatDataCollator(pad_token_id=1)


def smoothed(outputs, labels, num_items_in_batch=None):
    return outputs.logits.mean()


@pytest.mark.parametrize(
    ("fields", "given", "named"),
    [
        ({"label_smoothing_factor": 0.1}, {}, "label_smoothing_factor"),
        ({}, {"compute_loss_func": smoothed}, "compute_loss_func"),
        ({"neftune_noise_alpha": 5.0}, {}, "`neftune_noise_alpha` is 5.0"),
    ],
)
def test_losses_and_noise_of_a_trainer_are_refused(make_model, tmp_path, fields, given, named):
    given = given | {"data_collator": COLLATOR, "train_dataset": ROWS}
    plain = Trainer(make_model(), TrainingArguments(tmp_path, **COMMON, **fields), **given)
    with pytest.raises(ValueError, match=named):
        plain.train()
    with pytest.raises(ValueError, match=named):
        TokMatTrainer(make_model(), TokMatTrainingArguments(tmp_path, **COMMON, **fields), **given)


def test_liger_is_refused_by_tokmat_trainer(make_model, tmp_path):
    args = TokMatTrainingArguments(tmp_path, **COMMON)
    args.use_liger_kernel = True
    with pytest.raises(ValueError, match="`use_liger_kernel` is True"):
        TokMatTrainer(make_model(), args, data_collator=COLLATOR, train_dataset=ROWS)


def test_training_on_given_vectors_needs_their_maturity(make_model):
    model, ids = make_model().train(), torch.arange(2, 22)[None]
    with pytest.raises(ValueError, match="`labels` is None"):
        model(ids)
    model(ids, maturity=torch.ones(1, 20)).logits.sum().backward()
    with torch.no_grad():
        model(ids)


def test_lora_without_targets_adapts_the_attention_of_the_backbone(make_model):
    from peft import LoraConfig, get_peft_model

    for backbone, names in (("gpt2", {"c_attn"}), ("llama", {"q_proj", "v_proj"}), ("qwen3", {"q_proj", "v_proj"})):
        adapted = get_peft_model(make_model(backbone), LoraConfig(task_type="CAUSAL_LM"))
        found = {name.split(".lora_A")[0] for name, _ in adapted.named_modules() if name.endswith("lora_A")}
        assert found and {name.rsplit(".", 1)[1] for name in found} == names
        assert all(".backbone." in name for name in found)


def test_what_tokmat_adds_can_be_trained_whole_beside_lora(make_model):
    from peft import LoraConfig, get_peft_model

    config = LoraConfig(task_type="CAUSAL_LM", modules_to_save=["head", "maturity_embedding"])
    adapted, ids = get_peft_model(make_model(clean_probability=0.0), config).train(), torch.arange(2, 22)[None]
    adapted(input_ids=ids, labels=ids).loss.backward()
    trained = {name for name, weight in adapted.named_parameters() if weight.grad is not None}
    for part in ("head.modules_to_save", "maturity_embedding.modules_to_save", "lora_B"):
        assert any(part in name for name in trained), part


def test_trl_is_refused_with_what_to_use_instead(make_model, tmp_path, tokenizer):
    trl = pytest.importorskip("trl")
    from datasets import Dataset

    args = trl.SFTConfig(tmp_path, **COMMON, max_length=16, bf16=False)
    data = Dataset.from_dict({"text": ["one day the fox asked the owl"] * 4})
    model = make_model(vocab_size=300)
    sft = trl.SFTTrainer(model, args=args, train_dataset=data, processing_class=tokenizer)
    with pytest.raises(ValueError, match="TokMatTrainer or transformers.Trainer"):
        sft.train()
