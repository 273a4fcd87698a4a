"""How a checkpoint lies in its folder, and when it is one.

    checkpoints/step-00001000/pieces-00000-000.safetensors    blocks of tensors: process, number
                              manifest.json                   tensors, pieces, hashes, and what the run says of itself
                              complete.json                   the marker, written last: the manifest's hash

On a local disk all of it is written under a temporary name and renamed, so a folder `step-...` without its marker has
been damaged. In an object store, which has no rename, it is written in place, and without the marker it isn't there.
"""

import hashlib
import json
import os
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from raexla.files import FileUnavailable, Store
from raexla.recipe import BadDataError, UserError

FORMAT = 2
MANIFEST = "manifest.json"
MARKER = "complete.json"
_NAME = re.compile(r"step-(\d{8,})\Z")
_LEFTOVER = re.compile(r"\.(step-\d{8,})\.(tmp|old|gone)\Z")


class CheckpointDamaged(UserError):
    """A checkpoint isn't what was written; the message names the file and says what to do."""


def damaged(url: str, name: str, what: str) -> CheckpointDamaged:
    """The error for the file `name` of the checkpoint at `url`."""
    return CheckpointDamaged(
        f"{url}/{name}: {what}. This checkpoint is damaged: `raexla ckpt verify {url}` says all that is wrong with it; "
        f"after `raexla ckpt rm {url}` the run goes on from the one before"
    )


def step_name(step: int) -> str:
    """The folder of a step's checkpoint."""
    return f"step-{step:08d}"


def step_of(name: str) -> int | None:
    """The step that a folder's name says, if it is one of ours."""
    found = _NAME.match(name)
    return int(found[1]) if found else None


def dump(value: Any) -> bytes:
    """JSON as it lies in a checkpoint."""
    return (json.dumps(value, indent=1, sort_keys=True) + "\n").encode()


def marker(manifest: Mapping[str, Any], written: bytes) -> bytes:
    """The content of the marker: a function of the manifest, so that any other content shows."""
    value = {name: manifest[name] for name in ("format", "step", "time", "metrics")}
    value["bytes"] = sum(entry["bytes"] for entry in manifest["files"].values())
    value["manifest"] = {"bytes": len(written), "sha256": hashlib.sha256(written).hexdigest()}
    return dump(value)


@dataclass(frozen=True)
class Entry:
    """A folder of a checkpoint, complete or not."""

    step: int
    complete: bool

    @property
    def name(self) -> str:
        """The folder's name."""
        return step_name(self.step)


def entries(store: Store) -> list[Entry]:
    """What is in a `checkpoints` folder, by steps; nothing if there is no such folder."""
    found = []
    for name in store.children():
        step = step_of(name)
        if step is not None:
            found.append(Entry(step, store.exists(f"{name}/{MARKER}")))
    return sorted(found, key=lambda entry: entry.step)


def remove(store: Store, name: str) -> None:
    """Take a checkpoint away; killed at any instant, it leaves none that looks complete."""
    if store.local:
        gone = f".{name}.gone"
        store.remove_folder(gone)
        os.replace(store.path(name), store.path(gone))
        store.remove_folder(gone)
    else:
        store.remove(f"{name}/{MARKER}")
        store.remove_folder(name)


def clean(store: Store) -> list[str]:
    """Take away what a killed program left half done, and put back what it was about to replace; their names."""
    done = []
    for name in store.children():
        left = _LEFTOVER.match(name)
        if left is not None and left[2] == "old" and not store.exists(left[1]):
            os.replace(store.path(name), store.path(left[1]))  # killed between two renames
        elif left is not None or (not store.local and step_of(name) is not None and not is_marked(store, name)):
            store.remove_folder(name)
        else:
            continue
        done.append(name)
    return done


def begin(store: Store, name: str) -> Store:
    """An empty place to write the checkpoint `name` to, until `publish`; one that is there already is kept as long as
    that can be."""
    if not store.local:
        if store.children(name):
            remove(store, name)
        return store.below(name)
    os.makedirs(store.path(""), exist_ok=True)
    store.remove_folder(f".{name}.tmp")
    os.makedirs(store.path(f".{name}.tmp"))
    return place(store, name)


def place(store: Store, name: str) -> Store:
    """Where the checkpoint `name` is written to until `publish`."""
    return store.below(f".{name}.tmp" if store.local else name)


def publish(store: Store, name: str, manifest: bytes, mark: bytes) -> None:
    """Write manifest and marker, and give the checkpoint its name: it is there, whatever happens from now on."""
    folder = place(store, name)
    folder.write_bytes(MANIFEST, manifest)
    folder.write_bytes(MARKER, mark)
    if store.local:
        final, old = store.path(name), store.path(f".{name}.old")
        sync_folder(folder.path(""))
        if os.path.exists(final):
            store.remove_folder(f".{name}.old")
            os.replace(final, old)
        os.replace(folder.path(""), final)
        sync_folder(store.path(""))
        store.remove_folder(f".{name}.old")


def abandon(store: Store, name: str) -> None:
    """Take away what was written since `begin`."""
    store.remove_folder(f".{name}.tmp" if store.local else name)


def is_marked(store: Store, name: str) -> bool:
    """Whether a checkpoint has its marker."""
    return store.exists(f"{name}/{MARKER}")


def sync_folder(path: str) -> None:
    """Have the disk remember the names in a local folder."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def read_marker(store: Store) -> dict[str, Any]:
    """The marker of the checkpoint at `store`, as far as it can be understood.

    Raises:
        UserError: not a checkpoint, damaged, or of another format.
    """
    if not store.exists(MARKER):
        if not store.exists():
            raise UserError(f"{store.url}: there is no such checkpoint")
        old = store.exists(MANIFEST)
        if not store.local or not (old or step_of(store.url.rpartition("/")[2]) is not None):
            raise UserError(f"{store.url} is not a checkpoint, or was never finished: it has no {MARKER}")
        if old and _format(store) == 1:
            raise UserError(f"{store.url} has checkpoint format 1, this program reads {FORMAT}")
        raise damaged(store.url, MARKER, "is missing")
    try:
        value = json.loads(store.read(MARKER))
    except ValueError as error:
        raise damaged(store.url, MARKER, f"not JSON ({error})") from error
    if not isinstance(value, dict) or not isinstance(value.get("format"), int):
        raise damaged(store.url, MARKER, "says nothing of a format")
    if value["format"] != FORMAT:
        raise UserError(f"{store.url}/{MARKER} has checkpoint format {value['format']}, this program reads {FORMAT}")
    return value


def _format(store: Store) -> Any:
    try:
        found = json.loads(store.read(MANIFEST))
    except ValueError:
        return None
    return found.get("format") if isinstance(found, dict) else None


def read_manifest(store: Store) -> dict[str, Any]:
    """The manifest of the checkpoint at `store`, held against its marker.

    Raises:
        UserError: not a checkpoint, damaged, or of another format.
    """
    known = read_marker(store)
    try:
        written = store.read(MANIFEST)
    except FileUnavailable as error:
        raise damaged(store.url, MANIFEST, str(error)) from error
    expected = known.get("manifest")
    found = {"bytes": len(written), "sha256": hashlib.sha256(written).hexdigest()}
    if expected != found:
        raise damaged(store.url, MANIFEST, f"{found}, but {MARKER} says {expected}")
    manifest: dict[str, Any] = json.loads(written)
    if store.read(MARKER) != marker(manifest, written):
        raise damaged(store.url, MARKER, f"does not say what {MANIFEST} says")
    named = step_of(store.url.rpartition("/")[2])
    if named is not None and named != manifest["step"]:
        raise damaged(store.url, MANIFEST, f"is of step {manifest['step']}")
    return manifest


class NotVerified(BadDataError):
    """Files of checkpoints differ from what was written; each is named."""
