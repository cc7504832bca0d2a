"""Trains PyTorch and River models on Kafka streams for ever.

The floors, from the ground up; imports go down only, and tests/unit/test_floors.py says so:

    0  errors clock schema types contracts       the words; and `compiled`: which parts are C, which numpy
    1  norms optimizers drift evaluation decoding     compute: arrays in, arrays out
    2  models                                         learn: networks and trees behind one contract
    3  engine | streams checkpoints telemetry         decide, without I/O | touch the world, without knowing the engine
    4  service demo cli                               connect; the only endless loop is service/loop.py

Read types/, contracts.py and service/loop.py and you have the system; ARCHITECTURE.md is the tour.
"""

__version__ = "0.1.0"
