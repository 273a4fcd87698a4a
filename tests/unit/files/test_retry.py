"""What errors of storage clients mean, and how long the passing ones are retried."""

import json
from pathlib import Path

import aiohttp
import botocore.exceptions
import pytest
from fsspec.spec import AbstractFileSystem
from gcsfs.retry import HttpError
from google.auth.exceptions import DefaultCredentialsError, RefreshError

from raexla.files import FileMissing, FileUnavailable, Retry, Store, local_only
from raexla.files.retry import meaning, transport_errors
from raexla.recipe import UserError


def _http(status: int) -> aiohttp.ClientResponseError:
    return aiohttp.ClientResponseError(None, (), status=status)  # type: ignore[arg-type]


def _from(error: Exception, cause: Exception) -> Exception:
    error.__cause__ = cause
    return error


def _s3(status: int) -> Exception:
    answer = {"Error": {"Code": "x"}, "ResponseMetadata": {"HTTPStatusCode": status}}
    return botocore.exceptions.ClientError(answer, "GetObject")


@pytest.mark.parametrize(
    ("error", "expected"),
    [
        (FileNotFoundError("a"), "missing"),
        (_from(FileNotFoundError("a"), _http(404)), "missing"),
        (_from(FileNotFoundError("a"), _http(503)), "transport"),  # fsspec's HTTP client
        (_from(FileNotFoundError("a"), aiohttp.ClientConnectionError()), "transport"),
        (_from(FileNotFoundError("a"), KeyError("a")), "missing"),
        (HttpError({"code": 404}), "missing"),
        (_http(404), "missing"),
        (_s3(404), "missing"),
        (NotADirectoryError("a"), "missing"),
        (PermissionError("a"), "denied"),
        (OSError("Forbidden: bucket/x"), "denied"),  # gcsfs
        (HttpError({"code": 401, "message": "Anonymous caller"}), "denied"),
        (_s3(403), "denied"),
        (DefaultCredentialsError("none"), "denied"),
        (botocore.exceptions.NoCredentialsError(), "denied"),
        (HttpError({"code": 400}), "refused"),
        (_http(416), "refused"),
        (HttpError({"code": 429}), "transport"),
        (HttpError({"code": 503}), "transport"),
        (HttpError({"code": "503"}), "transport"),
        (HttpError({"message": "no code"}), "transport"),
        (_s3(500), "transport"),
        (RefreshError("token"), "transport"),
        (aiohttp.ClientPayloadError("cut"), "transport"),
        (aiohttp.ServerTimeoutError(), "transport"),
        (TimeoutError(), "transport"),
        (ConnectionResetError(), "transport"),
        (json.JSONDecodeError("cut", "{", 1), "transport"),
    ],
)
def test_what_an_error_means(error, expected):
    assert isinstance(error, transport_errors())
    assert meaning(error) == expected


def _failing(error: Exception) -> None:
    raise error


def test_what_is_said():
    retry = Retry(attempts=2, sleep=lambda seconds: None)
    for error, kind, said in (
        (FileNotFoundError("a"), FileMissing, r"^gs://b/x: there is no such file$"),
        (_s3(403), FileUnavailable, "gs://b/x: access denied; log in with `gcloud auth application-default login`"),
        (HttpError({"code": 400, "message": "bad name"}), FileUnavailable, "the storage refuses the request: bad name"),
        (OSError("reset"), FileUnavailable, r"gs://b/x: still failing after 2 attempts in \d+\.\d s: reset"),
        (TimeoutError(), FileUnavailable, "s: TimeoutError"),
    ):
        with pytest.raises(kind, match=said):
            retry.call("gs://b/x", lambda error=error: _failing(error))
    with pytest.raises(FileUnavailable, match="set AWS_PROFILE"):
        retry.call("s3://b/x", lambda: _failing(PermissionError("no")))
    with pytest.raises(KeyError):
        retry.call("gs://b/x", lambda: _failing(KeyError("a bug is a bug")))


def test_pauses_grow_are_jittered_and_end_at_the_deadline(monkeypatch):
    now, slept = [100.0], []

    def sleep(seconds: float) -> None:
        slept.append(seconds)
        now[0] += seconds

    monkeypatch.setattr("raexla.files.retry.time.monotonic", lambda: now[0])
    monkeypatch.setattr("raexla.files.retry.random.uniform", lambda low, high: high)
    retry = Retry(attempts=99, first_seconds=1.0, longest_seconds=10.0, deadline_seconds=60.0, sleep=sleep)
    with pytest.raises(FileUnavailable, match=r"after 8 attempts in 54\.0 s"):
        retry.call("x", lambda: _failing(OSError()))
    assert slept == [2.0, 4.0, 8.0, 10.0, 10.0, 10.0, 10.0]
    assert retry.patience(10 << 20) == retry.patience_seconds + 10


class _Halting(AbstractFileSystem):
    """A tree of which one folder can't be listed."""

    protocol = "halting"

    def ls(self, path: str, detail: bool = True, **options: object) -> list[dict[str, object]]:
        if path.endswith("bad"):
            raise ConnectionError("not today")
        if path.endswith("gone"):
            raise FileNotFoundError(path)
        return [
            {"name": f"{path}/a", "size": 1, "type": "file"},
            {"name": f"{path}/gone", "size": 0, "type": "directory"},
            *([{"name": f"{path}/bad", "size": 0, "type": "directory"}] if path.endswith("whole") else []),
        ]


def test_a_listing_is_never_a_part_of_one(monkeypatch):
    """fsspec walks on when a folder can't be read: shards would be left out in silence."""
    halting = _Halting()
    assert halting.find("x/whole") == ["x/whole/a"]
    monkeypatch.setattr("fsspec.core.url_to_fs", lambda url, **options: (halting, url.removeprefix("halting://")))
    retry = Retry(attempts=2, sleep=lambda seconds: None)
    with pytest.raises(FileUnavailable, match="not today"):
        Store("halting://x/whole", retry).names()
    assert Store("halting://x/rest", retry).names() == ["a"]


def test_a_folder_that_cannot_be_written_to(tmp_path):
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(FileUnavailable, match=rf"^{tmp_path}/file/x can't be written: (File exists|Not a directory)$"):
        Store(tmp_path / "file").write_bytes("x", b"x")


def test_what_reads_local_files_only_says_how_to_copy():
    for path in ("gs://bucket/runs/one", Path("gs://bucket/runs/one")):
        with pytest.raises(UserError, match=r"--model: gs://bucket/runs/one is not on .*: gcloud storage cp -r gs://b"):
            local_only(path, "--model")
    for path in ("runs/one", "/runs/a:b", "file:///runs/one", "C:/runs", ""):
        local_only(path, "--model")
