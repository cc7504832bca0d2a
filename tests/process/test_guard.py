"""Leaving when nothing else helps: a loop that is stuck, and a stop that takes too long."""

import signal
import subprocess
import sys
import textwrap

import pytest


@pytest.fixture
def run_code():
    """run_code(code) -> process whose first line of output was read; its errors come in the same pipe."""
    started = []

    def start(code: str) -> subprocess.Popen:
        process = subprocess.Popen(
            [sys.executable, "-c", textwrap.dedent(code)], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
        )
        started.append(process)
        assert process.stdout.readline() == "ready\n"
        return process

    yield start
    for process in started:
        process.kill()
        process.wait()
        process.stdout.close()


def test_a_loop_that_does_not_turn_ends_the_process_with_exit_code_5(run_code):
    """A poll that never returns cannot be interrupted from inside; a supervisor can only restart what has ended."""
    process = run_code(
        """
        import threading
        from stream_trainer.clock import SystemClock
        from stream_trainer.service.guard import leave_when_stuck
        from stream_trainer.telemetry.health import Heartbeat

        with leave_when_stuck(Heartbeat(SystemClock()), turn_s_max=0.2):
            print("ready", flush=True)
            threading.Event().wait()
        """
    )
    out, _ = process.communicate(timeout=60)

    assert process.returncode == 5
    assert "stuck, leaving" in out
    assert "threading.py" in out, "where it hung belongs into the log"


STUBBORN = """
    import threading
    from stream_trainer.service.guard import stop_on_signals

    with stop_on_signals(lambda: None, stop_s_max=%s):
        print("ready", flush=True)
        while True:
            threading.Event().wait(0.05)
"""


def test_a_stop_that_takes_too_long_is_cut_short(run_code):
    """Kubernetes would kill us a little later; so the log says why."""
    process = run_code(STUBBORN % "0.2")
    process.send_signal(signal.SIGTERM)
    out, _ = process.communicate(timeout=60)

    assert process.returncode == 1
    assert "not done within limits.stop_s_max = 0.2 s" in out


def test_a_second_signal_does_not_wait(run_code):
    """Whoever asks twice means it."""
    process = run_code(STUBBORN % "3600")
    process.send_signal(signal.SIGTERM)
    process.send_signal(signal.SIGINT)
    out, _ = process.communicate(timeout=60)

    assert process.returncode == 1
    assert "second signal: leaving at once" in out
