"""A Python process of ours that is spoken to in lines of JSON and ends when we do, however we end."""

import json
import subprocess
import sys
from collections.abc import Iterator
from contextlib import suppress
from typing import Any

__all__ = ["ChildProcess"]

CLOSE_S_MAX = 5.0


class ChildProcess:
    """Runs `python -m module arguments`, which must end once its standard input does: so it learns of our end."""

    def __init__(self, module: str, *arguments: str) -> None:
        self._process = subprocess.Popen(
            [sys.executable, "-m", module, *arguments],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            start_new_session=True,  # Ctrl-C in a terminal is for the parent: it still needs us while it drains
        )
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._stdin, self._stdout = self._process.stdin, self._process.stdout

    def tell(self, message: Any) -> None:
        """Nothing happens if it has ended: whoever waits for its answers will notice."""
        with suppress(BrokenPipeError):
            self._stdin.write(json.dumps(message) + "\n")
            self._stdin.flush()

    def answer(self) -> Any:
        """Its next line; None once it has ended."""
        line = self._stdout.readline()
        return json.loads(line) if line else None

    def answers(self) -> Iterator[Any]:
        """Its lines until it ends."""
        while (answer := self.answer()) is not None:
            yield answer

    def exit_code(self) -> int:
        """Waits for its end."""
        return self._process.wait()

    def close(self) -> None:
        """Let it end, or end it."""
        with suppress(BrokenPipeError):
            self._stdin.close()
        try:
            self._process.wait(CLOSE_S_MAX)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()

    def close_output(self) -> None:
        """After `close`, by whoever reads the answers."""
        self._stdout.close()
