"""What was said before in a thread."""

from collections.abc import Callable

import pytest

from streams.decode import Event
from streams.history import ThreadHistory

GetEvent = Callable[..., Event]


def texts(history: ThreadHistory, event: Event) -> list[str]:
    return [earlier.text for earlier in history.enter(event)]


def test_earlier_messages_come_oldest_first(event: GetEvent) -> None:
    history = ThreadHistory(messages=3, characters=100)
    seen = [texts(history, event(f"m{n}", thread="t", offset=n)) for n in range(5)]
    assert seen == [[], ["m0"], ["m0", "m1"], ["m0", "m1", "m2"], ["m1", "m2", "m3"]]


def test_an_earlier_message_is_known_by_its_row(event: GetEvent) -> None:
    history = ThreadHistory(messages=1, characters=100)
    first = event("m0", thread="t", offset=0)
    history.enter(first)
    (earlier,) = history.enter(event("m1", thread="t", offset=1))
    assert (earlier.row_id, earlier.offset) == (first.row_id, 0)


@pytest.mark.parametrize(("characters", "expected"), [(1, "e"), (3, "one"), (100, "the long one")])
def test_texts_are_cut_to_their_end(event: GetEvent, characters: int, expected: str) -> None:
    history = ThreadHistory(messages=1, characters=characters)
    history.enter(event("the long one", thread="t", offset=0))
    assert texts(history, event("m1", thread="t", offset=1)) == [expected]


def test_no_history_is_kept_where_none_is_read(event: GetEvent) -> None:
    history = ThreadHistory(messages=0, characters=100)
    history.enter(event("m0", thread="t", offset=0))
    assert history.enter(event("m1", thread="t", offset=1)) == []
    assert not history._threads


def test_messages_without_thread_have_no_history(event: GetEvent) -> None:
    history = ThreadHistory(messages=3, characters=100)
    history.enter(event("m0", offset=0))
    assert history.enter(event("m1", offset=1)) == []
    assert not history._threads


def test_threads_and_partitions_and_topics_do_not_mix(event: GetEvent) -> None:
    history = ThreadHistory(messages=3, characters=100)
    places = [
        {"thread": "t"},
        {"thread": "u"},
        {"thread": "t", "partition": 1},
        {"thread": "t", "topic": "other"},
    ]
    for offset in range(3):
        for number, place in enumerate(places):
            expected = [f"{number}.{before}" for before in range(offset)]
            assert texts(history, event(f"{number}.{offset}", offset=offset, **place)) == expected


def test_a_redelivery_sees_what_the_first_delivery_saw(event: GetEvent) -> None:
    history = ThreadHistory(messages=2, characters=100)
    events = [event(f"m{n}", thread="t", offset=n) for n in range(4)]
    first = [texts(history, each) for each in events]
    assert [texts(history, each) for each in events] == first
    assert texts(history, event("m4", thread="t", offset=4)) == ["m2", "m3"]


def test_a_redelivery_from_long_ago_sees_what_is_left(event: GetEvent) -> None:
    history = ThreadHistory(messages=2, characters=100)
    events = [event(f"m{n}", thread="t", offset=n) for n in range(10)]
    for each in events:
        history.enter(each)
    assert [texts(history, each) for each in events[:8]] == [[]] * 7 + [["m6"]]


def test_the_same_event_again_is_not_its_own_context(event: GetEvent) -> None:
    history = ThreadHistory(messages=3, characters=100)
    history.enter(event("m0", id="e-0", thread="t", offset=0))
    history.enter(event("m1", id="e-1", thread="t", offset=1))
    assert texts(history, event("m1", id="e-1", thread="t", offset=2)) == ["m0"]


def test_an_event_that_came_twice_is_context_once(event: GetEvent) -> None:
    history = ThreadHistory(messages=3, characters=100)
    for offset in range(2):
        history.enter(event("m0", id="e-0", thread="t", offset=offset))
    assert texts(history, event("m1", thread="t", offset=2)) == ["m0"]


def test_the_threads_that_were_silent_longest_are_forgotten(event: GetEvent, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("streams.history._MAX_THREADS", 2)
    history = ThreadHistory(messages=1, characters=100)
    for offset, thread in enumerate(("a", "b", "a", "c")):
        history.enter(event(thread, thread=thread, offset=offset))
    assert texts(history, event("x", thread="a", offset=9)) == ["a"]
    assert texts(history, event("x", thread="b", offset=9)) == []
