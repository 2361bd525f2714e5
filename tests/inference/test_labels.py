"""One prompt, one token, a calibrated probability for each label: for text of any length."""

import math
from collections.abc import Mapping, Sequence
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

from inference.cost import Prices
from inference.engine import Usage
from inference.errors import EngineMisconfigured, EngineUnavailable, PromptRejected
from inference.judgement import Passage
from inference.operators.classify import ClassifySettings
from inference.operators.labels import LabelScorer
from tests.inference.conftest import Connect, ScriptedEngine, covers, message_of, reply

CLASSES = [{"name": "ok", "definition": "fine"}, {"name": "spam", "definition": "advertising"}]
LONG = " ".join(f"Sentence {number} is here." for number in range(200))

words = st.one_of(
    st.sampled_from(
        ["a", "word", "understandable", "x" * 70, "\U0001f600" * 9, "\u4e2d\u6587" * 20, "end.", "\n", "[INST]"]
    ),
    st.text(max_size=8),
)


def made(classes: Sequence[Mapping[str, Any]] = CLASSES, **changes: Any) -> ClassifySettings:
    """Settings for a small prompt without calibration."""
    base = {"operator": "classify", "instruction": "Judge.", "calibration": {"content_free": []}}
    return ClassifySettings.model_validate({**base, "classes": classes, **changes})


async def prepared(
    connect: Connect, server: ScriptedEngine, chosen: ClassifySettings | None = None, **engine: Any
) -> LabelScorer:
    scorer = LabelScorer(chosen or made(), await connect(server, **engine), Prices(input_usd=1e6, output_usd=1e6))
    await scorer.prepare()
    return scorer


async def scores(scorer: LabelScorer, text: str = "hello") -> list[float]:
    (only,) = (await scorer.score(Passage(text))).probabilities
    return only


class TestSettings:
    @pytest.mark.parametrize(
        ("changes", "told"),
        [
            ({"classes": [*CLASSES, CLASSES[0]]}, "two labels have the same name; the labels are: ok, spam"),
            (
                {"examples": [{"text": "x", "label": "spm"}]},
                "example label 'spm' is not a label of this stage; the labels are: ok, spam",
            ),
            (
                {"calibration": {"prior": {"ok": 1}}},
                "calibration.prior must name every label and no other; the labels are: ok, spam",
            ),
            (
                {"calibration": {"prior": {"ok": 1, "spam": 1, "hate": 1}}},
                "calibration.prior must name every label and no other; the labels are: ok, spam",
            ),
            ({"calibration": {"prior": {"ok": 0, "spam": 1}}}, "greater than 0"),
            ({"calibration": {"prior": {"ok": math.inf, "spam": 1}}}, "finite number"),
            (
                {"classes": [{"name": f"label{number}", "definition": "x"} for number in range(129)]},
                "129 labels; at most 128 can be told apart by one token",
            ),
            ({"clases": []}, "unknown field clases; the fields here are: instruction, examples, calibration, operator"),
            ({"instruction": ""}, "at least 1 character"),
            ({"classes": [{"name": "Not OK", "definition": "x"}, CLASSES[0]]}, "pattern"),
        ],
    )
    def test_mistake_is_told_with_the_valid_choices(self, changes: dict[str, Any], told: str) -> None:
        with pytest.raises(ValidationError) as caught:
            made(**changes)
        assert told in str(caught.value)

    def test_as_many_labels_as_an_engine_tells_are_fine(self) -> None:
        assert len(made([{"name": f"label{number}", "definition": "x"} for number in range(128)]).labels()) == 128


class TestAnswers:
    async def test_are_the_words_of_the_labels_where_each_is_one_token(
        self, scripted: ScriptedEngine, connect: Connect
    ) -> None:
        scripted.probabilities = lambda _: {"ok": 0.2, "ad": 0.6}
        scorer = await prepared(connect, scripted, made([CLASSES[0], {**CLASSES[1], "word": "ad"}]))

        assert await scores(scorer) == pytest.approx([0.25, 0.75])
        assert "ok: fine\nad: advertising\n" in scripted.prompts[0]

    @pytest.mark.parametrize("word", ["advertising", "ok"], ids=["several tokens", "taken"])
    async def test_are_letters_for_all_where_a_word_will_not_do(
        self, word: str, scripted: ScriptedEngine, connect: Connect
    ) -> None:
        scripted.probabilities = lambda _: {"A": 0.2, "B": 0.6}
        examples = [{"text": "bye", "label": "spam"}]
        scorer = await prepared(connect, scripted, made([CLASSES[0], {**CLASSES[1], "word": word}], examples=examples))

        assert await scores(scorer) == pytest.approx([0.25, 0.75])
        assert "A: fine\nB: advertising\n\nMessage: bye\nLabel: B\n" in scripted.prompts[0]
        assert scripted.asked[0]["logprob_token_ids"] == [scripted.token("A").id, scripted.token("B").id]

    async def test_are_pairs_of_letters_of_one_token_where_there_are_more_labels_than_letters(
        self, scripted: ScriptedEngine, connect: Connect
    ) -> None:
        scripted.models["data"][0]["max_model_len"] = 4096
        tokens = scripted.tokens
        scripted.tokens = lambda text: tokens(text) * (2 if text == " AB" else 1)  # type: ignore[method-assign]
        scripted.probabilities = lambda _: {"AA": 0.2, "AC": 0.6}
        classes = [{"name": f"long_name{number}", "definition": f"meaning {number}"} for number in range(27)]
        scorer = await prepared(connect, scripted, made(classes))

        found = await scores(scorer)
        assert found[:2] == pytest.approx([0.25, 0.75], abs=1e-6)
        assert "AA: meaning 0\nAC: meaning 1\nAD: meaning 2\n" in scripted.prompts[0]
        assert len(scripted.asked[0]["logprob_token_ids"]) == 27

    async def test_model_with_too_few_pairs_of_one_token_is_a_misconfiguration(
        self, scripted: ScriptedEngine, connect: Connect
    ) -> None:
        tokens = scripted.tokens
        scripted.tokens = lambda text: tokens(text) * (2 if len(text) == 3 else 1)  # type: ignore[method-assign]
        classes = [{"name": f"long_name{number}", "definition": "x"} for number in range(27)]
        with pytest.raises(EngineMisconfigured, match="writes only 0 pairs of letters with one token; 27 labels"):
            await prepared(connect, scripted, made(classes))

    async def test_are_words_where_there_is_no_tokenizer_to_ask(
        self, scripted: ScriptedEngine, connect: Connect
    ) -> None:
        scripted.probabilities = lambda _: {"ok": 0.2, "spam": 0.6}

        assert await scores(await prepared(connect, scripted, dialect="openai")) == pytest.approx([0.25, 0.75])

    async def test_are_letters_where_two_words_are_the_same_and_there_is_no_tokenizer(
        self, scripted: ScriptedEngine, connect: Connect
    ) -> None:
        scripted.probabilities = lambda _: {"A": 0.2, "B": 0.6}
        scorer = await prepared(connect, scripted, made([CLASSES[0], {**CLASSES[1], "word": "ok"}]), dialect="openai")

        assert await scores(scorer) == pytest.approx([0.25, 0.75])

    async def test_model_that_cannot_answer_with_one_token_is_a_misconfiguration(
        self, scripted: ScriptedEngine, connect: Connect
    ) -> None:
        scripted.tokenizer.extend([reply(200, {"tokens": [1, 2]})] * 3)

        with pytest.raises(EngineMisconfigured, match="scripted writes the answer 'A' with 2 tokens"):
            await prepared(connect, scripted)


class TestPrepare:
    async def test_prompt_that_leaves_no_room_is_a_misconfiguration(
        self, scripted: ScriptedEngine, connect: Connect
    ) -> None:
        with pytest.raises(EngineMisconfigured, match=r"has \d+ tokens, its answer 1, and scripted takes 35: no room"):
            await prepared(connect, scripted, context_tokens=35)

    async def test_prompt_that_the_engine_rejects_is_a_misconfiguration(
        self, scripted: ScriptedEngine, connect: Connect
    ) -> None:
        scripted.script.append(reply(400, {"error": "no log-probabilities here"}))

        with pytest.raises(EngineMisconfigured, match="no log-probabilities here"):
            await prepared(connect, scripted, made(calibration={"content_free": ["..."]}))

    async def test_engine_that_keeps_failing_at_it_may_be_asked_again(
        self, scripted: ScriptedEngine, connect: Connect
    ) -> None:
        scripted.tokenizer.extend([reply(500)] * 6)  # five open the breaker, and the probe after them is answered
        settings = {"attempts": 1, "backoff_seconds": 0.01, "pause_seconds": 0.01}

        with pytest.raises(EngineUnavailable, match="cannot be asked for the labels: failed 1 times"):
            await prepared(connect, scripted, **settings)

        assert await scores(await prepared(connect, scripted, **settings))

    async def test_bias_is_what_the_model_says_to_texts_without_content(
        self, scripted: ScriptedEngine, connect: Connect
    ) -> None:
        scripted.probabilities = lambda message: (
            {"ok": 0.9, "spam": 0.1} if message != "buy" else {"ok": 0.5, "spam": 0.5}
        )
        scorer = await prepared(connect, scripted, made(calibration={"content_free": ["N/A", "..."]}))

        assert {message_of(prompt) for prompt in scripted.prompts} == {"N/A", "..."}
        assert await scores(scorer, "whatever") == pytest.approx([0.5, 0.5])
        assert await scores(scorer, "buy") == pytest.approx([0.1, 0.9])

    async def test_expected_shares_count_in_the_order_of_the_labels(
        self, scripted: ScriptedEngine, connect: Connect
    ) -> None:
        scripted.probabilities = lambda _: {"ok": 0.5, "spam": 0.5}
        prior = {"spam": 1, "ok": 3}
        scorer = await prepared(connect, scripted, made(calibration={"content_free": [], "prior": prior}))

        assert await scores(scorer) == pytest.approx([0.75, 0.25])

    async def test_prompt_text_shows_where_the_row_goes(self, scripted: ScriptedEngine, connect: Connect) -> None:
        scorer = await prepared(connect, scripted)

        assert scorer.identity.prompt_text.endswith("\n\nEarlier: {context}\nMessage: {text}\nLabel:")
        assert (scorer.identity.model, scorer.identity.labels) == ("scripted", ["ok", "spam"])

    async def test_hash_tells_which_settings_made_an_answer(self, scripted: ScriptedEngine, connect: Connect) -> None:
        different = [
            made(),
            made(CLASSES[::-1]),
            made(instruction="Judge!"),
            made(examples=[{"text": "x", "label": "ok"}]),
            made(calibration={"content_free": ["..."]}),
            made(calibration={"content_free": [], "prior": {"ok": 2, "spam": 1}}),
        ]
        hashes = [(await prepared(connect, scripted, each)).identity.prompt_hash for each in different]

        assert len(set(hashes)) == len(different)
        assert (await prepared(connect, scripted, made(review_below=0.9))).identity.prompt_hash == hashes[0]


class TestContext:
    async def test_is_read_where_it_fits(self, scripted: ScriptedEngine, connect: Connect) -> None:
        scored = await (await prepared(connect, scripted)).score(Passage("hello", ["first", "second"]))

        assert scored.context_read == (0, 1)
        assert scripted.prompts[0].endswith("Earlier: first\nEarlier: second\nMessage: hello\nLabel:")

    @pytest.mark.parametrize("context", [[LONG], ["word " * 300] * 4, ["\U0001f600" * 300]])
    async def test_is_left_out_where_it_does_not_fit(
        self, context: list[str], scripted: ScriptedEngine, connect: Connect
    ) -> None:
        scored = await (await prepared(connect, scripted)).score(Passage("hello", context))

        assert scored.context_read == ()
        assert [message_of(prompt) for prompt in scripted.prompts] == ["hello"]
        assert "Earlier:" not in scripted.prompts[0]

    async def test_is_left_out_for_text_in_parts(self, scripted: ScriptedEngine, connect: Connect) -> None:
        scored = await (await prepared(connect, scripted)).score(Passage(LONG, ["first"]))

        assert scored.context_read == ()
        assert not [prompt for prompt in scripted.prompts if "Earlier:" in prompt]


class TestParts:
    @pytest.mark.parametrize("dialect", ["vllm", "openai"])
    @settings(max_examples=100, suppress_health_check=[HealthCheck.function_scoped_fixture])
    @given(pieces=st.lists(words, min_size=1, max_size=150), context=st.lists(st.text(max_size=90), max_size=3))
    async def test_each_fits_and_all_cover_the_text(
        self, dialect: str, pieces: list[str], context: list[str], scripted: ScriptedEngine, connect: Connect
    ) -> None:
        scripted.start_tokens = 1
        scripted.models["data"][0]["max_model_len"] = 48 if dialect == "vllm" else 110
        numbers: dict[str, int] = {}
        scripted.probabilities = lambda message: {
            "ok": (number := numbers.setdefault(message, len(numbers) + 1)) / 1000,
            "spam": 1 - number / 1000,
        }
        scorer = await prepared(connect, scripted, dialect=dialect)
        text = " ".join(pieces)

        scored = await scorer.score(Passage(text, context))

        assert scripted.rejected == []
        messages = {number: message for message, number in numbers.items()}
        assert covers([messages[round(1000 * ok)] for ok, _ in scored.probabilities], text)

    async def test_text_is_one_part_while_there_is_room(self, scripted: ScriptedEngine, connect: Connect) -> None:
        scripted.start_tokens = 1
        scorer = await prepared(connect, scripted)
        parts = {}
        for count in range(150, 256):
            scripted.asked.clear()
            parts[count] = len((await scorer.score(Passage("a " * count))).probabilities)
            used = max(len(scripted.tokens(prompt)) for prompt in scripted.prompts)
            if parts[count] == 1:
                longest = used
        assert set(parts.values()) == {1, 2}
        assert list(parts.values()) == sorted(parts.values())
        assert 256 - 16 < longest < 256
        assert scripted.rejected == []

    async def test_same_parts_are_asked_for_once(self, scripted: ScriptedEngine, connect: Connect) -> None:
        scored = await (await prepared(connect, scripted)).score(Passage("x" * 20_000))

        assert len(scored.probabilities) > 5
        assert len(scored.calls) == len(scripted.prompts) == len(set(scripted.prompts)) == 2

    async def test_probabilities_are_in_the_order_of_the_text(self, scripted: ScriptedEngine, connect: Connect) -> None:
        scripted.probabilities = lambda message: (
            {"ok": 0.9, "spam": 0.1} if "199" in message else {"ok": 0.1, "spam": 0.9}
        )
        scored = await (await prepared(connect, scripted)).score(Passage(LONG))

        assert [part[0] > 0.5 for part in scored.probabilities] == [False] * (len(scored.probabilities) - 1) + [True]

    async def test_one_long_text_leaves_the_engine_to_others(self, scripted: ScriptedEngine, connect: Connect) -> None:
        scorer = await prepared(connect, scripted, prompts_per_request=1)

        assert len((await scorer.score(Passage(LONG))).calls) > 4
        assert scripted.most_in_flight <= 2

    async def test_calls_are_priced(self, scripted: ScriptedEngine, connect: Connect) -> None:
        scored = await (await prepared(connect, scripted)).score(Passage(LONG))

        used = [len(scripted.tokens(prompt)) for prompt in scripted.prompts]
        assert sorted(call.usage.input_tokens for call in scored.calls) == sorted(used)
        assert all(call.cost_usd == call.usage.input_tokens + 1 for call in scored.calls)
        assert all(call.seconds > 0 for call in scored.calls)
        assert all(call.usage == Usage(call.usage.input_tokens, 1) for call in scored.calls)

    async def test_rejected_part_rejects_the_text(self, scripted: ScriptedEngine, connect: Connect) -> None:
        scorer = await prepared(connect, scripted)
        scripted.script.extend([reply(400, {"error": "no"})] * 2)  # two parts may share a request, and are told apart

        with pytest.raises(PromptRejected, match="no"):
            await scorer.score(Passage(LONG))
