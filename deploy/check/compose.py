"""Checks of the Compose file and of what it mounts."""

import re
import xml.etree.ElementTree as ET
from collections.abc import Iterator
from typing import Any
from urllib.parse import urlsplit

from deploy.check import facts
from deploy.check.documents import Refused, compose, example_variables, load, some_variables
from deploy.check.paths import COMPOSE, DEPLOY, ROOT
from deploy.check.report import Report

PROFILES = ("cpu", "gpu")
SUBJECT = "deploy/compose.yaml"
_ONE_SHOT = frozenset({"migrate", "topics"})
_ENGINES = frozenset({"vllm", "llama"})
# What a process of Weir may use, by service.
_NEEDS = {"migrate": ("clickhouse",), "topics": ("kafka",), "worker": ("kafka", "engine", "clickhouse")}
_VERSION = re.compile(r":v?\d+(\.\d+)+[\w.-]*$")


def check(report: Report) -> None:
    """All checks that need Compose's loader."""
    projects = {}
    for profile in PROFILES:
        with report.checking(SUBJECT, f"schema, variables, references (profile {profile})"):
            projects[profile] = compose(some_variables(), profile)
    if len(projects) < len(PROFILES):
        return
    services = {name: service for project in projects.values() for name, service in project["services"].items()}
    report.add(SUBJECT, "no required variable has a default", _defaults())
    report.add(SUBJECT, "variables are those of .env.example", _variables())
    checks = {
        "WEIR_ variables are settings, with values that fit": settings,
        "mounted files exist, read-only": mounts,
        "not root, read-only root, no capabilities, limits": hardening,
        "ports on loopback": loopback,
        "images pinned": pinned,
        "health checks ask what answers, on the port that is served": health,
        "time to stop > drain > longest request": stopping,
        "what Prometheus scrapes is served": scraped,
        "users, passwords and data sources agree": users,
    }
    for what, find in checks.items():
        with report.checking(SUBJECT, what) as mistakes:
            mistakes.extend(find(services))


def settings(services: Any) -> Iterator[str]:
    """The service's own loader takes the environment of each of its containers."""
    yield from facts.refused({name: (services[name]["environment"], needs) for name, needs in _NEEDS.items()})


def mounts(services: Any) -> Iterator[str]:
    """Each bind mount is there, and read-only."""
    for name, service in services.items():
        for volume in service.get("volumes") or ():
            if volume["type"] != "bind":
                continue
            source = DEPLOY / volume["source"]
            if not volume.get("read_only"):
                yield f"{name}: {volume['target']} is not read-only"
            if not source.exists() and volume.get("bind", {}).get("create_host_path", True):
                yield f"{name}: there is no {source.relative_to(ROOT)}"
        build = service.get("build")
        if build and not (COMPOSE.parent / build["context"] / build["dockerfile"]).is_file():
            yield f"{name}: there is no {build['dockerfile']}"


def hardening(services: Any) -> Iterator[str]:
    """No container is root, writes its image or has capabilities; each has limits and, if it stays, a health check."""
    for name, service in services.items():
        limits = service.get("deploy", {}).get("resources", {}).get("limits", {})
        wanted = {
            "user is not root": service.get("user", "0").split(":")[0] not in {"", "0", "root"},
            "read_only": service.get("read_only"),
            "cap_drop ALL": service.get("cap_drop") == ["ALL"],
            "no-new-privileges": "no-new-privileges:true" in (service.get("security_opt") or ()),
            "limits of cpus, memory and pids": {"cpus", "memory", "pids"} <= limits.keys(),
            "no privileged": not service.get("privileged"),
            "healthcheck": name in _ONE_SHOT or service.get("healthcheck", {}).get("test"),
            "restart": service.get("restart"),
        }
        yield from (f"{name}: {what}" for what, kept in wanted.items() if not kept)


def loopback(services: Any) -> Iterator[str]:
    """No port is open to other machines."""
    for name, service in services.items():
        for port in service.get("ports") or ():
            if port.get("host_ip") != "127.0.0.1":
                yield f"{name}: {port['published']} is open on {port.get('host_ip') or 'every interface'}"


def pinned(services: Any) -> Iterator[str]:
    """Each image has a version."""
    for name, service in services.items():
        if not _VERSION.search(service["image"]):
            yield f"{name}: {service['image']} has no version"


def health(services: Any) -> Iterator[str]:
    """Health checks ask a path that is served, on a port that is listened on."""
    paths = {"worker": facts.routes(), "vllm": {"/health"}, "llama": {"/health"}, "clickhouse": {"/ping"}}
    for name, service in services.items():
        test = " ".join(map(str, service.get("healthcheck", {}).get("test", ())))
        for url in map(urlsplit, re.findall(r"https?://[^\s'\"]+", test)):
            if url.port not in listened(name, service):
                yield f"{name}: nothing listens on the port of {url.geturl()}"
            if name in paths and url.path not in paths[name]:
                yield f"{name}: {url.path} is not served; there are: {', '.join(sorted(paths[name]))}"
    for name, service in services.items():
        for port in service.get("ports") or ():
            if port["target"] not in listened(name, service):
                yield f"{name}: publishes {port['target']}, on which nothing listens"
    yield from _addresses(services)


def _addresses(services: Any) -> Iterator[str]:
    """Every address of another service, in environments and in data sources, is one that it listens on."""
    names = {**services, "engine": services["vllm"]}
    texts = {
        f"{name}: {key}": str(value)
        for name, s in services.items()
        for key, value in (s.get("environment") or {}).items()
    }
    for place, text in texts.items():
        if place.endswith("ADVERTISED_LISTENERS"):
            continue
        for host, port in re.findall(r"://([a-z]+):(\d+)", text):
            if host not in names:
                yield f"{place}: there is no service {host}"
            elif int(port) not in listened(host, names[host]):
                yield f"{place}: {host} does not listen on {port}"


def listened(name: str, service: Any) -> set[int]:
    """Ports on which a service listens, as its own settings say."""
    environment = service.get("environment") or {}
    words = " ".join([*(service.get("command") or ()), *map(str, environment.values())])
    if name == "kafka":
        return {int(port) for port in re.findall(r":(\d+)", environment["KAFKA_LISTENERS"])}
    if name == "worker":
        return {int(environment["WEIR_WEB_PORT"])}
    if found := re.findall(r"--port=(\d+)", words):
        return {int(found[0])}
    return {"clickhouse": {8123}, "prometheus": {9090}, "grafana": {3000}}.get(name, set())  # their defaults


def stopping(services: Any) -> Iterator[str]:
    """A worker gets the time that it drains, which is longer than a request may take."""
    worker = services["worker"]
    grace = seconds(worker["stop_grace_period"])
    yield from too_short(grace, worker["environment"])


def too_short(grace: float, environment: Any) -> Iterator[str]:
    """What is wrong with the time to stop. Both settings have to be said, so that one sees them together."""
    drain, longest = (float(environment[f"WEIR_{name}"]) for name in ("DRAIN_SECONDS", "ENGINE_TIMEOUT_SECONDS"))
    if drain <= longest:
        yield f"WEIR_DRAIN_SECONDS is {drain:g}: no longer than a request to the engine may take, {longest:g}"
    if grace < drain + 30:
        yield f"{grace:g} s to stop are too few: {drain:g} s of draining, and then rows, verdicts and commits"


def seconds(text: str) -> float:
    """Seconds of a duration such as 3m30s."""
    return sum(float(n) * {"h": 3600, "m": 60, "s": 1}[unit] for n, unit in re.findall(r"([\d.]+)([hms])", text))


def scraped(services: Any) -> Iterator[str]:
    """Every target of Prometheus is a service and the port that it listens on."""
    for job in load(DEPLOY / "prometheus" / "prometheus.yml")["scrape_configs"]:
        for found in job.get("dns_sd_configs", ()):
            for name in found["names"]:
                service = services["vllm" if name == "engine" else name]
                if found["port"] not in listened(name, service):
                    yield f"{job['job_name']}: {name} does not listen on {found['port']}"
    for name in _ENGINES:
        if services[name]["networks"]["default"]["aliases"] != ["engine"]:
            yield f"{name}: is not called engine"


def users(services: Any) -> Iterator[str]:
    """Who logs in to ClickHouse is among its users, with a password from the variable that the server has."""
    tree = ET.parse(DEPLOY / "clickhouse" / "users.xml").getroot().find("users")  # noqa: S314  our own file
    if tree is None:
        yield "clickhouse/users.xml has no users"
        return
    secrets = {user.tag: user.find("password") for user in tree}
    passwords = {name: str(secret.get("from_env")) for name, secret in secrets.items() if secret is not None}
    given = services["clickhouse"]["environment"]
    yield from (f"clickhouse: {name} is not set" for name in passwords.values() if name not in given)
    default = tree.find("default")
    if default is None or default.get("remove") is None:
        yield "clickhouse/users.xml keeps the user default, which has no password"
    for name in ("migrate", "worker"):
        environment = services[name]["environment"]
        user = environment["WEIR_CLICKHOUSE_USER"]
        if given.get(passwords.get(user, "")) != environment["WEIR_CLICKHOUSE_PASSWORD"]:
            yield f"{name}: ClickHouse has no user {user} with this password"
    grafana = services["grafana"]["environment"]
    for source in load(DEPLOY / "grafana" / "provisioning" / "datasources" / "weir.yaml")["datasources"]:
        json_data, secret = source["jsonData"], source.get("secureJsonData", {}).get("password", "")
        if secret and secret.removeprefix("$") not in grafana:
            yield f"grafana: {secret} is not set"
        if secret and passwords.get(json_data["username"]) != secret.removeprefix("$"):
            yield f"grafana: ClickHouse has no user {json_data['username']} with the password {secret}"
        host, port = json_data.get("host"), json_data.get("port")
        if url := source.get("url"):
            host, port = urlsplit(url).hostname, urlsplit(url).port
        if host not in services or port not in listened(host, services[host]):
            yield f"grafana: {source['name']}: {host} does not listen on {port}"
    (provider,) = load(DEPLOY / "grafana" / "provisioning" / "dashboards" / "weir.yaml")["providers"]
    if provider["options"]["path"] not in {volume["target"] for volume in services["grafana"]["volumes"]}:
        yield f"grafana: {provider['options']['path']} is not mounted"


def _defaults() -> Iterator[str]:
    """Compose must refuse to start without any one of the required variables."""
    for name in (name for name, required in example_variables().items() if required):
        try:
            compose({key: value for key, value in some_variables().items() if key != name}, "cpu")
        except Refused as error:
            if name not in str(error):
                yield f"without {name} Compose says: {error}"
        else:
            yield f"{name} may be left out"


def _variables() -> Iterator[str]:
    text = COMPOSE.read_text(encoding="utf-8")
    used = {name: mark == ":?" for name, mark in re.findall(r"\$\{([A-Z_]+)(:\?|:-)", text)}
    if used != example_variables():
        yield f"differ: {sorted(set(used.items()) ^ set(example_variables().items()))}"
