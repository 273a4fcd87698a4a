"""What a folder of runs left behind, as plain values."""

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import yaml

from raexla.data import Refused, SourceRecipe
from raexla.data.draws import key, permutation
from raexla.data.source import Source
from raexla.obs import read_metrics
from raexla.recipe import UserError

STAGES = ("encoder", "language", "decoder", "imagenet", "pretrain", "finetune")
"""The order in which a reader meets them."""


@dataclass(frozen=True)
class Run:
    """A run directory."""

    name: str
    stage: str
    recipe: Mapping[str, Any]
    note: Mapping[str, Any]
    """`run.json`."""
    records: list[dict[str, Any]]
    sheets: list[tuple[int, Path]]
    """(step, picture) in the order of the steps."""

    def series(self, name: str) -> tuple[list[float], list[float]]:
        """Steps and values of a metric."""
        pairs = [(float(r["step"]), float(r[name])) for r in self.records if isinstance(r.get(name), int | float)]
        return [step for step, _ in pairs], [value for _, value in pairs]

    def metrics(self) -> list[str]:
        """Names of all metrics that are numbers, in order of appearance."""
        names = {
            name: None for record in self.records for name, value in record.items() if isinstance(value, int | float)
        }
        return [name for name in names if name != "step"]

    def typical(self, name: str) -> float | None:
        """The median over the run's second half, where nothing warms up any more."""
        _, values = self.series(name)
        return float(np.median(values[len(values) // 2 :])) if values else None


@dataclass(frozen=True)
class Picture:
    """A picture to show: a file, or uint8 pixels."""

    image: Path | np.ndarray
    caption: str
    right: bool | None = None


@dataclass(frozen=True)
class Collected:
    """Everything that a page shows."""

    runs: list[Run]
    samples: Sequence[tuple[Path, Mapping[str, Any]]]
    """Folders of `raexla sample` and their manifests."""
    scores: Sequence[tuple[Path, Mapping[str, Any]]]
    """Folders of `raexla score` and their `scores.json`."""
    reconstructions: Sequence[tuple[Path, Mapping[str, Any]]] = ()
    """Folders of `raexla reconstruct` and their `reconstruct.json`."""
    data: list[tuple[str, str, list[Picture]]] = field(default_factory=list)
    """(name, what it says of itself, pictures) of the training data's sources."""


def collect(folder: Path, pictures_per_source: int = 12) -> Collected:
    """Read `folder` and the folders in it.

    Raises:
        UserError: there is neither a run nor scores nor samples nor reconstructions.
    """
    if not folder.is_dir():
        raise UserError(f"{folder}: there is no such folder; give one that holds run directories")
    places = [folder, *sorted(path for path in folder.iterdir() if path.is_dir() and not path.name.startswith("."))]
    runs = [read_run(path) for path in places if (path / "recipe.yaml").is_file()]
    runs.sort(key=lambda run: (STAGES.index(run.stage) if run.stage in STAGES else len(STAGES), run.name))
    samples = [(path, _json(path / "manifest.json")) for path in places if (path / "manifest.json").is_file()]
    scores = [(path, _json(path / "scores.json")) for path in places if (path / "scores.json").is_file()]
    again = [(path, _json(path / "reconstruct.json")) for path in places if (path / "reconstruct.json").is_file()]
    if not runs and not samples and not scores and not again:
        raise UserError(f"{folder}: nothing to report: no run directory, no samples, no scores, no reconstructions")
    return Collected(runs, samples, scores, again, read_data(runs, pictures_per_source))


def read_run(path: Path) -> Run:
    """A run directory."""
    recipe = yaml.safe_load((path / "recipe.yaml").read_text(encoding="utf-8"))
    note = _json(path / "run.json") if (path / "run.json").is_file() else {}
    sheets = []
    for picture in sorted((path / "samples").glob("*.png")) if (path / "samples").is_dir() else []:
        if number := re.search(r"(\d+)$", picture.stem):
            sheets.append((int(number.group(1)), picture))
    return Run(path.name, str(recipe.get("stage", path.name)), recipe, note, list(read_metrics(path)), sorted(sheets))


def read_data(runs: list[Run], count: int) -> list[tuple[str, str, list[Picture]]]:
    """Pictures of every source that the runs were trained on and that is still there, each source once."""
    seen: dict[str, tuple[str, str, list[Picture]]] = {}
    for run in runs:
        for plain in run.recipe.get("data", {}).get("sources", []):
            recipe = SourceRecipe.model_validate(plain)
            name = recipe.path if isinstance(recipe.path, str) else ", ".join(recipe.path)
            if name in seen or "://" in name:
                continue
            try:
                source = Source(recipe)
            except UserError:  # moved or removed since
                continue
            pictures = _pictures(source, count)
            if pictures:
                about = f"{source.samples:,} samples, kind {recipe.kind}, manifest {(source.manifest_hash or '?')[:12]}"
                seen[name] = (recipe.name, about, pictures)
    return list(seen.values())


def _pictures(source: Source, count: int) -> list[Picture]:
    places = [(shard, row) for shard, samples in enumerate(source.shard_samples) for row in range(samples)]
    found: list[Picture] = []
    for number in permutation(len(places), key(0, "report"))[: 2 * count].tolist():
        try:
            sample = source.load(*places[number], seed=0, epoch=0)
        except Refused:
            continue
        if sample.image is not None and len(found) < count:
            turns = [turn.text.replace("<image>", "").strip() for turn in sample.conversation[:2]]
            found.append(Picture(sample.image, sample.caption or " — ".join(turns)))
    return found


def _json(path: Path) -> dict[str, Any]:
    value: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    return value
