"""A remote file as a Python file: every read is a range read of a `Store`, with its retries and its length check."""

import io
from collections.abc import Callable


class RangedFile(io.RawIOBase):
    """Seekable and read-only.

    fsspec's own buffered files take a short body for the end of the file; this one asks `read`, which doesn't.

    Args:
        read: (start, end) -> exactly these bytes, or an error.
        size: bytes of the file.
    """

    def __init__(self, read: Callable[[int, int], bytes], size: int) -> None:
        super().__init__()
        self._read, self._size, self._at = read, size, 0

    def readable(self) -> bool:
        """It is."""
        return True

    def seekable(self) -> bool:
        """It is."""
        return True

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        """Where the next read begins; nothing is fetched."""
        base = {io.SEEK_SET: 0, io.SEEK_CUR: self._at, io.SEEK_END: self._size}[whence]
        if base + offset < 0:
            raise ValueError(f"seek to {base + offset}")
        self._at = base + offset
        return self._at

    def tell(self) -> int:
        """Where the next read begins."""
        return self._at

    def readinto(self, buffer: memoryview) -> int:  # type: ignore[override]
        """Fill `buffer` as far as the file goes; the number of bytes."""
        count = max(0, min(len(buffer), self._size - self._at))
        if count:
            buffer[:count] = self._read(self._at, self._at + count)
            self._at += count
        return count
