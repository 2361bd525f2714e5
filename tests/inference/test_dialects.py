"""Each kind of server: how it is asked for labels, and where its answer has them."""

import math
from typing import Any

import pytest

from inference.dialects import DIALECTS, UNKNOWN_SHAPE, Dialect, LlamaCpp, OpenAi, Vllm, detect
from inference.engine import LabelToken, Usage
from inference.errors import EngineMisconfigured
from tests.inference.conftest import recorded

LABELS = [LabelToken(" ok", 10907), LabelToken(" spam", 26804), LabelToken(" hate", 13735)]


def parsed(dialect: Dialect, top: Any, labels: list[LabelToken] = LABELS) -> list[float]:
    """Log-probabilities from an answer in which `top` stands where this dialect has the most probable tokens."""
    logprobs = {"content": [{"top_probs": top}]} if dialect.name == "llamacpp" else {"top_logprobs": [top]}
    return dialect.logprobs({"logprobs": logprobs}, labels)


class TestVllm:
    @pytest.mark.parametrize("name", ["one_prompt", "two_prompts", "one_prompt_cached"])
    def test_asks_as_recorded(self, name: str) -> None:
        body = recorded(name)["request"]["body"]
        assert Vllm().parameters(LABELS).items() <= body.items()

    def test_reads_recorded_labels_in_the_order_asked(self) -> None:
        choices = recorded("two_prompts")["answer"]["choices"]

        assert [Vllm().logprobs(choice, LABELS) for choice in choices] == [
            [-8.99481201171875, -8.27606201171875, -9.74481201171875],
            [-8.52566146850586, -10.33816146850586, -10.52566146850586],
        ]
        assert Vllm().logprobs(choices[0], LABELS[::-1]) == [-9.74481201171875, -8.27606201171875, -8.99481201171875]

    @pytest.mark.parametrize(
        ("name", "usage"),
        [
            ("one_prompt", [Usage(14, 1, 0)]),
            ("one_prompt_cached", [Usage(143, 1, 128)]),
            ("two_prompts", [Usage(14, 1), Usage(10, 1)]),
        ],
    )
    def test_counts_recorded_tokens_of_each_prompt(self, name: str, usage: list[Usage]) -> None:
        assert Vllm().usage(recorded(name)["answer"]) == usage

    def test_counts_tokens_in_the_order_of_the_prompts(self) -> None:
        answer = recorded("two_prompts")["answer"]
        assert Vllm().usage({**answer, "choices": answer["choices"][::-1]}) == [Usage(14, 1), Usage(10, 1)]

    def test_counts_no_cached_tokens_for_several_prompts(self) -> None:
        answer = recorded("two_prompts")["answer"]
        usage = {**answer["usage"], "prompt_tokens_details": {"cached_tokens": 7}}
        assert sum(each.cached_tokens for each in Vllm().usage({**answer, "usage": usage})) == 0

    def test_label_that_is_missing_is_an_error(self) -> None:
        with pytest.raises(KeyError):
            parsed(Vllm(), {"token_id:10907": -1.0})


class TestLlamaCpp:
    def test_biases_every_label_alike_and_nothing_else(self) -> None:
        parameters = LlamaCpp().parameters(LABELS)

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
        assert OpenAi().parameters([LabelToken(" ok")]) == {"logprobs": 5}

    def test_label_out_of_sight_is_as_probable_as_the_last_in_sight(self) -> None:
        assert parsed(OpenAi(), {" ok": -1.0, " yes": -2.0, "\n": -3.0}) == [-1.0, -3.0, -3.0]

    def test_no_tokens_is_an_error(self) -> None:
        with pytest.raises(ValueError, match="empty"):
            parsed(OpenAi(), {})


@pytest.mark.parametrize("name", ["vllm", "llamacpp"])
def test_labels_without_ids_are_a_misconfiguration(name: str) -> None:
    with pytest.raises(EngineMisconfigured, match="/tokenize"):
        DIALECTS[name].parameters([LABELS[0], LabelToken(" spam")])


@pytest.mark.parametrize("name", DIALECTS)
@pytest.mark.parametrize(
    "choice",
    [{}, {"logprobs": None}, {"logprobs": {}}, {"logprobs": {"top_logprobs": []}}, {"logprobs": {"content": []}}],
)
def test_answer_without_logprobs_is_an_error(name: str, choice: dict[str, Any]) -> None:
    with pytest.raises(UNKNOWN_SHAPE):
        DIALECTS[name].logprobs(choice, LABELS)


@pytest.mark.parametrize("name", DIALECTS)
@pytest.mark.parametrize("top", [None, [None], 3])
def test_logprobs_of_another_shape_are_an_error(name: str, top: Any) -> None:
    with pytest.raises(UNKNOWN_SHAPE):
        parsed(DIALECTS[name], top)


@pytest.mark.parametrize("name", ["llamacpp", "openai"])
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
