"""How many records does a group lose or learn twice when its members die, leave and sleep at random?

    python tests/benchmarks/group_kill_loop.py --bootstrap-servers HOST:PORT [--events 60] [--seed 1] [--members 4]

The broker must allow short sessions: `../shared/kafka/run DIR PORT --set group.min.session.timeout.ms=1000`. Each
member counts what it learns; the answer is expected to be: none lost, none learned twice, over the newest checkpoints
of all members. Exit code 1 if it is not.
"""

import argparse
import json
import random
import signal
import sys
import tempfile
import time
import uuid
from collections import Counter
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1] / "integration"))

from group_oracle import Group, Producer, wait_until

PARTITIONS = 8


class Chaos:
    """One random event after the other, on members that are alive, asleep or dead."""

    def __init__(self, group: Group, names: list[str], rng: random.Random) -> None:
        self.group, self.names, self.rng = group, names, rng
        self.happened: Counter = Counter()
        self.exits: Counter = Counter()
        self._asleep: dict[str, float] = {}  # until when

    def step(self) -> None:
        name = self.rng.choice(self.names)
        if name in self._asleep:
            return
        if not self._is_alive(name):
            self._begin(name)
            return
        what = self.rng.choice(["kill -9", "SIGTERM", "short sleep", "long sleep"])
        if what == "kill -9":
            self.group.kill(name)
        elif what == "SIGTERM":
            self.group.signal(name, signal.SIGTERM)
        else:  # shorter than a session, or longer than a session and a hand-over
            self.group.signal(name, signal.SIGSTOP)
            self._asleep[name] = time.monotonic() + self.rng.uniform(*((0.1, 1.4) if what == "short sleep" else (2, 7)))
        self.happened[what] += 1

    def wake(self, *, all_of_them: bool = False) -> None:
        for name, until_s in list(self._asleep.items()):
            if all_of_them or time.monotonic() >= until_s:
                self.group.signal(name, signal.SIGCONT)
                del self._asleep[name]

    def finish(self) -> None:
        self.wake(all_of_them=True)
        for name in self.names:
            if not self._is_alive(name):
                self._begin(name)

    def keep_alive(self) -> None:
        """As a supervisor does: who was fenced is started again."""
        for name in self.names:
            if not self._is_alive(name):
                self._begin(name)

    def _begin(self, name: str) -> None:
        if name in self.group.members:
            self.exits[str(self.group.members[name].exitcode)] += 1
        self.group.start(name)
        self.happened["start"] += 1

    def _is_alive(self, name: str) -> bool:
        return name in self.group.members and self.group.members[name].is_alive()


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--bootstrap-servers", required=True)
    parser.add_argument("--events", type=int, default=60, help="kills, SIGTERMs and sleeps; starts come on top")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--members", type=int, default=4)
    parser.add_argument("--records-per-s", type=float, default=800)
    options = parser.parse_args()
    topic = f"group-kill-{uuid.uuid4().hex[:8]}"
    producer = Producer(
        options.bootstrap_servers,
        topic,
        partitions=PARTITIONS,
        records_per_s=options.records_per_s,
        seed=options.seed,
    )
    with tempfile.TemporaryDirectory() as folder:
        group = Group(Path(folder), options.bootstrap_servers, topic)
        names = [f"member-{i}" for i in range(options.members)]
        chaos = Chaos(group, names, random.Random(options.seed))
        started_s = time.monotonic()
        try:
            for name in names:
                group.start(name)
            wait_until(lambda: len(group.owners()) == PARTITIONS, group.logs, wait_s=90)
            while sum(chaos.happened.values()) - chaos.happened["start"] < options.events:
                chaos.step()
                pause_until_s = time.monotonic() + chaos.rng.uniform(0.2, 2.0)
                while time.monotonic() < pause_until_s:
                    chaos.wake()
                    time.sleep(0.05)
            producer.stop()
            chaos.finish()

            def all_saved() -> bool:
                chaos.keep_alive()
                return group.saved() == dict(producer.ends)

            wait_until(all_saved, lambda: f"{group.saved()} of {dict(producer.ends)}\n{group.logs()}", wait_s=180)
            for name in names:
                group.signal(name, signal.SIGTERM)
                group.end(name)
            seen, lives = group.counts(), group.lives()
        finally:
            group.kill_all()
    result = {
        "options": vars(options),
        "seconds": round(time.monotonic() - started_s),
        "happened": dict(chaos.happened),
        "exit codes before each start (-9: killed, 6: fenced)": dict(chaos.exits),
        "lives": lives,
        "records_sent": len(producer.sent),
        "records_lost": len(producer.sent - seen.keys()),
        "records_learned_twice": sum(n > 1 for n in seen.values()),
        "records_from_nowhere": len(seen.keys() - producer.sent),
    }
    print(json.dumps(result, indent=2))
    return 0 if set(seen) == producer.sent and set(seen.values()) == {1} else 1


if __name__ == "__main__":
    sys.exit(main())
