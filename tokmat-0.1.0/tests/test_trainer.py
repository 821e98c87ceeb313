# Copyright 2026 The TokMat authors. Licensed under the Apache License, Version 2.0.
"""TokMatTrainer, and the plain Trainer on the same model."""

import json
import math

import pytest
import torch
import torch.nn.functional as F
from host_reads import HostReads
from transformers import AutoModelForCausalLM, Trainer, TrainerCallback, TrainingArguments

from modeling_tokmat import TokMatForContinuousLM
from modeling_tokmat.maturation_tokmat import mix_seed
from modeling_tokmat.training_tokmat import simulate_tails
from trainer.collator import TokMatDataCollator
from trainer.tokmat_trainer import TokMatTrainer
from trainer.training_args import TokMatTrainingArguments

COLLATOR = TokMatDataCollator(pad_token_id=1)
# Where a training step may read what is on the device, and how often per micro-batch.
ALLOWED_READS = {
    ("modeling_tokmat/inputs_tokmat.py", "check_ids"): 4,  # two numbers of ids and labels, on the CPU alone
    ("modeling_tokmat/inputs_tokmat.py", "check_range"): 2,  # two of positions, on the CPU alone
    ("trainer/guarded_trainer.py", "_anywhere"): 1,  # whether the loss is finite, on the CPU alone
}


class RecordingCollator:
    """Keeps the batches that training really saw."""

    def __init__(self):
        self.batches = []

    def __call__(self, features):
        self.batches.append(COLLATOR(features))
        return dict(self.batches[-1])

    def whole(self):
        return {name: torch.cat([batch[name] for batch in self.batches]) for name in self.batches[0]}


@pytest.fixture
def rows():
    """32 packed rows of 24 positions, two documents each at varying borders."""
    generator = torch.Generator().manual_seed(0)
    made = []
    for index in range(32):
        border = 4 + index % 14
        positions = [*range(border), *range(24 - border)]
        made.append(
            {"input_ids": torch.randint(2, 97, (24,), generator=generator).tolist(), "position_ids": positions}
        )
    return made


@pytest.fixture
def make_trainer(make_model, rows, tmp_path):
    def make(
        model, cls=TokMatTrainer, callbacks=(), eval_dataset=None, train_dataset=rows, collator=COLLATOR, **fields
    ):
        arguments = {
            "output_dir": str(tmp_path / "run"),
            "max_steps": 2,
            "per_device_train_batch_size": 8,
            "report_to": "none",
            "use_cpu": True,
            "save_strategy": "no",
            "logging_steps": 1,
            "disable_tqdm": True,
            "learning_rate": 1e-3,
            **fields,
        }
        kind = TokMatTrainingArguments if cls is TokMatTrainer else TrainingArguments
        return cls(
            model=model,
            args=kind(**arguments),
            train_dataset=train_dataset,
            eval_dataset=eval_dataset,
            data_collator=collator,
            callbacks=list(callbacks),
        )

    return make


class KeepGradients(TrainerCallback):
    def __init__(self):
        self.steps = []

    def on_pre_optimizer_step(self, args, state, control, model=None, **kwargs):
        self.steps.append({name: weight.grad.clone() for name, weight in model.named_parameters()})


@pytest.mark.parametrize("negatives", ["uniform", "unigram", "all"])
@pytest.mark.parametrize("fields", [{}, {"maturation": "rollout", "parallel_tails": 3, "film_scope": "tail"}])
def test_the_split_into_micro_batches_changes_nothing(make_trainer, make_model, negatives, fields):
    """1 x 8 == 8 x 1 == 2 x 4 in gradient."""
    runs = []
    for batch, accumulation in ((8, 1), (1, 8), (2, 4)):
        torch.manual_seed(0)
        common = {"negatives": negatives, "context_negatives": 1.0, "clean_probability": 0.2}
        model = make_model(double=True, **common, **fields)
        if negatives == "unigram":
            model.set_token_counts(torch.arange(97))
        keeper = KeepGradients()
        trainer = make_trainer(
            model,
            callbacks=[keeper],
            per_device_train_batch_size=batch,
            gradient_accumulation_steps=accumulation,
            max_grad_norm=0.0,
        )
        trainer.train()
        losses = [(entry["loss"], entry["regression_loss"]) for entry in trainer.state.log_history if "loss" in entry]
        runs.append((keeper.steps, losses))
    for steps, losses in runs[1:]:
        for (loss, part), (expected_loss, expected_part) in zip(losses, runs[0][1], strict=True):
            assert (loss, part) == pytest.approx((expected_loss, expected_part), rel=1e-5)
        for gradients, expected in zip(steps, runs[0][0], strict=True):
            for name, gradient in gradients.items():
                torch.testing.assert_close(gradient, expected[name], atol=1e-5, rtol=1e-5, msg=name)


def test_the_loss_is_normalised_by_the_summed_weights(make_trainer, make_model, rows):
    """The first logged loss equals the definition over the whole accumulated batch."""
    torch.manual_seed(0)
    model = make_model(double=True, clean_probability=0.2)
    seen, fields = RecordingCollator(), {"per_device_train_batch_size": 2, "gradient_accumulation_steps": 4}
    trainer = make_trainer(model, collator=seen, max_steps=1, **fields)
    expected_model = TokMatForContinuousLM(model.config).double()
    expected_model.load_state_dict(model.state_dict())
    trainer.train()
    batch = {name: part[:8] for name, part in seen.whole().items()}
    seeds = torch.tensor([mix_seed(trainer.args.seed, 0, index) for index in range(8)])
    negatives = torch.randint(97, (16,), generator=torch.Generator().manual_seed(mix_seed(trainer.args.seed, 0)))
    output = expected_model.train()(**batch, maturation_seeds=seeds, negative_ids=negatives)
    logged = trainer.state.log_history[0]
    assert logged["loss"] == pytest.approx(output.loss.item(), rel=1e-4)
    assert logged["regression_loss"] == pytest.approx(output.regression_loss.item(), rel=1e-3)
    assert logged["contrastive_loss"] == pytest.approx(output.contrastive_loss.item(), rel=1e-3)


def test_workers_change_nothing(make_trainer, make_model):
    def losses(workers):
        torch.manual_seed(0)
        trainer = make_trainer(make_model(), dataloader_num_workers=workers, max_steps=3)
        trainer.train()
        return [entry["loss"] for entry in trainer.state.log_history if "loss" in entry]

    assert losses(0) == losses(2)


def test_metrics_are_what_they_are_called(make_trainer, make_model, rows):
    """Accuracy, cosine and slot_acc_k of the first logging step against the outputs of the same forward pass."""
    torch.manual_seed(0)
    model = make_model(clean_probability=0.0, max_tail_length=4)
    with torch.no_grad():  # predictions that are often right: the labels are the ids, so repeat them
        model.head.weight.copy_(torch.eye(32))
    seen, fields = RecordingCollator(), {"per_device_train_batch_size": 32, "learning_rate": 0.0, "slot_metrics": 3}
    trainer = make_trainer(model, collator=seen, max_steps=1, **fields)
    for row in rows:
        row["input_ids"] = [row["input_ids"][0]] * 24
    trainer.train()
    logged = trainer.state.log_history[0]
    batch = seen.batches[0]
    seeds = torch.tensor([mix_seed(trainer.args.seed, 0, index) for index in range(32)])
    with torch.no_grad():
        output = model.train()(**batch, maturation_seeds=seeds)
        tails, weights = simulate_tails(model.config, seeds, batch["labels"], batch["position_ids"])
        weights = weights[:, :-1]  # the last position has no target
        nearest = model.implied_logits(output.predicted_embeds[:, :-1]).argmax(-1)
        cosine = F.cosine_similarity(
            output.predicted_embeds[:, :-1], model.embed_tokens(batch["input_ids"][:, 1:]), dim=-1
        )
    hits, valid = nearest == batch["labels"][:, 1:], weights > 0
    committed = valid & (tails.maturity[:, :-1] == 1)
    assert 0 < logged["accuracy"] == pytest.approx(hits[committed].float().mean().item())
    assert logged["cosine"] == pytest.approx(cosine[committed].mean().item(), rel=1e-4)
    for slot in (1, 2, 3):
        where = valid & (tails.slot[:, 1:] == slot)
        assert logged[f"slot_acc_{slot}"] == pytest.approx(hits[where].float().mean().item())
    assert "slot_acc_4" not in logged


def test_evaluation_reports_what_the_tail_knows(make_trainer, make_model, rows):
    from trainer.evaluation.look_ahead import tail_accuracy

    trainer = make_trainer(make_model(), eval_dataset=rows, tail_metrics=3)
    metrics = trainer.evaluate()
    prompts = [row["input_ids"][:16] for row in rows if list(row["position_ids"][:16]) == list(range(16))][:32]
    expected = tail_accuracy(trainer.tokmat, torch.tensor(prompts), 32, tail_length=3)
    assert {name: metrics[f"eval_{name}"] for name in expected} == expected and len(expected) == 3
    assert not any(
        "tail_acc" in name for name in make_trainer(make_model(), eval_dataset=rows, tail_metrics=0).evaluate()
    )


@pytest.mark.parametrize(
    "fields",
    [
        {"negatives": "uniform"},
        {"negatives": "all", "context_negatives": 1.0},
        {"maturation": "rollout", "parallel_tails": 3, "film_scope": "tail", "rollout_jump": 1},
    ],
)
def test_between_logging_steps_nothing_waits_for_the_device(make_trainer, make_model, fields):
    """Parts of the loss, counts, weights and normalisation stay on the device until they are logged."""
    model, reads, by_step = make_model(**fields), HostReads(), {}
    reads.on_device([*model.parameters(), *model.buffers()])

    def collate(features):
        batch = COLLATOR(features)
        reads.on_device(batch)
        return batch

    class Step(TrainerCallback):
        def on_step_end(self, args, state, control, **kwargs):
            by_step[state.global_step] = dict(reads.found)
            reads.found.clear()

    run = {"max_steps": 4, "gradient_accumulation_steps": 2, "logging_steps": 4, "logging_nan_inf_filter": False}
    with reads:
        make_trainer(model, collator=collate, callbacks=[Step()], per_device_train_batch_size=4, **run).train()
    for step in (2, 3):  # the first checks the weights, the last measures and logs
        ours = {place: count for place, count in by_step[step].items() if not place[0].startswith("transformers/")}
        assert ours.keys() <= ALLOWED_READS.keys(), ours
        assert all(count <= 2 * ALLOWED_READS[place] for place, count in ours.items()), ours  # two micro-batches
        theirs = {name: count for (_, name), count in by_step[step].items() if (_, name) not in ours}
        assert theirs in ({}, {"find_packed_sequence_indices": 2})  # transformers looks for documents in each batch
    assert any(file == "trainer/tokmat_trainer.py" for file, _ in by_step[1]) and len(by_step) == 4


def test_host_reads_are_counted():
    reads, host, device = HostReads(), torch.ones(3), torch.ones(3)
    reads.on_device(device)
    with reads:
        assert (host * 2).sum().item() == 6 and host.tolist() == [1, 1, 1] and not bool((host > 1).any())
        assert not reads.found
        follows = (device * host)[:2].sum()
        follows += host.sum()
        for read in (
            torch.Tensor.item,
            bool,
            float,
            int,
            torch.Tensor.tolist,
            torch.Tensor.numpy,
            torch.Tensor.nonzero,
        ):
            before = reads.found.total()
            read(follows)
            assert reads.found.total() == before + 1, read
        copied = device.cpu()
        assert copied.tolist() == [1, 1, 1] and reads.found.total() == before + 2
        host[device > 0]
        assert reads.found.total() == before + 3
    assert {place for place, _ in reads.found} == {"tests/test_trainer.py"}


def test_evaluation_reports_the_implied_distribution(make_trainer, make_model, rows):
    model = make_model(double=True)
    trainer = make_trainer(model, eval_dataset=rows, per_device_eval_batch_size=5)
    metrics = trainer.evaluate()
    batch = COLLATOR(rows)
    with torch.no_grad():
        logits = model.eval()(**{name: batch[name] for name in ("input_ids", "position_ids")}, use_cache=False).logits
    labels = batch["labels"][:, 1:]
    nll = F.cross_entropy(logits[:, :-1].flatten(0, 1), labels.flatten(), ignore_index=-100)
    assert metrics["eval_perplexity"] == pytest.approx(math.exp(nll), rel=1e-5)
    hits = logits[:, :-1].argmax(-1)[labels != -100] == labels[labels != -100]
    assert metrics["eval_accuracy"] == pytest.approx(hits.double().mean().item())
    assert -1 <= metrics["eval_cosine"] <= 1 and metrics["eval_loss"] > 0
    assert trainer.evaluate()["eval_loss"] == metrics["eval_loss"]


def test_compute_metrics_still_gets_predictions(make_trainer, make_model, rows):
    trainer = make_trainer(make_model(), eval_dataset=rows[:6])
    trainer.compute_metrics = lambda prediction: {"shape": prediction.predictions.shape[-1]}
    assert trainer.evaluate()["eval_shape"] == 97


@pytest.mark.parametrize("cls", [TokMatTrainer, Trainer])
def test_resuming_equals_an_uninterrupted_run(make_trainer, make_model, cls):
    def run(**fields):
        torch.manual_seed(0)
        trainer = make_trainer(
            make_model(), cls=cls, max_steps=6, save_strategy="steps", save_steps=3, seed=5, **fields
        )
        return trainer

    whole = run()
    whole.train()
    first = run()
    first.train(resume_from_checkpoint=f"{first.args.output_dir}/checkpoint-3")
    for (name, expected), weight in zip(
        whole.model.state_dict().items(), first.model.state_dict().values(), strict=True
    ):
        assert torch.equal(weight, expected), name
    for key in ("loss",):
        logs = [[entry[key] for entry in trainer.state.log_history if key in entry] for trainer in (whole, first)]
        assert logs[0] == logs[1]


def test_checkpoints_are_safetensors_and_carry_the_code(make_trainer, make_model, tmp_path):
    trainer = make_trainer(make_model(), save_strategy="steps", save_steps=2)
    trainer.train()
    checkpoint = tmp_path / "run" / "checkpoint-2"
    names = {path.name for path in checkpoint.iterdir()}
    assert {"model.safetensors", "modeling_tokmat.py", "maturation_tokmat.py", "generation_config.json"} < names
    assert json.loads((checkpoint / "config.json").read_text())["auto_map"]["AutoModel"]
    loaded = AutoModelForCausalLM.from_pretrained(checkpoint, trust_remote_code=True)
    for name, weight in trainer.model.state_dict().items():
        assert torch.equal(loaded.state_dict()[name], weight), name


def test_the_plain_trainer_trains_the_same_model(make_trainer, make_model):
    """Per-batch means, averaged over the accumulated micro-batches; and the model learns."""
    torch.manual_seed(0)
    model = make_model(double=True, negatives="all", clean_probability=1.0, regression_weight=0.1)
    keeper = KeepGradients()
    fields = {"per_device_train_batch_size": 2, "max_grad_norm": 0.0, "max_steps": 1, "learning_rate": 0.0}
    seen = RecordingCollator()
    trainer = make_trainer(
        model, cls=Trainer, callbacks=[keeper], gradient_accumulation_steps=4, collator=seen, **fields
    )
    assert trainer.model_accepts_loss_kwargs is False
    trainer.train()
    model.zero_grad()
    losses = [model.train()(**part).loss / 4 for part in seen.batches[:4]]
    sum(losses).backward()
    assert trainer.state.log_history[0]["loss"] == pytest.approx(sum(losses).item(), rel=1e-4)
    for name, weight in model.named_parameters():
        torch.testing.assert_close(keeper.steps[0][name], weight.grad, msg=name)

    learner = make_trainer(make_model(fresh=True, embedding_radius=5.6), cls=Trainer, max_steps=60, learning_rate=1e-2)
    learner.train()
    logged = [entry["loss"] for entry in learner.state.log_history if "loss" in entry]
    assert sum(logged[-5:]) < 0.8 * sum(logged[:5])


def test_unigram_counts_come_from_the_training_data(make_trainer, make_model, rows):
    from datasets import Dataset

    trainer = make_trainer(make_model(negatives="unigram"), train_dataset=Dataset.from_list(rows))
    trainer.train()
    ids = torch.tensor([row["input_ids"] for row in rows]).flatten()
    assert torch.equal(trainer.model.token_counts, torch.bincount(ids, minlength=97).float())


def test_bad_input_is_refused_before_any_step(make_trainer, make_model):
    model = make_model()
    with torch.no_grad():
        model.head.weight[0, 0] = float("nan")
    with pytest.raises(ValueError, match="head.weight"):
        make_trainer(model).train()
    for field, value in (("slot_metrics", 65), ("slot_metrics", -1), ("sample_max_new_tokens", 0)):
        with pytest.raises(ValueError, match=f"`{field}` is {value}"):
            TokMatTrainingArguments(output_dir="unused", **{field: value})


def test_samples_while_training(make_model, tokenizer, rows, tmp_path, capsys):
    arguments = TokMatTrainingArguments(
        output_dir=str(tmp_path), max_steps=2, eval_strategy="steps", eval_steps=1, report_to="none", use_cpu=True,
        sample_prompts=["The fox", "One day the"], sample_max_new_tokens=4, save_strategy="no", disable_tqdm=True,
    )  # fmt: skip
    model = make_model(vocab_size=len(tokenizer))
    trainer = TokMatTrainer(
        model, arguments, train_dataset=rows, eval_dataset=rows[:4], data_collator=COLLATOR, processing_class=tokenizer
    )
    trainer.train()
    samples = [entry["samples"] for entry in trainer.state.log_history if "samples" in entry]
    assert len(samples) == 2 and all(texts[0].startswith("The fox") for texts in samples)
    assert "[step 1] The fox" in capsys.readouterr().out


def test_lora_trains_saves_and_merges(make_model, make_trainer, rows, tmp_path):
    from peft import LoraConfig, PeftModel, get_peft_model

    base = make_model()
    frozen = {name: weight.clone() for name, weight in base.named_parameters()}
    config = LoraConfig(task_type="CAUSAL_LM", target_modules="all-linear", r=4)
    model = get_peft_model(base, config)
    make_trainer(model, max_steps=3, learning_rate=1e-2).train()
    for name, weight in model.get_base_model().named_parameters():
        if "lora" not in name:
            assert torch.equal(weight, frozen[name.replace(".base_layer", "")]), name
    ids = torch.arange(2, 12)[None]
    model.eval()
    expected = model.generate(input_ids=ids, max_new_tokens=6, eos_token_id=None)
    logits = model(input_ids=ids).logits
    model.save_pretrained(tmp_path / "adapter")
    torch.manual_seed(0)
    again = make_model()
    again.load_state_dict(frozen)
    merged = PeftModel.from_pretrained(again, tmp_path / "adapter").merge_and_unload().eval()
    torch.testing.assert_close(merged(ids).logits, logits, atol=1e-4, rtol=1e-4)
    assert torch.equal(merged.generate(ids, max_new_tokens=6, eos_token_id=None), expected)
