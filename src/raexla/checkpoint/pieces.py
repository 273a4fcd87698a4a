"""Tensors cut into blocks, dealt over processes, and written as safetensors files of a bounded size.

A block is what is hashed and read at once: rows of a tensor, at most `BLOCK_BYTES` of them where rows are not longer.
"""

import hashlib
import io
import json
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

BLOCK_BYTES = 32 << 20
#: torch's types by the names that safetensors has for them.
DTYPES: dict[str, torch.dtype] = {
    "F64": torch.float64,
    "F32": torch.float32,
    "F16": torch.float16,
    "BF16": torch.bfloat16,
    "F8_E4M3": torch.float8_e4m3fn,
    "F8_E5M2": torch.float8_e5m2,
    "I64": torch.int64,
    "I32": torch.int32,
    "I16": torch.int16,
    "I8": torch.int8,
    "U8": torch.uint8,
    "BOOL": torch.bool,
}
DTYPE_NAMES = {dtype: name for name, dtype in DTYPES.items()}


@dataclass(frozen=True)
class Block:
    """A rectangular part of the tensor `key`: where it starts in it, and its values (of any device)."""

    key: str
    offset: tuple[int, ...]
    values: Tensor

    @property
    def name(self) -> str:
        """Its name in a safetensors file: that of the tensor, and where it starts."""
        return f"{self.key}@{','.join(map(str, self.offset))}"

    @property
    def bytes(self) -> int:
        """Size of the values."""
        return self.values.numel() * self.values.element_size()


def cut(key: str, offset: Sequence[int], values: Tensor, limit: int = BLOCK_BYTES) -> Iterator[Block]:
    """Blocks of at most `limit` bytes: rows of the first dim that has more than one entry, cut further if one row is
    more than that."""
    size = values.numel() * values.element_size()
    if size == 0:
        return
    dim = next((d for d, n in enumerate(values.shape) if n > 1), None)
    if dim is None or size <= limit:
        yield Block(key, tuple(offset), values)
        return
    rows = max(1, limit * values.shape[dim] // size)
    for start in range(0, values.shape[dim], rows):
        where = [*offset[:dim], offset[dim] + start, *offset[dim + 1 :]]
        part = values.narrow(dim, start, min(rows, values.shape[dim] - start))
        yield from cut(key, where, part, limit) if rows == 1 else [Block(key, tuple(where), part)]


def deal(blocks: Sequence[Block], index: int, count: int) -> list[Block]:
    """The blocks that process `index` of `count` writes when each has them all: nearly the same bytes for everyone.

    Every process comes to the same division by itself: large blocks first, each to whoever has least so far.
    """
    load = [0] * count
    owner: dict[int, int] = {}
    for number in sorted(range(len(blocks)), key=lambda n: (-blocks[n].bytes, n)):
        least = min(range(count), key=lambda process: (load[process], process))
        owner[number] = least
        load[least] += blocks[number].bytes
    return [block for number, block in enumerate(blocks) if owner[number] == index]


def as_bytes(values: Tensor) -> memoryview:
    """The memory of a contiguous host tensor."""
    return values.reshape(-1).view(torch.uint8).numpy().data


class PieceFile(io.RawIOBase):
    """A safetensors file of host blocks, read from memory without copying them.

    Args:
        blocks: contiguous, on the host.
    """

    def __init__(self, name: str, blocks: Sequence[Block]) -> None:
        super().__init__()
        self.name = name
        # Wide types first, so that nothing is misaligned; else in the order of the state.
        self.blocks = sorted(blocks, key=lambda block: -block.values.element_size())
        header: dict[str, Any] = {"__metadata__": {"format": "pt"}}
        at = 0
        for block in self.blocks:
            header[block.name] = {
                "dtype": DTYPE_NAMES[block.values.dtype],
                "shape": list(block.values.shape),
                "data_offsets": [at, at + block.bytes],
            }
            at += block.bytes
        text = json.dumps(header, separators=(",", ":")).encode()
        text += b" " * (-len(text) % 8)
        self.header = len(text).to_bytes(8, "little") + text
        self._parts = [memoryview(self.header), *(as_bytes(block.values) for block in self.blocks)]
        self._starts = [0]
        for part in self._parts:
            self._starts.append(self._starts[-1] + len(part))
        self.size = self._starts[-1]
        self._at, self._part = 0, 0

    def describe(self, hashes: Sequence[str]) -> tuple[dict[str, Any], dict[str, list[dict[str, Any]]]]:
        """The file's entry in the manifest, and the pieces in it by tensor."""
        entry = {
            "bytes": self.size,
            "header_bytes": len(self.header),
            "header_sha256": hashlib.sha256(self.header).hexdigest(),
        }
        pieces: dict[str, list[dict[str, Any]]] = {}
        for block, start, digest in zip(self.blocks, self._starts[1:], hashes, strict=False):
            piece = {
                "file": self.name,
                "key": block.name,
                "offset": list(block.offset),
                "shape": list(block.values.shape),
                "start": start,
                "bytes": block.bytes,
                "sha256": digest,
            }
            pieces.setdefault(block.key, []).append(piece)
        return entry, pieces

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def tell(self) -> int:
        return self._at

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        self._at = {io.SEEK_SET: 0, io.SEEK_CUR: self._at, io.SEEK_END: self.size}[whence] + offset
        self._part = 0
        return self._at

    def read(self, size: int = -1) -> bytes | memoryview:  # type: ignore[override]
        """Up to `size` bytes, a view of the memory; all that are left if negative."""
        if size < 0:
            rest = []
            while data := self.read(1 << 30):
                rest.append(data)
            return b"".join(rest)
        while self._part < len(self._parts) and self._at >= self._starts[self._part + 1]:
            self._part += 1
        if self._part == len(self._parts):
            return b""
        begin = self._at - self._starts[self._part]
        data = self._parts[self._part][begin : begin + size]
        self._at += len(data)
        return data


def pack(blocks: Sequence[Block], limit: int, name: str) -> list[PieceFile]:
    """Files `NAME-000.safetensors` ... of at most `limit` bytes, but at least one block each; in the blocks' order."""
    groups: list[list[Block]] = []
    room = 0
    for block in blocks:
        if block.bytes > room or not groups:
            groups.append([])
            room = limit
        groups[-1].append(block)
        room -= block.bytes
    return [PieceFile(f"{name}-{number:03d}.safetensors", group) for number, group in enumerate(groups)]


def elements(pieces: Sequence[dict[str, Any]]) -> int:
    """Numbers in some pieces."""
    return sum(math.prod(piece["shape"]) for piece in pieces)
