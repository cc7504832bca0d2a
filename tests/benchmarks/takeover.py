"""How long is nobody learning when a standby takes over? Real processes and a real Kafka, twenty times for each end.

Two `{mode: standby}` trainers of one directory; records flow. The active one is killed (kill -9), stopped (SIGTERM) or
frozen (SIGSTOP); the other one's log tells when it was active, had loaded the newest checkpoint and learned its first
record, and the time before each of these is a part of the whole. Then the roles are exchanged. At the end each record
must count once.

    python tests/benchmarks/takeover.py [--times 20] [--frozen-times 5] [--session-timeout-s 3] --out FILE.md

Wants ../shared/kafka. The checkpoint is small: loading a large one adds its own time, once more than `checkpoints
verify` takes.
"""

import argparse
import logging
import os
import re
import signal
import statistics
import sys
import tempfile
import time
import uuid
from collections.abc import Callable
from datetime import date, datetime
from pathlib import Path

import yaml

sys.path.insert(0, str(Path(__file__).parents[1] / "integration"))
sys.path.insert(0, str(Path(__file__).parent))

from group_oracle import Group, Producer, wait_until  # which puts the oracle on the path
from real_kafka import SharedBroker

from counting_oracle import CountingClassifier  # isort: skip

PARTS = ("noticed", "loaded", "first record")
PATTERNS = {
    "noticed": r"active, epoch \d+",
    "loaded": r"continuing after \d+ batches",
    "first record": "first record learned",
}
ENDS: dict[str, Callable[[Group, str], None]] = {
    "kill -9": lambda group, name: group.kill(name),
    "SIGTERM": lambda group, name: group.signal(name, signal.SIGTERM),
    "SIGSTOP": lambda group, name: group.signal(name, signal.SIGSTOP),
}


class TellingClassifier(CountingClassifier):
    """Says when this process learned its first record."""

    told = False

    def learn_one(self, x, y):
        super().learn_one(x, y)
        if not TellingClassifier.told:
            TellingClassifier.told = True
            logging.getLogger("takeover").info("first record learned")


def one(group: Group, end: str, active: str, standby: str, restarted: int) -> tuple[dict[str, float], int]:
    """Seconds from the end of `active` to each part of the take-over by `standby`, which begins to be active."""
    seen = len(group.log(standby).read_text())
    began_s = time.time()
    ENDS[end](group, active)
    wait_until(lambda: PATTERNS["first record"] in group.log(standby).read_text()[seen:], group.logs, wait_s=120)
    said = group.log(standby).read_text()[seen:]
    parts = {part: _time_s(said, pattern) - began_s for part, pattern in PATTERNS.items()}
    if end == "SIGSTOP":
        group.signal(active, signal.SIGCONT)
    code = 0
    if end != "kill -9":
        code = group.end(active)
    group.start(active)
    wait_until(lambda: group.log(active).read_text().count("waiting as standby") > restarted, group.logs, wait_s=120)
    before = sum(group.saved().values())
    wait_until(lambda: sum(group.saved().values()) > before, group.logs, wait_s=60)  # there is something to lose
    return parts, code


def _time_s(said: str, pattern: str) -> float:
    found = re.search(rf"^(\S+ \S+) .*{pattern}", said, re.MULTILINE)
    assert found, f"no {pattern!r} in {said}"
    return datetime.strptime(found[1], "%Y-%m-%d %H:%M:%S,%f").timestamp()


def measure(group: Group, end: str, times: int, names: list[str]) -> list[dict[str, float]]:
    found = []
    for i in range(times):
        active, standby = names
        waited = group.log(active).read_text().count("waiting as standby")
        parts, code = one(group, end, active, standby, waited)
        assert code == {"kill -9": 0, "SIGTERM": 0, "SIGSTOP": 6}[end], f"{end}: exit code {code}"
        names.reverse()
        found.append(parts)
        print(f"{end} {i + 1}/{times}: " + ", ".join(f"{part} {s:.2f} s" for part, s in parts.items()), flush=True)
    return found


def table(results: dict[str, list[dict[str, float]]]) -> str:
    lines = [
        "| the active one ends by | times | part | median, s | 90 % | max |",
        "|---|---|---|---|---|---|",
    ]
    for end, rows in results.items():
        before = [0.0] * len(rows)
        for part in PARTS:
            now = [row[part] for row in rows]
            lines.append(_row(end, len(rows), f"until {part}", [b - a for a, b in zip(before, now)]))
            before = now
        lines.append(_row(end, len(rows), "**the whole**", before))
    return "\n".join(lines)


def _row(end: str, times: int, part: str, values: list[float]) -> str:
    ordered = sorted(values)
    p90 = ordered[min(len(ordered) - 1, round(0.9 * len(ordered)))]
    return f"| {end} | {times} | {part} | {statistics.median(ordered):.2f} | {p90:.2f} | {ordered[-1]:.2f} |"


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--times", type=int, default=20)
    parser.add_argument("--frozen-times", type=int, default=5)
    parser.add_argument("--session-timeout-s", type=float, default=3.0)
    parser.add_argument("--records-per-s", type=float, default=500.0)
    parser.add_argument("--out", type=Path)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        broker = SharedBroker(Path(folder) / "kafka")
        topic = f"takeover-{uuid.uuid4().hex[:8]}"
        group = Group(Path(folder) / "group", broker.bootstrap_servers, topic, mode="standby")
        group.session_timeout_s = options.session_timeout_s
        run = yaml.safe_load(group.path.read_text())
        run["models"]["oracle"]["river"]["estimator"] = "takeover.TellingClassifier"
        group.path.write_text(yaml.safe_dump(run))
        producer = Producer(broker.bootstrap_servers, topic, partitions=2, records_per_s=options.records_per_s, seed=1)
        try:
            group.start("a")
            wait_until(lambda: group.active() == (1, "a"), group.logs, wait_s=60)
            group.start("b")
            wait_until(lambda: "waiting as standby" in group.log("b").read_text(), group.logs, wait_s=60)
            wait_until(lambda: sum(group.saved().values()) > 0, group.logs)
            names = ["a", "b"]
            plan = {"kill -9": options.times, "SIGTERM": options.times, "SIGSTOP": options.frozen_times}
            load = os.getloadavg()[0]
            results = {end: measure(group, end, times, names) for end, times in plan.items() if times}
            producer.stop()
            wait_until(lambda: group.saved() == dict(producer.ends), group.logs, wait_s=120)
            for name in names:
                group.signal(name, signal.SIGTERM)
                assert group.end(name) == 0
            right = dict.fromkeys(producer.sent, 1) == group.counts()
        finally:
            producer.stop()
            group.kill_all()
            broker.stop()
    said = (
        f"{table(results)}\n\nRecords: {len(producer.sent)}, each learned once: {right}. session_timeout_s: "
        f"{options.session_timeout_s:g}. Load of the machine at the start: {load:.1f} on {os.cpu_count()} cores.\n"
    )
    print(said)
    if options.out:
        options.out.write_text(f"# Take-over by a standby, {date.today()}\n\n{said}")
    return 0 if right else 1


if __name__ == "__main__":
    sys.exit(main())
