"""A small residual network for images, in three stages of falling size and growing width.

Norm and activation come before each convolution, so that every norm is followed by an activation and the sum of the
branches is left alone. Shortcuts have no weights: where the size halves, every second pixel, with channels of zeros.
Convolutions start normal with variance 2 / (outputs of a pixel), as the sources do.
Sources: He, Zhang, Ren, Sun, "Deep Residual Learning", 2016, arXiv:1512.03385, section 4.2 (widths, shortcut A);
"Identity Mappings in Deep Residual Networks", 2016, arXiv:1603.05027 (the order).
"""

from collections.abc import Mapping, Sequence
from typing import Any

from torch import Tensor, nn
from torch.nn import functional as F

from stream_trainer.errors import ConfigError
from stream_trainer.models.networks.inputs import beside, columns_width, embedding_tables, read_columns
from stream_trainer.models.networks.layers import Normalised
from stream_trainer.models.networks.lenet import image_shape
from stream_trainer.schema import InputWidths

__all__ = ["ResNetSmall"]

PIXELS_MIN = 8  # two by two are left in the third stage: the fewest that every norm accepts


class ResNetSmall(nn.Module):
    """Convolution 3x3, then for each width of `channels` so many `blocks`, the first of each but the first stage with
    stride 2; then norm, activation, mean over the image, dropout, outputs. 6 blocks + 2 layers have weights.

    Reads exactly one array feature, [h, w] or [c, h, w], both sides 8 or more. Numbers and categories, if the schema
    has any, join the means before the outputs.

    Args:
        widths, outputs: of the inputs, and how many numbers come out per record.
        channels: of the stages. blocks: per stage; 1, eight layers, is what a CPU can keep up with.
        norm, norm_options: a layer of `stream_trainer.norms`.
        dropout: before the outputs; 0 by default, for each record is seen once.
        embedding_dim, sparse_embeddings: as of `MLP`.

    Raises: ConfigError: other inputs than these.

    >>> import torch
    >>> net = ResNetSmall(InputWidths(numbers=2, arrays=((28, 28),)), outputs=10, norm="group")
    >>> net(torch.zeros(1, 2), torch.zeros(1, 28, 28)).shape
    torch.Size([1, 10])
    """

    def __init__(
        self,
        widths: InputWidths,
        outputs: int,
        *,
        channels: Sequence[int] = (16, 32, 64),
        blocks: int = 1,
        norm: str = "adaptive_batch_renorm",
        norm_options: Mapping[str, Any] | None = None,
        dropout: float = 0.0,
        embedding_dim: int | None = None,
        sparse_embeddings: bool = False,
    ) -> None:
        super().__init__()
        if blocks < 1 or not channels:
            raise ConfigError(
                f"net 'resnet_small': blocks is {blocks}, channels {list(channels)}; expected 1 or more of each."
            )
        width, _, _ = image_shape("resnet_small", widths, PIXELS_MIN)
        self._widths = widths
        self.embeddings = embedding_tables(widths, embedding_dim, sparse_embeddings)
        normalised = Normalised(norm=norm, options=norm_options)
        layers: list[nn.Module] = [_conv3x3(normalised, width, channels[0])]
        width = channels[0]
        for stage, stage_width in enumerate(channels):
            for block in range(blocks):
                stride = 2 if stage and not block else 1
                layers.append(_Block(normalised, width, stage_width, stride))
                width = stage_width
        layers += [*normalised.follow(width), nn.AdaptiveAvgPool2d(1), nn.Flatten()]
        self.body = nn.Sequential(*layers)
        self.dropout = nn.Dropout(dropout)
        self.head = nn.Linear(width + columns_width(widths, self.embeddings), outputs)

    def forward(self, *inputs: Tensor) -> Tensor:
        """Inputs as in the package's docstring; returns (N, outputs)."""
        columns, (image,) = read_columns(self._widths, self.embeddings, inputs)
        means = self.body(image if image.dim() == 4 else image.unsqueeze(1))
        return self.head(beside(self.dropout(means), columns))


class _Block(nn.Module):
    """x + branch(x), branch = (norm -> activation -> convolution 3x3) twice."""

    def __init__(self, normalised: Normalised, width: int, out_width: int, stride: int) -> None:
        super().__init__()
        self.stride, self.widened = stride, out_width - width
        self.branch = nn.Sequential(
            *normalised.follow(width),
            _conv3x3(normalised, width, out_width, stride),
            *normalised.follow(out_width),
            _conv3x3(normalised, out_width, out_width),
        )

    def forward(self, x: Tensor) -> Tensor:
        shortcut = x[:, :, :: self.stride, :: self.stride]
        return self.branch(x) + F.pad(shortcut, (0, 0, 0, 0, 0, self.widened))


def _conv3x3(normalised: Normalised, width: int, out_width: int, stride: int = 1) -> nn.Module:
    """Without bias: the next norm has one, and where there is none the next layer has."""
    conv = nn.Conv2d(width, out_width, 3, stride=stride, padding=1, bias=False)
    nn.init.kaiming_normal_(conv.weight, mode="fan_out", nonlinearity="relu")
    return normalised.lower(conv)
