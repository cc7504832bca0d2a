"""JSON lines for configs/images.yaml and configs/sequences.yaml, from the files that the data sets come in.

    python configs/make_records.py images fashion-train-images-idx3-ubyte.gz fashion-train-labels-idx1-ubyte.gz
    python configs/make_records.py sequences JapaneseVowels_TRAIN.ts.gz JapaneseVowels_TEST.ts.gz

To standard output, in an order shuffled with a seed: the files are sorted by class. Sequences are shorter than a window
of 29 steps or as long; zeros stand before the shorter ones, so that the last step, after which a recurrent network
answers, is always a real one.
"""

import argparse
import gzip
import json
import random
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np

STEPS = 29
Record = dict[str, object]


def images(images_path: Path, labels_path: Path) -> Iterator[Record]:
    """Fashion-MNIST or MNIST, original format: 28 rows of 28 gray values 0 to 255, and the number of the class."""
    with gzip.open(images_path) as file:
        pixels = np.frombuffer(file.read(), np.uint8, offset=16).reshape(-1, 28, 28)
    with gzip.open(labels_path) as file:
        labels = np.frombuffer(file.read(), np.uint8, offset=8)
    for image, label in zip(pixels, labels.tolist(), strict=True):
        yield {"image": image.tolist(), "label": label}


def sequences(*paths: Path) -> Iterator[Record]:
    """Files of the UEA archive (.ts): a line a record, its 12 channels and its class divided by colons."""
    for path in paths:
        with gzip.open(path, "rt") as file:
            for line in file:
                if line[0] in "#@" or not line.strip():
                    continue
                *channels, speaker = line.strip().split(":")
                steps = [list(step) for step in zip(*(map(float, channel.split(",")) for channel in channels))]
                padding = [[0.0] * len(channels)] * (STEPS - len(steps))
                yield {"frames": padding + steps, "speaker": speaker}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("kind", choices=("images", "sequences"))
    parser.add_argument("files", type=Path, nargs="+")
    parser.add_argument("--records", type=int, help="only so many of them")
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    records = list({"images": images, "sequences": sequences}[options.kind](*options.files))
    random.Random(options.seed).shuffle(records)
    for record in records[: options.records]:
        json.dump(record, sys.stdout, separators=(",", ":"))
        sys.stdout.write("\n")


if __name__ == "__main__":
    main()
