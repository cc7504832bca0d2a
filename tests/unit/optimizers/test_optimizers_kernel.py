"""The compiled step and the torch path beside it: the same formulas, and refusals that touch nothing."""

import copy
import math

import numpy as np
import pytest
import torch
from compiled_part import REPEATABLY, functions_of
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from stream_trainer.compiled import use_compiled_parts
from stream_trainer.optimizers import StreamAdamW, gradient_norm, step_kernel

ROWS, WIDTH = 30, 5


@pytest.fixture
def compiled():
    """The functions of the kernel, and the choices as they were when the test is over."""
    yield from functions_of(step_kernel)
    _ = step_kernel.built.use("avx2") or step_kernel.built.use("portable")


def network_of(seed):
    """Tensors longer and shorter than a vector register, a scalar, a vector, and a table of rows."""
    torch.manual_seed(seed)
    shapes = [(7, 3), (3,), (), (40, 17), (1, 1)]
    return [nn.Parameter(torch.randn(shape)) for shape in shapes] + [nn.Embedding(ROWS, WIDTH, sparse=True).weight]


def gradients_of(rng, parameters, records, scale):
    """As autograd leaves them: the table's with one entry per look-up, some rows named more than once."""
    for parameter in parameters[:-1]:
        parameter.grad = torch.tensor(rng.normal(0, scale, parameter.shape), dtype=torch.float32)
    looked_up = torch.tensor(rng.integers(0, rng.integers(1, ROWS + 1), records))[None]
    values = torch.tensor(rng.normal(0, scale, (records, WIDTH)), dtype=torch.float32)
    parameters[-1].grad = torch.sparse_coo_tensor(looked_up, values, (ROWS, WIDTH), check_invariants=True)


def learn(seed, sizes, scale, pull, beta1):
    """Weights and memory after some steps, and the lengths of the gradients."""
    parameters, rng = network_of(seed), np.random.default_rng(seed)
    optimizer, lengths = StreamAdamW(parameters, lr=0.01, pull_horizon_records=pull, beta1=beta1), []
    for records in sizes:
        gradients_of(rng, parameters, records, scale)
        lengths.append(gradient_norm(parameters))
        optimizer.step(records=records)
    memory = [
        value for state in optimizer.state.values() for value in state.values() if isinstance(value, torch.Tensor)
    ]
    return [parameter.detach() for parameter in parameters], memory, lengths


@settings(max_examples=40, **REPEATABLY)
@given(
    seed=st.integers(0, 2**16),
    sizes=st.lists(st.sampled_from([1, 2, 16, 33, 256, 1000]), min_size=1, max_size=12),
    scale=st.sampled_from([1e-20, 1e-3, 1.0, 1e6]),
    pull=st.sampled_from([None, 50.0, 1e6]),
    beta1=st.sampled_from([0.0, 0.9, "auto"]),
)
def test_it_steps_as_torch_does(compiled, seed, sizes, scale, pull, beta1):
    """Through flushes of tiny moments, cuts, pulls and means; batches that name more rows than are sorted by hand."""
    found = learn(seed, sizes, scale, pull, beta1)
    use_compiled_parts(False)
    expected = learn(seed, sizes, scale, pull, beta1)
    use_compiled_parts(True)

    for ours, torchs in zip(found[0], expected[0], strict=True):
        torch.testing.assert_close(ours, torchs, rtol=2e-5, atol=2e-6)
    for ours, torchs in zip(found[1], expected[1], strict=True):
        signed = 2e-6 * float(torchs.abs().max()) if (torchs < 0).any() else 1e-45  # a mean near 0 is what cancelled
        torch.testing.assert_close(ours, torchs, rtol=2e-5, atol=signed)
    np.testing.assert_allclose(found[2], expected[2], rtol=1e-5)


@pytest.mark.parametrize("beta1", [0.0, "auto"])
def test_every_processor_computes_the_same_bits(compiled, beta1):
    if not compiled.use("avx2"):
        pytest.skip("this processor has no AVX2")
    found = learn(3, [1, 16, 256, 7] * 5, 1.0, 1e4, beta1)
    compiled.use("portable")
    expected = learn(3, [1, 16, 256, 7] * 5, 1.0, 1e4, beta1)

    for ours, others in zip([*found[0], *found[1]], [*expected[0], *expected[1]], strict=True):
        assert torch.equal(ours, others)
    assert found[2] == expected[2]
    assert not compiled.use("sse9")


@pytest.mark.parametrize("odd", ["float64", "strided gradient", "strided weight", "subclass"])
def test_what_is_not_plain_goes_torchs_way(compiled, odd):
    """Its addresses are not asked for; a plain parameter beside it is stepped once all the same."""
    torch.manual_seed(0)
    weight, beside = nn.Parameter(torch.randn(4, 6)), nn.Parameter(torch.randn(3))
    weight.grad, beside.grad = torch.randn(4, 6), torch.randn(3)
    if odd == "float64":
        weight = nn.Parameter(weight.detach().double())
        weight.grad = torch.randn(4, 6).double()
    elif odd == "strided gradient":
        weight.grad = torch.randn(6, 4).t()
    elif odd == "strided weight":
        weight = nn.Parameter(torch.randn(6, 4).t())
        weight.grad = torch.randn(6, 4).t()
    else:
        weight.grad = weight.grad.as_subclass(type("Odd", (torch.Tensor,), {}))
    twins = copy.deepcopy([weight, beside])
    for twin, original in zip(twins, (weight, beside), strict=True):
        twin.grad = original.grad.clone()
    optimizer, twin_optimizer = StreamAdamW([weight, beside], lr=0.1), StreamAdamW(twins, lr=0.1)
    lengths = [gradient_norm([weight, beside])]
    optimizer.step(records=16)
    use_compiled_parts(False)
    lengths.append(gradient_norm(twins))
    twin_optimizer.step(records=16)

    for ours, torchs in zip((weight, beside), twins, strict=True):
        assert torch.equal(ours, torchs)
    assert lengths[0] == lengths[1]


def test_a_memory_of_another_size_is_not_written_to(compiled):
    """The kernel would write beyond its end; torch says what is wrong."""
    weight = nn.Parameter(torch.zeros(4))
    weight.grad = torch.ones(4)
    optimizer = StreamAdamW([weight], lr=0.1)
    optimizer.step(records=16)
    optimizer.state[weight]["square"] = torch.zeros(2)
    with pytest.raises(RuntimeError, match="size of tensor"):
        optimizer.step(records=16)


@pytest.mark.parametrize("row", [-1, ROWS])
def test_a_row_that_the_table_does_not_have_is_refused(compiled, row):
    values = torch.ones(1, WIDTH)
    with pytest.raises(IndexError, match=f"row {row} of a table of {ROWS}"):
        compiled.row_squares(torch.tensor([[row]]), values, ROWS)


def test_lists_of_other_lengths_are_refused(compiled):
    one = [torch.ones(1)]
    with pytest.raises(TypeError, match="lists of one length"):
        compiled.step(one, [], *[one] * 7, 0.9, 1.0, 0.1, 1.0, 1e-10, 1e-30, False, 0.9, 0.0)


@pytest.mark.parametrize("bad", [math.nan, math.inf])
def test_a_gradient_gone_wild_has_no_length(compiled, bad):
    parameters = network_of(0)
    gradients_of(np.random.default_rng(0), parameters, 16, 1.0)
    parameters[3].grad[5, 5] = bad
    dense = gradient_norm(parameters)
    gradients_of(np.random.default_rng(0), parameters, 16, 1.0)
    parameters[-1].grad._values()[3, 2] = bad

    assert not math.isfinite(dense)
    assert not math.isfinite(gradient_norm(parameters))
    assert gradient_norm([nn.Parameter(torch.ones(2))]) == 0.0


def test_autograd_sees_that_the_weights_moved(compiled):
    """As after any other step: what was recorded before it cannot be differentiated with weights of afterwards."""
    weight = nn.Parameter(torch.ones(3))
    weight.grad = torch.ones(3)
    product = (weight * weight).sum()
    StreamAdamW([weight], lr=0.1).step(records=16)
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        product.backward()
