"""Says that it worked on a GPU."""


class Device:
    type = "cuda"


def sample(probe):
    probe.device = Device()
    probe.synchronize = lambda: None
    probe.metric("device allocations", 7, "count")
