"""What is cheap to know about a shard while its bytes pass by: sizes of pictures from their headers, of captions, of
members. A line of `index.json` a shard, so that `stats` has the whole set without reading it again."""

from collections import Counter
from collections.abc import Iterable, Mapping
from typing import Any, BinaryIO

from raexla.data.decode import open_image
from raexla.data.latents import LATENT, REFUSED, describe_latent, unpack_refusal
from raexla.data.parse import find_captions, parse_json
from raexla.data.sample import Refused
from raexla.data.shards.tar import IMAGE_EXTENSIONS, MemberTable

MAX_MEMBER = 1 << 28
"""Bytes of a member above which it isn't looked into."""
CAPTIONS = ("txt", "json.captions")
SPANS = ("width", "height", "caption_characters")


class Tally:
    """Adds up samples. `plain()` gives JSON values: `member_bytes` by extension; `width`, `height` and
    `caption_characters` as [smallest, largest, sum, number]; `formats`; `refused` by reason."""

    def __init__(self) -> None:
        self._bytes: Counter[str] = Counter()
        self._formats: Counter[str] = Counter()
        self._refused: Counter[str] = Counter()
        self._spans: dict[str, list[int]] = {}

    def add(self, sizes: Mapping[str, int], members: Mapping[str, bytes]) -> None:
        """One sample: the size of every member, and the bytes of those to look into."""
        self._bytes.update(sizes)
        try:
            data = next((members[extension] for extension in IMAGE_EXTENSIONS if extension in members), None)
            if data is not None:
                image = open_image(data)
                self._formats[f"{image.format} {image.mode}"] += 1
                self._span("width", image.width)
                self._span("height", image.height)
            if LATENT in members:
                self._formats[describe_latent(members[LATENT])] += 1
            if REFUSED in members:
                raise unpack_refusal(members[REFUSED])
            meta = parse_json(members["json"]) if "json" in members else {}
            if "txt" in members or "captions" in meta:
                self._span("caption_characters", len(find_captions(members, meta, CAPTIONS)[0]))
        except Refused as refusal:
            self._refused[refusal.reason] += 1

    def plain(self) -> dict[str, Any]:
        """Only what there is."""
        found = {
            "member_bytes": dict(sorted(self._bytes.items())),
            **{name: self._spans[name] for name in SPANS if name in self._spans},
            "formats": dict(sorted(self._formats.items())),
            "refused": dict(sorted(self._refused.items())),
        }
        return {name: value for name, value in found.items() if value}

    def _span(self, name: str, value: int) -> None:
        low, high, total, count = self._spans.get(name, [value, value, 0, 0])
        self._spans[name] = [min(low, value), max(high, value), total + value, count + 1]


def measure(file: BinaryIO, table: MemberTable) -> dict[str, Any]:
    """The statistics of an open shard."""
    tally = Tally()
    for row in range(len(table)):
        places = table.members(row)
        wanted = next((extension for extension in IMAGE_EXTENSIONS if extension in places), None)
        members = {}
        for extension in ("txt", "json", LATENT, REFUSED, wanted):
            if extension in places and places[extension][1] <= MAX_MEMBER:
                offset, size = places[extension]
                file.seek(offset)
                members[extension] = file.read(size)
        tally.add({extension: size for extension, (_, size) in places.items()}, members)
    return tally.plain()


def add_up(statistics: Iterable[Mapping[str, Any]]) -> dict[str, Any]:
    """The statistics of several shards as those of one."""
    total: dict[str, Any] = {}
    for one in statistics:
        for name, value in one.items():
            if name in SPANS:
                low, high, amount, count = value
                least, most, sum_, number = total.get(name, [low, high, 0, 0])
                total[name] = [min(low, least), max(high, most), sum_ + amount, number + count]
            else:
                counts = total.setdefault(name, {})
                for key, number in value.items():
                    counts[key] = counts.get(key, 0) + number
    return total
