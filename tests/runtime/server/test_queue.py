"""First come, first served; a bound on who waits; nobody's place is lost or taken twice."""

import asyncio

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pocketvlm.server.errors import Refusal
from pocketvlm.server.queue import Queue


def test_who_comes_first_is_served_first():
    async def run():
        queue, order = Queue(2, 10), []

        async def ask(number):
            await queue.enter()
            order.append(number)
            await asyncio.sleep(0)
            queue.leave()

        await asyncio.gather(*map(ask, range(8)))
        return order, queue.running, queue.waiting

    assert asyncio.run(run()) == (list(range(8)), 0, 0)


def test_too_many_are_sent_away_with_a_time_to_come_back():
    async def run():
        queue = Queue(1, 1)
        await queue.enter()
        second = asyncio.ensure_future(queue.enter())
        await asyncio.sleep(0)
        for _ in range(2):
            with pytest.raises(Refusal) as caught:
                await queue.enter()
        queue.leave(seconds=1e9)
        await second
        third = asyncio.ensure_future(queue.enter())
        await asyncio.sleep(0)
        with pytest.raises(Refusal) as later:
            queue.check()
        third.cancel()
        return caught.value, later.value

    first, later = asyncio.run(run())
    assert (first.status, first.headers) == (429, {"Retry-After": "2"})
    assert "1 wait, the most that may" in first.message
    assert later.retry_after == 60  # the most that anybody is asked to wait


@settings(max_examples=60, deadline=None)
@given(
    st.integers(1, 3),
    st.lists(st.tuples(st.sampled_from(["come", "leave", "give up"]), st.integers(0, 9))),
)
def test_places_are_neither_lost_nor_taken_twice(parallel, steps):
    async def run():
        queue, waiting, running = Queue(parallel, 4), [], []

        async def settle():
            for _ in range(3):
                await asyncio.sleep(0)
            running.extend(task for task in waiting if task.done())
            waiting[:] = [task for task in waiting if not task.done()]
            assert queue.running == len(running) <= parallel
            assert queue.waiting == len(waiting) <= 4
            assert not waiting or len(running) == parallel  # nobody waits for nothing

        for step, number in steps:
            if step == "come":
                task = asyncio.ensure_future(queue.enter())
                await asyncio.sleep(0)
                if task.done() and task.exception():
                    assert len(waiting) == 4
                else:
                    waiting.append(task)
            elif step == "leave" and running:
                running.pop(number % len(running))
                queue.leave()
            elif step == "give up" and waiting:
                waiting.pop(number % len(waiting)).cancel()
            await settle()

    asyncio.run(run())


def test_a_place_given_to_one_who_gives_up_at_that_moment_goes_on():
    async def run():
        queue = Queue(1, 2)
        await queue.enter()
        second, third = (asyncio.ensure_future(queue.enter()) for _ in range(2))
        await asyncio.sleep(0)
        queue.leave()
        second.cancel()
        await third
        return queue.running, queue.waiting

    assert asyncio.run(run()) == (1, 0)
