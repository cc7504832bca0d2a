"""The classic network for small images: two convolutions, then dense layers.

Legend: N = records, c = channels of the image, h, w = its height and width.
Source: LeCun, Bottou, Bengio, Haffner, "Gradient-based learning applied to document recognition", 1998: LeNet-5, here
with max pooling, every map connected to every one, and a norm after each layer.
"""

from collections.abc import Mapping, Sequence
from typing import Any

from torch import Tensor, nn

from stream_trainer.errors import ConfigError
from stream_trainer.models.networks.inputs import beside, columns_width, embedding_tables, only_array, read_columns
from stream_trainer.models.networks.layers import Normalised
from stream_trainer.schema import InputWidths

__all__ = ["LeNet", "image_shape"]

PIXELS_MIN = 12  # fewer, and nothing but a point is left after both convolutions: no positions to normalise over


class LeNet(nn.Module):
    """(Convolution 5x5 -> norm -> activation -> max pool 2x2) twice, then (dense -> norm -> activation) for each width
    of `hidden`, then the outputs. On (28, 28) the convolutions leave 16 maps of 5 x 5, as in the paper.

    Reads exactly one array feature, [h, w] or [c, h, w], both sides 12 or more. Numbers and categories, if the schema
    has any, join the maps at the first dense layer. Norms that need positions (`instance`, `frn`, `evonorm_s0`) follow
    the convolutions only.

    Args:
        widths, outputs: of the inputs, and how many numbers come out per record.
        channels: maps of the two convolutions; hidden: widths of the dense layers. Those of the paper.
        activation: relu, or the sigmoid of old, which shows what a norm is worth.
        norm, norm_options: a layer of `stream_trainer.norms` before each activation.
        dropout: after each dense layer; 0 by default, for each record is seen once.
        embedding_dim, sparse_embeddings: as of `MLP`.

    Raises: ConfigError: other inputs than these.

    >>> import torch
    >>> net = LeNet(InputWidths(numbers=0, arrays=((3, 32, 32),)), outputs=10, norm="group")
    >>> net(torch.zeros(1, 3, 32, 32)).shape
    torch.Size([1, 10])
    """

    def __init__(
        self,
        widths: InputWidths,
        outputs: int,
        *,
        channels: Sequence[int] = (6, 16),
        hidden: Sequence[int] = (120, 84),
        activation: str = "relu",
        norm: str = "adaptive_batch_renorm",
        norm_options: Mapping[str, Any] | None = None,
        dropout: float = 0.0,
        embedding_dim: int | None = None,
        sparse_embeddings: bool = False,
    ) -> None:
        super().__init__()
        if len(channels) != 2:
            raise ConfigError(f"net 'lenet': channels is {list(channels)}; expected two, one for each convolution.")
        in_channels, height, width = image_shape("lenet", widths, PIXELS_MIN)
        self._widths = widths
        self.embeddings = embedding_tables(widths, embedding_dim, sparse_embeddings)
        normalised = Normalised(norm=norm, options=norm_options, activation=activation)
        first, second = channels
        self.convolutions = nn.Sequential(
            *normalised.conv(in_channels, first, size=5, padding=2),
            nn.MaxPool2d(2),
            *normalised.conv(first, second, size=5),
            nn.MaxPool2d(2),
            nn.Flatten(),
        )
        maps = second * ((height // 2 - 4) // 2) * ((width // 2 - 4) // 2)
        width = maps + columns_width(widths, self.embeddings)
        self.body = normalised.head(width, hidden, outputs, dropout=dropout)

    def forward(self, *inputs: Tensor) -> Tensor:
        """Inputs as in the package's docstring; returns (N, outputs)."""
        columns, (image,) = read_columns(self._widths, self.embeddings, inputs)
        maps = self.convolutions(image if image.dim() == 4 else image.unsqueeze(1))
        return self.body(beside(maps, columns))


def image_shape(net: str, widths: InputWidths, pixels_min: int) -> tuple[int, int, int]:
    """Channels, height and width of the only array feature. Raises ConfigError: it is no image of this size."""
    shape = only_array(net, widths, ("[h, w]", "[c, h, w]"), (2, 3))
    if min(shape[-2:]) < pixels_min:
        raise ConfigError(
            f"net {net!r} needs images of {pixels_min} x {pixels_min} pixels or more, channels first; the schema has "
            f"an array of shape {list(shape)}. Send [c, h, w] in this order and large enough, or take net: mlp."
        )
    return (shape[0] if len(shape) == 3 else 1), shape[-2], shape[-1]
