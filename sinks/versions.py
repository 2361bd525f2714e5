"""Verdicts that gave way to those of another prompt: which are to, how they are kept, and what they said."""

from typing import Any
from uuid import UUID

from clickhouse_connect.driver.client import Client

_OLDER = """
SELECT decision, label, confidence, model, prompt_hash, prompt_version, pipeline_version, cost_usd, judged_at
FROM verdict_versions_raw FINAL
WHERE pipeline = {pipeline:String} AND stage = {stage:String} AND row_id = {row:UInt128}
    AND (prompt_hash, model, pipeline_version) != ({prompt_hash:String}, {model:String}, {pipeline_version:String})
ORDER BY judged_at DESC
"""


def older(client: Client, row_id: UUID, facts: dict[str, Any]) -> list[dict[str, Any]]:
    """The versions of a verdict that were replaced, the last one first.

    facts: of the current one, as a lineage node has them. Raises clickhouse-connect's errors.
    """
    names = ("pipeline", "stage", "prompt_hash", "model", "pipeline_version")
    parameters = {"row": row_id.int, **{name: facts[name] for name in names}}
    return list(map(dict, client.query(_OLDER, parameters=parameters, tz_mode="aware").named_results()))
