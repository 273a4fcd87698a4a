"""A source's path -> its reader: what is there is found, what is missing is said, the parts are put together."""

from collections.abc import Sequence
from fnmatch import fnmatchcase
from typing import Literal

from raexla.data.layouts.find import Found, Layout, common_names, find
from raexla.data.layouts.folder import PictureFolder
from raexla.data.layouts.jsonl import JsonLines
from raexla.data.layouts.reader import Joined, Reader
from raexla.data.layouts.scale_rae import ScaleRaeTars
from raexla.data.layouts.webdataset import WebdatasetTars
from raexla.data.shards.index import INDEX, Say, read_index, shard_names
from raexla.data.shards.reader import BoundedCache, ShardSet
from raexla.data.shards.store import Retry, Store
from raexla.files import FileMissing
from raexla.recipe import UserError

_NAMED = 5


def open_reader(
    path: str | Sequence[str],
    *,
    layout: Layout | None = None,
    images: str | None = None,
    only: Sequence[str] = (),
    missing: Literal["stop", "skip"] = "stop",
    piece: int = 64,
    cache: BoundedCache[bytes] | None = None,
    retry: Retry | None = None,
    say: Say | None = None,
) -> Reader:
    """The samples of one path or several, one after another.

    `images`: the root of a JSONL's pictures. `only`: globs, one of which each file's URL must match. `missing`: whether
    a file that is named and isn't there stops the run, or is left out and said (the order is then that of the rest).
    `piece` and `cache`: see `ShardSet`.

    Raises `UserError`: see `find`; files that are missing, naming them; nothing left.
    """
    paths = [path] if isinstance(path, str) else list(path)
    parts = find(paths, layout, retry)
    if images is not None and all(part.layout != "jsonl" for part in parts):
        raise UserError(f"{paths[0]}: is of the layout {parts[0].layout}; `images` is for lists (*.jsonl)")
    chosen = [chosen for part in parts if (chosen := _choose(part, only, missing, retry, say)) is not None]
    if not chosen:
        raise UserError(f"{', '.join(paths)}: none of its files matches `only: {list(only)}`")
    readers: list[Reader] = []
    for part in chosen:
        if part.layout == "jsonl":
            assert part.names is not None  # lists are always named
            readers.append(JsonLines(part.root, part.names, images=images, retry=retry, say=say))
        elif part.layout == "folder":
            readers.append(PictureFolder(part.root, retry=retry))
        else:
            shards = ShardSet(part.root, names=part.names, piece=piece, cache=cache, retry=retry, say=say)
            readers.append(WebdatasetTars(shards) if part.layout == "webdataset" else ScaleRaeTars(shards))
    return readers[0] if len(readers) == 1 else Joined(readers, common_names([part.root for part in chosen]))


def _choose(
    part: Found, only: Sequence[str], missing: Literal["stop", "skip"], retry: Retry | None, say: Say | None
) -> Found | None:
    """The part with the names that are wanted and there; None if none is wanted."""
    if part.layout == "folder" or not (part.named or only or missing == "skip"):
        return part
    store, names, named = Store(part.root, retry), part.names, part.named
    if names is None:
        named = store.exists(INDEX)
        names = tuple(shard.name for shard in read_index(store).shards) if named else tuple(shard_names(store))
    if only:
        names = tuple(name for name in names if any(fnmatchcase(f"{part.root}/{name}", glob) for glob in only))
        if not names:
            return None
    if named:
        names = _present(store, names, missing, say)
    return Found(part.layout, part.root, names, part.named)


def _present(store: Store, names: Sequence[str], missing: Literal["stop", "skip"], say: Say | None) -> tuple[str, ...]:
    absent = {name for name in names if not _is_there(store, name)} if _by_itself(store) else _unlisted(store, names)
    if not absent:
        return tuple(names)
    gone = [name for name in names if name in absent]
    named = ", ".join(gone[:_NAMED]) + (f" and {len(gone) - _NAMED} more" if len(gone) > _NAMED else "")
    if missing == "stop":
        raise UserError(
            f"{store.url}: {len(gone)} of the {len(names)} files that are named aren't there: {named}; put them back, "
            "or write `missing: skip` in the source's recipe to go on without them"
        )
    if len(gone) == len(names):
        raise UserError(f"{store.url}: none of the {len(names)} files that are named is there: {named}")
    if say is not None:
        say(f"{store.url}: {len(gone)} of {len(names)} files aren't there and are left out (missing: skip): {named}")
    return tuple(name for name in names if name not in absent)


def _by_itself(store: Store) -> bool:
    """A web server's listings may not be complete: there each file is asked for."""
    return store.url.startswith(("http://", "https://"))


def _is_there(store: Store, name: str) -> bool:
    try:
        store.size(name)
    except FileMissing:
        return False
    return True


def _unlisted(store: Store, names: Sequence[str]) -> set[str]:
    """The names that no listing of their folders has."""
    absent: set[str] = set()
    for folder in sorted({name.rpartition("/")[0] for name in names}):
        there = set(store.children(folder))
        absent |= {name for name in names if name.rpartition("/")[0] == folder and name.rpartition("/")[2] not in there}
    return absent
