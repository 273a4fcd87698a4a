"""A fixture in memory, in the format of the public ones, and weights by the rule that they state."""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import Tensor

from tests.parity.plain_dit import Weights


@dataclass(frozen=True)
class Made:
    """A fixture in memory."""

    kind: str
    config: dict[str, Any]
    tensors: dict[str, Tensor]

    def write(self, folder: Path, name: str = "") -> str:
        """Write it as `<name>.safetensors` and `.json`; returns the path of the first."""
        name = name or f"{self.kind}_b"
        described = {
            "case": name,
            "config": self.config,
            "tensors": {k: list(v.shape) for k, v in self.tensors.items()},
        }
        (folder / f"{name}.json").write_text(json.dumps(described))
        path = folder / f"{name}.safetensors"
        save_file({key: value.detach().contiguous().clone() for key, value in self.tensors.items()}, path)
        return str(path)


def drawn(shapes: dict[str, tuple[int, ...]], seed: int) -> Weights:
    """Weights by the rule that the fixtures state: biases std 0.05, norms 1 + 0.05 n, matrices 1 / sqrt(fan in)."""
    generator = torch.Generator().manual_seed(seed)
    weights: Weights = {}
    for name in sorted(shapes):
        values = torch.randn(shapes[name], generator=generator)
        leaf = name.rpartition(".")[2]
        if name.endswith(("token", "position_embeddings", "embedding_table.weight", "dropout_embedding", "_W")):
            weights[name] = 0.3 * values
        elif leaf == "W":
            weights[name] = values
        elif values.dim() == 1:
            weights[name] = 0.05 * values + (1.0 if leaf in ("weight", "lambda1") else 0.0)
        else:
            weights[name] = values * min(max((values[0].numel()) ** -0.5, 0.05), 0.15)
    return weights


def both(name: str, rows: int, columns: int) -> dict[str, tuple[int, ...]]:
    """Shapes of a linear."""
    return {f"{name}.weight": (rows, columns), f"{name}.bias": (rows,)}


def with_prefix(prefix: str, tensors: Weights) -> Weights:
    """The tensors under `prefix/`."""
    return {f"{prefix}/{key}": value for key, value in tensors.items()}
