"""Training or predicting: the mode of a whole network, changed twice a batch."""

from torch import nn

__all__ = ["Modes"]


class Modes:
    """Modules are looked for once: `train` of torch walks through all of them, and sets each as if it were a parameter.

    Where a module has a `train` of its own (one that keeps a part frozen, for example) torch's walk it is.

    >>> network = nn.Sequential(nn.Linear(2, 2), nn.Dropout())
    >>> modes = Modes(network)
    >>> modes.train(False); network.training, network[1].training
    (False, False)
    """

    def __init__(self, network: nn.Module) -> None:
        self._network = network
        usual = all(type(m).train is nn.Module.train and "train" not in vars(m) for m in network.modules())
        self._modules = list(network.modules()) if usual else None

    def train(self, training: bool) -> None:
        if self._network.training is training:
            return
        if self._modules is None:
            self._network.train(training)
            return
        for module in self._modules:
            vars(module)["training"] = training
