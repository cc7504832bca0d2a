"""One hash for the whole state of a model: equal states give equal hashes, in any process and after any restart.

A pickle will not do: its bytes tell whether two equal strings are one object, and list sets in the order of a hash that
each process seeds anew. So arrays are hashed by name, type, shape and bytes, values as sorted JSON, and the objects of
River by a walk over what they are made of: numbers and strings by value, mutable objects once, in order of first visit.
"""

import copyreg
import functools
import hashlib
import json
import pickle
import random
import struct
import types
from collections.abc import Mapping
from typing import Any

import numpy as np
import torch

from stream_trainer.errors import ModelError
from stream_trainer.types import State

__all__ = ["object_sha256", "state_sha256"]

_GENERATORS = (random.Random, np.random.RandomState, np.random.Generator)


def state_sha256(state: State) -> str:
    """Hash of a captured state, 64 hex digits.

    Pickles in it are loaded, to hash what they mean: pass only states that this process captured or already trusts.

    >>> one = State(arrays={"b": np.ones(2), "a": np.zeros(1)}, values={"n": 1})
    >>> other = State(arrays={"a": torch.zeros(1, dtype=torch.float64), "b": np.ones(2)}, values={"n": 1})
    >>> state_sha256(one) == state_sha256(other)
    True
    """
    digest = hashlib.sha256(json.dumps(state.values, sort_keys=True, separators=(",", ":")).encode())
    for name in sorted(state.arrays):
        digest.update(f"\narray {name} ".encode() + _array_bytes(state.arrays[name]))
    for name in sorted(state.pickles):
        digest.update(f"\nobject {name} {object_sha256(pickle.loads(state.pickles[name]))}".encode())
    return digest.hexdigest()


def object_sha256(thing: Any) -> str:
    """Hash of a graph of Python objects by content; the way to an object that pickles must exist.

    Raises: ModelError: something in the graph cannot be taken apart, because it cannot be pickled either.

    >>> shared = [1.0, "a"]
    >>> object_sha256({"x": shared, "y": shared}) == object_sha256({"x": [1.0, "a"], "y": [1.0, "a"]})
    False
    """
    digest = hashlib.sha256()
    number_of: dict[int, int] = {}  # identity -> order of first visit
    alive: list[Any] = []  # or a new object would take the identity of one that is gone
    todo = [thing]  # a stack of our own: a deep tree would exhaust Python's
    while todo:
        item = todo.pop()
        known = _by_value(item)
        if known is not None:
            digest.update(known)
            continue
        if not isinstance(item, tuple):  # equal tuples are as good as one, and pickling may merge or split them
            if id(item) in number_of:
                digest.update(b"seen %d;" % number_of[id(item)])
                continue
            number_of[id(item)] = len(number_of)
            alive.append(item)
        tag, children = _take_apart(item)
        digest.update(b"%s %d(" % (tag, len(children)))
        todo.extend(reversed(children))
    return digest.hexdigest()


def _by_value(item: Any) -> bytes | None:
    """The bytes of something that has a value and no identity; None for everything else."""
    kind = type(item)
    if item is None or kind is bool or kind is int or item is Ellipsis:
        return f"{item!r};".encode()
    if kind is float:
        return b"f" + struct.pack("<d", item)
    if kind is complex:
        return b"c" + struct.pack("<dd", item.real, item.imag)
    if kind is str or kind is bytes:
        content = item.encode("utf-8", "surrogatepass") if kind is str else item
        return b"%s %d:%s" % (kind.__name__.encode(), len(content), content)
    if isinstance(item, (np.ndarray, np.generic, torch.Tensor)) and not _holds_objects(item):
        return _array_bytes(item)
    if isinstance(item, (type, types.FunctionType, types.BuiltinFunctionType)):
        owner = getattr(item, "__self__", None)
        if owner is None or isinstance(owner, types.ModuleType):
            return f"name {item.__module__}.{item.__qualname__};".encode()
    if kind is set or kind is frozenset:
        return f"set {sorted(map(object_sha256, item))};".encode()
    return None


def _take_apart(item: Any) -> tuple[bytes, list[Any]]:
    """What an object is, and its parts in an order that its content alone decides."""
    kind = type(item)
    if kind is list or kind is tuple:
        return kind.__name__.encode(), list(item)
    if kind is dict:
        return b"dict", [part for pair in item.items() for part in pair]
    if isinstance(item, types.MethodType | types.BuiltinMethodType):
        return b"method", [item.__self__, item.__name__]
    if isinstance(item, np.ndarray):
        return b"objects", [item.shape, item.ravel().tolist()]
    if kind is functools.partial:
        return b"partial", [item.func, item.args, item.keywords]
    if isinstance(item, Mapping) and kind is types.MappingProxyType:
        return b"proxy", [dict(item)]
    return b"object", _reduced(item)


def _reduced(item: Any) -> list[Any]:
    """The recipe by which pickle would rebuild the object, iterators made into lists."""
    kind = type(item)
    try:
        reducer = copyreg.dispatch_table.get(kind)
        recipe = reducer(item) if reducer is not None else item.__reduce_ex__(4)
    except (TypeError, pickle.PicklingError) as error:
        raise ModelError(
            f"The model's state holds a {kind.__module__}.{kind.__qualname__}, which can be neither saved nor hashed: "
            f"{error}. Take it out of the model, or give it __reduce__."
        ) from error
    if isinstance(recipe, str):  # a global name
        return [kind, recipe]
    parts = [*recipe, None, None, None, None][:5]
    if parts[3] is not None:
        parts[3] = list(parts[3])
    if parts[4] is not None:
        parts[4] = [part for pair in parts[4] for part in pair]
    if isinstance(parts[2], dict) and "seed" in parts[2] and parts[2]["seed"] is None:
        # Seeded by the operating system: no two runs agree on it, and nothing reproducible can hang on it. River's
        # every Gaussian carries one, for a method that no estimator calls.
        parts[2] = {name: value for name, value in parts[2].items() if not isinstance(value, _GENERATORS)}
    return parts


def _holds_objects(item: Any) -> bool:
    return isinstance(item, (np.ndarray, np.generic)) and item.dtype.hasobject


def _array_bytes(array: Any) -> bytes:
    """Type, shape and content; a torch tensor and a numpy array of the same content are the same."""
    if isinstance(array, torch.Tensor):
        tensor = array.detach().cpu().contiguous()
        kind, content = str(tensor.dtype).removeprefix("torch."), tensor.reshape(-1).view(torch.uint8).numpy().tobytes()
        return f"{kind} {list(tensor.shape)} ".encode() + content
    array = np.asarray(array)
    return f"{array.dtype.name} {list(array.shape)} ".encode() + array.tobytes()
