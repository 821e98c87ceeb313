# Copyright 2026 The TokMat authors. Licensed under the Apache License, Version 2.0.
"""What a row is asked to check at once: several ways of going on, as a tree of tokens."""

from collections.abc import Iterable, Sequence
from typing import NamedTuple

TAIL, LOOKUP = "tail", "lookup"
Arm = tuple[int, str]  # how many tokens repeat, and what the tail says of it


class Draft(NamedTuple):
    """A token that may follow. `parent` counts the drafts from 1; 0 is what was committed last. `chance`: that it is
    committed, with all before it. `source`: TAIL, or LOOKUP where that alone proposed it."""

    token: int
    parent: int
    chance: float
    source: str = TAIL


class DraftTree:
    """
    Drafts of one row, parents before their children (SpecInfer, arXiv 2305.09781; here of one model's own tail).

    Attributes:
        tokens, parents, depths: per draft; depths begin at 1.
        slots: how many stand behind none of them, and behind each.
        found: the tokens that a repeated n-gram proposed. arm: by which chances they were believed.
    """

    def __init__(
        self,
        drafts: Iterable[Draft] = (),
        found: Sequence[int] = (),
        arm: Arm | None = None,
        slots: Sequence[int] | None = None,
    ):
        self.drafts, self.found, self.arm = list(drafts), found, arm
        self.slots = tuple(slots or [0] * (1 + len(self.drafts)))
        self.tokens = [draft.token for draft in self.drafts]
        self.parents = tuple(draft.parent for draft in self.drafts)
        self.depths: list[int] = []
        for parent in self.parents:
            self.depths.append(1 + (self.depths[parent - 1] if parent else 0))
        self._children: dict[tuple[int, int], int] = {}
        for place, draft in enumerate(self.drafts, start=1):
            self._children.setdefault((draft.parent, draft.token), place)

    @classmethod
    def chain(cls, tokens: Iterable[int]) -> "DraftTree":
        """Each token behind the one before it."""
        return cls(Draft(token, place, 1.0) for place, token in enumerate(tokens))

    def __len__(self) -> int:
        return len(self.drafts)

    @property
    def depth(self) -> int:
        return max(self.depths, default=0)

    def child(self, parent: int, token: int) -> int | None:
        """The draft, counted from 1, that says `token` behind `parent`; None where there is none."""
        return self._children.get((parent, token))

    def looked_up(self) -> list[int]:
        """The drafts that say what the repeated n-gram said, counted from 1."""
        places, parent = [], 0
        for token in self.found:
            place = self.child(parent, token)
            if place is None:
                break
            places.append(place)
            parent = place
        return places

    def with_chain(self, tokens: list[int], chances: list[float], arm: Arm) -> "DraftTree":
        """This tree, and beside it what a repeated n-gram proposes, each token with its chance."""
        drafts, parent = list(self.drafts), 0
        for token, chance in zip(tokens, chances):
            place = self.child(parent, token)  # of this tree: none behind a draft that it lacks
            if place is None:
                drafts.append(Draft(token, parent, chance, LOOKUP))
                place = len(drafts)
            elif drafts[place - 1].chance < chance:
                drafts[place - 1] = drafts[place - 1]._replace(chance=chance)
            parent = place
        return DraftTree(drafts, tokens, arm)

    def kept(self, slots: dict[int, int]) -> "DraftTree":
        """Some of the drafts, counted from 1, and with each its parent; the likeliest way first, and in one piece.

        Args:
            slots: how many stand behind each that is kept, and behind none, which is 0.
        """
        behind: dict[int, list[int]] = {}
        for place in slots:
            if place:
                behind.setdefault(self.drafts[place - 1].parent, []).append(place)
        drafts: list[Draft] = []
        lengths = [slots[0]]
        waiting = [(place, 0) for place in self._unlikeliest_first(behind.get(0, []))]
        while waiting:
            place, parent = waiting.pop()
            drafts.append(self.drafts[place - 1]._replace(parent=parent))
            lengths.append(slots[place])
            parent = len(drafts)
            waiting += [(child, parent) for child in self._unlikeliest_first(behind.get(place, []))]
        return DraftTree(drafts, self.found, self.arm, lengths)

    def _unlikeliest_first(self, places: list[int]) -> list[int]:
        return sorted(places, key=lambda place: self.drafts[place - 1].chance)
