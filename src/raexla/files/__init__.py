"""Files wherever they lie: a local folder or any fsspec URL, read and written with retries, whole or not at all.

Shards and checkpoints go through the same `Store`, so that a transport failure means the same to both: it is retried
with jittered back-off until a deadline and then stops the program, never passed over.
"""

from raexla.files.local import local_only
from raexla.files.retry import FileDamaged, FileMissing, FileUnavailable, Retry, transport_errors
from raexla.files.store import Store

__all__ = ["FileDamaged", "FileMissing", "FileUnavailable", "Retry", "Store", "local_only", "transport_errors"]
