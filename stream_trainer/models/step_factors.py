"""What a reaction to drift asks of the next steps: a larger rate, a harder pull.

Scaled settings live only while a step is made: the optimizer's groups, and every saved state, hold the base ones.
"""

import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from stream_trainer.errors import ConfigError

__all__ = ["StepFactors", "checked_factor"]


@dataclass(slots=True)
class StepFactors:
    """Factors on the base learning rate and on the strength of the pull; 1 changes nothing, to the last bit."""

    rate: float = 1.0
    pull: float = 1.0

    @contextmanager
    def applied(self, groups: Sequence[dict[str, Any]]) -> Iterator[None]:
        """Within, the groups of an optimizer hold scaled settings; afterwards, whatever happens, their own."""
        base: list[dict[str, Any]] = [
            {key: group[key] for key in ("lr", "pull_horizon_records") if key in group} for group in groups
        ]
        for group in groups:
            group["lr"] *= self.rate
            if group.get("pull_horizon_records") is not None:
                group["pull_horizon_records"] /= self.pull
        try:
            yield
        finally:
            for group, settings in zip(groups, base):
                group.update(settings)


def checked_factor(method: str, factor: float) -> float:
    """The factor. Raises: ConfigError, in the name of `method`: it is not above 0 and finite."""
    if not 0 < factor < math.inf:
        raise ConfigError(f"{method} was given {factor}; expected a finite factor above 0, 1 for the configured value.")
    return factor
