"""How each server of the OpenAI completions API is asked, and where its answer has what we need.

Every server speaks the same API but for this: which parameter returns the log-probabilities of given tokens, what the
answer looks like, how text is held to a schema, whether `usage` can be trusted when a request carries several prompts,
and what the server tells of its load.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import takewhile
from typing import Any, Protocol, TypedDict

import msgspec
import orjson

from inference.concurrency import Load
from inference.engine import ConfidenceSource, LabelToken, Token, Usage, Writing
from inference.errors import EngineMisconfigured

UNKNOWN_SHAPE = (AttributeError, KeyError, IndexError, TypeError, ValueError)  # what reading another shape may raise

Choice = Mapping[str, Any]

_FLOOR = math.log(1e-9)
_OPENAI_MAX_LOGPROBS = 5  # the completions API of OpenAI allows no more
_VOTES = 9
_VOTE_TOKENS = 8
_UNSEEN = 0.5  # added to the count of each label: Jeffreys' prior, so that no probability is 0


class Dialect(Protocol):
    """One kind of server."""

    @property
    def name(self) -> str:
        """What settings call it."""
        ...

    @property
    def source(self) -> ConfidenceSource:
        """What the probabilities of labels rest on."""
        ...

    @property
    def prompts_per_request(self) -> int:
        """How many prompts of one request the server accounts for correctly, at most."""
        ...

    @property
    def choices_per_prompt(self) -> int:
        """How many answers to each prompt are asked for when labels are scored."""
        ...

    @property
    def load_metrics(self) -> tuple[str, str] | None:
        """Names of the server's metrics for running and waiting requests; None if it has none."""
        ...

    def scoring(self, labels: Sequence[LabelToken]) -> dict[str, Any]:
        """Request fields that make the server return the probabilities of `labels` as the next token."""
        ...

    def writing(self, writing: Writing) -> dict[str, Any]:
        """Request fields that make the server write text and return its tokens' probabilities."""
        ...

    def read(self, content: bytes) -> Any:
        """The JSON of an answer. Raises ValueError if it is none."""
        ...

    def logprobs(self, choices: Sequence[Choice], labels: Sequence[LabelToken]) -> list[float]:
        """Log-probabilities of `labels` in the choices of one prompt, not normalised.

        Raises one of UNKNOWN_SHAPE if the answer has another shape.
        """
        ...

    def tokens(self, choice: Choice) -> tuple[Token, ...]:
        """The tokens of what was written; none if the server does not tell them. Raises like `logprobs`."""
        ...

    def usage(self, answer: Mapping[str, Any]) -> list[Usage]:
        """Tokens of each prompt of the request, in the order of `choices`. Raises like `logprobs`."""
        ...


def _ids(labels: Sequence[LabelToken]) -> list[int]:
    ids = [label.id for label in labels]
    if None in ids:
        raise EngineMisconfigured("labels have no token ids: the server's /tokenize did not answer")
    return [i for i in ids if i is not None]


def usage_of_request(answer: Mapping[str, Any]) -> Usage:
    usage = answer.get("usage") or {}
    details = usage.get("prompt_tokens_details") or {}
    return Usage(
        int(usage.get("prompt_tokens") or 0),
        int(usage.get("completion_tokens") or 0),
        int(details.get("cached_tokens") or 0),
    )


def _plain_writing(writing: Writing) -> dict[str, Any]:
    """The fields that all servers have in common."""
    stop = {"stop": list(writing.stop)} if writing.stop else {}
    return {"max_tokens": writing.max_tokens, "temperature": writing.temperature, **stop}


def _completion_tokens(choice: Choice) -> tuple[Token, ...]:
    """Tokens in the shape of the completions API, but for those at the end that are no part of the text."""
    logprobs = choice.get("logprobs")
    if not logprobs:
        return ()
    tokens, values = logprobs["tokens"], logprobs["token_logprobs"]
    offsets = logprobs.get("text_offset") or [-1] * len(tokens)
    fields = zip(tokens, values, offsets, strict=True)
    return tuple(Token(str(text), float(value)) for text, value, offset in fields if offset < len(choice["text"]))


@dataclass(frozen=True, slots=True)
class Vllm:
    """vLLM 0.32. Recorded answers stand in tests/inference/recorded/.

    `logprob_token_ids` returns exactly the tokens asked for; `logprobs` must be present as well. Without
    `return_tokens_as_token_ids`, two ids that decode to the same text would share one key. What is written is asked for
    in the same way: a request with plain `logprobs` in the same step of the engine would get the wrong ones.

    `usage` sums over the prompts of a request, but its cached tokens are those of the last prompt only. Those of the
    others are as many, as far as they begin like the last one: that beginning was in the cache for all of them, but for
    the first prompt ever to have it.
    """

    name: str = "vllm"
    source: ConfidenceSource = "logprobs"
    prompts_per_request: int = 16
    choices_per_prompt: int = 1
    load_metrics: tuple[str, str] | None = ("vllm:num_requests_running", "vllm:num_requests_waiting")

    def scoring(self, labels: Sequence[LabelToken]) -> dict[str, Any]:
        return {
            "max_tokens": 1,
            "temperature": 0,
            "logprobs": 1,
            "logprob_token_ids": _ids(labels),
            "return_tokens_as_token_ids": True,
            "return_token_ids": True,
        }

    def writing(self, writing: Writing) -> dict[str, Any]:
        schema = {"structured_outputs": {"json": orjson.loads(writing.schema)}} if writing.schema else {}
        return {**_plain_writing(writing), **schema, "logprobs": 1, "logprob_token_ids": [0]}

    def read(self, content: bytes) -> Any:
        try:
            return _VLLM_ANSWER.decode(content)
        except msgspec.MsgspecError:
            return orjson.loads(content)  # another shape is found out where it is used

    def logprobs(self, choices: Sequence[Choice], labels: Sequence[LabelToken]) -> list[float]:
        found = choices[0]["logprobs"]["top_logprobs"][0]
        return [float(found[f"token_id:{i}"]) for i in _ids(labels)]

    def tokens(self, choice: Choice) -> tuple[Token, ...]:
        return _completion_tokens(choice)

    def usage(self, answer: Mapping[str, Any]) -> list[Usage]:
        choices = sorted(answer["choices"], key=lambda choice: int(choice["index"]))
        if len(choices) < 2:
            return [usage_of_request(answer)]
        prompts = [_numbers(choice["prompt_token_ids"]) for choice in choices]
        beginning = _first(usage_of_request(answer).cached_tokens, prompts[-1])
        return [
            Usage(prompt.count(b","), len(choice["token_ids"]), _common(prompt, beginning))
            for choice, prompt in zip(choices, prompts, strict=True)
        ]


class _VllmChoice(TypedDict, total=False):
    """What is read of a choice. A prompt's ids stay as they are written: to make a number of each would take longer
    than all the rest.
    """

    index: Any
    text: Any
    logprobs: Any
    finish_reason: Any
    token_ids: Any
    prompt_token_ids: msgspec.Raw


class _VllmAnswer(TypedDict, total=False):
    model: Any
    choices: list[_VllmChoice]
    usage: Any


_VLLM_ANSWER = msgspec.json.Decoder(_VllmAnswer)


def _numbers(array: msgspec.Raw) -> bytes:
    """The numbers of a JSON array that is not empty, each with a comma after it."""
    ids = bytes(array)
    if not ids.startswith(b"["):
        raise ValueError("token ids are no array")
    return ids[1:-1] + b","


def _first(number: int, ids: bytes) -> bytes:
    """The first so many of the numbers."""
    return b"".join(number + b"," for number in ids.split(b",", number)[:number])


def _common(ids: bytes, beginning: bytes) -> int:
    """How many numbers both begin with."""
    if ids.startswith(beginning):
        return beginning.count(b",")
    pairs = zip(ids.split(b","), beginning.split(b","), strict=False)
    return sum(1 for _ in takewhile(lambda pair: pair[0] == pair[1], pairs))


@dataclass(frozen=True, slots=True)
class LlamaCpp:
    """llama.cpp's server. Its answer has the chat API's shape: `logprobs.content[]`.

    The same large bias on every label leaves their ratios as they are and everything else out; an empty list of
    samplers keeps temperature and truncation away; `post_sampling_probs` then returns the labels' share. `usage` counts
    only the first prompt of a request, so a request carries one.
    """

    name: str = "llamacpp"
    source: ConfidenceSource = "logprobs"
    prompts_per_request: int = 1
    choices_per_prompt: int = 1
    load_metrics: tuple[str, str] | None = ("llamacpp:requests_processing", "llamacpp:requests_deferred")
    read: Callable[[bytes], Any] = orjson.loads

    def scoring(self, labels: Sequence[LabelToken]) -> dict[str, Any]:
        return {
            "max_tokens": 1,
            "temperature": 0,
            "n_probs": len(labels),
            "post_sampling_probs": True,
            "logit_bias": [[i, 100.0] for i in _ids(labels)],
            "samplers": [],
        }

    def writing(self, writing: Writing) -> dict[str, Any]:
        schema = {"json_schema": orjson.loads(writing.schema)} if writing.schema else {}
        return {**_plain_writing(writing), **schema, "n_probs": 1}

    def logprobs(self, choices: Sequence[Choice], labels: Sequence[LabelToken]) -> list[float]:
        top = choices[0]["logprobs"]["content"][0]["top_probs"]
        found = {int(token["id"]): float(token["prob"]) for token in top}
        if not found.keys() & set(_ids(labels)):
            raise ValueError("none of the labels is among the tokens returned")
        return [math.log(p) if (p := found.get(i, 0.0)) > 0 else _FLOOR for i in _ids(labels)]

    def tokens(self, choice: Choice) -> tuple[Token, ...]:
        content = (choice.get("logprobs") or {}).get("content") or []
        return tuple(Token(str(token["token"]), float(token["logprob"])) for token in content)

    def usage(self, answer: Mapping[str, Any]) -> list[Usage]:
        return [usage_of_request(answer)]


@dataclass(frozen=True, slots=True)
class OpenAi:
    """Any other server of the completions API: the most probable tokens by their text.

    A label that is not among them is given the probability of the least probable token returned, which bounds it from
    above.
    """

    name: str = "openai"
    source: ConfidenceSource = "logprobs"
    prompts_per_request: int = 1
    choices_per_prompt: int = 1
    load_metrics: tuple[str, str] | None = None
    read: Callable[[bytes], Any] = orjson.loads

    def scoring(self, labels: Sequence[LabelToken]) -> dict[str, Any]:
        return {"max_tokens": 1, "temperature": 0, "logprobs": _OPENAI_MAX_LOGPROBS}

    def writing(self, writing: Writing) -> dict[str, Any]:
        return {**_plain_writing(writing), **_response_format(writing), "logprobs": 1}

    def logprobs(self, choices: Sequence[Choice], labels: Sequence[LabelToken]) -> list[float]:
        found = {str(text): float(value) for text, value in choices[0]["logprobs"]["top_logprobs"][0].items()}
        bound = min(found.values())
        return [found.get(label.text, bound) for label in labels]

    def tokens(self, choice: Choice) -> tuple[Token, ...]:
        return _completion_tokens(choice)

    def usage(self, answer: Mapping[str, Any]) -> list[Usage]:
        return [usage_of_request(answer)]


@dataclass(frozen=True, slots=True)
class Votes:
    """A server of the completions API that tells no probabilities: it is asked for several answers to each prompt, and
    a label's probability is its share of them.

    That is self-consistency (Wang et al., ICLR 2023), with the error of so small a sample: 0.1 to 0.2. Answers that are
    no label do not count; `inference.engine.Score.source` says where the figures are from.
    """

    name: str = "votes"
    source: ConfidenceSource = "votes"
    prompts_per_request: int = 1
    choices_per_prompt: int = _VOTES
    load_metrics: tuple[str, str] | None = None
    read: Callable[[bytes], Any] = orjson.loads

    def scoring(self, labels: Sequence[LabelToken]) -> dict[str, Any]:
        return {"max_tokens": _VOTE_TOKENS, "temperature": 1, "n": _VOTES, "stop": ["\n"]}

    def writing(self, writing: Writing) -> dict[str, Any]:
        return {**_plain_writing(writing), **_response_format(writing)}

    def logprobs(self, choices: Sequence[Choice], labels: Sequence[LabelToken]) -> list[float]:
        answers = [str(choice["text"]).strip().casefold() for choice in choices]
        words = [label.text.strip().casefold() for label in labels]
        counts = [sum(_is_answer(answer, word) for answer in answers) for word in words]
        return [math.log(count + _UNSEEN) for count in counts]

    def tokens(self, choice: Choice) -> tuple[Token, ...]:
        return ()

    def usage(self, answer: Mapping[str, Any]) -> list[Usage]:
        return [usage_of_request(answer)]


def _is_answer(answer: str, word: str) -> bool:
    """Whether the answer begins with the word, and not with a longer one."""
    return answer.startswith(word) and not answer[len(word) : len(word) + 1].isalnum()


def _response_format(writing: Writing) -> dict[str, Any]:
    if not writing.schema:
        return {}
    schema = {"name": "answer", "schema": orjson.loads(writing.schema), "strict": True}
    return {"response_format": {"type": "json_schema", "json_schema": schema}}


DIALECTS: dict[str, Dialect] = {dialect.name: dialect for dialect in (Vllm(), LlamaCpp(), OpenAi(), Votes())}


def detect(models: Mapping[str, Any]) -> Dialect:
    """The dialect of a server by its answer to `GET /v1/models`."""
    owners = {str(model.get("owned_by")) for model in models.get("data") or []}
    return next((DIALECTS[name] for name in ("vllm", "llamacpp") if name in owners), DIALECTS["openai"])


def load_of(metrics: str, names: tuple[str, str]) -> Load | None:
    """The load in a page of Prometheus' text format; None if it has none. names: as `Dialect.load_metrics`.

    Written for two lines of a page of hundreds, every fraction of a second: prometheus-client's parser takes 20 ms for
    vLLM's page.
    """
    sums: dict[str, float] = {}
    for line in metrics.splitlines():
        if line.startswith(names):
            name = line.partition("{")[0].partition(" ")[0]
            if name in names:
                sums[name] = sums.get(name, 0.0) + float(line.rpartition(" ")[2])
    return Load(*(sums[name] for name in names)) if len(sums) == len(names) else None
