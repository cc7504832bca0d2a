"""How many records does a hard death cost? A counting oracle on a real Kafka, killed at random moments.

    python tests/benchmarks/kill_loop.py --bootstrap-servers HOST:PORT [--kills 200] [--seed 1] [--records 400000]

Several partitions, planted bad records, batches cut by age; the answer is expected to be: none lost, none taught twice,
and the last state equal in every bit to the one that the journal gives. Exit code 1 if it is not.
"""

import argparse
import json
import sys
import tempfile
import time
import uuid
from dataclasses import asdict
from pathlib import Path

import kafka
import yaml
from kafka.admin import KafkaAdminClient, NewTopic

sys.path.insert(0, str(Path(__file__).parents[1] / "process"))

from counting_oracle import counts_of, die_again_and_again

from stream_trainer.service.config import load_config
from stream_trainer.service.rebuild import rebuild

BAD_EVERY = 53


def fill(bootstrap_servers: str, topic: str, n_records: int, partitions: int) -> set[tuple[int, int]]:
    """Returns (partition, id) of every good record."""
    admin = KafkaAdminClient(bootstrap_servers=bootstrap_servers)
    admin.create_topics([NewTopic(topic, partitions, 1)])
    admin.close()
    producer = kafka.KafkaProducer(bootstrap_servers=bootstrap_servers, linger_ms=20, batch_size=65_536)
    good = set()
    for i in range(n_records):
        partition = i * 7919 % 101 % partitions
        if i % BAD_EVERY:
            good.add((partition, i))
            value = json.dumps({"partition": partition, "id": i, "y": i % 3 == 0}).encode()
        else:
            value = b"{broken %d" % i
        producer.send(topic, value, partition=partition)
    producer.flush()
    producer.close()
    return good


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--bootstrap-servers", required=True)
    parser.add_argument("--kills", type=int, default=200)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--records", type=int, default=400_000)
    parser.add_argument("--partitions", type=int, default=4)
    parser.add_argument("--life-s-max", type=float, default=2.0)
    options = parser.parse_args()
    topic = f"kill-{uuid.uuid4().hex[:8]}"
    good = fill(options.bootstrap_servers, topic, options.records, options.partitions)
    with tempfile.TemporaryDirectory() as folder:
        source = {"bootstrap_servers": options.bootstrap_servers, "topic": topic, "start": "earliest"}
        run = {
            "name": "kill_loop",
            "source": {"kafka": source},
            "schema": {"features": {"partition": "number", "id": "number"}, "target": {"y": "binary"}},
            "batch": {"records_max": 32, "age_s_max": 0.005},
            "models": {"oracle": {"river": {"estimator": "counting_oracle.CountingClassifier"}}},
            "checkpoint": {"directory": f"{folder}/state", "every_s": 0.25},
            "dead_letters": {"file": f"{folder}/dead.jsonl"},
            "telemetry": None,
        }
        path = Path(folder) / "run.yaml"
        path.write_text(yaml.safe_dump(run))
        started_s = time.monotonic()
        deaths = die_again_and_again(path, kills=options.kills, seed=options.seed, life_s_max=options.life_s_max)
        seconds = time.monotonic() - started_s
        seen, counts = counts_of(path)
        equal = rebuild(load_config(path), Path(folder) / "state")["rebuilt"]["equal"]
    result = {
        "options": vars(options),
        "seconds": round(seconds),
        "deaths": asdict(deaths),
        "counts": {name: getattr(counts, name) for name in counts.__slots__},
        "records_lost": len(good - seen.keys()),
        "records_taught_twice": sum(n > 1 for n in seen.values()),
        "records_from_nowhere": len(seen.keys() - good),
        "rebuilt_equal": equal,
    }
    print(json.dumps(result, indent=2))
    flawless = set(seen) == good and set(seen.values()) == {1} and all(equal.values())
    return 0 if flawless else 1


if __name__ == "__main__":
    sys.exit(main())
