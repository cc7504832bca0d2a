"""Does a service that never stops keep its memory? Millions of records through one process, every feature on.

A child makes records and writes them into the standard input of a real `stream-trainer run`: a small network (and a
River model with --river), drift signals of all kinds, a race of challengers at every planted drift, a checkpoint every
few seconds, a journal and dead letters that rotate, `/metrics` scraped every 2 s. The resident memory and the open
files of the service are read at every scrape; after the warm-up the slope of a straight line through them says what a
record costs for ever. Exit code 1 if it is more than 1 MB for a million records, or if files stay open.

    OMP_NUM_THREADS=1 python tests/benchmarks/soak.py --records 20000000 --out tests/benchmarks/soak_2cores
"""

import argparse
import contextlib
import csv
import http.client
import json
import os
import pickle
import random
import re
import signal
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Iterator
from datetime import date
from pathlib import Path
from typing import Any

import numpy as np
import yaml

BLOCK_RECORDS = 4_096
BLOCKS = 48  # of each of the two truths, made once: the generator must not be what is measured
BAD_EVERY = 97
SCRAPE_EVERY_S = 2.0
TREE = "tree"
COLUMNS = ("seconds", "records", "rss_mib", "open_files", "threads", "checkpoints", "reactions", "state_mib",
           "tree_kib", "tree_nodes")  # fmt: skip


# ---------------------------------------------------------------- the stream


def generate(n_records: int, drift_every: int, seed: int) -> None:
    """Writes to standard output; from drift to drift the opposite is true."""
    rng = random.Random(seed)
    blocks = [[_block(rng, turned=turned) for _ in range(BLOCKS)] for turned in (False, True)]
    out = sys.stdout.buffer
    for first in range(0, n_records, BLOCK_RECORDS):
        block = rng.choice(blocks[first // drift_every % 2])
        n_missing = first + BLOCK_RECORDS - n_records
        out.write(block if n_missing <= 0 else b"".join(block.splitlines(keepends=True)[:-n_missing]))
    out.flush()


def _block(rng: random.Random, *, turned: bool) -> bytes:
    lines = []
    for i in range(BLOCK_RECORDS):
        amount, hour, country = rng.gauss(0, 1), rng.random() * 24, rng.choice("abcdefgh")
        truth = (amount + 0.3 * (country in "abc") > 0.1) ^ turned ^ (rng.random() < 0.1)
        record = {"amount": round(amount, 4), "hour": round(hour, 2), "country": country, "y": truth}
        lines.append(json.dumps(record).encode() if i % BAD_EVERY else b'{"amount": "a lot", "y": %d}' % i)
    return b"\n".join(lines) + b"\n"


# ---------------------------------------------------------------- the service


def configuration(folder: Path, options: argparse.Namespace) -> dict[str, Any]:
    models: dict[str, Any] = {"mlp": {"torch": {"net": "mlp", "hidden": [16]}}}
    if options.river:
        pipeline = ["river.preprocessing.StandardScaler", "river.linear_model.LogisticRegression"]
        models["logistic"] = {"river": {"pipeline": pipeline, "categories": "one_hot"}}  # of constant size
        tree = {"estimator": "river.tree.HoeffdingAdaptiveTreeClassifier", "parameters": options.tree_parameters}
        models[TREE] = {"river": tree}  # grows by design: how far is said beside
    return {
        "name": "soak",
        "source": {"file": {"path": "-"}},
        "schema": {
            "features": {"amount": "number", "hour": "number", "country": {"category": 16}},
            "target": {"y": "binary"},
        },
        "batch": {"records_max": options.batch_records, "age_s_max": 0.2},
        "models": models,
        "drift": {
            "predictions": True,
            "labels": True,
            "norms": "strain",
            "confidence": "weighted_adwin",
            "reaction": "race",
        },
        "events": {"file": str(folder / "events.jsonl")},
        "checkpoint": {"directory": str(folder / "state"), "every_s": 5, "keep": 3, "journal_bytes_max": 200_000},
        "dead_letters": {"file": str(folder / "dead.jsonl"), "bytes_max": 4_000_000, "files_max": 4},
        "telemetry": {"port": 0},
    }


class Soak:
    """The processes, and what is seen of the service from outside."""

    def __init__(self, folder: Path, options: argparse.Namespace) -> None:
        path, self.log, self.folder = folder / "run.yaml", folder / "service.log", folder
        path.write_text(yaml.safe_dump(configuration(folder, options)))
        numbers = [str(options.records), str(options.drift_every), str(options.seed)]
        self.generator = subprocess.Popen([sys.executable, __file__, "--generate", *numbers], stdout=subprocess.PIPE)
        with self.log.open("wb") as log:
            self.service = subprocess.Popen(
                [sys.executable, "-m", "stream_trainer", "run", str(path), "--json", "--log-level", "info"],
                stdin=self.generator.stdout,
                stdout=subprocess.PIPE,
                stderr=log,
                env={**os.environ, "OMP_NUM_THREADS": "1"},
            )
        assert self.generator.stdout is not None
        self.generator.stdout.close()  # the service alone holds the reading end
        self.started_s = time.monotonic()
        self.hours_max = options.hours_max

    def samples(self) -> Iterator[dict[str, float]]:
        """One every two seconds, as long as the service answers."""
        while (port := re.search(r"metrics on http://127.0.0.1:(\d+)/", self.log.read_text())) is None:
            assert self.service.poll() is None, self.log.read_text()
            time.sleep(0.2)
        while self.service.poll() is None:
            try:
                with urllib.request.urlopen(f"http://127.0.0.1:{port[1]}/metrics", timeout=30) as response:
                    yield self._sample(response.read().decode())
            except (OSError, http.client.HTTPException):
                assert self._ends(), self.log.read_text()
            if time.monotonic() - self.started_s > self.hours_max * 3600:
                self.generator.terminate()  # the service reads what is in the pipe, and ends
            time.sleep(SCRAPE_EVERY_S)

    def summary(self) -> dict[str, Any]:
        out, _ = self.service.communicate(timeout=60)
        assert self.service.returncode == 0, self.log.read_text()
        assert self.generator.wait(60) in (0, -signal.SIGTERM)
        return json.loads(out.decode().splitlines()[-1])

    def _ends(self) -> bool:
        """Whether the silence is that of a service which leaves."""
        try:
            return self.service.wait(60) == 0
        except subprocess.TimeoutExpired:
            return False

    def _sample(self, metrics: str) -> dict[str, float]:
        process = Path(f"/proc/{self.service.pid}")
        status = dict(line.split(":", 1) for line in (process / "status").read_text().splitlines())
        return {
            "seconds": round(time.monotonic() - self.started_s, 1),
            "records": _sum(metrics, "stream_trainer_run_records_learned"),
            "rss_mib": int(status["VmRSS"].split()[0]) / 1024,
            "open_files": len(list((process / "fd").iterdir())),
            "threads": int(status["Threads"]),
            "checkpoints": _sum(metrics, "stream_trainer_checkpoints_total"),
            "reactions": _sum(metrics, "stream_trainer_reactions_total"),
            "state_mib": round(_bytes_under(self.folder) / 2**20, 3),
            **self._tree(),
        }

    def _tree(self) -> dict[str, float]:
        """Of the newest checkpoint: the pickle, and the nodes of the tree in it; nothing if there is none."""
        for folder in sorted((self.folder / "state").glob("checkpoint-*"), reverse=True):
            with contextlib.suppress(OSError, StopIteration):  # dropped meanwhile, or without a tree
                files = json.loads((folder / "manifest.json").read_text())["body"]["pickles"]
                file = next(file for part, _, file in files if part == f"models/{TREE}")
                pickled = (folder / file).read_bytes()
                return {"tree_kib": len(pickled) / 1024, "tree_nodes": pickle.loads(pickled).n_nodes or 0}
        return {"tree_kib": 0.0, "tree_nodes": 0}


def _sum(metrics: str, name: str) -> float:
    return sum(map(float, re.findall(rf"^{name}(?:\{{[^}}]*\}})? (\S+)$", metrics, re.MULTILINE)))


def _bytes_under(folder: Path) -> int:
    total = 0
    for place, _, names in os.walk(folder):  # which passes over a checkpoint that is dropped meanwhile
        for name in names:
            with contextlib.suppress(FileNotFoundError):
                total += os.stat(os.path.join(place, name)).st_size
    return total


# ---------------------------------------------------------------- the answer


def slope(samples: list[dict[str, float]], column: str, *, after_records: float) -> tuple[float, float]:
    """Of a straight line by least squares: growth per million records, and its standard error if samples were
    independent."""
    kept = [sample for sample in samples if sample["records"] >= after_records]
    x = np.array([sample["records"] for sample in kept]) / 1e6
    y = np.array([sample[column] for sample in kept])
    b, a = np.polyfit(x, y, 1)
    residual = y - (a + b * x)
    error = np.sqrt(residual @ residual / (len(x) - 2) / ((x - x.mean()) @ (x - x.mean())))
    return float(b), float(error)


def draw(samples: list[dict[str, float]], path: Path, warm_up: float, b: float) -> None:
    import matplotlib

    matplotlib.use("svg")
    import matplotlib.pyplot as plt

    figure, axes = plt.subplots(2, 1, figsize=(8, 5), sharex=True, height_ratios=(3, 1), layout="constrained")
    x = [sample["records"] / 1e6 for sample in samples]
    axes[0].plot(x, [sample["rss_mib"] for sample in samples], lw=0.8)
    axes[0].axvline(warm_up / 1e6, color="grey", lw=0.8, ls=":")
    axes[0].set(ylabel="resident memory, MiB", ylim=(0, None), title=f"{b:+.3f} MiB per million records after warm-up")
    axes[0].plot(x, [sample["tree_kib"] / 1024 for sample in samples], lw=0.8)  # 0 where there is no tree
    axes[1].plot(x, [sample["open_files"] for sample in samples], lw=0.8)
    axes[1].set(ylabel="open files", ylim=(0, None), xlabel="records learned, millions")
    figure.savefig(path, metadata={"Date": None})


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--generate", nargs=3, type=int, metavar=("RECORDS", "DRIFT_EVERY", "SEED"))
    parser.add_argument("--records", type=int, default=20_000_000)
    parser.add_argument("--hours-max", type=float, default=24.0, help="after them the stream ends where it is")
    parser.add_argument("--drift-every", type=int, default=500_000)
    parser.add_argument("--batch-records", type=int, default=512)
    parser.add_argument("--warm-up", type=float, default=0.15, help="share of the records before the line begins")
    parser.add_argument("--river", action="store_true", help="a linear model and a tree beside the network")
    parser.add_argument("--tree-parameters", type=json.loads, default={}, help="of the tree, as JSON")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--out", type=Path, default=Path("soak"), help="prefix of the .csv, .svg and .md written")
    options = parser.parse_args()
    if options.generate:
        generate(*options.generate)
        return 0
    samples: list[dict[str, float]] = []
    options.out.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory() as folder, options.out.with_suffix(".csv").open("w", newline="") as curve:
        soak = Soak(Path(folder), options)
        try:
            rows = csv.DictWriter(curve, COLUMNS)
            rows.writeheader()
            for sample in soak.samples():
                samples.append(sample)
                rows.writerow(sample)
                curve.flush()
            summary = soak.summary()
        finally:
            soak.service.kill()
            soak.generator.kill()
    warm_up = options.warm_up * samples[-1]["records"]
    memory, memory_error = slope(samples, "rss_mib", after_records=warm_up)
    handles, _ = slope(samples, "open_files", after_records=warm_up)
    draw(samples, options.out.with_suffix(".svg"), warm_up, memory)
    after = [sample for sample in samples if sample["records"] >= warm_up]
    passed = memory < 1.0 and abs(handles) < 0.05
    result = {
        "date": str(date.today()),
        "options": {**vars(options), "out": str(options.out), "generate": None},
        "config": configuration(Path("FOLDER"), options),
        "passed": passed,
        "rss_mib_per_million_records": round(memory, 4),
        "standard_error": round(memory_error, 4),
        "rss_mib": {"first": samples[0]["rss_mib"], **_span(after, "rss_mib")},
        "open_files_per_million_records": round(handles, 4),
        "open_files": _span(after, "open_files"),
        "threads": _span(after, "threads"),
        "state_mib": _span(after, "state_mib"),
        "tree_kib": _span(after, "tree_kib"),
        "tree_nodes": _span(after, "tree_nodes"),
        "samples": len(samples),
        "checkpoints": samples[-1]["checkpoints"],
        "reactions": samples[-1]["reactions"],
        "summary": summary,
    }
    text = json.dumps(result, indent=2)
    options.out.with_suffix(".md").write_text(f"# Soak, {date.today()}\n\n```json\n{text}\n```\n")
    print(text)
    return 0 if passed else 1


def _span(samples: list[dict[str, float]], column: str) -> dict[str, float]:
    values = [sample[column] for sample in samples]
    return {"min": min(values), "max": max(values), "last": values[-1]}


if __name__ == "__main__":
    sys.exit(main())
