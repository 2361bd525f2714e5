"""Secrets of this process stay in it, also where a server or a library repeats them in an error.

Nothing of ours writes them; what others say of them passes here before it goes to a log, a page, a terminal, a
catalogue or a header.
"""

import base64

_known: set[str] = set()

_SHORTEST = 6  # shorter ones are found in ordinary words


def keep(user: str, secret: str) -> None:
    """Remember a secret, and how HTTP sends it with its user."""
    if len(secret) >= _SHORTEST:
        basic = base64.b64encode(f"{user}:{secret}".encode(errors="replace")).decode()
        _known.update((secret, basic.rstrip("=")))


def hide(text: str) -> str:
    """The text with `***` for each secret."""
    for secret in _known:
        if secret in text:
            text = text.replace(secret, "***")
    return text
