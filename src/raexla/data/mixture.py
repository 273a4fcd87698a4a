"""Which source a stream draws from at which slot, and how many rows of each group a batch has.

Sources are gathered in groups (generation, understanding, ...). A batch has a constant number of rows per group, the
same in every stream, because the arrays of a compiled step have constant shapes; within a group the sources' weights
hold exactly over every block of every stream.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction

import numpy as np

from raexla.data.draws import key, permutation
from raexla.recipe import UserError


@dataclass(frozen=True)
class Share:
    """One source's part in the mixture."""

    name: str
    group: str
    weight: float


class Mixture:
    """The slots of every (group, stream), as a pure function of (shares, batch rows, streams, block, seed)."""

    def __init__(self, shares: Sequence[Share], *, batch_rows: int, streams: int, block: int, seed: int) -> None:
        self.shares, self.streams, self.block, self.seed = list(shares), streams, block, seed
        self.groups: list[str] = sorted({share.group for share in shares})
        self.rows_per_stream = _rows_per_stream(self.shares, self.groups, batch_rows, streams)
        self.members: dict[str, list[int]] = {
            group: [number for number, share in enumerate(shares) if share.group == group] for group in self.groups
        }
        self.counts: dict[str, np.ndarray] = {
            group: _apportion([self.shares[number] for number in members], block)
            for group, members in self.members.items()
        }
        self._blocks: dict[tuple[str, int], tuple[int, np.ndarray]] = {}

    def first_row(self, group: str) -> int:
        """The global row at which a group's rows begin in the batch."""
        before = self.groups[: self.groups.index(group)]
        return sum(self.rows_per_stream[name] for name in before) * self.streams

    def slots(self, group: str, stream: int, first: int, count: int) -> list[int]:
        """The source numbers of the slots `[first, first + count)`."""
        found = []
        while count > 0:
            block, offset = divmod(first, self.block)
            part = self._block(group, stream, block)[offset : offset + count]
            found += part.tolist()
            first, count = first + len(part), count - len(part)
        return found

    def consumed(self, group: str, stream: int, slots: int) -> dict[int, int]:
        """How many of the first `slots` slots go to each source of the group."""
        block, offset = divmod(slots, self.block)
        part = self._block(group, stream, block)[:offset] if offset else np.empty(0, dtype=np.int64)
        return {
            number: block * int(whole) + int((part == number).sum())
            for number, whole in zip(self.members[group], self.counts[group], strict=True)
        }

    def good(self, number: int, slots: int) -> int:
        """About how many samples of a source all streams together have used after `slots` slots each: exact at the
        ends of blocks, and by the weights in between."""
        group = self.shares[number].group
        return self.streams * slots * int(self.counts[group][self.members[group].index(number)]) // self.block

    def effective_weights(self) -> dict[str, float]:
        """Each source's exact part of the batch."""
        total = sum(self.rows_per_stream.values())
        return {
            self.shares[number].name: float(count) / self.block * self.rows_per_stream[group] / total
            for group in self.groups
            for number, count in zip(self.members[group], self.counts[group], strict=True)
        }

    def _block(self, group: str, stream: int, block: int) -> np.ndarray:
        held = self._blocks.get((group, stream))
        if held is None or held[0] != block:
            plain = np.repeat(np.asarray(self.members[group], dtype=np.int64), self.counts[group])
            order = permutation(self.block, key(self.seed, "block", group, stream, block))
            held = self._blocks[group, stream] = (block, plain[order])
        return held[1]


def _exact(weight: float) -> Fraction:
    return Fraction(str(weight))


def _rows_per_stream(shares: list[Share], groups: list[str], batch_rows: int, streams: int) -> dict[str, int]:
    if "" in groups and len(groups) > 1:
        plain = ", ".join(share.name for share in shares if share.group == "")
        raise UserError(f"data.sources: {plain} can't stand in one batch with sources of the groups {groups[1:]}")
    if batch_rows % streams:
        raise UserError(
            f"train.global_batch_images is {batch_rows}, data.order.streams is {streams}: the batch must be a "
            "multiple of the streams"
        )
    total = sum((_exact(share.weight) for share in shares), Fraction(0))
    per_stream = batch_rows // streams
    rows, wrong = {}, []
    for group in groups:
        weight = sum((_exact(share.weight) for share in shares if share.group == group), Fraction(0))
        part = per_stream * weight / total
        rows[group] = int(part)
        if part.denominator != 1 or part == 0:
            wrong.append(
                f"{group or 'the sources'} has {float(weight):g} of {float(total):g} of the weights, which is "
                f"{float(part):g} of the {per_stream} rows of a stream"
            )
    if wrong:
        raise UserError(
            f"data.sources: with global_batch_images {batch_rows} over {streams} streams every group must get whole "
            f"rows, at least one: {'; '.join(wrong)}. Change the weights, the batch or data.order.streams"
        )
    return rows


def _apportion(shares: list[Share], block: int) -> np.ndarray:
    """Samples per source in a block: weights x block by largest remainders, earlier sources first among equals."""
    total = sum((_exact(share.weight) for share in shares), Fraction(0))
    wanted = [_exact(share.weight) / total * block for share in shares]
    counts = [int(part) for part in wanted]
    by_remainder = sorted(range(len(shares)), key=lambda number: (counts[number] - wanted[number], number))
    for number in by_remainder[: block - sum(counts)]:
        counts[number] += 1
    for share, count, part in zip(shares, counts, wanted, strict=True):
        if count == 0:
            raise UserError(
                f"data.sources: {share.name} gets {float(part):.3g} samples in a block of {block}: raise its weight, "
                f"or data.order.block to {-(-block // part) if part else 'more'} or more"
            )
    return np.asarray(counts)
