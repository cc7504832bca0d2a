"""The compiled kernel against torch's operations in float64, against itself over cuts, and when it steps aside."""

import os
import subprocess
import sys

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from torch.autograd.graph import increment_version

from stream_trainer.errors import ConfigError
from stream_trainer.norms import build_norm, kernel_in_use
from stream_trainer.norms.kernel import KERNEL_PATHS, compiled, kernel_takes, use_kernel

LAYERS = [
    ("batch_renorm", {}),
    ("batch_renorm", {"affine": False, "r_max": 1.2, "d_max": 0.3}),
    ("adaptive_batch_renorm", {}),
    ("adaptive_batch_renorm", {"per_record": "none", "damping": "none"}),
    ("adaptive_batch_renorm", {"affine": False, "learn_floor": 0.0}),
]
REPEATABLY = {
    "deadline": None,
    "derandomize": True,
    "suppress_health_check": [HealthCheck.function_scoped_fixture],  # the path stays for all examples: meant so
}
COMPILED = [path for path in KERNEL_PATHS if path != "off"]


@pytest.fixture
def kernel(request):
    """A compiled path for one test, which may take others meanwhile."""
    before = kernel_in_use()
    try:
        yield use_kernel(request.param)
    except ConfigError as error:
        pytest.skip(str(error))
    finally:
        use_kernel(before)


def one_step(layer, x, dy, path):
    """Everything that a training pass gives and leaves behind."""
    use_kernel(path)
    x = x.detach().requires_grad_()  # where it lies, and a new leaf
    layer.zero_grad()
    y = layer(x)
    y.backward(dy)
    grads = {name: parameter.grad for name, parameter in layer.named_parameters()}
    drift = torch.tensor([number for number in layer.drift() if number is not None])
    return {"y": y.detach(), "dx": x.grad, "drift": drift, **grads, **layer.state_dict()}


@pytest.mark.parametrize("kernel", COMPILED, indirect=True)
@pytest.mark.parametrize(("name", "options"), LAYERS)
@given(
    channels=st.integers(2, 40),
    tail=st.sampled_from([(), (3,), (5, 4), (2, 1100)]),
    sizes=st.lists(st.integers(1, 70), min_size=1, max_size=3),
    level=st.sampled_from([0.0, 3.0, -100.0]),
    seed=st.integers(0, 2**31),
)
@settings(max_examples=8, **REPEATABLY)
def test_it_computes_what_torch_computes_in_float64(kernel, name, options, channels, tail, sizes, level, seed):
    """Two programs of one formula. Two records of one value each are left out for batch_renorm: there the gradient is
    of the order of eps, the small difference of large numbers."""
    generator = torch.Generator().manual_seed(seed)
    layer, exact = (build_norm(name, channels, dims=max(1, len(tail)), **options) for _ in range(2))
    exact = exact.double()
    for n in sizes:
        n += 2 * (name == "batch_renorm" and not tail)
        x = torch.randn(n, channels, *tail, generator=generator) * 2 + level
        dy = torch.randn(x.shape, generator=generator)
        got, expected = one_step(layer, x, dy, kernel), one_step(exact, x.double(), dy.double(), "off")
        for key, value in expected.items():
            tolerance = 1e-4 * max(1.0, float(value.abs().max()), abs(level) * (key in ("dx", "drift")))
            torch.testing.assert_close(got[key].double(), value.double(), rtol=1e-4, atol=tolerance, msg=key)


@pytest.mark.parametrize("kernel", COMPILED, indirect=True)
@pytest.mark.parametrize(("name", "options"), LAYERS)
@pytest.mark.parametrize("shape", [(700, 203), (7_000, 37)])  # four segments; eight, the first of them forgotten
def test_a_batch_of_several_segments_computes_the_same(kernel, name, options, shape):
    """Each segment is added up by itself, and their sums in order: through a drift, and where a memory ends within."""
    generator = torch.Generator().manual_seed(7)
    x, dy = (torch.randn(shape, generator=generator) * 2 + 3 for _ in range(2))
    x[len(x) // 2 :] += 4
    layer, exact = (build_norm(name, shape[1], **options) for _ in range(2))
    exact = exact.double()
    for _ in range(2):
        got, expected = one_step(layer, x, dy, kernel), one_step(exact, x.double(), dy.double(), "off")
        for key, value in expected.items():
            rtol = 2e-3 if key == "control" else 1e-4  # a gradient's square: the small difference of large sums
            torch.testing.assert_close(
                got[key].double(), value.double(), rtol=rtol, atol=1e-4 * max(1.0, float(value.abs().max())), msg=key
            )


@pytest.mark.parametrize("kernel", COMPILED, indirect=True)
@pytest.mark.parametrize(("name", "options"), LAYERS[:3])
@pytest.mark.parametrize("tail", [(), (7,)])
@given(cuts=st.lists(st.integers(1, 90), min_size=1, max_size=12), seed=st.integers(0, 2**31))
@settings(max_examples=5, **REPEATABLY)
def test_its_moments_do_not_see_the_cut(kernel, name, options, tail, cuts, seed):
    """Promise P1, through a drift, for any cut."""
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(sum(cuts), 12, *tail, generator=generator) + 2
    x[len(x) // 2 :, :6] += 4
    whole, layer = build_norm(name, 12, **options), build_norm(name, 12, **options)
    whole(x)
    for batch in x.split(cuts):
        layer(batch)

    assert len(x) == int(whole.moments.n_records) == int(layer.moments.n_records)
    torch.testing.assert_close(layer.moments.mean, whole.moments.mean, rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(layer.moments.var, whole.moments.var, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("kernel", COMPILED, indirect=True)
def test_a_constant_channel_has_variance_0_whatever_its_level(kernel):
    """Sums of squares would leave the rounding of the level: a dead sensor at 30,000 would look alive."""
    layer = build_norm("batch_renorm", 3)
    for n in (1, 7, 40, 333, 30_000):
        layer(torch.full((n, 3), 30_000.1))

    assert torch.equal(torch.full((3,), 30_000.1), layer.moments.mean)
    assert torch.equal(torch.zeros(3), layer.moments.var)


@pytest.mark.parametrize("kernel", COMPILED, indirect=True)
@pytest.mark.parametrize("name", ["batch_renorm", "adaptive_batch_renorm"])
def test_any_layout_of_input_and_gradient_gives_the_same_numbers(kernel, name):
    """Transposed inputs take torch's operations, expanded gradients are copied: neither may be read as it lies."""
    x = torch.randn(6, 5, generator=torch.Generator().manual_seed(2))
    grads = []
    for given_x, dy in ((x, torch.ones(6, 5)), (x.t().contiguous().t(), torch.ones(()).expand(6, 5))):
        leaf = given_x.clone(memory_format=torch.preserve_format).requires_grad_()
        build_norm(name, 5, dims=1)(leaf).mul(given_x).backward(dy)
        grads.append(leaf.grad)

    torch.testing.assert_close(*grads, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("kernel", COMPILED, indirect=True)
@pytest.mark.parametrize("name", ["batch_renorm", "adaptive_batch_renorm"])
def test_what_it_moves_autograd_knows_of(kernel, name):
    """It writes to addresses: a backward pass through moments that have moved since must fail, not be wrong."""
    layer = build_norm(name, 4)
    x = torch.randn(2, 4, generator=torch.Generator().manual_seed(3), requires_grad=True)
    y = x * layer.moments.mean
    layer(x)

    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        y.sum().backward()


@pytest.mark.parametrize("kernel", COMPILED, indirect=True)
@pytest.mark.parametrize("name", ["batch_renorm", "adaptive_batch_renorm"])
def test_a_second_derivative_is_refused_not_wrong(kernel, name):
    """Nothing that it needs is kept; zeros in its place would be believed."""
    layer = build_norm(name, 4)
    x = torch.randn(5, 4, generator=torch.Generator().manual_seed(4), requires_grad=True)
    (dx,) = torch.autograd.grad(layer(x).square().sum(), x, create_graph=True)

    with pytest.raises(RuntimeError, match="once_differentiable"):
        dx.sum().backward()


@pytest.mark.parametrize("kernel", COMPILED, indirect=True)
@pytest.mark.parametrize("shape", [(1, 256), (4, 256), (256, 256), (4, 16, 8, 8)])
@pytest.mark.parametrize("name", ["batch_renorm", "adaptive_batch_renorm"])
def test_backward_keeps_hardly_more_than_batch_norms(kernel, name, shape):
    """x and a few rows of channels: a normalised copy of x would double the memory of every layer."""

    def kept_bytes(layer):
        sizes = []
        with torch.autograd.graph.saved_tensors_hooks(lambda t: sizes.append(t.nbytes) or t, lambda t: t):
            layer(torch.ones(max(2, shape[0]) if "Norm1d" in type(layer).__name__ else shape[0], *shape[1:]))
        return sum(sizes)

    dims = max(1, len(shape) - 2)
    theirs = kept_bytes((torch.nn.BatchNorm1d, torch.nn.BatchNorm2d)[dims - 1](shape[1]))

    assert kept_bytes(build_norm(name, shape[1], dims=dims)) <= 1.1 * theirs


@pytest.mark.parametrize("kernel", KERNEL_PATHS, indirect=True)
@pytest.mark.parametrize("shape", [(1, 37), (50, 37), (3, 7, 11, 13)])
@pytest.mark.parametrize("name", ["batch_renorm", "adaptive_batch_renorm"])
def test_the_same_batch_leaves_the_same_bits_wherever_it_lies(kernel, name, shape):
    """Promise P3 for each path: a journal computes a state again, but not at the same addresses."""
    generator = torch.Generator().manual_seed(5)
    x, dy = (torch.randn(shape, generator=generator) for _ in range(2))
    first, second = (build_norm(name, shape[1], dims=max(1, len(shape) - 2)) for _ in range(2))
    for _ in range(3):
        moved_x, moved_dy = (torch.cat([torch.zeros(1), t.flatten()])[1:].view(shape) for t in (x, dy))
        assert x.data_ptr() % 32 != moved_x.data_ptr() % 32
        expected, got = one_step(first, x, dy, kernel), one_step(second, moved_x, moved_dy, kernel)
        assert all(torch.equal(value, got[key]) for key, value in expected.items())


@pytest.mark.parametrize("kernel", COMPILED, indirect=True)
@pytest.mark.parametrize("shape", [(700, 203), (40, 4_000), (33, 37, 11, 12)])
@pytest.mark.parametrize(("name", "options"), [*LAYERS[:1], *LAYERS[2:4]])
def test_the_number_of_threads_changes_no_bit(kernel, name, options, shape):
    """Segments of a dense batch are as long as its shape says, and merged in their order: any machine gets the same."""
    generator = torch.Generator().manual_seed(6)
    x, dy = (torch.randn(shape, generator=generator) * 3 + 1 for _ in range(2))
    assert x.numel() > 65_536, "smaller batches are not shared out"
    before = torch.get_num_threads()
    steps = []
    try:
        for threads in (1, 2, 3):
            torch.set_num_threads(threads)
            steps.append(one_step(build_norm(name, shape[1], dims=max(1, len(shape) - 2), **options), x, dy, kernel))
    finally:
        torch.set_num_threads(before)

    for step in steps[1:]:
        assert all(torch.equal(value, step[key]) for key, value in steps[0].items())


@pytest.mark.skipif(sys.platform != "linux" or compiled is None, reason="needs the kernel, and torch's OpenMP on Linux")
def test_it_finds_the_threads_of_torch():
    """Guards the test above against comparing one thread with one thread."""
    assert compiled.introduce(torch.Tensor, torch.float32, increment_version, torch.get_num_threads)


@pytest.mark.parametrize("kernel", COMPILED[:1], indirect=True)
def test_it_steps_aside_where_it_cannot_work(kernel):
    """Other types and layouts are torch's; so is whatever is only being traced."""
    x, moments = torch.randn(4, 6), build_norm("batch_renorm", 6).moments

    assert kernel_takes(x, None, torch.nn.Parameter(torch.ones(6)), moments)
    assert not kernel_takes(x.double(), None, None, moments)
    assert not kernel_takes(x.t(), None, None, moments)
    assert not kernel_takes(x, torch.ones(12)[::2], None, moments)
    assert not kernel_takes(torch.nn.Parameter(x), None, None, moments)
    assert not kernel_takes(x.to("meta"), None, None, moments)
    assert not kernel_takes(x, None, None, build_norm("batch_renorm", 6).double().moments)
    use_kernel("off")
    assert not kernel_takes(x, None, None, moments)


@pytest.mark.parametrize("kernel", COMPILED[:1], indirect=True)
@pytest.mark.parametrize("name", ["batch_renorm", "adaptive_batch_renorm"])
def test_a_transform_that_hides_the_values_is_refused(kernel, name):
    """Inside vmap a tensor has no address to read from; torch's own words for such a layer are what one gets."""
    with pytest.raises(RuntimeError, match=r"functorch transforms .* must override the setup_context"):
        torch.func.vmap(build_norm(name, 6))(torch.randn(2, 4, 6))


def test_the_environment_chooses_the_path():
    """A saved state is computed again on the path it was computed on, here: without the kernel."""
    ask = "from stream_trainer.norms import kernel_in_use; print(kernel_in_use())"
    environment = {"STREAM_TRAINER_KERNEL": "off", "PYTHONPATH": os.pathsep.join(sys.path)}
    answer = subprocess.run([sys.executable, "-c", ask], env=environment, capture_output=True, check=True)

    assert b"off" == answer.stdout.strip()


def test_an_unknown_path_is_refused():
    """A typing error must not silently take another path than the one that was meant."""
    with pytest.raises(ConfigError, match="STREAM_TRAINER_KERNEL is 'fast'; known: auto, avx2, portable, off"):
        use_kernel("fast")
