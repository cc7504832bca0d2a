"""What must hold in every story, looked at while it happens and at its end.

Counted per record and compared in every bit: nothing here is a tolerance.
"""

from collections.abc import Callable, Sequence
from pathlib import Path

from stream_trainer.checkpoints import CheckpointDirectory
from stream_trainer.contracts import Decoder
from stream_trainer.service.loop import Service
from stream_trainer.service.observers import Observer
from stream_trainer.streams.dead_letter_file import read_dead_letters
from stream_trainer.testing.scripted_source import ScriptedLog
from stream_trainer.types import Counts, Decoded, Positions, RawBatch, TopicPartition

__all__ = ["Witness"]

Shape = tuple[tuple[TopicPartition, int], ...]


class Witness(Observer):
    """Remembers over all lives what a single one cannot know: how batches were cut, what was committed.

    Args:
        broken: told what is wrong; it raises.
        trace: gets a line for every start.
    """

    def __init__(self, log: ScriptedLog, dead_letters: Path, broken: Callable[[str], None], trace: list[str]) -> None:
        self._log, self._dead_letters, self._broken, self._trace = log, dead_letters, broken, trace
        self._cuts: dict[int, tuple[Shape, Positions]] = {}  # step -> what was learned in it
        self._committed: Positions = {}
        self.cuts_may_be_lost = False  # the machine died, or the disk refused the journal
        self.service: Service | None = None

    # ------------------------------------------------------------ while it lives

    def started(self, positions: Positions, counts: Counts) -> None:
        """The checkpoint that survived covers every position that was committed and every dead letter before it."""
        self._trace.append(f"life begins after step {counts.batches}")
        for partition, committed in self._committed.items():
            if positions.get(partition, 0) < committed:
                self._broken(
                    f"{partition}: position {committed} was committed, the surviving checkpoint says "
                    f"{positions.get(partition, 0)}"
                )
        self._conserved(counts)
        missing = {
            (partition, offset)
            for partition, offset in self._log.bad
            if offset < positions.get(next(tp for tp in self._log.records if tp.partition == partition), 0)
        } - self._letters()
        if missing:
            self._broken(f"no dead letter for (partition, offset) {sorted(missing)}, which the checkpoint has passed")
        if self.cuts_may_be_lost:
            self._cuts = {step: cut for step, cut in self._cuts.items() if step <= counts.batches}
            self.cuts_may_be_lost = False

    def committed(self, positions: Positions) -> None:
        for partition, position in positions.items():
            if position < self._committed.get(partition, 0):
                self._broken(f"{partition}: committed {position} after {self._committed[partition]}")
        self._committed.update(positions)

    def decoder(self, decoder: Decoder) -> Decoder:
        """The same one, and every batch that is about to be learned is looked at."""
        witness = self

        class Watched:
            def decode(self, raw: RawBatch) -> Decoded:
                witness._cut(raw)
                return decoder.decode(raw)

        return Watched()

    def _cut(self, raw: RawBatch) -> None:
        assert self.service is not None
        step = self.service.counts.batches + 1
        shape = tuple((chunk.partition, offset) for chunk in raw.chunks for offset in chunk.offsets)
        before = self._cuts.setdefault(step, (shape, dict(raw.next_offsets)))
        if before != (shape, raw.next_offsets):
            self._broken(f"step {step} was learned as {_shown(before[0])}, and after a crash as {_shown(shape)}")

    # ------------------------------------------------------------ at the end

    def ended(self, positions: Positions, counts: Counts, checkpoints: CheckpointDirectory) -> None:
        self._conserved(counts)
        if positions != self._log.ends:
            self._broken(f"ended at {positions}; the log ends at {self._log.ends}")
        expected = (len(self._log.good), len(self._log.bad))
        if (counts.learned, counts.dead_lettered) != expected:
            self._broken(f"(learned, dead letters) is {(counts.learned, counts.dead_lettered)}, expected {expected}")
        if self._letters() != self._log.bad:
            self._broken(f"dead letters differ: {sorted(self._letters() ^ self._log.bad)}")
        for info in checkpoints.infos(verify=True):
            if info.problem:
                self._broken(f"a checkpoint does not verify: {info.problem}")

    def _conserved(self, counts: Counts) -> None:
        if counts.consumed != counts.learned + counts.dead_lettered + counts.skipped:
            self._broken(f"not conserved: {counts}")

    def _letters(self) -> set[tuple[int, int]]:
        return {(letter.partition.partition, letter.offset) for letter in read_dead_letters(self._dead_letters)}


def _shown(shape: Sequence[tuple[TopicPartition, int]]) -> str:
    return ", ".join(f"{tp.partition}@{offset}" for tp, offset in shape) or "no records"
