"""Restarts are given while they help."""

from sparse_ist_tf.workers.groups.restarts import Crew, Restarts


def test_a_run_that_gets_no_further_is_given_up():
    stuck = Restarts(9, lambda: "checkpoint")
    assert [stuck.take() for _ in range(3)] == [True, True, False]
    steps = iter(range(9))
    moving = Restarts(5, lambda: next(steps))
    assert [moving.take() for _ in range(6)] == [True] * 5 + [False]


def test_a_crew_is_full_again_once_it_has_got_further():
    at = [0]
    crew = Crew(3, lambda: at[0])
    crew.begin(3)
    assert crew.lose(1) == "2 of 3 workers go on from the last checkpoint"
    crew.begin(crew.now)
    assert not crew.is_due()
    at[0] += 1
    assert crew.is_due()
    assert crew.lose(5).startswith("1 of 3")  # never none


def test_a_crew_that_comes_no_further_when_it_is_full_stays_smaller_for_good():
    at = [0]
    crew = Crew(3, lambda: at[0])
    for further, is_due in ((0, True), (1, True), (0, True), (0, False)):
        crew.begin(3)
        at[0] += further
        crew.lose(1)
        crew.begin(crew.now)
        at[0] += 1
        assert crew.is_due() == is_due


def test_without_elasticity_all_start_again():
    crew = Crew(3, None)
    crew.begin(3)
    assert crew.lose(1) == "all workers start again from the last checkpoint"
    assert crew.now == 3
    assert not crew.is_due()
