"""What a record holds: its features and its target, as declared by the user.

Legend: a *number* is one float32; a *category* is any string or integer, hashed into `buckets`; an *array* is a fixed
block of numbers (an image, a window). Optional features may be absent: a number is then told to the models by a flag
beside it, a category by a bucket of its own. Not here: how bytes become values (decoding/), what a model does with
them (models/).
"""

import math
from dataclasses import dataclass
from enum import Enum

from stream_trainer.errors import ConfigError

__all__ = [
    "ArrayBytes",
    "ArrayFeature",
    "CategoryFeature",
    "InputWidths",
    "NumberFeature",
    "Schema",
    "Target",
    "TargetKind",
]


@dataclass(frozen=True, slots=True, kw_only=True)
class NumberFeature:
    """One finite number that fits float32."""

    name: str
    optional: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class CategoryFeature:
    """A string or an integer; its bucket is a keyed hash modulo `buckets`: the same in every run, on every machine."""

    name: str
    buckets: int
    optional: bool = False

    def __post_init__(self) -> None:
        if not 1 <= self.buckets <= 2**24:
            raise ConfigError(
                f"schema.features.{self.name}: category has {self.buckets} buckets; expected 1 to {2**24}. "
                "Take about twice the number of values you expect."
            )

    @property
    def width(self) -> int:
        """Number of different indices: the buckets, and one more for "absent" if it may be."""
        return self.buckets + self.optional


class ArrayBytes(Enum):
    """Numbers of an array as bytes, the last index running fastest: 0 to 255, or float32 with the low byte first."""

    UINT8 = "uint8"
    FLOAT32 = "float32"

    @property
    def size(self) -> int:
        """Bytes that one number takes."""
        return 1 if self is ArrayBytes.UINT8 else 4


@dataclass(frozen=True, slots=True, kw_only=True)
class ArrayFeature:
    """A block of finite numbers of fixed shape, for example (28, 28)."""

    name: str
    shape: tuple[int, ...]
    bytes: ArrayBytes | None = None  # JSON holds them as base64, 8 to 20 times faster to read; None: nested lists

    def __post_init__(self) -> None:
        if not self.shape or min(self.shape) < 1:
            raise ConfigError(
                f"schema.features.{self.name}: array shape {list(self.shape)}; expected sizes of 1 or more."
            )

    @property
    def n_bytes(self) -> int | None:
        """Length of the bytes that hold it; None: it comes as nested lists."""
        return math.prod(self.shape) * self.bytes.size if self.bytes else None


class TargetKind(Enum):
    CLASSES = "classes"
    NUMBER = "number"


@dataclass(frozen=True, slots=True, kw_only=True)
class Target:
    """What is predicted. `binary` is the two classes ("0", "1"): true/false and 1/0 in the record."""

    name: str
    kind: TargetKind
    classes: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if self.kind is TargetKind.CLASSES and (len(self.classes) < 2 or len(set(self.classes)) < len(self.classes)):
            raise ConfigError(
                f"schema.target.{self.name}: classes are {list(self.classes)}; expected two or more different ones."
            )

    @classmethod
    def binary(cls, name: str) -> "Target":
        return cls(name=name, kind=TargetKind.CLASSES, classes=("0", "1"))

    @property
    def outputs(self) -> int:
        """Width of a network's last layer: one per class (two for binary), one for a number."""
        return len(self.classes) if self.kind is TargetKind.CLASSES else 1


@dataclass(frozen=True, slots=True, kw_only=True)
class InputWidths:
    """What a network is built from: the widths of what `forward` will be given, in this order.

    numbers: columns of the float32 matrix, missing flags of optional numbers included; 0: no such argument.
    categories: for each column of the int64 matrix the number of different indices; empty: no such argument.
    arrays: shape of each array feature, one argument each, by declaration order.
    """

    numbers: int
    categories: tuple[int, ...] = ()
    arrays: tuple[tuple[int, ...], ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Schema:
    """The declared features by kind, each kind in declaration order, and the target."""

    numbers: tuple[NumberFeature, ...] = ()
    categories: tuple[CategoryFeature, ...] = ()
    arrays: tuple[ArrayFeature, ...] = ()
    target: Target

    def __post_init__(self) -> None:
        names = self.feature_names
        if not names:
            raise ConfigError("schema.features is empty; declare at least one feature.")
        twice = sorted({name for name in names if names.count(name) > 1})
        if twice:
            raise ConfigError(f"schema.features: {', '.join(twice)} declared more than once; a feature has one kind.")
        if self.target.name in names:
            raise ConfigError(
                f"schema.target: {self.target.name!r} is also a feature: the models would be shown the answer. "
                "Remove it from schema.features."
            )

    @property
    def feature_names(self) -> tuple[str, ...]:
        """Numbers, then categories, then arrays: the order of the columns wherever features are listed."""
        numbers = tuple(feature.name for feature in self.numbers)
        categories = tuple(feature.name for feature in self.categories)
        return numbers + categories + tuple(feature.name for feature in self.arrays)

    @property
    def optional_numbers(self) -> tuple[int, ...]:
        """Columns of the number matrix that may be absent."""
        return tuple(i for i, feature in enumerate(self.numbers) if feature.optional)

    @property
    def widths(self) -> InputWidths:
        return InputWidths(
            numbers=len(self.numbers) + len(self.optional_numbers),
            categories=tuple(feature.width for feature in self.categories),
            arrays=tuple(feature.shape for feature in self.arrays),
        )
