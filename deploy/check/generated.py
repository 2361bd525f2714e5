"""The manifests that are written from something else: topics from pipelines, rules for the operator from Prometheus's.

`make k8s` writes them; the checks compare.
"""

import sys
from io import StringIO
from pathlib import Path
from typing import Any

from ruamel.yaml import YAML

from deploy.check import facts
from deploy.check.documents import load, load_all
from deploy.check.paths import K8S, RULES

# Name of the pipeline file to the topic of its reviews.
PIPELINES = {
    "community-moderation": "community.reviews",
    "ticket-triage": "support.reviews",
    "call-review": "calls.reviews",
}
PARTITIONS = 12


def files() -> dict[Path, str]:
    """Each generated file with the text that it should have."""
    written = {K8S / "base" / "topics" / f"{name}.yaml": _topics(name, reviews) for name, reviews in PIPELINES.items()}
    return {**written, K8S / "base" / "monitoring" / "rules.yaml": _rules()}


def differing() -> list[Path]:
    """Generated files that do not say what they should."""
    return [file for file, text in files().items() if not file.is_file() or load_all(file) != load_all_text(text)]


def load_all_text(text: str) -> list[Any]:
    """The documents in a text."""
    return list(YAML(typ="safe").load_all(text))


def rule_groups() -> list[Any]:
    """The groups of all rule files."""
    return [group for file in sorted(RULES.glob("*.yaml")) for group in load(file)["groups"]]


def _topics(pipeline: str, reviews: str) -> str:
    return facts.topics(pipeline, reviews, PARTITIONS)


def _rules() -> str:
    resource = {
        "apiVersion": "monitoring.coreos.com/v1",
        "kind": "PrometheusRule",
        "metadata": {"name": "weir"},
        "spec": {"groups": rule_groups()},
    }
    yaml = YAML()
    yaml.width = 120
    text = StringIO()
    yaml.dump(resource, text)
    return "# Written by `make k8s` from deploy/prometheus/rules.\n" + text.getvalue()


def main() -> int:
    """Write the files."""
    for file, text in files().items():
        file.write_text(text, encoding="utf-8")
        print(file.relative_to(K8S.parent))
    return 0


if __name__ == "__main__":
    sys.exit(main())
