"""Streams for the benchmarks of norms and optimizers: real tables and images, three orders, nine ways to cut them.

Legend: N records, F features. Every stream is standardised by its whole table (images by the published numbers), the
same for every rival, so that no comparison leans on it; what is left to the norm is what happens inside the network.

Not here: what learns from them (`online_run.py`).
"""

import gzip
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

__all__ = ["CUTS", "DATASETS", "ORDERS", "Stream", "batches", "fashion_images", "stream"]

DATA = Path(__file__).parents[3] / "shared" / "data"
HELD_OUT = 1_000  # records of each seed that are never learned
DRIFT_EVERY, PERMUTED_EVERY = 500, 4_000  # records between two changes of the inputs
RUN_OF_ONE_CLASS = 40  # records
ORDERS = ("iid", "drift", "block")
CUTS = ("1", "2", "4", "8", "16", "32", "64", "variable", "bursty")


@dataclass(frozen=True, kw_only=True)
class Stream:
    """x (N, F) or (N, 1, H, W) float32 and labels y (N,) in learning order, and records held out from the end of it."""

    x: Tensor
    y: Tensor
    held_out_x: Tensor
    held_out_y: Tensor
    classes: int


def fashion() -> tuple[np.ndarray, np.ndarray]:
    """60,000 images of 14 x 14 (means of 2 x 2 pixels)."""
    pixels, labels = _fashion_bytes("train")
    return (pixels.reshape(-1, 14, 2, 14, 2).mean(axis=(2, 4)) / 255 - 0.2860) / 0.3530, labels


def fashion_images(part: str) -> tuple[np.ndarray, np.ndarray]:
    """The whole images, 28 x 28, float32, and labels; part: train (60,000) or t10k (10,000)."""
    pixels, labels = _fashion_bytes(part)
    return (pixels / np.float32(255) - np.float32(0.2860)) / np.float32(0.3530), labels


def _fashion_bytes(part: str) -> tuple[np.ndarray, np.ndarray]:
    with gzip.open(DATA / f"fashion-{part}-images-idx3-ubyte.gz") as file:
        pixels = np.frombuffer(file.read(), np.uint8, offset=16).reshape(-1, 28, 28)
    with gzip.open(DATA / f"fashion-{part}-labels-idx1-ubyte.gz") as file:
        labels = np.frombuffer(file.read(), np.uint8, offset=8)
    return pixels, labels.astype(np.int64)


def digits() -> tuple[np.ndarray, np.ndarray]:
    """1,797 images of 8 x 8, from scikit-learn; longer streams go round again."""
    from sklearn.datasets import load_digits

    pixels, labels = load_digits(return_X_y=True)
    return (pixels.reshape(-1, 8, 8) - pixels.mean()) / pixels.std(), labels.astype(np.int64)


def elec2() -> tuple[np.ndarray, np.ndarray]:
    with gzip.open(DATA / "elec2.csv.gz", "rt") as file:
        rows = [line.strip().split(",") for line in file][1:]
    return _standardised(np.array([row[1:-1] for row in rows], float)), np.array([row[-1] == "UP" for row in rows], int)


def covtype() -> tuple[np.ndarray, np.ndarray]:
    """The first 100,000 rows, as the reference figures use them."""
    with gzip.open(DATA / "covtype.csv.gz") as file:
        table = np.loadtxt(file, delimiter=",", skiprows=1, max_rows=100_000)
    return _standardised(table[:, :-1]), table[:, -1].astype(np.int64) - 1


def noaa() -> tuple[np.ndarray, np.ndarray]:
    with gzip.open(DATA / "noaa_weather.csv.gz") as file:
        table = np.loadtxt(file, delimiter=",", skiprows=1)
    return _standardised(table[:, :-1]), table[:, -1].astype(np.int64)


DATASETS: dict[str, Callable[[], tuple[np.ndarray, np.ndarray]]] = {
    "fashion": fashion,
    "fashion28": lambda: fashion_images("train"),
    "digits": digits,
    "elec2": elec2,
    "covtype": covtype,
    "noaa": noaa,
}
_LOADED: dict[str, tuple[np.ndarray, np.ndarray]] = {}


def stream(name: str, order: str, records: int, seed: int, *, images: bool = False) -> Stream:
    """`records` records of a data set in an order of ORDERS, "permuted" or "own" (as the file has them), and others.

    The others are held out. drift: every 500 records each feature gets a new gain exp(N(0, .5)) and offset N(0, .5);
    the held-out ones have the last. permuted: every 4,000 records the features change places, likewise. block: runs of
    40 records of one class. With `images` x keeps its height and width.
    """
    if name not in _LOADED:
        _LOADED[name] = DATASETS[name]()
    x, y = _LOADED[name]
    random = np.random.default_rng(seed)
    if order == "own":
        start = int(random.integers(0, max(1, len(x) - records)))
        chosen = np.arange(start, start + records) % len(x)
        others = np.setdiff1d(np.arange(len(x)), chosen, assume_unique=True)
        held_out = random.permutation(others)[:HELD_OUT]
    else:
        shuffled = random.permutation(len(x))
        held_out, rest = np.split(shuffled, [min(HELD_OUT, len(x) // 5)])
        chosen = np.concatenate([random.permutation(rest) for _ in range(-(-records // len(rest)))])[:records]
    if order == "block":
        chosen = chosen[_runs_of_one_class(y[chosen], random)]
    flat = x.reshape(len(x), -1).astype(np.float32)
    learned, kept = flat[chosen], flat[held_out]
    if order == "drift":
        for start in range(0, records, DRIFT_EVERY):
            gain = np.exp(random.normal(0, 0.5, flat.shape[1])).astype(np.float32)
            offset = random.normal(0, 0.5, flat.shape[1]).astype(np.float32)
            learned[start : start + DRIFT_EVERY] = learned[start : start + DRIFT_EVERY] * gain + offset
        kept = kept * gain + offset
    if order == "permuted":
        for start in range(0, records, PERMUTED_EVERY):
            places = random.permutation(flat.shape[1])
            learned[start : start + PERMUTED_EVERY] = learned[start : start + PERMUTED_EVERY][:, places]
        kept = kept[:, places]
    if images:
        learned, kept = (part.reshape(-1, 1, *x.shape[1:]) for part in (learned, kept))
    parts = (torch.from_numpy(part) for part in (learned, y[chosen], kept, y[held_out]))
    return Stream(**dict(zip(("x", "y", "held_out_x", "held_out_y"), parts, strict=True)), classes=int(y.max()) + 1)


def batches(cut: str, records: int, seed: int) -> Iterator[slice]:
    """Slices that cut the stream: a number, "variable" (1 to 64, uniform) or "bursty" (600 records in batches of 1 to
    3, then 600 in batches of 64 to 299, in turn)."""
    random = np.random.default_rng(seed + 1_000_000)
    start = 0
    while start < records:
        if cut == "variable":
            size = int(random.integers(1, 65))
        elif cut == "bursty":
            size = int(random.integers(1, 4) if start // 600 % 2 == 0 else random.integers(64, 300))
        else:
            size = int(cut)
        yield slice(start, min(records, start + size))
        start += size


def _standardised(table: np.ndarray) -> np.ndarray:
    return (table - table.mean(axis=0)) / np.maximum(table.std(axis=0), 1e-6)


def _runs_of_one_class(y: np.ndarray, random: np.random.Generator) -> np.ndarray:
    """An order of y in which its classes come in runs, each class as often as before."""
    runs = []
    for label in np.unique(y):
        of_label = np.flatnonzero(y == label)
        runs += [of_label[start : start + RUN_OF_ONE_CLASS] for start in range(0, len(of_label), RUN_OF_ONE_CLASS)]
    return np.concatenate([runs[i] for i in random.permutation(len(runs))])
