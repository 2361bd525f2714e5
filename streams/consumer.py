"""Faust's Kafka consumer with a commit rule that loses nothing.

Faust 0.15.3 commits the end of the first run of consecutive acknowledged offsets, and looks for unfinished work before
that run only if it starts more than one past the last commit, and not at all while nothing has been committed. So a
slow event can be committed past and is lost if the worker dies then (faust-streaming issue 606). It also records an
offset as committed when the commit failed, and stops the worker on any error of a commit. Here a partition is
committed up to its lowest unfinished offset, an error of a commit is an error of that attempt only, and the next
interval tries again.

Faust fetches in a thread. When a rebalance ends its reader, the fetch that the reader asked for goes on in the thread,
and its messages go to nobody: if it ends after the partitions were set back to their committed offsets, those messages
are not read again until the next rebalance. Here a fetch that nobody waits for is undone.
"""

import asyncio
import logging
from collections.abc import Awaitable, Callable, Iterator, Mapping
from typing import Any

import faust
from aiokafka.errors import KafkaError
from aiokafka.structs import OffsetAndMetadata, TopicPartition
from faust.transport.drivers import aiokafka as driver
from faust.types import TP, Message
from mode.utils.futures import notify

from streams.progress import PartitionProgress

log = logging.getLogger(__name__)

OnAssign = Callable[[set[TP]], None]
OnCommit = Callable[[Mapping[TP, int]], None]
BeforeRevoke = Callable[[], Awaitable[None]]


class SafeConsumer(driver.Consumer):
    """Commits each partition up to its lowest unfinished offset."""

    def __init__(
        self, transport: Any, callback: Callable[[Message], Awaitable[None]], *args: Any, **kwargs: Any
    ) -> None:
        self.progress: dict[TP, PartitionProgress] = {}
        self.assignments = 0  # how often partitions came or went

        async def deliver(message: Message) -> None:
            self.progress.setdefault(message.tp, PartitionProgress()).deliver(message.offset, message)
            await callback(message)

        self._delivery = deliver.__code__
        super().__init__(transport, deliver, *args, **kwargs)

    def _new_consumer_thread(self) -> driver.AIOKafkaConsumerThread:
        return _SafeThread(self, loop=self.loop, beacon=self.beacon)

    async def wait_first(self, *coros: Any, timeout: Any = None) -> Any:  # noqa: ASYNC109  as Faust has it
        """Faust delivers each message as a race of two tasks, in case that a queue is full and a rebalance comes.

        Nearly always there is room, and the delivery has nothing to wait for: then it is over with its first step.
        """
        delivery = coros[0]
        if getattr(delivery, "cr_code", None) is not self._delivery:
            return await super().wait_first(*coros, timeout=timeout)
        try:
            waits_for = delivery.send(None)
        except BaseException as error:
            for other in coros[1:]:
                other.close()
            if isinstance(error, StopIteration):
                return None
            raise
        return await super().wait_first(_Begun(delivery, waits_for), *coros[1:], timeout=timeout)

    def ack(self, message: Message) -> bool:
        """Mark a message as finished. Called by Faust when the last agent that reads it has acknowledged it."""
        message.acked = True
        self._unacked_messages.discard(message)
        progress = self.progress.get(message.tp)
        finished = progress is not None and progress.done(message.offset, message)
        notify(self._waiting_for_ack)
        return finished

    async def on_partitions_revoked(self, revoked: set[TP]) -> None:
        """Let rows in flight finish for a moment, commit what is done, and forget the partitions.

        Faust has emptied its buffers by then. Work that takes longer goes on, but is no longer ours to commit: its
        messages are delivered again, here or elsewhere.
        """
        self.assignments += 1
        await super().on_partitions_revoked(revoked)
        assert isinstance(self.app, App)
        if revoked:
            await self.app.before_revoke()
            await self.maybe_wait_for_commit_to_finish()  # or the next line would only wait for that one
            await self.commit(revoked)
        for tp in revoked:
            self.progress.pop(tp, None)

    async def on_partitions_assigned(self, assigned: set[TP], generation_id: int = 0) -> None:
        self.assignments += 1
        assert isinstance(self.app, App)
        self.app.on_assign(assigned)
        await super().on_partitions_assigned(assigned, generation_id)

    def read_on(self, tp: TP) -> int:
        """The offset that was committed last, where the next owner of a partition reads on; 0 if none was."""
        return self._committed_offset.get(tp) or 0

    def _filter_tps_with_pending_acks(self, topics: Any = None) -> Iterator[TP]:
        return (tp for tp in self.progress if topics is None or tp in topics or tp.topic in topics)

    def _new_offset(self, tp: TP) -> int | None:
        return self.progress[tp].committable()

    async def _add_gap(self, tp: TP, offset_from: int, offset_to: int) -> None:
        """Nothing: an offset that was never delivered is nobody's work."""

    async def _commit_offsets(self, offsets: Mapping[TP, int], start_new_transaction: bool = True) -> bool:
        assignment = self.assignment()
        ours = {tp: offset for tp, offset in offsets.items() if tp in assignment}
        if not ours or not await self._commit(ours):
            return False
        self._committed_offset.update(ours)
        assert isinstance(self.app, App)
        self.app.on_commit(ours)
        return True


class _Begun:
    """The rest of a coroutine whose first step was taken. waits_for: the future that this step ended with."""

    def __init__(self, coroutine: Any, waits_for: Any) -> None:
        self._coroutine = coroutine
        self._waits_for = waits_for

    def __await__(self) -> Any:
        yield self._waits_for
        return (yield from self._coroutine.__await__())


class _SafeThread(driver.AIOKafkaConsumerThread):
    consumer: SafeConsumer

    def _create_worker_consumer(self, transport: Any) -> Any:
        consumer = super()._create_worker_consumer(transport)
        # Faust asks for it only in its own transactions; what a producer aborted is no event in any case.
        consumer._isolation_level = "read_committed"
        return consumer

    async def getmany(self, active_partitions: set[TP] | None, timeout: float) -> Any:  # noqa: ASYNC109  as Faust has it
        assignments = self.consumer.assignments
        return await self.call_thread(self._fetch_if_current, assignments, active_partitions, timeout)

    async def _fetch_if_current(self, assignments: int, active_partitions: Any, timeout: float) -> Any:  # noqa: ASYNC109
        """What is there to read; nothing if the assignment is not the one for which this was asked any more."""
        consumer = self._ensure_consumer()
        if assignments != self.consumer.assignments:
            return {}
        records = await self._fetch_records(
            consumer, active_partitions, timeout=timeout, max_records=consumer._max_poll_records
        )
        if assignments == self.consumer.assignments:
            return records
        for tp, messages in records.items():
            if tp in consumer.assignment():
                consumer.seek(tp, messages[0].offset)
        return {}

    async def _commit(self, offsets: Mapping[TP, int]) -> bool:
        consumer = self._ensure_consumer()
        entries = {TopicPartition(tp.topic, tp.partition): OffsetAndMetadata(o, "") for tp, o in offsets.items()}
        try:
            await consumer.commit(entries)
        except KafkaError as error:
            log.warning("offsets were not committed and will be with the next attempt: %s", error)
            return False
        return True


class Bytes(faust.Schema[Any, Any]):
    """Key and value of a message as they are."""

    def loads_key(self, app: Any, message: Message, *, loads: Any = None, serializer: Any = None) -> bytes | None:
        return message.key

    def loads_value(self, app: Any, message: Message, *, loads: Any = None, serializer: Any = None) -> bytes | None:
        return message.value


class SafeTransport(driver.Transport):
    """Faust's aiokafka transport with `SafeConsumer`."""

    Consumer = SafeConsumer


class App(faust.App):
    """A Faust application whose consumer is `SafeConsumer`.

    on_assign: called with partitions before their messages come. on_commit: called with the offsets of each commit.
    before_revoke: awaited when partitions are taken away; it must return soon, because the other workers wait for it.
    """

    on_assign: OnAssign = staticmethod(lambda partitions: None)
    on_commit: OnCommit = staticmethod(lambda offsets: None)
    before_revoke: BeforeRevoke = staticmethod(lambda: asyncio.sleep(0))

    def _create_directories(self) -> None:
        """Nothing: they are for tables, of which there are none, and the working directory may not be writable."""

    def _new_transport(self) -> SafeTransport:
        return SafeTransport(self.conf.broker_consumer, self)
