"""What a source's path means: which files, in which layout. The one place that decides it.

A path is a folder, a brace pattern (`x-{000..099}.tar`), a glob (`*/x-*.tar`), one `.tar` or `.jsonl`, an `index.json`,
a `wds_manifest.json`, or a text file that lists such paths, a line each.
"""

import json
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

from braceexpand import braceexpand
from fsspec.utils import glob_translate

from raexla.data.layouts.lines import ENDING
from raexla.data.shards.index import INDEX
from raexla.data.shards.store import Retry, Store
from raexla.data.shards.tar import IMAGE_EXTENSIONS
from raexla.recipe import UserError

Layout = Literal["webdataset", "scale_rae", "jsonl", "folder"]

MANIFEST = "wds_manifest.json"
_MAKE = "`raexla shards pack FOLDER --out DIR` makes"


@dataclass(frozen=True)
class Found:
    """Files of one layout below one folder. `names` is None where the folder's index says which, or all count."""

    layout: Layout
    root: str
    names: tuple[str, ...] | None = None
    named: bool = False
    """Whether the names were written down, by a pattern or a list, so that each of them must be there."""


def find(paths: Sequence[str], layout: Layout | None = None, retry: Retry | None = None) -> list[Found]:
    """What each path leads to, one part a folder. Raises `UserError`: nothing there, nothing that looks like a layout
    (saying what was looked for), two layouts in one folder, one file named twice."""
    parts = [part for path in paths for part in _Finder(path, layout, retry).find()]
    seen: set[str] = set()
    for part in parts:
        for name in part.names or ("",):
            url = f"{part.root}/{name}"
            if url in seen:
                raise UserError(f"{url}: named twice; a source's weight says how often it is read")
            seen.add(url)
    return parts


class _Finder:
    """One path of a recipe."""

    def __init__(self, path: str, layout: Layout | None, retry: Retry | None) -> None:
        self.path, self.layout, self.retry = path, layout, retry

    def find(self) -> list[Found]:
        if self._is_pattern():
            return self._files(self._expand(self.path), named="{" in self.path)
        name = self.path.rstrip("/").rpartition("/")[2]
        if name.endswith((".tar", ENDING)):
            return self._files([self.path], named=True)
        if name == INDEX:
            if not Store(_parent(self.path), self.retry).exists(INDEX):
                raise UserError(f"{self.path}: there is no such file; `raexla shards index` makes it")
            return [Found(self.layout or "webdataset", _parent(self.path))]
        if name.endswith(".json"):
            return self._manifest(self.path)
        if name.endswith(".txt"):
            return self._list()
        return self._folder()

    def _is_pattern(self) -> bool:
        if not any(mark in self.path for mark in "{*?["):
            return False
        store = Store(self.path, self.retry)
        return not store.local or not store.exists()  # a folder may be called `pictures [old]`

    # --- a folder

    def _folder(self) -> list[Found]:
        store = Store(self.path, self.retry)
        if not store.exists():
            raise UserError(
                f"{store.url}: there is no such folder; {_MAKE} one from pictures, `raexla shards nano --out DIR` the "
                "nano data"
            )
        if not store.is_folder():
            raise UserError(
                f"{store.url}: neither a folder nor a file that is known: *.tar, *{ENDING}, {INDEX}, {MANIFEST}, or a "
                "*.txt that lists such files"
            )
        tars = self.layout in (None, "webdataset", "scale_rae")
        if tars and store.exists(INDEX):
            return [Found(self.layout or "webdataset", store.url)]
        if tars and store.exists(MANIFEST):
            return self._manifest(f"{store.url}/{MANIFEST}")
        names = store.names()
        there = {
            "webdataset": [name for name in names if name.endswith(".tar")],
            "jsonl": [name for name in names if name.endswith(ENDING)],
            "folder": [name for name in names if name.rpartition(".")[2].lower() in IMAGE_EXTENSIONS],
        }
        if self.layout is not None:
            wanted = "webdataset" if tars else self.layout
            if not there[wanted] and not (wanted == "folder" and any(name.endswith(".txt") for name in names)):
                raise UserError(f"{store.url}: no {_LOOKED_FOR[wanted]} in its {len(names)} files ({self.layout})")
            return [Found(self.layout, store.url, None if tars or wanted == "folder" else tuple(there[wanted]))]
        if there["webdataset"] and there["jsonl"]:
            tars_there, lists_there = len(there["webdataset"]), len(there["jsonl"])
            raise UserError(
                f"{store.url}: has {tars_there} *.tar and {lists_there} *{ENDING}; say which with "
                "`layout: webdataset` or `layout: jsonl` in the source's recipe"
            )
        if there["webdataset"]:
            return [Found("webdataset", store.url)]
        if there["jsonl"]:
            return [Found("jsonl", store.url, tuple(there["jsonl"]))]
        if there["folder"]:
            return [Found("folder", store.url)]
        looked = ", ".join([INDEX, MANIFEST, *_LOOKED_FOR.values()])
        raise UserError(f"{store.url}: no data in its {len(names)} files: looked for {looked}; {_MAKE} shards")

    # --- lists

    def _manifest(self, path: str) -> list[Found]:
        """The official loader's list of tars; relative ones stand beside it."""
        plain = _read_json(path, self.retry)
        if isinstance(plain, list):
            raise UserError(
                f"{path}: a JSON list, which can only be read whole; make it a list of lines: "
                f"`jq -c '.[]' {path} > {path.removesuffix('.json')}{ENDING}`"
            )
        tars = plain.get("tars") if isinstance(plain, dict) else None
        if not isinstance(tars, list) or not tars or not all(isinstance(name, str) for name in tars):
            raise UserError(f"{path}: not a manifest: no list of paths under `tars`")
        parts = self._files([url for name in tars for url in self._expand(_beside(path, name))], named=True)
        return [Found(self.layout or "scale_rae", part.root, part.names, part.named) for part in parts]

    def _list(self) -> list[Found]:
        """A text file: a path or a pattern a line, relative ones beside it; `#` begins a comment."""
        folder, _, name = self.path.rpartition("/")
        text = Store(folder or ".", self.retry).read(name).decode("utf-8", "replace")
        lines = [line.strip() for line in text.splitlines()]
        paths = [_beside(self.path, line) for line in lines if line and not line.startswith("#")]
        if not paths:
            raise UserError(f"{self.path}: lists nothing")
        return self._files([url for path in paths for url in self._expand(path)], named=True)

    def _expand(self, path: str) -> list[str]:
        """The URLs of a pattern: braces as they are written, then globs as the storage has them."""
        try:
            urls = list(braceexpand(path)) if "{" in path else [path]
        except ValueError:
            raise UserError(f"{path}: its braces aren't balanced; a range is written {{000..099}}") from None
        return [found for url in urls for found in (self._glob(url) if any(m in url for m in "*?[") else [url])]

    def _glob(self, pattern: str) -> list[str]:
        fixed = pattern[: min(pattern.find(mark) for mark in "*?[" if mark in pattern)]
        store = Store(_parent(fixed), self.retry)
        matches = re.compile(glob_translate(pattern[len(fixed.rpartition("/")[0]) :].lstrip("/"))).match
        names = [name for name in store.names() if matches(name)]
        if not names:
            raise UserError(f"{pattern}: matches no file below {store.url}")
        return [f"{'' if store.url == '/' else store.url}/{name}" for name in names]

    # --- files

    def _files(self, urls: Sequence[str], *, named: bool) -> list[Found]:
        """Files by their URLs -> parts. An `index.json` of a folder that holds all their folders is theirs."""
        endings = {ending for ending in (".tar", ENDING) if any(url.endswith(ending) for url in urls)}
        strange = [url for url in urls if not url.endswith((".tar", ENDING))]
        if strange:
            raise UserError(f"{self.path}: {strange[0]}: files of data are *.tar or *{ENDING}")
        if len(endings) > 1:
            raise UserError(f"{self.path}: names *.tar and *{ENDING}; make them two sources")
        tars = endings == {".tar"}
        layout: Layout = "webdataset" if tars else "jsonl"
        if self.layout is not None and (self.layout in ("webdataset", "scale_rae")) != tars:
            raise UserError(f"{self.path}: names {endings.pop()} files, its layout is said to be {self.layout}")
        folders: dict[str, list[str]] = {}
        for url in urls:
            folders.setdefault(_parent(url), []).append(url.rpartition("/")[2])
        common = _common(list(folders))
        if tars and len(folders) > 1 and common and Store(common, self.retry).exists(INDEX):
            folders = {common: [url[len(common.rstrip("/")) + 1 :] for url in urls]}
        return [Found(self.layout or layout, root, tuple(names), named) for root, names in folders.items()]


_LOOKED_FOR = {
    "webdataset": "*.tar",
    "jsonl": f"*{ENDING}",
    "folder": f"pictures ({', '.join(IMAGE_EXTENSIONS)})",
}


def common_names(roots: Sequence[str]) -> list[str]:
    """The roots without the folders that all of them share: what tells them apart."""
    common = _common(roots)
    return [root[len(common.rstrip("/")) + 1 :] if common else root for root in roots]


def _common(roots: Sequence[str]) -> str:
    """The deepest folder that holds all of them; empty if there is none."""
    parts = [root.split("/") for root in roots]
    count = 0
    while all(len(part) > count and part[count] == parts[0][count] for part in parts):
        count += 1
    shared = "/".join(parts[0][:count])
    if shared.endswith((":", ":/")) or (count and not shared):
        return "" if "://" in roots[0] else "/"
    return shared


def _parent(url: str) -> str:
    folder, slash, _ = url.rpartition("/")
    return folder or ("/" if slash else ".")


def _beside(path: str, name: str) -> str:
    folder = path.rpartition("/")[0]
    return name if "://" in name or name.startswith("/") or not folder else f"{folder}/{name}"


def _read_json(path: str, retry: Retry | None) -> Any:
    folder, _, name = path.rpartition("/")
    try:
        return json.loads(Store(folder or ".", retry).read(name))
    except (ValueError, RecursionError) as error:
        raise UserError(f"{path}: not JSON: {error}") from None
