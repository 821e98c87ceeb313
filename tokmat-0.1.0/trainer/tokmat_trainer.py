# Copyright 2026 The TokMat authors. Licensed under the Apache License, Version 2.0.
"""TokMatTrainer: the Trainer with reproducible maturation, exact normalisation and the method's metrics."""

import itertools
import math
from collections import defaultdict
from pathlib import Path

import torch
import torch.nn.functional as F
from torch.utils.data import IterableDataset

from modeling_tokmat.checks_tokmat import require
from modeling_tokmat.losses_tokmat import Reference, document_index, info_nce
from modeling_tokmat.maturation_tokmat import mix_seed
from modeling_tokmat.training_tokmat import loss_weights, simulate_tails

from .callbacks import SampleCallback
from .cards import CardOptions, write_card
from .data import count_tokens
from .evaluation.look_ahead import tail_accuracy
from .guarded_trainer import GuardedTrainer
from .hub import has_card
from .lora import TARGETS  # noqa: F401, with it PEFT has a default for TokMat
from .training_args import TokMatTrainingArguments, refuse_other_losses

PER_ROW = ("position_ids", "attention_mask", "tail_only")  # what says which predictions count
TAIL_PROMPTS, TAIL_PROMPT_TOKENS, TAIL_NEW_TOKENS = 32, 16, 32  # for tail_acc_k
LOSS_PARTS = ("regression_loss", "contrastive_loss", "successor_loss")
PROJECTED_AT_ONCE = 256  # positions whose scores over the vocabulary are held at a time, for the metrics


class TokMatTrainer(GuardedTrainer):
    """
    Trains a `TokMatForContinuousLM` (or a PEFT model around one). Beyond `GuardedTrainer`:

    - every simulated tail is a function of (seed, global step, index in the global batch), and one set of negatives a
      function of (seed, global step): neither data-loader workers nor the split into micro-batches change them
      (`negatives="batch"` draws from the first micro-batch of each rank, and so does depend on the split);
    - the loss is normalised by the summed maturity weights of the whole accumulated batch, over all ranks;
    - `regression_loss`, `contrastive_loss` are logged beside `loss`, and at logging steps, from that step's last
      micro-batch, `accuracy` and `cosine` at maturity 1 and `slot_acc_k` (argmax of z^_k against the label);
    - evaluation reports `eval_loss` on committed positions, and `eval_perplexity`, `eval_accuracy`, `eval_cosine` of
      the implied distribution, exact over the vocabulary whatever the negatives, and `eval_tail_acc_k` of front
      commits (see `trainer.evaluation.look_ahead.tail_accuracy`; not of streams, nor of sharded models).

    Args:
        model: a `TokMatForContinuousLM`, bare or wrapped by PEFT.
        args: the [`TokMatTrainingArguments`]; those of `output_dir="tokmat-output"` if not given.
        reference: a frozen `TokMatForContinuousLM`, which rows of own text follow, without what it repeats
            (`TokMatConfig.phrase_penalty`); all rows with `reference_rows="all"`.
        kwargs: as for `transformers.Trainer`.

    Raises:
        ValueError: for weights that are not finite, before any step, and for a loss that is not; for a reference of
            another vocabulary, or without a `phrase_penalty`.
    """

    args: TokMatTrainingArguments
    loss_is_scaled_for_ga = True

    def __init__(self, model=None, args: TokMatTrainingArguments | None = None, reference=None, **kwargs):
        args = TokMatTrainingArguments(output_dir="tokmat-output") if args is None else args
        refuse_other_losses(args, kwargs.get("compute_loss_func"))
        super().__init__(model=model, args=args, **kwargs)
        self.reference = reference
        if reference is not None:
            nats = self.tokmat.config.phrase_penalty
            require(nats > 0, "phrase_penalty", nats, "above 0 where there is a reference")
            own, size = self.tokmat.config.vocab_size, reference.config.vocab_size
            require(own == size, "reference", f"a model of {size:,} tokens", f"one of the model's {own:,}")
            self.reference = reference.to(self.args.device).eval().requires_grad_(False)
        self.model_accepts_loss_kwargs = True  # `compute_loss` below normalises by num_items_in_batch
        self._sums = defaultdict(float)
        self._eval_sums = defaultdict(float)
        if args.sample_prompts:
            self.add_callback(SampleCallback(self.processing_class, args.sample_prompts, args.sample_max_new_tokens))

    @property
    def tokmat(self):
        """The `TokMatForContinuousLM` itself, out of DDP, FSDP and PEFT wrappers."""
        model = self.accelerator.unwrap_model(self.model)
        return model.get_base_model() if hasattr(model, "get_base_model") else model

    def create_model_card(self, language=None, license=None, dataset=None, **kwargs):
        """A card in the output folder, where nobody wrote one: `language`, `license`, `dataset` (names), and what is
        known of the run. Other fields of transformers' cards (`kwargs`) are left out."""
        folder = Path(str(self.args.output_dir))
        if self.is_world_process_zero() and not has_card(folder):
            datasets = [dataset] if isinstance(dataset, str) else list(dataset or [])
            known = {"repo_id": self.hub_model_id, "language": language, "license": license, "datasets": datasets}
            write_card(folder, CardOptions(**known, sample=False))

    def train(self, *args, **kwargs):
        broken = [name for name, weight in self.model.named_parameters() if not bool(weight.isfinite().all())]
        require(not broken, "model", f"one with NaN or infinite values in {broken[:3]}", "one with finite weights")
        if self.tokmat.token_counts is not None and not bool(self.tokmat.token_counts.any()):
            streaming = isinstance(self.train_dataset, IterableDataset)
            allowed = "set with `model.set_token_counts` when the training data is streamed"
            require(not streaming, "token_counts", None, allowed)
            self.tokmat.set_token_counts(count_tokens(self.train_dataset, self.tokmat.config.vocab_size))
        return super().train(*args, **kwargs)

    # -- one optimizer step: seeds, negatives, normalisation ----------------------------------------------------------

    def get_batch_samples(self, epoch_iterator, num_batches, device):
        batches = []
        for _ in range(num_batches):
            batch = next(epoch_iterator, None)
            if batch is None:
                break
            batches.append(self._prepare_inputs(batch))
        step, seed = self.state.global_step, self.args.seed
        self._sums["steps"] += 1
        total = torch.zeros((), device=device)
        negatives = None
        for number, batch in enumerate(batches):
            labels = batch["labels"]
            first = (number * self.args.world_size + self.args.process_index) * self.args.train_batch_size
            seeds = torch.tensor([mix_seed(seed, step, first + row) for row in range(len(labels))])
            per_row = {name: batch.get(name) for name in PER_ROW}
            tails, weights = simulate_tails(self.tokmat.config, seeds, labels, **per_row)
            total += weights.sum()
            # A model that transformers splits over several GPUs by rows draws them again, by seed.
            batch |= {"tails": tails} if self.args.n_gpu <= 1 else {"maturation_seeds": seeds}
            if negatives is None:
                generator = torch.Generator().manual_seed(mix_seed(seed, step))
                negatives = self.tokmat.draw_negatives(labels, generator)
            batch["negative_ids"] = negatives
        if self.args.world_size > 1:
            total = self.accelerator.gather(total).sum()
        return batches, total.clamp(min=1e-6)

    @torch.no_grad()
    def _of_the_reference(self, inputs, rows) -> Reference:
        """What the reference predicts in these rows."""
        names = ("input_ids", "attention_mask", "position_ids")
        given = {name: inputs[name][rows] for name in names if inputs.get(name) is not None}
        nothing = torch.empty(0, dtype=torch.long, device=rows.device)
        predicted = self.reference(**given, use_cache=False, logits_to_keep=nothing).predicted_embeds
        vocabulary = self.reference.vocabulary()
        keys, sharpness = vocabulary.keys(predicted.dtype), self.args.reference_sharpness
        return Reference(vocabulary.queries(predicted), keys, vocabulary.scale, vocabulary.bias, sharpness, rows)

    def compute_loss(self, model, inputs, return_outputs=False, num_items_in_batch=None):
        if self.reference is not None and inputs.get("tail_only") is not None:
            own = inputs["tail_only"]
            rows = torch.ones_like(own) if self.args.reference_rows == "all" else own
            follows = {"reference": self._of_the_reference(inputs, rows)} if bool(rows.any()) else {"tail_only": None}
            inputs = inputs | follows
        outputs = model(**inputs, num_items_in_batch=num_items_in_batch)
        loss = outputs["loss"]
        if model.training:
            # Ranks average their gradients, but the divisor already spans them all.
            scale = self.accelerator.num_processes
            loss = loss * scale
            for name in LOSS_PARTS:
                if outputs.get(name) is not None:
                    self._sums[name] += outputs[name].detach() * scale
            if self._logs_this_step() and self.accelerator.sync_gradients:
                self._measure(inputs, outputs["predicted_embeds"].detach())
        return (loss, outputs) if return_outputs else loss

    def _logs_this_step(self) -> bool:
        step = self.state.global_step + 1
        due = self.args.logging_strategy == "steps" and step % max(int(self.state.logging_steps), 1) == 0
        return due or (step == 1 and self.args.logging_first_step) or step == self.state.max_steps

    @torch.no_grad()
    def _measure(self, inputs, predicted) -> None:
        """Counts for accuracy, cosine and slot_acc_k, kept on the device until they are logged."""
        tails = inputs.get("tails")
        if tails is not None:
            for name, (values, where) in self._measures(inputs, tails, predicted).items():
                self._sums[name, "sum"] += (values * where).sum()
                self._sums[name, "count"] += where.sum()

    def _measures(self, inputs, tails, predicted) -> dict[str, tuple[torch.Tensor, torch.Tensor]]:
        """Accuracy and cosine at committed positions and the accuracy of slots: values, and where they count."""
        documents, tail_only, model = tails.documents, inputs.get("tail_only"), self.tokmat
        weights = loss_weights(inputs["labels"], documents, tails, tail_only, model.config)
        targets = tails.at_place(F.pad(inputs["labels"][:, 1:], (0, 1)).clamp(min=0))
        valid, vocabulary = weights > 0, model.vocabulary()
        if model.successor is not None:  # as a draft is read off: the token before it is known
            previous = tails.at_place(model.embed_tokens(inputs["input_ids"]))
            predicted = model.successor(predicted, previous, vocabulary.radius)
        hits = vocabulary.nearest(predicted, PROJECTED_AT_ONCE) == targets
        slots = range(1, self.args.slot_metrics + 1)
        measures = {f"slot_acc_{slot}": (hits, valid & (tails.predicted_slot == slot)) for slot in slots}
        if tails.lead:
            committed = valid & (tails.slot == 0)
            as_inputs, embeddings = vocabulary.as_inputs(predicted).float(), vocabulary.embed(targets).float()
            cosine = F.cosine_similarity(as_inputs, embeddings, dim=-1)
            measures |= {"accuracy": (hits, committed), "cosine": (cosine, committed)}
        return measures

    def log(self, logs, start_time=None):
        if "loss" in logs:
            steps = max(self._sums["steps"], 1)
            for name in LOSS_PARTS:
                if name in self._sums:
                    logs[name] = float(self._reduce(self._sums[name], "mean")) / steps
            for name in [key[0] for key in self._sums if isinstance(key, tuple) and key[1] == "sum"]:
                total = float(self._reduce(self._sums[name, "sum"]))
                count = float(self._reduce(self._sums[name, "count"]))
                if count > 0:
                    logs[name] = total / count
            self._sums.clear()
        super().log(logs, start_time)

    def _reduce(self, value, how="sum"):
        return self.accelerator.reduce(value, reduction=how) if self.args.world_size > 1 else value

    # -- evaluation ---------------------------------------------------------------------------------------------------

    def prediction_step(self, model, inputs, prediction_loss_only, ignore_keys=None):
        if not prediction_loss_only and self.compute_metrics is not None:
            return super().prediction_step(model, inputs, prediction_loss_only, ignore_keys)
        inputs = self._prepare_inputs(inputs)
        # Logits of every position would be gathered over the whole evaluation set.
        none = torch.empty(0, dtype=torch.long, device=inputs["labels"].device)
        alone = self.tokmat.config.train == "tail"  # its front is the source's, which needs no evaluation
        with torch.no_grad(), self.compute_loss_context_manager():
            if alone:
                per_row, seeds = {name: inputs.get(name) for name in PER_ROW}, torch.arange(len(inputs["labels"]))
                inputs["tails"], _ = simulate_tails(self.tokmat.config, seeds, inputs["labels"], **per_row)
            outputs = model(**inputs, logits_to_keep=none)
            (self._evaluate_tails if alone else self._evaluate_batch)(inputs, outputs["predicted_embeds"])
        return outputs["loss"].detach(), None, None

    def _evaluate_batch(self, inputs, predicted) -> None:
        model, labels = self.tokmat, inputs["labels"]
        given = inputs.get("position_ids"), inputs.get("attention_mask")
        documents = document_index(*given, labels.shape, labels.device)
        weights, targets = loss_weights(labels, documents), F.pad(labels[:, 1:], (0, 1)).clamp(min=0)
        vocabulary, size = model.vocabulary(), model.config.vocab_size
        keys, queries = vocabulary.keys(predicted.dtype), vocabulary.queries(predicted)
        as_inputs = vocabulary.as_inputs(predicted).float()
        values = {
            "nll": info_nce(queries, targets, keys, vocabulary.scale, size, bias=vocabulary.bias),
            "accuracy": vocabulary.nearest(predicted, PROJECTED_AT_ONCE) == targets,
            "cosine": F.cosine_similarity(as_inputs, vocabulary.embed(targets).float(), dim=-1),
            "count": torch.ones_like(weights),
        }
        by_row = torch.stack([(value * weights).sum(dim=1) for value in values.values()], dim=1)
        # Ranks are given rows twice where the data does not divide among them: those are left out.
        for name, total in zip(values, self.accelerator.gather_for_metrics(by_row).sum(dim=0)):
            self._eval_sums[name] += total

    def _evaluate_tails(self, inputs, predicted) -> None:
        for name, (values, where) in self._measures(inputs, inputs["tails"], predicted).items():
            both = torch.stack([(values * where).sum(dim=1), where.sum(dim=1)], dim=1).float()
            total, count = self.accelerator.gather_for_metrics(both).sum(dim=0)
            self._eval_sums[name, "sum"] += total
            self._eval_sums[name, "count"] += count

    def evaluation_loop(
        self, dataloader, description, prediction_loss_only=None, ignore_keys=None, metric_key_prefix="eval"
    ):
        self._eval_sums.clear()
        output = super().evaluation_loop(
            dataloader, description, prediction_loss_only, ignore_keys, metric_key_prefix=metric_key_prefix
        )
        sums = {name: float(value) for name, value in self._eval_sums.items()}
        for name in [key[0] for key in sums if isinstance(key, tuple) and key[1] == "sum"]:
            output.metrics[f"{metric_key_prefix}_{name}"] = sums[name, "sum"] / max(sums[name, "count"], 1)
        if sums.get("count"):
            means = {name: sums[name] / sums["count"] for name in ("nll", "accuracy", "cosine")}
            means["perplexity"] = math.exp(min(means.pop("nll"), 700.0))
            means |= self._tail_accuracy(dataloader.dataset)
            output.metrics.update({f"{metric_key_prefix}_{name}": value for name, value in means.items()})
        return output

    def _tail_accuracy(self, dataset) -> dict[str, float]:
        """`tail_acc_k` on beginnings of rows that hold no document's end there."""
        sharded = self.is_fsdp_enabled or self.is_deepspeed_enabled
        if self.args.tail_metrics == 0 or sharded or isinstance(dataset, IterableDataset):
            return {}
        prompts = []
        for row in itertools.islice(dataset, 4 * TAIL_PROMPTS):
            places = row.get("position_ids", range(len(row["input_ids"])))[:TAIL_PROMPT_TOKENS]
            if list(places) == list(range(TAIL_PROMPT_TOKENS)) and len(prompts) < TAIL_PROMPTS:
                prompts.append(torch.as_tensor(row["input_ids"][:TAIL_PROMPT_TOKENS]))
        limit = self.tokmat.config.max_position_embeddings
        new_tokens = TAIL_NEW_TOKENS if limit is None else min(TAIL_NEW_TOKENS, limit - TAIL_PROMPT_TOKENS)
        if not prompts or new_tokens < 1:
            return {}
        ids = torch.stack(prompts).to(self.tokmat.device)
        with self.compute_loss_context_manager():
            return tail_accuracy(self.tokmat, ids, new_tokens, tail_length=self.args.tail_metrics)
