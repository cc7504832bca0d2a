"""Hundreds of stories of misfortune, each told by its seed: nothing is lost, nothing is learned twice, no bit differs.

The long form is tests/benchmarks/many_stories.py.
"""

from collections import Counter

import pytest

from stream_trainer.models import RiverOptions, TorchOptions, build_model
from stream_trainer.testing.simulation import simulate

SEEDS = 210
OF_THE_PROCESS = {"kill", "torn_write", "power_cut", "stop", "gave_up", "fault_while_saving"}
OF_THE_DISK = {"disk_full", "short_write", "fsync_failed"}
OF_THE_SOURCE = {"silent_poll", "revoked", "assigned", "partition_found", "markers_only", "seek"}
MISFORTUNES = OF_THE_PROCESS | OF_THE_DISK | OF_THE_SOURCE


@pytest.fixture(scope="module")
def stories():
    """Raises StoryBroken with the first seed that ends badly."""
    return [simulate(seed) for seed in range(SEEDS)]


def test_every_story_ends_well(stories):
    """The message of a failure names the seed and tells the story: `simulate(seed)` repeats it."""
    assert list(range(SEEDS)) == [story.seed for story in stories]
    assert min(story.records for story in stories) > 20


@pytest.mark.parametrize("misfortune", sorted(MISFORTUNES))
def test_every_misfortune_happens(stories, misfortune):
    """A simulation that has become too kind proves nothing."""
    told = Counter()
    for story in stories:
        told.update(story.faults)

    assert told[misfortune] >= 10


def test_a_seed_tells_its_story_again(stories):
    """Or nobody could mend what it found."""
    again = [simulate(seed) for seed in range(5)]

    assert stories[:5] == again


def test_real_models_come_back_bit_for_bit():
    """A network and a tree beside the oracle: what a plugin author would check of a model."""

    def models(schema):
        torch_options = TorchOptions(net="mlp", hidden=(8,), dropout=0.1)
        river_options = RiverOptions(estimator="river.tree.HoeffdingTreeClassifier")
        return {"mlp": build_model(schema, "torch", torch_options), "tree": build_model(schema, "river", river_options)}

    for seed in range(500, 512):
        story = simulate(seed, models=models)
        assert {"models/mlp", "models/tree", "models/oracle", "scores", "drift"} == story.states_sha256.keys()
