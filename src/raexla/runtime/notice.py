"""The notice that a Google machine gets before it goes away: host maintenance, or preemption of a spot machine.

The metadata server holds two values: `instance/maintenance-event` (NONE, MIGRATE_ON_HOST_MAINTENANCE,
TERMINATE_ON_HOST_MAINTENANCE) and `instance/preempted` (FALSE, TRUE). Each is asked for by a thread of its own with a
request that the server answers when the value changes
(https://cloud.google.com/compute/docs/metadata/querying-metadata#waitforchange). A spot machine has 30 seconds from
then on. Its address is `metadata.google.internal`, or GCE_METADATA_HOST as for Google's own libraries.
"""

import http.client
import os
import threading
import time
from collections.abc import Callable
from pathlib import Path

HOST = "metadata.google.internal"
_HEADERS = {"Metadata-Flavor": "Google"}
_PRODUCT = Path("/sys/class/dmi/id/product_name")

VALUES: dict[str, dict[str, str]] = {
    "maintenance-event": {"TERMINATE_ON_HOST_MAINTENANCE": "for maintenance of this machine"},
    "preempted": {"TRUE": "because this machine is being preempted"},
}
"""Key below `instance/` -> the values that end the machine, and what is said of them. A live migration doesn't."""


def on_google() -> bool:
    """Whether this is a machine of Google's, by what the firmware says; asks no network. NO_GCE_CHECK=true says no."""
    if os.environ.get("NO_GCE_CHECK", "").lower() == "true":
        return False
    if os.environ.get("GCE_METADATA_HOST"):
        return True
    try:
        return _PRODUCT.read_text(encoding="utf-8").startswith("Google")
    except (OSError, UnicodeDecodeError):
        return False


class MaintenanceNotice:
    """Listens in daemon threads until `close`, and calls `tell(why)` once for each notice.

    A server that can't be reached is asked again, at growing intervals: no answer is no notice.

    Args:
        tell: called from another thread.
        wait_seconds: after which the server answers though nothing has changed.
        retry_seconds: (first, longest) pause after a request that failed.
    """

    def __init__(
        self,
        tell: Callable[[str], None],
        wait_seconds: int = 60,
        retry_seconds: tuple[float, float] = (1.0, 60.0),
    ) -> None:
        self._tell, self._wait, self._retry = tell, wait_seconds, retry_seconds
        self._host = os.environ.get("GCE_METADATA_HOST") or HOST
        self._over = threading.Event()
        self.answers = dict.fromkeys(VALUES, 0)
        """How often the server has answered, by key."""
        for key in VALUES:
            threading.Thread(target=self._listen, args=(key,), name=f"notice-{key}", daemon=True).start()

    def close(self) -> None:
        """Tell nothing from now on; the threads end with their current request."""
        self._over.set()

    def _listen(self, key: str) -> None:
        etag, pause = "", self._retry[0]
        while not self._over.is_set():
            began = time.monotonic()
            try:
                value, etag = self._ask(key, etag)
            except (OSError, http.client.HTTPException):
                self._over.wait(pause)
                pause = min(2 * pause, self._retry[1])
                continue
            self.answers[key] += 1
            pause = self._retry[0]
            why = VALUES[key].get(value)
            if why is not None and not self._over.is_set():
                self._tell(why)
                return
            if not etag or time.monotonic() - began < 0.1:
                self._over.wait(
                    self._retry[0] if not etag else 0.1
                )  # a server that doesn't wait is not asked in a loop

    def _ask(self, key: str, etag: str) -> tuple[str, str]:
        """The value and its version: at once without `etag`, else when it is another than that of `etag`.

        Raises:
            OSError: no server, or none of Google's. http.client.HTTPException: it doesn't speak HTTP.
        """
        query = f"?wait_for_change=true&timeout_sec={self._wait}&last_etag={etag}" if etag else ""
        connection = http.client.HTTPConnection(self._host, timeout=self._wait + 10)
        try:
            connection.request("GET", f"/computeMetadata/v1/instance/{key}{query}", headers=_HEADERS)
            answer = connection.getresponse()
            text = answer.read(1024).decode("utf-8", "replace").strip()
            if answer.status != 200 or answer.headers.get("Metadata-Flavor") != "Google":
                raise OSError(f"{self._host} answered {answer.status}, Metadata-Flavor missing or another")
            return text, answer.headers.get("ETag", "")
        finally:
            connection.close()
