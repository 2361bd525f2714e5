"""What was said before in a thread, as far as this worker has seen it."""

from collections import OrderedDict, deque
from collections.abc import Collection

from msgspec import Struct

from streams.decode import Event

_MAX_THREADS = 50_000


class Earlier(Struct, frozen=True):
    """An earlier message of a thread, its text cut for context."""

    row_id: int
    offset: int
    text: str


class ThreadHistory:
    """The last messages of each thread, in memory and bounded: the least recently active threads are forgotten.

    After a restart or a rebalance a thread's first messages have less context than they could have. The lineage of a
    verdict names the messages that were read with it.
    """

    def __init__(self, messages: int, characters: int) -> None:
        """messages: how many earlier messages are given as context. characters: how much of each, from its end."""
        self._messages = messages
        self._characters = characters
        self._threads: OrderedDict[tuple[str, int, str], deque[Earlier]] = OrderedDict()

    def forget(self, rows: Collection[int]) -> None:
        """Messages with these row ids are no context any more."""
        for thread in self._threads.values():
            if any(entry.row_id in rows for entry in thread):
                kept = [entry for entry in thread if entry.row_id not in rows]
                thread.clear()
                thread.extend(kept)

    def enter(self, event: Event) -> list[Earlier]:
        """Note the event, and return what came before it in its thread and partition, oldest first.

        An event that is delivered again sees what it saw the first time, as far as that is still known.
        """
        if not self._messages or not event.thread:
            return []
        key = (event.topic, event.partition, event.thread)
        thread = self._threads.setdefault(key, deque(maxlen=2 * self._messages))
        self._threads.move_to_end(key)
        earlier = [entry for entry in thread if entry.offset < event.offset and entry.row_id != event.row_id]
        known = any(entry.row_id == event.row_id for entry in thread)
        if not known and (not thread or thread[-1].offset < event.offset):
            thread.append(Earlier(event.row_id, event.offset, event.text[-self._characters :]))
        while len(self._threads) > _MAX_THREADS:
            self._threads.popitem(last=False)
        return earlier[-self._messages :]
