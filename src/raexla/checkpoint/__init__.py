"""What a run leaves behind: checkpoints to go on from, and artifacts to hand on.

A checkpoint (`layout.py`) is a folder of safetensors pieces (`pieces.py`) and a JSON manifest: global shapes, offsets,
hashes. `saver.py` writes it beside training, every process its own pieces; `reading.py` restores it on any mesh, on any
back end, without torch_xla, reading only what is needed. It is there only when it is complete. An artifact
(`artifact.py`) is what a stage hands to the next one: whole tensors and `artifact.json` with hashes.
"""

from raexla.checkpoint.artifact import Artifact, read_artifact, write_artifact
from raexla.checkpoint.layout import CheckpointDamaged
from raexla.checkpoint.reading import Checkpoint, Loaded, checkpoints, latest
from raexla.checkpoint.recipe import BestRecipe, CheckpointRecipe, StartRecipe
from raexla.checkpoint.saver import SaveFailed, Saver, open_saver, save

__all__ = [
    "Artifact",
    "BestRecipe",
    "Checkpoint",
    "CheckpointDamaged",
    "CheckpointRecipe",
    "Loaded",
    "SaveFailed",
    "Saver",
    "StartRecipe",
    "checkpoints",
    "latest",
    "open_saver",
    "read_artifact",
    "save",
    "write_artifact",
]
