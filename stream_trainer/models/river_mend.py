"""Hoeffding trees of River 0.26 that know how many leaves they have.

An adaptive tree keeps count of its leaves as it grows, and miscounts when a branch is replaced or a leaf may not grow
deeper: after some drifts the count is several times too large, or below zero. Once in `memory_estimate_period` records,
a million by default, it divides by that: then `max_size` bounds nothing, or `learn_one` raises ZeroDivisionError, and
again after every restart. Measured in tests/benchmarks/soak_river_*.md. Here the leaves are counted before that.
"""

from typing import Any

from river.tree.hoeffding_tree import HoeffdingTree

__all__ = ["mend_leaf_counts"]

_estimate = HoeffdingTree._estimate_model_size


def mend_leaf_counts() -> None:
    """For every Hoeffding tree of this process, those that are unpickled included. Twice is as good as once."""
    HoeffdingTree._estimate_model_size = _count_and_estimate  # type: ignore[method-assign]


def _count_and_estimate(tree: Any) -> None:
    active = [leaf.is_active() for leaf in tree._find_leaves()]
    tree._n_active_leaves, tree._n_inactive_leaves = sum(active), len(active) - sum(active)
    _estimate(tree)
