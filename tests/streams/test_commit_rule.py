"""Whatever is acknowledged in which order, revoked, refused or restarted: no commit passes unfinished work."""

import asyncio
from collections.abc import Mapping
from typing import Any

from faust.types import TP
from faust.types.tuples import ConsumerMessage
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from streams.consumer import App, SafeConsumer

PARTITIONS = (TP("messages", 0), TP("messages", 1))


class Cluster:
    """What Kafka knows: the offsets that exist, and what the group has committed. refuses: commits fail."""

    def __init__(self) -> None:
        self.log: dict[TP, list[int]] = {tp: [] for tp in PARTITIONS}
        self.committed = dict.fromkeys(PARTITIONS, 0)
        self.refuses = False


class Connected(SafeConsumer):
    """The consumer, of which only the two calls that need a broker are answered by `cluster`."""

    cluster: Cluster
    owned: set[TP]

    def assignment(self) -> set[TP]:
        return self.owned

    async def _commit(self, offsets: Mapping[TP, int]) -> bool:
        if not self.cluster.refuses:
            self.cluster.committed.update(offsets)
        return not self.cluster.refuses


class CommitRule(RuleBasedStateMachine):
    """One member of a group, which reads logs with gaps and finishes events in any order.

    finished: what was done for good by any member at any time. Losing an event means that it is below the committed
    offset and not in there.
    """

    def __init__(self) -> None:
        super().__init__()
        self.runner = asyncio.Runner()
        self.cluster = Cluster()
        self.finished: dict[TP, set[int]] = {tp: set() for tp in PARTITIONS}

    def teardown(self) -> None:
        self.runner.close()

    @initialize()
    def start(self) -> None:
        """A new process: it knows nothing but what was committed."""
        self.runner.run(self._start())

    async def _start(self) -> None:
        async def nothing(*_: Any) -> None: ...

        app = App("test", broker="kafka://127.0.0.1:9", store="memory://")
        self.consumer = Connected(app.transport, nothing, nothing, nothing)
        self.consumer.cluster = self.cluster
        self.consumer.owned = set()
        self.position: dict[TP, int] = {}
        self.in_flight: list[ConsumerMessage] = []

    @rule()
    def crash(self) -> None:
        self.start()

    def publish(self, tp: TP, gap: int, count: int) -> None:
        """Compaction and transactions leave offsets out."""
        after = (self.cluster.log[tp][-1] if self.cluster.log[tp] else -1) + 1 + gap
        self.cluster.log[tp] += range(after, after + count)

    def assign(self, tp: TP) -> None:
        if tp not in self.consumer.owned:
            self.consumer.owned.add(tp)
            self.position[tp] = self.cluster.committed[tp]

    @rule(tp=st.sampled_from(PARTITIONS), by_another=st.booleans())
    def revoke(self, tp: TP, by_another: bool) -> None:
        """The other member goes on from what is committed, and finishes all that it finds."""
        if tp in self.consumer.owned:
            self.runner.run(self.consumer.on_partitions_revoked({tp}))
            self.consumer.owned.discard(tp)
            if by_another and self.cluster.log[tp]:
                rest = [offset for offset in self.cluster.log[tp] if offset >= self.cluster.committed[tp]]
                self.finished[tp].update(rest)
                self.cluster.committed[tp] = max([self.cluster.committed[tp], *(offset + 1 for offset in rest)])

    @rule(tp=st.sampled_from(PARTITIONS), gap=st.sampled_from([0, 0, 0, 1, 7]), count=st.integers(1, 5))
    def deliver(self, tp: TP, gap: int, count: int) -> None:
        self.assign(tp)
        self.publish(tp, gap, count)
        waiting = [offset for offset in self.cluster.log[tp] if offset >= self.position[tp]]
        for offset in waiting[:count]:
            message = ConsumerMessage(tp.topic, tp.partition, offset, 0.0, 0, (), None, b"x", None, tp=tp)
            self.runner.run(self.consumer.callback(message))
            self.in_flight.append(message)
            self.position[tp] = offset + 1

    @precondition(lambda self: self.in_flight)
    @rule(data=st.data())
    def finish(self, data: st.DataObject) -> None:
        message = self.in_flight.pop(data.draw(st.integers(0, len(self.in_flight) - 1)))
        self.finished[message.tp].add(message.offset)
        self.consumer.ack(message)

    @rule(refused=st.booleans())
    def commit(self, refused: bool) -> None:
        self.cluster.refuses = refused
        self.runner.run(self.consumer.commit())
        self.cluster.refuses = False

    @rule()
    def all_is_finished_and_committed(self) -> None:
        """Nothing stalls: once everything that was delivered is done, the commit reaches the position."""
        for message in self.in_flight:
            self.finished[message.tp].add(message.offset)
            self.consumer.ack(message)
        self.in_flight = []
        self.runner.run(self.consumer.commit())
        for tp in self.consumer.owned:
            delivered = [offset for offset in self.cluster.log[tp] if offset < self.position[tp]]
            if delivered:
                assert self.cluster.committed[tp] > delivered[-1]

    @invariant()
    def nothing_is_lost(self) -> None:
        for tp in PARTITIONS:
            passed = {offset for offset in self.cluster.log[tp] if offset < self.cluster.committed[tp]}
            assert passed <= self.finished[tp]


TestCommitRule = CommitRule.TestCase
TestCommitRule.settings = settings(max_examples=60, stateful_step_count=40, deadline=None)
