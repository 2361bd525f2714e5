"""Row ids: UUIDs of version 7 that only what they name decides."""

import uuid

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from streams.identity import event_row_id, offset_row_id, row_id, row_of, stage_row_id, uuid_text

LAST = 2**48 - 1

times = st.integers(0, LAST)
parts = st.lists(st.text() | st.integers(), max_size=5)


@given(times, parts)
def test_an_id_is_a_uuid_of_version_7(time_ms: int, what: list[str | int]) -> None:
    found = uuid.UUID(int=row_id(time_ms, *what))
    assert (found.version, found.variant) == (7, uuid.RFC_4122)
    assert found.int >> 80 == time_ms


@given(times, parts)
def test_the_same_row_has_the_same_id(time_ms: int, what: list[str | int]) -> None:
    assert row_id(time_ms, *what) == row_id(time_ms, *what)


def test_ids_are_for_ever() -> None:
    """Stored rows have these ids: if this test fails, change the code and not the test."""
    assert [
        uuid_text(row)
        for row in (
            event_row_id(1_772_600_767_089, "/forum", "e-1"),
            offset_row_id(1_772_600_767_089, "messages", 3, 41),
            stage_row_id(1_772_600_767_089, "moderation", "moderate", 0, [1, 2]),
        )
    ] == [
        "019cb73d-3271-7884-944f-918414fda66a",
        "019cb73d-3271-7b36-aff7-452e358f14fe",
        "019cb73d-3271-7597-86b6-da06e2c252b7",
    ]


@given(times, times, parts, parts)
def test_ids_sort_by_time(one: int, other: int, what: list[str | int], where: list[str | int]) -> None:
    assume(one < other)
    first, second = row_id(one, *what), row_id(other, *where)
    assert first < second
    assert uuid_text(first) < uuid_text(second)


@given(times, parts, parts)
def test_other_parts_make_another_id(time_ms: int, what: list[str | int], other: list[str | int]) -> None:
    assume(what != other)
    assert row_id(time_ms, *what) != row_id(time_ms, *other)


@pytest.mark.parametrize(
    ("one", "other"),
    [
        (["1"], [1]),
        (["ab", "c"], ["a", "bc"]),
        (["a"], ["a", ""]),
        ([], [""]),
        (["a", "b"], ["b", "a"]),
        (["int:1"], [1]),
        (["é"], ["e\u0301"]),
    ],
)
def test_parts_cannot_be_mistaken(one: list[str | int], other: list[str | int]) -> None:
    assert row_id(0, *one) != row_id(0, *other)


def test_kinds_of_rows_cannot_be_mistaken() -> None:
    ids = [
        event_row_id(5, "a", "1"),
        event_row_id(5, "1", "a"),
        event_row_id(6, "a", "1"),
        offset_row_id(5, "a", 1, 1),
        offset_row_id(5, "a", 1, 2),
        offset_row_id(5, "a", 2, 1),
        offset_row_id(5, "b", 1, 1),
        stage_row_id(5, "a", "b", 0, [1]),
        stage_row_id(5, "a", "b", 0, [1, 2]),
        stage_row_id(5, "a", "b", 1, [2]),
        stage_row_id(5, "a", "b", 1, [1]),
        stage_row_id(5, "a", "c", 0, [1]),
        stage_row_id(5, "c", "b", 0, [1]),
    ]
    assert len(set(ids)) == len(ids)


def test_hashes_fill_their_bits() -> None:
    """Over many ids each of the 74 bits is sometimes 0 and sometimes 1."""
    ids = [row_id(0, number) for number in range(200)]
    varying = (1 << 76) - 1 & ~(0b11 << 62)
    ever, always = 0, varying
    for found in ids:
        ever |= found
        always &= found
    assert ever & varying == varying
    assert always == 0
    assert varying.bit_count() == 74


@pytest.mark.parametrize("time_ms", [0, LAST])
def test_the_first_and_the_last_millisecond(time_ms: int) -> None:
    assert row_id(time_ms) >> 80 == time_ms
    assert row_id(time_ms) < 1 << 128


@pytest.mark.parametrize("time_ms", [-1, LAST + 1])
def test_a_time_out_of_range(time_ms: int) -> None:
    with pytest.raises(ValueError, match=f"not {time_ms}$"):
        row_id(time_ms, "a")


@given(st.integers(0, 2**128 - 1))
def test_text_and_number_are_the_same_id(row: int) -> None:
    assert row_of(uuid_text(row)) == row
    assert uuid_text(row) == str(uuid.UUID(int=row))


def test_a_text_that_is_no_id() -> None:
    with pytest.raises(ValueError, match="hexadecimal"):
        row_of("e-1")
