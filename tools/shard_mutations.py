"""Damaged and hostile shards: a case is a pure function of (seed, number).

Half of the kinds damage the bytes of a good shard; half build one with a header, a name or a content that no honest
program writes.
"""

# long file: one kind of damage beside the other; the list is the idea, and each entry is a few lines
import gzip
import io
import json
import struct
import tarfile
import zipfile
import zlib
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache

import numpy as np
from PIL import Image

BLOCK = 512
Members = list[tuple[str, bytes]]


@dataclass(frozen=True)
class Case:
    """One shard: `data` is what is read, `good` the shard that it was made from, where there is one."""

    number: int
    kind: str
    data: bytes
    good: bytes | None


def case_of(seed: int, number: int, only: str | None = None) -> Case:
    """Case `number` of a seed: all kinds by turns."""
    rng = np.random.default_rng([seed, number])
    kind = only or KINDS[number % len(KINDS)]
    if kind in DAMAGE:
        good = _good(("ustar", "gnu", "pax")[int(rng.integers(3))])
        return Case(number, kind, DAMAGE[kind](rng, bytearray(good)), good)
    return Case(number, kind, HOSTILE[kind](rng), None)


# --- good shards


@cache
def picture(format: str, size: int = 24, mode: str = "RGB") -> bytes:
    """A small picture."""
    pixels = (np.arange(size * size * 3).reshape(size, size, 3) * 7 % 256).astype(np.uint8)
    buffer = io.BytesIO()
    Image.fromarray(pixels).convert(mode).save(buffer, format)
    return buffer.getvalue()


def samples(count: int = 5) -> Members:
    """The members of a few good samples."""
    members: Members = []
    for number in range(count):
        extension, format = (("png", "PNG"), ("jpg", "JPEG"), ("webp", "WEBP"))[number % 3]
        members += [
            (f"{number:04d}.{extension}", picture(format)),
            (f"{number:04d}.txt", f"caption {number}".encode()),
            (f"{number:04d}.json", json.dumps({"captions": [f"c {number}"], "similarity": number / 10}).encode()),
        ]
    return members


@cache
def _good(format: str) -> bytes:
    long = "folder/" * 20 + "0009.png" if format != "ustar" else "ä" * 40 + ".png"
    return archive([*samples(), (long, picture("PNG"))], format)


def archive(members: Members, format: str = "gnu") -> bytes:
    """A tar as Python writes it."""
    formats = {"ustar": tarfile.USTAR_FORMAT, "gnu": tarfile.GNU_FORMAT, "pax": tarfile.PAX_FORMAT}
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w", format=formats[format]) as tar:
        for name, data in members:
            info = tarfile.TarInfo(name)
            info.size = len(data)
            tar.addfile(info, io.BytesIO(data))
    return buffer.getvalue()


def header(
    name: bytes = b"x.png", size: bytes = b"00000000000\0", kind: bytes = b"0", *, magic: bytes = b"ustar\x0000",
    prefix: bytes = b"", link: bytes = b"", tail: bytes = b"",
) -> bytes:  # fmt: skip
    """A header with any fields at all, and a checksum that holds."""
    block = bytearray(BLOCK)
    block[0:100] = name[:100].ljust(100, b"\0")
    block[100:108] = b"0000644\0"
    block[124:136] = size[:12].ljust(12, b"\0")
    block[156:157] = kind
    block[157:257] = link[:100].ljust(100, b"\0")
    block[257 : 257 + len(magic)] = magic
    block[345:500] = prefix[:155].ljust(155, b"\0")
    if tail:
        block[386 : 386 + len(tail)] = tail
    block[148:156] = b" " * 8
    block[148:156] = b"%06o\0 " % sum(block)
    return bytes(block)


def octal(size: int) -> bytes:
    """A size field."""
    return b"%011o\0" % size


def padded(data: bytes) -> bytes:
    """Up to whole blocks."""
    return data + bytes(-len(data) % BLOCK)


def with_samples(rng: np.random.Generator, odd: bytes) -> bytes:
    """Good samples, something odd among them, good samples; an end marker."""
    body = archive(samples(2)).rstrip(b"\0")
    first = padded(body)
    second = archive([(f"z{name}", data) for name, data in samples(2)])
    return first + odd + second if rng.integers(2) else odd + second


# --- damage


def _flip_bits(rng: np.random.Generator, data: bytearray) -> bytes:
    for place in rng.integers(len(data) * 8, size=int(rng.integers(1, 30))):
        data[place // 8] ^= 1 << (place % 8)
    return bytes(data)


def _flip_header(rng: np.random.Generator, data: bytearray) -> bytes:
    heads = [place for place in range(0, len(data), BLOCK) if data[place + 257 : place + 262] == b"ustar"]
    place = int(rng.choice(heads)) + int(rng.integers(BLOCK))
    data[place] ^= 1 << int(rng.integers(8))
    return bytes(data)


def _rewrite_header(rng: np.random.Generator, data: bytearray) -> bytes:
    """Random bytes in a field, under a checksum that holds."""
    heads = [place for place in range(0, len(data), BLOCK) if data[place + 257 : place + 262] == b"ustar"]
    start = int(rng.choice(heads))
    field, size = ((0, 100), (124, 12), (156, 1), (157, 100), (257, 8), (345, 155))[int(rng.integers(6))]
    data[start + field : start + field + size] = rng.bytes(size)
    data[start + 148 : start + 156] = b" " * 8
    data[start + 148 : start + 156] = b"%06o\0 " % sum(data[start : start + BLOCK])
    return bytes(data)


def _cut(rng: np.random.Generator, data: bytearray) -> bytes:
    return bytes(data[: int(rng.integers(len(data)))])


def _cut_at_block(rng: np.random.Generator, data: bytearray) -> bytes:
    return bytes(data[: BLOCK * int(rng.integers(len(data) // BLOCK))])


def _blocks(change: Callable[[np.random.Generator, list[bytes]], None]) -> Callable[..., bytes]:
    def damage(rng: np.random.Generator, data: bytearray) -> bytes:
        blocks = [bytes(data[place : place + BLOCK]) for place in range(0, len(data), BLOCK)]
        change(rng, blocks)
        return b"".join(blocks)

    return damage


def _any(rng: np.random.Generator, blocks: list[bytes]) -> int:
    return int(rng.integers(len(blocks)))


def _zero(rng: np.random.Generator, blocks: list[bytes]) -> None:
    blocks[_any(rng, blocks)] = bytes(BLOCK)


def _lose(rng: np.random.Generator, blocks: list[bytes]) -> None:
    del blocks[_any(rng, blocks)]


def _twice(rng: np.random.Generator, blocks: list[bytes]) -> None:
    blocks.insert(_any(rng, blocks), blocks[_any(rng, blocks)])


def _swap(rng: np.random.Generator, blocks: list[bytes]) -> None:
    one, other = _any(rng, blocks), _any(rng, blocks)
    blocks[one], blocks[other] = blocks[other], blocks[one]


def _noise(rng: np.random.Generator, blocks: list[bytes]) -> None:
    blocks[_any(rng, blocks)] = rng.bytes(BLOCK)


def _wrapped(rng: np.random.Generator, data: bytearray) -> bytes:
    """Something else than a tar under a tar's name."""
    choice = int(rng.integers(5))
    if choice == 0:
        return gzip.compress(bytes(data), mtime=0)
    if choice == 1:
        buffer = io.BytesIO()
        with zipfile.ZipFile(buffer, "w") as zipped:
            zipped.writestr("../../x.png", bytes(data))
        return buffer.getvalue()
    if choice == 2:
        return rng.bytes(int(rng.integers(1, 5000)))
    return b"" if choice == 3 else b"<html>404 not found</html>\n" * 40


DAMAGE: dict[str, Callable[[np.random.Generator, bytearray], bytes]] = {
    "bits": _flip_bits,
    "header bit": _flip_header,
    "header field": _rewrite_header,
    "cut": _cut,
    "cut at a block": _cut_at_block,
    "zero block": _blocks(_zero),
    "lost block": _blocks(_lose),
    "repeated block": _blocks(_twice),
    "swapped blocks": _blocks(_swap),
    "noise block": _blocks(_noise),
    "bytes behind": lambda rng, data: bytes(data) + rng.bytes(int(rng.integers(1, 3000))),
    "joined": lambda rng, data: bytes(data) + archive([("late.png", picture("PNG"))]),
    "no tar": _wrapped,
}


# --- hostile headers


def _sizes(rng: np.random.Generator) -> bytes:
    fields = [
        b"77777777777\0", octal(1 << 30), b"\x80" + (1 << 62).to_bytes(11, "big"), b"\xff" * 12,
        b"\x80" + b"\xff" * 11, b"-0000000001\0", b"9999999999\0\0", b"0x10\0" + bytes(7), b" " * 12, bytes(12),
        b"1e9\0" + bytes(8), b"\xff" + (1 << 80).to_bytes(11, "big"),
    ]  # fmt: skip
    kind = (b"0", b"L", b"K", b"x", b"g", b"S", b"1", b"D")[int(rng.integers(8))]
    return with_samples(rng, header(size=fields[int(rng.integers(len(fields)))], kind=kind) + bytes(BLOCK))


def _chains(rng: np.random.Generator) -> bytes:
    """Thousands of headers that speak of the next one."""
    count = int(rng.integers(500, 3000))
    kind = (b"L", b"K", b"x", b"g")[int(rng.integers(4))]
    data = b"20 comment=aaaaaaaa\n"[:20] if kind in (b"x", b"g") else b"name.png\0"
    return with_samples(rng, (header(b"././@LongLink", octal(len(data)), kind) + padded(data)) * count)


def _pax(rng: np.random.Generator) -> bytes:
    def record(key: str, value: str) -> bytes:
        plain = f" {key}={value}\n".encode("utf-8", "surrogateescape")
        size = len(plain)
        while len(str(size)) + len(plain) != size:
            size = len(str(size)) + len(plain)
        return str(size).encode() + plain

    records = [
        record("size", "-1"), record("size", "9" * 30), record("size", "1e3"), record("size", "99999999"),
        record("path", "../../../x.png"), record("path", "/etc/x.png"), record("path", "a\0b.png"),
        record("path", "\udcff\udcfe.png"), record("path", "a" * 70_000 + ".png"), record("path", ""),
        record("GNU.sparse.major", "1") + record("GNU.sparse.minor", "0") + record("GNU.sparse.realsize", "9" * 15),
        record("GNU.sparse.map", "0," * 5000 + "0"), record("linkpath", "/etc/passwd"), record("hdrcharset", "BINARY"),
        b"0 path=x\n", b"-5 path=x\n", b"99999999999999999999 path=x\n", b"9" * 5000, b"11 path x\n", b"5 a=b",
        b"\n", b" " * 600, b"12 =aaaaaaa\n", record("path", "x.png")[:-1], b"1" * 200_000 + b" ",
    ]  # fmt: skip
    data = records[int(rng.integers(len(records)))]
    kind = b"g" if rng.integers(4) == 0 else b"x"
    body = padded(picture("PNG"))
    size = octal(len(picture("PNG")))
    return with_samples(rng, header(b"pax", octal(len(data)), kind) + padded(data) + header(b"y.png", size) + body)


def _types(rng: np.random.Generator) -> bytes:
    """Links, devices, folders, pipes, volumes, unknown types, with names that point elsewhere."""
    odd = b""
    for _ in range(int(rng.integers(1, 6))):
        kind = bytes([b"1234567DMNVAz\x00\xff"[int(rng.integers(15))]])
        link = (b"/etc/passwd", b"../../../x", b"x.png", b"")[int(rng.integers(4))]
        size = octal(int(rng.integers(0, 600)) if rng.integers(2) else 0)
        odd += header(b"%d.png" % rng.integers(9), size, kind, link=link)
    return with_samples(rng, odd)


def _sparse(rng: np.random.Generator) -> bytes:
    data = bytes(BLOCK)
    huge = octal(8 * (1 << 30) - 1)
    tail = (octal(0) + octal(BLOCK)) * 4
    block = bytearray(header(b"s.png", octal(BLOCK), b"S", magic=b"ustar  \0", tail=tail))
    block[482] = 1 if rng.integers(2) else 0
    block[483:495] = huge
    block[148:156] = b" " * 8
    block[148:156] = b"%06o\0 " % sum(block)
    extensions = b"" if not block[482] else (b"\x01" * BLOCK) * int(rng.integers(1, 2000))
    if extensions and rng.integers(2):
        extensions += bytes(BLOCK)
    return with_samples(rng, bytes(block) + extensions + data)


def _names(rng: np.random.Generator) -> bytes:
    names = [
        "../../../x.png", "/tmp/fuzz-x.png", "a/../../x.png", "..", "../.png", ".hidden", "README", "a.", "....png",
        "C:\\x.png", "..\\..\\x.png", "~/x.png", "$HOME/x.png", "|touch x.png", "pipe:touch x.png", "gs://b/x.png",
        "a\nb.png", "\x1b[2Jx.png", "\u202egnp.x.png", "e\u0301.png", "\udcff.png", "a" * 5000 + ".png",
        "x/" * 300 + "y.png", "CON.png", "0000.PNG", "0000.png", "0000.txt", "x.png/", "./x.png", "././x.png",
        "//x.png", "index.json", "shard-00000.tar", "x.tar", "x.tar.gz", "x.pyd", "x.pickle", "x.json.png", "",
    ]  # fmt: skip
    chosen = [names[int(rng.integers(len(names)))] for _ in range(int(rng.integers(1, 12)))]
    odd: Members = [(name, picture("PNG")) for name in chosen]
    format = ("gnu", "pax")[int(rng.integers(2))]
    return archive([*samples(2), *odd, *samples(3), *((f"{name}.txt", b"words") for name in chosen)], format)


def _wide(rng: np.random.Generator) -> bytes:
    """A table of as many columns as rows."""
    count = int(rng.integers(1500, 4000)) if rng.integers(4) == 0 else int(rng.integers(10, 200))
    return b"".join(header(b"%d.e%d" % (n, n)) for n in range(count)) + bytes(2 * BLOCK)


def _many(rng: np.random.Generator) -> bytes:
    """One name thousands of times."""
    block = header(b"0001.txt", octal(1)) + padded(b"x")
    return block * int(rng.integers(100, 3000)) + archive(samples(2))


HEADERS: dict[str, Callable[[np.random.Generator], bytes]] = {
    "sizes": _sizes,
    "chains": _chains,
    "pax": _pax,
    "types": _types,
    "sparse": _sparse,
    "names": _names,
    "wide": _wide,
    "many": _many,
}


# --- hostile contents


def png(width: int, height: int, *chunks: tuple[bytes, bytes], depth: int = 8, colour: int = 2) -> bytes:
    """A PNG of chunks, its header apart."""
    head = struct.pack(">IIBBBBB", width, height, depth, colour, 0, 0, 0)
    out = b"\x89PNG\r\n\x1a\n"
    for kind, data in ((b"IHDR", head), *chunks, (b"IEND", b"")):
        out += struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))
    return out


@cache
def _zeros(count: int) -> bytes:
    return zlib.compress(bytes(count), 9)


@cache
def _gzip_bomb(count: int) -> bytes:
    return gzip.compress(bytes(count), mtime=0)


@cache
def _zip_bomb() -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as zipped:
        zipped.writestr("../../../x.png", bytes(1 << 24))
    return buffer.getvalue()


def _gif(width: int, height: int, frames: int) -> bytes:
    frame = b"\x21\xf9\x04\0\0\0\0\0" + b"\x2c" + struct.pack("<HHHHB", 0, 0, width, height, 0) + b"\x02\x02\x44\x01\0"
    return b"GIF89a" + struct.pack("<HHBBB", width, height, 0x80, 0, 0) + bytes(6) + frame * frames + b";"


def _pictures(rng: np.random.Generator) -> bytes:
    """Pictures that are larger than they look, that lie about themselves, or that are none."""
    jpeg, tiff = bytearray(picture("JPEG")), picture("TIFF")
    place = jpeg.find(b"\xff\xc0")
    jpeg[place + 5 : place + 9] = b"\xff\xff\xff\xff"
    cut = picture(("PNG", "JPEG", "WEBP", "GIF", "BMP", "TIFF", "PPM")[int(rng.integers(7))])
    noisy = bytearray(cut)
    for spot in rng.integers(len(noisy), size=4):
        noisy[spot] = int(rng.integers(256))
    found = [
        png(60_000, 60_000, (b"IDAT", _zeros(1 << 16))), png(2**31 - 1, 2**31 - 1, (b"IDAT", b"")),
        png(12_000, 12_000, (b"IDAT", _zeros(1 << 22)), depth=1, colour=0),
        png(2_000, 2_000, (b"IDAT", _zeros(2_000 * 251)), depth=1, colour=0),
        png(2_000, 2_000, (b"IDAT", _zeros(1 << 24))), png(0, 0, (b"IDAT", b"")), png(1, 1),
        png(8, 8, (b"zTXt", b"a\0\0" + _zeros(1 << 26)), (b"IDAT", _zeros(8 * 25))),
        png(8, 8, (b"iCCP", b"a\0\0" + _zeros(1 << 26)), (b"IDAT", _zeros(8 * 25))),
        png(8, 8, *[(b"tEXt", b"k\0v")] * 3000, (b"IDAT", _zeros(8 * 25))),
        png(8, 8, (b"eXIf", b"MM\0*\0\0\0\x08\xff\xff" + rng.bytes(200)), (b"IDAT", _zeros(8 * 25))),
        _gif(65_535, 65_535, 1), _gif(16, 16, 3000), bytes(jpeg), bytes(noisy), cut[: int(rng.integers(len(cut)))],
        tiff[:4] + struct.pack("<I", 0xFFFFFFF0) + tiff[8:], tiff[:8] + b"\xff\xff" + tiff[10:],
        b"P6 65535 65535 255\n", b"P6 4 4 65535\n" + bytes(96), b"P5 9999999999 1 255\n", b"Pf 4 4 nan\n" + bytes(64),
        b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n", b"<svg xmlns='http://www.w3.org/2000/svg'/>", b"",
        b"BM" + struct.pack("<IHHIIiiHHIIiiII", 99, 0, 0, 54, 40, 1 << 30, -(1 << 30), 1, 24, 0, 0, 0, 0, 0, 0),
        b"RIFF\xff\xff\xff\xffWEBPVP8 " + rng.bytes(60), _gzip_bomb(1 << 24), rng.bytes(300),
    ]  # fmt: skip
    extensions = ("png", "jpg", "webp", "gif", "bmp", "tiff", "ppm", "avif")
    odd: Members = []
    for number, choice in enumerate(rng.choice(len(found), size=4, replace=False)):
        odd.append((f"p{number}.{extensions[int(rng.integers(len(extensions)))]}", found[int(choice)]))
        odd.append((f"p{number}.txt", b"words"))
    return archive([*odd, *samples(2)])


def _texts(rng: np.random.Generator) -> bytes:
    """Captions and JSON that nobody should write."""
    found = [
        b"\xff\xfe\x00bad", b"", b" \n", b"\xef\xbb\xbf", b"a" * (1 << 20), "\u202e\u0000x".encode(), b"[" * 100_000,
        b'{"a":' * 50_000, b'{"captions": "' + b"x" * (1 << 20) + b'"}', b'{"captions": 5}', b'{"captions": []}',
        b'{"captions": [1, null]}', b'{"captions": ["\\ud800"]}', b'{"a": ' + b"9" * 10_000 + b"}", b"NaN", b"null",
        b'{"a": NaN, "a": Infinity}', b'{"conversations": [{}]}', b'{"conversations": "x"}', b'"text"', b"{",
        b'{"conversations": [{"from": "human", "value": "<image><image>"}, {"from": "gpt", "value": "y"}]}',
        b'{"question": {}, "answer": []}', b'{"__class__": "os.system", "captions": ["x"]}', b"\x80\x04\x95.",
        _gzip_bomb(1 << 24), b'{"captions": [["deep"]]}', b'{"key": "../../x", "captions": ["x"]}',
    ]  # fmt: skip
    odd: Members = []
    for number in range(4):
        text, plain = (found[int(rng.integers(len(found)))] for _ in range(2))
        odd.append((f"t{number}.png", picture("PNG")))
        if rng.integers(3):
            odd.append((f"t{number}.txt", text))
        if rng.integers(3):
            odd.append((f"t{number}.json", plain))
    return archive([*odd, *samples(2)])


def _nested(rng: np.random.Generator) -> bytes:
    """Archives, bombs among them, as members."""
    inner = [archive(samples(1)), _gzip_bomb(1 << 26), _zip_bomb()]
    extensions = ("png", "tar", "tar.gz", "zip", "json", "txt", "npy", "pt", "pkl")
    odd = [
        (f"n{number}.{extensions[int(rng.integers(len(extensions)))]}", inner[int(rng.integers(len(inner)))])
        for number in range(4)
    ]
    return archive([*odd, *samples(2)])


CONTENTS: dict[str, Callable[[np.random.Generator], bytes]] = {
    "pictures": _pictures,
    "texts": _texts,
    "nested": _nested,
}
HOSTILE = HEADERS | CONTENTS
KINDS = (*DAMAGE, *HOSTILE, "pictures", "texts", "pax", "names", "header field")
