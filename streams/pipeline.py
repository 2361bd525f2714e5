"""Pipelines: YAML files that say which topic is judged, how, and where the verdicts go."""

import contextlib
import re
from collections.abc import Iterable
from pathlib import Path
from typing import Annotated, Any, Literal, Self

from pydantic import AfterValidator, Field, ValidationError, model_validator
from ruamel.yaml import YAML
from ruamel.yaml.comments import CommentedMap, CommentedSeq
from ruamel.yaml.error import MarkedYAMLError, YAMLError

from inference.cascade.settings import CascadeSettings
from inference.operators import OperatorSettings
from inference.operators.moderate import ModerateSettings
from inference.section import Section
from streams.errors import WorkerMisconfigured
from streams.limits import Limits

_DURATION = re.compile(r"^(\d+(?:\.\d+)?)(ms|s|m|h|d)$")
_SECONDS = {"ms": 0.001, "s": 1, "m": 60, "h": 3600, "d": 86400}


def _duration(value: str) -> str:
    if not _DURATION.match(value):
        raise ValueError("a duration is a number and ms, s, m, h or d, for example 10s")
    return value


def seconds_of(duration: str) -> float:
    """A duration such as `10s` or `3h` in seconds. Raises ValueError."""
    match = _DURATION.match(_duration(duration))
    assert match
    return float(match[1]) * _SECONDS[match[2]]


Duration = Annotated[str, AfterValidator(_duration), Field(pattern=_DURATION.pattern, examples=["10s", "3h"])]
Name = Annotated[str, Field(pattern=r"^[a-z][a-z0-9-]{0,62}$", description="lower case letters, digits, hyphens")]
PromptVersion = Annotated[str, Field(pattern=r"^[A-Za-z0-9._-]{0,40}$")]
Topic = Annotated[str, Field(pattern=r"^[A-Za-z0-9._-]{1,200}$", description="name of a Kafka topic")]


class Context(Section):
    """How much of what was said before in its thread the model reads with a text."""

    messages: int = Field(default=0, ge=0, le=50, description="earlier messages of the thread to choose from")
    characters: int = Field(default=200, ge=1, le=10_000, description="how much of each, from its end")
    tokens: int = Field(default=256, ge=1, description="of all together; the most relevant messages that fit are read")


class Reuse(Section):
    """Whether a judgement is used again for the same text: same prompt, model, tenant and context."""

    window: Duration = Field(default="1h", description="for how long; 0s: never")
    except_tenants: list[str] = Field(default_factory=list, description="tenants whose every text is judged anew")


class Assemble(Section):
    """Turns become calls: messages with a `thread` and a `turn`, and the thread as key."""

    silence: Duration = Field(
        default="30m", description="how long after its last turn a call is closed that has not ended"
    )
    first: int = Field(default=0, ge=0, le=1, description="the number of a call's first turn")


class Cut(Section):
    """Messages become several: a call its exchanges, an exchange the claims in it."""

    into: Literal["exchanges", "claims"] = Field(
        description="exchanges: questions, each with its answer; claims: the sentences of the answers, one by one"
    )
    answers: list[str] = Field(min_length=1, description="the speakers who answer")
    before: int = Field(default=2, ge=0, le=20, description="exchanges: how many turns before each stand beside it")
    small_talk: list[str] = Field(
        default_factory=list,
        description="phrases of any language that claim nothing; what says no more than these, or asks, is dropped",
    )


class Escalate(Section):
    """Verdicts that a person should see go to a topic of their own as well, with a report."""

    writes: Topic
    decisions: list[str] = Field(default=["review", "escalate"], min_length=1, description="which ones")


class Documents(Section):
    """What claims are checked against: a compacted topic of texts, with the document's id as key."""

    topic: Topic
    wait: Duration = Field(
        default="30s", description="how long after its arrival a message waits for a document that is not there yet"
    )


class Stage(Section):
    """One step: a topic that is read, what is done, a topic that is written."""

    name: Name
    reads: Topic | None = Field(default=None, description="default: the source, or what the stage before writes")
    writes: Topic
    context: Context = Context()
    reuse: Reuse = Reuse()
    prompt: PromptVersion = Field(
        default="", description="your name for the version of the prompt, such as v4; verdicts have it"
    )
    judge: OperatorSettings | None = Field(default=None, description="ask a model: the operator and its settings")
    cut: Cut | None = Field(default=None, description="or cut each message into several")
    assemble: Assemble | None = Field(default=None, description="or put turns together")
    cascade: CascadeSettings | None = Field(
        default=None, description="with `judge` of `moderate`: a screen before the model, which decides the easy rows"
    )
    escalate: Escalate | None = Field(default=None, description="with `judge`: what becomes of verdicts to be seen")

    @model_validator(mode="after")
    def _one_task(self) -> Self:
        if sum(task is not None for task in (self.judge, self.cut, self.assemble)) != 1:
            raise ValueError("a stage has one of judge, cut and assemble")
        if self.judge is None and self.escalate is not None:
            raise ValueError("only a stage that judges can escalate")
        if self.cascade is not None and not isinstance(self.judge, ModerateSettings):
            raise ValueError("cascade: only a stage with `judge` of the operator moderate can have a screen")
        return self

    @property
    def task(self) -> str:
        """What it does, in a word: its operator, `cut` or `assemble`."""
        if self.judge is not None:
            return self.judge.operator
        return "cut" if self.cut is not None else "assemble"

    def about(self) -> str:
        """What it does, for people."""
        if self.judge is not None:
            screen = f"; screen {self.cascade.screen} before it" if self.cascade is not None else ""
            return self.judge.about() + screen
        if self.cut is not None:
            return f"into {self.cut.into}, answers of {', '.join(self.cut.answers)}"
        assert self.assemble is not None
        return f"turns into calls, closed after {self.assemble.silence} of silence"


class Pipeline(Section):
    """A source topic, the time by which its rows should be judged, and the stages in between."""

    name: Name
    version: str = Field(min_length=1, max_length=40, description="change it when you change what verdicts mean")
    description: str = ""
    source: Topic
    sla: Duration = Field(description="from event time to verdict")
    limits: Limits = Limits()
    documents: Documents | None = Field(default=None, description="where `check` finds the documents of its claims")
    stages: list[Stage] = Field(min_length=1)

    @property
    def sla_seconds(self) -> float:
        """The SLA in seconds."""
        return seconds_of(self.sla)

    def reads(self, stage: Stage) -> str:
        """The topic that a stage reads."""
        before = self.stages[: self.stages.index(stage)]
        return stage.reads or (before[-1].writes if before else self.source)

    @model_validator(mode="after")
    def _stages_differ(self) -> Self:
        names = [stage.name for stage in self.stages]
        for name in names:
            if names.count(name) > 1:
                raise ValueError(f"two stages are named {name!r}")
        for stage in self.stages:
            if self.reads(stage) == stage.writes:
                raise ValueError(f"stage {stage.name!r} reads and writes the topic {stage.writes!r}")
        return self


class PipelineError(WorkerMisconfigured):
    """A pipeline file is wrong; the message has a line for each mistake: file, line, place, reason."""


def load(path: Path) -> Pipeline:
    """Read one pipeline file. Raises PipelineError with everything that is wrong in it."""
    try:
        document = YAML(typ="rt").load(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError) as error:
        raise PipelineError(f"{path}: cannot be read: {error}") from error
    except MarkedYAMLError as error:
        line = error.problem_mark.line + 1 if error.problem_mark else 1
        raise PipelineError(f"{path}:{line}: not YAML: {error.problem}") from error
    except YAMLError as error:
        raise PipelineError(f"{path}: not YAML: {' '.join(str(error).split())}") from error
    try:
        return Pipeline.model_validate(_plain(document))
    except ValidationError as error:
        raise PipelineError("\n".join(_explain(path, document, error))) from error


def load_all(paths: Iterable[Path]) -> list[Pipeline]:
    """Read pipeline files, and every .yaml of folders among `paths`. Raises PipelineError."""
    files = [file for path in paths for file in (sorted(path.glob("*.yaml")) if path.is_dir() else [path])]
    if not files:
        raise PipelineError(f"no pipeline files (*.yaml) in: {', '.join(map(str, paths))}")
    pipelines: list[Pipeline] = []
    mistakes: list[str] = []
    for file in files:
        try:
            pipelines.append(load(file))
        except PipelineError as error:
            mistakes.append(str(error))
    names = [pipeline.name for pipeline in pipelines]
    mistakes += [f"two pipelines are named {name!r}" for name in sorted(set(names)) if names.count(name) > 1]
    if mistakes:
        raise PipelineError("\n".join(mistakes))
    return pipelines


def _plain(node: Any) -> Any:
    """Ordinary dicts and lists instead of ruamel's, which carry comments."""
    if isinstance(node, dict):
        return {key: _plain(value) for key, value in node.items()}
    if isinstance(node, list):
        return [_plain(value) for value in node]
    return str(node) if isinstance(node, str) else node


def _explain(path: Path, document: Any, error: ValidationError) -> Iterable[str]:
    for problem in error.errors(include_url=False):
        place = list(problem["loc"])
        if problem["type"] == "unknown_field":
            place.append(problem["ctx"]["field"])
        line, steps = _locate(document, place, missing=problem["type"] == "missing")
        reason = problem["msg"].removeprefix("Value error, ")
        yield f"{path}:{line}: {'.'.join(map(str, steps)) or 'file'}: {reason}"


def _locate(document: Any, place: list[str | int], *, missing: bool) -> tuple[int, list[str | int]]:
    """Line of a place and its path. Steps that the file does not have, such as the tag of a union, are left out.

    missing: the last step is a field that should be there; its line is that of what lacks it.
    """
    node, line, steps = document, 1, []
    for step in place:
        if isinstance(node, CommentedMap) and step in node:
            with contextlib.suppress(KeyError):  # a key that `<<` brings in has no line of its own
                line = node.lc.key(step)[0] + 1
        elif isinstance(node, CommentedSeq) and isinstance(step, int) and step < len(node):
            line = node.lc.item(step)[0] + 1
        else:
            if missing and step == place[-1]:
                steps.append(step)
            continue
        steps.append(step)
        node = node[step]
    return line, steps
