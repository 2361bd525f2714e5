"""What tenants have spent, as far as it was stored."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from functools import partial

from clickhouse_connect.driver.client import Client

from sinks.clickhouse import CONSISTENT, StoreSettings
from sinks.session import Session

_SPENT = """
SELECT pipeline, tenant, sum(cost_usd), sum(input_tokens + output_tokens)
FROM engine_usage_raw FINAL
WHERE `use` = 'judged' AND period_start >= {since:DateTime64(3, 'UTC')} AND pipeline IN {pipelines:Array(String)}
GROUP BY pipeline, tenant
"""


@dataclass(frozen=True, slots=True)
class Spent:
    """US dollars, and tokens of prompts and answers."""

    usd: float = 0.0
    tokens: int = 0

    def __add__(self, other: "Spent") -> "Spent":
        return Spent(self.usd + other.usd, self.tokens + other.tokens)


class Spend:
    """Sums up what was stored of the engine's usage."""

    def __init__(self, settings: StoreSettings) -> None:
        self._session = Session(settings, "clickhouse-spend")

    async def since(self, start: datetime, pipelines: Sequence[str]) -> Mapping[tuple[str, str], Spent]:
        """What was spent on rows in periods that began at `start` or later, by pipeline and tenant.

        Waits while the store is unavailable. Raises StoreMisconfigured.
        """
        return await self._session.run(partial(_spent, start, pipelines))

    def close(self) -> None:
        """Disconnect. Does not wait for a query that is running."""
        self._session.close()


def _spent(start: datetime, pipelines: Sequence[str], client: Client) -> Mapping[tuple[str, str], Spent]:
    parameters = {"since": start, "pipelines": list(pipelines)}
    rows = client.query(_SPENT, parameters=parameters, settings=CONSISTENT).result_rows
    return {(pipeline, tenant): Spent(usd, tokens) for pipeline, tenant, usd, tokens in rows}
