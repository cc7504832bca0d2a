"""A process that is stopped while another takes over, for real: SIGSTOP, a higher epoch, SIGCONT."""

import os
import signal

import yaml

from stream_trainer.service.config import load_config
from stream_trainer.service.wiring import build_checkpoints


def test_a_process_that_slept_through_a_takeover_leaves_with_code_6(start, tmp_path, events):
    """It wakes with its lock in its hand and goes on learning; its next save finds the higher epoch. Nothing of what it
    learned after the takeover is ever loaded, and a pinned checkpoint is listed as such."""
    path = tmp_path / "run.yaml"
    state = tmp_path / "state"
    run = {
        "name": "frozen",
        "source": {"file": {"path": "-"}},
        "schema": {"features": {"amount": "number", "country": {"category": 16}}, "target": {"fraud": "binary"}},
        "batch": {"records_max": 10, "age_s_max": None},
        "models": {"mlp": {"torch": {"net": "mlp", "hidden": [8]}}},
        "checkpoint": {"directory": str(state), "every_s": 0.1},
        "dead_letters": {"file": str(tmp_path / "dead.jsonl")},
        "telemetry": {"port": 0},
    }
    path.write_text(yaml.safe_dump(run))
    first = start("run", path)
    first.feed(events[:500], then_close=False)
    first.metric_reaches("stream_trainer_checkpoint_last_step", 50)
    os.kill(first.popen.pid, signal.SIGSTOP)
    second = build_checkpoints(load_config(path), state)
    second.open(take_over=True)
    newest = second.load_newest()
    os.kill(first.popen.pid, signal.SIGCONT)
    first.feed(events[500:1_000], then_close=True)
    code, _ = first.end()

    assert 6 == code
    assert "was taken over by process" in first.log.read_text()
    assert (500, 500) == (newest.counts.consumed, second.load_newest().counts.consumed)
    second.close()

    assert 0 == start("checkpoints", "pin", state, 50).end()[0]
    listed = start("checkpoints", "list", state)
    out, _ = listed.popen.communicate(timeout=60)
    assert "pinned" in out.decode()
    assert 0 == start("checkpoints", "unpin", state, 50).end()[0]
    assert [False] == [info.pinned for info in second.infos(verify=True) if info.step == 50]
