"""What a prompt or a model decided: every verdict that was made with it, also those that were replaced since."""

from dataclasses import dataclass
from typing import Any

from clickhouse_connect.driver.client import Client

_MEANT = """
FROM verdict_versions
WHERE ({prompt:String} = '' OR prompt_hash = {prompt:String} OR prompt_version = {prompt:String})
    AND ({model:String} = '' OR model = {model:String})
    AND ({stage:String} = '' OR stage = {stage:String} OR concat(pipeline, '/', stage) = {stage:String})
"""
_COUNTS = """
SELECT pipeline, stage, prompt_version, prompt_hash, model, decision, count() AS verdicts, countIf(current) AS current,
    countIf(reused_from != 0) AS reused, sum(cost_usd) AS cost_usd, min(judged_at) AS first_at,
    max(judged_at) AS last_at
"""
_GROUPED = "GROUP BY ALL ORDER BY pipeline, stage, first_at, decision"
_ROWS = """
SELECT toString(row_uuid) AS row_id, pipeline, stage, prompt_version, prompt_hash, model, decision, label, confidence,
    current, tenant, event_time, judged_at
"""
_LAST = "ORDER BY judged_at DESC, row_id LIMIT {limit:UInt32}"


@dataclass(frozen=True, slots=True)
class Influence:
    """counts: by pipeline, stage, prompt, model and decision; `current` of them are not replaced. rows: the last ones.

    A judgement that was taken over for the same words counts too: its verdict names the same prompt and model.
    """

    counts: list[dict[str, Any]]
    rows: list[dict[str, Any]]


def influence(client: Client, prompt: str = "", model: str = "", stage: str = "", limit: int = 20) -> Influence:
    """What was judged with a prompt, a model, or both.

    prompt: hash or version. stage: its name, or `pipeline/stage`. Empty for any. limit: rows to name. Raises
    clickhouse-connect's errors.
    """
    meant = {"prompt": prompt, "model": model, "stage": stage, "limit": limit}
    queries = _COUNTS + _MEANT + _GROUPED, _ROWS + _MEANT + _LAST
    counts, rows = (client.query(query, parameters=meant, tz_mode="aware") for query in queries)
    return Influence(list(map(dict, counts.named_results())), list(map(dict, rows.named_results())))
