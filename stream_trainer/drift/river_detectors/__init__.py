"""River's detectors behind our contract, fed one record at a time: a file for each family.

They are the second opinion and the oracle of our tests; the hot path is `weighted_adwin`. Their memory is kept as plain
arrays, never as a pickle: a checkpoint needs no trust, only the same River version.
"""

from stream_trainer.drift.river_detectors.ddm import RiverDdm, RiverDdmOptions
from stream_trainer.drift.river_detectors.hddm import (
    RiverHddmA,
    RiverHddmAOptions,
    RiverHddmW,
    RiverHddmWOptions,
)
from stream_trainer.drift.river_detectors.page_hinkley import RiverPageHinkley, RiverPageHinkleyOptions
from stream_trainer.drift.river_detectors.windows import RiverAdwin, RiverAdwinOptions, RiverKswin, RiverKswinOptions

__all__ = [
    "RiverAdwin",
    "RiverAdwinOptions",
    "RiverDdm",
    "RiverDdmOptions",
    "RiverHddmA",
    "RiverHddmAOptions",
    "RiverHddmW",
    "RiverHddmWOptions",
    "RiverKswin",
    "RiverKswinOptions",
    "RiverPageHinkley",
    "RiverPageHinkleyOptions",
]
