"""Who is ahead at equal false alarms? Delay against false alarms per 1e8 steady records, down to what no one can beat.

Run: OMP_NUM_THREADS=1 nice -n 15 python tests/benchmarks/bench_drift_frontier.py [--quick] > drift_frontier_cpu_DATE.md
Errors of .10 that become .12, .15 or .30, found at the record (a batch adds the wait for its end), and steady errors
at three rates. The last rows know both rates: the likelihood-ratio CUSUM, which has the least worst mean delay of all
detectors with its run length (Moustakides 1986), set to given run lengths by a Markov chain (Brook and Evans 1972).
Everything depends on the seeds alone.
"""

import math
import sys
from collections.abc import Callable, Iterator, Sequence
from functools import partial

import numpy as np
from scipy import sparse
from scipy.sparse.linalg import spsolve

from stream_trainer.contracts import DriftDetector
from stream_trainer.drift import build_detector
from stream_trainer.drift.evaluate import Stream, WorseOnly, errors_with_changes, judge
from stream_trainer.types import Detection, Direction, State

SEEDS, HORIZON, BEFORE, RATES_AFTER, RATES_STEADY = 60, 60_000, (5_000, 100_000), (0.12, 0.15, 0.30), (0.02, 0.1, 0.3)
BARE = {"min_effect": 0.0, "refractory_records": 0}
ROWS: list[tuple[str, Callable[[], DriftDetector], bool]] = [  # label, detector, is its silence measured?
    ("River's ADWIN δ .002, per record, worse only", lambda: WorseOnly(build_detector("adwin")), False),
    *(
        (f"weighted_adwin δ {delta:g}", lambda delta=delta: build_detector("weighted_adwin", delta=delta, **BARE), True)
        for delta in (0.002, 5e-4, 2e-5, 3.7e-7)
    ),
    ("weighted_adwin as shipped (δ 9.3e-5)", lambda: build_detector("weighted_adwin"), True),
    ("cusum as shipped, blocks of 256", lambda: build_detector("cusum"), True),
]
LATTICE = {0.12: 73, 0.15: 71, 0.30: 35}  # steps of a rise: so fine that a fall is a whole number of them, to 1 %


class Knowing:
    """Page's CUSUM with the true rates: what is left when nothing has to be learned."""

    def __init__(self, before: float, after: float, height: float) -> None:
        self._rise, self._fall = math.log(after / before), math.log((1 - after) / (1 - before))
        self._height, self._sum = height, 0.0

    def update(self, values_N: np.ndarray) -> Sequence[Detection]:
        path_N = self._sum + np.cumsum(np.where(values_N > 0, self._rise, self._fall))
        height_N = path_N - np.minimum(np.minimum.accumulate(path_N), 0.0)
        if not (height_N > self._height).any():
            self._sum = float(height_N[-1])
            return ()
        index = int(np.argmax(height_N > self._height))
        found = Detection(
            index=index,
            direction=Direction.UP,
            before=0.0,
            after=0.0,
            statistic=float(height_N[index]),
            threshold=self._height,
            window_records=0,
        )
        self._sum = 0.0
        return (found, *self.update(values_N[index + 1 :])) if index + 1 < len(values_N) else (found,)

    def capture(self) -> State:
        return State(values={"sum": self._sum})

    def restore(self, state: State) -> None:
        self._sum = state.values["sum"]


def run_length(before: float, after: float, height: float) -> float:
    """Records to the first alarm of `Knowing` while the rate is `before`: a chain on a lattice of heights."""
    cells = LATTICE[after]
    step = math.log(after / before) / cells
    fall, n = round(-math.log((1 - after) / (1 - before)) / step), math.ceil(height / step)
    from_n = np.arange(n)
    stays = from_n + cells < n
    moves = sparse.csc_matrix(
        (
            np.concatenate([np.full(stays.sum(), before), np.full(n, 1 - before)]),
            (
                np.concatenate([from_n[stays], from_n]),
                np.concatenate([from_n[stays] + cells, np.maximum(from_n - fall, 0)]),
            ),
        ),
        shape=(n, n),
    )
    return float(spsolve(sparse.identity(n, format="csc") - moves, np.ones(n))[0])


def height_for(before: float, after: float, records: float) -> float:
    low, high = 1.0, 30.0
    for _ in range(25):
        middle = (low + high) / 2
        low, high = (middle, high) if run_length(before, after, middle) < records else (low, middle)
    return high


def delay(build: Callable[[], DriftDetector], before: int, after: float, seeds: int) -> str:
    def streams() -> Iterator[Stream]:
        for seed in range(seeds):
            yield errors_with_changes((before, 0.1), (HORIZON, after), seed=seed)

    verdict = judge(lambda stream: build(), streams(), batch_records=1, horizon_records=HORIZON)
    all_delays = sorted(verdict.delays) + [math.inf] * verdict.n_missed  # what was missed is no short delay
    median, p95 = (all_delays[int(share * (seeds - 1))] for share in (0.5, 0.95))
    told = " / ".join(f"{records:,}" if records < math.inf else "never" for records in (median, p95))
    return f"{told} ({verdict.n_missed} missed)" if verdict.n_missed else told


def false_alarms(build: Callable[[], DriftDetector], rate: float, millions: int) -> int:
    detector, rng, told = build(), np.random.default_rng(11), 0
    for _ in range(-(-millions * 1_000_000 // 8192)):
        found = detector.update((rng.random(8192, dtype=np.float32) < rate).astype(np.float32))
        told += sum(one.direction is Direction.UP for one in found)
    return told


def main() -> None:
    quick = "--quick" in sys.argv
    seeds, millions = (4, 1) if quick else (SEEDS, 100)
    cases = [(before, after) for before in BEFORE for after in RATES_AFTER]
    names = [f"→{after:g} after {before // 1000}k" for before, after in cases]
    steady = "|".join(f" F at {rate:g} " for rate in RATES_STEADY)
    print(f"Median / 95th percentile of the delays, in records, {seeds} seeds; F: alarms that errors rose in")
    print(f"{millions},000,000 steady records.\n\n| detector | {' | '.join(names)} |{steady}|")
    print("|---" * (1 + len(cases) + len(RATES_STEADY)) + "|", flush=True)
    for label, build, heard in ROWS:
        delays = [delay(build, before, after, seeds) for before, after in cases]
        told = [str(false_alarms(build, rate, millions)) if heard else "as δ .002 below" for rate in RATES_STEADY]
        print(f"| {label} | {' | '.join([*delays, *told])} |", flush=True)
    for records in (2e7, 1e8, 3e8):
        delays = []
        for before, after in cases:
            knowing = partial(Knowing, 0.1, after, height_for(0.1, after, records))
            delays.append(delay(knowing, before, after, seeds))
        told = ["", f"{1e8 / records:.2g} in 1e8 (exact)", ""]
        print(f"| knows both rates, run length {records:.0e} | {' | '.join([*delays, *told])} |", flush=True)


if __name__ == "__main__":
    main()
