"""`stream-trainer` in a process of its own that need not import torch first: forked from one that has done it once.

Starting costs a twentieth of what an interpreter of its own costs, and most of what a test of a process costs is
starting it. What is seen from outside is the same: arguments, standard streams, signals, the exit code.
"""

import multiprocessing
import os
import runpy
import select
import signal
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from multiprocessing.connection import Connection
from pathlib import Path

__all__ = ["ForkedCommand"]

PRELOADED = [
    "stream_trainer.service.wiring",
    "stream_trainer.service.rebuild",
    "torch._dynamo",  # what the first step of any torch optimizer imports, 800 modules
    "river.linear_model",
    "river.tree",
]


def run_command(
    arguments: Sequence[str],
    environment: Mapping[str, str],
    streams: tuple[Connection, Connection, Path],
    new_session: bool,
) -> None:
    """What `python -m stream_trainer ARGUMENTS` does."""
    if new_session:
        os.setsid()
    os.environ.clear()
    os.environ.update(environment)
    sys.path[:0] = filter(None, environment.get("PYTHONPATH", "").split(os.pathsep))
    stdin, stdout, stderr = streams
    with stderr.open("ab") as file:
        for place, number in enumerate((stdin.fileno(), stdout.fileno(), file.fileno())):
            os.dup2(number, place)
    stdin.close()
    stdout.close()
    sys.stdin, sys.stdout, sys.stderr = open(0), open(1, "w"), open(2, "w", buffering=1)  # noqa: SIM115  for its life
    sys.argv = ["stream-trainer", *arguments]
    runpy.run_module("stream_trainer", run_name="__main__", alter_sys=True)


class ForkedCommand:
    """As much of `subprocess.Popen` as tests ask of a command; standard error goes to a file."""

    def __init__(
        self, arguments: Sequence[str], stderr: Path, environment: Mapping[str, str], *, new_session: bool = False
    ) -> None:
        context = multiprocessing.get_context("forkserver")
        context.set_forkserver_preload(PRELOADED)
        stdin, self._feed = context.Pipe(duplex=False)
        self._answer, stdout = context.Pipe(duplex=False)
        self._process = context.Process(
            target=run_command, args=(arguments, dict(environment), (stdin, stdout, stderr), new_session)
        )
        self._process.start()
        stdin.close()
        stdout.close()
        self.stdin = os.fdopen(os.dup(self._feed.fileno()), "wb")
        self._feed.close()
        self.stdout = os.fdopen(os.dup(self._answer.fileno()), "rb", buffering=0)
        self._answer.close()
        self.pid: int = self._process.pid

    @property
    def returncode(self) -> int | None:
        return self._process.exitcode

    def poll(self) -> int | None:
        return self._process.exitcode

    def wait(self, timeout: float | None = None) -> int:
        self._process.join(timeout)
        if self._process.exitcode is None:
            raise subprocess.TimeoutExpired("stream-trainer", timeout or 0.0)
        return self._process.exitcode

    def communicate(self, timeout: float) -> tuple[bytes, None]:
        """All of standard output, once it has ended; standard input is closed first."""
        if self.stdin is not None and not self.stdin.closed:
            self.stdin.close()
        deadline_s, parts = time.monotonic() + timeout, []
        while select.select([self.stdout], [], [], max(0.0, deadline_s - time.monotonic()))[0]:
            part = self.stdout.read(65_536)
            if not part:
                self.wait(timeout)
                return b"".join(parts), None
            parts.append(part)
        raise subprocess.TimeoutExpired("stream-trainer", timeout)

    def send_signal(self, number: signal.Signals) -> None:
        if self.poll() is None:
            os.kill(self.pid, number)

    def kill(self) -> None:
        self.send_signal(signal.SIGKILL)
