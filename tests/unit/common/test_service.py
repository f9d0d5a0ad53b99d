"""Background jobs: they end when it is time, also those that miss being told once."""

import asyncio

import pytest
from morpheus_common import service
from morpheus_common.service import background, cancel_all


async def deaf(times: int, heard: list[int]) -> None:
    """A job that does not hear of its cancellation the first times, as one in a write to the database may not."""
    while True:
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            heard.append(1)
            if len(heard) > times:
                raise


@pytest.mark.parametrize("times", [0, 1, 3])
async def test_a_job_that_misses_its_cancellation_is_told_again(monkeypatch: pytest.MonkeyPatch, times: int) -> None:
    monkeypatch.setattr(service, "CANCEL_AGAIN_SECONDS", 0.01)
    heard: list[int] = []
    async with asyncio.timeout(5):
        async with background(deaf(times, heard)):
            await asyncio.sleep(0)
    assert len(heard) == times + 1


async def test_what_a_cancelled_job_ends_with_troubles_nobody() -> None:
    async def fails() -> None:
        try:
            await asyncio.Event().wait()
        finally:
            raise RuntimeError("while it put things in order")

    job = asyncio.create_task(fails())
    await asyncio.sleep(0)
    await cancel_all([job])
    assert isinstance(job.exception(), RuntimeError)
    await cancel_all([])
