"""What was checked, and how it went."""

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

from rich.console import Console
from rich.table import Table

OK, FAILED, SKIPPED = "ok", "failed", "skipped"
_STYLES = {OK: "green", FAILED: "bold red", SKIPPED: "yellow"}


@dataclass(frozen=True, slots=True)
class Entry:
    """One check. detail: what was looked at, what is wrong, or why it was skipped."""

    subject: str
    check: str
    state: str
    detail: str


@dataclass
class Report:
    """All checks, in order."""

    entries: list[Entry] = field(default_factory=list)

    def add(self, subject: str, check: str, mistakes: Iterable[str], looked_at: str = "") -> None:
        """Note a check with what it found wrong, if anything."""
        found = list(mistakes)
        self.entries.append(Entry(subject, check, FAILED if found else OK, "\n".join(found) or looked_at))

    def skip(self, subject: str, check: str, reason: str) -> None:
        """Note a check that cannot be made here."""
        self.entries.append(Entry(subject, check, SKIPPED, reason))

    @contextmanager
    def checking(self, subject: str, check: str) -> Iterator[list[str]]:
        """A list for mistakes; an error inside the block is one, too."""
        mistakes: list[str] = []
        try:
            yield mistakes
        except Exception as error:  # noqa: BLE001  one broken check must not hide the others
            mistakes.append(f"{type(error).__name__}: {error}")
        self.add(subject, check, mistakes)

    @property
    def failed(self) -> list[Entry]:
        """The checks that found something."""
        return [entry for entry in self.entries if entry.state == FAILED]

    def show(self, console: Console) -> None:
        """Print the table, and how many of each state there are."""
        table = Table("subject", "check", "state", "detail", show_lines=False)
        for entry in self.entries:
            table.add_row(entry.subject, entry.check, f"[{_STYLES[entry.state]}]{entry.state}", _plain(entry.detail))
        console.print(table)
        counts = {state: sum(entry.state == state for entry in self.entries) for state in (OK, FAILED, SKIPPED)}
        console.print(f"{counts[OK]} ok, {counts[FAILED]} failed, {counts[SKIPPED]} skipped")


def _plain(text: str) -> str:
    return text.replace("[", r"\[")
