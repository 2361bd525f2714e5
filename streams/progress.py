"""How far a partition may be committed."""


class PartitionProgress:
    """Tracks one partition from its assignment to its revocation.

    The commit offset is the lowest offset that was delivered and is not done. Offsets that were never delivered,
    because a topic is compacted or transactional, are nobody's work and hold nothing back.
    """

    def __init__(self) -> None:
        self._pending: dict[int, object] = {}
        self._next: int | None = None

    def deliver(self, offset: int, delivery: object) -> None:
        """A message is about to be handed out. delivery: identifies this delivery; a later one of the same offset
        takes its place, and only that one's `done` counts.
        """
        self._pending[offset] = delivery
        self._next = offset + 1 if self._next is None else max(self._next, offset + 1)

    def done(self, offset: int, delivery: object) -> bool:
        """A delivery is finished. False if it is not the latest of its offset, or finished already."""
        if self._pending.get(offset) is not delivery:
            return False
        del self._pending[offset]
        return True

    def committable(self) -> int | None:
        """The next offset to read after a restart such that no unfinished work is skipped; None before any delivery."""
        return min(self._pending) if self._pending else self._next

    @property
    def pending(self) -> int:
        """Deliveries that are not done."""
        return len(self._pending)
