"""The demo's agreement with labels, with the screen and without it."""

from typing import Any

import pytest

from streams.cli.main import PIPELINES
from streams.demo.account import Account
from streams.demo.traffic import Item
from streams.pipeline import load

TOPIC = "community.messages"


def verdict(decision: str, *, tier: str = "model", label: str = "ok") -> dict[str, Any]:
    return {
        "pipeline": "community-moderation",
        "operator": "moderate",
        "decision": decision,
        "label": label,
        "screening": {"tier": tier},
    }


@pytest.fixture
def account() -> Account:
    """Four events; the screen decides two, of which it learned from one."""
    found = Account([load(PIPELINES / "community-moderation.yaml")])
    events = [
        ("a", "ok", verdict("allow", tier="screen"), True),
        ("b", "spam", verdict("review", tier="screen"), False),
        ("c", "hate", verdict("allow"), False),
        ("d", "ok", verdict("allow"), True),
    ]
    for name, label, said, learned in events:
        found.publish(Item(TOPIC, name, {"text": name}, label, learned), 0.0)
        found.verdicts[TOPIC, name] = said
    return found


def test_agreement_is_of_decisions_with_labels(account: Account) -> None:
    assert account.screened == 2
    assert account.agreement()["community-moderation"] == {"rows": 4, "agreement": 3 / 4, "most_frequent_label": 1 / 2}


def test_the_model_alone_stands_where_the_screen_decided(account: Account) -> None:
    account.alone |= {(TOPIC, "a"): "block", (TOPIC, "b"): "allow"}
    found = account.agreement()["community-moderation"]
    assert (found["agreement"], found["model_alone"]) == (3 / 4, 1 / 4)
    assert found["not_learned_from"] == {"rows": 2, "agreement": 1 / 2, "model_alone": 0.0}
