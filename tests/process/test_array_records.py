"""Images and sequences through the whole service, by the configurations and the script we ship, in both JSON forms.

The service runs in this process: a new one would spend more time on imports than on the records.
"""

import base64
import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from stream_trainer.models import state_sha256
from stream_trainer.service.config import load_config
from stream_trainer.service.loop import Service
from stream_trainer.service.wiring import assemble

REPOSITORY = Path(__file__).parents[2]
DATA = REPOSITORY.parent / "shared" / "data"
FILES = {
    "images": ("fashion-t10k-images-idx3-ubyte.gz", "fashion-t10k-labels-idx1-ubyte.gz"),
    "sequences": ("JapaneseVowels_TRAIN.ts.gz", "JapaneseVowels_TEST.ts.gz"),
}
FORMS = {"images": ("image", (28, 28), "uint8", "label"), "sequences": ("frames", (29, 12), "float32", "speaker")}


@pytest.fixture
def run(tmp_path, monkeypatch):
    """run(name, lines, *overrides) -> the service after it has learned the lines."""

    def run(name: str, lines: bytes, *overrides: str) -> Service:
        monkeypatch.chdir(tmp_path)  # dead letters go where the process is
        path = tmp_path / "records.jsonl"
        path.write_bytes(lines)
        monkeypatch.setenv(name.upper(), str(path))
        config = REPOSITORY / "configs" / f"{name}.yaml"
        with assemble(
            load_config(config, ["telemetry=null", "checkpoint=null", *overrides]), until_end=True
        ) as service:
            service.run()
        assert (lines.count(b"\n"), 0) == (service.counts.learned, service.counts.dead_lettered)
        return service

    return run


@pytest.mark.parametrize("name", sorted(FILES))
def test_a_data_set_of_arrays_is_learned_better_than_by_guessing(run, name):
    """320 real records, one pass, each predicted before it is learned: every network beats the majority."""
    files = [DATA / file for file in FILES[name]]
    missing = [str(file) for file in files if not file.exists()]
    if missing:
        pytest.skip(f"no data set: put in ../shared/data the files {', '.join(missing)}")
    command = [sys.executable, REPOSITORY / "configs" / "make_records.py", name, *files, "--records", "320"]
    lines = subprocess.run(command, check=True, stdout=subprocess.PIPE).stdout
    prequential = run(name, lines).trainer.prequential

    majority = prequential.baselines()["majority"].cumulative["accuracy"]
    for model, scores in prequential.scores().items():
        assert majority + 0.05 < scores.cumulative["accuracy"], model


@pytest.mark.parametrize("name", sorted(FORMS))
def test_arrays_as_lists_and_as_base64_make_the_same_models(run, name):
    """To the last bit, and on any machine: the records are made up."""
    field, shape, bytes, target = FORMS[name]
    rng = np.random.default_rng(5)
    arrays_N = rng.integers(0, 256, size=(32, *shape)).astype(np.dtype(bytes).newbyteorder("<"))
    written = {
        "lists": (array.tolist() for array in arrays_N),
        "base64": (base64.b64encode(array.tobytes()).decode() for array in arrays_N),
    }
    override = {"lists": [], "base64": [f"schema.features.{field}.array={{shape: {list(shape)}, bytes: {bytes}}}"]}
    states = {}
    for form, values in written.items():
        lines = [json.dumps({field: value, target: i % 3 + 1}) + "\n" for i, value in enumerate(values)]
        models = run(name, "".join(lines).encode(), *override[form]).trainer.models
        states[form] = {model: state_sha256(models[model].capture()) for model in models}

    assert len(states["lists"]) == 3
    assert states["lists"] == states["base64"]
