"""The mode of a network: every module has it, and one that decides for itself goes on doing so."""

import copy

from torch import nn

from stream_trainer.models.modes import Modes


class Frozen(nn.Sequential):
    """Its first module never trains, as when a pretrained part is kept as it is."""

    def train(self, mode=True):
        super().train(mode)
        self[0].eval()
        return self


def modes_of(network):
    return [module.training for module in network.modules()]


def test_all_modules_change_and_change_back():
    network = nn.Sequential(nn.Linear(2, 2), nn.Sequential(nn.Dropout(), nn.BatchNorm1d(2)))
    modes = Modes(network)
    modes.train(False)
    predicting = modes_of(network)
    modes.train(True)

    assert [False] * 5 == predicting
    assert [True] * 5 == modes_of(network)


def test_a_train_of_its_own_is_called():
    """Of a class deep inside, or of one object."""
    deep = nn.Sequential(Frozen(nn.Dropout(), nn.Linear(2, 2)))
    single, called = nn.Sequential(nn.Linear(2, 2)), []
    single[0].train = lambda mode: called.append(mode)
    for network in (deep, single):
        modes = Modes(network)
        modes.train(False)
        modes.train(True)

    assert [True, True, False, True] == modes_of(deep)
    assert [False, True] == called


def test_a_copy_changes_its_own_network():
    network = nn.Sequential(nn.Dropout())
    twin, modes = copy.deepcopy((network, Modes(network)))
    modes.train(False)

    assert [[True, True], [False, False]] == [modes_of(network), modes_of(twin)]
