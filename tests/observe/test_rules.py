"""Alerts: checked by promtool, about metrics that there are, and each with a runbook."""

import re
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import grafana
import pytest
from ruamel.yaml import YAML

from streams.metrics import Metrics

ROOT = Path(__file__).parents[2]
RULES = ROOT / "deploy" / "prometheus" / "rules"
RUNBOOKS = ROOT / "docs" / "runbooks"
TESTS = sorted((RULES / "tests").glob("*.yaml"))


def _load(file: Path) -> Any:
    return YAML(typ="safe").load(file)


def _rules() -> Iterator[dict[str, Any]]:
    for file in sorted(RULES.glob("*.yaml")):
        for group in _load(file)["groups"]:
            yield from group["rules"]


def _alerts() -> list[dict[str, Any]]:
    return [rule for rule in _rules() if "alert" in rule]


def _promtool(program: Path, *arguments: str) -> None:
    done = subprocess.run([str(program), *arguments], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr


def test_promtool_accepts_the_rules(promtool: Path) -> None:
    _promtool(promtool, "check", "rules", *map(str, sorted(RULES.glob("*.yaml"))))


@pytest.mark.parametrize("file", TESTS, ids=lambda file: file.stem)
def test_alerts_fire_when_they_should(promtool: Path, file: Path) -> None:
    _promtool(promtool, "test", "rules", str(file))


def test_each_alert_is_seen_to_fire_and_not_to_fire() -> None:
    fires, rests = set(), set()
    for file in TESTS:
        for case in _load(file)["tests"]:
            for look in case.get("alert_rule_test", ()):
                (fires if look["exp_alerts"] else rests).add(look["alertname"])
    wanted = {rule["alert"] for rule in _alerts()}
    assert fires == wanted
    assert rests == wanted


def test_each_alert_says_what_it_is_and_what_to_do() -> None:
    for rule in _alerts():
        assert rule["labels"]["severity"] in {"page", "ticket"}
        assert rule["annotations"].keys() == {"summary", "description", "runbook_url"}


def test_each_alert_has_a_runbook_and_each_runbook_an_alert() -> None:
    linked = {rule["annotations"]["runbook_url"] for rule in _alerts()}
    kept = {f"docs/runbooks/{page.name}" for page in RUNBOOKS.glob("*.md") if page.name != "README.md"}
    assert linked == kept
    for rule in _alerts():
        assert f"`{rule['alert']}`" in (ROOT / rule["annotations"]["runbook_url"]).read_text()
        assert f"`{rule['alert']}`" in (RUNBOOKS / "README.md").read_text()


@pytest.mark.parametrize("page", sorted(RUNBOOKS.glob("*.md")), ids=lambda page: page.stem)
def test_runbooks_answer_the_same_questions_and_their_links_lead_somewhere(page: Path) -> None:
    text = page.read_text()
    if page.name != "README.md":
        headings = re.findall(r"^## (.*)$", text, re.MULTILINE)
        wanted = ["What it means for users", "Where to look first", "What to do", "How to know that it is over"]
        assert headings == wanted
        assert (
            _panels_named(text)
            <= {panel["title"] for board in grafana.boards().values() for panel in grafana.panels(board)}
            | {board["title"].removeprefix("Weir: ").capitalize() for board in grafana.boards().values()}
            | _headings()
        )
    for link in re.findall(r"\]\(([^)#]+)(?:#[^)]*)?\)", text):
        assert (page.parent / link).exists(), link


def _panels_named(text: str) -> set[str]:
    """What a page writes in italics: panels, dashboards and their rows."""
    return {
        name.replace("\n", " ")
        for name in re.findall(r"(?<![*\w])\*([^*]+)\*(?!\*)", re.sub(r"```.*?```", "", text, flags=re.S))
    }


def _headings() -> set[str]:
    return {
        panel["title"] for board in grafana.boards().values() for panel in board["panels"] if panel["type"] == "row"
    }


def _expressions() -> dict[str, str]:
    found = {query.name: query.text for query in grafana.queries() if not query.sql}
    found |= {rule.get("alert") or rule["record"]: rule["expr"] for rule in _rules()}
    for name, board in grafana.boards().items():
        for variable in board["templating"]["list"]:
            if variable["type"] == "query":
                found[f"{name} ${variable['name']}"] = variable["definition"]
    return found


def _known() -> set[str]:
    """Every series that a worker has, and those that the rules record."""
    known = {"up"}
    for metric in Metrics().all():
        described = next(iter(metric.describe()))
        suffixes = {"counter": ("_total",), "histogram": ("_bucket", "_sum", "_count")}.get(described.type, ("",))
        known |= {described.name + suffix for suffix in suffixes}
    return known | {rule["record"] for rule in _rules() if "record" in rule}


def test_every_metric_named_is_one_that_a_worker_has() -> None:
    known = _known()
    for name, expression in _expressions().items():
        named = set(re.findall(r"\b(?:weir|gen_ai)[\w:]*", re.sub(r'"[^"]*"', '""', expression)))
        labels = {"gen_ai_request_model", "gen_ai_token_type"}
        assert named - labels <= known, name
        assert named or name in {"weir:sla_error_budget:ratio", "WeirWorkerDown"}, name


def test_runbooks_and_the_page_on_the_sla_name_metrics_that_there_are() -> None:
    known = {re.sub(r"_(total|bucket|sum|count)$", "", name) for name in _known()}
    for page in [*RUNBOOKS.glob("*.md"), ROOT / "docs" / "sla.md"]:
        named = set(re.findall(r"\bweir_[a-z_]+\b", page.read_text()))
        assert {re.sub(r"_(total|bucket|sum|count)$", "", name) for name in named if not name.endswith("_")} <= known
