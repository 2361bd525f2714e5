"""The page: complete, of itself, and not to be talked into anything."""

import base64
import re
from collections.abc import Callable
from html.parser import HTMLParser
from xml.etree import ElementTree as ET

import pytest

from inference.evaluation import plots
from inference.evaluation.answers import Answers, Task
from inference.evaluation.page import Mistake, Subject, page
from inference.evaluation.paired import compare
from inference.evaluation.report import report

HOSTILE = "<script>alert(1)</script> $\\frac{1}{0}$ \" onload='x' {{ 7 * 7 }} ]]> &amp; \x07"


class Tags(HTMLParser):
    def __init__(self) -> None:
        super().__init__()
        self.found: list[tuple[str, dict[str, str | None]]] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.found.append((tag, dict(attrs)))


@pytest.fixture(scope="module", params=["task", "sorting"])
def html(request: pytest.FixtureRequest, noisy: Callable[..., Answers]) -> str:
    task: Task = request.getfixturevalue(request.param)
    subjects = [noisy(task, 60, 0.5, 1, HOSTILE), noisy(task, 60, 0.1, 2, "other")]
    shown = [
        Subject(report(task, each), {"model": HOSTILE}, [Mistake(HOSTILE, "ok", "spam", 0.9)]) for each in subjects
    ]
    return page(HOSTILE, task, {"data": HOSTILE}, shown, compare(task, subjects))


def test_names_and_texts_are_no_markup(html: str) -> None:
    tags = Tags()
    tags.feed(html)
    assert "script" not in {tag for tag, _ in tags.found}
    assert not [name for _, attributes in tags.found for name in attributes if name.startswith("on")]
    assert "{{ 7 * 7 }}" in html
    assert html.count("&lt;script&gt;") > 3


def test_it_needs_no_network_and_may_not_use_it(html: str) -> None:
    tags = Tags()
    tags.feed(html)
    addresses = [value or "" for _, found in tags.found for name, value in found.items() if name in ("src", "href")]
    assert len(addresses) >= 6
    assert all(address.startswith("data:image/svg+xml;base64,") for address in addresses)
    policy = next(found["content"] for tag, found in tags.found if found.get("http-equiv") == "Content-Security-Policy")
    assert policy == "default-src 'none'; img-src data:; style-src 'unsafe-inline'"


def test_plots_are_svg_with_the_names_as_text(html: str) -> None:
    plots = [base64.b64decode(found) for found in re.findall(r'src="data:image/svg\+xml;base64,([^"]+)"', html)]
    trees = [ET.fromstring(plot) for plot in plots]
    assert not [each for tree in trees for each in tree.iter() if each.tag.endswith("script")]
    assert any("<script>alert(1)" in "".join(tree.itertext()) for tree in trees)


def test_the_same_figures_give_the_same_plot(task: Task, noisy: Callable[..., Answers]) -> None:
    found = report(task, noisy(task, 30, 0.5))
    assert plots.roc([found]) == plots.roc([found])
