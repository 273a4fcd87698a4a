"""A folder of captioned pictures -> shards with an index; what can't be used is counted and named."""

import io
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Literal

from PIL import Image

from raexla.data.decode import decode_image, open_image
from raexla.data.parse import decode_text, find_captions, find_conversation, parse_json
from raexla.data.sample import Refused
from raexla.data.shards.index import Index
from raexla.data.shards.layouts import Candidate, read_layout
from raexla.data.shards.store import Store
from raexla.data.shards.tar import IMAGE_EXTENSIONS
from raexla.data.shards.writer import ShardWriter
from raexla.recipe import UserError

_KEPT = {"JPEG": "jpg", "PNG": "png", "WEBP": "webp"}  # other formats are written anew as PNG


@dataclass
class PackReport:
    """What `pack` did."""

    samples: int
    index: Index
    refused: list[tuple[str, str, str]] = field(default_factory=list)
    """(name, reason, detail) of everything that was left out."""

    @property
    def counts(self) -> dict[str, int]:
        """Reason -> number."""
        return dict(sorted(Counter(reason for _, reason, _ in self.refused).items()))

    def lines(self, named: int = 5) -> list[str]:
        """For the user: what was written, and each reason with its number and the first names."""
        shards = self.index.shards
        lines = [
            f"{self.samples} samples in {len(shards)} shards, {self.index.bytes} bytes, {self.index.manifest_hash}"
        ]
        for reason, count in self.counts.items():
            names = [name for name, why, _ in self.refused if why == reason]
            more = f" and {count - named} more" if count > named else ""
            lines.append(f"left out, {reason}: {count}: {', '.join(names[:named])}{more}")
        return lines


def pack(
    folder: str,
    out: str,
    *,
    kind: Literal["caption", "conversation", "image"] = "caption",
    samples_per_shard: int = 1000,
    bytes_per_shard: int = 1 << 29,
    overwrite: bool = False,
    progress: Callable[[int], None] | None = None,
) -> PackReport:
    """Write the pictures of `folder` (path or URL; layouts of `layouts`) as shards into `out`.

    Every picture is decoded once to know that it can be; JPEG, PNG and WebP bytes are kept as they are. `kind` says
    what a sample must have: a caption, a conversation in its JSON, or nothing but the picture. `progress` is called
    with the number of candidates seen. The same folder gives the same bytes.

    Raises `UserError`: nothing to pack, nothing usable in it (naming the reasons), `out` has shards already.
    """
    source = Store(folder)
    candidates = read_layout(source)
    first = next(candidates)
    keys: set[str] = set()
    refused: list[tuple[str, str, str]] = []
    writer = ShardWriter(out, samples_per_shard=samples_per_shard, bytes_per_shard=bytes_per_shard, overwrite=overwrite)
    written = 0
    with writer:
        for seen, candidate in enumerate(_chain(first, candidates), 1):
            try:
                members = _checked(candidate, kind)
                writer.write(_new_key(candidate.key, keys), members)
                written += 1
            except Refused as refusal:
                refused.append((candidate.name, refusal.reason, refusal.detail))
            if progress is not None:
                progress(seen)
        if written == 0:
            counts = dict(Counter(reason for _, reason, _ in refused))
            name, reason, detail = refused[0]
            raise UserError(
                f"{folder}: none of {len(refused)} can be used: {counts}; first: {name}: {reason}: {detail}"
            )
    assert writer.index is not None
    return PackReport(written, writer.index, refused)


def _chain(first: Candidate, rest: Iterator[Candidate]) -> Iterator[Candidate]:
    yield first
    yield from rest


def _checked(candidate: Candidate, kind: str) -> dict[str, bytes]:
    """The members as they are written. Raises `Refused`."""
    if candidate.refused is not None:
        raise candidate.refused
    members = candidate.members
    pictures = [extension for extension in IMAGE_EXTENSIONS if extension in members]
    if not pictures:
        raise Refused("missing_image", f"only {', '.join(sorted(members))}")
    meta = parse_json(members["json"]) if "json" in members else {}
    if kind == "caption":
        find_captions(members, meta, ("txt", "json.captions"))
    elif kind == "conversation":
        find_conversation(meta.get("conversations", meta if "question" in meta else None), has_image=True)
    elif "txt" in members:
        decode_text(members["txt"], "txt")
    checked = _image(members[pictures[0]])
    checked |= {name: data for name, data in members.items() if name not in IMAGE_EXTENSIONS and "." not in name}
    return checked


def _image(data: bytes) -> dict[str, bytes]:
    pixels = decode_image(data)
    extension = _KEPT.get(open_image(data).format or "")
    if extension is not None:
        return {extension: data}
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "PNG")
    return {"png": buffer.getvalue()}


def _new_key(key: str, keys: set[str]) -> str:
    """A key that reads back as it is: no dots in its last part, never twice."""
    folder, slash, base = key.replace("\0", "_").lstrip("/").rpartition("/")
    plain = f"{folder}{slash}{base.replace('.', '_') or '_'}"
    new, number = plain, 1
    while new in keys:
        number += 1
        new = f"{plain}-{number}"
    keys.add(new)
    return new
