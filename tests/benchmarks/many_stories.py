"""Does any of many seeds find a broken promise? The long form of tests/simulation, with counts of what happened.

    OMP_NUM_THREADS=1 python tests/benchmarks/many_stories.py --first 1000 --seeds 20000

Prints every seed that ends badly, and at the end a table; exit code 1 if there was one. With --seconds it stops early
and says how many seeds it told.
"""

import argparse
import logging
import sys
import time
from collections import Counter
from datetime import date

from stream_trainer.testing.simulation import StoryBroken, simulate


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--first", type=int, default=1_000)
    parser.add_argument("--seeds", type=int, default=20_000)
    parser.add_argument("--seconds", type=float, default=float("inf"))
    options = parser.parse_args()
    logging.disable(logging.CRITICAL)
    happened: Counter[str] = Counter()
    told = Counter[str]()
    began_s, cpu_began_s = time.monotonic(), time.process_time()
    for seed in range(options.first, options.first + options.seeds):
        if time.monotonic() - began_s > options.seconds:
            break
        told["stories"] += 1
        try:
            story = simulate(seed)
        except StoryBroken as broken:
            told["broken"] += 1
            print(broken, flush=True)
            continue
        happened.update(story.faults)
        told.update(lives=story.lives, batches=story.steps, records=story.records)
        if told["stories"] % 1_000 == 0:
            print(f"{told['stories']} stories, {told['broken']} broken", file=sys.stderr, flush=True)
    print(f"# {told['stories']:,} stories, {date.today()}\n")
    print(
        f"Seeds {options.first} to {options.first + told['stories'] - 1}: {told['broken']} broken promises. "
        f"{told['lives']:,} lives; {told['batches']:,} batches and {told['records']:,} records in the surviving "
        f"histories. {time.process_time() - cpu_began_s:.0f} s of CPU.\n"
    )
    print("| what happened | times |\n|---|---|")
    for name, times in sorted(happened.items()):
        print(f"| {name} | {times:,} |")
    return 1 if told["broken"] else 0


if __name__ == "__main__":
    sys.exit(main())
