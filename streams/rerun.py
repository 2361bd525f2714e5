"""Judging rows anew that another prompt judged: their messages are published once more, for one stage alone."""

import asyncio
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import datetime
from functools import partial
from typing import Any

from clickhouse_connect.driver.client import Client

from sinks import judged_messages, versions
from sinks.session import Session
from sinks.versions import Outdated, UsedPrompt
from streams.errors import WorkerMisconfigured
from streams.pipeline import Pipeline, Stage
from streams.publisher import Publisher
from streams.rerun_message import rebuild

_CHUNK = 200  # messages in memory
_POLL_SECONDS = 0.5


@dataclass(slots=True)
class Progress:
    """How far it is. chosen: verdicts that are meant. published: messages. left: those of them that have no new verdict
    yet. without_words: verdicts whose words the store has no more; they stay as they are.
    """

    chosen: int = 0
    published: int = 0
    left: int = 0
    without_words: int = 0

    @property
    def done(self) -> int:
        """Verdicts that were given anew."""
        return self.published - self.left

    @property
    def open(self) -> int:
        """Verdicts that are to be given anew still."""
        return self.chosen - self.done - self.without_words


@dataclass(frozen=True, slots=True)
class Plan:
    """What is to be judged anew. prompt: the one that is to judge. replaced: what is there of which prompt."""

    pipeline: Pipeline
    stage: Stage
    prompt: UsedPrompt
    outdated: Outdated
    replaced: Sequence[dict[str, Any]]

    @property
    def name(self) -> str:
        """`pipeline/stage`."""
        return f"{self.pipeline.name}/{self.stage.name}"

    @property
    def topic(self) -> str:
        """Where the stage reads."""
        return self.pipeline.reads(self.stage)


def stage_of(pipelines: Sequence[Pipeline], name: str, prompt: str) -> tuple[Pipeline, Stage]:
    """The stage that is meant by `pipeline/stage`, or by `stage` where only one pipeline has it, whose prompt must be
    of this version. Raises WorkerMisconfigured.
    """
    asking = {f"{p.name}/{stage.name}": (p, stage) for p in pipelines for stage in p.stages if stage.judge is not None}
    meant = [full for full in asking if name in {full, full.partition("/")[2]}]
    if not meant:
        raise WorkerMisconfigured(f"no stage {name!r} asks a model; in these pipelines there are: {', '.join(asking)}")
    if len(meant) > 1:
        raise WorkerMisconfigured(f"more than one stage is named {name!r}; say which: {', '.join(meant)}")
    (name,) = meant
    pipeline, stage = asking[name]
    if stage.prompt != prompt:
        has = f"has the prompt {stage.prompt!r}" if stage.prompt else "names no version of its prompt"
        raise WorkerMisconfigured(f"{name} {has}, not {prompt!r}: change the prompt in the pipeline file and deploy it")
    return pipeline, stage


def plan(client: Client, pipeline: Pipeline, stage: Stage, since: datetime, until: datetime) -> Plan:
    """What is to be done. Raises WorkerMisconfigured if no worker has the prompt of the file, and clickhouse-connect's
    errors.
    """
    prompt = _deployed(pipeline, stage, versions.prompts(client, pipeline.name, stage.name))
    outdated = Outdated(pipeline.name, stage.name, prompt.prompt_hash, since, until)
    found = Plan(pipeline, stage, prompt, outdated, versions.by_prompt(client, outdated))
    if elsewhere := sorted({str(group["topic"]) for group in found.replaced} - {found.topic}):
        raise WorkerMisconfigured(
            f"some of these rows were read from {', '.join(elsewhere)}, and {found.name} now reads {found.topic}: they "
            "cannot be judged anew there; leave them out with --since and --until"
        )
    return found


def _deployed(pipeline: Pipeline, stage: Stage, used: Sequence[UsedPrompt]) -> UsedPrompt:
    name = f"{pipeline.name}/{stage.name}"
    deploy = "deploy the file first: start workers with it, and then run this again"
    if not used:
        raise WorkerMisconfigured(f"no worker has worked on {name}; {deploy}")
    last = used[0]
    if (last.prompt_version, last.pipeline_version) != (stage.prompt, pipeline.version):
        raise WorkerMisconfigured(
            f"the worker that began last uses prompt {last.prompt_version or last.prompt_hash!r} of version "
            f"{last.pipeline_version!r} for {name}; the file has prompt {stage.prompt!r} of version "
            f"{pipeline.version!r}; {deploy}"
        )
    return last


async def judge_anew(
    found: Plan,
    session: Session,
    publisher: Publisher,
    in_flight: int,
    patience: float,
    on_progress: Callable[[Progress], None],
) -> Progress:
    """Keep the old verdicts, publish their messages, and wait until the store has new ones.

    It may be interrupted and begun again: what has a new verdict is not chosen again, and what is on its way is judged
    once. in_flight: messages that wait for a verdict, at most, so that new ones are not held up for long. patience:
    seconds without any new verdict after which it gives up. on_progress: called when something has changed.

    Raises TopicsMissing, KafkaError, WorkerMisconfigured, and what the session raises.
    """
    await publisher.require([found.topic])
    partitions = (await publisher.partitions([found.topic]))[found.topic]
    rows = await session.run(partial(versions.row_ids, outdated=found.outdated))
    progress = Progress(chosen=len(rows))
    on_progress(progress)
    loop = asyncio.get_running_loop()
    sent, changed = 0, loop.time()
    while progress.open:
        if sent < len(rows) and progress.left < in_flight:
            chunk = rows[sent : sent + min(_CHUNK, in_flight - progress.left)]
            published = await _publish(found, session, publisher, chunk, partitions)
            sent += len(chunk)
            progress.published += published
            progress.left += published
            progress.without_words += len(chunk) - published
            changed = loop.time()
        else:
            await asyncio.sleep(_POLL_SECONDS)
        count = await session.run(partial(versions.left, outdated=found.outdated, first=rows[0], last=rows[sent - 1]))
        if (left := max(0, count - progress.without_words)) < progress.left:
            changed = loop.time()
        progress.left = left
        on_progress(progress)
        if loop.time() - changed > patience:
            break
    return progress


async def _publish(found: Plan, session: Session, publisher: Publisher, rows: Sequence[int], partitions: int) -> int:
    """Keep these verdicts and publish their messages. Returns how many those were."""
    await session.run(partial(versions.keep, outdated=found.outdated, rows=rows))
    find = partial(judged_messages.find, pipeline=found.pipeline.name, stage=found.stage.name, rows=rows)
    stored = await session.run(find)
    context = found.stage.context
    sends = []
    for message in stored:
        earlier = message.earlier[-context.messages :] if context.messages else ()
        read_with = [(row, text[-context.characters :]) for row, text in earlier]
        rebuilt = rebuild(message, found.name, read_with)
        place = rebuilt.partition if rebuilt.partition < partitions else None
        sends.append(publisher.send(found.topic, rebuilt.key, rebuilt.value, rebuilt.headers, place))
    await asyncio.gather(*sends)
    return len(stored)
