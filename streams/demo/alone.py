"""What the model by itself says of the events that the screen decided: the difference is what the screen is worth."""

from collections.abc import Sequence
from pathlib import Path

import orjson

from inference import operators
from inference.openai import OpenAiEngine
from streams.cli import labelled
from streams.cli.judging import judge_each
from streams.demo.account import Account, by_screen
from streams.demo.traffic import Item
from streams.pipeline import Pipeline
from streams.settings import Settings


async def ask(settings: Settings, account: Account, items: Sequence[Item], folder: Path) -> None:
    """Fill `account.alone` for the labelled events among `items`. Events that the engine gives up stay out."""
    for pipeline in account.pipelines:
        if pipeline.stages[0].cascade is not None:
            await _ask(settings, account, pipeline, [item for item in items if item.topic == pipeline.source], folder)


async def _ask(settings: Settings, account: Account, pipeline: Pipeline, items: Sequence[Item], folder: Path) -> None:
    stage, topic = pipeline.stages[0], pipeline.source
    assert stage.judge is not None
    file = folder / f"{pipeline.name}.jsonl"
    file.write_bytes(b"\n".join(orjson.dumps(item.row) for item in items if item.label is not None))
    rows = [
        row
        for row in labelled.read(file, labelled.Fields(), {}, stage.context).rows
        if by_screen(account.verdicts.get((topic, row.id)))
    ]
    if not rows:
        return
    engine = OpenAiEngine(settings.engine)
    try:
        await engine.connect()
        operator = operators.create(stage.judge, engine, settings.prices)
        await operator.prepare()
        title = "asking the model about what the screen decided, to compare"
        found = await judge_each(operator, rows, title=title, at_once=settings.rows_in_flight)
    finally:
        await engine.close()
    for row, judgement in zip(rows, found, strict=True):
        if judgement is not None:
            account.alone[topic, row.id] = judgement.decision
