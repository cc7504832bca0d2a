"""Does any interleaving of members, claims, fences and damaged checkpoints lose a record or learn one twice?

    python tests/benchmarks/many_claims.py [--seeds 250] [--acts 150]

Each seed tells two stories of three members on one disk (tests/unit/checkpoints/claims_story.py), with sound disks and
with checkpoints that rot. Expected: over the newest checkpoints of all members each record once. Exit code 1 if not.
"""

import argparse
import json
import logging
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1] / "unit" / "checkpoints"))

from claims_story import Story


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, default=250)
    parser.add_argument("--acts", type=int, default=150)
    options = parser.parse_args()
    logging.disable(logging.CRITICAL)
    started_s = time.process_time()
    results = {}
    for rots in (False, True):
        totals: Counter = Counter()
        wrong, without_fence = [], []
        for seed in range(options.seeds):
            with tempfile.TemporaryDirectory() as folder:
                told = Story(Path(folder), seed, rots=rots).tell(options.acts)
            if told.seen != told.expected:
                wrong.append(seed)
            if not told.fenced:
                without_fence.append(seed)
            totals.update(
                records=sum(told.ends.values()),
                fences=told.fenced,
                sleeps=told.slept,
                learned_again=told.learned_again,
            )
        results["checkpoints rot" if rots else "sound disks"] = {
            "stories": options.seeds,
            "seeds in which a record was lost or learned twice": wrong,
            "seeds without a fence": without_fence,
            **totals,
        }
    print(json.dumps({"options": vars(options), "cpu_s": round(time.process_time() - started_s), **results}, indent=2))
    return 1 if any(result["seeds in which a record was lost or learned twice"] for result in results.values()) else 0


if __name__ == "__main__":
    sys.exit(main())
