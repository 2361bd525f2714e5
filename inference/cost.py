"""What the engine's work costs."""

from dataclasses import dataclass

from inference.engine import Usage

_MILLION = 1_000_000
_HOUR = 3600.0


@dataclass(frozen=True, slots=True)
class Prices:
    """US dollars, for a GPU that is paid by the hour or for tokens that are paid by the million.

    gpu_hour_usd: of one GPU; 0 where tokens are paid. gpus: how many are paid for on behalf of this worker, which may
    be a part of one. Cached input tokens are priced apart, because they cost an engine far less.
    """

    input_usd: float = 0.0
    cached_usd: float = 0.0
    output_usd: float = 0.0
    gpu_hour_usd: float = 0.0
    gpus: float = 1.0

    def cost(self, usage: Usage, engine_seconds: float = 0.0) -> float:
        """US dollars for a call. engine_seconds: its share of the engine's time."""
        if self.gpu_hour_usd:
            return self.hours(engine_seconds)
        fresh = usage.input_tokens - usage.cached_tokens
        return (
            fresh * self.input_usd + usage.cached_tokens * self.cached_usd + usage.output_tokens * self.output_usd
        ) / _MILLION

    def hours(self, seconds: float) -> float:
        """US dollars for so many seconds of the engine; 0 where tokens are paid."""
        return seconds / _HOUR * self.gpu_hour_usd * self.gpus
