"""One process's share of a run that several processes work on: it runs batches until the outcome wanted is there."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterable, Sequence

from torch_compat_matrix.runner.execution.engine import Engine
from torch_compat_matrix.runner.execution.schedule import Batch
from torch_compat_matrix.runner.model import Check, Outcome

LOOK_S = 0.05


class Worker:
    """Answers for single checks, in whatever order they are asked for, while whole batches run behind it.

    Every process that shares the run's folder may ask for every check: a batch is run by whoever claims it first,
    and one whose owner died is claimed again.
    """

    def __init__(self, engine: Engine, checks: Iterable[Check], threads: int = 1) -> None:
        self.engine = engine
        self.batches = engine.batches(checks)
        self.threads: list[threading.Thread] = []
        self.wanted_threads = threads
        self.error: BaseException | None = None

    def outcome(self, check: Check) -> Outcome:
        """The check's outcome, waited for; raises what ended the work if it cannot come any more."""
        while True:
            found = self.engine.outcome(check)
            if found is not None:
                return found
            if self.error is not None:
                raise self.error
            self._keep_working(check)
            time.sleep(LOOK_S)

    def stop(self) -> None:
        """End what this process runs."""
        self.engine.stop()
        for thread in self.threads:
            thread.join()

    def _keep_working(self, check: Check) -> None:
        self.threads = [thread for thread in self.threads if thread.is_alive()]
        if self.threads:
            return
        own_first = sorted(self.batches, key=lambda batch: check.id not in [own.id for own in batch.checks])
        for start in range(min(self.wanted_threads, len(own_first))):
            thread = threading.Thread(target=self._work, args=(own_first[start:] + own_first[:start],), daemon=True)
            self.threads.append(thread)
            thread.start()

    def _work(self, batches: Sequence[Batch]) -> None:
        try:
            for batch in batches:
                self.engine.work(batch)
        except BaseException as error:  # shown by whoever waits; a thread's own traceback would be lost
            self.error = error
