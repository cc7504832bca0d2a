"""Networks by name: `mlp` for tables, `lenet` and `resnet_small` for images, `gru` and `lstm` for sequences.

Each is built from the widths of its inputs and the number of its outputs. `forward(*inputs)` receives only the inputs
that the schema has, in the order of `InputWidths`: numbers (N, F) float32, categories (N, C) int64, then each array
(N, *shape) float32; it returns (N, outputs). So with numbers alone, any `nn.Sequential` will do.
Every network here learns from a batch of one, whatever its norm (but for plain `batch`, which is there to be compared
with). Weights start as torch draws them for the layer, uniform within 1/sqrt(inputs of a unit), unless the file says
otherwise.
"""

from stream_trainer.models.networks.lenet import LeNet
from stream_trainer.models.networks.mlp import MLP
from stream_trainer.models.networks.recurrent import GRU, LSTM
from stream_trainer.models.networks.registry import NETWORKS, build_network, refuse_batch_norm
from stream_trainer.models.networks.resnet import ResNetSmall

__all__ = ["GRU", "LSTM", "MLP", "NETWORKS", "LeNet", "ResNetSmall", "build_network", "refuse_batch_norm"]
