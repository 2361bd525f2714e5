"""The whole service on real parts: a broker, an engine, a store, and `weir worker` as its own process."""

from collections.abc import Iterator

import pytest
from e2e_service import PIPELINES, Service

from deploy.embedded.broker import TansuBroker
from deploy.embedded.engine import LlamaEngine
from deploy.embedded.kafka import ApacheKafka
from deploy.embedded.process import free_port
from deploy.embedded.store import ChdbStore
from streams.settings import Settings


@pytest.fixture(scope="session")
def engine(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LlamaEngine]:
    with LlamaEngine(tmp_path_factory.mktemp("engine")) as started:
        yield started


@pytest.fixture(scope="module", params=["tansu", "apache"])
def broker(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """Address of a broker; each test that asks for it runs on Tansu and on Apache Kafka."""
    folder = tmp_path_factory.mktemp(request.param)
    if request.param == "tansu":
        with TansuBroker(folder) as tansu:
            yield tansu.url
    else:
        with ApacheKafka(request.getfixturevalue("jars"), folder) as apache:
            yield apache.url


@pytest.fixture(scope="module")
def service(broker: str, engine: LlamaEngine, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Service]:
    """Servers with topics and tables; no worker yet."""
    folder = tmp_path_factory.mktemp("service")
    with ChdbStore(folder) as store:
        settings = Settings(
            kafka_url=broker,
            kafka_session_seconds=6,
            engine_url=engine.url,
            engine_context_tokens=512,  # long texts take many short parts, which are the same and so are computed once
            clickhouse_url=store.url,
            web_port=free_port(),
            price_input_usd=1,
            price_cached_usd=0.1,
            price_output_usd=2,
            drain_seconds=20,
        )
        ready = Service(settings, folder)
        ready.weir("migrate")
        ready.weir("topics", "create", "--pipelines", str(PIPELINES), "--partitions", "2")
        yield ready
