"""What a record looks like, as the configuration says it: the features by kind, and the target."""

from typing import Annotated, Any, Self

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, model_validator

from stream_trainer.errors import ConfigError
from stream_trainer.schema import ArrayBytes, ArrayFeature, CategoryFeature, NumberFeature, Schema, Target, TargetKind

__all__ = ["STRICT", "SchemaConfig", "Strict"]

STRICT = ConfigDict(extra="forbid", frozen=True)


class Strict(BaseModel):
    """Part of the configuration: a key that is not known is an error."""

    model_config = STRICT


class NumberConfig(Strict):
    optional: bool = False


class CategoryConfig(Strict):
    buckets: int
    optional: bool = False


class ArrayConfig(Strict):
    shape: tuple[int, ...]
    bytes: ArrayBytes | None = None


def _array_of_shape(value: Any) -> Any:
    return {"shape": value} if isinstance(value, list | tuple) else value


ArrayOrShape = Annotated[ArrayConfig, BeforeValidator(_array_of_shape, json_schema_input_type=ArrayConfig | list[int])]


class FeatureConfig(Strict):
    """`number`, `{number: {optional: true}}`, `{category: 32}`, `{category: {buckets: 32}}`, `{array: [28, 28]}` or
    `{array: {shape: [28, 28], bytes: uint8}}`."""

    number: NumberConfig | None = None
    category: CategoryConfig | None = None
    array: ArrayOrShape | None = None

    @model_validator(mode="before")
    @classmethod
    def _short_forms(cls, value: Any) -> Any:
        if value == "number":
            return {"number": {}}
        if isinstance(value, dict) and isinstance(value.get("category"), int):
            return {**value, "category": {"buckets": value["category"]}}
        return value

    @model_validator(mode="after")
    def _one_kind(self) -> Self:
        kinds = [kind for kind in ("number", "category", "array") if getattr(self, kind) is not None]
        if len(kinds) != 1:
            raise ValueError("expected exactly one of number, category, array")
        return self


class SchemaConfig(Strict):
    features: dict[str, FeatureConfig]
    target: dict[str, Any]
    record_bytes_max: int = Field(default=1_048_576, ge=1)  # 1 MiB: as much as a Kafka broker accepts by default

    def build(self) -> Schema:
        features = self.features.items()
        return Schema(
            numbers=tuple(NumberFeature(name=n, optional=f.number.optional) for n, f in features if f.number),
            categories=tuple(
                CategoryFeature(name=n, buckets=f.category.buckets, optional=f.category.optional)
                for n, f in features
                if f.category
            ),
            arrays=tuple(
                ArrayFeature(name=n, shape=f.array.shape, bytes=f.array.bytes) for n, f in features if f.array
            ),
            target=self._target(),
        )

    def _target(self) -> Target:
        forms = "binary, number or {classes: [a, b, ...]}"
        if len(self.target) != 1:
            raise ConfigError(f"schema.target: expected one field, as {{field: {forms}}}; found {len(self.target)}.")
        ((name, kind),) = self.target.items()
        if kind == "binary":
            return Target.binary(name)
        if kind == "number":
            return Target(name=name, kind=TargetKind.NUMBER)
        if isinstance(kind, dict) and list(kind) == ["classes"] and isinstance(kind["classes"], list):
            return Target(name=name, kind=TargetKind.CLASSES, classes=tuple(map(str, kind["classes"])))
        raise ConfigError(f"schema.target.{name}: expected {forms}; found {kind!r}.")
