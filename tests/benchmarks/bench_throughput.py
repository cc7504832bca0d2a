"""How many records a second does the whole service learn? From a broker, through decoding, scores and drift, to models.

Runs `stream-trainer demo` as a user does (embedded broker and producer in processes of their own, on the same machine)
with its three models, then with one network alone; batches of at most 256. Each in turn, several times; the median.

    python tests/benchmarks/bench_throughput.py --runs 5 --records 60000
"""

import argparse
import json
import os
import platform
import statistics
import subprocess
import sys
from datetime import date

CASES = {
    "three models (adaptive_batch_renorm and layer networks, adaptive tree)": [],
    "one network, adaptive_batch_renorm": ["--only", "mlp_adaptive"],
    "one network, layer": ["--only", "mlp_layer"],
}
GOALS = {
    "three models (adaptive_batch_renorm and layer networks, adaptive tree)": 5_000,
    "one network, adaptive_batch_renorm": 20_000,
}


def records_per_s(arguments: list[str], records: int) -> float:
    """Of one run, from the first batch polled to the last batch learned, as the summary says."""
    command = [sys.executable, "-m", "stream_trainer", "demo", "--json", "--port", "0", "--records", str(records)]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        [*command, *arguments], env=environment, capture_output=True, text=True, check=True, timeout=1200
    )
    summary = json.loads(done.stdout.splitlines()[-1])
    assert summary["records_learned"] == records
    assert summary["records_lost"] == 0
    return summary["records_per_s"]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--runs", type=int, default=5)
    parser.add_argument("--records", type=int, default=60_000)
    options = parser.parse_args()
    found: dict[str, list[float]] = {case: [] for case in CASES}
    for _ in range(options.runs):
        for case, arguments in CASES.items():
            found[case].append(records_per_s(arguments, options.records))
    print(f"# Throughput of the whole service, {date.today()}\n")
    print(
        f"`stream-trainer demo --records {options.records}`, batches of at most 256, {options.runs} runs in turn; "
        f"{platform.machine()}, {os.cpu_count()} shared cores that also carry broker and producer, one torch thread, "
        f"CPython {platform.python_version()}. Records per second from the first batch to the last.\n"
    )
    print("| models | median | min | max | goal |\n|---|---|---|---|---|")
    for case, rates in found.items():
        goal = f"{GOALS[case]:,}" if case in GOALS else ""
        print(f"| {case} | {statistics.median(rates):,.0f} | {min(rates):,.0f} | {max(rates):,.0f} | {goal} |")


if __name__ == "__main__":
    main()
