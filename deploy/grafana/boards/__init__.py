"""The dashboards as typed code; `python -m deploy.grafana.boards` writes them to deploy/grafana/dashboards."""

import json
from collections.abc import Mapping
from pathlib import Path

from grafana_foundation_sdk.cog.encoder import JSONEncoder
from grafana_foundation_sdk.models.dashboard import Dashboard

from deploy.grafana.boards import cost, lineage, quality, service

FOLDER = Path(__file__).parents[1] / "dashboards"
DOCS = "https://weir.example/docs"


def boards(docs: str = DOCS) -> Mapping[str, Dashboard]:
    """Every dashboard by the name of its file. docs: address under which your people read the folder docs/."""
    found = {module.__name__.rpartition(".")[2]: module.board(docs) for module in (service, cost, quality, lineage)}
    for board in found.values():
        for number, panel in enumerate(board.panels or (), 1):
            panel.id_val = number  # links and alerts name panels by it
    return found


def encoded(board: Dashboard) -> str:
    """The dashboard as Grafana reads it."""
    plain = json.loads(JSONEncoder().encode(board))
    for link in plain["links"]:
        del link["placement"]  # the SDK's only choice hides links in a menu
    return json.dumps(plain, indent=2, sort_keys=True, ensure_ascii=False) + "\n"
