"""Where things are in the checkout."""

from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
DEPLOY = ROOT / "deploy"
K8S = ROOT / "k8s"
COMPOSE = DEPLOY / "compose.yaml"
DOCKERFILE = DEPLOY / "Dockerfile"
PIPELINES = DEPLOY / "pipelines"
RULES = DEPLOY / "prometheus" / "rules"
OVERLAYS = ("dev", "production")

TOOLS = ROOT / ".tools" / "check"
PROMETHEUS = ROOT / ".tools" / "prometheus"
