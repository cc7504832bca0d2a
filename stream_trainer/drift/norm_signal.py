"""Have the activations inside a network left their usual place? One number a layer, watched against its own past.

The number is the layer's strain (types.NormDrift): how many times further than usual its recent moments are from the
remembered ones. Its logarithm is taken on a grid of 1,024 records, after the batch that reaches it was learned, and
told when it is beyond mean + max(`sigmas` spreads, ln `ratio_min`), both of that layer's past looks, which fade. What
is beyond enters the past as the threshold: a drift must not make the next one invisible, and a layer that never comes
back becomes usual. Told once, and again only after it came back half-way. Needs no labels, and sees what the network
sees: a change of inputs that it ignores does not show, and neither do labels that mean something else from now on.
Measured for false alarms and power: tests/benchmarks/drift_label_free_*.md.
Not here: the numbers themselves (norms/), and layers without moments: they have nothing to leave.
"""

import math
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass

from stream_trainer.drift.restoring import identity, refuse_stranger
from stream_trainer.drift.signals import Score
from stream_trainer.drift.usual import Usual
from stream_trainer.errors import ConfigError
from stream_trainer.types import Alarm, Detection, Direction, NormDrift, State

__all__ = ["NormSignal", "NormSignalOptions"]

LOOK_RECORDS = 1024  # grid of the looks: the slow memory of a layer


@dataclass(frozen=True, slots=True, kw_only=True)
class NormSignalOptions:
    """From where on a layer is said to have moved."""

    sigmas: float = 6.0  # of the logarithm, whose tails are a little heavier than a normal's
    ratio_min: float = 4.0  # of strain to its usual; at 2 it sees one in four of the means that move by one spread, too
    half_life_records: int = 16_384  # of mean and spread: looks weigh as 46, so the spread is known to a tenth
    warmup_records: int = 8_192  # a network in its first records changes more than any stream

    def __post_init__(self) -> None:
        for name in ("sigmas", "half_life_records"):
            if not 0 < getattr(self, name) < math.inf:
                raise ConfigError(f"drift norms: {name} is {getattr(self, name)}; expected a finite number above 0.")
        if not 1 <= self.ratio_min < math.inf:
            raise ConfigError(f"drift norms: ratio_min is {self.ratio_min}; expected a finite number of at least 1.")
        if self.warmup_records < 2 * LOOK_RECORDS:
            raise ConfigError(
                f"drift norms: warmup_records is {self.warmup_records}; expected at least {2 * LOOK_RECORDS}."
            )


class NormSignal:
    """The layers of one model's network.

    >>> signal = NormSignal("mlp", NormSignalOptions(warmup_records=2048))
    >>> calm = NormDrift(distance=0.1, usual=0.1, clipped=0.0, fast_share=0.0, shift=1.0, scale=1.0)
    >>> [signal.update(256, lambda: {"1": calm}) for _ in range(12)] == [[]] * 12
    True
    >>> [(a.signal, a.layer, a.record) for a in signal.update(1024, lambda: {"1": calm._replace(distance=1.0)})]
    [('norm', '1', 4096)]
    """

    def __init__(self, model: str, options: NormSignalOptions | None = None) -> None:
        self.model, self.options = model, options or NormSignalOptions()
        self._keep = 0.5 ** (LOOK_RECORDS / self.options.half_life_records)
        self._layers: dict[str, Usual] = {}
        self._record = 0

    def update(self, n: int, layers: Callable[[], Mapping[str, NormDrift]]) -> list[Alarm]:
        """`n` records were learned. `layers` is called when a look is due, and only then: asking costs something."""
        before, self._record = self._record, self._record + n
        if before // LOOK_RECORDS == self._record // LOOK_RECORDS:
            return []
        found = ((name, self._look(name, drift.strain, n)) for name, drift in layers().items())
        return [
            Alarm(signal="norm", model=self.model, feature=None, layer=name, record=self._record, detection=detection)
            for name, detection in found
            if detection is not None
        ]

    def _look(self, name: str, strain: float, n: int) -> Detection | None:
        if not 0.0 < strain < math.inf:  # a model gone wild; its step was not taken
            return None
        options, layer = self.options, self._layers.setdefault(name, Usual())
        usual = layer.mean
        if self._record <= options.warmup_records or layer.looks * LOOK_RECORDS < options.warmup_records:
            layer.learn(math.log(strain), self._keep)
            return None
        margin_min = math.log(options.ratio_min)
        if not layer.judge(math.log(strain), self._keep, sigmas=options.sigmas, margin_min=margin_min):
            return None
        return Detection(
            index=n - 1,
            direction=Direction.UP,
            before=math.exp(usual),
            after=strain,
            statistic=strain,
            threshold=math.exp(layer.threshold),
            window_records=LOOK_RECORDS,
        )

    def scores(self) -> dict[str, Score]:
        """{"": strain and threshold of the layer that is nearest to being told}; {} before the first look."""
        if not self._layers:
            return {}
        nearest = max(self._layers.values(), key=lambda layer: layer.value - layer.threshold)
        return {"": Score(math.exp(nearest.value), math.exp(nearest.threshold))}

    def capture(self) -> State:
        layers = {name: asdict(layer) for name, layer in self._layers.items()}
        for layer in layers.values():
            layer["threshold"] = None if layer["threshold"] == math.inf else layer["threshold"]  # JSON has no infinity
        return State(values={**identity("norm", self.options), "record": self._record, "layers": layers})

    def restore(self, state: State) -> None:
        refuse_stranger(state, identity("norm", self.options))
        self._record = state.values["record"]
        self._layers = {
            name: Usual(**{**layer, "threshold": math.inf if layer["threshold"] is None else layer["threshold"]})
            for name, layer in state.values["layers"].items()
        }
