"""What does a full outage of the line to Kafka cost? A counting oracle in a real process, the line cut for a minute.

    python tests/benchmarks/kafka_outage.py [--outage-s 60] [--records-per-s 200]

Wants ../shared/kafka and ../shared/toxiproxy. The producer is behind the same line, so its records wait with it. The
answer is expected to be: no record lost, none taught twice, the process still the same one; and how long it took from
the moment the line was back until records were learned again. Exit code 1 if it is not.
"""

import argparse
import atexit
import json
import os
import re
import signal
import subprocess
import sys
import tempfile
import time
import urllib.request
import uuid
from pathlib import Path

import yaml

sys.path.insert(0, str(Path(__file__).parents[1] / "process"))
sys.path.insert(0, str(Path(__file__).parents[1] / "integration"))

from counting_oracle import counts_of
from group_oracle import Producer, wait_until
from real_kafka import broker_behind_a_line

STEADY_S = 5.0  # before the outage and after it


class Service:
    """`stream-trainer run` as a process, and what its metrics say."""

    def __init__(self, path: Path) -> None:
        self._log = path.with_suffix(".log")
        command = [sys.executable, "-m", "stream_trainer", "run", str(path)]
        paths = [str(Path(__file__).parents[1] / "process"), os.environ.get("PYTHONPATH", "")]  # the oracle is there
        self.process = subprocess.Popen(
            command,
            stdout=subprocess.DEVNULL,
            stderr=self._log.open("wb"),
            env={**os.environ, "PYTHONPATH": os.pathsep.join(paths)},
        )
        atexit.register(self.process.kill)
        wait_until(lambda: "metrics on http" in self._log.read_text(), self._log.read_text, wait_s=120)
        self._url = re.search(r"metrics on (http://\S+:\d+/)", self._log.read_text())[1] + "metrics"

    def metric(self, name: str) -> float:
        with urllib.request.urlopen(self._url, timeout=10) as response:
            found = re.search(rf"^{name} (\S+)$", response.read().decode(), re.MULTILINE)
        return float(found[1]) if found else 0.0

    @property
    def learned(self) -> float:
        return self.metric("stream_trainer_run_records_learned")


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--outage-s", type=float, default=60.0)
    parser.add_argument("--records-per-s", type=float, default=200.0)
    options = parser.parse_args()
    topic = f"outage-{uuid.uuid4().hex[:8]}"
    with tempfile.TemporaryDirectory() as folder, broker_behind_a_line(Path(folder) / "kafka") as line:
        producer = Producer(line.address, topic, partitions=3, records_per_s=options.records_per_s, seed=1)
        path = Path(folder) / "run.yaml"
        run = {
            "name": "outage",
            "source": {"kafka": {"bootstrap_servers": line.address, "topic": topic, "start": "earliest"}},
            "schema": {"features": {"partition": "number", "id": "number"}, "target": {"y": "binary"}},
            "batch": {"records_max": 64, "age_s_max": 0.02},
            "models": {"oracle": {"river": {"estimator": "counting_oracle.CountingClassifier"}}},
            "checkpoint": {"directory": f"{folder}/state", "every_s": 1.0},
            "dead_letters": {"file": f"{folder}/dead.jsonl"},
            "telemetry": {"port": 0},
        }
        path.write_text(yaml.safe_dump(run))
        service = Service(path)
        wait_until(lambda: service.learned > 0, lambda: "nothing was learned", wait_s=60)
        time.sleep(STEADY_S)
        line.ask("/proxies/k", {"enabled": False})
        time.sleep(options.outage_s)
        before, sent_before = service.learned, len(producer.sent)
        silent_s = service.metric("stream_trainer_source_silent_seconds")
        line.ask("/proxies/k", {"enabled": True})
        back_s = time.monotonic()
        wait_until(lambda: service.learned > before, lambda: "nothing was learned after the outage", wait_s=120)
        first_s = time.monotonic() - back_s
        wait_until(lambda: service.learned >= sent_before, lambda: "it did not catch up", wait_s=120)
        caught_up_s = time.monotonic() - back_s
        time.sleep(STEADY_S)
        producer.stop()
        wait_until(lambda: service.learned >= len(producer.sent), lambda: "it did not reach the end", wait_s=120)
        service.process.send_signal(signal.SIGTERM)
        code = service.process.wait(60)
        seen, _ = counts_of(path)
    result = {
        "options": vars(options),
        "exit_code": code,
        "records_sent": len(producer.sent),
        "records_sent_in_the_outage": int(sent_before - before),
        "records_lost": len(producer.sent - seen.keys()),
        "records_taught_twice": sum(n > 1 for n in seen.values()),
        "silent_s_at_the_end_of_the_outage": round(silent_s, 1),
        "first_record_learned_s_after": round(first_s, 2),
        "caught_up_s_after": round(caught_up_s, 2),
    }
    print(json.dumps(result, indent=2))
    return 0 if code == 0 and seen == dict.fromkeys(producer.sent, 1) else 1


if __name__ == "__main__":
    sys.exit(main())
