"""A folder of captioned pictures -> shards with an index; what can't be used is counted and named."""

import io
from collections.abc import Callable
from functools import partial
from typing import Literal

from PIL import Image

from raexla.data.decode import decode_image, open_image
from raexla.data.parse import decode_text, find_captions, find_conversation, parse_json
from raexla.data.sample import Refused
from raexla.data.shards.index import Progress
from raexla.data.shards.layouts import Candidate, load, make_plan
from raexla.data.shards.made import LeftOut, Made, MadeReport, Making, workers, write_made
from raexla.data.shards.store import Store
from raexla.data.shards.tar import IMAGE_EXTENSIONS
from raexla.recipe import UserError

RECORD = "pack.json"
FORMAT = 1

_KEPT = {"JPEG": "jpg", "PNG": "png", "WEBP": "webp"}  # other formats are written anew as PNG
_CHUNK = 64  # candidates that a process reads at a time
_FEW = 500  # that are packed sooner than a second process starts


def pack(
    folder: str,
    out: str,
    *,
    kind: Literal["caption", "conversation", "image"] = "caption",
    samples_per_shard: int = 1000,
    bytes_per_shard: int = 1 << 29,
    processes: int = 1,
    overwrite: bool = False,
    progress: Progress | None = None,
) -> MadeReport:
    """Write the pictures of `folder` (path or URL; layouts of `layouts`) as shards into `out`.

    Every picture is decoded once to know that it can be; JPEG, PNG and WebP bytes are kept as they are. `kind` says
    what a sample must have: a caption, a conversation in its JSON, or nothing but the picture. The same folder gives
    the same bytes, whatever `processes`; the same call goes on after a stop. `progress` opens a bar.

    Raises `UserError`: nothing to pack, nothing usable in it (naming the reasons), `out` has other shards.
    """
    refuse_nested(folder, out)
    plan = make_plan(Store(folder))

    def job(start: int, count: int) -> Callable[[], Made]:
        return partial(_pack, folder, kind, plan.part(start, count))

    record = {
        "format": FORMAT,
        "folder": folder,
        "candidates": plan.count,
        "candidates_sha256": plan.digest,
        "kind": kind,
        "samples_per_shard": samples_per_shard,
        "bytes_per_shard": bytes_per_shard,
    }
    making = Making(
        out, plan.count, job, record, RECORD, samples_per_shard=samples_per_shard, bytes_per_shard=bytes_per_shard,
        chunk=_CHUNK,
    )  # fmt: skip
    tick = progress("packed", plan.count) if progress else lambda count: None
    with workers(processes, plan.count, _FEW) as pool:
        return write_made(making, pool=pool, overwrite=overwrite, tick=tick)


def _pack(folder: str, kind: str, candidates: list[Candidate]) -> Made:
    store, made = Store(folder), Made()
    for candidate in candidates:
        if candidate.refused is not None:
            made.append(LeftOut(candidate.name, *candidate.refused))
            continue
        try:
            made.append((plain_key(candidate.key), _checked(load(store, candidate), kind)))
        except Refused as refusal:
            made.append(LeftOut(candidate.name, refusal.reason, refusal.detail))
    return made


def refuse_nested(folder: str, out: str) -> None:
    """Raises `UserError` where what is written would be found among what is read, or in place of it."""
    source, target = Store(folder), Store(out)
    if type(source.filesystem) is not type(target.filesystem):
        return
    one, other = f"{source.root}/", f"{target.root}/"
    if one.startswith(other) or other.startswith(one):
        raise UserError(f"--out {out}: lies inside {folder}, or holds it; choose a folder beside it")


def plain_key(key: str) -> str:
    """A key that reads back as it is and stays inside any folder: no dots in its last part, no `..`, no root."""
    parts = [part for part in key.replace("\0", "_").split("/") if part not in ("", ".", "..")]
    base = parts.pop().replace(".", "_") if parts else "_"
    return "/".join([*parts, base])


def _checked(members: dict[str, bytes], kind: str) -> dict[str, bytes]:
    """The members as they are written. Raises `Refused`."""
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
