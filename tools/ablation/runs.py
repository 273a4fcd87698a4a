"""Trains and scores one cell at a time, through `raexla train`'s own path; a cell that is done is not done again."""

import hashlib
import json
import shutil
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from ablation.variants import RECIPE, Cell, settings
from raexla.checkpoint.files import read_json, write_json
from raexla.data.nano.write import COUNTS, write_nano
from raexla.data.text import TextRecipe, find_fonts, write_text
from raexla.obs.metrics import read_metrics
from raexla.recipe import UserError

RUNTIMES = {"eager": "runtime={type: eager, device: cpu}", "xla": "runtime={type: xla, platform: cpu, devices: 1}"}
_TEXT, _HELD_OUT, _OTHER_SEED = 3000, 1000, 1
_CURVE = ("psnr", "ssim", "rfid")
_OF_CRITIC = ("critic/", "adversarial_weight", "gradient_norm/", "loss/")


@dataclass(frozen=True)
class Bench:
    """Where cells are run, and how long they are."""

    out: Path
    data: Path
    steps: int
    runtime: str = "eager"

    def file(self, cell: Cell, suffix: str = ".json") -> Path:
        """A cell's result, or what belongs to it."""
        return self.out / "cells" / f"{cell.name}{suffix}"

    @property
    def made(self) -> Path:
        """Data that the tool makes."""
        return self.out / "data"

    def settings(self, cell: Cell) -> list[str]:
        """The cell's `--set` options, but for its run directory."""
        return [*settings(cell, self.steps, str(self.data), str(self.made)), RUNTIMES[self.runtime]]

    def identity(self, cell: Cell) -> str:
        """What a result must have been made with to stand for this cell: hash over the recipe's text and settings."""
        text = json.dumps([Path(RECIPE).read_text(encoding="utf-8"), self.settings(cell)])
        return hashlib.sha256(text.encode()).hexdigest()

    def folders(self) -> dict[str, str]:
        """Held-out pictures: set -> folder."""
        return {
            "scenes": str(self.data / "validation"),
            "words": str(self.made / "held-out" / "words"),
            "text": str(self.made / "held-out" / "text"),
        }

    def make_data(self) -> list[str]:
        """Write what training and scoring read, if it isn't there; a line about each folder.

        Held-out words and text are drawn with another seed; held-out scenes are the nano data's validation split.
        """
        wanted = ("decoder", "pretrain", "words", "validation")
        lines = write_nano(self.data, {name: COUNTS[name] for name in wanted}, processes=1)
        lines += write_nano(self.made / "held-out", {"words": _HELD_OUT}, seed=_OTHER_SEED, processes=1)
        for folder, count, seed in (("text", _TEXT, 0), ("held-out/text", _HELD_OUT, _OTHER_SEED)):
            text = TextRecipe(count=count, size=32, seed=seed)
            lines += write_text(str(self.made / folder), text, find_fonts(), processes=1)[:1]
        return lines


def done(bench: Bench, cell: Cell) -> bool:
    """Whether a cell has its result.

    Raises:
        UserError: it has one that was made with other settings.
    """
    path = bench.file(cell)
    if not path.is_file():
        return False
    if read_json(path)["identity"] != bench.identity(cell):
        raise UserError(
            f"{path} was made with other settings (steps, runtime, data or recipe): remove it, or give another --out"
        )
    return True


def run(bench: Bench, cell: Cell, train: Callable[[list[str]], Path], scorer: Any) -> dict[str, Any]:
    """Train a cell and score it; writes its result and its pictures, and returns the former.

    Args:
        train: trains the nano recipe with `--set` options to its end; returns the run directory.
        scorer: see `scores.Scorer`.
    """
    began = time.time()
    folder = bench.out / "runs" / cell.name
    directory = train([*bench.settings(cell), f"run.dir={folder}", "checkpoint.every_steps=100000"])
    trained = time.time()
    scores, shown = scorer.score(directory / "artifact", cell.variant.scored_on, cell.variant.noised)
    curve, critic = course(directory)
    result = {
        "format": 1,
        "cell": cell.name,
        "variant": cell.variant.name,
        "seed": cell.seed,
        "identity": bench.identity(cell),
        "settings": bench.settings(cell),
        "scores": scores,
        "curve": curve,
        "records": critic,
        "seconds": {"train": round(trained - began, 1), "score": round(time.time() - trained, 1)},
    }
    bench.file(cell).parent.mkdir(parents=True, exist_ok=True)
    np.savez(bench.file(cell, ".npz"), **shown)
    write_json(bench.file(cell), result)
    shutil.rmtree(directory / "checkpoints", ignore_errors=True)
    return result


def course(run: Path) -> tuple[list[dict[str, float]], list[dict[str, Any]]]:
    """How a run went, from its metrics: PSNR, SSIM and rFID at each validation; losses and what the critic says at
    each record."""
    curve: list[dict[str, float]] = []
    records: list[dict[str, Any]] = []
    for record in read_metrics(run):
        if "validation/psnr" in record:
            curve.append(
                {"step": record["step"]}
                | {name: record[f"validation/{name}"] for name in _CURVE if f"validation/{name}" in record}
            )
        elif "phase" in record and "loss" in record:
            kept = {name: value for name, value in record.items() if name.startswith(_OF_CRITIC)}
            records.append({"step": record["step"], "phase": record["phase"], **kept})
    return curve, records
