"""Reads the fixtures taken from the official modules, and hands out the tool that judges them."""

import importlib
import json
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor

FOLDER = Path(__file__).parents[1] / "fixtures" / "parity"
TOOLS = Path(__file__).parents[2] / "tools"


class OfficialCase:
    """One fixture: `weights`, `inputs`, `outputs`, `grads` by official name, `config` from the JSON beside it."""

    def __init__(self, name: str) -> None:
        self.config: dict[str, Any] = json.loads((FOLDER / f"{name}.json").read_text())["config"]
        self.tensors = load_file(FOLDER / f"{name}.safetensors")
        self.weights, self.inputs = self.part("weight"), self.part("input")
        self.outputs, self.grads = self.part("output"), self.part("grad")

    def part(self, prefix: str) -> dict[str, Tensor]:
        """The tensors under `prefix/`, without the prefix."""
        return {key[len(prefix) + 1 :]: value for key, value in self.tensors.items() if key.startswith(prefix + "/")}

    def check(self, output: str, ours: Tensor, factor: float = 1e-4, floor: float = 1e-6) -> None:
        """Largest absolute difference <= factor x rms of the reference + floor."""
        theirs = self.outputs[output]
        assert ours.shape == theirs.shape
        assert torch.isfinite(ours).all()
        limit = factor * theirs.float().square().mean().sqrt().item() + floor
        worst = (ours.float() - theirs.float()).abs().max().item()
        assert worst <= limit, f"{output} differs by {worst:.3g}, allowed {limit:.3g}"


@pytest.fixture
def official() -> type[OfficialCase]:
    """`official("rae_decoder_patch16")` reads that fixture."""
    return OfficialCase


@pytest.fixture(scope="session")
def tool() -> Any:
    """The module `tools/parity.py`."""
    if str(TOOLS) not in sys.path:
        sys.path.insert(0, str(TOOLS))
    return importlib.import_module("parity")
