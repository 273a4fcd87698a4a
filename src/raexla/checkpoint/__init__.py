"""What a run leaves behind: checkpoints to go on from, and artifacts to hand on.

A checkpoint (`store.py`) is a directory of safetensors pieces and a JSON manifest: global shapes, offsets, hashes. It
is readable on any mesh, on any back end, without torch_xla. It appears under its name only when it is complete. An
artifact (`artifact.py`) is what a stage hands to the next one: whole tensors and `artifact.json` with hashes.
"""

from raexla.checkpoint.artifact import Artifact, read_artifact, write_artifact
from raexla.checkpoint.store import Checkpoint, checkpoints, latest, prune, save

__all__ = [
    "Artifact",
    "Checkpoint",
    "checkpoints",
    "latest",
    "prune",
    "read_artifact",
    "save",
    "write_artifact",
]
