"""What every test gets: one training thread, so that runs repeat bit for bit, and real processes on demand.

`start` runs `stream-trainer` as a user does, but for the wait for torch; `events` are records of a task that can be
learned.
"""

import json
import os
import random
import re
import subprocess
import sys
import time
import urllib.request
from pathlib import Path

import pytest
import torch
from forked_command import ForkedCommand

os.environ["OMP_NUM_THREADS"] = "1"  # of every process that is started from here on
torch.set_num_threads(1)

WAIT_S_MAX = 120.0


class Process:
    """A started command; its standard error goes to a file that can be searched while it runs."""

    def __init__(self, arguments: list[str], log: Path, *, new_session: bool, new_interpreter: bool) -> None:
        self.log = log
        words, environment = list(map(str, arguments)), {**os.environ, "COLUMNS": "200"}
        with log.open("wb") as stderr:
            self.popen = (
                subprocess.Popen(
                    [sys.executable, "-m", "stream_trainer", *words],
                    stdin=subprocess.PIPE,
                    stdout=subprocess.PIPE,
                    stderr=stderr,
                    env=environment,
                    start_new_session=new_session,
                )
                if new_interpreter
                else ForkedCommand(words, log, environment, new_session=new_session)
            )

    def feed(self, lines: list[bytes], *, then_close: bool) -> None:
        self.popen.stdin.write(b"".join(line + b"\n" for line in lines))
        self.popen.stdin.flush()
        if then_close:
            self.popen.stdin.close()

    def find_in_log(self, pattern: str) -> str:
        """Wait until the log holds a match; its first group."""
        until_s = time.monotonic() + WAIT_S_MAX
        while not (match := re.search(pattern, self.log.read_text())):
            assert self.popen.poll() is None, self.log.read_text()
            assert time.monotonic() < until_s, f"no {pattern!r} in\n{self.log.read_text()}"
            time.sleep(0.05)
        return match.group(1)

    def metric_reaches(self, name: str, value: float) -> None:
        port = self.find_in_log(r"metrics on http://127.0.0.1:(\d+)/")
        until_s = time.monotonic() + WAIT_S_MAX
        while True:
            with urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics", timeout=10) as response:
                found = re.search(rf"^{name} (\S+)$", response.read().decode(), re.MULTILINE)
            if found and float(found.group(1)) >= value:
                return
            assert self.popen.poll() is None, self.log.read_text()
            assert time.monotonic() < until_s, f"{name} is {found and found.group(1)}, expected {value}"
            time.sleep(0.05)

    def end(self) -> tuple[int, dict]:
        """Exit code and the last line of standard output as JSON ({} if it is none)."""
        if self.popen.stdin and not self.popen.stdin.closed:
            self.popen.stdin.close()
        self.popen.stdin = None
        out, _ = self.popen.communicate(timeout=WAIT_S_MAX)
        lines = out.decode().splitlines()
        last = lines[-1] if lines else ""
        return self.popen.returncode, json.loads(last) if last.startswith("{") else {}


@pytest.fixture
def start(tmp_path):
    """start(*arguments) -> Process; killed at the end of the test if it still runs.

    `new_interpreter`: not forked from one that has imported everything; for tests of what is imported.
    """
    started: list[Process] = []

    def start(*arguments: object, new_session: bool = False, new_interpreter: bool = False) -> Process:
        log = tmp_path / f"stderr-{len(started)}.log"
        process = Process([*arguments], log, new_session=new_session, new_interpreter=new_interpreter)
        started.append(process)
        return process

    yield start
    for process in started:
        if process.popen.poll() is None:
            process.popen.kill()
            process.popen.wait()
        for pipe in (process.popen.stdin, process.popen.stdout):
            if pipe:
                pipe.close()


@pytest.fixture
def events() -> list[bytes]:
    """10,000 records of a task that can be learned: `fraud` if the amount is large for the country."""
    rng = random.Random(11)
    lines = []
    for _ in range(10_000):
        country = rng.choice(["NL", "DE", "FR", "BE"])
        amount = rng.gauss(50, 20)
        fraud = amount > 40 + 10 * ["NL", "DE", "FR", "BE"].index(country)
        lines.append(json.dumps({"amount": round(amount, 3), "country": country, "fraud": fraud}).encode())
    return lines
