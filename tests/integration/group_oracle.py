"""Members of a group as real processes that can be killed, stopped and continued; and what they know together.

Each member counts every record it learns (counting_oracle.py). United over the newest checkpoints of all members a
record lost is a count of zero, a record taught twice a count of two. The children come from a server that has imported
everything already.
"""

import json
import logging
import multiprocessing
import os
import random
import re
import sys
import threading
import time
from collections import Counter
from pathlib import Path

import kafka
import yaml
from kafka.admin import KafkaAdminClient, NewTopic

from stream_trainer.checkpoints import CheckpointDirectory
from stream_trainer.checkpoints.claims import PartitionClaims
from stream_trainer.checkpoints.members import MemberLife, Members
from stream_trainer.clock import SystemClock
from stream_trainer.errors import StreamTrainerError
from stream_trainer.service.config import load_config
from stream_trainer.service.guard import stop_on_signals
from stream_trainer.service.rebuild import rebuild
from stream_trainer.service.wiring import assemble, build_checkpoints
from stream_trainer.streams.logged_dead_letters import LoggedDeadLetters
from stream_trainer.types import TopicPartition

sys.path.insert(0, str(Path(__file__).parents[1] / "process"))  # for the oracle, here and in the children

__all__ = ["Group", "Producer", "wait_until"]


def run_member(path: Path, overrides: list[str], log: Path) -> None:
    sys.stdout = sys.stderr = log.open("a", buffering=1)
    logging.basicConfig(
        level=logging.INFO, stream=sys.stderr, format="%(asctime)s %(levelname)s %(name)s: %(message)s", force=True
    )
    logging.getLogger("kafka").setLevel(logging.WARNING)
    config = load_config(path, overrides)
    try:
        with assemble(config) as service, stop_on_signals(service.request_stop, stop_s_max=20):
            service.run()
    except StreamTrainerError as error:
        logging.getLogger("member").error("%s", error)
        sys.exit(error.exit_code)


class Group:
    """A configuration of a group in `folder`, and its members."""

    def __init__(self, folder: Path, bootstrap_servers: str, topic: str, *, mode: str = "sharded") -> None:
        self.mode = mode
        self.folder, self.topic, self._servers = folder, topic, bootstrap_servers
        folder.mkdir(exist_ok=True)
        self.session_timeout_s = 1.5  # of members that are started from now on
        self.root = folder / "state"
        self.path = folder / "group.yaml"
        group = {"id": f"g-{topic}", "mode": mode} | ({"instance_id": "unnamed"} if mode == "sharded" else {})
        group |= {"hand_over_s_max": 2.0}
        run = {
            "name": "group",
            "source": {"kafka": {"bootstrap_servers": bootstrap_servers, "topic": topic, "group": group}},
            "schema": {"features": {"partition": "number", "id": "number"}, "target": {"y": "binary"}},
            "batch": {"records_max": 32, "age_s_max": 0.005},
            "models": {"oracle": {"river": {"estimator": "counting_oracle.CountingClassifier"}}},
            "checkpoint": {"directory": str(self.root), "every_s": 0.3},
            "telemetry": None,
        }
        self.path.write_text(yaml.safe_dump(run))
        self._context = multiprocessing.get_context("forkserver")
        self._context.set_forkserver_preload(["stream_trainer.service.wiring", "counting_oracle"])
        self.members: dict[str, multiprocessing.Process] = {}

    def start(self, name: str) -> None:
        self.log(name).touch()
        options = {"session_timeout_s": self.session_timeout_s}
        options |= {"instance_id": name} if self.mode == "sharded" else {}
        overrides = [f"source.kafka.group.{key}={value}" for key, value in options.items()]
        self.members[name] = self._context.Process(target=run_member, args=(self.path, overrides, self.log(name)))
        self.members[name].start()

    def log(self, name: str) -> Path:
        return self.folder / f"{name}.log"

    def signal(self, name: str, number: int) -> None:
        os.kill(self.members[name].pid, number)

    def end(self, name: str, wait_s: float = 30.0) -> int:
        """Wait for it. Returns its exit code."""
        self.members[name].join(wait_s)
        code = self.members[name].exitcode
        assert code is not None, f"{name} still runs\n{self.log(name).read_text()[-3000:]}"
        return code

    def kill(self, name: str) -> None:
        self.members[name].kill()
        self.members[name].join()

    def kill_all(self) -> None:
        for process in self.members.values():
            if process.is_alive():
                process.kill()
                process.join()

    def twin(self, folder: Path) -> "Group":
        """The same group of Kafka over another directory: somebody's mistake."""
        return Group(folder, self._servers, self.topic, mode=self.mode)

    # ------------------------------------------------------------ what they know

    def committed(self) -> dict[int, int]:
        """Partition -> what is committed for the group."""
        client = KafkaAdminClient(bootstrap_servers=self._servers)
        try:
            [found] = client.list_group_offsets(f"g-{self.topic}").values()
            return {tp.partition: at.offset for tp, at in found.items()}
        finally:
            client.close()

    def owners(self) -> dict[int, str]:
        """Partition -> member that holds it."""
        claims = self._claims()
        newest = {tp: claims.newest(tp) for tp in self._partitions()}
        return {tp.partition: claim.member for tp, claim in newest.items() if claim and not claim.released}

    def holds(self, name: str, *, life: int, partitions: int) -> bool:
        """Whether this life of a member holds so many partitions."""
        claims = self._claims()
        newest = [claims.newest(tp) for tp in self._partitions()]
        return partitions == sum(1 for claim in newest if (claim.member, claim.life) == (name, life))

    def lives(self) -> dict[str, int]:
        """Member -> how often it was started or fenced."""
        members = Members(self.root)
        return {path.name: members.life(path.name) for path in members.root.glob("*")}

    def active(self) -> tuple[int, str]:
        """The highest epoch that a standby has taken, and which one; (0, "") if none has."""
        taken = [
            (int(epoch), path.stem)
            for path in self.folder.glob("*.log")
            for epoch in re.findall(r"active, epoch (\d+)", path.read_text())
        ]
        return max(taken, default=(0, ""))

    def saved(self) -> dict[int, int]:
        """Partition -> the offset up to which somebody has saved it."""
        if self.mode == "standby":
            snapshot = self._saved_in(self.root).load_newest()
            return {tp.partition: at for tp, at in snapshot.positions.items()} if snapshot else {}
        members, claims = Members(self.root), self._claims()
        known = [members.newest(path.name).positions for path in members.root.glob("*") if path.is_dir()]
        return {
            tp.partition: max([positions.get(tp, 0) for positions in known] + [claims.newest(tp).position])
            for tp in self._partitions()
        }

    def counts(self) -> Counter:
        """(partition, id) -> how often it was learned, over the newest checkpoints of all members."""
        seen: Counter = Counter()
        alone = load_config(self.path, ["checkpoint=null", "source.kafka.group=null"])
        with assemble(alone, dead_letters=LoggedDeadLetters()) as service:
            oracle = service.trainer.models["oracle"]
            for path in self._homes():
                if snapshot := self._saved_in(path).load_newest():
                    oracle.restore(snapshot.parts["models/oracle"])
                    seen += Counter(oracle.estimator.seen)
        return seen

    def rebuilt(self, name: str) -> dict[str, bool]:
        """Model -> whether the journal of a member and the log give its newest state again, bit for bit."""
        members = Members(self.root)
        found = rebuild(load_config(self.path), members.path(name, members.life(name)))
        equal: dict[str, bool] = found["rebuilt"]["equal"]
        return equal

    def _homes(self) -> list[Path]:
        """Where the checkpoints of each surviving model are."""
        if self.mode == "standby":
            return [self.root]
        members = Members(self.root)
        return [members.path(path.name, members.life(path.name)) for path in members.root.glob("*")]

    def _saved_in(self, path: Path) -> CheckpointDirectory:
        return build_checkpoints(load_config(self.path), path)

    def logs(self) -> str:
        return "\n".join(f"== {path.name}\n{path.read_text()[-4000:]}" for path in sorted(self.folder.glob("*.log")))

    def _claims(self) -> PartitionClaims:
        me = MemberLife(Members(self.root), "onlooker")  # never opened: it only reads
        return PartitionClaims(self.root, me, SystemClock(), hand_over_s_max=1.0)

    def _partitions(self) -> list[TopicPartition]:
        folder = self.root / "claims" / self.topic
        return [TopicPartition(self.topic, int(path.name)) for path in folder.glob("[0-9]*")]


class Producer:
    """Fills a new topic at a steady rate until it is stopped; remembers what it sent."""

    def __init__(
        self,
        bootstrap_servers: str,
        topic: str,
        *,
        partitions: int,
        records_per_s: float,
        seed: int,
        replicas: int = 1,
    ) -> None:
        admin = KafkaAdminClient(bootstrap_servers=bootstrap_servers)
        admin.create_topics([NewTopic(topic, partitions, replicas)])
        admin.close()
        self.sent: set[tuple[int, int]] = set()
        self.ends: Counter = Counter()
        self._client = kafka.KafkaProducer(bootstrap_servers=bootstrap_servers, linger_ms=5)
        self._topic, self._partitions, self._rate = topic, partitions, records_per_s
        self._rng, self._done = random.Random(seed), threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    def _run(self) -> None:
        n = 0
        while not self._done.wait(0.02):
            for _ in range(round(self._rate * 0.02)):
                partition = self._rng.randrange(self._partitions)
                value = json.dumps({"partition": partition, "id": n, "y": n % 3 == 0}).encode()
                self._client.send(self._topic, value, partition=partition)
                self.sent.add((partition, n))
                self.ends[partition] += 1
                n += 1

    def stop(self) -> None:
        if self._done.is_set():
            return
        self._done.set()
        self._thread.join()
        self._client.flush()
        self._client.close()


def wait_until(reached, explain, *, wait_s: float = 120.0) -> None:
    until_s = time.monotonic() + wait_s
    while not reached():
        assert time.monotonic() < until_s, explain()
        time.sleep(0.05)
