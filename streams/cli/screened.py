"""What the screen of a stage makes of rows that the model judged: by itself, and before the model.

No engine is asked: the screen is in this process, and what the model says of the rest is known.
"""

import hashlib
from collections.abc import Sequence
from typing import TYPE_CHECKING
from uuid import uuid4

import orjson

from inference.cascade.audit import Route
from inference.cascade.screened import screened_judgement
from inference.judgement import Identity, Screening
from inference.operators.moderate import ModerateSettings
from inference.screen.model import Screen, load
from sinks.rows import EvaluatedRow, EvaluationRow
from streams.cascade import Thresholds, screen_file
from streams.cli.evaluated import evaluated
from streams.cli.journal import judged_row
from streams.cli.labelled import Row
from streams.pipeline import Stage

if TYPE_CHECKING:
    from inference.evaluation.answers import Task

Run = tuple[EvaluationRow, list[EvaluatedRow]]

_EVEN = 0.5  # risk from which on a screen that is asked alone flags


def screened(stage: Stage, model: Run, rows: Sequence[Row], task: "Task") -> list[Run]:
    """Runs beside that of the model, on the rows that it answered. Needs the extra `screen`.

    With thresholds in the pipeline file (`reference: people`) the first is the cascade as it would run, then comes the
    screen alone, which flags from a risk of 0.5 on. Raises ScreenUnusable.
    """
    settings, judge = stage.cascade, stage.judge
    assert settings is not None
    assert isinstance(judge, ModerateSettings)
    screen = load(screen_file(settings.screen), settings.sha256)
    known = {row.row_key: row for row in model[1]}
    rows = [row for row in rows if row.key in known]
    scores = screen.scores([row.passage.text for row in rows]).tolist() if rows else []
    name = f"{screen.card.name}-{screen.card.version}"
    found = []
    if settings.reference == "people":
        thresholds = Thresholds(settings.pass_below, settings.flag_from)
        run = _run(model[0], f"{model[0].name} + {name}", f"{name}, {model[0].model}", settings.model_dump(mode="json"))
        decided = [
            _decided(run, row, each, thresholds.route(each[0]), screen, judge, task)
            or known[row.key]._replace(run=run.run)
            for row, each in zip(rows, scores, strict=True)
        ]
        found.append((run, decided))
    run = _run(model[0], name, name, {"sha256": settings.sha256, "flag_from": _EVEN})
    alone = [
        _decided(run, row, each, "flag" if each[0] >= _EVEN else "pass", screen, judge, task)
        for row, each in zip(rows, scores, strict=True)
    ]
    return [*found, (run, [row for row in alone if row is not None])]


def _run(model: EvaluationRow, name: str, what: str, settings: dict[str, object]) -> EvaluationRow:
    told = orjson.loads(model.settings) | {"cascade": settings}
    content = orjson.dumps(told)
    return model._replace(
        run=uuid4().hex,
        name=name,
        model=what,
        settings=content.decode(),
        settings_hash=hashlib.sha256(content).hexdigest()[:32],
    )


def _decided(
    run: EvaluationRow,
    row: Row,
    scores: Sequence[float],
    route: Route,
    screen: Screen,
    judge: ModerateSettings,
    task: "Task",
) -> EvaluatedRow | None:
    """A row as the screen decides it; None if it asks."""
    if route == "ask":
        return None
    risk, *categories = scores
    identity = Identity(run.model, run.prompt_hash, run.prompt_text, task.labels)
    said = Screening(run.name, risk, "screen", audited=False)
    named = dict(zip(screen.card.categories, categories, strict=True))
    judgement = screened_judgement(judge, identity, route, named, said)
    return evaluated(run.run, row, judged_row(row.key, judgement), task)
