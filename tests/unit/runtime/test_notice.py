"""The maintenance notice against a stand-in of the metadata server on loopback that answers as the real one does."""

import threading
import time
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import parse_qs, urlsplit

import pytest

from raexla.runtime.notice import VALUES, MaintenanceNotice, on_google

RETRY = (0.01, 0.05)


class Metadata:
    """Two values with versions, requests that wait for another version, and whatever goes wrong."""

    def __init__(self) -> None:
        self.values = {"maintenance-event": "NONE", "preempted": "FALSE"}
        self.versions = dict.fromkeys(self.values, 1)
        self.asked: list[tuple[str, dict[str, list[str]], str | None]] = []
        self.broken: list[str] = []
        """What goes wrong with the next requests: `status`, `flavor` or `reset`."""
        self._change = threading.Condition()
        metadata = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                metadata.answer(self)

            def log_message(self, *arguments: Any) -> None:
                pass

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.server.daemon_threads = True
        self.thread = threading.Thread(target=self.server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True)
        self.thread.start()

    def set(self, key: str, value: str) -> None:
        """Change a value, which answers those who wait."""
        with self._change:
            self.values[key] = value
            self.versions[key] += 1
            self._change.notify_all()

    def answer(self, request: BaseHTTPRequestHandler) -> None:
        address = urlsplit(request.path)
        key, query = address.path.removeprefix("/computeMetadata/v1/instance/"), parse_qs(address.query)
        with self._change:
            self.asked.append((key, query, request.headers.get("Metadata-Flavor")))
            wrong = self.broken.pop(0) if self.broken else ""
            if query.get("wait_for_change") == ["true"] and not wrong:
                known = query.get("last_etag", [""])[0]
                seconds = float(query["timeout_sec"][0])
                self._change.wait_for(lambda: str(self.versions[key]) != known, timeout=seconds)
            value, version = self.values[key], str(self.versions[key])
        if wrong == "reset":
            request.connection.close()
            return
        request.send_response(503 if wrong == "status" else 200)
        if wrong != "flavor":
            request.send_header("Metadata-Flavor", "Google")
        request.send_header("ETag", version)
        request.send_header("Content-Length", str(len(value)))
        request.end_headers()
        request.wfile.write(value.encode())


@pytest.fixture
def metadata(monkeypatch: pytest.MonkeyPatch) -> Iterator[Metadata]:
    made = Metadata()
    monkeypatch.setenv("GCE_METADATA_HOST", f"127.0.0.1:{made.server.server_address[1]}")
    yield made
    for key in made.values:
        made.set(key, "NONE")  # lets go of who waits
    made.server.shutdown()
    made.server.server_close()


def _until(met: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 30
    while not met():
        assert time.monotonic() < deadline
        time.sleep(0.005)


@pytest.mark.parametrize(
    ("key", "value", "why"),
    [
        ("preempted", "TRUE", "because this machine is being preempted"),
        ("maintenance-event", "TERMINATE_ON_HOST_MAINTENANCE", "for maintenance of this machine"),
    ],
)
def test_a_notice_is_told_once_as_soon_as_it_comes(metadata, key, value, why):
    told: list[str] = []
    notice = MaintenanceNotice(told.append, wait_seconds=30, retry_seconds=RETRY)
    _until(lambda: sum("wait_for_change" in query for _, query, _ in metadata.asked) == 2)  # both threads wait
    assert told == []
    metadata.set(key, value)
    _until(lambda: bool(told))
    assert told == [why]
    assert all(flavor == "Google" for _, _, flavor in metadata.asked)
    waits = [query for asked, query, _ in metadata.asked if asked == key and query]
    assert waits == [{"wait_for_change": ["true"], "timeout_sec": ["30"], "last_etag": ["1"]}]
    notice.close()


def test_a_notice_from_before_the_program_began_counts(metadata):
    metadata.set("preempted", "TRUE")
    told: list[str] = []
    MaintenanceNotice(told.append, retry_seconds=RETRY)
    _until(lambda: bool(told))
    assert told == ["because this machine is being preempted"]


def test_a_live_migration_and_other_answers_are_no_notice(metadata):
    """Nor is an answer without the header that says Google: something else sits at that address."""
    told: list[str] = []
    metadata.broken = ["flavor"] * 2
    metadata.values = {"maintenance-event": "NONE", "preempted": "TRUE"}
    notice = MaintenanceNotice(told.append, wait_seconds=1, retry_seconds=(5.0, 5.0))
    _until(lambda: len(metadata.asked) == 2)
    time.sleep(0.1)
    assert told == []
    notice.close()
    metadata.values = {"maintenance-event": "NONE", "preempted": "FALSE"}
    notice = MaintenanceNotice(told.append, wait_seconds=1, retry_seconds=RETRY)
    _until(lambda: min(notice.answers.values()) >= 1)
    metadata.set("maintenance-event", "MIGRATE_ON_HOST_MAINTENANCE")
    _until(lambda: notice.answers["maintenance-event"] >= 2)
    assert told == []
    notice.close()


def test_a_server_in_trouble_is_asked_again(metadata):
    told: list[str] = []
    metadata.broken = ["status", "reset", "flavor", "status", "reset"]
    notice = MaintenanceNotice(told.append, wait_seconds=30, retry_seconds=RETRY)
    _until(lambda: min(notice.answers.values()) >= 1)
    metadata.set("preempted", "TRUE")
    _until(lambda: bool(told))
    notice.close()


def test_after_close_nothing_is_told(metadata):
    told: list[str] = []
    notice = MaintenanceNotice(told.append, wait_seconds=30, retry_seconds=RETRY)
    _until(lambda: min(notice.answers.values()) >= 1)
    notice.close()
    metadata.set("preempted", "TRUE")
    time.sleep(0.1)
    assert told == []


def test_no_server_is_no_notice(monkeypatch):
    monkeypatch.setenv("GCE_METADATA_HOST", "127.0.0.1:9")  # nothing listens there
    told: list[str] = []
    notice = MaintenanceNotice(told.append, retry_seconds=RETRY)
    time.sleep(0.1)
    assert told == []
    assert notice.answers == dict.fromkeys(VALUES, 0)
    notice.close()


@pytest.mark.parametrize(
    ("variables", "product", "expected"),
    [
        ({}, "Google Compute Engine\n", True),
        ({}, "Standard PC\n", False),
        ({}, None, False),
        ({"GCE_METADATA_HOST": "localhost:1"}, None, True),
        ({"NO_GCE_CHECK": "true"}, "Google Compute Engine\n", False),
    ],
)
def test_where_it_listens_by_itself(variables, product, expected, monkeypatch, tmp_path):
    for name in ("GCE_METADATA_HOST", "NO_GCE_CHECK"):
        monkeypatch.delenv(name, raising=False)
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    if product is not None:
        (tmp_path / "product_name").write_text(product)
    monkeypatch.setattr("raexla.runtime.notice._PRODUCT", tmp_path / "product_name")
    assert on_google() is expected
