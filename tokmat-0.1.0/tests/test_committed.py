# Copyright 2026 The TokMat authors. Licensed under the Apache License, Version 2.0.
"""What rows have committed, against rows kept one by one in lists."""

import pytest
import torch
from transformers import DynamicCache

from modeling_tokmat.committed_tokmat import Committed, right_align

DIM = 4


def make(lengths, new_tokens=12, cached=True, padding="left"):
    """Rows of these prompt lengths; vectors are their own row and position, so that each can be told."""
    rows, width = len(lengths), max(lengths)
    mask = torch.zeros(rows, width, dtype=torch.bool)
    positions = torch.zeros(rows, width, dtype=torch.long)
    vectors = torch.full((rows, width, DIM), -1.0)
    for row, length in enumerate(lengths):
        place = slice(width - length, width) if padding == "left" else slice(0, length)
        mask[row, place], positions[row, place] = True, torch.arange(length)
        vectors[row, place] = vector(row, torch.arange(length))
    cache = DynamicCache() if cached else None
    ids = torch.zeros(rows, width, dtype=torch.long)
    return Committed(ids, new_tokens, torch.tensor(1), vectors, positions, mask, cache, None, torch.float32)


def vector(row, place):
    return (100 * row + place).float()[..., None].expand(*place.shape, DIM)


def feed(committed, slots):
    """A pass over [pending ; slots]: the cache holds of each column which row and place it is, -2 for slots."""
    block = committed.vectors
    if slots is not None:
        block = torch.cat([block, slots], dim=1)
    if committed.cache is not None:
        committed.cache.update(block[:, None], block[:, None], 0)
    return block


def check(committed, lengths):
    """Every row sees its own places, each once, in the cache or pending, in order; and nothing else."""
    mask = committed.attention_mask(0)
    held = committed.vectors
    if committed.cache is not None and committed.cache.get_seq_length():
        held = torch.cat([committed.cache.layers[0].keys[:, 0], held], dim=1)
    mask = torch.ones(held.shape[:2], dtype=torch.bool) if mask is None else mask
    assert mask.shape == held.shape[:2]
    for row, length in enumerate(lengths):
        assert torch.equal(held[row][mask[row]], vector(row, torch.arange(length)))
        assert int(committed.positions[row, -1]) == length - 1
        own = committed.pending[row]
        assert torch.equal(committed.positions[row, -own:], torch.arange(length - own, length))
        assert torch.equal(committed.last_vector[row], vector(row, torch.tensor(length - 1)))


@pytest.mark.parametrize("cached", [True, False])
@pytest.mark.parametrize("padding", ["left", "right"])
@pytest.mark.parametrize("drafting", [True, False])
def test_rows_out_of_step_hold_what_they_committed(cached, padding, drafting):
    generator = torch.Generator().manual_seed(5)
    for lengths in ([3], [3, 3], [5, 2, 3]):
        for _ in range(6):
            committed, now = make(lengths, cached=cached, padding=padding), list(lengths)
            for step in range(8):
                drafts = 2 if drafting else 0
                slots = torch.full((len(now), 5, DIM), -2.0)
                counts = torch.randint(0 if step and not drafting else 1, 4, (len(now),), generator=generator).tolist()
                if len(set(counts)) == 3 and step % 2:
                    counts = [counts[0]] * len(counts)  # in step now and then
                # Drafts that come true are the very vectors that are committed, wherever they were fed.
                ways = []
                for row, length in enumerate(now):
                    true = min(drafts, max(counts[row] - 1, 0))
                    ways.append(sorted(torch.randperm(5, generator=generator)[:true].tolist()))
                    slots[row, ways[row]] = vector(row, length + torch.arange(true))
                feed(committed, slots)
                vectors = []
                for place in range(max(counts)):
                    places = torch.tensor([length + place for length in now])
                    vectors.append(torch.stack([vector(row, places[row]) for row in range(len(now))]))
                committed.advance(5, counts, vectors, ways)
                now = [length + count for length, count in zip(now, counts, strict=True)]
                check(committed, now)
                if drafting and cached:  # whatever agreed with its draft is not fed again
                    assert committed.vectors.shape[1] <= 2


def test_nothing_committed_forgets_the_whole_pass():
    committed = make([3, 2])
    feed(committed, torch.zeros(2, 4, DIM))
    before = committed.vectors
    committed.advance(4, [0, 0], [])
    assert committed.cache.get_seq_length() == 0 and committed.vectors is before
    check(committed, [3, 2])


@pytest.mark.parametrize("cached", [True, False])
def test_prompts_in_chunks_are_cached_as_they_are_asked_for(cached):
    committed, sizes = make([7, 4, 2], cached=cached), []
    for vectors, positions, mask in committed.chunks(3):
        sizes.append(vectors.shape[1])
        assert positions.shape == vectors.shape[:2] and mask.shape[1] == sum(sizes)
        committed.cache.update(vectors[:, None], vectors[:, None], 0)
    assert sizes == ([3, 3] if cached else [])
    check(committed, [7, 4, 2])


def test_tokens_are_written_at_each_rows_own_length():
    committed = make([2, 2, 2])
    committed.write(torch.tensor([5, 6, 7]), [True, False, True])
    committed.write(torch.tensor([8, 9, 10]), [True, True, False])
    assert committed.counts == [2, 1, 1] and committed.remaining == 11
    assert committed.ids[:, 2:5].tolist() == [[5, 8, 1], [9, 1, 1], [7, 1, 1]]
    calls = []

    def lengths(ids):
        calls.append(ids.shape[1])
        return torch.full((3,), ids.shape[1])

    assert committed.by_length(lengths, [True, True, True]).tolist() == [4, 3, 3] and calls == [3, 4]
    assert committed.by_length(lengths, [False, True, True])[1:].tolist() == [3, 3] and calls == [3, 4, 3]


def visible(mask):
    return (mask[:, 0] == 0).int()


def test_the_copy_of_the_tail_sees_itself_alone():
    committed = make([2])
    assert visible(committed.guidance_mask(2))[0].tolist() == [
        [1, 0, 0, 0, 0, 0],
        [1, 1, 0, 0, 0, 0],
        [1, 1, 1, 0, 0, 0],
        [1, 1, 1, 1, 0, 0],
        [0, 0, 0, 0, 1, 0],
        [0, 0, 0, 0, 1, 1],
    ]


def test_branches_see_their_drafts_and_themselves():
    committed = make([1])
    assert visible(committed.branches_mask(((0, 1),), ((0, 1, 2),)))[0].tolist() == [
        [1, 0, 0, 0, 0, 0],
        [1, 1, 0, 0, 0, 0],
        [1, 1, 1, 0, 0, 0],
        [1, 0, 0, 1, 0, 0],
        [1, 1, 0, 0, 1, 0],
        [1, 1, 1, 0, 0, 1],
    ]


def test_drafts_of_a_tree_see_those_before_them_alone():
    committed = make([1, 1])
    trees = visible(committed.branches_mask(((0, 1, 0), (0, 0, 2)), ((0, 1, 2, 3),) * 2))
    assert trees[0, :, 1:4].tolist() == [
        [0, 0, 0],
        *([1, 0, 0], [1, 1, 0], [0, 0, 1]),  # the drafts
        *([0, 0, 0], [1, 0, 0], [1, 1, 0], [0, 0, 1]),  # the branches behind none and each
    ]
    assert trees[1, 1:4, 1:4].tolist() == [[1, 0, 0], [0, 1, 0], [0, 1, 1]]
    assert torch.equal(trees[:, 4:, 4:], torch.eye(4, dtype=torch.int).expand(2, 4, 4))


def test_masks_bar_the_padding_and_show_the_cache():
    committed = make([3, 1])
    feed(committed, torch.zeros(2, 4, DIM))
    committed.advance(4, [1, 1], [torch.zeros(2, DIM)])
    assert visible(committed.branches_mask(((0,),), ((0, 1),)))[:, -1].tolist() == [
        [1, 1, 1, 1, 1, 0, 1],
        [0, 0, 1, 1, 1, 0, 1],
    ]
    guided = visible(committed.guidance_mask(1))
    assert guided[:, -1].tolist() == [[0, 0, 0, 0, 0, 1]] * 2
    assert guided[:, 1].tolist() == [[1, 1, 1, 1, 1, 0], [0, 0, 1, 1, 1, 0]]


def test_rows_are_aligned_on_the_right():
    rows = [torch.tensor([1, 2, 3]), torch.tensor([4]), torch.tensor([], dtype=torch.long)]
    assert right_align(rows).tolist() == [[1, 2, 3], [0, 0, 4], [0, 0, 0]]
