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


@pytest.mark.parametrize("peft", [False, True])
def test_label_smoothing_of_a_plain_trainer_evaluates_the_next_token(make_model, tmp_path, peft):
    model = make_model()
    ids = torch.tensor([row["input_ids"] for row in ROWS])
    with torch.no_grad():
        scores = model(ids).logits[:, :-1].flatten(0, 1)
    expected = torch.nn.functional.cross_entropy(scores, ids[:, 1:].flatten(), label_smoothing=0.1).item()
    if peft:
        from peft import LoraConfig, get_peft_model

        model = get_peft_model(model, LoraConfig(task_type="CAUSAL_LM"))
    args = TrainingArguments(tmp_path, **COMMON, label_smoothing_factor=0.1)
    plain = Trainer(model, args, data_collator=COLLATOR, eval_dataset=ROWS)
    assert plain.evaluate()["eval_loss"] == pytest.approx(expected, rel=1e-5)


def test_a_loss_function_of_the_caller_evaluates_what_the_model_says(make_model, tmp_path):
    def share_of_hits(outputs, labels, num_items_in_batch=None):
        return (outputs.logits[:, :-1].argmax(-1) == labels[:, 1:]).float().mean()

    model, ids = make_model(), torch.tensor([row["input_ids"] for row in ROWS])
    args = TrainingArguments(tmp_path, **COMMON)
    plain = Trainer(model, args, data_collator=COLLATOR, eval_dataset=ROWS, compute_loss_func=share_of_hits)
    with torch.no_grad():
        expected = share_of_hits(model(ids), ids)
    assert plain.evaluate()["eval_loss"] == pytest.approx(expected.item())


def test_labels_that_another_process_has_shifted_are_refused(make_model):
    """Sequence and context parallelism hand every process a part of each sequence, and targets that were shifted."""
    ids = torch.arange(2, 22)[None]
    for model in (make_model(), make_model().train()):
        with pytest.raises(ValueError, match="`shift_labels` is 'given'"):
            model(ids, labels=ids, shift_labels=ids.roll(-1, dims=1))


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
