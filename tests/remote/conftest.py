"""Object stores on this machine: a GCS emulator and an S3 server, reached as a user would reach them, by environment.

Both run in threads of the test process; `gs://` and `s3://` work as they do against the real ones.
"""

import asyncio
import os
import socket
from collections.abc import Callable, Iterator
from functools import partial
from types import SimpleNamespace
from typing import Any

import pytest

# Read when gcsfs is imported: else its first access to a bucket waits a minute for a gRPC service.
os.environ["GCSFS_EXPERIMENTAL_ZB_HNS_SUPPORT"] = "false"

import fsspec
import gcsfs
from fsspec.config import conf
from gcp_storage_emulator.server import create_server
from moto.server import ThreadedMotoServer

from raexla.files import Retry
from tests.remote.proxy import FaultyProxy

BUCKET = "bucket"
QUICK = partial(Retry, first_seconds=0.02, longest_seconds=0.2, silence_seconds=0.5, patience_seconds=10.0)
"""`Retry` for tests: nothing here takes half a second unless it hangs."""


def _forget(protocol: str) -> None:
    """Connections of former tests lead to servers that may be gone."""
    fsspec.get_filesystem_class(protocol).clear_instance_cache()


@pytest.fixture(scope="session")
def gcs_server() -> Iterator[str]:
    """The address of a GCS emulator with one bucket, in memory."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    with create_server("127.0.0.1", port, in_memory=True, default_bucket=BUCKET):
        yield f"http://127.0.0.1:{port}"


@pytest.fixture
def gcs(gcs_server: str, monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[str], None]]:
    """`gs://bucket` is the emulator; call with an address to go another way to it (and again to come back)."""
    monkeypatch.setitem(conf, "gs", {"token": "anon"})  # what FSSPEC_GS_TOKEN=anon does at the start of a program
    monkeypatch.setenv("FSSPEC_GS_TOKEN", "anon")  # for other processes
    monkeypatch.setenv("GCSFS_EXPERIMENTAL_ZB_HNS_SUPPORT", "false")

    def lead(address: str) -> None:
        monkeypatch.setenv("STORAGE_EMULATOR_HOST", address)
        _forget("gs")

    lead(gcs_server)
    yield lead
    _forget("gs")


@pytest.fixture
def faulty(
    gcs: Callable[[str], None], gcs_server: str, monkeypatch: pytest.MonkeyPatch
) -> Iterator[Callable[..., FaultyProxy]]:
    """`faulty(rate, seed, kinds)`: from now on `gs://bucket` is reached through a proxy that spoils some requests."""
    opened: list[FaultyProxy] = []
    monkeypatch.setattr("raexla.files.store.Retry", QUICK)

    async def nap(seconds: float) -> None:
        await asyncio.sleep(seconds / 100)

    monkeypatch.setattr(gcsfs.retry, "asyncio", SimpleNamespace(sleep=nap))  # its own tries, seconds apart otherwise

    def begin(**options: Any) -> FaultyProxy:
        proxy = FaultyProxy(gcs_server, **options)
        proxy.__enter__()
        opened.append(proxy)
        gcs(proxy.url)
        return proxy

    yield begin
    for proxy in opened:
        proxy.__exit__()
    gcs(gcs_server)


@pytest.fixture(scope="session")
def s3_server() -> Iterator[str]:
    """The address of an S3 server, in memory."""
    server = ThreadedMotoServer("127.0.0.1", 0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    yield f"http://{host}:{port}"
    server.stop()


@pytest.fixture
def s3(s3_server: str, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """`s3://bucket` is that server."""
    monkeypatch.setenv("AWS_ENDPOINT_URL", s3_server)
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "someone")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "something")
    monkeypatch.setenv("AWS_DEFAULT_REGION", "us-east-1")
    _forget("s3")
    filesystem = fsspec.filesystem("s3")
    if not filesystem.exists(BUCKET):
        filesystem.mkdir(BUCKET)
    yield
    _forget("s3")
