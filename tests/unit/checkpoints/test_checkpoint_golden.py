"""A directory written by an earlier version loads for ever: never rewrite these files, add new ones beside them."""

from pathlib import Path

import numpy as np
import pytest
import torch
from test_batch_journal import story
from test_checkpoint_directory import IDENTITY, snapshot

from stream_trainer.checkpoints import CheckpointDirectory

GOLDEN = Path(__file__).parents[2] / "golden" / "checkpoints"


@pytest.mark.parametrize("name", ["format_1_before_epochs", "format_1_disk", "format_1_object_store"])
def test_what_was_saved_long_ago_still_loads(name):
    """Made by snapshot(41), pinned where pins existed; every file of the format is in one of them."""
    place = GOLDEN / name
    address = f"file://{place}" if name == "format_1_object_store" else place
    directory = CheckpointDirectory(address, identity=IDENTITY, versions={}, trusted=True)
    loaded, saved = directory.load_newest(), snapshot(41)

    assert (saved.positions, saved.counts) == (loaded.positions, loaded.counts)
    ours, theirs = saved.parts["models/mlp"], loaded.parts["models/mlp"]
    assert ours.pickles == theirs.pickles
    assert np.array_equal(ours.arrays["weight"], theirs.arrays["weight"])
    assert torch.equal(ours.arrays["moment"], theirs.arrays["moment"])
    assert repr(ours.values) == repr(theirs.values), "by repr: a nan is not equal to itself"
    assert repr(saved.parts["scores"].values) == repr(loaded.parts["scores"].values)
    if name != "format_1_before_epochs":
        (info,) = directory.infos(verify=True)
        assert (3, True, None) == (info.epoch, info.pinned, info.problem)
        assert {"t-1": "000102030405060708090a0b0c0d0e0f"} == loaded.topic_ids
        assert story(41)[1] == list(directory.journal.cuts()[1])
        assert 3 == directory._fence._read(3)["epoch"]
