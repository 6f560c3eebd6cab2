"""The order in which threads get the lock, and that one who gives up waiting takes nothing with
it."""

import random
import signal
import sys
import threading
import time

import pytest

from pocketvlm.decoders.fair_lock import FairLock


def until_waiting(lock, count):
    while lock.waiting < count:
        time.sleep(0.001)


def ask(lock, name, order):
    def work():
        with lock:
            order.append(name)

    thread = threading.Thread(target=work, daemon=True)
    thread.start()
    return thread


def test_first_come_first_served():
    lock, order, threads = FairLock(), [], []
    with lock:
        for number in range(8):
            threads.append(ask(lock, number, order))
            until_waiting(lock, number + 1)
        assert order == []
    for thread in threads:
        thread.join(timeout=60)
    assert order == list(range(8))


def test_one_that_asks_again_at_once_comes_after_those_who_wait():
    lock, order = FairLock(), []
    for _ in range(20):
        with lock:
            thread = ask(lock, "other", order)
            until_waiting(lock, 1)
        with lock:
            order.append("again")
        thread.join(timeout=60)
    assert order == ["other", "again"] * 20


def test_only_one_has_it():
    lock, inside, most = FairLock(), [], []

    def work():
        for _ in range(200):
            with lock:
                inside.append(1)
                most.append(len(inside))
                inside.pop()

    threads = [threading.Thread(target=work, daemon=True) for _ in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(timeout=60)
    assert (len(most), set(most)) == (1200, {1})


def test_an_error_inside_releases_it():
    lock = FairLock()
    with pytest.raises(ValueError, match="inside"), lock:
        raise ValueError("inside")
    with lock:
        pass


@pytest.mark.skipif(sys.platform == "win32", reason="no signals to a thread")
def test_an_interrupt_while_waiting_leaves_the_place():
    lock, done, taken = FairLock(), threading.Event(), threading.Event()

    def hold():
        with lock:
            taken.set()
            until_waiting(lock, 1)
            signal.pthread_kill(threading.main_thread().ident, signal.SIGUSR1)
            done.wait(60)

    def interrupt(*_):
        raise KeyboardInterrupt

    before = signal.signal(signal.SIGUSR1, interrupt)
    thread = threading.Thread(target=hold, daemon=True)
    try:
        thread.start()
        taken.wait(60)
        with pytest.raises(KeyboardInterrupt):
            lock.__enter__()
    finally:
        signal.signal(signal.SIGUSR1, before)
    assert lock.waiting == 0
    done.set()
    thread.join(timeout=60)
    with lock:
        pass


@pytest.mark.skipif(not hasattr(signal, "setitimer"), reason="no timers that interrupt")
def test_interrupts_at_any_moment_leave_it_to_others():
    """Just before it is taken, inside, and just before it is handed on."""
    lock, ended, rng = FairLock(), threading.Event(), random.Random(0)

    def compete():
        while not ended.is_set():
            with lock:
                pass

    def interrupt(*_):
        raise KeyboardInterrupt

    interrupted = 0
    before = signal.signal(signal.SIGALRM, interrupt)
    other = threading.Thread(target=compete, daemon=True)
    other.start()
    try:
        for _ in range(3000):
            try:
                signal.setitimer(signal.ITIMER_REAL, rng.uniform(1e-6, 4e-4))
                for _ in range(5):
                    with lock:
                        sum(range(1000))
                signal.setitimer(signal.ITIMER_REAL, 0)
            except KeyboardInterrupt:
                interrupted += 1
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)
    assert interrupted > 100
    with lock:
        pass
    ended.set()
    other.join(timeout=60)
    assert not other.is_alive()
    order = []
    ask(lock, "later", order).join(timeout=60)
    assert (order, lock.waiting) == (["later"], 0)
