"""The watch for lost plasticity: when it looks, what it sees, and that nobody notices."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from models_stream import NUMBERS, cut, records
from torch import nn

from stream_trainer.models import TorchModel, TorchOptions, state_sha256
from stream_trainer.models.plasticity import PlasticityWatch

SMALL = TorchOptions(hidden=(8, 4))


def learned(batch, sizes, options=SMALL):
    model = TorchModel(NUMBERS, options)
    for piece in cut(batch, sizes):
        model.learn(piece)
    return model


def watched(net, *batches):
    """A watch that heard these batches, one step after each that changes nothing."""
    watch, seen = PlasticityWatch(net), 0
    for x in batches:
        with watch.listening(seen):
            net(x)
        with watch.around_step(seen, len(x)):
            pass
        seen += len(x)
    return watch


@pytest.mark.parametrize("sizes", [[1], [7, 250], [2_000]])
def test_every_layer_has_its_numbers_after_a_thousand_records(sizes):
    """Weights by the module that has them, units by their activation, however the records were cut."""
    layers = learned(records(NUMBERS, 1_100), sizes).plasticity()

    assert {"body.0", "body.2", "body.3", "body.5", "body.6"} == set(layers)
    for name in ("body.0", "body.3", "body.6"):
        assert layers[name].weight_ratio > 0
        assert 0 < layers[name].update_ratio < 1
        assert layers[name].stable_rank >= 1 - 1e-5
        assert layers[name].dead is None
    for name, units in (("body.2", 8), ("body.5", 4)):
        assert 0 <= layers[name].dead <= layers[name].dormant <= 1
        assert 1 <= layers[name].effective_rank <= units
        assert layers[name].weight_ratio is None


def test_before_a_thousand_records_nothing_is_said():
    """Of few records a unit that answers seldom looks dead."""
    assert {} == learned(records(NUMBERS, 1_000), [100]).plasticity()


def test_it_looks_every_fifty_thousand_records_and_not_in_between():
    """One clock: neither more nor fewer looks where batches are small."""
    model, looks = TorchModel(NUMBERS, SMALL), []
    for number, piece in enumerate(cut(records(NUMBERS, 110_000), [5_000])):
        model.learn(piece)
        if not looks or model.plasticity() is not looks[-1][1]:
            looks.append(((number + 1) * 5_000, model.plasticity()))

    assert [5_000, 55_000, 105_000] == [at for at, _ in looks]


def test_dead_units_are_found():
    """Two of four units with a bias that no input overcomes."""
    net = nn.Sequential(nn.Linear(3, 4), nn.ReLU(), nn.Linear(4, 2))
    with torch.no_grad():
        net[0].bias[:2] = -1e6

    assert 0.5 == watched(net, torch.randn(600, 3), torch.randn(600, 3)).layers["1"].dead


def test_positions_of_an_image_are_records_of_its_channels():
    """A channel lives if it answers anywhere."""
    net = nn.Sequential(nn.Conv2d(1, 2, 3), nn.ReLU())
    with torch.no_grad():
        net[0].bias[0], net[0].bias[1] = -1e6, 1e6

    assert 0.5 == watched(net, torch.randn(1_024, 1, 5, 5)).layers["1"].dead


def test_an_activation_that_is_used_twice_is_heard_once():
    """Its widths may differ from use to use, and they are no layer together."""

    class Twice(nn.Module):
        def __init__(self):
            super().__init__()
            self.first, self.second, self.act = nn.Linear(3, 4), nn.Linear(4, 2), nn.ReLU()

        def forward(self, x):
            return self.act(self.second(self.act(self.first(x))))

    assert 4 >= watched(Twice(), torch.randn(2_000, 3)).layers["act"].effective_rank > 2


def test_predicting_is_not_heard_and_no_hook_stays():
    """Who asks what the model would say must not change what is told of its learning."""
    model = learned(records(NUMBERS, 500), [500])
    quiet = learned(records(NUMBERS, 500), [500])
    for _ in range(20):
        model.predict(records(NUMBERS, 500, seed=9))
    for each in (model, quiet):
        each.learn(records(NUMBERS, 600, seed=1))

    assert quiet.plasticity() == model.plasticity() != {}
    assert not any(module._forward_hooks for module in model.network.modules())


def test_a_batch_that_was_not_learned_was_not_heard():
    """An infinite input makes every unit look alive, or none."""
    model = learned(records(NUMBERS, 500), [500])
    bad = records(NUMBERS, 500)
    with np.errstate(invalid="ignore"):
        assert "non_finite" == model.learn(replace(bad, x_NF=bad.x_NF * float("inf"))).skipped
    model.learn(records(NUMBERS, 1_000, seed=1))
    assert {} == model.plasticity()
    model.learn(records(NUMBERS, 100, seed=2))

    assert all(layer.dead is None or 0 <= layer.dead < 1 for layer in model.plasticity().values())
    assert {} != model.plasticity()


def test_after_a_restart_the_weights_are_compared_with_those_of_the_first_start():
    """The lengths travel with the state; measured after one pool, not at the next look."""
    before = learned(records(NUMBERS, 3_000), [100], replace(SMALL, seed=1))
    after = TorchModel(NUMBERS, replace(SMALL, seed=2))
    after.restore(before.capture())
    for model in (before, after):
        for piece in cut(records(NUMBERS, 10_000, seed=3), [100]):
            model.learn(piece)

    assert state_sha256(before.capture()) == state_sha256(after.capture())
    for name in ("body.0", "body.3", "body.6"):
        assert before._plasticity.initial_lengths[name] == after._plasticity.initial_lengths[name]
        assert 0.5 < after.plasticity()[name].weight_ratio < 3


def test_a_state_from_before_there_were_lengths_loads():
    """Its seed makes the weights that it began with again."""
    state = learned(records(NUMBERS, 500), [100]).capture()
    old = replace(state, values={key: value for key, value in state.values.items() if key != "initial_lengths"})
    model = TorchModel(NUMBERS, replace(SMALL, seed=7))
    model.restore(old)

    assert state.values["initial_lengths"] == model.capture().values["initial_lengths"]


def test_embeddings_are_left_out():
    """Their rows learn one by one: of the thousand records of a look most rows saw none."""
    net = nn.Sequential(nn.Embedding(5, 3), nn.Linear(3, 2))

    assert ["1"] == list(PlasticityWatch(net).initial_lengths)
