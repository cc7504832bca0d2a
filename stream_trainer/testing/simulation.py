"""Crashes, power cuts, full disks and rebalances, told by a seed: the real service in one process, and a witness.

    simulate(7)                    one story; raises StoryBroken if a promise is not kept, and says what happened
    simulate(7, models=mine)       with models of yours beside the counting one

Everything that decides is real: `service.loop.Service`, `engine.Trainer`, batcher, decoder, dead letters, journal,
checkpoints. What is played is the outside: the clock (ManualClock), the log (ScriptedSource), the thread that saves
(Lockstep) and the disk (FaultyDisk). A story is a few lives of the service on one disk. Each life but the last may end
at any operation on the disk, in the middle of a batch or of a save, by kill -9 or by a power cut, or with an error
because the disk was full; the last one has no faults and reads to the end. Then:

- every good record was learned exactly once, every bad one is among the dead letters, positions are those of the end;
- no commit was ever ahead of a checkpoint that survived, and none went back;
- a batch that was learned before a kill was cut in the same way after it;
- a run without faults over the cuts that the journal holds ends in the same state, bit for bit.

For your own model: `simulate(seed, models=lambda schema: {"mine": build_mine(schema)})` for a few hundred seeds shows
that `capture` takes everything and `restore` brings it back. Records have the numbers `partition`, `id`, `x` and the
binary target `y` (testing.counting.SCHEMA). The factory is called for every life: give it fixed seeds.
"""

import random
import tempfile
from collections import Counter
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import NoReturn

from stream_trainer.checkpoints import BatchJournal, CheckpointDirectory
from stream_trainer.contracts import Model
from stream_trainer.decoding import build_decoder
from stream_trainer.engine.bad_records import BadRecordLimit
from stream_trainer.engine.batcher import Batcher, BatchPolicy
from stream_trainer.engine.drift_monitor import DriftMonitor, DriftOptions
from stream_trainer.engine.trainer import Trainer
from stream_trainer.errors import StreamTrainerError
from stream_trainer.evaluation import Prequential
from stream_trainer.models.digest import state_sha256
from stream_trainer.schema import Schema
from stream_trainer.service.loop import Service
from stream_trainer.streams.dead_letter_file import FileDeadLetters
from stream_trainer.testing.counting import SCHEMA, CountingModel
from stream_trainer.testing.fakes import ManualClock, MemoryDeadLetters
from stream_trainer.testing.faulty_disk import Crash, Fault, FaultyDisk
from stream_trainer.testing.lockstep import Lockstep
from stream_trainer.testing.scripted_source import ScriptedLog, ScriptedSource
from stream_trainer.testing.story import Story, StoryBroken
from stream_trainer.testing.witness import Witness
from stream_trainer.types import Batch, LearnReport

__all__ = ["Story", "StoryBroken", "simulate"]

Models = Callable[[Schema], Mapping[str, Model]]
TURNS_MAX = 2_000  # of one life; a story needs far fewer
DEAD_LETTERS = "letters/dead.jsonl"
IN_MEMORY = Path("/dev/shm")  # thousands of stories need not wear out a disk


def simulate(seed: int, *, models: Models | None = None, n_records: int = 60, lives_max: int = 6) -> Story:
    """One story: lives with faults, one without, and the verdict.

    Args:
        seed: everything follows from it.
        models: those that learn beside the counting model; called once for every life.
        n_records: of all partitions together.
        lives_max: of which the last is without faults.
    Returns: what happened; two calls with one seed return equal stories.
    Raises: StoryBroken: with the seed, what is wrong, and the story.

    >>> story = simulate(3)
    >>> story.lives > 1, story == simulate(3)
    (True, True)
    """
    folder = IN_MEMORY if IN_MEMORY.is_dir() else None
    with tempfile.TemporaryDirectory(dir=folder) as directory:
        root = Path(directory) / "disk"
        root.mkdir()
        return _Telling(seed, root, models or (lambda schema: {}), n_records, lives_max).tell()


@dataclass
class _Life:
    """How one life shall go wrong. Operations are counted from its start."""

    ending: Fault | None = None
    ends_at: int = 0  # the operation before which `ending` comes
    stops_at_poll: int = 0  # 0: not at all
    dies_in_batch: int = 0  # while learning; 0: not at all
    refusals: dict[int, Fault] = field(default_factory=dict)  # operation -> what the disk says
    operations: int = 0
    polls: int = 0
    batches: int = 0
    refused: bool = False

    @classmethod
    def drawn(cls, rng: random.Random) -> "_Life":
        life = cls()
        if rng.random() < 0.4:
            begin, kind = rng.randint(1, 60), rng.choice([Fault.DISK_FULL, Fault.SHORT_WRITE, Fault.SYNC_FAILED])
            life.refusals = dict.fromkeys(range(begin, begin + rng.choice([3, 20, 60])), kind)
        end = rng.random()
        if end < 0.7:
            life.ending = rng.choice([Fault.KILL, Fault.POWER_CUT, Fault.POWER_CUT, Fault.TORN_WRITE])
            life.ends_at = rng.choice([rng.randint(1, 12), rng.randint(1, 160)])
        elif end < 0.85:
            life.ending = rng.choice([Fault.KILL, Fault.POWER_CUT])
            life.dies_in_batch = rng.randint(1, 12)
        else:
            life.stops_at_poll = rng.randint(1, 20)
        return life


class _Telling:
    """One story while it is told."""

    def __init__(self, seed: int, root: Path, models: Models, n_records: int, lives_max: int) -> None:
        self.seed, self.root, self.models = seed, root, models
        self.rng = random.Random(seed)
        self.log = ScriptedLog(self.rng, n_records)
        self.lives_left = self.rng.randint(2, lives_max)
        self.happened: Counter[str] = Counter()
        self.trace: list[str] = []
        self.witness = Witness(self.log, root / DEAD_LETTERS, self.broken, self.trace)
        self.keep = self.rng.randint(1, 3)
        self.every_s = self.rng.choice([0.0, 0.5, 2.0])
        self.rows_max = self.rng.choice([3, 16_384])
        self.life = _Life()
        self.lockstep = Lockstep()
        self.disk: FaultyDisk | None = None

    def broken(self, what: str) -> NoReturn:
        raise StoryBroken(self.seed, what, self.trace)

    def tell(self) -> Story:
        lives = 0
        with FaultyDisk(self.root, self._decide, self.rng) as self.disk:
            service = None
            while service is None:
                lives += 1
                self.lives_left -= 1
                service = self._live(_Life.drawn(self.rng) if self.lives_left else _Life())
        self._judge(service)
        states = {name: state_sha256(part.capture()) for name, part in service.trainer.parts().items()}
        self._compare(states, service)
        return Story(
            seed=self.seed,
            lives=lives,
            steps=service.counts.batches,
            records=service.counts.consumed,
            faults=dict(sorted(self.happened.items())),
            states_sha256=states,
            trace=tuple(self.trace),
        )

    # ------------------------------------------------------------ one life

    def _live(self, life: _Life) -> Service | None:
        """The service that reached the end; None: it died, stopped or gave up, and another life follows."""
        self.life, self.lockstep = life, Lockstep()
        assert self.disk is not None
        service: Service | None = None
        try:
            service = self._build()
            service.run()
        except Crash as crash:
            self.trace.append(f"life ends: {crash}")
            self._unwind()
            power_cut = life.ending is Fault.POWER_CUT
            self.witness.cuts_may_be_lost |= power_cut
            self.disk.recover(power_cut=power_cut)
            return None
        except StreamTrainerError as error:
            told = str(error).replace(str(self.root), "DISK")  # the same in every telling
            self.trace.append(f"life ends: {type(error).__name__}: {told}")
            if not life.refused:
                self.broken(f"gave up without a reason: {error!r}")
            self._unwind()
            self.disk.recover(power_cut=False)
            self.happened["gave_up"] += 1
            return None
        except StoryBroken:
            raise
        except Exception as error:
            raise StoryBroken(self.seed, f"raised {error!r}", self.trace) from error
        if self.lives_left:
            self.trace.append(f"life ends: stopped after step {service.counts.batches}")
            self.disk.recover(power_cut=False)
            return None
        return service

    def _build(self) -> Service:
        clock = ManualClock()
        source = ScriptedSource(
            self.log,
            self.rng,
            clock,
            between=self._between_polls,
            committed=self.witness.committed,
            told=self.happened,
        )
        policy = BatchPolicy(
            records_max=self.rng.choice([1, 6, 16, 16]),
            age_s_max=self.rng.choice([None, 0.0, 0.05, 0.5]),
            bytes_max=self.rng.choice([400, 4_194_304]),
        )
        checkpoints = CheckpointDirectory(self.root / "state", identity={}, versions={}, keep=self.keep, trusted=True)
        checkpoints.journal = BatchJournal(self.root / "state" / "journal", rows_max=self.rows_max)
        trainer = _trainer(self.models, clock, oracle=_Mortal(self._about_to_learn))
        service = Service(
            source=source,
            decoder=self.witness.decoder(build_decoder("json", SCHEMA)),
            batcher=Batcher(policy, records_seen=0),
            trainer=trainer,
            checkpoints=checkpoints,
            checkpoint_every_s=self.every_s,
            dead_letters=FileDeadLetters(self.root / DEAD_LETTERS, bytes_max=1_500, files_max=1_000),
            bad_records=BadRecordLimit(ratio_max=1.0),
            observers=[self.witness],
            clock=clock,
            make_thread=self.lockstep.thread,
        )
        self.witness.service = self.service = service
        return service

    # ------------------------------------------------------------ where a life can be touched

    def _between_polls(self) -> None:
        self.life.polls += 1
        if self.life.polls > TURNS_MAX:
            self.broken(f"no end after {TURNS_MAX} polls")
        if self.life.polls == self.life.stops_at_poll:
            self.happened["stop"] += 1
            self.service.request_stop()
        self._let_it_save(0.5)

    def _let_it_save(self, share: float) -> None:
        """The thread that saves goes on for a while."""
        while self.lockstep.runs_beside and self.rng.random() < share:
            self.lockstep.lend()

    def _about_to_learn(self) -> None:
        self.life.batches += 1
        if self.life.batches == self.life.dies_in_batch and self.life.ending and self.disk:
            self._tell_fault(self.life.ending, "in the middle of a batch")
            self.disk.die(f"{self.life.ending.value} in the middle of a batch")

    def _decide(self, operation: str, path: Path) -> Fault | None:
        """On either thread, before each operation: who goes on, and does this one fail?"""
        life, saving = self.life, self.lockstep.is_other
        if saving:
            self.lockstep.pause()
        else:
            self._let_it_save(0.3)
        life.operations += 1
        where = f"{operation} of {path.name}{' while saving' if saving else ''}"
        if life.operations == life.ends_at and life.ending:
            self._tell_fault(life.ending, where)
            return life.ending
        refusal = life.refusals.get(life.operations)
        if refusal is None or operation not in refusal.operations:
            return None
        life.refused = True
        self._tell_fault(refusal, where)
        self.witness.cuts_may_be_lost |= "journal" in path.parts  # they wait in memory
        return refusal

    def _tell_fault(self, fault: Fault, where: str) -> None:
        self.happened[fault.value] += 1
        self.happened["fault_while_saving"] += where.endswith("saving")
        self.trace.append(f"{fault.value}: {where}")

    def _unwind(self) -> None:
        """The process is gone, and the thread that saves with it."""
        assert self.disk is not None
        self.disk.dead = True
        while self.lockstep.runs_beside:
            with suppress(Crash):
                self.lockstep.lend()

    # ------------------------------------------------------------ the verdict

    def _judge(self, service: Service) -> None:
        assert service.checkpoints is not None
        self.witness.ended(service.positions, service.counts, service.checkpoints)
        oracle = service.trainer.models["oracle"]
        assert isinstance(oracle, CountingModel)
        if wrong := oracle.wrong(self.log.good):
            self.broken("; ".join(wrong))

    def _compare(self, states: Mapping[str, str], service: Service) -> None:
        """The same cuts, learned in one life on a sound disk, end in the same bits."""
        clock = ManualClock()
        again = Service(
            source=ScriptedSource(self.log, self.rng, clock, misbehaves=False),
            decoder=build_decoder("json", SCHEMA),
            batcher=Batcher(BatchPolicy(age_s_max=None), records_seen=0),
            trainer=_trainer(self.models, clock, oracle=CountingModel()),
            checkpoints=None,
            checkpoint_every_s=float("inf"),
            dead_letters=MemoryDeadLetters(),
            bad_records=BadRecordLimit(ratio_max=1.0),
            observers=[],
            clock=clock,
        )
        try:
            again.resume(None, *BatchJournal(self.root / "state" / "journal").cuts())
            again.run()
        except StreamTrainerError as error:
            self.broken(f"the surviving run cannot be computed again: {error!r}")
        if again.counts != service.counts:
            self.broken(f"the journal gives {again.counts}; the surviving run has {service.counts}")
        for name, part in again.trainer.parts().items():
            if state_sha256(part.capture()) != states[name]:
                self.broken(f"{name} differs from that of a run without faults over the same batches")


class _Mortal(CountingModel):
    """May die when the others have learned a batch and it has not."""

    def __init__(self, about_to_learn: Callable[[], None]) -> None:
        super().__init__()
        self._about_to_learn = about_to_learn

    def learn(self, batch: Batch) -> LearnReport:
        self._about_to_learn()
        return super().learn(batch)


def _trainer(models: Models, clock: ManualClock, *, oracle: CountingModel) -> Trainer:
    learners: dict[str, Model] = {**models(SCHEMA), "oracle": oracle}  # last: the others have learned when it dies
    names = list(learners)
    drift = DriftMonitor(DriftOptions(predictions=True, labels=True), SCHEMA, names)
    return Trainer(learners, Prequential(SCHEMA.target, names), drift, clock.monotonic_s)
