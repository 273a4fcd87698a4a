"""Artifacts: what a stage hands to the next one, with a manifest and hashes.

A directory of safetensors (and whatever else its kind needs: `config.json`, a tokenizer) plus `artifact.json`.
A stage that is given an artifact checks its kind, its hashes and that it was made for the same encoder, token grid,
channels, statistics and shift.
"""

import hashlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from safetensors.numpy import load_file, save_file

from raexla.checkpoint.files import directory_when_complete, read_json, sha256, write_json
from raexla.files import local_only
from raexla.recipe import ArtifactReference, UserError

FORMAT = 1
MANIFEST = "artifact.json"
WEIGHTS = "model.safetensors"


@dataclass(frozen=True)
class Artifact:
    """An opened artifact whose hashes have been checked."""

    path: Path
    kind: str
    facts: Mapping[str, Any]
    """What a consumer checks: encoder hash, token grid, channels, statistics, shift ..."""
    meta: Mapping[str, Any]
    """What a person wants to know: recipe, versions, parents, scores."""
    digest: str
    """sha256 over the manifest's file hashes: the artifact's identity."""

    def weights(self) -> dict[str, np.ndarray]:
        """The tensors of `model.safetensors` by name."""
        return load_file(self.path / WEIGHTS)

    def require(self, what: str, expected: Any, where: str) -> None:
        """Refuse the artifact unless `facts[what]` is `expected`.

        Raises:
            UserError: with both values.
        """
        found = self.facts.get(what)
        if found != expected:
            raise UserError(f"{where}: {self.path} was made for {what} {found}, but this recipe has {expected}")


def _digest(files: Mapping[str, str]) -> str:
    return hashlib.sha256("".join(f"{name} {value}\n" for name, value in sorted(files.items())).encode()).hexdigest()


def folder_digest(path: Path) -> str:
    """Identity of a folder of weights that has no manifest (a Hugging Face folder): hash over its files' hashes."""
    names = sorted(p for p in path.iterdir() if p.is_file() and p.name != MANIFEST and not p.name.startswith("."))
    return _digest({p.name: sha256(p) for p in names})


def write_artifact(
    path: Path,
    kind: str,
    weights: Mapping[str, np.ndarray],
    facts: Mapping[str, Any],
    meta: Mapping[str, Any],
    extra: Mapping[str, bytes] | None = None,
    fill: Callable[[Path], None] | None = None,
) -> str:
    """Write an artifact, complete or not at all; returns its digest.

    Args:
        weights: name -> array, saved as `model.safetensors`.
        extra: further files by name, such as `config.json` or `tokenizer.json`.
        fill: writes what is too big to be handed over (streamed weights) into the folder that it is given.
    """
    with directory_when_complete(path) as temporary:
        if weights:
            arrays = {key: np.asarray(value, order="C").reshape(value.shape) for key, value in weights.items()}
            save_file(arrays, temporary / WEIGHTS, metadata={"format": "pt"})
        for name, content in (extra or {}).items():
            (temporary / name).write_bytes(content)
        if fill is not None:
            fill(temporary)
        files = {p.name: sha256(p) for p in sorted(temporary.iterdir())}
        digest = _digest(files)
        manifest = {"format": FORMAT, "kind": kind, "files": files, "digest": digest}
        write_json(temporary / MANIFEST, manifest | {"facts": dict(facts), "meta": dict(meta)})
    return digest


def artifact_kind(path: Path, where: str) -> str:
    """The kind of an artifact, from its manifest alone; `read_artifact` checks the rest.

    Raises:
        UserError: there is no artifact.
    """
    local_only(path, where)
    if not (path / MANIFEST).is_file():
        state = "is not an artifact: it has no artifact.json" if path.exists() else "does not exist"
        raise UserError(f"{where}: {path} {state}")
    return str(read_json(path / MANIFEST).get("kind"))


def read_artifact(ref: ArtifactReference, kind: str, where: str) -> Artifact:
    """Open an artifact and check its kind and every file's hash.

    Args:
        where: the dotted path of the reference in the recipe, for messages.

    Raises:
        UserError: missing, of another kind or format, damaged, or not the one that the recipe pins.
    """
    path = Path(ref.path)
    found_kind, manifest_path = artifact_kind(path, where), path / MANIFEST
    if ref.sha256 and (found := sha256(manifest_path)) != ref.sha256:
        raise UserError(f"{where}: {manifest_path} has sha256 {found}, the recipe asks for {ref.sha256}")
    manifest = read_json(manifest_path)
    if manifest.get("format") != FORMAT:
        raise UserError(f"{where}: {path} has artifact format {manifest.get('format')}, this program reads {FORMAT}")
    if found_kind != kind:
        raise UserError(f"{where}: {path} is an artifact of kind {found_kind}, a {kind} is needed")
    for name, expected in manifest["files"].items():
        if not (path / name).is_file():
            raise UserError(f"{where}: {path / name} is missing from the artifact")
        if sha256(path / name) != expected:
            raise UserError(f"{where}: {path / name} has changed since the artifact was written (sha256 differs)")
    return Artifact(path, kind, manifest["facts"], manifest["meta"], manifest["digest"])
