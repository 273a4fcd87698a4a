"""The folders that people have, planned and read as a sequence of candidates for `pack`.

Three layouts, told apart by what is there, each below any number of subfolders:

- `metadata.jsonl` beside the pictures (Hugging Face imagefolder): `file_name` and `text`, `caption`, `prompt` or a list
  of `captions`; whatever else a row holds goes into the sample's JSON member;
- tars of img2dataset or webdataset (`x.jpg`, `x.txt`, `x.json` inside);
- loose pictures, each with a `.txt` and perhaps a `.json` of the same name (img2dataset's `files` output as well).

A plan names the candidates without reading pictures; `load` reads one, in whatever process.
"""

import hashlib
import json
from bisect import bisect_right
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from itertools import accumulate
from typing import Any, Protocol

from raexla.data.parse import decode_text
from raexla.data.sample import Refused
from raexla.data.shards.index import build_index
from raexla.data.shards.listing import Listed, listing
from raexla.data.shards.manifest import INDEX, Index, ShardEntry, read_index
from raexla.data.shards.store import Store
from raexla.data.shards.tar import IMAGE_EXTENSIONS, split_name
from raexla.recipe import UserError

METADATA = "metadata.jsonl"
CAPTION_FIELDS = ("text", "caption", "prompt", "captions")
_SIDES = ("txt", "json")
_GAP = 1 << 16  # bytes between members that are read along rather than asked for apart


@dataclass(frozen=True)
class Candidate:
    """One thing that could become a sample. `refused` (reason, detail) says why it can't."""

    name: str
    """Where it comes from, as its owner would call it."""
    key: str
    places: Mapping[str, tuple[str, int, int | None]] = field(default_factory=dict)
    """Extension -> (file, first byte, end) of what is to be read."""
    members: Mapping[str, bytes] = field(default_factory=dict)
    """Extension -> bytes that are known already."""
    refused: tuple[str, str] | None = None


class Plan(Protocol):
    """The candidates of a folder in a fixed order. `digest` stands for what they are: names, sizes, lists."""

    count: int
    digest: str

    def part(self, start: int, count: int) -> list[Candidate]:
        """Some of them."""


def make_plan(store: Store) -> Plan:
    """The candidates of a folder. Raises `UserError` if it has nothing that looks like one of the layouts."""
    if not store.exists():
        raise UserError(f"{store.url}: there is no such folder")
    if not store.is_folder():
        raise UserError(f"{store.url}: is a file; a folder of pictures is wanted")
    listed = listing(store)
    tables = [name for name in listed if name.rpartition("/")[2] == METADATA]
    loose = [name for name in listed if _is_image(name) or _extension(name) in _SIDES]
    if tables:
        return _from_tables(store, tables, listed)
    if any(name.endswith(".tar") for name in listed):
        return _TarPlan(store, listed)
    if any(_is_image(name) for name in loose):
        return _ListPlan(list(_from_files(loose)), _digest((name, listed[name].bytes) for name in loose))
    raise UserError(
        f"{store.url}: nothing to pack in its {len(listed)} files: no picture ({', '.join(IMAGE_EXTENSIONS)}), no "
        f"*.tar, no {METADATA}"
    )


def load(store: Store, candidate: Candidate) -> dict[str, bytes]:
    """A candidate's members."""
    members = dict(candidate.members)
    inside = [(start, end) for _, start, end in candidate.places.values() if end is not None]
    if len(inside) == len(candidate.places) > 1:  # members of one tar: one read if they stand together
        low, high = min(start for start, _ in inside), max(end for _, end in inside)
        if high - low <= sum(end - start for start, end in inside) + _GAP:
            data = store.read(next(iter(candidate.places.values()))[0], low, high)
            for extension, (_, start, end) in candidate.places.items():
                members[extension] = data[start - low : (end or 0) - low]
            return members
    for extension, (file, start, end) in candidate.places.items():
        members[extension] = store.read(file, start, end)
    return members


class _ListPlan:
    def __init__(self, candidates: list[Candidate], digest: str) -> None:
        self.candidates = candidates
        self.count = len(candidates)
        self.digest = digest

    def part(self, start: int, count: int) -> list[Candidate]:
        return self.candidates[start : start + count]


class _TarPlan:
    """The samples of tars, and their members that an earlier one stands for. Only one shard's are held at a time."""

    def __init__(self, store: Store, listed: Mapping[str, Listed]) -> None:
        self.store = store
        index = read_index(store) if INDEX in listed else None
        tars = [name for name in listed if name.endswith(".tar")]
        if index is None or [(shard.name, shard.bytes) for shard in index.shards] != [
            (name, listed[name].bytes) for name in tars
        ]:
            index = build_index(store, checksums=False)
        self.index: Index = index
        self._ends = list(accumulate(_size(shard) for shard in index.shards))
        self.count = self._ends[-1] if self._ends else 0
        self.digest = _digest((shard.name, shard.bytes, shard.table_sha256) for shard in index.shards)
        self._held: tuple[int, list[Candidate]] = (-1, [])

    def part(self, start: int, count: int) -> list[Candidate]:
        found: list[Candidate] = []
        number = bisect_right(self._ends, start)
        while len(found) < count and number < len(self._ends):
            begins = self._ends[number - 1] if number else 0
            low = max(start - begins, 0)
            found += self._shard(number)[low : low + count - len(found)]
            number += 1
        return found

    def _shard(self, number: int) -> list[Candidate]:
        if self._held[0] != number:
            self._held = number, self._candidates(number)
        return self._held[1]

    def _candidates(self, number: int) -> list[Candidate]:
        name, table = self.index.shards[number].name, self.index.table(self.store, number)
        found = []
        for row, key in enumerate(table.keys):
            places = {
                extension: (name, offset, offset + size) for extension, (offset, size) in table.members(row).items()
            }
            found.append(Candidate(f"{name}/{key}", key, places))
        for again in table.duplicates:
            key, extension = split_name(again) or (again, "")
            why = ("duplicate_key", "an earlier member has this name")
            found.append(Candidate(f"{name}/{key}.{extension}", key, refused=why))
        for kind, times in table.left_aside.items():
            found += [Candidate(name, name, refused=("not_a_sample", f"a member of the tar: {kind}"))] * times
        return found


def _size(shard: ShardEntry) -> int:
    return shard.samples + shard.duplicates + sum(shard.left_aside.values())


def _from_files(names: Iterable[str]) -> Iterable[Candidate]:
    groups: dict[str, dict[str, str]] = {}
    for name in names:
        stem, _, extension = name.rpartition(".")
        if name.rpartition("/")[2].startswith("."):
            continue
        groups.setdefault(stem, {}).setdefault(extension.lower(), name)
    for stem, files in groups.items():
        pictures = [files[extension] for extension in IMAGE_EXTENSIONS if extension in files]
        if "txt" not in files and not pictures:
            continue  # a JSON file that belongs to no picture: img2dataset's statistics
        name = pictures[0] if pictures else files["txt"]
        if len(pictures) > 1:
            why = ("duplicate_key", f"{len(pictures)} pictures of one name: {', '.join(pictures)}")
            yield Candidate(name, stem, refused=why)
        else:
            yield Candidate(name, stem, {extension: (file, 0, None) for extension, file in files.items()})


def _from_tables(store: Store, tables: list[str], listed: Mapping[str, Listed]) -> Plan:
    pictures = {name for name in listed if _is_image(name)}
    used: set[str] = set()
    found: list[Candidate] = []
    digests = []
    for table in tables:
        folder, data = table[: -len(METADATA)], store.read(table)
        digests.append((table, hashlib.sha256(data).hexdigest()))
        for number, line in enumerate(data.split(b"\n"), 1):
            if line.strip():
                found.append(_from_row(f"{table}:{number}", folder, line, pictures, used))
    for path in sorted(pictures - used):
        why = ("missing_caption", f"no row of {METADATA} names it")
        found.append(Candidate(path, path.rpartition(".")[0], refused=why))
    return _ListPlan(found, _digest([*digests, *((name, listed[name].bytes) for name in sorted(pictures))]))


def _from_row(name: str, folder: str, line: bytes, pictures: set[str], used: set[str]) -> Candidate:
    try:
        row = _parse_row(line)
        path = _inside(folder, row.pop("file_name", None))
    except Refused as refusal:
        return Candidate(name, name, refused=(refusal.reason, refusal.detail))
    if path in used:
        return Candidate(name, path, refused=("duplicate_key", f"{path} was named before"))
    used.add(path)
    stem, _, extension = path.rpartition(".")
    if path not in pictures:
        return Candidate(f"{name} ({path})", stem, refused=("missing_image", f"there is no {path}"))
    return Candidate(path, stem, {extension.lower(): (path, 0, None)}, _row_members(row))


def _parse_row(line: bytes) -> dict[str, Any]:
    try:
        row = json.loads(decode_text(line, METADATA))
    except (ValueError, RecursionError) as error:
        raise Refused("bad_json", str(error)) from None
    if not isinstance(row, dict):
        raise Refused("bad_json", f"{type(row).__name__} where an object is expected")
    return row


def _inside(folder: str, file_name: Any) -> str:
    if not isinstance(file_name, str) or not file_name:
        raise Refused("missing_image", "no file_name")
    parts = [part for part in f"{folder}{file_name}".replace("\\", "/").split("/") if part not in ("", ".")]
    if ".." in parts or file_name.startswith("/") or "://" in file_name:
        raise Refused("outside_folder", file_name)
    return "/".join(parts)


def _row_members(row: dict[str, Any]) -> dict[str, bytes]:
    """The caption fields of a row become `txt` (the first) and `json.captions` (all, if several); the rest stays in
    `json`."""
    captions: list[Any] = []
    for name in CAPTION_FIELDS:
        value = row.pop(name, None)
        captions += value if isinstance(value, list) else [] if value is None else [value]
    texts = list(dict.fromkeys(text for text in captions if isinstance(text, str)))
    members: dict[str, bytes] = {}
    if texts:
        members["txt"] = texts[0].encode("utf-8", "surrogatepass")
    if len(texts) > 1:
        row["captions"] = texts
    if row:
        members["json"] = json.dumps(row, ensure_ascii=True, sort_keys=True).encode()
    return members


def _extension(name: str) -> str:
    return name.rpartition(".")[2].lower()


def _is_image(name: str) -> bool:
    return _extension(name) in IMAGE_EXTENSIONS and not name.rpartition("/")[2].startswith(".")


def _digest(rows: Iterable[tuple[Any, ...]]) -> str:
    digest = hashlib.sha256()
    for row in rows:
        digest.update(json.dumps(row, ensure_ascii=True).encode() + b"\n")
    return digest.hexdigest()
