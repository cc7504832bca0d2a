"""How long does learning stand still for a save, and what does the thread that writes cost the steps beside it?

One process, one torch thread, an MLP of ten million parameters with stream_adamw (40 MB of weights, 80 MB of moments),
batches of 16. Blocks of steps without and with saves take turns, so that whatever else the machine does falls on both.
A pause is all that the loop does for a save: capture, handing over, and what the optimizer then waits until its weights
are copied. Beside it: step times while a save is under way and while none is. Each time is taken twice: by the clock,
and as CPU time of the loop's own thread, which says what the work costs where other programs share the cores.
Run: python tests/benchmarks/save_stall.py [--out FILE]
"""

import argparse
import json
import os
import platform
import tempfile
import threading
import time
from pathlib import Path

import numpy as np
import torch
from number_batches import batch_of

from stream_trainer.checkpoints import BackgroundWriter, CheckpointDirectory
from stream_trainer.engine.snapshot import capture
from stream_trainer.models import TorchOptions, build_model, torch_model
from stream_trainer.models.late_copy import LateCopy
from stream_trainer.schema import NumberFeature, Schema, Target
from stream_trainer.service.memory import keep_freed_memory
from stream_trainer.types import Batch, Counts

FEATURES, BATCH_RECORDS = 32, 16
HIDDEN = (3_150, 3_150)  # 10.0 million parameters
BLOCK_STEPS, BLOCKS = 10, 80
SEED = 3


def batches(n: int) -> list[Batch]:
    rng = np.random.default_rng(SEED)
    made = []
    for _ in range(n):
        x_NF = rng.normal(size=(BATCH_RECORDS, FEATURES)).astype(np.float32)
        made.append(batch_of(x_NF, x_NF[:, 0] > 0))
    return made


def now_ms() -> np.ndarray:
    """By the clock, and CPU time of this thread."""
    return 1e3 * np.array([time.perf_counter(), time.thread_time()])


class TimedLateCopy(LateCopy):
    """Remembers how long its finishing held up the thread that learns."""

    learner, waited_ms = threading.get_ident(), np.zeros(2)

    def finish(self) -> None:
        begun = now_ms()
        super().finish()
        if threading.get_ident() == self.learner:
            TimedLateCopy.waited_ms += now_ms() - begun


def measure(*, keep_freed: bool) -> dict[str, list]:
    torch.set_num_threads(1)
    torch_model.LateCopy = TimedLateCopy
    if keep_freed:
        assert keep_freed_memory()
    schema = Schema(numbers=tuple(NumberFeature(name=f"x{i}") for i in range(FEATURES)), target=Target.binary("y"))
    model = build_model(schema, "torch", TorchOptions(net="mlp", hidden=HIDDEN, seed=SEED))
    n_parameters = sum(p.numel() for p in model.network.parameters())
    pool = batches(20)
    times_ms: dict[str, list] = {name: [] for name in ("off", "on", "beside", "wait", "pause", "save", "parameters")}
    times_ms["parameters"].append(n_parameters)
    with tempfile.TemporaryDirectory() as folder:
        directory = CheckpointDirectory(Path(folder) / "c", identity={}, versions={}, keep=2)
        directory.open()
        writer = BackgroundWriter(lambda snapshot: directory.save(snapshot, saved_at_s=time.time()), time.monotonic)
        step = 0
        for i in range(BLOCKS + 1):
            saving = i % 2 == 0
            for j in range(BLOCK_STEPS):
                paused = np.zeros(2)
                if saving and not writer.busy and j < BLOCK_STEPS // 2:  # the save ends within its block
                    begun = now_ms()
                    writer.start(capture({"models/mlp": model}, {}, Counts(batches=step)))
                    paused = now_ms() - begun
                batch = pool[step % len(pool)]
                TimedLateCopy.waited_ms[:] = 0
                begun = now_ms()
                model.predict(batch)
                model.learn(batch)
                stepped = now_ms() - begun
                if i:  # the first block warms up
                    times_ms["on" if saving else "off"].append(stepped + paused)
                    if writer.busy:
                        times_ms["beside"].append(stepped)
                    if paused.any():
                        times_ms["wait"].append(TimedLateCopy.waited_ms.copy())
                        times_ms["pause"].append(paused + TimedLateCopy.waited_ms)
                step += 1
                if saved := writer.collect():
                    assert saved.error is None, saved.error
                    if i:
                        times_ms["save"].append(np.array([1e3 * saved.seconds, np.nan]))
            if saved := writer.collect(wait=True):
                assert saved.error is None, saved.error
                times_ms["save"].append(np.array([1e3 * saved.seconds, np.nan]))
        directory.close()
    return times_ms


def report(times_ms: dict[str, list]) -> str:
    rows = [
        ("step, saves off", "off"),
        ("step, saves on, pauses included", "on"),
        ("step beside a save under way", "beside"),
        ("pause: capture, handing over, waiting for the copy", "pause"),
        ("of it waiting", "wait"),
        ("a whole save, in its thread", "save"),
    ]
    lines = ["| milliseconds | n | p50 | p99 | CPU p50 | CPU p99 |", "|---|---|---|---|---|---|"]
    for title, name in rows:
        p50, p99 = np.percentile(times_ms[name], [50, 99], axis=0)
        lines.append(f"| {title} | {len(times_ms[name])} | {p50[0]:.1f} | {p99[0]:.1f} | {p50[1]:.1f} | {p99[1]:.1f} |")
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--out", type=Path)
    parser.add_argument("--default-malloc", action="store_true", help="as it was before service/memory.py")
    arguments = parser.parse_args()
    load = os.getloadavg()[0]
    times_ms = measure(keep_freed=not arguments.default_malloc)
    about = {
        "parameters": times_ms.pop("parameters")[0],
        "hidden": HIDDEN,
        "batch_records": BATCH_RECORDS,
        "blocks": BLOCKS,
        "block_steps": BLOCK_STEPS,
        "seed": SEED,
        "default_malloc": arguments.default_malloc,
        "load_before": round(load, 1),
        "load_after": round(os.getloadavg()[0], 1),
        "cores": os.cpu_count(),
        "torch": torch.__version__,
        "machine": platform.machine(),
    }
    text = f"{report(times_ms)}\n\n```json\n{json.dumps(about)}\n```\n"
    print(text)
    if arguments.out:
        arguments.out.write_text(text)


if __name__ == "__main__":
    main()
