"""The folders that people have, read as a sequence of candidates for `pack`.

Three layouts, told apart by what is there, each below any number of subfolders:

- `metadata.jsonl` beside the pictures (Hugging Face imagefolder): `file_name` and `text`, `caption`, `prompt` or a list
of
  `captions`; whatever else a row holds goes into the sample's JSON member;
- tars of img2dataset or webdataset (`x.jpg`, `x.txt`, `x.json` inside);
- loose pictures, each with a `.txt` and perhaps a `.json` of the same name (img2dataset's `files` output as well).
"""

import json
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from raexla.data.parse import decode_text
from raexla.data.sample import Refused
from raexla.data.shards.index import build_index
from raexla.data.shards.store import Store
from raexla.data.shards.tar import IMAGE_EXTENSIONS, split_name
from raexla.recipe import UserError

METADATA = "metadata.jsonl"
CAPTION_FIELDS = ("text", "caption", "prompt", "captions")
_SIDES = ("txt", "json")


@dataclass
class Candidate:
    """One thing that could become a sample. `refused` says why it can't; `members` are bytes by extension."""

    name: str
    """Where it comes from, as its owner would call it."""
    key: str
    members: dict[str, bytes]
    refused: Refused | None = None


def read_layout(store: Store) -> Iterator[Candidate]:
    """All candidates in a fixed order. Raises `UserError` if the folder has nothing that looks like one of the
    layouts."""
    if not store.exists():
        raise UserError(f"{store.url}: there is no such folder")
    if not store.is_folder():
        raise UserError(f"{store.url}: is a file; a folder of pictures is wanted")
    names = store.names()
    tables = [name for name in names if name.rpartition("/")[2] == METADATA]
    loose = [name for name in names if _is_image(name) or _extension(name) in _SIDES]
    if tables:
        yield from _from_tables(store, tables, {name for name in names if _is_image(name)})
    elif any(name.endswith(".tar") for name in names):
        yield from _from_tars(store)
    elif any(_is_image(name) for name in loose):
        yield from _from_files(store, loose)
    else:
        raise UserError(
            f"{store.url}: nothing to pack in its {len(names)} files: no picture ({', '.join(IMAGE_EXTENSIONS)}), no "
            f"*.tar, "
            f"no {METADATA}"
        )


def _from_files(store: Store, names: list[str]) -> Iterator[Candidate]:
    groups: dict[str, dict[str, str]] = {}
    for name in names:
        stem, _, extension = name.rpartition(".")
        if name.rpartition("/")[2].startswith("."):
            continue
        groups.setdefault(stem, {}).setdefault(extension.lower(), name)
    for stem, files in groups.items():
        if "txt" not in files and not any(extension in files for extension in IMAGE_EXTENSIONS):
            continue  # a JSON file that belongs to no picture: img2dataset's statistics
        pictures = [files[extension] for extension in IMAGE_EXTENSIONS if extension in files]
        candidate = Candidate(pictures[0] if pictures else files["txt"], stem, {})
        if len(pictures) > 1:
            candidate.refused = Refused("duplicate_key", f"{len(pictures)} pictures of one name: {', '.join(pictures)}")
        else:
            candidate.members = {extension: store.read(name) for extension, name in files.items()}
        yield candidate


def _from_tars(store: Store) -> Iterator[Candidate]:
    found = build_index(store, checksums=False)
    for number, shard in enumerate(found.shards):
        table = found.table(store, number)
        taken = {parts for name in table.duplicates if (parts := split_name(name))}
        for row, key in enumerate(table.keys):
            members = {
                extension: store.read(shard.name, offset, offset + size)
                for extension, (offset, size) in table.members(row).items()
            }
            yield Candidate(f"{shard.name}/{key}", key, members)
        for key, extension in sorted(taken):
            refused = Refused("duplicate_key", "an earlier member has this name")
            yield Candidate(f"{shard.name}/{key}.{extension}", key, {}, refused)


def _from_tables(store: Store, tables: list[str], pictures: set[str]) -> Iterator[Candidate]:
    used: set[str] = set()
    for table in tables:
        folder = table[: -len(METADATA)]
        for number, line in enumerate(store.read(table).split(b"\n"), 1):
            if not line.strip():
                continue
            name = f"{table}:{number}"
            try:
                row = _parse_row(line)
                path = _inside(folder, row.pop("file_name", None))
            except Refused as refusal:
                yield Candidate(name, name, {}, refusal)
                continue
            if path in used:
                yield Candidate(name, path, {}, Refused("duplicate_key", f"{path} was named before"))
                continue
            used.add(path)
            stem, _, extension = path.rpartition(".")
            if path not in pictures:
                yield Candidate(f"{name} ({path})", stem, {}, Refused("missing_image", f"there is no {path}"))
                continue
            yield Candidate(path, stem, {extension.lower(): store.read(path), **_row_members(row)})
    for path in sorted(pictures - used):
        yield Candidate(path, path.rpartition(".")[0], {}, Refused("missing_caption", f"no row of {METADATA} names it"))


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
    for field in CAPTION_FIELDS:
        value = row.pop(field, None)
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
