"""Verdicts that gave way to those of another prompt: which are to, how they are kept, and what they said."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any, NamedTuple
from uuid import UUID

from clickhouse_connect.driver.client import Client

from sinks.clickhouse import CONSISTENT, ask, ask_named, time_text
from sinks.rows import VerdictRow

_PROMPTS = """
SELECT prompt_version, prompt_hash, model, pipeline_version, used_at FROM prompts_raw FINAL
WHERE pipeline = {pipeline:String} AND stage = {stage:String}
ORDER BY used_at DESC
"""
_MEANT = """
FROM verdicts_raw FINAL
WHERE pipeline = {pipeline:String} AND stage = {stage:String} AND prompt_hash != {prompt_hash:String}
    AND judged_at >= {since:DateTime64(3, 'UTC')} AND judged_at < {until:DateTime64(3, 'UTC')}
"""
_BY_PROMPT = (
    """
SELECT prompt_version, prompt_hash, model, topic, count() AS verdicts, sum(v.input_tokens) AS input_tokens,
    sum(v.output_tokens) AS output_tokens, sum(v.cost_usd) AS cost_usd, sum(v.engine_seconds) AS engine_seconds
"""
    + _MEANT.replace("FINAL", "AS v FINAL")
    + "GROUP BY ALL ORDER BY verdicts DESC, prompt_version, prompt_hash, model, topic"
)
_ROWS = "SELECT row_id" + _MEANT + "ORDER BY row_id"
_LEFT = "SELECT count()" + _MEANT + "AND row_id BETWEEN {first:UInt128} AND {last:UInt128}"

_COLUMNS = ", ".join(f"`{name}`" for name in VerdictRow._fields)
_KEEP = (
    f"INSERT INTO verdict_versions_raw ({_COLUMNS}) SELECT {_COLUMNS} FROM verdicts_raw FINAL "  # noqa: S608
    "WHERE pipeline = {pipeline:String} AND stage = {stage:String} AND row_id IN {rows:Array(UInt128)}"
)
_INSERT_SETTINGS = {"max_partitions_per_insert_block": 0, "distributed_foreground_insert": 1}
_OLDER = """
SELECT decision, label, confidence, model, prompt_hash, prompt_version, pipeline_version, cost_usd, judged_at
FROM verdict_versions_raw FINAL
WHERE pipeline = {pipeline:String} AND stage = {stage:String} AND row_id = {row:UInt128}
    AND (prompt_hash, model, pipeline_version) != ({prompt_hash:String}, {model:String}, {pipeline_version:String})
ORDER BY judged_at DESC
"""


class UsedPrompt(NamedTuple):
    """A prompt of a stage, as a worker used it. used_at: when the last one began to."""

    prompt_version: str
    prompt_hash: str
    model: str
    pipeline_version: str
    used_at: datetime


@dataclass(frozen=True, slots=True)
class Outdated:
    """Verdicts of a stage, judged from `since` until before `until`, by another prompt than this."""

    pipeline: str
    stage: str
    prompt_hash: str
    since: datetime
    until: datetime

    @property
    def parameters(self) -> dict[str, Any]:
        """As the queries have them."""
        times = {"since": time_text(self.since), "until": time_text(self.until)}
        return {"pipeline": self.pipeline, "stage": self.stage, "prompt_hash": self.prompt_hash} | times


def prompts(client: Client, pipeline: str, stage: str) -> list[UsedPrompt]:
    """The prompts that workers used for a stage, the last one first. As all here, it raises clickhouse-connect's
    errors.
    """
    return [UsedPrompt(*row) for row in ask(client, _PROMPTS, pipeline=pipeline, stage=stage)]


def by_prompt(client: Client, outdated: Outdated) -> list[dict[str, Any]]:
    """How many verdicts are meant, of which prompt, model and topic, and what they took."""
    return ask_named(client, _BY_PROMPT, **outdated.parameters)


def row_ids(client: Client, outdated: Outdated) -> list[int]:
    """The verdicts that are meant, in the order of their events."""
    return [row for (row,) in ask(client, _ROWS, **outdated.parameters)]


def left(client: Client, outdated: Outdated, first: int, last: int) -> int:
    """How many verdicts between two rows are meant still."""
    ((count,),) = ask(client, _LEFT, **outdated.parameters, first=first, last=last)
    return int(count)


def keep(client: Client, outdated: Outdated, rows: Sequence[int]) -> None:
    """Copy these verdicts to where versions are kept. Doing so twice does no harm. rows: as many as a query takes."""
    parameters = {"pipeline": outdated.pipeline, "stage": outdated.stage, "rows": rows}
    client.command(_KEEP, parameters=parameters, settings=CONSISTENT | _INSERT_SETTINGS)


def older(client: Client, row_id: UUID, facts: Mapping[str, Any]) -> list[dict[str, Any]]:
    """The versions of a verdict that were replaced, the last one first.

    facts: of the current one, as a lineage node has them.
    """
    names = ("pipeline", "stage", "prompt_hash", "model", "pipeline_version")
    parameters = {"row": row_id.int, **{name: facts[name] for name in names}}
    return list(map(dict, client.query(_OLDER, parameters=parameters, tz_mode="aware").named_results()))
