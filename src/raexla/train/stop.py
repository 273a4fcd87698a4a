"""Being asked to stop: by a signal, by Ctrl-C, by the machine's maintenance notice.

Imports nothing but the standard library, so that the command line listens before it imports anything that takes
seconds: a request is then never lost, whatever the program is doing.
"""

import os
import signal
from types import FrameType, TracebackType

SIGNALS = (signal.SIGTERM, signal.SIGINT)


class StopRequest:
    """Whether the run has been asked to stop, and why. Use as a context manager; it holds the signals meanwhile.

    The first SIGTERM or Ctrl-C is noted; the run saves and ends. Later SIGTERMs change nothing, a Ctrl-C after the
    first request interrupts. From another thread, call `ask`.
    """

    def __init__(self) -> None:
        self.reason: str | None = None
        """None, or what is said of it: "as asked (SIGTERM)"."""
        self._old = {number: signal.signal(number, self._on) for number in SIGNALS}

    def ask(self, reason: str) -> None:
        """Ask the run to stop; the first reason is kept."""
        self.reason = self.reason or reason

    def release(self) -> None:
        """Give the signals back."""
        for number, handler in self._old.items():
            signal.signal(number, handler)

    def __enter__(self) -> "StopRequest":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.release()

    def _on(self, number: int, frame: FrameType | None) -> None:
        if self.reason is not None:
            if number == signal.SIGINT:
                raise KeyboardInterrupt
            return
        self.ask("as asked")
        if number == signal.SIGINT:  # a plain write: the handler may stand in the middle of a print
            os.write(2, b"\nstopping after this step; Ctrl-C again interrupts without saving\n")
