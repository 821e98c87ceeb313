# Copyright 2026 The TokMat authors. Licensed under the Apache License, Version 2.0.
"""Algorithm 1: the decoding loop, what it runs on and what ends it."""

import math

import torch
from transformers.utils import ModelOutput

from .committed_tokmat import Committed
from .inputs_tokmat import CACHE
from .maturation_tokmat import committed_vector
from .noise_tokmat import DecodingNoise
from .tail_tokmat import Feed, Tail
from .trace_tokmat import Record, Stream

AMPLIFYING = ("guidance_scale", "embryo_norm", "history_noise", "dynamics_noise", "direction_rate")


def decode(
    network: "Network",
    committed: Committed,
    tail: Tail,
    noise: DecodingNoise,
    processor,
    ending: "Ending",
    record: Record,
    stream: Stream,
    goes_on,
) -> None:
    r"""
    Algorithm 1. With a_j the maturity that slot j has after an update and eta_j its rate:

        0. the tail is K embryos
        repeat
        1. read [committed ; tail] with maturities [1 .. 1, a_2 .. a_{K+1}], giving z^_1 .. z^_K
        2. guide them, and z~_j <- z~_j + eta_j (z^_j - z~_j) for every slot
        3. commit slot 1: x = argmax_i of the processed logit_scale * cos(z~_1, e_i);
           other rules than "front" commit none, or more slots in the same way
        4. its place takes e_x, the tail moves up by what was committed, embryos enter at its end

    Keys and values of committed positions are cached, so a step feeds K positions: the vector committed last and
    slots 1 .. K - 1 (nothing reads slot K). Slots at or beyond the length limit are not fed.

    Args:
        processor: (ids, scores) -> scores, both of one length. goes_on: whether this rank's being finished ends the
            loop; others may need its company in their passes.
    """
    network.prefill(committed, tail)
    while goes_on(ending.finished):
        # 1. read [committed ; tail]
        fed = tail.feed(committed)
        predicted = network.read(committed, fed, steady=tail.steps > 0)
        if ending.finished:  # this pass only kept other ranks company
            committed.forget(fed.vectors.shape[1])
            continue
        # 2. move every slot toward its prediction
        tail.update(predicted)
        # 3. commit
        start, rows, tokens, vectors = list(committed.counts), ending.unfinished, None, []
        previous = committed.last_vector
        for slot in range(tail.candidates):
            rows = tail.accepts(slot, rows, tokens)
            taking = [True] * len(start) if tail.lockstep else rows.tolist()
            if not any(taking):
                break
            logits = tail.logits_of(slot).to(noise.dtype)
            scores = committed.by_length(lambda ids, logits=logits: processor(ids, logits.clone()), taking)
            tokens = ending.fill(scores.argmax(dim=-1))
            committed.write(tokens, taking)
            previous = vector_of(tokens, previous, tail, noise, committed.counts)
            vectors.append(previous)
            record.token(scores, logits, taking, committed.counts)
            ending.check(committed, rows, taking, record.scores, logits, tokens)
            rows = rows & ending.unfinished
        counts = [now - then for now, then in zip(committed.counts, start)]
        record.step(network.outputs, tail, start, counts)
        # 4. committed slots become exact embeddings, the tail moves up, embryos enter
        committed.advance(fed.vectors.shape[1], counts, vectors, tail.fed_right())
        tail.move_up(counts, committed)
        stream.put(committed, tail, ending.running)
    ending.close(committed)
    stream.end()


def vector_of(tokens, previous, tail: Tail, noise: DecodingNoise, counts: list[int]) -> torch.Tensor:
    """The vectors that tokens just written are committed as, (batch, d); counts[r] is how many row r has by now."""
    vocabulary, settings = tail.vocabulary, tail.settings
    perturbation = noise.of_history([count - 1 for count in counts]) if settings.history_noise > 0 else None
    embedding = vocabulary.embed(tokens)
    return committed_vector(embedding, previous, vocabulary.radius, settings.history_smoothing, perturbation)


class Network:
    """
    The model as decoding calls it: passes over vectors, counted.

    Args:
        cache: of transformers, or None. dtype: of predictions. chunk_size: of the prompt, None for all at once.
        compiled: what runs passes of the usual shape, or None. outputs: names of what the backbone should tell.
    """

    def __init__(self, model, cache, dtype: torch.dtype, chunk_size=None, compiled=None, outputs=()):
        self.model, self.dtype, self.chunk_size, self.compiled = model, dtype, chunk_size, compiled
        self.num_forwards = 0
        self.outputs: ModelOutput | None = None  # of the last pass
        # Logits are wanted of updated slots alone, not of the positions that forward returns.
        none = torch.empty(0, dtype=torch.long, device=model.device)
        self.arguments = {CACHE: cache, "use_cache": cache is not None, "logits_to_keep": none}
        self.arguments |= {name: True for name in outputs}

    def prefill(self, committed: Committed, tail: Tail) -> None:
        """Cache the prompt, but for what the first step reads."""
        for vectors, positions, mask in committed.chunks(self.chunk_size):
            self._forward(self.model, vectors, positions, self.model.conditions(None, tail.told_length), mask)

    def read(self, committed: Committed, fed: Feed, steady: bool) -> torch.Tensor:
        """What is predicted at the last committed vector and at everything fed after it, (batch, 1 + slots, d).

        `steady`: not the first pass, whose shape does not recur.
        """
        call = self.compiled if self.compiled is not None and steady and fed.usual else self.model
        vectors = torch.cat([committed.vectors, fed.vectors], dim=1)
        positions = torch.cat([committed.positions, fed.positions], dim=1)
        outputs = self.outputs = self._forward(call, vectors, positions, fed.conditions, fed.mask)
        predicted = outputs.predicted_embeds[:, committed.vectors.shape[1] - 1 :].to(self.dtype)
        if not steady:
            self._require_finite(predicted)
        return predicted

    def _forward(self, call, vectors, positions, conditions, mask):
        self.num_forwards += 1
        return call(
            inputs_embeds=vectors,
            position_ids=positions,
            conditions=conditions,
            attention_mask=mask,
            **self.arguments,
        )

    def _require_finite(self, predicted: torch.Tensor) -> None:
        # The norm, because a vector whose norm overflows has no direction either.
        if not bool(predicted.norm(dim=-1).isfinite().all()):
            self.refuse("The predicted vectors are", "the prompt's activations overflow")

    def refuse(self, what: str, otherwise: str) -> None:
        """Raise what a value that is not finite comes from: weights, by name, or else `otherwise`."""
        broken = (name for name, weight in self.model.named_parameters() if not bool(weight.isfinite().all()))
        found = next(broken, None)
        raise ValueError(
            f"{what} not finite: `{found}` holds NaN or infinite values."
            if found
            else f"{what} not finite, though all weights are: {otherwise}."
        )


def accelerated(device: torch.device) -> bool:
    """Whether the host runs ahead of the device, so that reading a flag at once would cost time."""
    return device.type != "cpu"


class LateFlags:
    """Flags on an accelerator, (n,), that are read a step later: the host then never waits for the device's newest
    work."""

    def __init__(self, flags: torch.Tensor):
        self.values = flags.to("cpu", non_blocking=True)
        self.copied = None
        if accelerated(flags.device):
            self.copied = torch.Event(flags.device.type)
            self.copied.record()

    def read(self) -> list[bool]:
        if self.copied is not None:
            self.copied.synchronize()
        return self.values.tolist()


class Ending:
    """
    What ends a run: stopping criteria when all rows have met them, or scores that are not finite, with an error.

    Args:
        network, settings: to name what broke. criteria: transformers' stopping criteria, (ids, scores) -> (batch,).
        pad: what ended rows are filled with, or None where rows end together. batch_size: rows.
        late: an end may be seen a step after it came, and is taken back; so nothing may have looked at that step.
    """

    def __init__(self, network: Network, settings, criteria, pad: torch.Tensor | None, batch_size: int, late: bool):
        self.network, self.settings, self.criteria, self.pad, self.late = network, settings, criteria, pad, late
        self.unfinished = torch.ones(batch_size, dtype=torch.bool, device=network.model.device)
        self.running = [True] * batch_size  # the same on the host, unless it is late
        self.broken = torch.zeros_like(self.unfinished)
        self.finished, self.overrun = False, 0
        self.flags: LateFlags | None = None

    def fill(self, tokens: torch.Tensor) -> torch.Tensor:
        """Tokens (batch,), with padding in rows that have ended."""
        return tokens if self.pad is None else torch.where(self.unfinished, tokens, self.pad.to(tokens))

    def check(self, committed: Committed, rows, taking: list[bool], scores, logits, tokens) -> None:
        """After `tokens` (batch,), chosen by `logits` (batch, V), were committed in `rows` (batch,)."""
        # An argmax finds a NaN before all else, so the scores of chosen tokens speak for all.
        chosen, unfinished = logits.gather(1, tokens[:, None])[:, 0], self.unfinished
        done = committed.by_length(lambda ids: self.criteria(ids, scores), taking)
        self.unfinished = unfinished & ~(done & rows)
        if not self.late:
            finite = map(math.isfinite, chosen.tolist())
            if not all(fine for fine, takes, runs in zip(finite, taking, self.running) if takes and runs):
                self.refuse(committed)
            self.running = self.unfinished.tolist()
            self.finished = not any(self.running)
            return
        self.broken = self.broken | (unfinished & ~chosen.isfinite())
        before, self.flags = self.flags, LateFlags(torch.stack([self.unfinished.any(), self.broken.any()]))
        if before is not None:
            self.overrun = int(not self._read(before, committed))
        self.finished = self.overrun > 0 or committed.counts[0] == committed.new_tokens

    def close(self, committed: Committed) -> None:
        """Scores that are read late must have been finite at the last step too, unless it is taken back."""
        if self.flags is not None and not self.overrun:
            self._read(self.flags, committed)

    def _read(self, flags: LateFlags, committed: Committed) -> bool:
        running, broken = flags.read()
        if broken:
            self.refuse(committed)
        return running

    def refuse(self, committed: Committed) -> None:
        amplifying = ", ".join(f"{name} = {getattr(self.settings, name)}" for name in AMPLIFYING)
        otherwise = f"the tail overflows {self.network.dtype} (its settings: {amplifying})"
        self.network.refuse(f"The scores of generated token {max(committed.counts)} are", otherwise)
