"""The commit offset never passes unfinished work, whatever comes in which order."""

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from streams.progress import PartitionProgress


class Delivery:
    """One delivery of an offset; which one it is counts, not what it holds, as with the messages of Kafka."""

    def __init__(self, offset: int) -> None:
        self.offset = offset
        self.done = False


class Model(RuleBasedStateMachine):
    """Deliveries in the order of the log with gaps, from before after a seek, and acknowledgements in any order."""

    def __init__(self) -> None:
        super().__init__()
        self.progress = PartitionProgress()
        self.log: list[Delivery] = []
        self.reported: list[int] = []

    def latest(self) -> dict[int, Delivery]:
        return {delivery.offset: delivery for delivery in self.log}

    def deliver(self, offset: int) -> None:
        delivery = Delivery(offset)
        self.log.append(delivery)
        self.progress.deliver(offset, delivery)

    @rule(gap=st.sampled_from([0, 0, 0, 1, 5]))
    def next_message(self, gap: int) -> None:
        self.deliver(max(self.latest(), default=-1) + 1 + gap)

    @precondition(lambda self: self.log)
    @rule(data=st.data())
    def redelivery(self, data: st.DataObject) -> None:
        self.deliver(data.draw(st.sampled_from(sorted(self.latest()))))

    @precondition(lambda self: self.log)
    @rule(offset=st.integers(0, 60))
    def any_offset(self, offset: int) -> None:
        self.deliver(offset)

    @precondition(lambda self: self.log)
    @rule(data=st.data())
    def acknowledgement(self, data: st.DataObject) -> None:
        delivery = data.draw(st.sampled_from(self.log))
        counts = self.latest()[delivery.offset] is delivery and not delivery.done
        assert self.progress.done(delivery.offset, delivery) is counts
        delivery.done = True

    @rule()
    def all_are_done(self) -> None:
        for delivery in self.latest().values():
            self.progress.done(delivery.offset, delivery)
            delivery.done = True

    @rule(offset=st.integers(0, 60))
    def acknowledgement_of_nothing(self, offset: int) -> None:
        assert self.progress.done(offset, Delivery(offset)) is False

    @invariant()
    def commits_up_to_the_first_that_is_not_done(self) -> None:
        latest = self.latest()
        unfinished = [offset for offset, delivery in latest.items() if not delivery.done]
        committable = self.progress.committable()
        assert self.progress.pending == len(unfinished)
        if not latest:
            assert committable is None
        elif unfinished:
            assert committable == min(unfinished)
        else:
            assert committable == max(latest) + 1


TestModel = Model.TestCase
TestModel.settings = settings(max_examples=60, stateful_step_count=40, deadline=None)


def test_a_slow_event_holds_its_partition() -> None:
    progress = PartitionProgress()
    deliveries = [Delivery(offset) for offset in range(31)]
    for delivery in deliveries:
        progress.deliver(delivery.offset, delivery)
    for delivery in deliveries:
        if delivery.offset != 25:
            progress.done(delivery.offset, delivery)
    assert progress.committable() == 25
    progress.done(25, deliveries[25])
    assert progress.committable() == 31


def test_only_the_latest_delivery_counts() -> None:
    progress = PartitionProgress()
    first, again = Delivery(7), Delivery(7)
    progress.deliver(7, first)
    progress.deliver(7, again)
    assert progress.done(7, first) is False
    assert progress.committable() == 7
    assert progress.done(7, again) is True
    assert progress.done(7, again) is False
    assert progress.committable() == 8


def test_a_log_may_start_anywhere_and_have_gaps() -> None:
    progress = PartitionProgress()
    for offset in (100, 105):
        delivery = Delivery(offset)
        progress.deliver(offset, delivery)
        assert progress.committable() == offset
        progress.done(offset, delivery)
    assert progress.committable() == 106
