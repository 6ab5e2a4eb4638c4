"""Check that parallel passes have the results, order, modes and settings of a plain loop."""

from __future__ import annotations

import threading
from collections.abc import Iterator

import pytest
import torch
from torch import Tensor

from respect_core.model import threads as cores

CPU = torch.device("cpu")


@pytest.fixture(params=[1, 2, 3], ids="{} threads".format)
def threads(request: pytest.FixtureRequest) -> Iterator[int]:
    before = torch.get_num_threads()
    torch.set_num_threads(request.param)
    yield request.param
    torch.set_num_threads(before)


def test_results_come_in_order_and_the_setting_comes_back(threads: int) -> None:
    assert list(cores.map_parallel(lambda n: n * n, range(20), CPU)) == [n * n for n in range(20)]
    assert torch.get_num_threads() == threads


def test_as_many_at_once_as_there_are_threads_with_one_each(threads: int) -> None:
    together = threading.Barrier(threads, timeout=10)  # passes only where that many work at the same time

    def work(_: int) -> int:
        together.wait()
        return torch.get_num_threads()

    assert set(cores.map_parallel(work, range(2 * threads), CPU)) == {1}


def test_items_are_taken_as_they_are_needed(threads: int) -> None:
    taken = 0

    def items() -> Iterator[int]:
        nonlocal taken
        for n in range(100):
            taken += 1
            yield n

    results = cores.map_parallel(lambda n: n, items(), CPU)
    for _ in range(10):
        next(results)
    assert taken <= 10 + threads + 1
    results.close()  # type: ignore[attr-defined]  # it is a generator
    assert torch.get_num_threads() == threads


@pytest.mark.parametrize("inference", [False, True])
def test_no_gradients_inside_and_the_callers_mode_outside(threads: int, inference: bool) -> None:
    weight = torch.ones(2, requires_grad=True)

    def work(n: int) -> tuple[Tensor, bool]:
        return weight * n, torch.is_inference_mode_enabled()

    with torch.inference_mode(inference):
        for product, mode in cores.map_parallel(work, range(4), CPU):
            assert not product.requires_grad and mode == inference
            assert torch.is_grad_enabled() != inference


def test_what_work_raises_is_raised_and_the_setting_comes_back(threads: int) -> None:
    def work(n: int) -> int:
        if n == 3:
            raise ArithmeticError("three")
        return n

    results = cores.map_parallel(work, range(10), CPU)
    assert [next(results), next(results), next(results)] == [0, 1, 2]
    with pytest.raises(ArithmeticError, match="three"):
        next(results)
    assert torch.get_num_threads() == threads


def test_an_accelerator_gets_one_item_after_the_other(threads: int) -> None:
    ids = set(cores.map_parallel(lambda _: threading.get_ident(), range(6), torch.device("meta")))
    assert ids == {threading.get_ident()}


@pytest.mark.parametrize(("count", "most", "sizes"), [(0, 4, []), (3, 4, [2, 1]), (9, 4, [4, 4, 1]), (1, 4, [1])])
def test_shares_are_small_enough_that_every_core_has_one(count: int, most: int, sizes: list[int]) -> None:
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    try:
        shares = list(cores.split_across_cores(range(count), most, CPU))
    finally:
        torch.set_num_threads(before)
    assert [len(share) for share in shares] == sizes
    assert [item for share in shares for item in share] == list(range(count))


def test_shares_of_an_accelerator_are_as_large_as_they_may_be() -> None:
    assert [len(share) for share in cores.split_across_cores(range(9), 4, torch.device("meta"))] == [4, 4, 1]
