"""The run directory: what it holds, when it may be gone on with, when it is refused."""

import json
import platform
import shutil
from collections.abc import Mapping
from importlib import metadata
from pathlib import Path
from typing import Any

from raexla.checkpoint import Checkpoint, latest
from raexla.checkpoint.files import read_json, write_json
from raexla.recipe import Recipe, UserError, differences, load_text, show
from raexla.train.base import StageRecipe
from raexla.train.mirror import Mirror

#: Keys in which a resumed run may differ from the one that began: they change no step that has been taken.
MAY_CHANGE = (
    "train.steps",
    "train.epochs",
    "train.accumulate",
    "train.profile",
    "run.dir",
    "runtime",
    "mesh",
    "eval",
    "obs",
    "checkpoint",
    "guards",
    "watch",
    "data.loader",
)


def versions() -> dict[str, str]:
    """Versions of what computes, for manifests."""
    found = {"python": platform.python_version()}
    for package in ("raexla", "torch", "torch_xla", "transformers", "safetensors"):
        try:
            found[package] = metadata.version(package)
        except metadata.PackageNotFoundError:
            continue
    return found


class RunDirectory:
    """A run's directory: on disk, or on an fsspec URL with a working copy on disk.

    `path` is where the run's files are written, `checkpoints` where its checkpoints go (on the URL directly), `place`
    what a person calls the directory.

    Args:
        fresh: remove what a former run left there. first: whether this is process 0, which writes all but heartbeats.

    Raises:
        UserError: it holds a run of another recipe, or something that is not a run.
    """

    def __init__(self, recipe: StageRecipe, stages: Mapping[str, type[Recipe]], fresh: bool, first: bool) -> None:
        self.place = recipe.run.dir.removeprefix("file://").rstrip("/") or "/"
        self.mirror: Mirror | None = None
        self.checkpoints: str | Path = f"{self.place}/checkpoints"
        if "://" in self.place:
            self.mirror = Mirror(self.place, first)
            self.path = self.mirror.path
            if not self.mirror.holds_run() and self.mirror.store.children():
                raise UserError(f"run.dir {self.place} is not empty and holds no run: choose another directory")
            if fresh and first:
                self.mirror.clear()
            self.mirror.pull()
        else:
            self.path = Path(self.place)
            self.checkpoints = self.path / "checkpoints"
        if self.path.exists() and not self.path.is_dir():
            raise UserError(f"run.dir {self.path} is a file: choose another directory")
        self.samples = self.path / "samples"
        self.artifact = self.path / "artifact"
        self._named: set[int] = set()
        if fresh and first and (self.path / "recipe.yaml").is_file():
            shutil.rmtree(self.path)
        elif (self.path / "recipe.yaml").is_file():
            self._check(recipe, stages)
        elif self.path.is_dir() and any(self.path.iterdir()):
            raise UserError(f"run.dir {self.path} is not empty and holds no run: choose another directory")
        if first:
            self.samples.mkdir(parents=True, exist_ok=True)
            (self.path / "recipe.yaml").write_text(show(recipe), encoding="utf-8")
        self.push()

    def _check(self, recipe: StageRecipe, stages: Mapping[str, type[Recipe]]) -> None:
        text = (self.path / "recipe.yaml").read_text(encoding="utf-8")
        old = load_text(text, stages, name=str(self.path / "recipe.yaml"))
        changed = [
            key for key in differences(old, recipe) if not any(f"{key}.".startswith(f"{free}.") for free in MAY_CHANGE)
        ]
        if changed:
            more = f" and {len(changed) - 6} more" if len(changed) > 6 else ""
            raise UserError(
                f"{self.place} holds a run of another recipe (differs in {', '.join(changed[:6])}{more}): "
                "choose another --out, or --fresh to start over there"
            )

    def latest(self) -> Checkpoint | None:
        """The checkpoint to go on from, if there is one."""
        return latest(self.checkpoints)

    def push(self) -> None:
        """Bring a directory on a URL up to date: before each checkpoint, after each evaluation, at the end."""
        if self.mirror is not None:
            self.mirror.push()

    def close(self, failed: bool) -> str | None:
        """`push` a last time and remove the working copy. A run that has `failed` is only told what went wrong."""
        return self.mirror.close(failed) if self.mirror is not None else None

    def note(self, values: Mapping[str, Any]) -> None:
        """Merge values into `run.json`."""
        path = self.path / "run.json"
        write_json(path, (read_json(path) if path.is_file() else {}) | dict(values))

    def quarantine(self, refused: list[dict[str, Any]]) -> None:
        """Name refused samples in `quarantine.jsonl`; those that are read again after a rollback only once."""
        lines = [json.dumps(entry) + "\n" for entry in refused]
        new = [line for line in lines if hash(line) not in self._named]
        self._named.update(map(hash, new))
        if new:
            with (self.path / "quarantine.jsonl").open("a", encoding="utf-8") as file:
                file.writelines(new)
