"""The command `weir`."""

from streams.cli.main import main

__all__ = ["main"]
