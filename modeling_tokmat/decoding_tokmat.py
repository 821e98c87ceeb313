# Copyright 2026 The TokMat authors. Licensed under the Apache License, Version 2.0.
"""One run of the decoding loop: its state, and the steps of Algorithm 1."""

import torch

from .commitment_tokmat import FrontCommit, StableCommit, roll_back, shift
from .maturation_tokmat import (
    DYNAMICS,
    EMBRYO,
    HISTORY,
    committed_vector,
    decoding_noise,
    tail_maturities,
    update_rates,
    update_tail,
)
from .trace_tokmat import look


class LateFlag:
    """A flag on an accelerator that is read a step later: the host then never waits for the device's newest work."""

    def __init__(self, flag: torch.Tensor):
        self.value = flag.to("cpu", non_blocking=True)
        self.copied = None
        if flag.device.type != "cpu":
            self.copied = torch.Event(flag.device.type)
            self.copied.record()

    def __bool__(self) -> bool:
        if self.copied is not None:
            self.copied.synchronize()
        return bool(self.value)


class Run:
    """One call of `_sample`: its state, and the numbered steps of Algorithm 1 as methods."""

    def __init__(self, model, input_ids, logits_processor, stopping_criteria, generation_config, kwargs, streamer):
        self.model, self.config, self.streamer = model, generation_config, streamer
        self.settings = settings = generation_config._maturation_settings
        self.processor, self.criteria = logits_processor, stopping_criteria
        self.cache = kwargs.get("past_key_values") if kwargs.get("use_cache") else None
        new_tokens = generation_config.max_length - input_ids.shape[1]
        self.committed = model._prepare_prompt(input_ids, self.cache, generation_config, kwargs, new_tokens)
        # Slots beyond the last position that a row may feed, (batch, 1), influence nothing.
        self.last_position = self.committed.positions[:, -1:] + max(new_tokens - 1, 0)
        self.batch_size, self.dim = len(self.committed.vectors), self.committed.vectors.shape[-1]
        self.device, self.vocabulary = model.device, model.vocabulary()
        self.radius = self.vocabulary.radius
        self.dtype = torch.promote_types(self.committed.vectors.dtype, torch.float32)

        a = tail_maturities(settings.tail_length, **settings.schedule_settings())
        self.maturity_after, self.maturity_before = a[:-1].float(), a[1:].float().to(self.device)
        self.eta = update_rates(a, settings.rate).to(self.device, self.dtype)
        # 0. the tail is K embryos
        self.tail = self.embryos([0] * self.batch_size, settings.tail_length)
        self.rule = self.make_rule()

        dict_output = generation_config.return_dict_in_generate
        recorded = ("scores", "logits", "attentions", "hidden_states")
        recorded = [name for name in recorded if dict_output and getattr(generation_config, f"output_{name}")]
        self.wanted = {name: () for name in recorded}
        self.trace = () if dict_output and settings.output_maturation else None
        self.pad = generation_config._pad_token_tensor
        self.has_eos = any(hasattr(criterion, "eos_token_id") for criterion in stopping_criteria)
        self.unfinished = torch.ones(self.batch_size, dtype=torch.bool, device=self.device)
        self.told_for = self.change = self.nearest = self.running = None
        # Late, an end is seen one step after it came: that step is taken back, so nothing may have looked at it.
        self.late, self.overrun = self.accelerated() and not dict_output and streamer is None and self.rule.lockstep, 0
        self.finished, self.steps, self.num_forwards, self.streamed = False, 0, 0, 0

        self.forward_kwargs = {
            name: True for name in ("output_attentions", "output_hidden_states") if kwargs.get(name)
        }
        # Logits are wanted of updated slots alone, not of the positions that forward returns.
        self.forward_kwargs |= {"logits_to_keep": torch.empty(0, dtype=torch.long, device=self.device)}
        self.forward_kwargs |= {"use_cache": self.cache is not None, "past_key_values": self.cache}
        compiled = model._valid_auto_compile_criteria(kwargs, generation_config)
        self.compiled = model.get_compiled_call(generation_config.compile_config) if compiled else None
        for vectors, positions, mask in self.committed.chunks(generation_config.prefill_chunk_size):
            self.forward(vectors, model.conditions(None, self.told_length()), positions, mask)

    def accelerated(self) -> bool:
        return self.device.type != "cpu"

    def told_length(self) -> int:
        """The tail length that committed positions are told."""
        return self.settings.tail_length

    def make_rule(self):
        settings = self.settings
        if settings.commit == "front":
            return FrontCommit()
        patience = settings.stability_tolerance, settings.max_refinements
        return StableCommit(self.batch_size, settings.tail_length, *patience, self.device)

    def forward(self, vectors, conditions, positions, mask, compiled=False):
        self.num_forwards += 1
        return (self.compiled if compiled else self.model)(
            inputs_embeds=vectors,
            conditions=conditions,
            position_ids=positions,
            attention_mask=mask,
            **self.forward_kwargs,
        )

    def nearest_tokens(self, vectors: torch.Tensor) -> torch.Tensor:
        """argmax_i <z, e_i> (Eq. 5), (batch, slots, d) -> (batch, slots)."""
        return self.vocabulary.nearest(vectors)

    # -- noise -----------------------------------------------------------------------------------------------------

    def noise(self, stream: int, positions: list[list[int]], norm: float, step: int = 0) -> torch.Tensor:
        """Noise for generated positions per row, shape (batch, n, d)."""
        if norm == 0:
            return torch.zeros(len(positions), len(positions[0]), self.dim, dtype=self.dtype, device=self.device)
        seed, several, drawn = self.settings.maturation_seed, self.config.num_return_sequences, {}
        for row, places in enumerate(positions):
            for place in places:  # return sequences of one prompt lie next to one another
                key = (row % several, place)
                if key not in drawn:
                    drawn[key] = decoding_noise(seed, stream, *key, step, self.dim, norm, self.dtype)
        rows = [torch.stack([drawn[row % several, place] for place in places]) for row, places in enumerate(positions)]
        return torch.stack(rows).to(self.device)

    def embryos(self, first: list[int], count: int) -> torch.Tensor:
        positions = [list(range(place, place + count)) for place in first]
        return self.noise(EMBRYO, positions, self.settings.embryo_norm * self.radius)

    # -- 1. read -----------------------------------------------------------------------------------------------------

    def read(self) -> torch.Tensor:
        """z^ of the slots within the length limit, (batch, slots, d)."""
        committed, settings = self.committed, self.settings
        remaining = committed.new_tokens - min(committed.counts)
        self.fed = max(min(settings.tail_length, remaining), 1) - 1
        fed, own = self.fed, committed.vectors.shape[1]
        copies = 2 if settings.guidance_scale != 1 and fed > 0 else 1
        tail = self.tail[:, :fed].to(committed.vectors.dtype)
        slots = committed.positions[:, -1:] + torch.arange(1, fed + 1, device=self.device)
        slots = slots.clamp(max=self.last_position)
        if (own, fed, copies) != self.told_for:
            told = torch.cat([self.maturity_before.new_ones(own), *[self.maturity_before[:fed]] * copies])
            self.told_for, self.told = (own, fed, copies), self.model.conditions(told[None], settings.tail_length)
        mask = committed.attention_mask(fed) if copies == 1 else self.guidance_mask(own, fed)
        self.outputs = self.forward(
            torch.cat([committed.vectors, *[tail] * copies], dim=1),
            self.told,
            torch.cat([committed.positions, *[slots] * copies], dim=1),
            mask,
            compiled=self.compiled is not None and self.steps > 0 and fed == settings.tail_length - 1 and own == 1,
        )
        self.slots_fed = copies * fed
        predicted = self.outputs.predicted_embeds[:, own - 1 : own + fed].to(self.dtype)
        if copies == 2:
            # Slot 1 is predicted from a committed position, so guidance leaves it alone.
            alone = self.outputs.predicted_embeds[:, own + fed :].to(self.dtype)
            guided = alone + settings.guidance_scale * (predicted[:, 1:] - alone)
            predicted = torch.cat([predicted[:, :1], guided], dim=1)
        if self.steps == 0:
            self.check_finite(predicted)
        return predicted

    def guidance_mask(self, own: int, fed: int) -> torch.Tensor:
        """Mask of [cache ; committed ; tail ; copy of the tail]: the copy sees the copy alone."""
        length = own + 2 * fed
        rows = torch.arange(length, device=self.device)[:, None]
        alone, copied = rows >= own + fed, torch.arange(length, device=self.device) >= own + fed
        return self.float_mask((rows.T <= rows) & (~alone | copied), 2 * fed, ~alone)

    def float_mask(self, allowed: torch.Tensor, slots: int, history: torch.Tensor | None = None) -> torch.Tensor:
        """Float additive mask (batch, 1, n, columns) of a pass over n = committed vectors + slots.

        Args:
            allowed: which positions of the pass see which, (n, n). slots: how many of them are slots.
            history: which positions see the cache, (n, 1); all of them if not given.
        """
        visible = self.committed.attention_mask(slots)
        past = int(self.cache.get_seq_length()) if self.cache is not None else 0
        length = len(allowed)
        whole = torch.nn.functional.pad(allowed, (past, 0), value=True)[None]
        if history is not None:
            whole[..., :past] &= history
        if visible is not None:
            # Positions in padding would see nothing; they may see themselves, since nothing reads them.
            columns = torch.arange(past + length, device=self.device)
            itself = columns == columns[past:, None]
            whole = (whole & visible[:, None]) | itself
        if self.cache is not None and self.cache.is_compileable:
            whole = torch.nn.functional.pad(whole, (0, self.cache.get_max_length() - whole.shape[-1]))
        dtype = self.model.dtype
        blocked = torch.finfo(dtype).min
        return torch.zeros(whole.shape, dtype=dtype, device=self.device).masked_fill(~whole, blocked)[:, None]

    def forget(self) -> None:
        """Undo a pass that only kept other ranks company."""
        roll_back(self.cache, self.slots_fed + self.committed.vectors.shape[1])

    def check_finite(self, predicted: torch.Tensor) -> None:
        if not bool(predicted.isfinite().all()):
            broken = (name for name, weight in self.model.named_parameters() if not bool(weight.isfinite().all()))
            found = next(broken, None)
            raise ValueError(
                f"The predicted vectors are not finite: `{found}` holds NaN or infinite values."
                if found
                else "The predicted vectors are not finite, though all weights are: the prompt's activations overflow."
            )

    # -- 2. update ---------------------------------------------------------------------------------------------------

    def update(self, predicted: torch.Tensor) -> None:
        settings, slots = self.settings, predicted.shape[1]
        eta = self.eta[:slots]
        before = self.tail[:, :slots]
        after = update_tail(before, predicted, eta, settings.direction_rate)
        if settings.dynamics_noise > 0:
            places = [list(range(count, count + slots)) for count in self.committed.counts]
            noise = self.noise(DYNAMICS, places, settings.dynamics_noise * self.radius, self.steps)
            after = after + eta[:, None] * noise
        if not self.rule.lockstep or self.trace is not None:
            self.change = (after - before).norm(dim=-1) / self.radius
        # One projection for all slots that this step may commit.
        self.logits = self.vocabulary.scores(after[:, :1] if self.rule.lockstep else after)
        self.nearest = None if self.rule.lockstep else self.logits.argmax(dim=-1)
        self.tail = torch.cat([after, self.tail[:, slots:]], dim=1)

    # -- 3. commit ---------------------------------------------------------------------------------------------------

    def commit(self) -> tuple[list[int], list[torch.Tensor]]:
        """Commit slots; how many per row, and the vectors (batch, d) that take their places."""
        committed, rule, vectors = self.committed, self.rule, []
        start, slot = list(committed.counts), 0
        previous = committed.last_vector
        active = torch.ones_like(self.unfinished) if rule.lockstep else self.unfinished
        rows = rule.first(active, self.change, self.nearest)
        while True:
            taking = [True] * self.batch_size if rule.lockstep else rows.tolist()
            if not any(taking):
                break
            tokens, scores, logits = self.choose(self.logits[:, slot].to(self.dtype), rows)
            committed.write(tokens, taking)
            previous = self.vector_of(tokens, previous)
            vectors.append(previous)
            self.record(scores, logits, taking)
            self.stop(rows)
            slot += 1
            if rule.lockstep or slot > self.fed:
                break
            rows = rule.further(slot - 1, tokens, rows) & self.unfinished
        counts = [now - then for now, then in zip(committed.counts, start)]
        if self.trace is not None:
            self.look(start, counts)
        return counts, vectors

    def choose(self, logits: torch.Tensor, rows: torch.Tensor):
        """argmax of the processed implied logits (batch, V); processors see each row at its own length."""
        scores = self.by_length(lambda ids: self.processor(ids, logits.clone()), rows, logits)
        tokens = scores.argmax(dim=-1)
        if self.has_eos and self.rule.lockstep:
            tokens = torch.where(self.unfinished, tokens, self.pad.to(tokens))
        return tokens, scores, logits

    def by_length(self, function, rows, default):
        """function(ids of one length) for each length that occurs; row r of the result is taken at r's own length."""
        committed = self.committed
        if self.rule.lockstep or self.batch_size == 1:
            return function(committed.ids[:, : committed.length(0)])
        result = default.clone()
        lengths = [committed.length(row) if takes else -1 for row, takes in enumerate(rows.tolist())]
        for length in sorted(set(lengths) - {-1}):
            here = torch.tensor([other == length for other in lengths], device=self.device)
            values = function(committed.ids[:, :length])
            result = torch.where(here.view(-1, *[1] * (values.dim() - 1)), values, result)
        return result

    def vector_of(self, tokens: torch.Tensor, previous: torch.Tensor) -> torch.Tensor:
        """The vectors that tokens just written are committed as, (batch, d)."""
        settings, noise = self.settings, None
        embedding = self.vocabulary.embed(tokens)
        if settings.history_noise > 0:
            places = [[count - 1] for count in self.committed.counts]
            noise = self.noise(HISTORY, places, settings.history_noise * self.radius)[:, 0]
        return committed_vector(embedding, previous, self.radius, settings.history_smoothing, noise)

    def record(self, scores, logits, taking: list[bool]) -> None:
        for name, value in (("scores", scores), ("logits", logits)):
            if name in self.wanted:
                kept = list(self.wanted[name])
                for row, takes in enumerate(taking):
                    place = self.committed.counts[row] - 1
                    if takes:
                        kept += [value.clone()] if place == len(kept) else []
                        kept[place][row] = value[row]
                self.wanted[name] = tuple(kept)

    def stop(self, rows: torch.Tensor) -> None:
        scores = self.wanted.get("scores")
        done = self.by_length(lambda ids: self.criteria(ids, scores), rows, torch.zeros_like(self.unfinished))
        self.unfinished = self.unfinished & ~(done & rows)
        if not self.late:
            self.finished = not bool(self.unfinished.any())
            return
        before, self.running = self.running, LateFlag(self.unfinished.any())
        self.overrun = int(before is not None and not before)
        self.finished = self.overrun > 0 or self.committed.counts[0] == self.committed.new_tokens

    def look(self, start: list[int], counts: list[int]) -> None:
        model, vectors = self.vocabulary, self.settings.output_maturation == "vectors"
        slots = self.change.shape[1]
        tail = self.tail[:, :slots]
        cosines = model.scores(tail).float() / model.logit_scale
        nearest = model.embed(cosines.argmax(-1)).to(tail)
        scale, maturity = model.logit_scale, self.maturity_after[:slots]
        step = look(tail, cosines, nearest, self.change, maturity, self.radius, scale)
        step["position"], step["committed"] = torch.tensor(start), torch.tensor(counts)
        step["vectors"] = tail.cpu() if vectors else None
        self.trace += (step,)

    # -- 4. move up --------------------------------------------------------------------------------------------------

    def move_up(self, counts: list[int], vectors: list[torch.Tensor]) -> None:
        committed, length = self.committed, self.tail.shape[1]
        for name in ("attentions", "hidden_states"):
            if name in self.wanted:
                self.wanted[name] += (getattr(self.outputs, name),)
        self.take_in(counts, vectors)
        longest = max(counts)
        if longest > 0:
            entering = self.embryos([now - count + length for now, count in zip(committed.counts, counts)], longest)
            if min(counts) == longest:
                self.tail = torch.cat([self.tail, entering], dim=1)[:, longest:]
            else:
                self.tail = shift(self.tail, entering, torch.tensor(counts, device=self.device))
        self.look_ahead(counts)
        self.steps += 1
        if self.streamer is not None:
            self.stream()

    def take_in(self, counts: list[int], vectors: list[torch.Tensor]) -> None:
        self.committed.fed(self.slots_fed, counts, vectors)
        if not self.rule.lockstep:
            self.rule.shift(torch.tensor(counts, device=self.device))

    def look_ahead(self, counts: list[int]) -> None:
        """What a step found out about the slots behind those it committed; nothing under the rules that update all."""

    def stream(self) -> None:
        committed = self.committed
        # Rows that are not in step reach the streamer token by token all the same: as soon as all of them have one.
        running = self.unfinished.tolist() if not self.rule.lockstep else [True] * self.batch_size
        ready = min((count for count, runs in zip(committed.counts, running) if runs), default=max(committed.counts))
        for place in range(self.streamed, ready):
            self.streamer.put(committed.ids[:, committed.prompt_length + place].cpu())
        self.streamed = max(ready, self.streamed)
        if hasattr(self.streamer, "put_draft"):
            remaining = committed.new_tokens - min(committed.counts)
            slots = min(self.settings.tail_length - 1, max(remaining, 0))
            draft = self.nearest_tokens(self.tail[:, :slots])
            self.streamer.put_draft(draft.cpu(), maturity=self.maturity_after[1 : slots + 1])

    def ids(self) -> torch.Tensor:
        """Prompt and committed ids, (batch, length), padded on the right where a row stopped early."""
        length = self.committed.prompt_length + max(self.committed.counts) - self.overrun
        return self.committed.ids[:, :length]

    def result(self) -> dict:
        """Fields of [`TokMatGenerateOutput`]."""
        return {
            "sequences": self.ids(),
            "past_key_values": self.cache,
            "num_forwards": self.num_forwards,
            "tokens_per_forward": sum(self.committed.counts) / self.batch_size / self.num_forwards,
            "maturation": self.trace,
            **self.wanted,
        }
