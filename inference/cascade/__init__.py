"""Which rows a cheap screen decides, what is promised about that, and whether the promise still holds."""
