"""`raexla ckpt show`: what an artifact or a checkpoint is, without opening its weights."""

import json
from pathlib import Path
from typing import Any

from safetensors import safe_open

from raexla.checkpoint import read_artifact
from raexla.checkpoint.artifact import MANIFEST, WEIGHTS, artifact_kind
from raexla.checkpoint.layout import MARKER, step_of
from raexla.checkpoint.verbs import describe, folder_of, open_newest
from raexla.files import Store
from raexla.recipe import ArtifactReference, UserError

#: Parts of a manifest that are pages long.
_LONG = ("recipe", "released_config")


def show_artifact(place: str | Path, names: bool = False) -> list[str]:
    """Lines about the artifact or checkpoint at `place`; for a run directory its artifact, else its newest checkpoint.

    Args:
        names: every tensor of a checkpoint too.

    Raises:
        UserError: nothing of the kind there, or its files have changed.
    """
    store, path = Store(place), Path(place)
    if store.local and not names and (path / "artifact" / MANIFEST).is_file():
        path = path / "artifact"
    if not store.local or not (path / MANIFEST).is_file():
        if (
            folder_of(str(place)) is None
            and not store.exists(MARKER)
            and step_of(store.root.rpartition("/")[2]) is None
        ):
            raise UserError(f"{place} is no artifact, no checkpoint and no run with one")
        found = open_newest(str(place))
        found.verify()
        return [*describe(found, names), *_values(found.meta)]
    artifact = read_artifact(ArtifactReference(path=str(path)), artifact_kind(path, "ckpt show"), "ckpt show")
    lines = [f"{path}: artifact of kind {artifact.kind}, digest {artifact.digest}; every file is as it was written"]
    if (path / WEIGHTS).is_file():
        with safe_open(path / WEIGHTS, "pt") as handle:  # type: ignore[no-untyped-call]
            lines.append(_counts({name: handle.get_slice(name).get_shape() for name in handle.keys()}))  # noqa: SIM118
    return [*lines, "made for:", *_values(artifact.facts), "from:", *_values(artifact.meta)]


def _counts(shapes: dict[str, Any]) -> str:
    total = 0
    for shape in shapes.values():
        numbers = 1
        for size in shape:
            numbers *= size
        total += numbers
    return f"{len(shapes)} tensors, {total:,} numbers"


def _values(content: Any) -> list[str]:
    lines = []
    for key, value in sorted(content.items()):
        if key in _LONG and isinstance(value, dict):
            lines.append(f"  {key}: {len(value)} keys")
        else:
            lines.append(f"  {key}: {value if isinstance(value, str) else json.dumps(value)}")
    return lines
