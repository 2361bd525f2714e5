"""What a person reads who is to look at a verdict."""

import json
from collections.abc import Callable
from typing import Any

import pytest

from streams.decode import Event
from streams.escalation import escalation_of, report
from streams.kafka import MAX_MESSAGE_BYTES
from streams.records import Escalation, Verdict

GetEvent = Callable[..., Event]


@pytest.fixture
def finding(verdict: Callable[..., Verdict]) -> Callable[..., Verdict]:
    """`finding(evidence="...")`: a verdict on a claim."""

    def get(evidence: str = "", **fields: Any) -> Verdict:
        made = {
            "operator": "check",
            "decision": "escalate",
            "label": "contradicted",
            "scores": {"supported": 0.08, "contradicted": 0.91, "not_covered": 0.01},
            "confidence": 0.91,
            "output": {"claim": "Towing is up to 50 miles.", "evidence": evidence},
        }
        return verdict(**made | fields)

    return get


def test_the_report_of_a_contradiction(event: GetEvent, finding: Callable[..., Verdict]) -> None:
    claim = event(
        "Towing is up to\n50 miles.",
        thread="c-1",
        turn=7,
        author="agent",
        lang="en",
        tenant="acme",
        documents=["page-1", "page-2"],
        context=["customer: How far do you tow?"],
    )
    assert report(finding("Towing: 15 miles"), claim) == (
        "Verdict    escalate: contradicted, 91% sure\n"
        "In         c-1 (turn 7, agent, en, acme)\n"
        "When       2026-03-04 05:06:07 UTC\n"
        "Before     customer: How far do you tow?\n"
        "Said       Towing is up to 50 miles.\n"
        "Document   page-1, page-2\n"
        "It says    Towing: 15 miles\n"
        "Scores     supported 8%, contradicted 91%, not_covered 1%\n"
        "Model      m-1, prompt v4\n"
        "Trace      weir lineage 019cb73d-3271-7597-86b6-da06e2c252b7"
    )


@pytest.mark.parametrize(
    ("documents", "told"),
    [([], ["Document   none was named"]), (["page-1"], ["Document   page-1", "It says    nothing that was found"])],
)
def test_the_report_says_what_is_missing(
    event: GetEvent, finding: Callable[..., Verdict], documents: list[str], told: list[str]
) -> None:
    lines = report(finding(), event(documents=documents)).splitlines()
    assert [line for line in lines if line.startswith(("Document", "It says"))] == told


def test_what_nobody_said_has_no_line(event: GetEvent, verdict: Callable[..., Verdict]) -> None:
    names = [line.split()[0] for line in report(verdict(label="", prompt_version=""), event()).splitlines()]
    assert names == ["Verdict", "When", "Said", "Scores", "Model", "Trace"]
    assert "no label" in report(verdict(label=""), event())
    assert "prompt a1" in report(verdict(prompt_version=""), event())


def test_an_escalation_is_the_verdict_with_the_words(event: GetEvent, finding: Callable[..., Verdict]) -> None:
    claim = event("50 miles.", context=["customer: How far?"])
    sent = escalation_of(finding(), claim).encode()
    assert Escalation.model_validate_json(sent).text == "50 miles."
    body = json.loads(sent)
    assert body["context"] == ["customer: How far?"]
    assert body["report"] == report(finding(), claim)
    assert {name: body[name] for name in Verdict.model_fields} == json.loads(finding().encode())


@pytest.mark.parametrize("words", ["é" * 1_500_000, "so " * 1_300_000, "\u3000" + "長" * 700_000])
def test_an_escalation_fits_a_message_however_long_the_words_are(
    event: GetEvent, finding: Callable[..., Verdict], words: str
) -> None:
    sent = escalation_of(finding(output={"claim": words, "evidence": words[:10]}), event(words)).encode()
    assert len(sent) < MAX_MESSAGE_BYTES
    body = json.loads(sent)
    assert body["text"] == ""
    assert len(body["report"]) < 5_000
    assert " …" in body["report"]
