"""Golden alarms: which records each shipped detector names on fixed streams. A change here is a change users will see.

To accept one: run this file with `python` from the repository root, read the difference, and say in the commit why.
"""

import json
from pathlib import Path

import numpy as np
import pytest

from stream_trainer.drift import DETECTORS, build_detector

GOLDEN = Path(__file__).parents[2] / "golden" / "alarms" / "error_streams.json"
LEVELS = {"worse": [0.1, 0.3], "better": [0.4, 0.1], "there_and_back": [0.1, 0.4, 0.1, 0.4], "steady": [0.2, 0.2]}


def alarms(name, levels):
    """[record, direction] of each detection; 6,000 records a level, in batches of 100."""
    n = {"kswin": 300, "own_past": 9000}.get(name, 6000)  # slow; warms up for 8,192
    rng = np.random.default_rng(20_261_122)
    values_N = np.concatenate([(rng.random(n) < level).astype(np.float64) for level in levels])
    detector = build_detector(name)
    return [
        [start + d.index, d.direction.value]
        for start in range(0, len(values_N), 100)
        for d in detector.update(values_N[start : start + 100])
    ]


def everything():
    return {name: {story: alarms(name, levels) for story, levels in LEVELS.items()} for name in sorted(DETECTORS)}


@pytest.mark.parametrize("name", sorted(DETECTORS))
def test_alarms_are_those_agreed_on(name):
    """Speed work on a detector must not move one alarm by one record."""
    golden = json.loads(GOLDEN.read_text())

    assert sorted(golden) == sorted(DETECTORS)
    assert golden[name] == {story: alarms(name, levels) for story, levels in LEVELS.items()}


if __name__ == "__main__":
    GOLDEN.write_text(json.dumps(everything(), indent=1) + "\n")
