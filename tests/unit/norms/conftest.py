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


WITH_KERNEL = {"batch_renorm", "adaptive_batch_renorm", "continual", "sync", "online"}


@pytest.fixture(params=["best", "off"])
def both_paths(request):
    """Tests of all layers by `name`: those that have a kernel run without it too, see pytest_collection_modifyitems."""
    before = kernel_in_use()
    use_kernel("off" if request.param == "off" else before)
    yield
    use_kernel(before)


def pytest_collection_modifyitems(items):
    """Without the kernel only layers that have one, and of their shapes the flat and the deep: all else is the same."""
    items[:] = [item for item in items if not _already_tested(getattr(item, "callspec", None))]


def _already_tested(callspec):
    if callspec is None or callspec.params.get("both_paths") != "off":
        return False
    return callspec.params["name"] not in WITH_KERNEL or callspec.params.get("kind", "dense") not in ("dense", "image")
