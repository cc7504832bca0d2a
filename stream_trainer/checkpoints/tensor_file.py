"""Writes arrays in the safetensors format piece by piece; the library itself reads them back.

The library's writers want a path, or build the whole file in memory, and keep the interpreter to themselves meanwhile:
neither goes with a store that is not a disk, nor with a thread that learns. The pieces here are views of the arrays:
nothing is copied, and whoever hashes or writes them does so without the interpreter's lock.
Format: github.com/huggingface/safetensors, 8 bytes of length, a JSON header, the arrays side by side.
"""

import json
from collections.abc import Iterator, Mapping

import torch

__all__ = ["tensor_chunks"]

DTYPES = {
    torch.float64: "F64",
    torch.float32: "F32",
    torch.float16: "F16",
    torch.bfloat16: "BF16",
    torch.int64: "I64",
    torch.int32: "I32",
    torch.int16: "I16",
    torch.int8: "I8",
    torch.uint64: "U64",
    torch.uint32: "U32",
    torch.uint16: "U16",
    torch.uint8: "U8",
    torch.bool: "BOOL",
}
ALIGNED_BYTES = 8


def tensor_chunks(tensors: Mapping[str, torch.Tensor]) -> Iterator[bytes | memoryview]:
    """The file, header first. Tensors must be contiguous, dense and on the CPU.

    Raises: TypeError: a dtype that the format does not know.

    >>> from safetensors.torch import load
    >>> load(b"".join(tensor_chunks({"a": torch.arange(3)})))
    {'a': tensor([0, 1, 2])}
    """
    # The widest first: then each array begins where its dtype may begin.
    names = sorted(tensors, key=lambda name: (-tensors[name].element_size(), name))
    header, at = {}, 0
    for name in names:
        tensor = tensors[name]
        if tensor.dtype not in DTYPES:
            raise TypeError(f"{name}: cannot save a tensor of {tensor.dtype}; known: {', '.join(DTYPES.values())}.")
        header[name] = {
            "dtype": DTYPES[tensor.dtype],
            "shape": list(tensor.shape),
            "data_offsets": [at, at + tensor.nbytes],
        }
        at += tensor.nbytes
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % ALIGNED_BYTES)
    yield len(text).to_bytes(8, "little") + text
    for name in names:
        if tensors[name].nbytes:
            yield tensors[name].reshape(-1).view(torch.uint8).numpy().data
