"""Fanning out: order, a bound, a count, and an end without stragglers."""

from __future__ import annotations

import threading
from concurrent.futures import Future, ThreadPoolExecutor

import pytest

from glacierhpc.fanout import Tally, run_all


class Counting(ThreadPoolExecutor):
    """Remembers how many calls were submitted and not yet collected."""

    def __init__(self) -> None:
        super().__init__(2)
        self.futures: list[Future] = []

    def submit(self, *arguments, **named):  # type: ignore[no-untyped-def]
        self.futures.append(super().submit(*arguments, **named))
        return self.futures[-1]


@pytest.mark.parametrize("parallel", [False, True])
def test_results_come_in_order_and_are_counted(parallel: bool) -> None:
    seen: list[tuple[int, int]] = []
    tally = Tally(12, lambda done, total: seen.append((done, total)))
    with ThreadPoolExecutor(2) as pool:
        executor = pool if parallel else None
        for _ in range(2):
            assert list(run_all(executor, pow, ((n, 2) for n in range(6)), tally=tally)) == [
                0,
                1,
                4,
                9,
                16,
                25,
            ]
    assert seen == [(done, 12) for done in range(1, 13)]


def test_no_more_than_the_bound_is_in_flight() -> None:
    with Counting() as executor:
        for collected, _ in enumerate(run_all(executor, pow, ((n, 2) for n in range(20)), in_flight=3)):
            assert len(executor.futures) - collected <= 3 + 1
    assert len(executor.futures) == 20


def test_an_error_ends_what_runs_and_begins_nothing_more() -> None:
    begun, ended, failing = [], [], threading.Event()

    def work(number: int) -> None:
        begun.append(number)
        if number == 0:
            failing.wait(5)
            raise ZeroDivisionError
        failing.set()
        threading.Event().wait(0.2)
        ended.append(number)

    with ThreadPoolExecutor(2) as executor:
        with pytest.raises(ZeroDivisionError):
            list(run_all(executor, work, ((n,) for n in range(50))))
        assert len(ended) == len(begun) - 1 < 10
