"""Devices, and nothing else knows them.

`open_runtime` gives one of two runtimes behind the protocol in `base.py`: `xla` (SPMD over a TPU slice or over
virtual CPU devices) and `eager` (plain PyTorch). A model is placed by its sharding table (`sharding.py`) on the mesh
`data x fsdp x tensor` (`mesh.py`). Random numbers come from `random.py`, the same on every runtime.
"""

from raexla.runtime.base import (
    Counters,
    EagerRecipe,
    Piece,
    Runtime,
    RuntimeRecipe,
    Scalars,
    XlaRecipe,
)
from raexla.runtime.compiler import prepare_compiler
from raexla.runtime.mesh import MeshRecipe
from raexla.runtime.random import Draws

__all__ = [
    "Counters",
    "Draws",
    "EagerRecipe",
    "MeshRecipe",
    "Piece",
    "Runtime",
    "RuntimeRecipe",
    "Scalars",
    "XlaRecipe",
    "open_runtime",
    "prepare_compiler",
]


def open_runtime(recipe: XlaRecipe | EagerRecipe, mesh: MeshRecipe | None = None) -> Runtime:
    """Bring up the devices that a recipe asks for; once per process.

    Raises:
        UserError: no such device, torch_xla missing, or a mesh that does not fit the devices.
    """
    mesh = mesh or MeshRecipe()
    if isinstance(recipe, XlaRecipe):
        from raexla.runtime.xla import XlaRuntime

        return XlaRuntime(recipe, mesh)
    from raexla.runtime.eager import EagerRuntime

    return EagerRuntime(recipe, mesh)
