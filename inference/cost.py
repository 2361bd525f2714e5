"""What tokens cost."""

from dataclasses import dataclass

from inference.engine import Usage

_MILLION = 1_000_000


@dataclass(frozen=True, slots=True)
class Prices:
    """US dollars a million tokens. Cached input tokens are priced apart, because they cost an engine far less."""

    input_usd: float = 0.0
    cached_usd: float = 0.0
    output_usd: float = 0.0

    def cost(self, usage: Usage) -> float:
        """US dollars for `usage`."""
        fresh = usage.input_tokens - usage.cached_tokens
        return (
            fresh * self.input_usd + usage.cached_tokens * self.cached_usd + usage.output_tokens * self.output_usd
        ) / _MILLION
