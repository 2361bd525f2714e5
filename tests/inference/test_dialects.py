"""Each kind of server: how it is asked for labels, and where its answer has them."""

import json
import math
from typing import Any

import pytest

from inference.concurrency import Load
from inference.dialects import DIALECTS, UNKNOWN_SHAPE, Dialect, LlamaCpp, OpenAi, Vllm, Votes, detect, load_of
from inference.engine import LabelToken, Token, Usage, Writing
from inference.errors import EngineMisconfigured
from tests.inference.conftest import recorded

LABELS = [LabelToken(" ok", 10907), LabelToken(" spam", 26804), LabelToken(" hate", 13735)]
WITH_LOGPROBS = ("vllm", "llamacpp", "openai")
SCHEMA = {"type": "object", "properties": {"age": {"type": "integer"}}}


def parsed(dialect: Dialect, top: Any, labels: list[LabelToken] = LABELS) -> list[float]:
    """Log-probabilities from an answer in which `top` stands where this dialect has the most probable tokens."""
    logprobs = {"content": [{"top_probs": top}]} if dialect.name == "llamacpp" else {"top_logprobs": [top]}
    return dialect.logprobs([{"logprobs": logprobs}], labels)


def told(answer: dict[str, Any]) -> list[Usage]:
    """What vLLM tells of the tokens in an answer."""
    return Vllm().usage(Vllm().read(json.dumps(answer).encode()))


class TestVllm:
    @pytest.mark.parametrize("name", ["one_prompt", "two_prompts", "one_prompt_cached"])
    def test_asks_as_recorded(self, name: str) -> None:
        body = recorded(name)["request"]["body"]
        assert Vllm().scoring(LABELS).items() <= body.items()

    def test_reads_recorded_labels_in_the_order_asked(self) -> None:
        choices = recorded("two_prompts")["answer"]["choices"]

        assert [Vllm().logprobs([choice], LABELS) for choice in choices] == [
            [-8.99481201171875, -8.27606201171875, -9.74481201171875],
            [-8.52566146850586, -10.33816146850586, -10.52566146850586],
        ]
        assert Vllm().logprobs(choices[:1], LABELS[::-1]) == [-9.74481201171875, -8.27606201171875, -8.99481201171875]

    @pytest.mark.parametrize(
        ("name", "usage"),
        [
            ("one_prompt", [Usage(14, 1, 0)]),
            ("one_prompt_cached", [Usage(143, 1, 128)]),
            ("two_prompts", [Usage(14, 1), Usage(10, 1)]),
        ],
    )
    def test_counts_recorded_tokens_of_each_prompt(self, name: str, usage: list[Usage]) -> None:
        assert told(recorded(name)["answer"]) == usage

    def test_counts_tokens_in_the_order_of_the_prompts(self) -> None:
        answer = recorded("two_prompts")["answer"]
        assert told({**answer, "choices": answer["choices"][::-1]}) == [Usage(14, 1), Usage(10, 1)]

    @pytest.mark.parametrize(
        ("cached", "first", "last", "usage"),
        [
            (0, [1, 2, 3], [1, 2, 4], [Usage(3, 1), Usage(3, 1)]),
            (2, [1, 2, 3], [1, 2, 4], [Usage(3, 1, 2), Usage(3, 1, 2)]),
            (1, [1, 2, 3], [1, 2, 4], [Usage(3, 1, 1), Usage(3, 1, 1)]),
            (2, [1, 9, 3], [1, 2, 4], [Usage(3, 1, 1), Usage(3, 1, 2)]),
            (2, [9, 2], [1, 2, 4], [Usage(2, 1, 0), Usage(3, 1, 2)]),
            (4, [1, 2], [1, 2, 3, 4, 5], [Usage(2, 1, 2), Usage(5, 1, 4)]),
        ],
    )
    def test_cached_tokens_of_a_prompt_are_those_that_it_shares_with_what_the_last_one_had_cached(
        self, cached: int, first: list[int], last: list[int], usage: list[Usage]
    ) -> None:
        answer = recorded("two_prompts")["answer"]
        one, other = answer["choices"]
        choices = [{**other, "prompt_token_ids": last}, {**one, "prompt_token_ids": first}]
        sums = {**answer["usage"], "prompt_tokens_details": {"cached_tokens": cached}}

        assert told({**answer, "choices": choices, "usage": sums}) == usage

    @pytest.mark.parametrize("ids", [None, "1,2", {}])
    def test_ids_that_are_no_array_are_an_error(self, ids: Any) -> None:
        answer = recorded("two_prompts")["answer"]
        choices = [{**choice, "prompt_token_ids": ids} for choice in answer["choices"]]

        with pytest.raises(UNKNOWN_SHAPE):
            told({**answer, "choices": choices})

    @pytest.mark.parametrize("content", [b"", b"{", b"\xff", b'{"choices": ['])
    def test_what_is_no_json_cannot_be_read(self, content: bytes) -> None:
        with pytest.raises(ValueError):  # noqa: PT011  whichever the parser raises
            Vllm().read(content)

    def test_another_shape_is_read_as_it_is(self) -> None:
        assert Vllm().read(b'{"choices": 7, "other": 1}') == {"choices": 7, "other": 1}

    def test_asks_for_probabilities_of_what_is_written_as_it_does_for_labels(self) -> None:
        fields = Vllm().writing(Writing(9, json.dumps(SCHEMA), ("\n",), 0.5))

        assert fields["structured_outputs"] == {"json": SCHEMA}
        assert (fields["max_tokens"], fields["stop"], fields["temperature"]) == (9, ["\n"], 0.5)
        assert fields["logprobs"] == Vllm().scoring(LABELS)["logprobs"]
        assert fields["logprob_token_ids"]

    def test_label_that_is_missing_is_an_error(self) -> None:
        with pytest.raises(KeyError):
            parsed(Vllm(), {"token_id:10907": -1.0})


class TestLlamaCpp:
    def test_biases_every_label_alike_and_nothing_else(self) -> None:
        parameters = LlamaCpp().scoring(LABELS)

        assert parameters["logit_bias"] == [[10907, 100.0], [26804, 100.0], [13735, 100.0]]
        assert (parameters["n_probs"], parameters["post_sampling_probs"], parameters["samplers"]) == (3, True, [])

    def test_reads_labels_in_the_order_asked(self) -> None:
        top = [{"id": 26804, "prob": 0.5}, {"id": 13735, "prob": 0.3}, {"id": 10907, "prob": 0.2}]
        assert parsed(LlamaCpp(), top) == pytest.approx([math.log(0.2), math.log(0.5), math.log(0.3)])

    @pytest.mark.parametrize(
        "top", [[{"id": 10907, "prob": 1.0}], [{"id": 10907, "prob": 1.0}, {"id": 26804, "prob": 0}]]
    )
    def test_label_without_a_share_is_nearly_impossible(self, top: list[dict[str, float]]) -> None:
        assert parsed(LlamaCpp(), top) == pytest.approx([0, math.log(1e-9), math.log(1e-9)])

    @pytest.mark.parametrize("top", [[], [{"id": 1, "prob": 1.0}]])
    def test_no_label_at_all_is_an_error(self, top: list[dict[str, float]]) -> None:
        with pytest.raises(ValueError, match="none of the labels"):
            parsed(LlamaCpp(), top)

    def test_carries_one_prompt_because_it_counts_only_the_first(self) -> None:
        assert LlamaCpp().prompts_per_request == 1


class TestOpenAi:
    def test_needs_no_token_ids(self) -> None:
        assert OpenAi().scoring([LabelToken(" ok")]) == {"max_tokens": 1, "temperature": 0, "logprobs": 5}

    def test_label_out_of_sight_is_as_probable_as_the_last_in_sight(self) -> None:
        assert parsed(OpenAi(), {" ok": -1.0, " yes": -2.0, "\n": -3.0}) == [-1.0, -3.0, -3.0]

    def test_no_tokens_is_an_error(self) -> None:
        with pytest.raises(ValueError, match="empty"):
            parsed(OpenAi(), {})


class TestVotes:
    LABELS = (LabelToken(" ok"), LabelToken(" spam"), LabelToken(" spammy"))

    def counted(self, *answers: str) -> list[float]:
        """Shares of `LABELS` that are made of these answers."""
        weights = [math.exp(value) for value in Votes().logprobs([{"text": text} for text in answers], self.LABELS)]
        return [weight / sum(weights) for weight in weights]

    def test_asks_for_as_many_answers_as_it_counts(self) -> None:
        assert Votes().scoring(LABELS)["n"] == Votes().choices_per_prompt > 1
        assert Votes().scoring(LABELS)["temperature"] == 1

    def test_share_of_a_label_is_that_of_its_answers(self) -> None:
        assert self.counted(*[" ok"] * 3, *["spam"] * 5) == pytest.approx([3.5 / 9.5, 5.5 / 9.5, 0.5 / 9.5])

    @pytest.mark.parametrize("text", ["spam", " spam", "Spam.", "SPAM, because", " spam\n"])
    def test_answer_begins_with_the_label(self, text: str) -> None:
        assert self.counted(text) == pytest.approx([0.2, 0.6, 0.2])

    @pytest.mark.parametrize("text", ["", " ", "no spam", "spamming", "o", "okay"])
    def test_answer_that_is_no_label_does_not_count(self, text: str) -> None:
        assert self.counted(text) == pytest.approx([1 / 3] * 3)

    def test_longer_label_is_not_taken_for_a_shorter_one(self) -> None:
        assert self.counted(" spammy") == pytest.approx([0.2, 0.2, 0.6])

    @pytest.mark.parametrize("choice", [{}, {"message": {"content": "ok"}}])
    def test_answer_of_another_shape_is_an_error(self, choice: dict[str, Any]) -> None:
        with pytest.raises(UNKNOWN_SHAPE):
            Votes().logprobs([choice], LABELS)

    def test_says_that_it_counted(self) -> None:
        assert [name for name, dialect in DIALECTS.items() if dialect.source == "votes"] == ["votes"]


class TestWriting:
    @pytest.mark.parametrize("name", DIALECTS)
    def test_limits_and_stops_are_the_same_for_all(self, name: str) -> None:
        fields = DIALECTS[name].writing(Writing(7, stop=("\n", "###"), temperature=0.3))

        assert {"max_tokens": 7, "temperature": 0.3, "stop": ["\n", "###"]}.items() <= fields.items()
        assert not fields.keys() & {"structured_outputs", "json_schema", "response_format"}

    @pytest.mark.parametrize("name", DIALECTS)
    def test_schema_goes_where_the_server_looks_for_it(self, name: str) -> None:
        fields = DIALECTS[name].writing(Writing(7, json.dumps(SCHEMA)))

        found = {
            "vllm": lambda: fields["structured_outputs"]["json"],
            "llamacpp": lambda: fields["json_schema"],
            "openai": lambda: fields["response_format"]["json_schema"]["schema"],
            "votes": lambda: fields["response_format"]["json_schema"]["schema"],
        }
        assert found[name]() == SCHEMA
        assert "stop" not in fields

    @pytest.mark.parametrize("name", ["vllm", "openai"])
    def test_tokens_are_read_in_the_shape_of_the_completions_api(self, name: str) -> None:
        """vLLM lists the token that ends the text, at the text's end, but does not write it."""
        tokens = {"tokens": ["a", " b", "<|im_end|>"], "token_logprobs": [-0.5, -1, -0.1], "text_offset": [0, 1, 3]}
        choice = {"text": "a b", "logprobs": tokens}
        assert DIALECTS[name].tokens(choice) == (Token("a", -0.5), Token(" b", -1.0))

    def test_tokens_are_read_in_the_shape_of_the_chat_api(self) -> None:
        content = [{"token": "a", "logprob": -0.5, "bytes": [97]}, {"token": " b", "logprob": -1}]
        assert LlamaCpp().tokens({"logprobs": {"content": content}}) == (Token("a", -0.5), Token(" b", -1.0))

    @pytest.mark.parametrize("name", DIALECTS)
    @pytest.mark.parametrize("choice", [{"text": "a"}, {"text": "a", "logprobs": None}])
    def test_server_that_tells_no_probabilities_tells_no_tokens(self, name: str, choice: dict[str, Any]) -> None:
        assert DIALECTS[name].tokens(choice) == ()

    @pytest.mark.parametrize("name", WITH_LOGPROBS)
    @pytest.mark.parametrize("logprobs", [{"tokens": ["a"], "content": [{}]}, {"tokens": 1, "content": 1}, 3])
    def test_tokens_of_another_shape_are_an_error(self, name: str, logprobs: Any) -> None:
        with pytest.raises(UNKNOWN_SHAPE):
            DIALECTS[name].tokens({"text": "a", "logprobs": logprobs})


class TestLoad:
    NAMES = ("vllm:num_requests_running", "vllm:num_requests_waiting")

    def test_is_read_from_a_page_of_metrics(self) -> None:
        page = (
            "# HELP vllm:num_requests_running Number of requests in model execution batches.\n"
            "# TYPE vllm:num_requests_running gauge\n"
            'vllm:num_requests_running{engine="0",model_name="a model"} 12.0\n'
            'vllm:num_requests_waiting{engine="0",model_name="a model"} 3.0\n'
            'vllm:num_requests_waiting_by_reason{engine="0",model_name="a model",reason="capacity"} 99.0\n'
        )
        assert load_of(page, self.NAMES) == Load(12, 3)

    def test_is_that_of_all_engines_of_a_server_together(self) -> None:
        page = "".join(f'{name}{{engine="{engine}"}} {engine + 1}\n' for name in self.NAMES for engine in range(3))
        assert load_of(page, self.NAMES) == Load(6, 6)

    def test_may_have_no_labels(self) -> None:
        names = LlamaCpp().load_metrics
        assert names is not None
        assert load_of(f"{names[0]} 2\n{names[1]} 0\n", names) == Load(2, 0)

    @pytest.mark.parametrize("page", ["", "up 1\n", "vllm:num_requests_running 1\n", "<html>"])
    def test_is_unknown_where_it_is_not_told(self, page: str) -> None:
        assert load_of(page, self.NAMES) is None


@pytest.mark.parametrize("name", ["vllm", "llamacpp"])
def test_labels_without_ids_are_a_misconfiguration(name: str) -> None:
    with pytest.raises(EngineMisconfigured, match="/tokenize"):
        DIALECTS[name].scoring([LABELS[0], LabelToken(" spam")])


@pytest.mark.parametrize("name", WITH_LOGPROBS)
@pytest.mark.parametrize(
    "choice",
    [{}, {"logprobs": None}, {"logprobs": {}}, {"logprobs": {"top_logprobs": []}}, {"logprobs": {"content": []}}],
)
def test_answer_without_logprobs_is_an_error(name: str, choice: dict[str, Any]) -> None:
    with pytest.raises(UNKNOWN_SHAPE):
        DIALECTS[name].logprobs([choice], LABELS)


@pytest.mark.parametrize("name", WITH_LOGPROBS)
@pytest.mark.parametrize("top", [None, [None], 3])
def test_logprobs_of_another_shape_are_an_error(name: str, top: Any) -> None:
    with pytest.raises(UNKNOWN_SHAPE):
        parsed(DIALECTS[name], top)


@pytest.mark.parametrize("name", ["llamacpp", "openai", "votes"])
@pytest.mark.parametrize(
    ("answer", "usage"),
    [
        ({}, Usage()),
        ({"usage": None}, Usage()),
        ({"usage": {"prompt_tokens": 5, "completion_tokens": 1, "prompt_tokens_details": None}}, Usage(5, 1)),
        ({"usage": {"prompt_tokens": 5, "prompt_tokens_details": {"cached_tokens": 3}}}, Usage(5, 0, 3)),
    ],
)
def test_usage_is_what_the_server_says_of_it(name: str, answer: dict[str, Any], usage: Usage) -> None:
    assert DIALECTS[name].usage(answer) == [usage]


@pytest.mark.parametrize(
    ("models", "name"),
    [
        (recorded("models")["answer"], "vllm"),
        ({"data": [{"id": "x", "owned_by": "llamacpp"}]}, "llamacpp"),
        ({"data": [{"id": "x", "owned_by": "system"}]}, "openai"),
        ({"data": [{"id": "x"}]}, "openai"),
        ({"data": None}, "openai"),
    ],
)
def test_server_is_known_by_the_owner_of_its_models(models: dict[str, Any], name: str) -> None:
    assert detect(models).name == name
