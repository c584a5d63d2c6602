"""A note that is no text."""


def sample(probe):
    probe.note(1)
