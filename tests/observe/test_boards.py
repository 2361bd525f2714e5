"""The dashboards as files: made by the code, and complete."""

import re
from pathlib import Path
from typing import Any

import grafana
import pytest

from deploy.grafana.boards import boards, encoded

DOCS = Path(__file__).parents[2] / "docs"
_PANELS = [(name, panel) for name, board in grafana.boards().items() for panel in grafana.panels(board)]


def _named(panel: tuple[str, Any]) -> str:
    return f"{panel[0]}-{panel[1]['title']}"


def test_what_is_checked_in_is_what_the_code_makes() -> None:
    made = {name: encoded(board) for name, board in boards().items()}
    kept = {file.stem: file.read_text() for file in grafana.DASHBOARDS.glob("*.json")}
    assert kept.keys() == made.keys()
    for name, text in made.items():
        assert kept[name] == text, f"{name}: `make dashboards` writes what the code makes"


def test_the_address_of_the_docs_can_be_chosen() -> None:
    assert "https://docs.mine/weir" in encoded(boards("https://docs.mine/weir")["service"])


@pytest.mark.parametrize("chosen", _PANELS, ids=map(_named, _PANELS))
def test_a_panel_has_a_unit_a_description_and_links_that_lead_somewhere(chosen: tuple[str, dict[str, Any]]) -> None:
    _, panel = chosen
    assert panel["description"].endswith(".")
    assert panel["fieldConfig"]["defaults"]["unit"]
    assert panel["links"]
    for link in panel["links"]:
        page, _, anchor = link["url"].removeprefix("${docs}/").partition("#")
        assert (DOCS / page).is_file(), link["url"]
        if anchor:
            headings = re.findall(r"^#+ (.*)$", (DOCS / page).read_text(), re.MULTILINE)
            assert anchor in {re.sub(r"[^\w -]", "", heading).lower().replace(" ", "-") for heading in headings}


def test_panels_have_ids_of_their_own_and_dashboards_names() -> None:
    for board in grafana.boards().values():
        ids = [panel["id"] for panel in board["panels"]]
        assert len(set(ids)) == len(ids)
        titles = [panel["title"] for panel in grafana.panels(board)]
        assert len(set(titles)) == len(titles)
    assert len({board["uid"] for board in grafana.boards().values()}) == len(grafana.boards())


def test_links_to_rows_lead_to_the_lineage_explorer() -> None:
    explorer = grafana.boards()["lineage"]["uid"]
    text = "".join(file.read_text() for file in grafana.DASHBOARDS.glob("*.json"))
    found = re.findall(r'"url": "/d/([\w-]+)\?var-(\w+)=', text)
    assert set(found) == {(explorer, "id")}


def test_a_variable_that_is_not_known_is_noticed() -> None:
    query = grafana.Query("b", "p", "A", {"expr": 'weir_sla_seconds{pipeline="$pipelines"}'})
    with pytest.raises(ValueError, match="pipelines"):
        grafana.substituted(query, grafana.Around(0, 60, {"pipeline": ["a"]}))


def test_values_are_put_in_as_grafana_does() -> None:
    around = grafana.Around(1000, 1060, {"pipeline": ["a.b", "c"], "id": ["it's"]})
    promql = grafana.Query("b", "p", "A", {"expr": 'x{pipeline=~"$pipeline"}[$__range]'})
    assert grafana.substituted(promql, around) == r'x{pipeline=~"(a\\.b|c)"}[60s]'
    sql = grafana.Query("b", "p", "A", {"rawSql": "pipeline IN (${pipeline:singlequote}) AND id = ${id:sqlstring}"})
    assert grafana.substituted(sql, around) == "pipeline IN ('a.b','c') AND id = 'it''s'"
