"""A model that counts every record it learns, and a loop that kills the process it lives in.

A record lost is a count of zero, a record taught twice a count of two: nothing to estimate, nothing to average out. The
children come from a server that has imported everything already, so that a hundred deaths take a minute.
"""

import math
import multiprocessing
import random
import time
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

from river import base

from stream_trainer.checkpoints import CheckpointDirectory
from stream_trainer.service.config import load_config
from stream_trainer.service.wiring import assemble, build_checkpoints

__all__ = ["CountingClassifier", "Deaths", "counts_of", "die_again_and_again"]


class CountingClassifier(base.Classifier):
    """Learns nothing but which records it saw; `partition` and `id` are features of the record.

    Args: records_per_s_max: a fast machine would be through with the records before it has been killed often enough.
    """

    def __init__(self, records_per_s_max: float = math.inf):
        self.records_per_s_max = records_per_s_max
        self.seen = {}

    def predict_proba_one(self, x):
        return {}

    def learn_one(self, x, y):
        key = int(x.get("partition", 0)), int(x["id"])
        self.seen[key] = self.seen.get(key, 0) + 1
        if len(self.seen) % 16 == 0:
            time.sleep(16 / self.records_per_s_max)


@dataclass
class Deaths:
    """What the loop did."""

    kills: int = 0
    before_learning: int = 0  # nothing was cut since the checkpoint: died in start-up, or right after a save
    batches_cut_again: int = 0
    half_saved: int = 0  # a checkpoint that was being written
    checkpoints_seen: int = 0  # restarts from different checkpoints


def run_to_the_end(path: Path) -> None:
    with assemble(load_config(path), until_end=True) as service:
        service.run()


def die_again_and_again(path: Path, *, kills: int, seed: int, life_s_max: float) -> Deaths:
    """Run the configuration at `path` and kill it `kills` times at random moments, or until it is through; let it end.

    A fast machine may be through with the records after fewer kills: look at how many there were. Lives get longer
    after the third in a row that saved nothing: a busy machine does less in half a second.
    """
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["stream_trainer.service.wiring"])
    rng, deaths, steps = random.Random(seed), Deaths(), set()
    seen = since_save = 0
    while deaths.kills < kills:
        child = context.Process(target=run_to_the_end, args=(path,))
        child.start()
        child.join(rng.uniform(0, life_s_max))
        if child.exitcode is not None:
            assert child.exitcode == 0
            return deaths
        child.kill()
        child.join()
        deaths.kills += 1
        _look(path, deaths, steps)
        since_save = 0 if deaths.checkpoints_seen > seen else since_save + 1
        seen = deaths.checkpoints_seen
        life_s_max += 0.25 * (since_save > 3)
    child = context.Process(target=run_to_the_end, args=(path,))
    child.start()
    child.join()
    assert child.exitcode == 0
    return deaths


def counts_of(path: Path) -> tuple[Counter, dict]:
    """How often each record was learned according to the last checkpoint, and the counts beside it."""
    saved = _saved(path)
    snapshot = saved.load(max(info.step for info in saved.infos(verify=False)))
    with assemble(load_config(path, ["checkpoint=null"])) as service:
        oracle = service.trainer.models["oracle"]
        oracle.restore(snapshot.parts["models/oracle"])
        return Counter(oracle.estimator.seen), snapshot.counts


def _saved(path: Path) -> CheckpointDirectory:
    config = load_config(path)
    return build_checkpoints(config, config.checkpoint.directory)


def _look(path: Path, deaths: Deaths, steps: set[int]) -> None:
    saved = _saved(path)
    step = max((info.step for info in saved.infos(verify=False)), default=0)
    n_cuts = len(list(saved.journal.cuts(after_step=step)[1]))
    deaths.before_learning += n_cuts == 0
    deaths.batches_cut_again += n_cuts
    deaths.half_saved += bool(list(Path(saved.address).glob("tmp-*")))
    steps.add(step)
    deaths.checkpoints_seen = len(steps)
