"""Fails, whatever others say."""


def sample(probe):
    raise RuntimeError("the victim's own failure")
