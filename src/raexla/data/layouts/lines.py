"""Where the lines of a JSONL file stand, so that any row can be read without the file in memory.

The start of every 32nd row is kept: a file of ten million rows takes 2.5 MB. `x.jsonl.lines` beside a file keeps them
(`raexla shards index x.jsonl` writes it); without one the file is read through once at every start. Blank lines are no
rows.
"""

import hashlib
import json
from dataclasses import dataclass
from typing import BinaryIO

import numpy as np

from raexla.data.shards.index import Say
from raexla.data.shards.store import ShardDamaged, Store
from raexla.recipe import UserError

ENDING = ".jsonl"
LINES = ".lines"
STRIDE = 32
FORMAT = "raexla-lines"
VERSION = 1

_CHUNK = 1 << 20
_BLANK = (b"", b"\r")


@dataclass(frozen=True)
class LineIndex:
    """`starts` int64 `[blocks + 1]`: the byte at which each block of `STRIDE` rows begins, and the end of the last."""

    rows: int
    file_bytes: int
    sha256: str
    starts: np.ndarray

    def pack(self) -> bytes:
        """As `x.jsonl.lines` holds it: JSON, the starts as differences."""
        plain = {
            "format": FORMAT,
            "version": VERSION,
            "rows": self.rows,
            "bytes": self.file_bytes,
            "sha256": self.sha256,
            "stride": STRIDE,
            "start_steps": np.diff(self.starts, prepend=0).tolist(),
        }
        return json.dumps(plain, separators=(",", ":")).encode() + b"\n"

    @classmethod
    def unpack(cls, data: bytes) -> "LineIndex":
        """The inverse of `pack`. Raises `ValueError` for anything else."""
        try:
            plain = json.loads(data)
            if (plain["format"], plain["version"], plain["stride"]) != (FORMAT, VERSION, STRIDE):
                raise ValueError(f"format {plain['format']} version {plain['version']}")
            starts = np.cumsum(np.asarray(plain["start_steps"], dtype=np.int64))
            made = cls(int(plain["rows"]), int(plain["bytes"]), str(plain["sha256"]), starts)
        except (KeyError, TypeError, OverflowError, RecursionError) as error:
            raise ValueError(f"{type(error).__name__}: {error}") from None
        blocks = -(-made.rows // STRIDE)
        if (
            starts.shape != (blocks + 1,)
            or (np.diff(starts) <= 0).any()
            or starts[-1] > made.file_bytes
            or starts[0] < 0
        ):
            raise ValueError("its starts don't fit its rows")
        return made


def scan_lines(file: BinaryIO) -> LineIndex:
    """Read a file through once, a MB at a time."""
    digest, offset, rows = hashlib.sha256(), 0, 0
    fresh = True  # the next byte begins a line
    starts: list[np.ndarray] = []
    while chunk := file.read(_CHUNK):
        digest.update(chunk)
        data = np.frombuffer(chunk, dtype=np.uint8)
        begins = np.flatnonzero(data == 10) + 1
        if fresh:
            begins = np.concatenate([[0], begins])
        fresh = bool(data[-1] == 10)
        begins = begins[begins < len(data)]
        begins = begins[(data[begins] != 10) & (data[begins] != 13)]
        starts.append(offset + begins[(-rows) % STRIDE :: STRIDE])
        rows += len(begins)
        offset += len(data)
    found = np.concatenate([*starts, [offset]]).astype(np.int64)
    return LineIndex(rows, offset, digest.hexdigest(), found)


def load_lines(store: Store, name: str, *, say: Say | None = None) -> LineIndex:
    """The line index of a file: the one beside it, or one made now (`say` tells what is missed).

    Raises `ShardDamaged` if the one beside it is of another file.
    """
    if not store.exists(name + LINES):
        if say is not None:
            say(
                f"{store.url}/{name}: no {name}{LINES}: reading the whole file to find its rows, at every start; "
                f"`raexla shards index {store.url}/{name}` makes one"
            )
        with store.open(name) as file:
            return scan_lines(file)
    advice = f"`raexla shards index {store.url}/{name}` makes a new one"
    try:
        lines = LineIndex.unpack(store.read(name + LINES))
    except ValueError as error:
        raise ShardDamaged(f"{store.url}/{name}{LINES}: {error}; {advice}") from None
    size = store.size(name)
    if size != lines.file_bytes:
        raise ShardDamaged(
            f"{store.url}/{name}: {size} bytes, its {LINES} says {lines.file_bytes}: the file was changed or "
            f"cut short; {advice}"
        )
    return lines


def read_block(store: Store, name: str, lines: LineIndex, block: int) -> list[bytes]:
    """The rows `[block x STRIDE, ...)`. Raises `ShardDamaged` if the file isn't the one that was indexed."""
    data = store.read(name, int(lines.starts[block]), int(lines.starts[block + 1]))
    rows = [line for line in data.split(b"\n") if line[:1] not in _BLANK]
    wanted = min(STRIDE, lines.rows - block * STRIDE)
    if len(rows) != wanted:
        raise ShardDamaged(
            f"{store.url}/{name}: {len(rows)} rows from byte {lines.starts[block]} on where {wanted} were: the "
            f"file was changed; `raexla shards index {store.url}/{name}` makes a new index"
        )
    return rows


def jsonl_names(store: Store) -> list[str]:
    """The `*.jsonl` below a folder, sorted; raises `UserError` if there are none."""
    names = [name for name in store.names() if name.endswith(ENDING)]
    if not names:
        raise UserError(f"{store.url}: no list (*{ENDING}) in it")
    return names


def index_lines(url: str, *, say: Say | None = None) -> list[LineIndex]:
    """Write the `.lines` of one JSONL file, or of all below a folder. `say` gets a line a file."""
    folder, _, name = url.rstrip("/").rpartition("/")
    store, names = Store(folder or "."), [name]
    if not url.endswith(ENDING):
        store = Store(url)
        names = jsonl_names(store)
    return [_index_one(store, name, say) for name in names]


def _index_one(store: Store, name: str, say: Say | None) -> LineIndex:
    with store.open(name) as file:
        lines = scan_lines(file)
    store.write_bytes(name + LINES, lines.pack())
    if say is not None:
        say(f"{store.url}/{name}: {lines.rows} rows, {lines.file_bytes} bytes, sha256 {lines.sha256}")
    return lines
