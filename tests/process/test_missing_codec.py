"""A codec whose library is missing is found at the start, not in the night when a producer first uses it."""

import os

import pytest
import yaml


@pytest.fixture
def hidden(tmp_path, monkeypatch):
    """python-snappy cannot be imported by processes started from here on."""
    folder = tmp_path / "hidden"
    folder.mkdir()
    (folder / "snappy.py").write_text("raise ImportError('hidden')\n")
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(folder), os.environ.get("PYTHONPATH", "")]))


def test_a_missing_codec_exits_2_and_says_what_to_install(start, hidden, tmp_path):
    """Before any broker is asked; `doctor` says it, too."""
    path = tmp_path / "run.yaml"
    run = {
        "name": "codec",
        "source": {"kafka": {"bootstrap_servers": "127.0.0.1:1", "topic": "orders", "connect_s_max": 0.1}},
        "schema": {"features": {"id": "number"}, "target": {"y": "binary"}},
        "models": {"tree": {"river": {"estimator": "river.tree.HoeffdingTreeClassifier"}}},
        "dead_letters": {"file": str(tmp_path / "dead.jsonl")},
        "telemetry": None,
    }
    path.write_text(yaml.safe_dump(run))
    process = start("run", path, new_interpreter=True)
    assert process.end()[0] == 2
    assert "Compressed records could not be read: pip install python-snappy." in process.log.read_text()

    doctor = start("doctor", path, new_interpreter=True)
    out, _ = doctor.popen.communicate(timeout=120)
    assert doctor.popen.returncode != 0
    assert "pip install python-snappy" in " ".join(out.decode().split())
