"""Every query of every panel, against a real Prometheus that scraped a real worker, and the store with its rows."""

import asyncio

import grafana
import pytest
from clickhouse_connect.driver.exceptions import DatabaseError
from grafana import Query
from observed_service import Observed

pytestmark = pytest.mark.slow

SECONDS = 30

# Of words the upper end of a tree has no parents.
NOT_OF_WORDS = {"Made from"}
# What may be zero whenever it is scraped, because nothing waits for long here, or because it did not happen.
ZERO = {
    "cost / Held back by limits / A",
    "quality / Judged anew, recalled, split / B",
    "quality / Judged anew, recalled, split / C",
    "quality / Open cascades / A",
    "service / Dependencies down / A",
    "service / Engine failures / C",
    "service / Forecast, of the SLA / A",
    "service / Forecast of the SLA / A",
    "service / Messages that wait in Kafka / A",
    "service / Oldest row in flight, of the SLA / A",
    "service / Prompts / B",
    "service / Prompts / C",
    "service / Rows in flight / A",
    "service / Rows to ClickHouse / B",
    "service / Workers / B",
}


async def _unanswered(service: Observed, queries: list[Query], identity: str) -> dict[str, str]:
    """What has no answer, or is empty, with the reason. Prometheus is asked again until what came last is scraped."""
    deadline = asyncio.get_running_loop().time() + SECONDS
    while True:
        around = service.around(identity)
        found = {}
        for query in queries:
            try:
                answer = grafana.ask(query, around, service.prometheus, service.client)
            except (ValueError, DatabaseError) as error:
                found[query.name] = str(error)
                continue
            if answer.empty:
                found[query.name] = "empty"
            elif answer.all_zero and query.name not in ZERO:
                found[query.name] = "zero"
        if not found or asyncio.get_running_loop().time() > deadline:
            return found
        queries = [query for query in queries if query.name in found]
        await asyncio.sleep(0.5)


def _said(found: dict[str, str]) -> str:
    return "\n".join(f"{name}: {reason}" for name, reason in found.items())


async def test_every_panel_is_filled(service: Observed) -> None:
    assert _said(await _unanswered(service, grafana.queries(), service.row)) == ""


async def test_words_are_found_by_the_id_that_their_producer_gave_them(service: Observed) -> None:
    queries = [query for query in grafana.queries() if query.board == "lineage" and query.panel not in NOT_OF_WORDS]
    assert _said(await _unanswered(service, queries, service.event)) == ""
