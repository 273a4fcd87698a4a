"""A sample's latent in a shard: a safetensors member with one tensor, `latent` [N, C], in place of the picture.

It is what the encoder gives, before latent statistics, so that other statistics don't make it stale. What can't be
encoded keeps its place, with a member that says why, so that the order of a run, its uids and what it refuses are those
of the pictures. `latents.json` beside the shards records the codec and the transform that made them.
"""

import json
import struct
from collections.abc import Mapping
from typing import Any, Literal

import numpy as np

from raexla.data.sample import REASONS, Refused
from raexla.files import Store
from raexla.recipe import UserError

LATENT = "latent.safetensors"
"""Extension of the member that holds the latent."""
REFUSED = "refused.json"
"""Extension of the member that stands for a picture that could not be encoded: {"reason", "detail"}."""
RECORD = "latents.json"
FORMAT = "raexla-latents"
VERSION = 1

LatentType = Literal["float16", "bfloat16", "float32"]
"""How a latent is stored. The final norm of an encoder leaves values that float16 holds eight times as exactly as
bfloat16, in as many bytes; bfloat16 is for latents beyond 65504."""

_CODES: dict[LatentType, str] = {"float16": "F16", "bfloat16": "BF16", "float32": "F32"}
_STORED: dict[str, str] = {"F16": "<f2", "BF16": "<u2", "F32": "<f4"}
_NAME = "latent"
_MAX_HEADER = 1 << 16  # bytes; one tensor needs less than a hundred


def type_in_batch(stored: LatentType) -> type[np.floating[Any]]:
    """What a stored type is in a batch: numpy has no bfloat16, so it becomes float32, exactly."""
    return np.float16 if stored == "float16" else np.float32


def pack_latent(latent: np.ndarray, stored: LatentType) -> bytes:
    """A float32 latent [N, C] as safetensors bytes, rounded to the nearest of the stored type.

    Raises `ValueError` for values that are not finite in the stored type.
    """
    values = np.ascontiguousarray(latent, dtype=np.float32)
    with np.errstate(over="ignore"):
        data = _bfloat16_bits(values) if stored == "bfloat16" else values.astype(np.dtype(stored).newbyteorder("<"))
    if not np.isfinite(_values(data, _CODES[stored])).all():
        raise ValueError(f"values up to {np.abs(values).max():g} are not finite as {stored}")
    entry = {"dtype": _CODES[stored], "shape": list(values.shape), "data_offsets": [0, data.nbytes]}
    header = json.dumps({_NAME: entry}, separators=(",", ":")).encode()
    header += b" " * (-len(header) % 8)
    return struct.pack("<Q", len(header)) + header + data.tobytes()


def unpack_latent(data: bytes) -> np.ndarray:
    """The latent [N, C] of safetensors bytes; float16 stays, bfloat16 becomes float32.

    Raises `Refused("bad_latent")` for what isn't one.
    """
    try:
        (length,) = struct.unpack_from("<Q", data)
        if length > _MAX_HEADER:
            raise ValueError(f"a header of {length} bytes")
        entry = json.loads(data[8 : 8 + length])[_NAME]
        code, (tokens, channels), (start, end) = entry["dtype"], entry["shape"], entry["data_offsets"]
        body = memoryview(data)[8 + length :]
        if (start, end) != (0, len(body)):
            raise ValueError(f"{len(body)} bytes of data where {end} are said to be")
        found = np.frombuffer(body, dtype=_STORED[code]).reshape(int(tokens), int(channels))
    except (ValueError, KeyError, TypeError, struct.error, RecursionError) as error:
        raise Refused("bad_latent", f"{type(error).__name__}: {error}") from None
    return _values(found, code)


def describe_latent(data: bytes) -> str:
    """`float16 16x48`: what a member holds, from its header. Raises `Refused("bad_latent")`."""
    latent = unpack_latent(data)
    code = json.loads(data[8 : 8 + struct.unpack_from("<Q", data)[0]])[_NAME]["dtype"]
    stored = next(name for name, known in _CODES.items() if known == code)
    return f"{stored} {latent.shape[0]}x{latent.shape[1]}"


def pack_refusal(refused: Refused) -> bytes:
    """A member that says why there is no latent."""
    return json.dumps({"reason": refused.reason, "detail": refused.detail}, ensure_ascii=True).encode()


def unpack_refusal(data: bytes) -> Refused:
    """The inverse of `pack_refusal`; `bad_latent` for what isn't one."""
    try:
        plain = json.loads(data)
        reason, detail = plain["reason"], str(plain["detail"])
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        return Refused("bad_latent", f"{REFUSED}: {type(error).__name__}: {error}")
    return Refused(reason, detail) if reason in REASONS else Refused("bad_latent", f"{REFUSED}: {reason}: {detail}")


def read_record(store: Store) -> dict[str, Any] | None:
    """`latents.json` of a folder; None if it has none.

    Raises `UserError` for one of another version, and for a folder that isn't complete.
    """
    if not store.exists(RECORD):
        return None
    try:
        found = json.loads(store.read(RECORD))
        format_, version = found["format"], found["version"]
    except (ValueError, KeyError, TypeError) as error:
        raise UserError(f"{store.url}/{RECORD}: can't be understood ({type(error).__name__}: {error})") from None
    if (format_, version) != (FORMAT, VERSION):
        raise UserError(
            f"{store.url}/{RECORD}: format {format_} version {version}, this program reads {FORMAT} version {VERSION}: "
            "make the latents anew"
        )
    if "manifest_hash" not in found:
        raise UserError(f"{store.url}: these latents aren't complete: the same `raexla latents` goes on with them")
    return dict(found)


def differences(found: Mapping[str, Any], wanted: Mapping[str, Any], name: str = "") -> list[str]:
    """Where two records differ, a line each: `transform.size 32, here 64`."""
    lines = []
    for key in dict.fromkeys((*wanted, *found)):
        old, new, path = found.get(key), wanted.get(key), f"{name}.{key}" if name else str(key)
        if isinstance(old, Mapping) and isinstance(new, Mapping):
            lines += differences(old, new, path)
        elif old != new:
            lines.append(f"{path} {old}, here {new}")
    return lines


def _bfloat16_bits(values: np.ndarray) -> np.ndarray:
    """The upper 16 bits of each, rounded to the nearest, ties to even; not for NaN."""
    bits = values.view(np.uint32).astype(np.uint64)
    return ((bits + 0x7FFF + ((bits >> 16) & 1)) >> 16).astype("<u2")


def _values(data: np.ndarray, code: str) -> np.ndarray:
    if code == "BF16":
        return (data.astype(np.uint32) << 16).view(np.float32)
    return data.astype(data.dtype.newbyteorder("="), copy=False)
