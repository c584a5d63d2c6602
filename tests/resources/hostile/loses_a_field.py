"""A part without a status."""


def sample(probe):
    probe.parts.append({"name": "a", "seconds": 0.0})
