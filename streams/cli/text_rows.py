"""Labelled rows of a file, for the commands that learn from them."""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, TypeVar

from streams.errors import WorkerMisconfigured
from streams.produce import read_rows

T = TypeVar("T")


def read(file: Path, parse: Callable[[Mapping[str, Any], int], T]) -> list[T]:
    """What `parse` makes of each row of a JSON-lines file, given its number from 1.

    Raises WorkerMisconfigured, with the file's name, where the file or what `parse` raises as ValueError says so.
    """
    try:
        with file.open(encoding="utf-8") as lines:
            return [parse(row, number) for number, row in enumerate(read_rows(lines), 1)]
    except (OSError, ValueError) as error:
        raise WorkerMisconfigured(f"{file}: {error}") from error


def text_of(row: Mapping[str, Any], field: str, number: int) -> str:
    """The text in a field. Raises ValueError where there is none."""
    value = row.get(field)
    if not isinstance(value, str) or not value.strip():
        raise ValueError(f"row {number} has no text in the field {field!r}")
    return value
