"""A verdict that does not exist."""


def sample(probe):
    probe.parts.append({"name": "a", "status": "splendid", "seconds": 0.0})
