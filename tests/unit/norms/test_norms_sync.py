"""`sync`: the batches of all workers count as one. Workers are threads here that meet at a barrier."""

import threading
from concurrent.futures import ThreadPoolExecutor

import pytest
import torch
import torch.distributed as dist
from torch import nn

from stream_trainer.norms import NORMS, build_norm, gather_over


class Meeting:
    """A gather for threads: everybody puts a tensor on the table, everybody takes all of them."""

    def __init__(self, workers):
        self.table, self.barrier = [None] * workers, threading.Barrier(workers, timeout=20)

    def gather_of(self, rank):
        def gather(tensor):
            self.table[rank] = tensor
            self.barrier.wait()
            everything = torch.stack(self.table)
            self.barrier.wait()
            return everything

        return gather


def draw(*shape, seed=1):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64) * 2 + 1


@pytest.mark.parametrize("tail", [(), (3, 2)])
@pytest.mark.parametrize("sizes", [(4, 4), (1, 6, 3), (5, 0, 2), (0, 1)])
def test_workers_together_are_one_batch_renorm_of_all_their_records(sizes, tail):
    """P1 over space: outputs, gradients, moments, however the records fall to the workers, empty batches included."""
    dims, meeting = max(1, len(tail)), Meeting(len(sizes))
    alone = build_norm("batch_renorm", 5, dims=dims).double()
    workers = [build_norm("sync", 5, dims=dims, gather=meeting.gather_of(rank)).double() for rank in range(len(sizes))]
    for seed in (1, 2):
        x, dy = draw(sum(sizes), 5, *tail, seed=seed), draw(sum(sizes), 5, *tail, seed=seed + 5)
        leaf = x.clone().requires_grad_()
        alone.zero_grad()
        expected = alone(leaf)
        expected.backward(dy)

        def step(worker, part, dy_part):
            part = part.clone().requires_grad_()
            worker.zero_grad()
            y = worker(part)
            y.backward(dy_part)
            return y.detach(), part.grad

        with ThreadPoolExecutor(len(sizes)) as pool:
            results = list(pool.map(step, workers, x.split(list(sizes)), dy.split(list(sizes))))
        torch.testing.assert_close(torch.cat([y for y, _ in results]), expected.detach())
        torch.testing.assert_close(torch.cat([dx for _, dx in results]), leaf.grad)
        torch.testing.assert_close(sum(worker.weight.grad for worker in workers), alone.weight.grad)
        torch.testing.assert_close(sum(worker.bias.grad for worker in workers), alone.bias.grad)
        for worker in workers:
            torch.testing.assert_close(worker.moments.state_dict(), alone.moments.state_dict())


def test_no_record_anywhere_moves_nothing_and_nobody_waits_for_ever():
    """All partitions quiet at once: the collective must still be met by all, forward and backward."""
    meeting = Meeting(2)
    workers = [build_norm("sync", 3, gather=meeting.gather_of(rank)) for rank in range(2)]

    def step(worker):
        worker(torch.empty(0, 3, requires_grad=True)).sum().backward()
        return int(worker.moments.n_records)

    with ThreadPoolExecutor(2) as pool:
        assert [0, 0] == list(pool.map(step, workers))


@pytest.mark.parametrize("tail", [(), (3, 2)])
def test_weighted_records_count_alike_wherever_they_fall(tail):
    """Against batch_renorm of the union, one worker without any record that counts, one with a nan that does not."""
    sizes, dims, meeting = [4, 2, 3], max(1, len(tail)), Meeting(3)
    weight = torch.tensor([1.0, 0.0, 2.0, 0.5, 0.0, 0.0, 1.0, 3.0, 0.0])
    alone = build_norm("batch_renorm", 5, dims=dims).double()
    workers = [build_norm("sync", 5, dims=dims, gather=meeting.gather_of(rank)).double() for rank in range(3)]
    for seed in (1, 2):
        x, dy = draw(9, 5, *tail, seed=seed), draw(9, 5, *tail, seed=seed + 5)
        leaf = x.clone().requires_grad_()
        expected = alone(leaf, weight)
        expected.backward(dy)

        def step(worker, part, dy_part, weight_part):
            part = part.clone().requires_grad_()
            y = worker(part, weight_part)
            y.backward(dy_part)
            return y.detach(), part.grad

        with ThreadPoolExecutor(3) as pool:
            results = list(pool.map(step, workers, x.split(sizes), dy.split(sizes), weight.split(sizes)))
        torch.testing.assert_close(torch.cat([y for y, _ in results]), expected.detach())
        torch.testing.assert_close(torch.cat([dx for _, dx in results]), leaf.grad)
        torch.testing.assert_close(sum(worker.weight.grad for worker in workers), alone.weight.grad)
        for worker in workers:
            torch.testing.assert_close(worker.moments.state_dict(), alone.moments.state_dict())


def test_one_workers_nan_stays_with_it():
    """Told to the others it would be in every memory; its own outputs still show it."""
    meeting = Meeting(2)
    workers = [build_norm("sync", 5, gather=meeting.gather_of(rank)).double() for rank in range(2)]
    parts = [draw(4, 5, seed=1), draw(3, 5, seed=2)]
    parts[1][1, 2] = torch.nan
    with ThreadPoolExecutor(2) as pool:
        healthy, broken = pool.map(lambda worker, part: worker(part), workers, parts)
    expected = build_norm("batch_renorm", 5).double()
    expected(torch.cat([parts[0], parts[1][[0, 2]]]))

    assert torch.isfinite(healthy).all()
    assert bool(broken[1, 2].isnan())
    assert [0, 1] == [worker.records_refused for worker in workers]
    for worker in workers:
        torch.testing.assert_close(worker.moments.state_dict(), expected.moments.state_dict())


@pytest.fixture
def one_process_group(tmp_path):
    dist.init_process_group("gloo", init_method=f"file://{tmp_path / 'rendezvous'}", rank=0, world_size=1)
    yield
    dist.destroy_process_group()


def test_inside_distributed_data_parallel_with_the_gather_of_torch(one_process_group):
    """One process over gloo: the wrapper takes the buffers, and the layer its collective."""
    torch.manual_seed(0)
    net = nn.Sequential(
        nn.Linear(4, 8), build_norm("sync", 8, gather=gather_over()), build_norm("adaptive_batch_renorm", 8)
    )
    wrapped = nn.parallel.DistributedDataParallel(net)
    for n in (1, 5):
        wrapped(torch.randn(n, 4)).square().sum().backward()

    assert 6 == int(net[1].moments.n_records) == int(net[2].moments.n_records)
    assert torch.isfinite(net[0].weight.grad).all()


@pytest.mark.usefixtures("both_paths")
@pytest.mark.parametrize("name", sorted(set(NORMS) - {"batch", "sync"}))
def test_every_norm_learns_inside_distributed_data_parallel(one_process_group, name):
    """The wrapper broadcasts buffers before each forward pass: with one process it must change nothing."""

    def trained(wrap):
        torch.manual_seed(0)
        net = nn.Sequential(nn.Conv1d(2, 8, 3), build_norm(name, 8))
        model = wrap(net)
        for n in (1, 5):
            model(torch.randn(n, 2, 8)).square().sum().backward()
        return {**net.state_dict(), "gradient": net[0].weight.grad}

    torch.testing.assert_close(trained(nn.parallel.DistributedDataParallel), trained(lambda net: net))
