"""The scheduler alone: no Ray, no threads, a clock that the test moves."""

import random

import pytest

from dmkd.engine.scheduler import HOPELESS_BLOCKS, MAX_ATTEMPTS, GiveBlock, Scheduler, StartWorker


def gifts(scheduler, now=0.0):
    return [(a.worker, a.block) for a in scheduler.tick(now) if isinstance(a, GiveBlock)]


def begin(scheduler, now=0.0):
    """Start what is to be started; all become ready."""
    workers = [a.worker for a in scheduler.tick(now) if isinstance(a, StartWorker)]
    for worker in workers:
        scheduler.worker_ready(worker)
    return workers


def test_workers_that_wait_for_a_place_hold_no_blocks():
    scheduler = Scheduler(range(4), workers=3)
    assert scheduler.tick(0.0) == [StartWorker(0), StartWorker(1), StartWorker(2)]
    scheduler.worker_ready(1)
    assert gifts(scheduler) == [(1, 0), (1, 1)]
    for block in (0, 1):
        scheduler.block_done(1, block)
    assert gifts(scheduler) == [(1, 2), (1, 3)]
    assert scheduler.starting == 2 and not scheduler.finished
    for block in (2, 3):
        scheduler.block_done(1, block)
    assert scheduler.finished


def test_each_worker_gets_one_block_before_any_gets_two():
    scheduler = Scheduler(range(5), workers=3, ahead=3)
    begin(scheduler)
    assert gifts(scheduler) == [(0, 0), (1, 1), (2, 2), (0, 3), (1, 4)]


def test_room_that_comes_later_is_used():
    scheduler = Scheduler(range(100), workers=1)
    assert begin(scheduler) == [0]
    scheduler.want_workers(3)
    assert begin(scheduler) == [1, 2]
    scheduler.want_workers(2)  # a machine is gone: its worker is told of by worker_gone
    assert begin(scheduler) == []


def test_a_block_that_raises_is_tried_three_times_with_pauses_that_double():
    scheduler = Scheduler([7], ahead=2)
    begin(scheduler)
    now = 0.0
    for attempt, pause in ((1, 1.0), (2, 2.0)):
        assert gifts(scheduler, now) == [(0, 7)]
        failure = scheduler.block_failed(0, 7, "no", now)
        assert (failure.attempt, failure.set_aside) == (attempt, False)
        assert gifts(scheduler, now + 0.9 * pause) == []
        assert scheduler.next_due(now) == pause
        now += pause
    assert gifts(scheduler, now) == [(0, 7)]
    assert scheduler.block_failed(0, 7, "no", now).set_aside
    assert scheduler.finished and [failure.block for failure in scheduler.set_aside] == [7]


def test_of_the_blocks_of_a_dead_worker_the_oldest_counts_and_all_are_made_alone():
    scheduler = Scheduler(range(3), ahead=3)
    begin(scheduler)
    assert gifts(scheduler) == [(0, 0), (0, 1), (0, 2)]
    (failure,) = scheduler.worker_gone(0, "killed", 0.0)
    assert (failure.block, failure.attempt) == (0, 1)
    assert begin(scheduler) == [1]
    assert gifts(scheduler) == [(1, 1)], "alone, however many could be given"
    assert gifts(scheduler) == []
    scheduler.block_done(1, 1)
    assert gifts(scheduler) == [(1, 2)]
    scheduler.block_done(1, 2)
    assert gifts(scheduler, 1.0) == [(1, 0)]


def test_a_known_culprit_alone_is_counted():
    scheduler = Scheduler(range(2), ahead=2)
    begin(scheduler)
    gifts(scheduler)
    (failure,) = scheduler.worker_gone(0, "CUDA error", 0.0, blamed=1)
    assert (failure.block, failure.attempt) == (1, 1)
    begin(scheduler)
    assert gifts(scheduler) == [(1, 0)]


def test_preemption_is_nobodys_fault():
    scheduler = Scheduler([0], ahead=2)
    for worker in range(5):
        assert begin(scheduler) == [worker]
        assert gifts(scheduler) == [(worker, 0)]
        assert scheduler.worker_gone(worker, "spot machine", 0.0, preempted=True) == []
    assert scheduler.hopeless is None


def test_starts_that_fail_are_repeated_later_and_later_and_end_the_run_when_nobody_works():
    scheduler = Scheduler(range(9), workers=2)
    scheduler.tick(0.0)
    scheduler.worker_ready(0)
    now, worker = 0.0, 1
    for pause in (1.0, 2.0, 4.0, 8.0):
        scheduler.worker_gone(worker, "no weights", now)
        assert not any(isinstance(a, StartWorker) for a in scheduler.tick(now + 0.9 * pause))
        now, worker = now + pause, worker + 1
        assert StartWorker(worker) in scheduler.tick(now)
    assert scheduler.hopeless is None, "the other one works"


def test_when_each_start_failed_three_times_the_run_is_hopeless():
    scheduler = Scheduler(range(9), workers=2)
    for attempt in range(3):
        assert scheduler.hopeless is None
        for action in scheduler.tick(attempt * 100.0):
            scheduler.worker_gone(action.worker, "no weights", attempt * 100.0)
    assert "3 times in a row: no weights" in scheduler.hopeless


def test_when_every_block_fails_the_run_is_hopeless_long_before_the_last():
    scheduler, now, attempts = Scheduler(range(20_000), ahead=2), 0.0, 0
    begin(scheduler)
    while not scheduler.hopeless:
        for worker, block in gifts(scheduler, now):
            scheduler.block_failed(worker, block, "no", now)
            attempts += 1
        now += 0.5
    assert attempts < 10 * HOPELESS_BLOCKS * MAX_ATTEMPTS


def test_stopped_it_hands_out_nothing_and_is_finished_when_what_is_in_hand_is():
    scheduler = Scheduler(range(10), workers=2)
    begin(scheduler)
    gifts(scheduler)
    scheduler.stop()
    assert scheduler.working == 2 and scheduler.tick(1.0) == [] and not scheduler.finished
    scheduler.block_done(0, 0)
    scheduler.block_returned(0, 2)
    scheduler.block_done(1, 1)
    scheduler.worker_gone(1, "killed", 1.0)
    assert scheduler.finished and not scheduler.set_aside


@pytest.mark.parametrize("seed", range(30))
def test_whatever_happens_each_block_is_done_or_set_aside_and_the_innocent_are_done(seed):
    """Workers die, are preempted, fail to start; block 3 kills its worker, block 5 raises."""
    rng = random.Random(seed)
    scheduler = Scheduler(range(40), workers=rng.randint(1, 4), ahead=rng.randint(1, 3))
    hands: dict[int, list[int]] = {}
    starting: list[int] = []
    done, now = [], 0.0
    for _ in range(20_000):
        if scheduler.finished:
            break
        now += rng.random()
        for action in scheduler.tick(now):
            if isinstance(action, StartWorker):
                starting.append(action.worker)
            else:
                hands[action.worker].append(action.block)
        if starting and rng.random() < 0.5:
            worker = starting.pop(rng.randrange(len(starting)))
            if rng.random() < 0.1:
                scheduler.worker_gone(worker, "could not start", now)
            else:
                scheduler.worker_ready(worker)
                hands[worker] = []
        elif busy := [worker for worker, blocks in hands.items() if blocks]:
            worker = rng.choice(busy)
            block = hands[worker][0]
            if block == 3 or rng.random() < 0.05:
                preempted = block != 3 and len(done) < 39  # accidents that count could hit a block three times
                del hands[worker]
                scheduler.worker_gone(worker, "died", now, preempted=preempted)
            elif block == 5:
                hands[worker].remove(block)
                scheduler.block_failed(worker, block, "raised", now)
            else:
                hands[worker].remove(block)
                scheduler.block_done(worker, block)
                done.append(block)
    assert scheduler.finished
    assert sorted(done) == [block for block in range(40) if block not in (3, 5)]
    assert sorted(failure.block for failure in scheduler.set_aside) == [3, 5]
