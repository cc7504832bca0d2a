"""Images and sequences from their data sets through the whole service, by the configurations and the script we ship."""

import subprocess
import sys
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).parents[2]
DATA = REPOSITORY.parent / "shared" / "data"
CASES = {
    "images": ("fashion-t10k-images-idx3-ubyte.gz", "fashion-t10k-labels-idx1-ubyte.gz"),
    "sequences": ("JapaneseVowels_TRAIN.ts.gz", "JapaneseVowels_TEST.ts.gz"),
}


@pytest.mark.parametrize("name", sorted(CASES))
def test_a_data_set_of_arrays_is_learned_better_than_by_guessing(start, name, tmp_path, monkeypatch):
    """320 real records, one pass, each predicted before it is learned: every network beats the majority."""
    files = [DATA / file for file in CASES[name]]
    missing = [str(file) for file in files if not file.exists()]
    if missing:
        pytest.skip(f"no data set: put in ../shared/data the files {', '.join(missing)}")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv(name.upper(), "records.jsonl")
    command = [sys.executable, REPOSITORY / "configs" / "make_records.py", name, *files, "--records", "320"]
    with Path("records.jsonl").open("wb") as records:
        subprocess.run(command, check=True, stdout=records)
    path = REPOSITORY / "configs" / f"{name}.yaml"
    process = start("run", path, "--until-end", "--json", "--set", "telemetry.port=0")
    code, summary = process.end()

    assert code == 0, process.log.read_text()
    assert (320, 0) == (summary["records_learned"], summary["records_dead_lettered"])
    for model in summary["models"].values():
        assert model["baselines"]["majority"]["accuracy"] + 0.05 < model["scores"]["accuracy"]
