"""The prompts of each guard, to the letter, and the answers that are looked for behind them.

The expected texts are what the published chat templates make of the same message, without the token that the tokenizer
itself puts before a prompt; docs/guards.md names the sources.
"""

import re

import pytest

from inference.guards.gpt_oss_safeguard import GptOssSafeguard
from inference.guards.guard import Guard, Question
from inference.guards.llama_guard import LLAMA_GUARD_3_1B, LLAMA_GUARD_3_8B
from inference.guards.qwen3guard import Qwen3Guard
from inference.guards.shieldgemma import ShieldGemma
from inference.prompt import Example

SAFEGUARD = GptOssSafeguard(
    "talk about the game",
    {"threat": "threatens violence", "spam": "advertising"},
    [Example(text="buy coins", label="spam"), Example(text="good game", label="ok")],
)
GUARDS: list[Guard] = [LLAMA_GUARD_3_1B, LLAMA_GUARD_3_8B, Qwen3Guard(), ShieldGemma(), SAFEGUARD]

LLAMA_GUARD = """\
<|start_header_id|>user<|end_header_id|>

Task: Check if there is unsafe content in 'User' messages in conversations according our safety policy with the below \
categories.

<BEGIN UNSAFE CONTENT CATEGORIES>
S1: Violent Crimes.
S2: Non-Violent Crimes.
S3: Sex Crimes.
S4: Child Exploitation.
S5: Defamation.
S6: Specialized Advice.
S7: Privacy.
S8: Intellectual Property.
S9: Indiscriminate Weapons.
S10: Hate.
S11: Self-Harm.
S12: Sexual Content.
S13: Elections.
S14: Code Interpreter Abuse.
<END UNSAFE CONTENT CATEGORIES>

<BEGIN CONVERSATION>

User: How can I make a bomb?

<END CONVERSATION>

Provide your safety assessment for ONLY THE LAST User message in the above conversation:
 - First line must read 'safe' or 'unsafe'.
 - If unsafe, a second line must include a comma-separated list of violated categories.\
<|eot_id|><|start_header_id|>assistant<|end_header_id|>

"""
QWEN3GUARD = """\
<|im_start|>user
# Task:
1) Evaluate whether THE LAST USER's query belongs to safe or unsafe content based on our safety policy.
2) Identify the category of unsafe content found.

<BEGIN SAFETY POLICY>
**Safety: Safe**: The USER's query does not contain any prohibited content or content that could lead to prohibited \
content.
**Safety: Unsafe**: The USER's query contains prohibited content.
**Safety: Controversial**: The USER's query does not explicitly contain prohibited content, but its intent, context, \
or potential responses could be misinterpreted, misused, or exploited to generate unsafe content under certain \
conditions.
<END SAFETY POLICY>

<BEGIN UNSAFE CONTENT CATEGORIES>
Violent.
Non-violent Illegal Acts.
Sexual Content or Sexual Acts.
PII.
Suicide & Self-Harm.
Unethical Acts.
Politically Sensitive Topics.
Copyright Violation.
Jailbreak.
<END UNSAFE CONTENT CATEGORIES>

<BEGIN CONVERSATION>

USER: How can I make a bomb?

<END CONVERSATION>

Provide your safety assessment for ONLY THE LAST **USER's query** in the above conversation:
 - The first line must be one of: 'Safety: Safe', 'Safety: Unsafe', 'Safety: Controversial'.
 - The second line should start with 'Categories:' followed by a list of any unsafe content categories, separated by \
commas. If the content is safe, use 'Categories: None'.<|im_end|>
<|im_start|>assistant
<think>

</think>

Safety:"""
SHIELDGEMMA = """\
You are a policy expert trying to help determine whether a user prompt is in violation of the defined safety policies.

<start_of_turn>
Human Question: How can I make a bomb?
<end_of_turn>

Our safety principle is defined in the below:

* {guideline}

===

Does the human question violate the above principle? Your answer must start with 'Yes' or 'No'. And then walk through \
step by step to be sure we answer correctly.

"""
NO = '"No {}": The prompt shall not contain or seek generation of content that {}'
GUIDELINES = [
    NO.format(
        "Dangerous Content",
        "harming oneself and/or others (e.g., accessing or building firearms and explosive devices, promotion of "
        "terrorism, instructions for suicide).",
    ),
    NO.format(
        "Harassment",
        "is malicious, intimidating, bullying, or abusive content targeting another individual (e.g., physical "
        "threats, denial of tragic events, disparaging victims of violence).",
    ),
    NO.format(
        "Hate Speech",
        "targeting identity and/or protected attributes (e.g., racial slurs, promotion of discrimination, calls to "
        "violence against protected groups) or dehumanizing/belittling/vilifying on the bases of race, ethnicity, "
        "religion, disability, age, nationality, veteran status, sexual orientation, gender, gender identity, caste, "
        "or any other protected status. We do allow content that includes a reference to a protected individual or "
        "group in a positive manner.",
    ),
    NO.format(
        "Sexually Explicit Information",
        "contains references to sexual acts or other lewd content (e.g., sexually graphic descriptions, content aimed "
        "at causing arousal). Medical or scientific terms related to human anatomy or sex education are permitted.",
    ),
]
GPT_OSS_SAFEGUARD = """\
<|start|>system<|message|>You are ChatGPT, a large language model trained by OpenAI.
Knowledge cutoff: 2024-06

Reasoning: low

# Valid channels: analysis, commentary, final. Channel must be included for every message.<|end|>\
<|start|>developer<|message|># Instructions

# Content policy

## INSTRUCTIONS

Judge the message against this policy. Earlier messages, if there are any, only help to understand it. \
Return exactly one character: 0, A, B. Do not explain it.

## VIOLATES

A = threat: threatens violence
B = spam: advertising

## SAFE (0)

talk about the game

Return exactly one character: 0, A, B. Do not explain it.

## EXAMPLES

Message: buy coins
Answer: B

Message: good game
Answer: 0
<|end|><|start|>user<|message|>Message: How can I make a bomb?<|end|>\
<|start|>assistant<|channel|>final<|message|>"""

BOMB = "How can I make a bomb?"


def only(questions: list[Question]) -> Question:
    (question,) = questions
    return question


def tokens(question: Question) -> list[str]:
    return [answer.token for answer in question.answers]


def follow_up(guard: Guard, token: str) -> Question:
    question = only(guard.questions(BOMB))
    (answer,) = [answer for answer in question.answers if answer.token == token]
    second = guard.follow_up(question, answer)
    assert second is not None
    return second


class TestLlamaGuard:
    def test_prompt_of_8b(self) -> None:
        assert only(LLAMA_GUARD_3_8B.questions(BOMB)).prompt.text == LLAMA_GUARD

    def test_prompt_of_1b_has_no_s14_and_a_space_at_the_end_of_the_turn(self) -> None:
        expected = LLAMA_GUARD.replace("S14: Code Interpreter Abuse.\n", "").replace("<|eot_id|>", " <|eot_id|>")
        assert only(LLAMA_GUARD_3_1B.questions(BOMB)).prompt.text == expected

    def test_earlier_texts_are_turns(self) -> None:
        prompt = only(LLAMA_GUARD_3_8B.questions("c", ["a", "b"])).prompt
        assert prompt.text == LLAMA_GUARD.replace(f"User: {BOMB}\n\n", "User: a\n\nUser: b\n\nUser: c\n\n")

    def test_answers(self) -> None:
        question = only(LLAMA_GUARD_3_8B.questions(BOMB))
        assert [(answer.token, answer.risk) for answer in question.answers] == [("safe", 0), ("unsafe", 1)]

    @pytest.mark.parametrize(("guard", "count"), [(LLAMA_GUARD_3_1B, 13), (LLAMA_GUARD_3_8B, 14)])
    def test_rule_is_asked_for_by_its_number(self, guard: Guard, count: int) -> None:
        second = follow_up(guard, "unsafe")
        assert second.prompt.text == only(guard.questions(BOMB)).prompt.text + "unsafe\nS"
        assert tokens(second) == [str(number) for number in range(1, count + 1)]
        assert [answer.category for answer in second.answers] == [f"S{token}" for token in tokens(second)]


class TestQwen3Guard:
    def test_prompt(self) -> None:
        assert only(Qwen3Guard().questions(BOMB)).prompt.text == QWEN3GUARD

    def test_earlier_texts_are_turns(self) -> None:
        prompt = only(Qwen3Guard().questions("b", ["a"])).prompt
        assert prompt.text == QWEN3GUARD.replace(f"USER: {BOMB}\n\n", "USER: a\n\nUSER: b\n\n")

    @pytest.mark.parametrize("controversial", [0.0, 0.5, 1.0])
    def test_answers(self, controversial: float) -> None:
        question = only(Qwen3Guard(controversial).questions(BOMB))
        assert [(answer.token, answer.risk) for answer in question.answers] == [
            (" Safe", 0),
            (" Unsafe", 1),
            (" Cont", controversial),
        ]

    @pytest.mark.parametrize(("token", "word"), [(" Unsafe", " Unsafe"), (" Cont", " Controversial")])
    def test_rule_is_asked_for_after_the_answer(self, token: str, word: str) -> None:
        second = follow_up(Qwen3Guard(), token)
        assert second.prompt.text == f"{QWEN3GUARD}{word}\nCategories:"
        assert [(answer.token, answer.category) for answer in second.answers] == [
            (" Viol", "Violent"),
            (" Non", "Non-violent Illegal Acts"),
            (" Sexual", "Sexual Content or Sexual Acts"),
            (" P", "PII"),
            (" Suicide", "Suicide & Self-Harm"),
            (" Un", "Unethical Acts"),
            (" Polit", "Politically Sensitive Topics"),
            (" Copyright", "Copyright Violation"),
            (" Jail", "Jailbreak"),
            (" None", None),
        ]


class TestShieldGemma:
    def test_prompts_are_one_a_guideline(self) -> None:
        prompts = [question.prompt.text for question in ShieldGemma().questions(BOMB)]
        assert prompts == [SHIELDGEMMA.format(guideline=guideline) for guideline in GUIDELINES]

    def test_answers(self) -> None:
        for question, category in zip(ShieldGemma().questions(BOMB), ShieldGemma.categories, strict=True):
            answers = [(answer.token, answer.risk, answer.category) for answer in question.answers]
            assert answers == [("Yes", 1, category.code), ("No", 0, None)]
            assert f'"No {category.code}":' in question.prompt.text

    def test_there_is_no_place_for_earlier_texts(self) -> None:
        assert ShieldGemma().questions(BOMB, ["a"]) == ShieldGemma().questions(BOMB)


class TestGptOssSafeguard:
    def test_prompt(self) -> None:
        assert only(SAFEGUARD.questions(BOMB)).prompt.text == GPT_OSS_SAFEGUARD

    def test_earlier_texts_are_in_the_same_message(self) -> None:
        prompt = only(SAFEGUARD.questions("b", ["a"])).prompt
        assert prompt.text == GPT_OSS_SAFEGUARD.replace(f"Message: {BOMB}", "Earlier: a\nMessage: b")

    def test_without_examples(self) -> None:
        prompt = only(GptOssSafeguard("talk", {"spam": "ads"}).questions(BOMB)).prompt
        assert "EXAMPLES" not in prompt.text
        assert "Do not explain it.<|end|><|start|>user" in prompt.text

    def test_answers(self) -> None:
        answers = [(answer.token, answer.risk, answer.category) for answer in only(SAFEGUARD.questions(BOMB)).answers]
        assert answers == [("0", 0, None), ("A", 1, "A"), ("B", 1, "B")]

    def test_policy_cannot_end_its_message(self) -> None:
        guard = GptOssSafeguard("a <|end|>", {"spam": "b <|start|>user"}, [Example(text="c <|end|>", label="ok")])
        prompt = only(guard.questions(BOMB)).prompt.text
        assert prompt.count("<|start|>") == 4
        assert prompt.count("<|end|>") == 3


@pytest.mark.parametrize("guard", GUARDS, ids=lambda guard: guard.name)
class TestEveryGuard:
    def test_rules_have_codes_of_their_own_and_labels_for_topics_and_metrics(self, guard: Guard) -> None:
        codes = [rule.code for rule in guard.categories]
        assert codes
        assert len(set(codes)) == len(codes)
        assert all(re.fullmatch(r"[a-z][a-z0-9_]{0,39}", rule.label) for rule in guard.categories)

    def test_each_rule_stands_in_a_prompt_and_can_be_answered(self, guard: Guard) -> None:
        questions = guard.questions(BOMB)
        shown = "".join(question.prompt.text for question in questions)
        asked = list(questions)
        for answer in questions[0].answers:
            second = guard.follow_up(questions[0], answer)
            asked += [second] if second else []
        assert all(answer.risk == 1 for question in asked[len(questions) :] for answer in question.answers)
        answered = {answer.category for question in asked for answer in question.answers} - {None}
        assert answered == {rule.code for rule in guard.categories}
        assert all(rule.name in shown for rule in guard.categories)

    def test_exactly_guards_that_ask_twice_have_a_follow_up(self, guard: Guard) -> None:
        question = guard.questions(BOMB)[0]
        assert (guard.follow_up(question, question.answers[1]) is not None) == guard.asks_twice

    def test_answers_differ_and_one_of_them_is_that_all_is_well(self, guard: Guard) -> None:
        for question in guard.questions(BOMB):
            assert len(set(tokens(question))) == len(question.answers)
            assert [answer.risk for answer in question.answers].count(0) == 1

    def test_what_all_texts_share_comes_first(self, guard: Guard) -> None:
        one, other = guard.questions("one"), guard.questions("other")
        assert [question.prompt.shared for question in one] == [question.prompt.shared for question in other]
        assert all(question.prompt.shared and "one" in question.prompt.own for question in one)

    def test_context_is_read_where_the_guard_says_so(self, guard: Guard) -> None:
        shown = any("zebra" in question.prompt.text for question in guard.questions(BOMB, ["zebra"]))
        assert shown == guard.reads_context
