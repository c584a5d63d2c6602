"""A metric that is no number."""


def sample(probe):
    probe.metric("loss", float("nan"), "count")
