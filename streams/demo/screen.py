"""Live progress: a table that renews itself on a terminal, a line now and then elsewhere."""

import time
from types import TracebackType
from typing import Self

from rich.console import Console
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.table import Table

from streams.demo.account import Account
from streams.demo.calls import Calls

_LINE_SECONDS = 10.0


class Screen:
    """Shows an account while it fills."""

    def __init__(self, console: Console, account: Account, calls: Calls | None, total: int) -> None:
        self._console = console
        self._account = account
        self._calls = calls
        self._claims = calls.claims if calls is not None else 0
        self._total = total
        self._line = 0.0
        self._live = Live(console=console, transient=True, refresh_per_second=4)

    def __enter__(self) -> Self:
        if self._console.is_terminal:
            self._live.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None) -> None:
        if self._console.is_terminal:
            self._live.stop()

    def update(self, in_flight: int) -> None:
        """Show how things stand. in_flight: rows that the worker has taken and not finished."""
        if self._console.is_terminal:
            self._live.update(self._table(in_flight))
        elif time.monotonic() - self._line >= _LINE_SECONDS:
            self._line = time.monotonic()
            self._console.print(", ".join(f"{name} {value}" for name, value in self._facts(in_flight)), highlight=False)

    def _table(self, in_flight: int) -> Table:
        table = Table(box=None, show_header=False, padding=(0, 2, 0, 0))
        table.add_column(style="dim")
        table.add_column()
        table.add_row("progress", ProgressBar(self._total, len(self._account.verdicts) + len(self._account.dead), 40))
        for name, value in self._facts(in_flight):
            table.add_row(name, value)
        return table

    def _facts(self, in_flight: int) -> list[tuple[str, str]]:
        account = self._account
        judged = len(account.verdicts)
        decisions = ", ".join(f"{count} {name}" for name, count in sorted(account.decisions().items()))
        return [
            ("published", f"{account.publishes} of {self._total}"),
            ("verdicts", f"{judged} ({decisions or 'none yet'})"),
            ("rate", f"{account.rate:.1f}/s"),
            ("in flight", str(in_flight)),
            (
                "latency",
                f"p50 {account.percentile_ms(0.5) / 1000:.1f} s, p95 {account.percentile_ms(0.95) / 1000:.1f} s",
            ),
            ("tokens", f"{account.total('usage', 'input_tokens'):,.0f} in"),
            ("cost", f"{account.total('cost_usd'):.6f} USD"),
            *self._of_calls(),
        ]

    def _of_calls(self) -> list[tuple[str, str]]:
        calls = self._calls
        if calls is None:
            return []
        return [
            ("calls", f"{len(calls.transcripts)} of {len(calls.calls)}"),
            ("findings", f"{len(calls.findings)} of {self._claims}"),
            ("summaries", f"{len(calls.summaries)} of {len(calls.calls)}"),
        ]
