"""Being asked to stop: by signals, twice, from a thread."""

import os
import signal
import threading

import pytest

from raexla.train.stop import StopRequest


def test_the_first_request_counts_and_later_ones_change_nothing():
    old = signal.getsignal(signal.SIGTERM)
    with StopRequest() as stop:
        assert stop.reason is None
        os.kill(os.getpid(), signal.SIGTERM)
        assert stop.reason == "as asked"
        os.kill(os.getpid(), signal.SIGTERM)
        stop.ask("for another reason")
        assert stop.reason == "as asked"
    assert signal.getsignal(signal.SIGTERM) is old


def test_ctrl_c_twice_interrupts(capfd):
    with StopRequest() as stop:
        os.kill(os.getpid(), signal.SIGINT)
        assert stop.reason == "as asked"
        assert "Ctrl-C again interrupts without saving" in capfd.readouterr().err
        with pytest.raises(KeyboardInterrupt):
            signal.raise_signal(signal.SIGINT)


def test_a_thread_may_ask():
    with StopRequest() as stop:
        thread = threading.Thread(target=stop.ask, args=("because this machine is being preempted",))
        thread.start()
        thread.join()
        assert stop.reason == "because this machine is being preempted"


def test_listening_takes_no_time_to_begin():
    """The command line listens before it imports torch, so that a request in those seconds is not lost."""
    import subprocess
    import sys

    code = (
        "import sys; import raexla.train.stop; print([m for m in ('torch', 'numpy', 'pydantic') if m in sys.modules])"
    )
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout == "[]\n"
