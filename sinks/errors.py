"""What can go wrong with the store, by what to do next: try again, give the row up, stop."""


class StoreUnavailable(Exception):
    """The store did not answer or refused for now. Nothing is wrong with the rows: try again."""


class StoreMisconfigured(Exception):
    """No row can be stored until a person changes something: stop the worker."""


class RowRejected(Exception):
    """A row does not fit its table, whatever the state of the store: give this row up."""


class RowNotKept(RowRejected):
    """ClickHouse took the row and did not keep it, as it does with rows older than their table's TTL."""


class SchemaMismatch(Exception):
    """The schema is not the one that this code writes. The message says what to run."""
