"""The headers of a tar, read strictly and within bounds: what a damaged or a hostile file says is never taken on trust.

Python's `tarfile` follows sizes and chains of headers wherever they lead (recursion, endless loops, backtracking,
allocations of what a header declares), takes a damaged header for the end of the archive, and is slow where only
places are wanted. Here every header's checksum holds, every size lies inside the file, every chain has an end, and the
archive stops at a block of zeros with nothing but zeros behind it; anything else is `ShardDamaged`, with the place.

Formats: POSIX.1-1988 (ustar), GNU (long names, base-256 numbers, sparse), POSIX.1-2001 (pax). Nothing is extracted.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import BinaryIO

from raexla.data.shards.store import ShardDamaged

BLOCK = 512
ADVICE = "the file is truncated or damaged; copy or write it again"

_MAX_NAME = 1 << 15  # bytes of a name; no system has files with longer ones
_MAX_PAX = 1 << 20  # bytes of a pax header
_MAX_TAIL = 1 << 24  # bytes behind the end marker that are looked at: tars are padded to records
_READ = 1 << 16
_ZEROS = bytes(BLOCK)
_REGULAR = {b"0", b"\0", b"7"}
_WITHOUT_DATA = {b"1": "link", b"2": "link", b"3": "device", b"4": "device", b"5": "folder", b"6": "device"}


@dataclass(frozen=True, slots=True)
class Member:
    """A member of a tar: the place of its bytes. `kind` is `file` for what can be read; else `link`, `device`,
    `folder`, `sparse` or `other`."""

    name: str
    offset: int
    size: int
    kind: str = "file"


def read_members(file: BinaryIO, shard: str) -> Iterator[Member]:
    """The members of an open tar in their order. Raises `ShardDamaged`, naming `shard`, where it isn't whole."""
    file.seek(0, 2)
    end = file.tell()
    reader, seen = _Headers(file, end), 0
    try:
        for member in reader:
            seen += 1
            yield member
    except _Bad as error:
        raise ShardDamaged(f"{shard}: after {seen} members, at byte {reader.place}: {error}: {ADVICE}") from None


class _Bad(Exception):
    """What is wrong with a tar."""


class _Headers:
    """Walks from header to header of an open file of `end` bytes; `place` is where it stands."""

    def __init__(self, file: BinaryIO, end: int) -> None:
        self.file = file
        self.end = end
        self.place = 0
        self._buffer = b""
        self._start = 0
        self._global: dict[str, str] = {}

    def __iter__(self) -> Iterator[Member]:
        while True:
            long_name: str | None = None
            pax: dict[str, str] = {}
            while True:  # headers that speak of the next one: each takes at least a block, so this ends
                block = self._read(self.place, BLOCK)
                if block == _ZEROS:
                    self._check_tail()
                    return
                kind, size = block[156:157], _checked_size(block)
                if kind == b"L":
                    long_name = _text(self._data(size, 2 * _MAX_NAME, "a long name"))
                elif kind == b"K":
                    self._data(size, 2 * _MAX_NAME, "a long link")
                elif kind in (b"x", b"X"):
                    pax |= _pax(self._data(size, _MAX_PAX, "a pax header"))
                elif kind == b"g":
                    self._global |= _pax(self._data(size, _MAX_PAX, "a pax header"))
                else:
                    break
            yield self._member(block, kind, size, long_name, {**self._global, **pax})

    def _member(self, block: bytes, kind: bytes, size: int, long_name: str | None, pax: dict[str, str]) -> Member:
        name = pax.get("path", long_name)
        if name is None:
            name = _text(block[:100])
            if block[257:263] == b"ustar\0" and (prefix := _text(block[345:500])):
                name = f"{prefix}/{name}"
        if len(name) > _MAX_NAME // 4 and len(name.encode("utf-8", "surrogateescape")) > _MAX_NAME:
            raise _Bad(f"a name of {len(name)} characters")
        self.place += BLOCK
        what = _WITHOUT_DATA.get(kind)
        if kind == b"\0" and name.endswith("/"):  # how tars of before 1988 write folders
            what = "folder"
        if what is not None:
            return Member(name, self.place, 0, what)
        if "size" in pax:
            if not pax["size"].isascii() or not pax["size"].isdigit() or len(pax["size"]) > 20:
                raise _Bad(f"a size of {pax['size'][:40]!r}")
            size = int(pax["size"])
        if kind == b"S":
            self._skip_sparse_map(block)
            what = "sparse"
        elif kind not in _REGULAR:
            what = "other"
        elif any(field.startswith("GNU.sparse.") for field in pax):
            what = "sparse"
        offset = self.place
        self._check(size, f"{name[:80]!r}")
        self.place += _padded(size)
        return Member(name, offset, size, what or "file")

    def _skip_sparse_map(self, block: bytes) -> None:
        more = block[482]
        while more:
            more = self._read(self.place, BLOCK)[504]
            self.place += BLOCK

    def _data(self, size: int, limit: int, what: str) -> bytes:
        """The data of a header that speaks of the next one; goes on behind it."""
        if size > limit:
            raise _Bad(f"{what} of {size} bytes, at most {limit} are taken")
        self.place += BLOCK
        self._check(size, what)
        data = self._read(self.place, size)
        self.place += _padded(size)
        return data

    def _check(self, size: int, what: str) -> None:
        if self.place + size > self.end:
            raise _Bad(f"{what} is said to have {size} bytes, {max(0, self.end - self.place)} are left")

    def _check_tail(self) -> None:
        """Behind the end marker stands nothing but zeros: else a second tar was appended, or a header is gone."""
        self.file.seek(self.place)
        left = self.end - self.place
        while left > 0 and self.end - self.place <= _MAX_TAIL:
            piece = self.file.read(min(left, 1 << 20))
            if not piece or any(piece):
                break
            left -= len(piece)
        if left > 0:
            raise _Bad(
                f"an end-of-archive marker with {self.end - self.place} bytes behind it, which is no padding: a lost "
                f"header, or tars that were joined (`tar --concatenate` joins them rightly)"
            )

    def _read(self, start: int, size: int) -> bytes:
        if start + size > self.end:
            said = "no end-of-archive marker" if start == self.end else f"{self.end - start} bytes where {size} belong"
            raise _Bad(said)
        low = start - self._start
        if low < 0 or low + size > len(self._buffer):
            # small members: their headers come with one read. Large ones: a block each, whatever the file buffers.
            ahead = _READ if self._buffer and start < self._start + 2 * _READ else BLOCK
            self.file.seek(start)
            self._buffer = self.file.read(max(size, min(ahead, self.end - start)))
            self._start, low = start, 0
        data = self._buffer[low : low + size]
        if len(data) != size:
            raise _Bad(f"only {len(data)} of {size} bytes came")
        return data


def _checked_size(block: bytes) -> int:
    """The size that a header declares. Raises `_Bad` where its checksum doesn't hold."""
    said = _number(block[148:156], "a checksum")
    total = sum(block[:148]) + 256 + sum(block[156:])
    # some old programs summed signed bytes
    if said != total and said != total - 256 * sum(byte > 127 for byte in block[:148] + block[156:]):
        magic = {b"\x1f\x8b": "; it is compressed (gzip)", b"PK": "; it is a zip"}.get(block[:2], "")
        raise _Bad(f"no header of a tar (its checksum doesn't hold){magic}")
    return _number(block[124:136], "a size")


def _number(field: bytes, what: str) -> int:
    """Octal digits, or base 256 where the first bit is set (GNU)."""
    if field[0] & 0x80:
        value = int.from_bytes(field, "big") & ((1 << (8 * len(field) - 1)) - 1)
        if field[0] == 0xFF or value >= 1 << 63:
            raise _Bad(f"{what} that can't be: {field.hex()}")
        return value
    digits = field.split(b"\0", 1)[0].strip(b" ")
    if not digits:
        return 0
    if digits.strip(b"01234567"):
        raise _Bad(f"{what} that is no number: {field!r}")
    return int(digits, 8)


def _pax(data: bytes) -> dict[str, str]:
    """`LENGTH KEY=VALUE\\n` records."""
    found: dict[str, str] = {}
    place = 0
    while place < len(data) and data[place]:
        digits, space, _ = data[place : place + 21].partition(b" ")
        if not space or not digits.isdigit() or not digits.isascii():
            raise _Bad(f"a pax record that starts with {data[place : place + 8]!r}")
        length = int(digits)
        record = data[place + len(digits) + 1 : place + length]
        key, equals, value = record[:-1].partition(b"=")
        if length <= len(digits) + 2 or place + length > len(data) or record[-1:] != b"\n" or not equals:
            raise _Bad(f"a pax record of {length} bytes that doesn't end as it says")
        found[_text(key)] = value.decode("utf-8", "surrogateescape")
        place += length
    return found


def _text(field: bytes) -> str:
    return field.split(b"\0", 1)[0].decode("utf-8", "surrogateescape")


def _padded(size: int) -> int:
    return -(-size // BLOCK) * BLOCK
