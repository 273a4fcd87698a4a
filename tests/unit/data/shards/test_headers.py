"""The reader of tar headers: it agrees with Python's on every honest tar, and takes no dishonest one on trust."""

import io
import os
import tarfile

import numpy as np
import pytest

from raexla.data.shards import ShardDamaged
from raexla.data.shards.headers import BLOCK, Member, read_members
from raexla.data.shards.tar import MemberTable, scan

KINDS = {tarfile.SYMTYPE: "link", tarfile.LNKTYPE: "link", tarfile.CHRTYPE: "device", tarfile.DIRTYPE: "folder"}


def names(rng: np.random.Generator) -> list[str]:
    letters = np.array(list("abcz019._-/ äß日\udc80"))
    found = []
    for length in rng.integers(1, 300, size=12):
        text = "".join(rng.choice(letters, size=length)).strip("/") or "x"
        found.append(os.path.normpath(text).lstrip("/"))
    return found


@pytest.mark.parametrize("format", [tarfile.USTAR_FORMAT, tarfile.GNU_FORMAT, tarfile.PAX_FORMAT])
@pytest.mark.parametrize("seed", range(6))
def test_what_python_writes_is_read_as_python_reads_it(format: int, seed: int) -> None:
    rng = np.random.default_rng([format, seed])
    buffer, written = io.BytesIO(), 0
    with tarfile.open(fileobj=buffer, mode="w", format=format, errors="surrogateescape") as tar:
        for name in names(rng):
            info = tarfile.TarInfo(name)
            info.type = [tarfile.REGTYPE, *KINDS][int(rng.integers(5))] if rng.integers(3) == 0 else tarfile.REGTYPE
            info.size = int(rng.integers(0, 2000)) if info.isreg() else 0
            info.linkname = "elsewhere" if info.issym() or info.islnk() else ""
            info.mtime = 1.5 if format == tarfile.PAX_FORMAT else 1
            try:
                tar.addfile(info, io.BytesIO(rng.bytes(info.size)))
                written += 1
            except (ValueError, UnicodeError):  # ustar has no place for this name; Python's pax none for these bytes
                continue
    assert written > 3
    buffer.seek(0)
    with tarfile.open(fileobj=buffer) as tar:
        expected = [
            Member(info.name, info.offset_data, info.size if info.isreg() else 0, KINDS.get(info.type, "file"))
            for info in tar
        ]
    found = list(read_members(buffer, "x.tar"))
    assert [(m.offset, m.size, m.kind) for m in found] == [(m.offset, m.size, m.kind) for m in expected]
    assert [m.name.rstrip("/") for m in found] == [m.name.rstrip("/") for m in expected]


def header(name: str, size: bytes | int = 0, kind: bytes = b"0") -> bytes:
    info = tarfile.TarInfo(name)
    info.type = kind
    block = bytearray(info.tobuf(tarfile.GNU_FORMAT))
    block[124:136] = size if isinstance(size, bytes) else b"%011o\0" % size
    block[148:156] = b" " * 8
    block[148:156] = b"%06o\0 " % sum(block)
    return bytes(block)


END = bytes(2 * BLOCK)


@pytest.mark.parametrize(
    ("data", "said"),
    [
        (
            header("a.png", b"77777777777\0") + END,
            "is said to have 8589934591 bytes, 1024 are left",
        ),
        (header("a.png", b"\x80" + b"\xff" * 11) + END, "a size that can't be"),
        (header("a.png", b"\xff" * 12) + END, "a size that can't be"),
        (header("a.png", b"zzz\0" + bytes(8)) + END, "a size that is no number"),
        (header("l", 1 << 30, b"L") + END, "a long name of 1073741824 bytes, at most 65536"),
        (header("p", 1 << 30, b"x") + END, "a pax header of 1073741824 bytes"),
        (header("p", 9, b"x") + b"0 path=x\n".ljust(BLOCK, b"\0") + END, "a pax record of 0 bytes"),
        (header("p", 12, b"x") + b"12 size=-1\n\n".ljust(BLOCK, b"\0") + header("a.png") + END, "a size of"),
        (
            header("p", 40_018, b"x")
            + (b"40018 path=%s.png\n" % (b"a" * 40_002)).ljust(40_448, b"\0")
            + header("a.png"),
            "a name of",
        ),
        (header("a.png", 3) + b"abc".ljust(BLOCK, b"\0"), "no end-of-archive marker"),
        (header("a.png") + END + header("late.png") + END, "tars that were joined"),
        (b"\x1f\x8b" + bytes(600), "it is compressed"),
        (header("s.png", 0, b"S")[:482] + b"\1" + header("s.png", 0, b"S")[483:], "checksum doesn't hold"),
    ],
)
def test_what_a_header_says_is_checked(data: bytes, said: str) -> None:
    with pytest.raises(
        ShardDamaged, match=rf"x\.tar: after \d+ members, at byte \d+: .*({said}).*truncated or damaged"
    ):
        list(read_members(io.BytesIO(data), "x.tar"))


def test_chains_of_headers_end() -> None:
    """3,000 long names in a row: no recursion, and the last one counts, as with GNU tar."""
    links = b"".join(header("l", 6, b"L") + (b"%05d" % number).ljust(BLOCK, b"\0") for number in range(3000))
    assert next(read_members(io.BytesIO(links + header("a.png") + END), "x.tar")).name == "02999"


def test_what_is_no_sample_is_counted() -> None:
    odd = [header(f"{kind!r}.png", 0, kind) for kind in (b"1", b"2", b"3", b"6", b"5", b"S", b"V")]
    plain = [
        header("a.png", 3) + b"abc".ljust(BLOCK, b"\0"),
        header(".hidden"),
        header("README"),
        header("dir/", 0, b"\0"),
    ]
    table = scan(io.BytesIO(b"".join([*odd, *plain]) + END), "x.tar")
    assert table.keys == ["a"]
    assert table.left_aside == {"device": 2, "link": 2, "no key or extension": 2, "other": 1, "sparse": 1}
    again = MemberTable.unpack(table.pack())
    assert again.left_aside == table.left_aside


def test_a_table_out_of_all_proportion_is_refused() -> None:
    tar = b"".join(header(f"{number}.e{number}") for number in range(3000)) + END
    with pytest.raises(ShardDamaged, match="3000 different extensions in 3000 samples"):
        scan(io.BytesIO(tar), "x.tar")
