"""A fast classifier before the model: what is plainly harmless or plainly not costs no call."""
