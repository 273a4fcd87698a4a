"""A run directory that lies on a URL: a local working copy, and what keeps the two together.

The run writes to the copy as it would to any directory; `push` brings what has changed to the URL: before every
checkpoint, after every evaluation, at the end. Since the metrics are there before the checkpoint that they lead to, a
run that is killed at any instant and started on another machine finds all that it needs, and cuts what is too much.
"""

import tempfile
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from raexla.files import FileUnavailable, Retry, Store

AT_ONCE = 8
"""Files that are copied at a time."""
_MANIFEST = "artifact.json"
_RECIPE = "recipe.yaml"
_LAST = Retry(attempts=2, first_seconds=1.0, silence_seconds=5.0, patience_seconds=15.0)
"""For a run that has failed already, perhaps because this very storage is away."""


class Mirror:
    """The working copy of the directory at `url`, in a temporary place of this process's own.

    Args:
        whole: push everything; else only what belongs to this process alone (`heartbeat/`, `stacks/`).
    """

    def __init__(self, url: str, whole: bool) -> None:
        self.store = Store(url)
        self._folder = tempfile.TemporaryDirectory(prefix="raexla-run-", ignore_cleanup_errors=True)
        self.path = Path(self._folder.name)
        self._whole = whole
        self._known: dict[str, tuple[int, int]] = {}

    def holds_run(self) -> bool:
        """Whether there is a run at the URL."""
        return self.store.exists(_RECIPE)

    def pull(self) -> None:
        """Fetch the files right in the directory: what a run reads when it goes on."""
        names = [name for name in self.store.children() if not self.store.is_folder(name)]
        with ThreadPoolExecutor(AT_ONCE) as threads:
            list(threads.map(lambda name: self.store.download(name, self.path / name), names))
        self._known = dict(self._local())

    def clear(self) -> None:
        """Remove all that is at the URL; what says that it is a run last, so that it can be asked for again."""
        for name in self.store.children():
            if name != _RECIPE:
                self.store.remove_folder(name)
                self.store.remove(name)
        self.store.remove(_RECIPE)

    def push(self) -> None:
        """Bring what has changed to the URL; an artifact's manifest goes first away and comes last.

        Raises:
            FileUnavailable: the storage stays away.
        """
        self._push(self.store)

    def close(self, failed: bool) -> str | None:
        """Push a last time and remove the copy; what went wrong, if the run has `failed` before."""
        try:
            self._push(Store(self.store.url, _LAST) if failed else self.store)
        except FileUnavailable as error:
            if not failed:
                raise
            return f"the last lines of this run did not get through: {error}"
        finally:
            self._folder.cleanup()
        return None

    def _push(self, store: Store) -> None:
        now = dict(self._local())
        changed = [name for name, state in now.items() if self._known.get(name) != state]
        gone = [name for name in self._known if name not in now] if self._whole else []
        manifests = [name for name in changed + gone if name.rpartition("/")[2] == _MANIFEST]
        for name in manifests:
            store.remove(name)
        with ThreadPoolExecutor(AT_ONCE) as threads:
            list(threads.map(store.remove, gone))
            rest = [name for name in changed if name not in manifests]
            list(threads.map(lambda name: store.upload(self.path / name, name), rest))
        for name in manifests:
            if name in now:
                store.upload(self.path / name, name)
        self._known = now if self._whole else self._known | now

    def _local(self) -> Iterator[tuple[str, tuple[int, int]]]:
        """Names of the copy's files, and what changes when they do."""
        for path in sorted(self.path.rglob("*")):
            relative = path.relative_to(self.path)
            temporary = any(part.startswith(".") or part.endswith((".tmp", ".partial")) for part in relative.parts)
            mine = self._whole or relative.parts[0] in ("heartbeat", "stacks")
            if temporary or not mine:
                continue
            try:
                if path.is_file():
                    state = path.stat()
                    yield relative.as_posix(), (state.st_size, state.st_mtime_ns)
            except FileNotFoundError:
                continue  # replaced at this instant by another thread; the next push has it
