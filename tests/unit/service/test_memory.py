"""What one copy of the state has freed, the next one takes again, without the kernel."""

import platform
import subprocess
import sys

import pytest

PROGRAM = """
import torch
from stream_trainer.service.memory import keep_freed_memory

def is_mapped(address):
    with open("/proc/self/maps") as maps:
        ranges = [line.split()[0].split("-") for line in maps]
    return any(int(begin, 16) <= address < int(end, 16) for begin, end in ranges)

def address_after_free():
    return torch.empty(64 * 2**20, dtype=torch.uint8).data_ptr()

before = is_mapped(address_after_free())
told = keep_freed_memory()
print(before, told, is_mapped(address_after_free()))
"""


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="speaks to the allocator of glibc")
def test_a_large_block_stays_with_the_process():
    """In a process of its own: it is told to the allocator of all."""
    done = subprocess.run([sys.executable, "-c", PROGRAM], capture_output=True, text=True, check=True)

    assert "False True True" == done.stdout.strip()
