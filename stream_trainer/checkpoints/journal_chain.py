"""The segments of a journal as one chain of rows: which of them count, and reading them in order.

    000000000041-000003.journal               the rows from step 41 on, written in epoch 3 (fence.py)
    000000000041-000003-000000000090.journal  the same in an object store, up to step 90: objects do not grow
    000000000041.journal                      from before there were epochs

No writer touches a segment of an earlier life. Where a later epoch begins, what earlier ones say of those steps is
void: rows that a crash tore, and rows of an instance that was overtaken and did not know it yet.
"""

import re
from collections.abc import Callable, Iterable, Iterator
from itertools import chain
from typing import NamedTuple

from stream_trainer.checkpoints.journal_format import Segment, decode_segment
from stream_trainer.errors import CheckpointError, CorruptCheckpoint
from stream_trainer.types import Cut, Positions

__all__ = ["JournalReader", "SegmentName"]

PATTERN = re.compile(r"(\d{12})(?:-(\d{6}))?(?:-(\d{12}))?\.journal")


class SegmentName(NamedTuple):
    """Compares by epoch, then by place in it.

    >>> SegmentName.of(41, epoch=3).text
    '000000000041-000003.journal'
    >>> SegmentName.parse("000000000041.journal")
    SegmentName(epoch=0, first_step=41, last_step=0, text='000000000041.journal')
    """

    epoch: int
    first_step: int
    last_step: int  # 0: the name does not say
    text: str

    @classmethod
    def of(cls, first_step: int, *, epoch: int, last_step: int = 0) -> "SegmentName":
        last = f"-{last_step:012d}" if last_step else ""
        return cls(epoch, first_step, last_step, f"{first_step:012d}-{epoch:06d}{last}.journal")

    @classmethod
    def parse(cls, text: str) -> "SegmentName | None":
        found = PATTERN.fullmatch(text)
        return cls(int(found[2] or 0), int(found[1]), int(found[3] or 0), text) if found else None


class JournalReader:
    """Reads; safe beside the process that writes.

    Args:
        address: for messages.
        list_names: the files of the journal, in no order.
        read: the bytes of one of them.
    """

    def __init__(self, address: str, list_names: Callable[[], Iterable[str]], read: Callable[[str], bytes]) -> None:
        self.address = address
        self._list_names, self._read_bytes = list_names, read

    def epoch_seen(self) -> int:
        """The highest; 0: none."""
        return max((name.epoch for name in self._all()), default=0)

    def cuts(self, *, after_step: int = 0) -> tuple[Positions, Iterator[Cut]]:
        """The rows after `after_step`, and the positions right before them; empty if there are no such rows.

        Rows are read as they are asked for.

        Raises: CorruptCheckpoint: damage, or missing rows; CheckpointError: the journal begins later.
        """
        names = self._live()
        if names and names[0].first_step > after_step + 1:
            raise CheckpointError(
                f"{self.address} begins with step {names[0].first_step}; expected one that has step "
                f"{after_step + 1}, the first after the state to go on from. Go on from a later checkpoint, or move "
                "the journal away to cut what comes anew."
            )
        begin = max((i for i, name in enumerate(names) if name.first_step <= after_step + 1), default=0)
        found = self._segment(names, begin) if names else None
        if found is None:
            return {}, iter(())
        positions = dict(found.positions)
        rows = chain(found.cuts, self._rows(names, begin + 1, found.first_step + len(found.cuts)))
        for cut in rows:
            if cut.step > after_step:
                return positions, chain([cut], rows)
            positions.update((run.partition, run.next_offset) for run in cut.runs)
        return {}, iter(())

    def _rows(self, names: list[SegmentName], begin: int, step: int) -> Iterator[Cut]:
        for i in range(begin, len(names)):
            found = self._segment(names, i)
            if found is None:
                return
            if found.first_step != step:
                raise CorruptCheckpoint(
                    f"{self.address}/{names[i].text}: begins with step {found.first_step}, expected {step}: the rows "
                    f"between are missing. Go on from a checkpoint of step {found.first_step - 1} or later."
                )
            yield from found.cuts
            step += len(found.cuts)

    def _segment(self, names: list[SegmentName], i: int) -> Segment | None:
        """One link of the chain, as far as it counts."""
        name, last = names[i], i == len(names) - 1
        overtaken = not last and names[i + 1].epoch > name.epoch
        found = decode_segment(
            self._read_bytes(name.text),
            name=f"{self.address}/{name.text}",
            may_be_torn=last,
            rows_max=names[i + 1].first_step - name.first_step if overtaken else None,
        )
        if found is not None and found.first_step != name.first_step:
            raise CorruptCheckpoint(
                f"{self.address}/{name.text}: begins with step {found.first_step}; expected the one in its name."
            )
        return found

    def _all(self) -> list[SegmentName]:
        return sorted(name for name in map(SegmentName.parse, self._list_names()) if name is not None)

    def _live(self) -> list[SegmentName]:
        """Those that count, by step. A later one that begins at the same step, or before, says it anew."""
        live: list[SegmentName] = []
        for name in self._all():
            while live and live[-1].first_step >= name.first_step:
                live.pop()
            live.append(name)
        return live
