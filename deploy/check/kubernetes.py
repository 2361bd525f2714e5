"""Checks of the manifests, as Kustomize renders them."""

import re
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from deploy.check import facts, generated, schemas
from deploy.check.compose import too_short
from deploy.check.documents import rendered
from deploy.check.fetch import missing
from deploy.check.paths import OVERLAYS, TOOLS
from deploy.check.report import Report

# A worker that joins its group anew is not dead: `/health/live` says no for this long at most.
_REJOIN_SECONDS = 60 + 60
_ENGINE_ROUTES = {"/health", "/metrics"}


@dataclass(frozen=True)
class Manifests:
    """The documents of an overlay."""

    documents: list[Any]

    def of(self, kind: str) -> dict[str, Any]:
        """By name."""
        return {d["metadata"]["name"]: d for d in self.documents if d["kind"] == kind}

    def workloads(self) -> Iterator[tuple[str, Any, Any]]:
        """Name, manifest and pod of what runs."""
        for document in self.documents:
            if document["kind"] in {"Deployment", "Job"}:
                name = f"{document['kind']} {document['metadata']['name']}"
                yield name, document, document["spec"]["template"]["spec"]

    def workers(self) -> Iterator[tuple[str, Any, dict[str, str]]]:
        """Name of the pipeline, manifest and plain environment of each worker."""
        for name, document in self.of("Deployment").items():
            if name.startswith("weir-worker-"):
                container = document["spec"]["template"]["spec"]["containers"][0]
                yield name.removeprefix("weir-worker-"), document, self.environment(container)

    def environment(self, container: Any) -> dict[str, str]:
        """What a container finds in its environment; secrets have a value of their own name."""
        maps = self.of("ConfigMap")
        found: dict[str, str] = {}
        for source in container.get("envFrom", ()):
            found |= maps[source["configMapRef"]["name"]]["data"]
        for variable in container.get("env", ()):
            origin = variable.get("valueFrom", {})
            if reference := origin.get("configMapKeyRef"):
                found[variable["name"]] = maps[reference["name"]]["data"][reference["key"]]
            elif reference := origin.get("secretKeyRef"):
                found[variable["name"]] = f"{reference['name']}-{reference['key']}"
            else:
                found[variable["name"]] = variable["value"]
        return found


def check(report: Report) -> dict[str, Manifests]:
    """All checks; the manifests by overlay."""
    found = {}
    for overlay in OVERLAYS:
        subject = f"k8s/overlays/{overlay}"
        with report.checking(subject, "kustomize build"):
            found[overlay] = Manifests(rendered(overlay))
        if overlay in found:
            _check(report, subject, found[overlay])
    with report.checking("k8s/base", "topics and rules are what `make k8s` writes") as mistakes:
        mistakes.extend([f"{file.name} differs" for file in generated.differing()])
    return found


def _check(report: Report, subject: str, manifests: Manifests) -> None:
    for name in schemas.SETS:
        owned = [document for document in manifests.documents if schemas.owner(document) == name]
        if reason := missing(name):
            report.skip(subject, f"schemas of {name}", reason)
            continue
        with report.checking(subject, f"schemas of {name}: {len(owned)} manifests") as mistakes:
            mistakes.extend([mistake for document in owned for mistake in schemas.mistakes(document)])
    checks: dict[str, Callable[[Manifests], Iterator[str]]] = {
        "WEIR_ variables are settings, with values that fit": settings,
        "topics are those of the pipelines": topics,
        "scaling: targets, topics, groups; replicas <= partitions": scaling,
        "queries name metrics that there are": queries,
        "probes ask paths and ports that are served": probes,
        "time to stop > drain > longest request": stopping,
        "pods keep to the restricted standard; no links, no tokens": hardening,
        "secrets by reference, config maps and volumes that exist": references,
        "selectors of services, budgets, policies, monitors find pods": selectors,
    }
    for what, find in checks.items():
        with report.checking(subject, what) as mistakes:
            mistakes.extend(find(manifests))


def settings(manifests: Manifests) -> Iterator[str]:
    """The service's own loader takes the environment of each of its containers, with its files mounted."""
    needs = {"worker": ("kafka", "engine", "clickhouse"), "migrate": ("clickhouse",)}
    processes = {}
    with tempfile.TemporaryDirectory() as folder:
        for name, _, pod in manifests.workloads():
            container = pod["containers"][0]
            if container["name"] in needs:
                environment = manifests.environment(container)
                files = _with_files(environment, container, pod, Path(folder))
                processes[name] = (files, needs[container["name"]])
        yield from facts.refused(processes)


def _with_files(environment: dict[str, str], container: Any, pod: Any, folder: Path) -> dict[str, str]:
    """The same with paths under `folder`, where the files that the pod mounts are."""
    volumes = {volume["name"]: volume for volume in pod.get("volumes", ())}
    result = dict(environment)
    for mount in container.get("volumeMounts", ()):
        for item in volumes[mount["name"]].get("secret", {}).get("items", ()):
            file = folder / mount["mountPath"].strip("/") / item["path"]
            file.parent.mkdir(parents=True, exist_ok=True)
            file.touch()
    for name, value in environment.items():
        if name.startswith("WEIR_") and value.startswith("/"):
            result[name] = str(folder / value.strip("/"))
    return result


def topics(manifests: Manifests) -> Iterator[str]:
    """Every topic that a worker's pipeline uses is declared, and no other."""
    wanted: set[str] = set()
    for pipeline, _, environment in manifests.workers():
        text = facts.topics(pipeline, environment["WEIR_REVIEWS_TOPIC"], generated.PARTITIONS)
        wanted |= {document["metadata"]["name"] for document in generated.load_all_text(text)}
    declared = set(manifests.of("KafkaTopic"))
    yield from (f"{name} is not declared" for name in sorted(wanted - declared))
    yield from (f"{name} is declared, and nobody uses it" for name in sorted(declared - wanted))
    acls = [
        acl["resource"]["name"]
        for user in manifests.of("KafkaUser").values()
        for acl in user["spec"]["authorization"]["acls"]
        if acl["resource"]["type"] == "topic" and "Write" in acl["operations"]
    ]
    yield from (f"weir-worker may not write {name}" for name in sorted(wanted) if not name.startswith(tuple(acls)))


def scaling(manifests: Manifests) -> Iterator[str]:
    """What is scaled exists, by numbers that make sense."""
    partitions = {name: topic["spec"]["partitions"] for name, topic in manifests.of("KafkaTopic").items()}
    environments = {f"weir-worker-{name}": environment for name, _, environment in manifests.workers()}
    known = _trigger_settings()
    scaled = manifests.of("ScaledObject")
    yield from (f"{name} is not scaled" for name in sorted(environments.keys() - scaled.keys()))
    for name, document in scaled.items():
        spec = document["spec"]
        target = spec["scaleTargetRef"]["name"]
        if target not in manifests.of("Deployment"):
            yield f"{name}: there is no Deployment {target}"
        elif "replicas" in manifests.of("Deployment")[target]["spec"]:
            yield f"{name}: {target} says its replicas as well"
        if not spec["minReplicaCount"] <= spec["maxReplicaCount"]:
            yield f"{name}: more replicas at least than at most"
        for trigger in spec["triggers"]:
            metadata = trigger["metadata"]
            if known and (unknown := set(metadata) - known[trigger["type"]]):
                yield f"{name}: KEDA's trigger {trigger['type']} has no {', '.join(sorted(unknown))}"
            if trigger["type"] == "kafka":
                yield from _lag(name, spec, trigger, partitions, environments.get(target, {}))
        if name in environments:
            pipeline = name.removeprefix("weir-worker-")
            read = {t["metadata"]["topic"] for t in spec["triggers"] if t["type"] == "kafka"}
            if read != facts.read_by(pipeline):
                yield f"{name}: looks at {sorted(read)}, the pipeline reads {sorted(facts.read_by(pipeline))}"
    for variable in ("WEIR_KAFKA_GROUP", "WEIR_REVIEWS_TOPIC"):
        values = [environment[variable] for environment in environments.values()]
        if len(set(values)) < len(values):
            yield f"two pipelines share their {variable}"


def _lag(name: str, spec: Any, trigger: Any, partitions: dict[str, int], environment: dict[str, str]) -> Iterator[str]:
    metadata = trigger["metadata"]
    topic, group = metadata["topic"], metadata["consumerGroup"]
    if topic not in partitions:
        yield f"{name}: there is no topic {topic}"
    elif spec["maxReplicaCount"] > partitions[topic]:
        yield f"{name}: up to {spec['maxReplicaCount']} replicas, but {topic} has {partitions[topic]} partitions"
    if group != environment.get("WEIR_KAFKA_GROUP"):
        yield f"{name}: looks at the group {group}, the workers are {environment.get('WEIR_KAFKA_GROUP')}"
    if f"kafka://{metadata['bootstrapServers']}" != environment.get("WEIR_KAFKA_URL"):
        yield f"{name}: asks another Kafka than the workers"


def _trigger_settings() -> dict[str, set[str]]:
    """What KEDA's triggers may say, from KEDA's own source; empty where it is not there."""
    folder = TOOLS / "keda"
    if not folder.is_dir():
        return {}
    names = {
        kind: set(re.findall(r'keda:"name=([\w]+)', (folder / file).read_text(encoding="utf-8")))
        for kind, file in {"kafka": "kafka_scaler.go", "prometheus": "prometheus_scaler.go"}.items()
    }
    text = (folder / "kafka_scaler.go").read_text(encoding="utf-8")
    names["kafka"] |= set(re.findall(r'TriggerMetadata\["(\w+)"\]', text))
    return names


def queries(manifests: Manifests) -> Iterator[str]:
    """Metrics in the queries of triggers are metrics of the worker or of the engine."""
    known = facts.metrics()
    for name, document in manifests.of("ScaledObject").items():
        for trigger in document["spec"]["triggers"]:
            query = trigger["metadata"].get("query", "")
            for metric in re.findall(r"\b(weir_\w+|vllm:\w+|gen_ai_\w+)", query):
                if metric not in known:
                    yield f"{name}: there is no metric {metric}"
            pipeline = re.search(r'pipeline="([^"]+)"', query)
            if pipeline and name != f"weir-worker-{pipeline[1]}":
                yield f"{name}: asks for the pipeline {pipeline[1]}"


def probes(manifests: Manifests) -> Iterator[str]:
    """Paths are routes, ports are those of the container, which are those of the process."""
    for name, _, pod in manifests.workloads():
        container = pod["containers"][0]
        ports = {port["name"]: port["containerPort"] for port in container.get("ports", ())}
        environment = manifests.environment(container)
        served = re.findall(r"--port=(\d+)", " ".join(container.get("args", ()))) or [environment.get("WEIR_WEB_PORT")]
        if ports and [str(port) for port in ports.values()] != served:
            yield f"{name}: has the ports {ports}, and listens on {served[0]}"
        routes = facts.routes() if container["name"] == "worker" else _ENGINE_ROUTES
        for kind in ("startupProbe", "livenessProbe", "readinessProbe"):
            probe = container.get(kind)
            if probe is None:
                if ports:
                    yield f"{name}: has no {kind}"
                continue
            asked = probe["httpGet"]
            if asked["path"] not in routes:
                yield f"{name}: {kind}: {asked['path']} is not served"
            if asked["port"] not in ports:
                yield f"{name}: {kind}: there is no port {asked['port']}"
        alive = container.get("livenessProbe", {})
        patience = alive.get("periodSeconds", 10) * alive.get("failureThreshold", 3)
        if container["name"] == "worker" and patience <= _REJOIN_SECONDS:
            yield f"{name}: is killed after {patience} s, when it may still be joining its group"


def stopping(manifests: Manifests) -> Iterator[str]:
    """A worker gets the time that it drains; an engine the time that it finishes what runs."""
    for name, _, pod in manifests.workloads():
        container, grace = pod["containers"][0], pod.get("terminationGracePeriodSeconds", 30)
        if container["name"] == "worker":
            yield from (f"{name}: {mistake}" for mistake in too_short(grace, manifests.environment(container)))
        rest = re.findall(r"--shutdown-timeout=(\d+)", " ".join(container.get("args", ())))
        before = container.get("lifecycle", {}).get("preStop", {}).get("sleep", {}).get("seconds", 0)
        if rest and grace < int(rest[0]) + before + 10:
            yield f"{name}: {grace} s to stop are fewer than {before} s before and --shutdown-timeout={rest[0]}"


def hardening(manifests: Manifests) -> Iterator[str]:
    """The restricted pod security standard, and a little more."""
    for name, document, pod in manifests.workloads():
        inside, container = pod.get("securityContext", {}), pod["containers"][0]
        own = container.get("securityContext", {})
        resources = container.get("resources", {})
        wanted = {
            "runAsNonRoot": inside.get("runAsNonRoot") and inside.get("runAsUser", 0) > 0,
            "seccompProfile": inside.get("seccompProfile", {}).get("type") == "RuntimeDefault",
            "allowPrivilegeEscalation": own.get("allowPrivilegeEscalation") is False,
            "capabilities": own.get("capabilities") == {"drop": ["ALL"]},
            "readOnlyRootFilesystem": own.get("readOnlyRootFilesystem"),
            "automountServiceAccountToken": pod.get("automountServiceAccountToken") is False,
            # A Service called weir-… would become WEIR_… variables, which are no settings: the worker would stop.
            "enableServiceLinks": pod.get("enableServiceLinks") is False,
            "requests and a limit of memory": {"cpu", "memory"} <= resources.get("requests", {}).keys()
            and "memory" in resources.get("limits", {}),
            "image with a version": re.search(r":v?\d+(\.\d+)+", container["image"]),
        }
        if container["name"] in {"worker", "engine"} and "nvidia.com/gpu" in resources.get("limits", {}):
            wanted["GPU request"] = resources["requests"].get("nvidia.com/gpu") == resources["limits"]["nvidia.com/gpu"]
        yield from (f"{name}: {what}" for what, kept in wanted.items() if not kept)
        if document["kind"] == "Job" and not document["metadata"]["name"].endswith(container["image"].split(":")[-1]):
            yield f"{name}: does not end with the version of its image"


def references(manifests: Manifests) -> Iterator[str]:
    """Config maps and volumes that are named are there; no manifest has a secret."""
    yield from (f"Secret {name} is in the manifests" for name in manifests.of("Secret"))
    accounts, maps = manifests.of("ServiceAccount"), manifests.of("ConfigMap")
    for name, _, pod in manifests.workloads():
        container = pod["containers"][0]
        volumes = {volume["name"] for volume in pod.get("volumes", ())}
        mounted = {mount["name"] for mount in container.get("volumeMounts", ())}
        if volumes != mounted:
            yield f"{name}: volumes {sorted(volumes)}, mounted {sorted(mounted)}"
        if pod["serviceAccountName"] not in accounts:
            yield f"{name}: there is no ServiceAccount {pod['serviceAccountName']}"
        for variable in container.get("env", ()):
            secret = re.search(r"PASSWORD|KEY|TOKEN|SECRET", variable["name"])
            if secret and "secretKeyRef" not in variable.get("valueFrom", {}):
                yield f"{name}: {variable['name']} is not a reference to a secret"
    for document in manifests.of("TriggerAuthentication").values():
        for reference in document["spec"].get("configMapTargetRef", ()):
            if reference["key"] not in maps.get(reference["name"], {}).get("data", {}):
                yield f"{document['metadata']['name']}: there is no {reference['key']} in {reference['name']}"
    for document in manifests.documents:
        for wanted in document["spec"].get("triggers", ()) if document["kind"] == "ScaledObject" else ():
            login = wanted.get("authenticationRef", {}).get("name")
            if login and login not in manifests.of("TriggerAuthentication"):
                yield f"{document['metadata']['name']}: there is no TriggerAuthentication {login}"


def selectors(manifests: Manifests) -> Iterator[str]:
    """Each selector finds a pod of ours, each port is one of its."""
    pods = [document["spec"]["template"] for _, document, _ in manifests.workloads()]
    services = manifests.of("Service")
    for kind in ("Service", "PodDisruptionBudget", "NetworkPolicy"):
        for name, document in manifests.of(kind).items():
            spec = document["spec"]
            wanted = spec.get("podSelector", spec.get("selector"))
            labels = wanted if kind == "Service" else wanted.get("matchLabels", {})
            found = [pod for pod in pods if labels.items() <= pod["metadata"]["labels"].items()]
            if not found:
                yield f"{kind} {name}: finds no pod"
            open_ports = {p["containerPort"] for pod in found for p in pod["spec"]["containers"][0].get("ports", ())}
            names = {p["name"] for pod in found for p in pod["spec"]["containers"][0].get("ports", ())}
            for port in spec.get("ports", ()) if kind == "Service" else ():
                if port["targetPort"] not in names or port["port"] not in open_ports:
                    yield f"{kind} {name}: the pods do not have the port {port['port']} ({port['targetPort']})"
            for rule in spec.get("ingress", ()) if kind == "NetworkPolicy" else ():
                for port in rule["ports"]:
                    if port["port"] not in open_ports:
                        yield f"{kind} {name}: lets in to {port['port']}, on which no pod listens"
    for name, document in manifests.of("ServiceMonitor").items():
        labels = document["spec"]["selector"]["matchLabels"]
        found = [s for s in services.values() if labels.items() <= s["metadata"].get("labels", {}).items()]
        ports = {port["name"] for service in found for port in service["spec"]["ports"]}
        for endpoint in document["spec"]["endpoints"]:
            if endpoint["port"] not in ports:
                yield f"ServiceMonitor {name}: no service has the port {endpoint['port']}"
            if endpoint["path"] not in facts.routes() | _ENGINE_ROUTES:
                yield f"ServiceMonitor {name}: {endpoint['path']} is not served"
    yield from _reached(manifests)


def _reached(manifests: Manifests) -> Iterator[str]:
    """Workers may go where their settings send them."""
    out = [
        port["port"]
        for rule in manifests.of("NetworkPolicy")["weir-worker"]["spec"]["egress"]
        for port in rule["ports"]
    ]
    for pipeline, _, environment in manifests.workers():
        for name in ("KAFKA", "ENGINE", "CLICKHOUSE"):
            address = environment[f"WEIR_{name}_URL"]
            if int(address.rpartition(":")[2]) not in out:
                yield f"{pipeline}: the network policy does not let it reach {address}"
        engine = environment["WEIR_ENGINE_URL"].removeprefix("http://").split(":")
        service = manifests.of("Service").get(engine[0])
        if service is None or service["spec"]["ports"][0]["port"] != int(engine[1]):
            yield f"{pipeline}: there is no service for {environment['WEIR_ENGINE_URL']}"
