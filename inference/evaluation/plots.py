"""Plots as SVG. Names in them are a stranger's: matplotlib escapes them, and is told not to read them as formulas."""

import io
import logging
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import wraps
from typing import Any, ParamSpec

import matplotlib
from matplotlib import rcsetup
from matplotlib.figure import Figure

from inference.evaluation.intervals import Measured
from inference.evaluation.paired import Comparison
from inference.evaluation.report import Curve, Report

logging.getLogger("matplotlib").setLevel(logging.WARNING)  # it tells of its caches

_STYLE: Any = {
    "svg.fonttype": "none",  # text stays text
    "svg.hashsalt": "weir",  # the same figures give the same page
    "text.parse_math": False,
    "font.family": "sans-serif",
    "font.size": 9,
    "axes.spines.top": False,
    "axes.spines.right": False,
    # Okabe and Ito's colours, which colour-blind people tell apart.
    "axes.prop_cycle": rcsetup.cycler(
        color=["#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000"]
    ),
}
_SQUARE = (3.8, 3.6)  # three beside each other on the page
_PANELS = 4  # side by side
_NAME = 40  # characters of a name
_GREY = "#888888"

P = ParamSpec("P")


def _styled(plot: Callable[P, str]) -> Callable[P, str]:
    """The plot in our style, whatever the style of the process is."""

    @wraps(plot)
    def styled(*args: P.args, **kwargs: P.kwargs) -> str:
        with matplotlib.rc_context(_STYLE):
            return plot(*args, **kwargs)

    return styled


@_styled
def reliability(reports: Sequence[Report]) -> str:
    """What was said beside how often it came true."""
    with _axes(_SQUARE) as (axes, done):
        axes.plot([0, 1], [0, 1], color=_GREY, linestyle=":", linewidth=1)
        for report in reports:
            x, y = [each.score for each in report.bins], [each.share for each in report.bins]
            axes.plot(x, y, marker="o", markersize=4, label=_short(report.name))
        _square(axes, "mean probability of a bin", "share that came true")
        return done()


@_styled
def roc(reports: Sequence[Report]) -> str:
    """Recall over the share of false alarms."""
    return _curves([(report.name, report.roc) for report in reports], "false alarms", "recall", diagonal=True)


@_styled
def precision_recall(reports: Sequence[Report]) -> str:
    """Precision over recall."""
    return _curves([(report.name, report.precision_recall) for report in reports], "recall", "precision")


@_styled
def confusion(report: Report, labels: Sequence[str]) -> str:
    """Rows by label of the data, and the label that was chosen. Colours are shares of a row of the table."""
    rows = [[count / max(1, sum(line)) for count in line] for line in report.confusion]
    size = (1.6 + 0.62 * len(labels), 1.4 + 0.42 * len(report.truths))
    with _axes(size) as (axes, done):
        axes.imshow(rows, cmap="Blues", vmin=0, vmax=1, aspect="auto")
        axes.set_xticks(range(len(labels)), [_short(label) for label in labels], rotation=40, ha="right")
        axes.set_yticks(range(len(report.truths)), [_short(label) for label in report.truths])
        for y, line in enumerate(report.confusion):
            for x, count in enumerate(line):
                dark = rows[y][x] > 0.5
                axes.text(x, y, f"{count:,}", ha="center", va="center", color="white" if dark else "black", fontsize=8)
        axes.set_xlabel("chosen")
        axes.set_ylabel("label of the data")
        return done()


@_styled
def figures(reports: Sequence[Report], metrics: Mapping[str, str]) -> str:
    """Figures with their intervals, a panel for each metric. metrics: name to title."""
    rows = -(-len(metrics) // _PANELS)
    figure, done = _figure((2.1 * _PANELS + 1.6, rows * (0.8 + 0.3 * len(reports))))
    panels = figure.subplots(rows, _PANELS, sharey=True, squeeze=False).ravel()
    for axes in panels[len(metrics) :]:
        axes.set_visible(False)
    for axes, (metric, title) in zip(panels, metrics.items(), strict=False):
        for place, report in enumerate(reports):
            _whisker(axes, report.overall.metrics[metric], place, f"C{place}")
        axes.set_title(title, fontsize=9)
        axes.grid(axis="x", linewidth=0.4)
        axes.set_xlim(-0.02, 1.02)
        axes.set_ylim(len(reports) - 0.4, -0.6)
        axes.set_yticks(range(len(reports)), [_short(report.name) for report in reports])
    return done()


@_styled
def differences(compared: Sequence[Comparison], metric: str, title: str) -> str:
    """Paired differences with their intervals; one that holds zero shows none."""
    with _axes((5.8, 1.0 + 0.34 * len(compared))) as (axes, done):
        axes.axvline(0, color=_GREY, linewidth=1, linestyle=":")
        for place, pair in enumerate(compared):
            found = pair.differences[metric]
            _whisker(axes, Measured(found.value, found.low, found.high), place)
        names = [f"{_short(pair.first)} less {_short(pair.second)}" for pair in compared]
        axes.set_yticks(range(len(compared)), names)
        axes.set_ylim(len(compared) - 0.4, -0.6)
        axes.set_xlabel(f"difference of {title}")
        return done()


def _curves(curves: Sequence[tuple[str, Curve]], x: str, y: str, *, diagonal: bool = False) -> str:
    with _axes(_SQUARE) as (axes, done):
        if diagonal:
            axes.plot([0, 1], [0, 1], color=_GREY, linestyle=":", linewidth=1)
        for name, points in curves:
            axes.plot([point[0] for point in points], [point[1] for point in points], label=_short(name))
        _square(axes, x, y)
        return done()


def _whisker(axes: Any, figure: Measured, place: int, color: str = "C0") -> None:
    if figure.value is None or figure.low is None or figure.high is None or figure.value != figure.value:
        axes.text(0.5, place, "not defined", transform=axes.get_yaxis_transform(), ha="center", va="center", fontsize=7)
        return
    axes.plot([figure.low, figure.high], [place, place], color=color, linewidth=1.5)
    axes.plot([figure.value], [place], color=color, marker="o", markersize=5)


def _square(axes: Any, x: str, y: str) -> None:
    axes.set_xlim(-0.02, 1.02)
    axes.set_ylim(-0.02, 1.02)
    axes.set_xlabel(x)
    axes.set_ylabel(y)
    axes.legend(fontsize=7, frameon=False, loc="best")


@contextmanager
def _axes(size: tuple[float, float]) -> Iterator[tuple[Any, Callable[[], str]]]:
    figure, done = _figure(size)
    yield figure.subplots(), done


def _figure(size: tuple[float, float]) -> tuple[Any, Callable[[], str]]:
    """A figure of so many inches, and what makes SVG of it."""
    figure = Figure(size, layout="constrained")

    def done() -> str:
        text = io.StringIO()
        figure.savefig(text, format="svg", metadata={"Date": None, "Creator": None})
        return text.getvalue()

    return figure, done


def _short(name: str) -> str:
    kept = "".join(c if c.isprintable() else "\N{REPLACEMENT CHARACTER}" for c in name)
    return kept if len(kept) <= _NAME else f"{kept[: _NAME - 1]}…"
