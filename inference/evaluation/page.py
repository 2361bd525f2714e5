"""One HTML page that needs no network and runs no script. What stands in it was written by strangers."""

import base64
import importlib.resources
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from jinja2 import Environment, StrictUndefined

from inference.evaluation import plots
from inference.evaluation.answers import Task
from inference.evaluation.intervals import Measured
from inference.evaluation.paired import SIGNIFICANT, Comparison
from inference.evaluation.report import Report

SHOWN = {
    "precision": "precision",
    "recall": "recall",
    "f1": "F1",
    "auroc": "AUROC",
    "auprc": "AUPRC",
    "accuracy": "accuracy",
    "macro_f1": "macro F1",
    "macro_auroc": "macro AUROC",
    "ece": "ECE",
}


@dataclass(frozen=True, slots=True)
class Mistake:
    """A row that was judged wrongly. score: probability that its decision rests on."""

    text: str
    truth: str
    predicted: str
    score: float


@dataclass(frozen=True, slots=True)
class Subject:
    """A report, what it is of, by name, and the mistakes that were surest."""

    report: Report
    facts: Mapping[str, str]
    mistakes: Sequence[Mistake]


def page(
    title: str, task: Task, facts: Mapping[str, str], subjects: Sequence[Subject], compared: Sequence[Comparison]
) -> str:
    """The page. facts: about the data, by name."""
    reports = [subject.report for subject in subjects]
    metrics = list(reports[0].overall.metrics)
    shown = {
        "Figures with 95% intervals": plots.figures(reports, {name: SHOWN[name] for name in metrics}),
        "Reliability": plots.reliability(reports),
    }
    if any(report.roc for report in reports):
        shown["ROC curve"] = plots.roc(reports)
        shown["Precision and recall"] = plots.precision_recall(reports)
    if compared:
        headline = next(name for name in ("auroc", "macro_f1") if name in metrics)
        for metric in (headline, "f1" if headline == "auroc" else "accuracy"):
            shown[f"Paired differences: {SHOWN[metric]}"] = plots.differences(compared, metric, SHOWN[metric])
    environment = Environment(autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True)
    environment.filters["figure"] = figure
    environment.filters["image"] = _image
    template = importlib.resources.files("inference.evaluation").joinpath("page.html").read_text(encoding="utf-8")
    return environment.from_string(template).render(
        title=title,
        facts=facts,
        subjects=subjects,
        confusions=[plots.confusion(report, task.labels) for report in reports],
        plots=shown,
        compared=compared,
        metrics={name: SHOWN[name] for name in metrics},
        label_metrics={name: SHOWN[name] for name in ("precision", "recall", "f1", "auroc", "auprc", "ece")},
        significant=SIGNIFICANT,
    )


def figure(measured: Measured | None, digits: int = 3) -> str:
    """`0.81 [0.75, 0.86]`, or a dash."""
    if measured is None or measured.value is None:
        return "–"
    if measured.low is None or measured.high is None:
        return f"{measured.value:.{digits}f}"
    return f"{measured.value:.{digits}f} [{measured.low:.{digits}f}, {measured.high:.{digits}f}]"


def _image(svg: str) -> str:
    """An address for `img`, where an SVG can neither run anything nor load anything."""
    return f"data:image/svg+xml;base64,{base64.b64encode(svg.encode()).decode()}"
