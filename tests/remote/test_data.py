"""Shards in object stores: packed, indexed, verified and read as on disk, with and without faults on the way."""

from collections.abc import Callable
from pathlib import Path

import pytest

from raexla.data.shards import index, pack, verify
from raexla.data.shards.manifest import read_index
from raexla.files import FileUnavailable, Store
from tests.remote.conftest import QUICK
from tests.remote.proxy import FaultyProxy
from tests.remote.reading import batches, same_batches, through_workers
from tests.unit.data.conftest import picture_bytes

SAMPLES = 60


@pytest.fixture(scope="module")
def pictures(tmp_path_factory: pytest.TempPathFactory) -> str:
    """Loose pictures with captions."""
    folder = tmp_path_factory.mktemp("pictures")
    for number in range(SAMPLES):
        (folder / f"{number:03d}.png").write_bytes(picture_bytes(number, (16, 12)))
        (folder / f"{number:03d}.txt").write_text(f"picture {number}")
    return str(folder)


@pytest.fixture(scope="module")
def shards(pictures: str, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same as shards on disk."""
    folder = tmp_path_factory.mktemp("shards")
    pack(pictures, str(folder / "s"), samples_per_shard=13)
    return folder / "s"


def _copy(shards: Path, url: str, index: bool = True) -> Store:
    store = Store(url)
    store.remove_folder("")
    for path in sorted(shards.iterdir()):
        if index or path.suffix == ".tar":
            store.upload(path, path.name)
    return store


def _tars(store: Store) -> dict[str, bytes]:
    return {name: store.read(name) for name in store.names() if name.endswith(".tar")}


@pytest.mark.parametrize("kind", ["gs", "s3"])
def test_packed_indexed_verified_and_read_as_on_disk(kind, pictures, shards, request):
    request.getfixturevalue("gcs" if kind == "gs" else "s3")
    url = f"{kind}://bucket/{kind}-packed"
    pack(pictures, url, samples_per_shard=13)
    assert verify(url, decode=True).problems == []
    assert _tars(Store(url)) == _tars(Store(shards))
    cursor = same_batches(batches(url, 6), batches(str(shards), 6))
    same_batches(batches(url, 3, cursor), batches(str(shards), 3, cursor))
    bare = _copy(shards, f"{kind}://bucket/{kind}-bare", index=False)
    same_batches(batches(bare.url, 3), batches(str(shards), 3))
    assert index(bare.url).manifest_hash == read_index(Store(shards)).manifest_hash


def test_faults_on_the_way_change_nothing(pictures, shards, faulty: Callable[..., FaultyProxy]):
    """5% of the requests go wrong: the same bytes, the same index, the same batches, and nobody is skipped."""
    proxy = faulty(rate=0.05, seed=5)
    pack(pictures, "gs://bucket/faulty", samples_per_shard=13)
    store = Store("gs://bucket/faulty")
    assert _tars(store) == _tars(Store(shards))
    assert index(store.url, full=True).manifest_hash == read_index(Store(shards)).manifest_hash
    assert verify(store.url, decode=True).problems == []
    before = proxy.seen
    same_batches(batches(store.url, 40, cache_mib=1), batches(str(shards), 40))
    assert proxy.seen - before >= 40
    assert len(proxy.done) >= 3
    assert sum(proxy.done.values()) >= 5


def test_storage_that_goes_away_stops_the_run(shards, faulty: Callable[..., FaultyProxy]):
    """It is never taken for a sample that can't be used."""
    proxy = faulty(rate=0.0, kinds=("503",))
    store = _copy(shards, "gs://bucket/away")
    found = batches(store.url, 100, retry=QUICK(attempts=2), cache_mib=1)
    next(found)
    proxy.rate = 1.0
    with pytest.raises(FileUnavailable, match="still failing after"):
        list(found)


@pytest.mark.slow
def test_workers_read_object_stores(shards, gcs, gcs_server, in_process):
    """In a fresh process: the one that workers are forked from must have begun with this environment."""
    store = _copy(shards, "gs://bucket/workers")
    with FaultyProxy(gcs_server, rate=0.1, seed=1, kinds=("short",)) as proxy:
        gcs(proxy.url)
        assert in_process(through_workers, store.url, str(shards)) == 6
        assert sum(proxy.done.values()) >= 1
