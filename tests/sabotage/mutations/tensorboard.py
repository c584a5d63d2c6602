"""(probe, reason code, what is wrong) -> the sabotage of TensorBoard that the probe must answer with that code."""

from __future__ import annotations

import dataclasses
from typing import Any

from ._change import Sabotage, replace, returns

REQUIRES = ("torch==2.13.0", "numpy", "tensorboard==2.21.0")

READER = "tensorboard.backend.event_processing.event_accumulator.EventAccumulator"
WRITER = "tensorboard.summary.writer.event_file_writer.EventFileWriter"
LOADER = "tensorboard.backend.event_processing.event_file_loader.EventFileLoader"


def _each(change: Any) -> Any:
    """Every event of a list is changed."""
    return lambda events: [change(event) for event in events]


def _value(factor: float) -> Any:
    """A scalar off by a factor."""
    return _each(lambda event: dataclasses.replace(event, value=event.value * factor))


def _step(event: Any) -> Any:
    """Every event is the first step's."""
    return dataclasses.replace(event, step=0)


def _wider(event: Any) -> Any:
    """Buckets 10 percent too wide."""
    seen = event.histogram_value
    return dataclasses.replace(
        event, histogram_value=dataclasses.replace(seen, bucket_limit=[1.1 * limit for limit in seen.bucket_limit])
    )


def _moved(event: Any) -> Any:
    """The fullest bucket loses a tenth."""
    seen = event.histogram_value
    bucket = list(seen.bucket)
    bucket[bucket.index(max(bucket))] *= 0.9
    return dataclasses.replace(event, histogram_value=dataclasses.replace(seen, bucket=bucket))


def _heavier(event: Any) -> Any:
    """The draws' sum 10 percent too large."""
    seen = event.histogram_value
    return dataclasses.replace(event, histogram_value=dataclasses.replace(seen, sum=1.1 * seen.sum + 1.0))


def _forgetful(original: Any) -> Any:
    """Every third event is lost on its way to the file."""

    def add_event(self: Any, event: Any) -> None:
        self.counted = getattr(self, "counted", 0) + 1
        if self.counted % 3:
            original(self, event)

    return add_event


def _swaps(events: Any) -> Any:
    """The first two events change places."""
    return [*events[1::-1], *events[2:]]


def _not_a_number(events: Any) -> Any:
    return [dataclasses.replace(events[0], value=float("nan")), *events[1:]]


def _settled(events: Any) -> Any:
    """The curve stands still after its first point."""
    return [dataclasses.replace(event, value=events[0].value) for event in events]


def _later_steps(original: Any) -> Any:
    def scalars_impl(self: Any, *arguments: Any) -> Any:
        values, mime = original(self, *arguments)
        return [(time, step + 1, value) for time, step, value in values], mime

    return scalars_impl


def _lost_module(_: Any) -> Any:
    def get_plugins() -> Any:
        raise ImportError("No module named 'pkg_resources'")

    return get_plugins


MUTATIONS: dict[tuple[str, str, str], Sabotage] = {
    ("sample", "wrong-shape", "every third event is lost"): replace(f"{WRITER}:add_event", _forgetful),
    ("sample", "wrong-value", "buckets 10 percent too wide"): returns(f"{READER}:Histograms", _each(_wider)),
    ("sample", "wrong-value", "the fullest bucket loses a tenth"): returns(f"{READER}:Histograms", _each(_moved)),
    ("sample", "wrong-value", "the sum 10 percent too large"): returns(f"{READER}:Histograms", _each(_heavier)),
    ("sample", "wrong-value", "every event is the first step's"): returns(f"{READER}:Scalars", _each(_step)),
    ("sample", "wrong-value", "scalars 10 percent too large"): returns(f"{READER}:Scalars", _value(1.1)),
    ("sample", "not-finite", "one scalar is NaN"): returns(f"{READER}:Scalars", _not_a_number),
    ("autograd", "wrong-shape", "every third event is lost"): replace(f"{WRITER}:add_event", _forgetful),
    ("autograd", "wrong-value", "two events change places"): returns(f"{READER}:Scalars", _swaps),
    ("autograd", "wrong-value", "values 1 percent too large"): returns(f"{READER}:Scalars", _value(1.01)),
    ("autograd", "not-finite", "one value is NaN"): returns(f"{READER}:Scalars", _not_a_number),
    ("autograd", "wrong-value", "the curve stands still"): returns(f"{READER}:Scalars", _settled),
    ("sample", "wrong-value", "the server shows other numbers"): replace(
        "tensorboard.plugins.scalar.scalars_plugin.ScalarsPlugin:scalars_impl", _later_steps
    ),
    ("sample", "ImportError", "a plugin does not load"): replace("tensorboard.default:get_plugins", _lost_module),
}
