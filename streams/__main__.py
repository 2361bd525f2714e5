"""`python -m streams` is the command `weir`."""

from streams.cli import main

main()
