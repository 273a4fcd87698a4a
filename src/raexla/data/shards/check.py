"""`verify`: are the shards what their index says."""

from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from typing import Any

from raexla.data.decode import decode_image
from raexla.data.latents import LATENT, unpack_latent
from raexla.data.sample import Refused
from raexla.data.shards.index import Progress, digest_of, shard_names, whole
from raexla.data.shards.journal import Journal
from raexla.data.shards.listing import Listed, listing
from raexla.data.shards.manifest import INDEX, Index, ShardEntry, read_index
from raexla.data.shards.measure import MAX_MEMBER
from raexla.data.shards.parallel import ordered, workers
from raexla.data.shards.store import ShardDamaged, Store
from raexla.data.shards.tar import IMAGE_EXTENSIONS, MemberTable, scan
from raexla.recipe import UserError

_FEW_BYTES = 64 << 20  # shards that are read sooner than a second process starts


@dataclass
class VerifyReport:
    """`problems` is empty when the set is what its index says."""

    shards: int
    samples: int
    bytes: int
    problems: list[str] = field(default_factory=list)
    known: int = 0
    """Shards that an earlier call, which was stopped, had found good."""
    warnings: list[str] = field(default_factory=list)


def verify(
    folder: str,
    *,
    decode: bool = False,
    processes: int = 1,
    progress: Progress | None = None,
) -> VerifyReport:
    """Read every byte of every shard and compare with `index.json`; with `decode`, decode every picture and latent too.

    Finds missing, added, cut, changed shards and shards whose member table is another. After a stop the same call goes
    on: shards that were found good and have not changed since are not read again. `progress` opens a bar. Raises
    `UserError` without an index.
    """
    store = Store(folder)
    present = set(shard_names(store))
    if not store.exists(INDEX):
        raise UserError(f"{store.url}: no {INDEX} to verify against; `raexla shards index {store.url}` makes one")
    index = read_index(store)
    report = VerifyReport(len(index.shards), index.samples, index.bytes)
    listed_names = {entry.name for entry in index.shards}
    report.problems += [f"{name}: in the index, not in the folder" for name in sorted(listed_names - present)]
    report.problems += [f"{name}: in the folder, not in the index" for name in sorted(present - listed_names)]
    listed = listing(store)
    notes = _Notes(store, "verify-decode" if decode else "verify", report)
    todo = [
        (number, entry)
        for number, entry in enumerate(index.shards)
        if entry.name in present and not notes.good(entry, listed[entry.name])
    ]
    report.known = len(present & listed_names) - len(todo)
    tick = progress("shards", len(index.shards)) if progress else lambda count: None
    tick(len(index.shards) - len(todo))
    with workers(processes, sum(entry.bytes for _, entry in todo), _FEW_BYTES) as pool:
        jobs = (
            partial(_verify_shard, folder, entry, _table_problem(index, store, number), decode)
            for number, entry in todo
        )
        try:
            for (_, entry), problems in zip(todo, ordered(pool, jobs), strict=True):
                report.problems += problems
                if not problems:
                    notes.add(entry, listed[entry.name])
                tick(1)
        finally:
            notes.flush()
    notes.clear()
    return report


class _Notes:
    """Which shards a stopped `verify` found good. A folder that can't be written to is verified without them."""

    def __init__(self, store: Store, name: str, report: VerifyReport) -> None:
        self._journal: Journal | None = Journal(store, name, 5.0)
        self._report = report
        self._good = {(row.get("name"), row.get("sha256")): row for row in self._journal.read()}

    def good(self, entry: ShardEntry, listed: Listed) -> bool:
        row = self._good.get((entry.name, entry.sha256))
        return row is not None and (row.get("bytes"), row.get("stamp")) == (listed.bytes, listed.stamp)

    def add(self, entry: ShardEntry, listed: Listed) -> None:
        row = {"name": entry.name, "sha256": entry.sha256, "bytes": listed.bytes, "stamp": listed.stamp}
        self._try(lambda journal: journal.add(row))

    def flush(self) -> None:
        self._try(lambda journal: journal.flush())

    def clear(self) -> None:
        self._try(lambda journal: journal.clear())

    def _try(self, work: Callable[[Journal], None]) -> None:
        if self._journal is None:
            return
        try:
            work(self._journal)
        except (OSError, UserError) as error:
            self._journal = None
            self._report.warnings.append(f"no notes can be kept there, so a stop would start over: {error}")


def _table_problem(index: Index, store: Store, number: int) -> str:
    """What is wrong with a shard's table in the index; "" if nothing is."""
    try:
        index.table(store, number)
    except ShardDamaged as error:
        return str(error)
    return ""


def _verify_shard(folder: str, entry: ShardEntry, problem: str, decode: bool) -> list[str]:
    if problem:
        return [problem]
    store, name = Store(folder), entry.name
    try:
        size = store.size(name)
        if size != entry.bytes:
            return [f"{name}: {size} bytes, the index says {entry.bytes}: cut short or replaced"]
        with whole(store, name, size) as file:
            sha256 = digest_of(file)
            if entry.sha256 is not None and sha256 != entry.sha256:
                return [f"{name}: SHA-256 {sha256}, the index says {entry.sha256}: its bytes were changed"]
            table = scan(file, f"{store.url}/{name}")
            if table.digest() != entry.table_sha256:
                return [f"{name}: its members aren't those of the index"]
            return _undecodable(name, file, table) if decode else []
    except ShardDamaged as error:
        return [str(error)]


def _undecodable(name: str, file: Any, table: MemberTable) -> list[str]:
    problems = []
    for row, key in enumerate(table.keys):
        for extension, (offset, size) in table.members(row).items():
            if extension not in (*IMAGE_EXTENSIONS, LATENT):
                continue
            file.seek(offset)
            try:
                if size > MAX_MEMBER:
                    raise Refused("image_too_large", f"{size} bytes")
                (unpack_latent if extension == LATENT else decode_image)(file.read(size))
            except Refused as refusal:
                problems.append(f"{name.removesuffix('.tar')}/{key}.{extension}: {refusal}")
    return problems
