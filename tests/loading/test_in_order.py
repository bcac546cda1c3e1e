import threading
import time

import pytest

from dmkd.loading.in_order import in_order


@pytest.fixture
def threads():
    """Threads of loaders that have begun since: another test's loader may not have been collected yet."""
    before = set(threading.enumerate())
    return lambda: [t for t in threading.enumerate() if t.name.startswith("dmkd-loader") and t not in before]


@pytest.mark.parametrize("depth", [0, 1, 2, 5])
def test_results_come_in_the_order_of_the_items_however_long_each_takes(depth, threads):
    def slow_if_even(i):
        time.sleep(0.01 * (i % 2 == 0))
        return i * i

    assert list(in_order(slow_if_even, range(12), threads=3, depth=depth)) == [i * i for i in range(12)]
    assert not threads()


def test_no_more_is_made_in_advance_than_asked_for(threads):
    begun = []
    running = in_order(lambda i: begun.append(i) or i, range(100), threads=4, depth=3)
    for i in range(5):
        assert next(running) == i
        time.sleep(0.02)
        assert len(begun) == i + 1 + 3, "the one in use, and three more"
    running.close()
    time.sleep(0.02)
    assert len(begun) == 8 and not threads()


def test_what_fails_is_raised_in_its_place_and_ends_the_rest(threads):
    begun = []

    def fails_at_three(i):
        begun.append(i)
        if i == 3:
            raise ValueError("no third")
        return i

    running = in_order(fails_at_three, range(100), threads=2, depth=2)
    assert [next(running) for _ in range(3)] == [0, 1, 2]
    with pytest.raises(ValueError, match="no third"):
        next(running)
    assert max(begun) <= 5 and not threads()
