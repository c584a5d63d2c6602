"""A process's share of a run that several processes work on: it runs batches until the wanted outcome is there."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterable, Sequence

from torch_compat_matrix.runner.execution.engine import Engine
from torch_compat_matrix.runner.execution.schedule import Batch
from torch_compat_matrix.runner.model import Check
from torch_compat_matrix.runner.outcome import Outcome

LOOK_S = 0.05


class Worker:
    """Gives outcomes of single checks, in any order, while whole batches run in the background.

    Every process that shares the run's folder may ask for every check: the first to lock a batch runs it, and a batch
    whose owner died is run again.
    """

    def __init__(self, engine: Engine, checks: Iterable[Check], threads: int = 1) -> None:
        self.engine = engine
        self.batches = engine.batches(checks)
        self.threads: list[threading.Thread] = []
        self.wanted_threads = threads
        self.error: BaseException | None = None

    def outcome(self, check: Check) -> Outcome:
        """Wait for the check's outcome; raise the error that ended the work if it cannot come any more."""
        while True:
            outcome = self.engine.outcome(check)
            if outcome is not None:
                return outcome
            if self.error is not None:
                raise self.error
            self._keep_working(check)
            time.sleep(LOOK_S)

    def stop(self) -> None:
        """End the batches of this process."""
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
        except BaseException as error:  # `outcome` raises it; a thread's own traceback would be lost
            self.error = error
