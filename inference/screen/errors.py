"""What can go wrong with a screen."""


class ScreenUnusable(Exception):
    """The file is missing, is not the one that was pinned, or holds no screen. Stop: somebody has to look."""


class TooFewRows(Exception):
    """There is too little to learn from, or nothing to tell apart."""
