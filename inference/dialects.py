"""How each server of the OpenAI completions API is asked for label probabilities, and where its answer has them.

Every server speaks the same API but for this: which parameter returns the log-probabilities of given tokens, what the
answer looks like, and whether `usage` can be trusted when a request carries several prompts.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from inference.engine import LabelToken, Usage
from inference.errors import EngineMisconfigured

UNKNOWN_SHAPE = (AttributeError, KeyError, IndexError, TypeError, ValueError)  # what reading another shape may raise

_FLOOR = math.log(1e-9)
_OPENAI_MAX_LOGPROBS = 5  # the completions API of OpenAI allows no more


class Dialect(Protocol):
    """One kind of server."""

    @property
    def name(self) -> str:
        """What settings call it."""
        ...

    @property
    def prompts_per_request(self) -> int:
        """How many prompts of one request the server accounts for correctly, at most."""
        ...

    def parameters(self, labels: Sequence[LabelToken]) -> dict[str, Any]:
        """Request fields that make the server return the probabilities of `labels`."""
        ...

    def logprobs(self, choice: Mapping[str, Any], labels: Sequence[LabelToken]) -> list[float]:
        """Log-probabilities of `labels` in one element of `choices`, not normalised.

        Raises one of UNKNOWN_SHAPE if the answer has another shape.
        """
        ...

    def usage(self, answer: Mapping[str, Any]) -> list[Usage]:
        """Tokens of each prompt of the request, in the order of `choices`. Raises like `logprobs`."""
        ...


def _ids(labels: Sequence[LabelToken]) -> list[int]:
    ids = [label.id for label in labels]
    if None in ids:
        raise EngineMisconfigured("labels have no token ids: the server's /tokenize did not answer")
    return [i for i in ids if i is not None]


def _request_usage(answer: Mapping[str, Any]) -> Usage:
    usage = answer.get("usage") or {}
    details = usage.get("prompt_tokens_details") or {}
    return Usage(
        int(usage.get("prompt_tokens") or 0),
        int(usage.get("completion_tokens") or 0),
        int(details.get("cached_tokens") or 0),
    )


@dataclass(frozen=True, slots=True)
class Vllm:
    """vLLM 0.32. Recorded answers stand in tests/inference/recorded/.

    `logprob_token_ids` returns exactly the tokens asked for; `logprobs` must be present as well. Without
    `return_tokens_as_token_ids`, two ids that decode to the same text would share one key. `usage` sums over the
    prompts of a request, but its cached tokens are those of the last prompt only, so they are known for a request of
    one prompt and counted as none otherwise.
    """

    name: str = "vllm"
    prompts_per_request: int = 16

    def parameters(self, labels: Sequence[LabelToken]) -> dict[str, Any]:
        return {
            "logprobs": 1,
            "logprob_token_ids": _ids(labels),
            "return_tokens_as_token_ids": True,
            "return_token_ids": True,
        }

    def logprobs(self, choice: Mapping[str, Any], labels: Sequence[LabelToken]) -> list[float]:
        found = choice["logprobs"]["top_logprobs"][0]
        return [float(found[f"token_id:{i}"]) for i in _ids(labels)]

    def usage(self, answer: Mapping[str, Any]) -> list[Usage]:
        choices = sorted(answer["choices"], key=lambda choice: int(choice["index"]))
        if len(choices) == 1:
            return [_request_usage(answer)]
        return [Usage(len(choice["prompt_token_ids"]), len(choice["token_ids"])) for choice in choices]


@dataclass(frozen=True, slots=True)
class LlamaCpp:
    """llama.cpp's server. Its answer has the chat API's shape: `logprobs.content[]`.

    The same large bias on every label leaves their ratios as they are and everything else out; an empty list of
    samplers keeps temperature and truncation away; `post_sampling_probs` then returns the labels' share. `usage` counts
    only the first prompt of a request, so a request carries one.
    """

    name: str = "llamacpp"
    prompts_per_request: int = 1

    def parameters(self, labels: Sequence[LabelToken]) -> dict[str, Any]:
        return {
            "n_probs": len(labels),
            "post_sampling_probs": True,
            "logit_bias": [[i, 100.0] for i in _ids(labels)],
            "samplers": [],
        }

    def logprobs(self, choice: Mapping[str, Any], labels: Sequence[LabelToken]) -> list[float]:
        top = choice["logprobs"]["content"][0]["top_probs"]
        found = {int(token["id"]): float(token["prob"]) for token in top}
        if not found.keys() & set(_ids(labels)):
            raise ValueError("none of the labels is among the tokens returned")
        return [math.log(p) if (p := found.get(i, 0.0)) > 0 else _FLOOR for i in _ids(labels)]

    def usage(self, answer: Mapping[str, Any]) -> list[Usage]:
        return [_request_usage(answer)]


@dataclass(frozen=True, slots=True)
class OpenAi:
    """Any other server of the completions API: the most probable tokens by their text.

    A label that is not among them is given the probability of the least probable token returned, which bounds it from
    above.
    """

    name: str = "openai"
    prompts_per_request: int = 1

    def parameters(self, labels: Sequence[LabelToken]) -> dict[str, Any]:
        return {"logprobs": _OPENAI_MAX_LOGPROBS}

    def logprobs(self, choice: Mapping[str, Any], labels: Sequence[LabelToken]) -> list[float]:
        found = {str(text): float(value) for text, value in choice["logprobs"]["top_logprobs"][0].items()}
        bound = min(found.values())
        return [found.get(label.text, bound) for label in labels]

    def usage(self, answer: Mapping[str, Any]) -> list[Usage]:
        return [_request_usage(answer)]


DIALECTS: dict[str, Dialect] = {dialect.name: dialect for dialect in (Vllm(), LlamaCpp(), OpenAi())}


def detect(models: Mapping[str, Any]) -> Dialect:
    """The dialect of a server by its answer to `GET /v1/models`."""
    owners = {str(model.get("owned_by")) for model in models.get("data") or []}
    return next((DIALECTS[name] for name in ("vllm", "llamacpp") if name in owners), DIALECTS["openai"])
