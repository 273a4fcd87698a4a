"""Writing safetensors files tensor by tensor.

The library's own writers take all bytes at once, a second copy of the model in memory. The format is a JSON header and
the raw numbers after it, so that a file can be written from views of other files.
"""

import json
import struct
from collections.abc import Iterator, Mapping
from math import prod
from pathlib import Path

import torch
from torch import Tensor

from raexla.recipe import UserError

WIDENED = (torch.bfloat16, torch.float16)
"""Stored types that become float32, which holds all their values exactly."""


def check_types(tensors: Mapping[str, Tensor], name: str) -> list[str]:
    """One line for each narrower type that will be widened to float32.

    Raises:
        UserError: a tensor of another type, which float32 could not hold exactly.
    """
    wrong = [
        f"{key} is {value.dtype}" for key, value in tensors.items() if value.dtype not in (torch.float32, *WIDENED)
    ]
    if wrong:
        raise UserError("\n  ".join([f"{name}: weights are float32, bfloat16 or float16, but", *wrong]))
    counts = {kind: sum(value.dtype == kind for value in tensors.values()) for kind in WIDENED}
    return [f"{count} tensors in {kind}, widened to float32" for kind, count in counts.items() if count]


def write_safetensors(path: Path, tensors: Mapping[str, Tensor]) -> None:
    """Write `tensors` in float32, one after the other, in the order of their names."""
    header: dict[str, object] = {"__metadata__": {"format": "pt"}}
    offset = 0
    for name in sorted(tensors):
        size = 4 * prod(tensors[name].shape)
        header[name] = {"dtype": "F32", "shape": list(tensors[name].shape), "data_offsets": [offset, offset + size]}
        offset += size
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    with path.open("wb") as file:
        file.write(struct.pack("<Q", len(text)))
        file.write(text)
        for name in sorted(tensors):
            file.write(tensors[name].detach().to(torch.float32).contiguous().reshape(-1).numpy().data)


def write_sharded(folder: Path, tensors: Mapping[str, Tensor], shard_bytes: int) -> list[str]:
    """Write Hugging Face's layout: `model.safetensors`, or numbered shards and an index. Returns the files' names."""
    shards = list(_shards(tensors, shard_bytes))
    if len(shards) == 1:
        write_safetensors(folder / "model.safetensors", tensors)
        return ["model.safetensors"]
    index: dict[str, str] = {}
    names = [f"model-{number:05d}-of-{len(shards):05d}.safetensors" for number in range(1, len(shards) + 1)]
    for name, keys in zip(names, shards, strict=True):
        write_safetensors(folder / name, {key: tensors[key] for key in keys})
        index |= dict.fromkeys(keys, name)
    total = sum(4 * value.numel() for value in tensors.values())
    content = {"metadata": {"total_size": total}, "weight_map": dict(sorted(index.items()))}
    (folder / "model.safetensors.index.json").write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")
    return [*names, "model.safetensors.index.json"]


def _shards(tensors: Mapping[str, Tensor], shard_bytes: int) -> Iterator[list[str]]:
    keys: list[str] = []
    size = 0
    for key, value in tensors.items():
        if keys and size + 4 * value.numel() > shard_bytes:
            yield keys
            keys, size = [], 0
        keys.append(key)
        size += 4 * value.numel()
    yield keys
