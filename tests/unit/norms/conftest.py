"""The layers with a compiled kernel are tested on every path that this machine has."""

import pytest

from stream_trainer.errors import ConfigError
from stream_trainer.norms.kernel import KERNEL_PATHS, kernel_in_use, use_kernel


@pytest.fixture(params=KERNEL_PATHS)
def each_path(request):
    """Asked for by a module, it runs its tests once for each path: compiled twice, and torch's operations."""
    before = kernel_in_use()
    try:
        use_kernel(request.param)
    except ConfigError as error:
        pytest.skip(str(error))
    yield request.param
    use_kernel(before)
