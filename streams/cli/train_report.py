"""What `weir train-screen` says of a new screen."""

from dataclasses import asdict, dataclass
from io import StringIO
from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer
from rich.console import Console
from rich.table import Table
from ruamel.yaml import YAML

from inference.cascade.settings import CascadeSettings
from streams.cli.terminal import inert, plain
from streams.cli.training_rows import TrainingRows

if TYPE_CHECKING:
    from inference.screen.compare import Difference, Figures
    from inference.screen.model import Screen

_FEW = 200  # held-out rows of a kind, below which figures are mostly chance


@dataclass(frozen=True, slots=True)
class Report:
    """held_out: rows of each kind that no screen saw: to be flagged, and not; of rows that weigh differently, how many
    of one weight would tell as much. old: figures of the old screen, None if there is none. difference: None without
    one, or if the rows are too few. saw: the old one may have seen these rows. cascade: of the stage, if it has one.
    """

    screen: "Screen"
    sha256: str
    out: Path
    rows: TrainingRows
    held_out: tuple[float, float]
    new: list["Figures"]
    old: list["Figures"] | None
    difference: "Difference | None"
    saw: bool
    cascade: CascadeSettings | None

    @property
    def offered(self) -> bool:
        """Whether the new screen is to take the place of the old one."""
        return self.old is None or (self.difference is not None and self.difference.better)


def show(report: Report) -> None:
    """For people; last the lines for the pipeline file, if the new screen is offered."""
    card = report.screen.card
    table = Table("screen", "language", "rows", "to be flagged", "AUROC", "average precision", "passed at 95%", "Brier")
    table.title = f"{inert(card.name)} {inert(card.version)}, on rows that no screen was fitted to"
    for screen, found in (("old", report.old or []), ("new", report.new)):
        for each in found:
            rates = ("-" if rate is None else f"{rate:.3f}" for rate in (each.auroc, each.precision, each.passed))
            table.add_row(
                screen, inert(each.language) or "all", str(each.rows), str(each.flagged), *rates, f"{each.brier:.3f}"
            )
    Console().print(table)
    typer.echo("passed at 95%: rows with less risk than all but 5% of those to be flagged; more is better.")
    for line in (*_learned_from(report.rows), *_notes(report)):
        typer.echo(line)
    if report.offered:
        typer.echo(f"\n{_block(report)}", nl=False)


def as_dict(report: Report) -> dict[str, Any]:
    """For programs."""
    seen = report.rows.seen
    return {
        "card": report.screen.card.model_dump(),
        "file": str(report.out),
        "sha256": report.sha256,
        "learned_from": {"texts": len(report.rows.examples)} | ({} if seen is None else asdict(seen)),
        "learned_as_well_from": 0 if report.rows.more is None else len(report.rows.more.examples),
        "held_out": {"flagged": round(report.held_out[0], 1), "others": round(report.held_out[1], 1)},
        "largest_weight": _largest(report.rows),
        "labelled_both_ways": report.rows.two_ways,
        "new": [asdict(each) for each in report.new],
        "old": None if report.old is None else [asdict(each) for each in report.old],
        "old_may_have_seen_them": report.saw,
        "difference": report.difference and asdict(report.difference) | {"better": report.difference.better},
        "too_few_to_tell": min(report.held_out) < _FEW,
        "offered": report.offered,
        "thresholds_to_fit_anew": _has_thresholds(report),
    }


def _learned_from(rows: TrainingRows) -> list[str]:
    if rows.seen is None:
        return []
    seen = rows.seen
    judged = f"{seen.by_model:,} rows judged by the model, {seen.by_people:,} reviewed by people"
    texts = f"{len(rows.examples):,} texts of {plain(rows.origin)}"
    lines = [f"Learned from {texts}: {judged}, who overturned {seen.overturned:,}."]
    if (largest := _largest(rows)) >= 2:
        lines.append(
            "Rows that the screen decided were not judged; those that were stand for them by their risk, one for up to "
            f"{largest:.0f}."
        )
    if rows.more is not None:
        lines.append(
            f"Learned as well from {len(rows.more.examples):,} rows of {plain(rows.more.origin)}, less those that no "
            "screen is ever fitted to; nothing is measured on these."
        )
    return lines


def _largest(rows: TrainingRows) -> float:
    """For how many of the lightest example the heaviest one stands."""
    found = [example.weight for example in rows.examples]
    return round(max(found) / min(found), 2)


def _notes(report: Report) -> list[str]:
    lines = []
    if min(report.held_out) < _FEW:
        yes, no = report.held_out
        lines.append(
            f"Too few rows to tell much: {yes:.0f} of those held out are to be flagged, {no:.0f} are not; "
            f"it takes {_FEW} of each."
        )
    if report.rows.two_ways:
        lines.append(f"{report.rows.two_ways} texts are labelled both ways.")
    if report.saw:
        lines.append(
            "The old screen may have been fitted to these rows, which flatters it: its card names no such split."
        )
    if (lead := report.difference) is not None:
        told = f"AUROC {lead.value:+.4f}, 95% interval {lead.low:+.4f} to {lead.high:+.4f}"
        word = "better" if lead.better else "worse" if lead.high < 0 else "not shown to be better"
        lines.append(f"The new screen is {word} than the old one: {told}.")
    elif report.old is not None:
        lines.append("Whether the new screen is better than the old one cannot be told from so few rows.")
    if not report.offered:
        lines.append(f"Keep the old one. The new one is in {plain(str(report.out))} all the same.")
    elif _has_thresholds(report):
        lines.append(
            "pass_below and flag_from of the file were fitted to the old screen and mean nothing for the new one: fit "
            "them to labels anew, or leave out `reference: people`."
        )
    return lines


def _has_thresholds(report: Report) -> bool:
    return report.cascade is not None and report.cascade.reference == "people"


def _block(report: Report) -> str:
    """Lines for the pipeline file; what else the cascade of the file says stays, but for thresholds of another screen.

    Without thresholds `reference: people` starts no worker, which is better than wrong ones.
    """
    kept = (
        {}
        if report.cascade is None
        else report.cascade.model_dump(exclude_unset=True, exclude={"screen", "sha256", "pass_below", "flag_from"})
    )
    yaml, lines = YAML(), StringIO()
    yaml.width = 10_000
    yaml.dump({"cascade": {"screen": str(report.out), "sha256": report.sha256} | kept}, lines)
    return lines.getvalue()
