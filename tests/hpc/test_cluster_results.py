"""Results of a real cluster's tasks, whatever happens in the moment in which they are told."""

from __future__ import annotations

import time
from collections.abc import Iterator
from concurrent.futures import wait
from pathlib import Path
from typing import Any

import pytest

from glacierhpc.hpc.cluster import make_cluster


@pytest.fixture(scope="module")
def executor() -> Iterator[Any]:
    with make_cluster("local", workers=1) as executor:
        yield executor


def test_a_result_that_is_here_counts_though_its_worker_has_died_since(
    executor: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The moment is made by hand: what the word of a lost worker does is done as soon as the result is here."""
    real = executor._client._gather

    async def gather(futures: list[Any], **more: Any) -> Any:
        found = await real(futures, **more)
        for future in futures:
            future._state.lose()
        return found

    monkeypatch.setattr(executor._client, "_gather", gather)
    assert executor.submit(pow, 2, 3).result(60) == 8


def test_a_result_that_cannot_be_fetched_is_an_error_and_no_endless_wait(
    executor: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def gather(*_: Any, **more: Any) -> Any:
        raise RuntimeError("nobody has it")

    monkeypatch.setattr(executor._client, "_gather", gather)
    with pytest.raises(RuntimeError, match="nobody has it"):
        executor.submit(pow, 2, 3).result(60)


def until_there(path: Path) -> str:
    while not path.exists():
        time.sleep(0.01)
    return path.name


def leave() -> None:
    raise GeneratorExit("no Exception, but an end all the same")


def test_errors_and_cancellations_are_those_of_the_task(executor: Any, tmp_path: Path) -> None:
    with pytest.raises(ZeroDivisionError):
        executor.submit(divmod, 1, 0).result(60)
    with pytest.raises(GeneratorExit, match="an end"):
        executor.submit(leave).result(60)
    one, another = (executor.submit(until_there, tmp_path / "go") for _ in range(2))
    assert another.cancel() and another.cancelled()
    (tmp_path / "go").touch()
    assert not wait([one, another], timeout=60).not_done
    assert one.result() == "go"
