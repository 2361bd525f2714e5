"""The shipped attacks are many and of many kinds, and none of them gets anything but text into the prompt."""

from collections import Counter

import pytest

from bench.attacks import forged_tokens, forges_lines, forges_markers, shipped, special_tokens
from inference.prompt import Example, LabelPrompt
from inference.text import one_line

ATTACKS = shipped()
TOKENS = [token for tokens in special_tokens().values() for token in tokens]
PROMPT = LabelPrompt("Judge.", {"ok": "fine", "spam": "advertising"}, {"ok": "ok", "spam": "spam"}, [])
LANGUAGES = {"en", "es", "pt", "fr", "de", "ru", "zh", "ar", "hi"}


class TestSet:
    def test_is_large_and_has_many_kinds_and_languages(self) -> None:
        assert len(ATTACKS) >= 120
        assert len({attack.text for attack in ATTACKS}) == len({attack.id for attack in ATTACKS}) == len(ATTACKS)
        assert min(Counter(attack.kind for attack in ATTACKS).values()) >= 8
        assert {attack.lang for attack in ATTACKS} >= LANGUAGES

    def test_hosts_are_ordinary_lines(self) -> None:
        assert [attack.host for attack in ATTACKS if one_line(attack.host) != attack.host] == []

    def test_attacks_contain_their_hosts_but_for_those_that_split_them(self) -> None:
        assert {attack.kind for attack in ATTACKS if attack.host not in attack.text} == {"splitting"}

    def test_without_defence_many_leave_their_place(self) -> None:
        """Otherwise the tests below would show nothing."""
        assert sum(forges_lines(attack.text) for attack in ATTACKS) >= 40
        assert sum(forges_markers(attack.text) for attack in ATTACKS) >= 40
        assert sum(bool(forged_tokens(attack.text, TOKENS)) for attack in ATTACKS) >= 40


def test_attacks_stay_text() -> None:
    defended = {attack.id: one_line(attack.text) for attack in ATTACKS}

    assert [name for name, line in defended.items() if forges_lines(line)] == []
    assert [name for name, line in defended.items() if forges_markers(line)] == []
    assert {name: found for name, line in defended.items() if (found := forged_tokens(line, TOKENS))} == {}
    assert [name for name, line in defended.items() if one_line(line) != line] == []


def test_prompt_has_the_lines_that_it_has_for_any_text() -> None:
    for attack in ATTACKS:
        own = PROMPT.render(attack.text, [attack.text]).own.splitlines()

        assert [line.partition(" ")[0] for line in own] == ["Earlier:", "Message:", "Label:"]
        assert own[-1] == "Label:"


def test_attack_in_a_pipeline_file_stays_text() -> None:
    for attack in ATTACKS:
        example = Example.model_construct(text=attack.text, label="ok")
        shared = LabelPrompt(attack.text, {"ok": attack.text}, {"ok": "ok"}, [example]).shared

        assert [line.partition(" ")[0] for line in shared.splitlines()[1:]] == ["ok:", "", "Message:", "Label:", ""]


@pytest.mark.parametrize("text", ["{}", "a{}b", "a{0}{0} {0}"])
def test_special_tokens_of_each_family_are_broken(text: str) -> None:
    assert [token for token in TOKENS if not forged_tokens(text.format(token), [token])] == []
    assert [token for token in TOKENS if forged_tokens(one_line(text.format(token)), [token])] == []
