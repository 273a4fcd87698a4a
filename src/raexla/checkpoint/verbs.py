"""`raexla ckpt ls | verify | cp | rm`: what there is, whether it is what was written, a copy, an end."""

import json
import math
from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Any

from raexla.checkpoint import layout
from raexla.checkpoint.reading import Checkpoint
from raexla.checkpoint.recipe import CheckpointRecipe
from raexla.checkpoint.retention import kept
from raexla.files import Store
from raexla.recipe import BadDataError, UserError


def folder_of(place: str) -> Store | None:
    """The `checkpoints` folder that `place` is, or that the run at `place` has; None if it is neither."""
    store = Store(place)
    if layout.step_of(store.root.rpartition("/")[2]) is not None:
        return None
    names = store.children()
    if any(layout.step_of(name) is not None for name in names):
        return store
    if "checkpoints" in names:
        return store.below("checkpoints")
    return store if store.root.endswith("/checkpoints") and store.exists() else None


def open_newest(place: str) -> Checkpoint:
    """The checkpoint at `place`, or the newest one of the run or `checkpoints` folder there.

    Raises:
        UserError: there is none, or it is damaged.
    """
    folder = folder_of(place)
    if folder is None:
        return Checkpoint.open(place)
    found = _complete(folder)
    if not found:
        raise UserError(f"{folder.url}: there is no complete checkpoint")
    return Checkpoint.open(folder.below(found[-1].name))


def ls(place: str) -> list[str]:
    """Lines of a table: step, when, bytes, why it is kept by the recipe of the newest."""
    folder = _folder(place)
    found = layout.entries(folder)
    if not found:
        return [f"{folder.url}: no checkpoints"]
    marks: dict[int, dict[str, Any]] = {}
    wrong: dict[int, str] = {}
    for entry in found:
        if entry.complete:
            try:
                marks[entry.step] = layout.read_marker(folder.below(entry.name))
            except UserError:
                wrong[entry.step] = f"damaged: {layout.MARKER} can't be read; see raexla ckpt verify"
        elif folder.local:
            wrong[entry.step] = f"damaged: no {layout.MARKER}"
        else:
            wrong[entry.step] = "not finished: being written, or left by a killed program"
    reasons = kept({step: mark.get("metrics", {}) for step, mark in marks.items()}, _recipe(folder, marks))
    lines = [folder.url, f"{'step':>10}  {'saved (UTC)':16}  {'size':>10}  kept because"]
    for entry in found:
        mark = marks.get(entry.step)
        if mark is None:
            lines.append(f"{entry.step:>10}  {'':16}  {'':>10}  {wrong[entry.step]}")
            continue
        when = datetime.fromtimestamp(mark["time"], UTC).strftime("%Y-%m-%d %H:%M")
        why = ", ".join(reasons[entry.step]) or "goes at the next save"
        lines.append(f"{entry.step:>10}  {when}  {size_of(mark['bytes']):>10}  {why}")
    return lines


def verify(places: Sequence[str]) -> list[str]:
    """Read every byte of checkpoints; of all that a run has, where a run is named. Lines about those that are whole.

    Raises:
        BadDataError: names every file that isn't what was written.
        UserError: there is no checkpoint at a place.
    """
    lines, problems = [], []
    for place in places:
        folder = folder_of(place)
        stores = [Store(place)] if folder is None else [folder.below(e.name) for e in _present(folder)]
        if not stores:
            raise UserError(f"{place}: there is no complete checkpoint")
        for store in stores:
            if not store.exists():
                raise UserError(f"{store.url}: there is no such checkpoint")
            try:
                checkpoint = Checkpoint.open(store)
                found = checkpoint.problems()
            except layout.CheckpointDamaged as error:
                problems.append(str(error).partition(". This checkpoint is damaged")[0])
                continue
            problems += [f"{store.url}/{problem}" for problem in found]
            if not found:
                counts = f"{_some(len(checkpoint.manifest['files']), 'file')}, {size_of(checkpoint.bytes)}"
                lines.append(f"{store.url}: step {checkpoint.step}, {counts}: as they were written")
    if problems:
        raise layout.NotVerified(
            "\n  ".join([_some(len(problems), "problem"), *problems, *(f"({line})" for line in lines)])
        )
    return lines


def cp(source: str, target: str) -> list[str]:
    """Copy a checkpoint, or the newest one of a run, to another run or `checkpoints` folder, on whatever file system.

    What has been copied is read again and held against the hashes before the copy is there.

    Raises:
        UserError: nothing to copy, one of this step is there already, or the copy isn't what was written.
    """
    checkpoint = open_newest(source)
    name = layout.step_name(checkpoint.step)
    folder = folder_of(target) or Store(target)
    if layout.step_of(folder.root.rpartition("/")[2]) is not None:
        raise UserError(f"{target}: name the folder or run to copy to; the copy is called {name} there")
    if folder.exists(name):
        raise UserError(f"{folder.url}/{name} is there already: `raexla ckpt rm {folder.url}/{name}` takes it away")
    copy = layout.begin(folder, name)
    try:
        for file in checkpoint.manifest["files"]:
            with checkpoint.store.open(file) as opened:
                copy.write(file, opened)
        if problems := Checkpoint(copy, checkpoint.manifest).problems():
            raise layout.NotVerified(
                f"{checkpoint.url}: not copied, since the copy is not what was written: {'; '.join(problems)}. "
                f"`raexla ckpt verify {checkpoint.url}` says whether this one is"
            )
        store = checkpoint.store
        layout.publish(folder, name, store.read(layout.MANIFEST), store.read(layout.MARKER))
    except BaseException:
        layout.abandon(folder, name)
        raise
    return [f"{folder.url}/{name}: {size_of(checkpoint.bytes)}, every hash compared"]


def rm(places: Sequence[str], force: bool) -> list[str]:
    """Take checkpoints away, damaged ones too.

    Raises:
        UserError: a place is no checkpoint, or no complete one would be left and it isn't forced.
    """
    going: dict[str, tuple[Store, list[str]]] = {}
    for place in places:
        url, _, name = Store(place).url.rpartition("/")
        if layout.step_of(name) is None:
            raise UserError(f"{place} is not a checkpoint: they are called step-XXXXXXXX (raexla ckpt ls RUN)")
        folder = Store(url or ".")
        if name not in folder.children():
            raise UserError(f"{place}: there is no such checkpoint")
        going.setdefault(folder.url, (folder, []))[1].append(name)
    for folder, names in going.values():
        complete = {entry.name for entry in _complete(folder)}
        if complete & set(names) and not complete - set(names) and not force:
            raise UserError(
                f"{folder.url}: no complete checkpoint would be left to go on from; --force if that is meant"
            )
    for folder, names in going.values():
        for name in dict.fromkeys(names):
            layout.remove(folder, name)
    return [f"removed {folder.url}/{name}" for folder, names in going.values() for name in dict.fromkeys(names)]


def describe(checkpoint: Checkpoint, names: bool = False) -> list[str]:
    """What a checkpoint is; with `names` every tensor."""
    manifest = checkpoint.manifest
    tensors = manifest["tensors"]
    numbers = sum(math.prod(entry["shape"]) for entry in tensors.values())
    when = datetime.fromtimestamp(manifest["time"], UTC).strftime("%Y-%m-%d %H:%M UTC")
    files = len(manifest["files"])
    lines = [
        f"{checkpoint.url}: checkpoint of step {checkpoint.step}, saved {when}",
        f"{len(tensors)} tensors, {numbers:,} numbers, {size_of(checkpoint.bytes)} in {_some(files, 'file')}",
    ]
    if manifest["metrics"]:
        lines.append("figures: " + ", ".join(f"{name} {value:.4g}" for name, value in manifest["metrics"].items()))
    if names:
        for key, entry in tensors.items():
            lines.append(
                f"  {key} {json.dumps(entry['shape'])} {entry['dtype']}, {_some(len(entry['pieces']), 'piece')}"
            )
    return lines


def size_of(count: float) -> str:
    """Bytes for a person."""
    for unit in ("B", "KiB", "MiB", "GiB"):
        if count < 1024 or unit == "GiB":
            return f"{count:.0f} B" if unit == "B" else f"{count:.1f} {unit}"
        count /= 1024
    raise AssertionError("unreachable: the last unit takes all")


def _some(count: int, what: str) -> str:
    return f"{count} {what}" if count == 1 else f"{count} {what}s"


def _folder(place: str) -> Store:
    folder = folder_of(place)
    if folder is None:
        raise UserError(f"{place} is no run and no `checkpoints` folder")
    return folder


def _complete(folder: Store) -> list[layout.Entry]:
    return [entry for entry in layout.entries(folder) if entry.complete]


def _present(folder: Store) -> list[layout.Entry]:
    """Those that should be whole: on a local disk all, else the marked ones."""
    return [entry for entry in layout.entries(folder) if entry.complete or folder.local]


def _recipe(folder: Store, marks: dict[int, dict[str, Any]]) -> CheckpointRecipe:
    """The rules by which the newest was saved; those of a run that says nothing if it has none or can't be read."""
    for step in sorted(marks, reverse=True)[:1]:
        try:
            said = Checkpoint.open(folder.below(layout.step_name(step))).meta.get("recipe", {}).get("checkpoint", {})
        except (UserError, BadDataError):
            break
        return CheckpointRecipe.model_validate(said, strict=False)
    return CheckpointRecipe()
