"""What tests of a compiled part share: its functions while it is switched on, and hypothesis beside such a fixture."""

from collections.abc import Iterator
from typing import Any

import pytest
from hypothesis import HealthCheck

from stream_trainer.compiled import CompiledPart, use_compiled_parts

REPEATABLY = {
    "deadline": None,
    "derandomize": True,
    "suppress_health_check": [HealthCheck.function_scoped_fixture],  # the choice is put back after all examples
}


def functions_of(part: CompiledPart) -> Iterator[Any]:
    """The functions of the kernel, for a fixture to yield from; the choice is as it was when the test is over."""
    before = use_compiled_parts(True)
    try:
        if part() is None:
            pytest.skip("the kernel was not built: install again where there is a C compiler")
        yield part()
    finally:
        use_compiled_parts(before)
