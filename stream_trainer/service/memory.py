"""Freed memory stays ours: the next step, and the next copy of the state, need the same again.

By default glibc gives every block above 32 MiB back to the kernel and asks for it anew, page by page, each page zeroed:
that, not the copying, is most of what a copy of a large network costs, and gradients pay it on every step (measured:
tests/benchmarks/save_stall.py). The price: the process keeps its peak; up to 1 GiB of it may lie unused. Other
allocators (musl, macOS, jemalloc preloaded) are left as they are.
"""

import ctypes
import platform

__all__ = ["keep_freed_memory"]

M_TRIM_THRESHOLD, M_MMAP_MAX = -1, -4  # malloc.h
KEPT_BYTES_MAX = 2**30


def keep_freed_memory() -> bool:
    """For the whole process, from here on. Returns whether this allocator could be told."""
    if platform.libc_ver()[0] != "glibc":
        return False
    libc = ctypes.CDLL(None)
    return bool(libc.mallopt(M_MMAP_MAX, 0) and libc.mallopt(M_TRIM_THRESHOLD, KEPT_BYTES_MAX))
