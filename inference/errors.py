"""What can go wrong with an engine, by what to do next: try again, give the row up, stop the worker."""


class EngineUnavailable(Exception):
    """The engine did not answer, or answered that it cannot now. The same request may succeed later: try again."""


class PromptRejected(Exception):
    """The engine will never take this prompt. Other prompts may be fine: give this row up."""


class EngineMisconfigured(Exception):
    """No prompt can succeed: wrong key, unknown model, labels that the model cannot tell apart. Stop the worker."""
