#!/usr/bin/env python
"""Damaged and hostile shards through everything that reads shards: nothing may crash, hang, swell, stray or go unsaid.

    tools/fuzz_shards.py --count 2000 --seed 0
    tools/fuzz_shards.py --seed 0 --case 1234        one case, with what came of it

Each case (`shard_mutations.py`) goes through the reader, `open_loader`, `index`, `verify`, `stats`, `pack`, `reshard`,
and `peek`. Violations, each of which makes the exit code 1:

- any error but the program's own (`UserError` and its kinds), and a recursion or a lack of memory among these;
- more than --seconds of processor time for a case, or --mib more memory than before;
- a file opened for writing, a link, a process, a connection outside the case's own folder;
- bytes that differ from the shard that the index was made from and that `verify` doesn't name;
- members, samples or candidates that are neither taken nor counted as left out.
"""

import argparse
import contextlib
import faulthandler
import io
import os
import resource
import shutil
import signal
import sys
import tempfile
import traceback
import warnings
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from types import FrameType
from typing import Any

from shard_mutations import KINDS, Case, case_of

from raexla.data import DataRecipe, SourceRecipe, open_loader
from raexla.data.sample import Refused
from raexla.data.shards import ReshardRecipe, index, pack, peek, reshard, stats, verify
from raexla.data.shards.headers import read_members
from raexla.data.shards.tar import scan
from raexla.data.source import Source
from raexla.obs import Progress
from raexla.recipe import BadDataError, UserError

OUR_ERRORS = (UserError, BadDataError)
MEMORY = ("RecursionError", "MemoryError")


class Hang(BaseException):
    """A case that takes too long; no handler of errors may swallow it."""


@dataclass
class Found:
    """What came of the cases."""

    outcomes: Counter[str] = field(default_factory=Counter)
    violations: list[str] = field(default_factory=list)


def main(arguments: list[str] | None = None) -> int:
    """Run from the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--count", type=int, default=2000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--case", type=int, help="this case alone, and what came of it")
    parser.add_argument("--only", choices=sorted(set(KINDS)), help="cases of one kind")
    parser.add_argument("--seconds", type=float, default=10.0, help="processor time that a case may take")
    parser.add_argument("--mib", type=int, default=512, help="memory that a case may add")
    options = parser.parse_args(arguments)
    numbers = range(options.count) if options.case is None else [options.case]
    bar = Progress("shards", len(numbers))
    found = fuzz(
        options.seed, numbers, options.only, options.seconds, options.mib, options.case is not None, bar.advance
    )
    bar.close()
    for violation in found.violations:
        print(violation)
    for outcome, number in sorted(found.outcomes.items()):
        print(f"{number:6}  {outcome}")
    print(f"{len(numbers)} shards, {len(found.violations)} violations")
    return 1 if found.violations else 0


def fuzz(
    seed: int,
    numbers: Any,
    only: str | None = None,
    seconds: float = 10.0,
    mib: int = 512,
    loud: bool = False,
    tick: Callable[[], None] = lambda: None,
) -> Found:
    """The cases `numbers` of a seed; `tick` is told of each. Their files need no disk where the system has such."""
    found = Found()
    memory = "/dev/shm" if os.access("/dev/shm", os.W_OK) else None
    with tempfile.TemporaryDirectory(prefix="raexla-fuzz-", dir=memory) as name, warnings.catch_warnings():
        warnings.simplefilter("ignore")  # Pillow tells of large pictures and damaged EXIF
        guard = _Guard(Path(name))
        for number in numbers:
            case = case_of(seed, number, only)
            if number == min(numbers):
                _run(case_of(seed, 0, "texts"), guard, Found(), seconds)  # what is loaded once isn't a case's memory
            before = _peak_mib()
            faulthandler.dump_traceback_later(600 * seconds, exit=True)  # for code that hears no signal
            _run(case, guard, found, seconds, loud)
            faulthandler.cancel_dump_traceback_later()
            if _peak_mib() - before > mib:
                found.violations.append(_name(case, f"{_peak_mib() - before} MiB more memory, {mib} are allowed"))
            tick()
    return found


def _run(case: Case, guard: "_Guard", found: Found, seconds: float, loud: bool = False) -> None:
    """One case through every reader."""
    root = guard.root / "deep" / "deeper" / "case"  # so that `../../..` leads to where it is seen
    shutil.rmtree(guard.root / "deep", ignore_errors=True)
    (root / "in").mkdir(parents=True)
    (root / "in" / "shard-00000.tar").write_bytes(case.data)
    for what, work in _stages(case, root).items():
        guard.strayed.clear()
        try:
            with _within(seconds), guard.watching(root), contextlib.redirect_stderr(io.StringIO()):
                outcome = work()
        except OUR_ERRORS as error:
            outcome = f"refused ({type(error).__name__})"
            if any(word in str(error) for word in MEMORY):
                found.violations.append(_name(case, f"{what}: {error}"))
            if loud:
                print(f"{what}: {error}")
        except Hang:
            outcome = "hangs"
            found.violations.append(_name(case, f"{what}: more than {seconds} s of processor time"))
        except Wrong as error:
            outcome = "wrong"
            found.violations.append(_name(case, f"{what}: {error}"))
        except Exception as error:
            outcome = "crashes"
            place = traceback.extract_tb(error.__traceback__)[-1]
            found.violations.append(
                _name(case, f"{what}: {type(error).__name__}: {str(error)[:200]} ({place.filename}:{place.lineno})")
            )
            if loud:
                traceback.print_exception(error)
        found.outcomes[f"{what}: {outcome}"] += 1
        found.violations += [_name(case, f"{what}: {stray}") for stray in guard.strayed]
        if loud:
            print(f"{what}: {outcome}")
    left = sorted(path.name for path in root.iterdir())
    outside = [path.name for place in (guard.root, root.parent.parent, root.parent) for path in place.iterdir()]
    if set(left) - {"in", "packed", "resharded"} or sorted(outside) != ["case", "deep", "deeper"]:
        found.violations.append(_name(case, f"files outside their folder: {left} {outside}"))


class Wrong(Exception):
    """Something was lost without being counted, or changed without being named."""


def _stages(case: Case, root: Path) -> dict[str, Callable[[], str]]:
    folder = str(root / "in")
    kind = ("caption", "image", "conversation")[case.number % 3]

    def read() -> str:
        source = Source(SourceRecipe(name="s", path=folder, kind=kind))
        loaded = refused = 0
        for shard, samples in enumerate(source.shard_samples):
            for row in range(samples):
                try:
                    source.load(shard, row, seed=0, epoch=0)
                    loaded += 1
                except Refused:
                    refused += 1
        _count(case, sum(source.shard_samples), loaded + refused)
        return "reads"

    def load() -> str:
        recipe = DataRecipe.model_validate(
            {
                "sources": [{"name": "s", "path": folder, "kind": kind}],
                "order": {"streams": 1, "piece": 2, "window": 4},
                "loader": {"read_ahead": 0},
            }
        )
        with open_loader(
            recipe, transform=lambda sample, rng: sample.uid, collate=lambda group, items: {}, seed=0,
            global_batch_images=2,
        ) as loader:  # fmt: skip
            for _ in range(4):
                next(loader)
        return "loads"

    def check() -> str:
        if case.good is None:
            return "was never good"
        path = root / "in" / "shard-00000.tar"
        path.write_bytes(case.good)
        index(folder)
        path.write_bytes(case.data)
        problems = verify(folder, decode=True).problems
        if (case.data != case.good) != bool(problems):
            raise Wrong(f"the bytes {'differ' if case.data != case.good else 'are the same'}, verify says {problems}")
        for name in os.listdir(folder):
            if name != path.name:
                (root / "in" / name).unlink()
        return "told apart" if problems else "the same"

    def make_index() -> str:
        made = index(folder)
        (shard,) = made.shards
        report = verify(folder, decode=True)
        if any("decod" not in line and "image" not in line for line in report.problems):
            raise Wrong(f"verify doesn't agree with index: {report.problems}")
        _same_names(case, shard.samples)
        return "indexes"

    def pack_all() -> str:
        report = pack(folder, str(root / "packed"), kind="image", samples_per_shard=3)
        left = sum(number for reason, number in report.counts.items() if reason != "renamed")
        _count(case, report.seen, report.samples + left)
        _inside(root / "packed")
        return "packs"

    def reshard_all() -> str:
        recipe = ReshardRecipe(resize=16, where="width > 0 or similarity > 0", samples_per_shard=2)
        report = reshard(folder, str(root / "resharded"), recipe)
        left = sum(number for reason, number in report.counts.items() if reason != "renamed")
        _count(case, report.seen, report.samples + left)
        _inside(root / "resharded")
        return "reshards"

    def look() -> str:
        stats(folder)
        if case.number % 8 == 0:
            peek(folder, count=6, cell=64)
        return "looks"

    return {
        "verify": check, "read": read, "load": load, "index": make_index, "pack": pack_all, "reshard": reshard_all,
        "look": look,
    }  # fmt: skip


def _count(case: Case, there: int, told: int) -> None:
    if there != told:
        raise Wrong(f"{there} are there, {told} are taken or counted as left out")


def _same_names(case: Case, samples: int) -> None:
    """Every member is a sample's, counted as left aside, or a folder."""
    file = io.BytesIO(case.data)
    table = scan(file, "shard")
    members = list(read_members(file, "shard"))
    folders = sum(member.kind == "folder" for member in members)
    told = int((table.sizes >= 0).sum()) + len(table.duplicates) + sum(table.left_aside.values()) + folders
    _count(case, len(members), told)
    _count(case, len(table), samples)


def _inside(folder: Path) -> None:
    """What we wrote has no name that leads out of a folder."""
    for path in folder.glob("*.tar"):
        with path.open("rb") as file:
            try:
                members = list(read_members(file, path.name))
            except UserError as error:
                raise Wrong(f"wrote what can't be read: {error}") from None
            for member in members:
                if member.name.startswith("/") or ".." in member.name.split("/"):
                    raise Wrong(f"wrote the member {member.name!r}")


class _Guard:
    """Hears of every file, link, process and connection of this program (`sys.addaudithook`)."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.strayed: list[str] = []
        self._allowed: Path | None = None
        self._temporary = tempfile.gettempdir() + "/tmp"  # asked now: asking opens files
        sys.addaudithook(self._hear)

    @contextlib.contextmanager
    def watching(self, allowed: Path) -> Iterator[None]:
        self._allowed = allowed
        try:
            yield
        finally:
            self._allowed = None

    def _hear(self, event: str, arguments: tuple[Any, ...]) -> None:
        if self._allowed is None:
            return
        if event == "open":
            path, _, flags = arguments
            writes = isinstance(flags, int) and flags & (os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_APPEND)
            if writes and not flags & getattr(os, "O_TMPFILE", 0) and isinstance(path, str | bytes):
                self._check(event, path)
        elif event in ("os.mkdir", "os.remove", "os.rmdir", "os.chmod", "os.truncate"):
            self._check(event, arguments[0])
        elif event == "os.rename":
            self._check(event, arguments[0])
            self._check(event, arguments[1])
        elif event in ("os.symlink", "os.link", "subprocess.Popen", "os.system", "os.exec", "os.posix_spawn",
                       "socket.connect", "marshal.loads", "pickle.find_class", "ctypes.dlopen"):  # fmt: skip
            self.strayed.append(f"{event} {arguments}"[:200])

    def _check(self, event: str, path: Any) -> None:
        if isinstance(path, int) or self._allowed is None:
            return
        full = os.path.abspath(os.fsdecode(path))
        places = (str(self._allowed), self._temporary, "/dev/null")
        if not full.startswith(places) and not full.endswith(".pyc") and "__pycache__" not in full:
            self.strayed.append(f"{event} {full}")


@contextlib.contextmanager
def _within(seconds: float) -> Iterator[None]:
    """Raises `Hang` after so much processor time."""

    def ring(number: int, frame: FrameType | None) -> None:
        raise Hang

    old = signal.signal(signal.SIGPROF, ring)
    signal.setitimer(signal.ITIMER_PROF, seconds)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_PROF, 0)
        signal.signal(signal.SIGPROF, old)


def _peak_mib() -> int:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // (1 if sys.platform != "darwin" else 1024) // 1024


def _name(case: Case, what: str) -> str:
    return f"case {case.number} ({case.kind}): {what}"


if __name__ == "__main__":
    sys.exit(main())
