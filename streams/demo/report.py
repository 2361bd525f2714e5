"""What the demo found, for people and for programs."""

from dataclasses import dataclass
from typing import Any

from rich.console import Console, Group, RenderableType
from rich.panel import Panel
from rich.table import Table
from rich.text import Text

from sinks.lineage import LineageNode
from streams.cli.lineage_tree import render
from streams.demo.account import Account
from streams.demo.calls import Calls

SMALL_MODEL = (
    "SmolLM2-135M shows that the plumbing works. It is no moderator: its verdicts are often wrong. "
    "Point WEIR_ENGINE_URL at vLLM with a model made for the job."
)


@dataclass(frozen=True, slots=True)
class Report:
    """The result of one run.

    rows: verdicts that ClickHouse shows a reader. stored_twice: how many of them are beyond one for each event.
    """

    account: Account
    calls: Calls | None
    rows: int
    stored_twice: int
    seconds: float
    names: dict[str, str]
    examples: list[LineageNode]

    @property
    def duplicated(self) -> int:
        """Verdicts beyond one for each event, in the topic or in the store."""
        return self.account.duplicated + self.stored_twice + (self.calls.duplicated if self.calls is not None else 0)

    @property
    def lost(self) -> int:
        """Events without a verdict, and what is missing of the calls."""
        return self.account.outstanding + (self.calls.lost if self.calls is not None else 0)

    @property
    def good(self) -> bool:
        """Nothing lost, nothing duplicated, and the store has what the topic has."""
        return not self.lost and not self.duplicated and self.rows == len(self.account.verdicts)

    def as_dict(self) -> dict[str, Any]:
        """The report as plain values, for JSON."""
        account = self.account
        by_pipeline = account.agreement()
        labelled = sum(int(found["rows"]) for found in by_pipeline.values())
        agreeing = sum(found["rows"] * found["agreement"] for found in by_pipeline.values())
        return {
            "published": account.publishes,
            "verdicts": len(account.verdicts),
            "rows": self.rows,
            "lost": self.lost,
            "duplicated": self.duplicated,
            "dead_lettered": len(account.dead),
            "screened": account.screened,
            "seconds": round(self.seconds, 1),
            "p50_ms": round(account.percentile_ms(0.50)),
            "p95_ms": round(account.percentile_ms(0.95)),
            "tokens_in": int(account.total("usage", "input_tokens")),
            "tokens_cached": int(account.total("usage", "cached_tokens")),
            "tokens_out": int(account.total("usage", "output_tokens")),
            "cost_usd": round(account.total("cost_usd"), 8),
            "agreement": round(agreeing / labelled, 4) if labelled else None,
            "agreement_by_pipeline": by_pipeline,
            "decisions": dict(account.decisions()),
            **({"calls": self.calls.as_dict()} if self.calls is not None else {}),
            **self.names,
            "note": SMALL_MODEL,
        }

    def show(self, console: Console) -> None:
        """Print the report for people."""
        console.print(Panel(Group(*self._parts()), title="weir demo", title_align="left", padding=(1, 2)))

    def _parts(self) -> list[RenderableType]:
        found, account = self.as_dict(), self.account
        table = Table(box=None, show_header=False, padding=(0, 2, 0, 0))
        table.add_column(style="dim")
        table.add_column(overflow="fold")
        for name, value in (
            ("published", f"{found['published']} events"),
            ("verdicts", f"{found['verdicts']} read back from the topic: {_shares(found['decisions'])}"),
            ("rows", f"{found['rows']} verdicts in ClickHouse"),
            ("lost", _verdict(found["lost"])),
            ("duplicated", _verdict(found["duplicated"])),
            ("dead-lettered", str(found["dead_lettered"])),
            ("screened", f"{found['screened']} verdicts came from the screen, without the model"),
            ("latency", f"p50 {found['p50_ms'] / 1000:.2f} s, p95 {found['p95_ms'] / 1000:.2f} s, event to verdict"),
            ("tokens", f"{found['tokens_in']:,} in ({found['tokens_cached']:,} cached), {found['tokens_out']:,} out"),
            ("cost", f"{found['cost_usd']:.6f} USD at nominal prices"),
            ("time", f"{found['seconds']:.0f} s with start and stop; {account.rate:.1f} verdicts a second"),
            ("parts", f"{found['broker']}, {found['engine']}, {found['store']}"),
        ):
            table.add_row(name, value)
        for pipeline, share in found["agreement_by_pipeline"].items():
            table.add_row("agreement", f"{pipeline}: {_agreement(share)}")
        for name, value in self._of_calls():
            table.add_row(name, value)
        parts: list[RenderableType] = [table, Text(), Text("Some verdicts and what they rest on", style="bold")]
        for node in self.examples:
            parts += [Text(), render(node)]
        return [*parts, Text(), Text(SMALL_MODEL, style="yellow")]

    def _of_calls(self) -> list[tuple[str, str]]:
        if self.calls is None:
            return []
        found = self.calls.as_dict()
        said = found["misstatements"]
        return [
            (
                "calls",
                f"{found['assembled']} of {found['calls']} put together from {found['turns']} shuffled turns",
            ),
            ("findings", f"{found['findings']} claims checked, {found['escalations']} for a person to look at"),
            ("summaries", f"{found['summaries']}"),
            (
                "misstatements",
                f"{said['found']} of {said['planted']} that were planted, and {said['wrongly']} other claims",
            ),
        ]


def _agreement(share: dict[str, Any]) -> str:
    told = f"{share['agreement']:.0%} with the labels of {share['rows']} rows"
    others = [f"always the most frequent label: {share['most_frequent_label']:.0%}"]
    if "model_alone" in share:
        others.insert(0, f"the model alone: {share['model_alone']:.0%}")
    told += f" ({'; '.join(others)})"
    if fair := share.get("not_learned_from"):
        told += (
            f". The screen learned from most of these. Of the {fair['rows']} that it did not learn from, "
            f"{fair['agreement']:.0%}; the model alone: {fair['model_alone']:.0%}"
        )
    return told


def _shares(decisions: dict[str, int]) -> str:
    return ", ".join(f"{count} {decision}" for decision, count in sorted(decisions.items())) or "none"


def _verdict(count: int) -> str:
    return f"[green]{count}[/]" if not count else f"[bold red]{count}[/]"
