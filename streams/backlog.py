"""How many messages of its topics a worker has not taken yet."""

import asyncio
import contextlib
import logging
import time
from collections.abc import Callable, Mapping

from aiokafka import AIOKafkaConsumer
from aiokafka.errors import KafkaError
from faust.types import TP

from streams.kafka import client_options
from streams.patience import persist
from streams.settings import Settings
from streams.sla import Waiting

log = logging.getLogger(__name__)

Position = Mapping[tuple[str, int], int]

_LOOK_SECONDS = 5.0
_STALE_SECONDS = 60.0


class Backlog:
    """Asks the broker where the worker's partitions begin and end.

    It has a client of its own: the consumer only knows what its last fetch said, and it fetches nothing while the
    worker has enough to do. Offsets without a message, as transactions and compaction leave them, count as messages.
    """

    def __init__(self, settings: Settings, committed: Callable[[TP], int], look_seconds: float = _LOOK_SECONDS) -> None:
        """committed: the offset at which a partition is read on, 0 for none. look_seconds: how often it asks."""
        self._settings = settings
        self._committed = committed
        self._look_seconds = look_seconds
        self._mine: set[TP] | None = None
        self._ends: dict[TP, int] = {}
        self._begins: dict[TP, int] = {}
        self._grew: dict[TP, float] = {}
        self._looked = 0.0
        self._changed = asyncio.Event()

    async def run(self) -> None:
        """Ask until cancelled. Raises KafkaError that no later attempt would mend."""
        client = AIOKafkaConsumer(**client_options(self._settings), group_id=None)
        try:
            await persist(client.start)
            while True:
                self._changed.clear()
                try:
                    await self._look(client)
                except (KafkaError, OSError) as error:
                    log.debug("the ends of topics are not known: %s", error)
                with contextlib.suppress(TimeoutError):
                    await asyncio.wait_for(self._changed.wait(), self._look_seconds)
        finally:
            await client.stop()

    def assigned(self, partitions: set[TP]) -> None:
        """These partitions are the worker's, and no others."""
        self._mine = set(partitions)
        for known in (self._ends, self._begins, self._grew):
            for tp in known.keys() - partitions:
                del known[tp]
        self._changed.set()

    def of(self, topic: str, position: Position) -> Waiting | None:
        """What a reader of the topic has not taken. position: of each partition, where it goes on; where it has taken
        nothing since the partition came, that is what was committed. None if the broker has not told, or not lately.
        """
        if self._mine is None or (self._mine and time.monotonic() - self._looked > _STALE_SECONDS):
            return None
        messages, grew = 0, 0.0
        for tp in self._mine:
            if tp.topic == topic:
                if tp not in self._ends:
                    return None
                begin = max(self._begins[tp], position.get(tp, 0) or self._committed(tp))
                messages += max(0, self._ends[tp] - begin)
                grew = max(grew, self._grew[tp])
        return Waiting(messages, time.monotonic() - grew if grew else 0.0)

    async def _look(self, client: AIOKafkaConsumer) -> None:
        mine = self._mine
        if not mine:
            return
        begins, ends = await client.beginning_offsets(mine), await client.end_offsets(mine)
        now = time.monotonic()
        for tp in mine & (self._mine or set()):
            if self._ends.get(tp) != ends[tp]:
                self._grew[tp] = now
            self._begins[tp], self._ends[tp] = begins[tp], ends[tp]
        self._looked = now
