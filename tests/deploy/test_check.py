"""Each check of the deployment files finds nothing in them as they are, and finds what a test breaks."""

import copy
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from deploy.check import compose, facts, generated, images, kubernetes, schemas
from deploy.check.documents import Refused, lint, rendered, some_variables
from deploy.check.documents import compose as project
from deploy.check.fetch import missing
from deploy.check.kubernetes import Manifests
from deploy.check.paths import DOCKERFILE, OVERLAYS
from deploy.check.report import FAILED, OK, SKIPPED, Report

Services = dict[str, Any]


def _needs(*tools: str) -> None:
    for tool in tools:
        if reason := missing(tool):
            pytest.skip(f"{tool}: {reason}")


@pytest.fixture(scope="module")
def loaded() -> Services:
    _needs("compose")
    found: Services = {}
    for profile in compose.PROFILES:
        found |= project(some_variables(), profile)["services"]
    return found


@pytest.fixture
def services(loaded: Services) -> Services:
    return copy.deepcopy(loaded)


@pytest.fixture(scope="module")
def built() -> dict[str, list[Any]]:
    _needs("kustomize")
    return {overlay: rendered(overlay) for overlay in OVERLAYS}


@pytest.fixture
def production(built: dict[str, list[Any]]) -> Manifests:
    return Manifests(copy.deepcopy(built["production"]))


def _worker(manifests: Manifests) -> Any:
    return manifests.of("Deployment")["weir-worker-call-review"]["spec"]["template"]["spec"]


def _settings(manifests: Manifests) -> Any:
    (name,) = (name for name in manifests.of("ConfigMap") if name.startswith("weir-") and name != "weir-scaler")
    return manifests.of("ConfigMap")[name]["data"]


COMPOSE: dict[str, Callable[[Any], Iterator[str]]] = {
    "settings": compose.settings,
    "mounts": compose.mounts,
    "hardening": compose.hardening,
    "loopback": compose.loopback,
    "pinned": compose.pinned,
    "health": compose.health,
    "stopping": compose.stopping,
    "scraped": compose.scraped,
    "users": compose.users,
}


@pytest.mark.parametrize("check", COMPOSE.values(), ids=COMPOSE)
def test_compose_file(services: Services, check: Callable[[Any], Iterator[str]]) -> None:
    assert list(check(services)) == []


def _set(*path: Any) -> Callable[[Any], None]:
    """Put the last of `path` where the others lead."""

    def change(data: Any) -> None:
        *way, last, value = path
        for step in way:
            data = data[step]
        data[last] = value

    return change


@pytest.mark.parametrize(
    ("check", "change", "said"),
    [
        (compose.settings, _set("worker", "environment", "WEIR_ENGNE_URL", "x"), "did you mean WEIR_ENGINE_URL"),
        (compose.settings, _set("topics", "environment", "WEIR_KAFKA_URL", "kafka:9092"), "WEIR_KAFKA_URL"),
        (compose.mounts, _set("worker", "volumes", 0, "source", "./pipeline"), "there is no deploy/pipeline"),
        (compose.mounts, _set("grafana", "volumes", 1, "read_only", False), "not read-only"),
        (compose.hardening, _set("kafka", "user", "0:0"), "user is not root"),
        (compose.hardening, _set("vllm", "deploy", "resources", "limits", {}), "limits"),
        (compose.loopback, _set("kafka", "ports", 0, "host_ip", "0.0.0.0"), "9094 is open on 0.0.0.0"),
        (compose.pinned, _set("grafana", "image", "grafana/grafana:latest"), "has no version"),
        (compose.health, _set("worker", "environment", "WEIR_WEB_PORT", "8081"), "nothing listens on the port"),
        (compose.health, _set("worker", "healthcheck", "test", 3, "http://127.0.0.1:8080/ready"), "/ready is not"),
        (compose.health, _set("worker", "environment", "WEIR_ENGINE_URL", "http://engine:8001"), "not listen on 8001"),
        (compose.health, _set("worker", "environment", "WEIR_KAFKA_URL", "kafka://broker:9092"), "no service broker"),
        (compose.stopping, _set("worker", "stop_grace_period", "2m"), "120 s to stop are too few"),
        (compose.stopping, _set("worker", "environment", "WEIR_DRAIN_SECONDS", "60"), "no longer than a request"),
        (compose.scraped, _set("worker", "environment", "WEIR_WEB_PORT", "8081"), "worker does not listen on 8080"),
        (compose.users, _set("migrate", "environment", "WEIR_CLICKHOUSE_USER", "default"), "no user default"),
        (compose.users, _set("worker", "environment", "WEIR_CLICKHOUSE_PASSWORD", "x"), "no user weir_writer"),
        (compose.users, _set("grafana", "environment", {}), "$CLICKHOUSE_READER_PASSWORD is not set"),
    ],
)
def test_compose_mistakes(
    services: Services, check: Callable[[Any], Iterator[str]], change: Callable[[Any], None], said: str
) -> None:
    change(services)
    assert said in "\n".join(check(services))


def test_compose_refuses_to_start_without_a_password() -> None:
    _needs("compose")
    with pytest.raises(Refused, match="GRAFANA_ADMIN_PASSWORD"):
        project({**some_variables(), "GRAFANA_ADMIN_PASSWORD": ""}, "cpu")


KUBERNETES: dict[str, Callable[[Manifests], Iterator[str]]] = {
    "settings": kubernetes.settings,
    "topics": kubernetes.topics,
    "scaling": kubernetes.scaling,
    "queries": kubernetes.queries,
    "probes": kubernetes.probes,
    "stopping": kubernetes.stopping,
    "hardening": kubernetes.hardening,
    "references": kubernetes.references,
    "selectors": kubernetes.selectors,
}


@pytest.mark.parametrize("check", KUBERNETES.values(), ids=KUBERNETES)
@pytest.mark.parametrize("overlay", OVERLAYS)
def test_manifests(built: dict[str, list[Any]], overlay: str, check: Callable[[Manifests], Iterator[str]]) -> None:
    assert list(check(Manifests(built[overlay]))) == []


def _worker_is(*path: Any) -> Callable[[Manifests], None]:
    return lambda manifests: _set(*path)(_worker(manifests))


def _setting(name: str, value: str) -> Callable[[Manifests], None]:
    return lambda manifests: _set(name, value)(_settings(manifests))


def _named(kind: str, name: str, *path: Any) -> Callable[[Manifests], None]:
    return lambda manifests: _set(*path)(manifests.of(kind)[name])


@pytest.mark.parametrize(
    ("check", "change", "said"),
    [
        (kubernetes.settings, _setting("WEIR_DRAIN_SECOND", "9"), "did you mean WEIR_DRAIN_SECONDS"),
        (kubernetes.settings, _setting("WEIR_KAFKA_CA_FILE", "/etc/weir/ca.crt"), "there is no file"),
        (
            kubernetes.topics,
            _named("KafkaTopic", "calls.turns", "metadata", "name", "calls.turn"),
            "calls.turns is not",
        ),
        (kubernetes.scaling, _named("KafkaTopic", "calls.claims", "spec", "partitions", 8), "has 8 partitions"),
        (
            kubernetes.scaling,
            _named("ScaledObject", "weir-worker-call-review", "spec", "maxReplicaCount", 33),
            "up to 33 replicas",
        ),
        (
            kubernetes.scaling,
            _named("ScaledObject", "weir-engine", "spec", "scaleTargetRef", "name", "engine"),
            "no Deployment engine",
        ),
        (
            kubernetes.scaling,
            _named("ScaledObject", "weir-worker-call-review", "spec", "triggers", 0, "metadata", "consumerGroup", "w"),
            "looks at the group w",
        ),
        (
            kubernetes.queries,
            _named("ScaledObject", "weir-engine", "spec", "triggers", 0, "metadata", "query", "vllm:waiting"),
            "no metric vllm:waiting",
        ),
        (
            kubernetes.probes,
            _worker_is("containers", 0, "livenessProbe", "httpGet", "path", "/live"),
            "/live is not served",
        ),
        (
            kubernetes.probes,
            _worker_is("containers", 0, "livenessProbe", "failureThreshold", 3),
            "is killed after 45 s",
        ),
        (kubernetes.probes, _setting("WEIR_WEB_PORT", "9000"), "listens on 9000"),
        (kubernetes.stopping, _worker_is("terminationGracePeriodSeconds", 150), "150 s to stop are too few"),
        (kubernetes.stopping, _setting("WEIR_ENGINE_TIMEOUT_SECONDS", "300"), "no longer than a request"),
        (kubernetes.hardening, _worker_is("enableServiceLinks", True), "enableServiceLinks"),
        (kubernetes.hardening, _worker_is("containers", 0, "image", "weir:latest"), "image with a version"),
        (kubernetes.references, _worker_is("containers", 0, "volumeMounts", 0, "name", "temp"), "volumes"),
        (kubernetes.references, _worker_is("containers", 0, "env", 1, {"name": "WEIR_KAFKA_PASSWORD"}), "a secret"),
        (
            kubernetes.selectors,
            _named("PodDisruptionBudget", "weir-engine", "spec", "selector", "matchLabels", {"app": "x"}),
            "finds no pod",
        ),
        (
            kubernetes.selectors,
            _named("Service", "weir-engine", "spec", "ports", 0, "targetPort", "web"),
            "do not have the port",
        ),
        (kubernetes.selectors, _setting("WEIR_CLICKHOUSE_URL", "https://c:9440"), "does not let it reach"),
    ],
)
def test_mistakes_in_manifests(
    production: Manifests,
    check: Callable[[Manifests], Iterator[str]],
    change: Callable[[Manifests], None],
    said: str,
) -> None:
    change(production)
    assert said in "\n".join(check(production))


@pytest.mark.parametrize("name", schemas.SETS)
def test_manifests_fit_their_schemas(built: dict[str, list[Any]], name: str) -> None:
    _needs(name)
    owned = [document for documents in built.values() for document in documents if schemas.owner(document) == name]
    assert owned
    assert [mistake for document in owned for mistake in schemas.mistakes(document)] == []


@pytest.mark.parametrize(
    ("kind", "name", "path", "said"),
    [
        ("Deployment", "weir-engine", ("spec", "template", "spec", "terminationGracePeriod", 9), "Additional"),
        ("Deployment", "weir-engine", ("spec", "minReadySeconds", "ten"), "is not of type 'integer'"),
        ("ScaledObject", "weir-engine", ("spec", "maxReplicas", 9), "Additional"),
        ("PrometheusRule", "weir", ("spec", "groups", [{"rules": []}]), "'name' is a required property"),
        ("ServiceMonitor", "weir-engine", ("spec", "endpoints", 0, "interval", "soon"), "does not match"),
        ("KafkaTopic", "calls.turns", ("spec", "partitions", 0), "less than the minimum"),
    ],
)
def test_schemas_are_strict(production: Manifests, kind: str, name: str, path: tuple[Any, ...], said: str) -> None:
    document = production.of(kind)[name]
    _needs(schemas.owner(document))
    _set(*path)(document)
    assert said in "\n".join(schemas.mistakes(document))


def test_a_kind_that_nobody_serves(production: Manifests) -> None:
    _needs("kubernetes")
    document = production.of("Deployment")["weir-engine"] | {"apiVersion": "apps/v1beta1"}
    assert list(schemas.mistakes(document)) == ["Deployment weir-engine: apps/v1beta1 has no such kind"]


def test_generated_manifests_are_up_to_date() -> None:
    assert generated.differing() == []


def test_dockerfile() -> None:
    assert [*images.copied(), *images.labels(), *images.pins()] == []


def test_dockerfile_fits_buildkit(tmp_path: Any) -> None:
    _needs("dockerfile")
    assert lint(DOCKERFILE) == []
    file = tmp_path / "Dockerfile"
    file.write_text("from debian:12 AS Build\nENV PASSWORD=x\nCOPY --from=nothing a b\n", encoding="utf-8")
    assert lint(file) != []


def test_versions() -> None:
    same = {"weir:0.1.0", f"apache/kafka:{facts.tested_versions()['apache/kafka']}"}
    assert list(images.versions({"compose": same, "production": {"registry.example.com/weir:0.1.0"}})) == []
    (said,) = images.versions({"compose": {"apache/kafka:3.9.0"}})
    assert "tested is" in said
    (said,) = images.versions({"compose": {"prom/prometheus:v3.0.0"}, "dev": {"prom/prometheus:v3.1.0"}})
    assert "prom/prometheus" in said


def test_report_goes_on_after_an_error() -> None:
    report = Report()
    report.add("a", "b", [])
    report.skip("a", "c", "no tool")
    with report.checking("a", "d"):
        raise KeyError("x")
    assert [entry.state for entry in report.entries] == [OK, SKIPPED, FAILED]
    assert report.failed[0].detail == "KeyError: 'x'"
