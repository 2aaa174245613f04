"""Ring buffers: the points, the maxima of minutes, and the limits."""

from __future__ import annotations

from txgearman.dashboard.history import History, Numbers, Series


def test_series_returns_points_oldest_first() -> None:
    series = Series()
    series.add(1.5, Numbers(1, 2, 3))
    series.add(3.5, Numbers(4, 5, 6))
    assert series.points() == [(1.5, 1, 2, 3), (3.5, 4, 5, 6)]


def test_full_series_overwrites_its_oldest_points() -> None:
    series = Series(3)
    for number in range(8):
        series.add(float(number), Numbers(number, 0, number + 1))
    assert series.points() == [(5.0, 5, 0, 6), (6.0, 6, 0, 7), (7.0, 7, 0, 8)]


def test_series_has_1800_points_at_most() -> None:
    series = Series()
    for number in range(1900):
        series.add(number * 2.0, Numbers(0, 0, 0))
    assert len(series.points()) == 1800
    assert series.points()[0][0] == 200


def test_numbers_beyond_32_bits_are_cut() -> None:
    series = Series()
    series.add(0, Numbers(-1, 2**32, 10**19))
    assert series.points() == [(0, 0, 2**32 - 1, 2**32 - 1)]


def test_maxima_are_those_of_each_minute() -> None:
    series = Series()
    for now, waiting in ((0, 1), (30, 5), (59, 2), (60, 0), (200, 7)):
        series.add(now, Numbers(waiting, 0, 0))
    assert series.maxima(200) == [5, 0, None, 7]
    assert series.maxima(241) == [5, 0, None, 7, None]


def test_maxima_cover_one_hour() -> None:
    series = Series()
    for minute in range(100):
        series.add(minute * 60, Numbers(minute, 0, 0))
    assert series.maxima(99 * 60) == [*range(40, 100)]
    series.add(10**9, Numbers(3, 0, 0))
    assert series.maxima(10**9) == [None] * 59 + [3]


def test_maxima_without_waiting_jobs_are_empty() -> None:
    series = Series()
    for minute in range(3):
        series.add(minute * 60, Numbers(0, 9, 9))
    assert series.maxima(180) == []


def test_clock_that_is_set_back_adds_to_the_last_minute() -> None:
    series = Series()
    for now, waiting in ((600, 1), (300, 4), (610, 2), (660, 3)):
        series.add(now, Numbers(waiting, 0, 0))
    assert series.maxima(660) == [4, 3]


def test_history_forgets_the_functions_that_were_not_reported_for_longest() -> None:
    history = History(max_functions=2)
    point = Numbers(1, 0, 0)
    history.add(0, {b"a": point, b"b": point}, {})
    history.add(1, {b"a": point, b"c": point}, {"s": point})
    assert [*history.functions] == [b"a", b"c"]
    assert [len(series.points()) for series in history.functions.values()] == [2, 1]
    assert history.servers["s"].points() == [(1, 1, 0, 0)]
    assert history.since == 0
