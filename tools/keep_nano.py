"""Keep a run's artifact as one of those that the repository ships: matrices in half precision, the rest as it is.

    python tools/keep_nano.py runs/nano-long/finetune/artifact recipes/nano/artifacts/model

Half of the bytes; what it does to the scores is measured by scoring the copy (docs/log.md). The manifest says what was
done, and which artifact it came from.
"""

import argparse
from pathlib import Path

import numpy as np

from raexla.checkpoint import read_artifact, write_artifact
from raexla.checkpoint.artifact import MANIFEST, WEIGHTS, artifact_kind
from raexla.recipe import ArtifactReference


def half(value: np.ndarray) -> np.ndarray:
    """float16 for a float32 matrix whose numbers fit; vectors (norms, biases, Fourier frequencies) stay."""
    if value.dtype != np.float32 or value.ndim < 2 or np.abs(value).max(initial=0.0) > np.finfo(np.float16).max:
        return value
    return value.astype(np.float16)


def keep(source: Path, target: Path) -> str:
    """Write `target`; returns its digest."""
    artifact = read_artifact(ArtifactReference(path=str(source)), artifact_kind(source, "SOURCE"), "SOURCE")
    extra = {p.name: p.read_bytes() for p in artifact.path.iterdir() if p.name not in (WEIGHTS, MANIFEST)}
    weights = {name: half(value) for name, value in artifact.weights().items()}
    meta = {**artifact.meta, "stored": "matrices in float16", "stored_from": artifact.digest}
    return write_artifact(target, artifact.kind, weights, artifact.facts, meta, extra)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("source", type=Path)
    parser.add_argument("target", type=Path)
    options = parser.parse_args()
    digest = keep(options.source, options.target)
    print(f"{options.target}: {sum(p.stat().st_size for p in options.target.iterdir()):,} bytes, digest {digest[:12]}")
