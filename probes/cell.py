"""Works through a cell: its library is imported and its probes are asked, and each failure is confirmed."""

from __future__ import annotations

import os
import time
from typing import Any, Callable, Dict, List, NamedTuple, Optional, Tuple, cast

from . import child as work
from .contract import CellOrder, Frame, ObservationFrame, WorkOrder
from .facts import canonical
from .process import TimedOut
from .shared import Changed, Shared
from .suite import SUITE
from .worker import Seen, Worker

APART = "importing touches the CUDA driver, which spoils forks, so each probe ran in a process of its own"

SOUGHT_BY_TORCH = {
    *("numpy", "opt-einsum", "optree", "dill", "pydot", "monkeytype", "astunparse", "torchcomms"),
    *("triton", "pytorch-triton", "nvidia-ml-py", "pynvml", "cuda-python", "cuda-bindings"),
}
"""Distributions that torch (2.0 to 2.13) or inductor looks for once, while it is imported, and does without.

Found by recording the modules that are missing during the import; the compiled part of torch looks for NumPy.  tqdm is
left out: without it torch.hub shows a progress bar of its own, and many libraries bring it.
"""


PROOF = ("allocations", "operators")
"""The `device ...` metrics that prove work on a GPU; some versions of torch cannot count operators."""


COMPILE = "compile"
"""The probe that all cells of a launch leave until their other probes are answered: it takes most of the time."""


class Launch(NamedTuple):
    """The data that all cells of a launch share: the order, and the host's own facts and decisions."""

    order: WorkOrder
    overlays: str
    """The folder that holds the overlays by their keys."""
    packages: Dict[str, str]
    """Distribution -> version of the image's packages."""
    device: str
    device_name: str
    start_s: float
    """Seconds beyond its limit that a fresh process has to start and import torch, which a fork need not do."""
    warm: bool
    """Whether torch is imported in the host, so that children are forked from it."""
    until: float
    """The order's deadline (time.monotonic)."""
    shared: Shared
    """The files that its cells share."""


class Cell:
    """Works through a cell of the order; `emit` writes a frame, `private` is the descriptor that it writes to.

    The cell's worker imports the members and forks a child for each probe.  A failure counts once two processes have
    shown it, the latter a fresh one: a fork inherits what the warm process imported, so that its failure alone would be
    no proof against the library.
    """

    def __init__(self, order: CellOrder, launch: Launch, emit: Callable[[Frame], None], private: int) -> None:
        overlay = order["overlay"] and os.path.join(launch.overlays, order["overlay"])
        suite: Any = order["suite"] and dict(order["suite"])
        for folder in ("tests", "packages") if suite else ():
            suite[folder] = suite[folder] and os.path.join(launch.overlays, suite[folder])
        self.folders = [os.path.join(launch.overlays, key) for key in keys_of(order)]
        whole: Any = dict(order, overlay=overlay, suite=suite, image_packages=launch.packages)
        self.cell: work.CellTask = whole
        self.settings: work.Settings = {
            "device": launch.device,
            "seed": launch.order["seed"],
            "full": launch.order["full"],
            "modules": launch.order["modules"],
        }
        self.launch = launch
        self.emit = emit
        self.held: List[Frame] = []
        """The last observation, until the next probe begins or the cell's processes have ended."""
        self.private = private
        self.worker: Optional[Worker] = None
        self.forks = order["isolation"] != "fresh"
        """Whether probes are answered by children of the cell's worker."""
        self.warm = launch.warm and self.forks and not changes_torch(order, launch.packages)
        """Whether that worker is forked from the warm host."""
        self.apart: List[str] = []
        """Members whose import spoils forks for CUDA: each of their probes gets its own process."""
        self.imported: Dict[str, Seen] = {}
        """The result of each member's import; empty until they are imported."""
        self.questions = [(probe, member) for probe in order["probes"] for member in self.members()]
        """The probes that are still to be asked, each with its member."""

    def run(self, compiling: bool) -> None:
        """Run the checks that compile nothing, or (`compiling`) all that are left; the members are imported first.

        A later call imports them once more in its worker, and judges that no second time.  Raises Changed where the
        next cell would not find the files that this one found.
        """
        asked = [(probe, member) for probe, member in self.questions if compiling or probe != COMPILE]
        if not asked:
            return
        self.launch.shared.require_own(self.folders, unchanged=True)
        self.cell["seeded"] = self.launch.shared.seeded
        self.cell["places"] = work.places_of(self.cell["id"], bool(self.launch.order["compile_cache"]))
        try:
            if not self.imported:
                self.imported = self.imports()
                self.set_apart(self.imported)
            asked = [pair for pair in self.questions if pair in asked or failed(self.imported[pair[1]])]
            self.questions = [pair for pair in self.questions if pair not in asked]
            doubts: Dict[Tuple[str, str], Seen] = {}
            for probe, member in asked:
                self.begin(probe, member)
                seen = self.seen(probe, member, self.imported[member])
                if doubtful(seen):
                    doubts[probe, member] = seen
                else:
                    self.observe(probe, member, seen, self.imported[member])
            self.close()
            while doubts:
                doubts = self.ask_again(doubts, self.imported)
        finally:
            self.close()
            changed = self.launch.shared.change()
            if changed and self.held:
                last = cast(ObservationFrame, self.held[0])
                last["notes"] = [*last.get("notes", []), f"{changed} was changed meanwhile, which other cells use"]
            self.release()
        if changed:
            raise Changed

    def release(self) -> None:
        """Emit the observation that is held back."""
        while self.held:
            self.emit(self.held.pop())

    def imports(self) -> Dict[str, Seen]:
        """The result of each member's import; where one of them fails, all are imported again in a fresh process."""
        found = self.import_all(self.members())
        while any(map(doubtful, found.values())):
            self.close()
            self.warm = False
            again = self.import_all(self.members())
            found = {member: confirmed(seen, again[member]) for member, seen in found.items()}
        return found

    def import_all(self, members: List[str]) -> Dict[str, Seen]:
        """The result of each import in the cell's worker, or in several where an import ends its process."""
        found: Dict[str, Seen] = {}
        for number, member in enumerate(members):
            self.begin("import" if "import" in self.cell["probes"] else self.cell["probes"][0], member)
            if self.worker is None:
                self.worker = self.open(members[number:] if self.forks else [member], self.warm)
            found[member] = self.worker.imported()
            if self.worker.ended or not self.forks:
                self.close()
        return found

    def set_apart(self, imports: Dict[str, Seen]) -> None:
        """Keep members that spoil forks out of the cell's worker, so that the others can still be forked from it."""
        while self.worker is not None:
            spoiler = next((member for member, seen in imports.items() if seen.get("spoils_forks")), None)
            if spoiler is None:
                return
            self.apart.append(spoiler)
            self.close()
            imports = self.import_all([member for member in imports if member not in self.apart])

    def members(self) -> List[str]:
        """The cell's members, without those that are kept apart."""
        names = [member["distribution"] for member in self.cell["members"]]
        return [name for name in names if name not in self.apart]

    def begin(self, probe: str, member: str) -> None:
        """Tell the runner which probe begins; raise TimedOut once the order's time is up."""
        self.release()
        if time.monotonic() > self.launch.until:
            raise TimedOut("the order's time is up")
        self.emit({"kind": "begin", "cell": self.cell["id"], "probe": probe, "member": member})

    def seen(self, probe: str, member: str, imported: Seen) -> Seen:
        """The answer of a member to a probe, given the result of its import."""
        if failed(imported):
            if probe == "import" or "import" not in self.cell["probes"]:
                return imported
            message = f"{member} does not import"
            return {
                "status": "skipped",
                "code": "import-failed",
                "message": message,
                "isolation": imported["isolation"],
            }
        if probe == "import" and not work.defines(member, "imported"):
            return imported
        if not self.forks or member in self.apart:
            seen = self.ask_fresh(probe, member)
            self.close()
            return seen
        if self.worker is None:
            self.worker = self.open(self.members(), self.warm)
            for _ in self.members():  # no time of the probe's own; one that fails now shows as the probe's failure
                self.worker.imported()
        return self.ask(self.worker, probe, member, fork=True)

    def ask_again(self, doubts: Dict[Tuple[str, str], Seen], imports: Dict[str, Seen]) -> Dict[Tuple[str, str], Seen]:
        """Ask all that failed once more, each member in one fresh process; return what is still in doubt."""
        left = {}
        for member in imports:
            for (probe, asked), before in doubts.items():
                if asked == member:
                    self.begin(probe, member)
                    seen = confirmed(before, self.ask_fresh(probe, member))
                    if doubtful(seen):
                        left[probe, member] = seen
                    else:
                        self.observe(probe, member, seen, imports[member])
            self.close()
        return left

    def ask_fresh(self, probe: str, member: str) -> Seen:
        """The answer of a process of its own, which imports torch and the library itself; it stays for more probes."""
        worker = self.worker
        if worker is None:
            worker = self.worker = self.open([member], warm=False)
            imported = worker.imported()
            if failed(imported):
                self.close()
                return imported
        return self.ask(worker, probe, member, fork=False)

    def ask(self, worker: Worker, probe: str, member: str, fork: bool) -> Seen:
        """The worker's answer to a probe; on a GPU no pass without the proof of work that the probe counts."""
        seen = worker.ask(probe, member, self.limit(probe), fork)
        if worker.ended:
            self.close()
        if seen["status"] == "passed":
            seen["device"] = self.launch.device
            elsewhere = probe == SUITE or work.defines(member, "ELSEWHERE")  # upstream's tests choose their device
            if self.launch.device == "cuda" and not elsewhere and not proves_work(seen):
                message = "the probe passes without a proof that the library worked on the GPU"
                seen.update(status="failed", code="wrong-device", message=message)
        return seen

    def observe(self, probe: str, member: str, seen: Seen, imported: Seen) -> None:
        """Hand over an observation, with the device on which the probe saw its work.

        Raises Lost for a failure of which the cell's missing files may be the cause.
        """
        if failed(seen):
            self.launch.shared.require_own(self.folders)
        seen = {name: value for name, value in seen.items() if name != "sure"}
        if probe == "import":
            seen["metrics"] = {**imported.get("metrics", {}), **seen.get("metrics", {})}
        if member in self.apart:
            seen["notes"] = [*seen.get("notes", []), APART]
        if seen.get("device"):  # which it is, the host knows
            seen["device"] = self.launch.device
        name = self.launch.device_name if seen.get("device") else ""
        seen.update(kind="observation", member=member, cell=self.cell["id"], probe=probe, device_name=name)
        seen["installed"] = imported.get("installed", "")
        self.held.append(cast(ObservationFrame, seen))

    def limit(self, probe: str) -> float:
        """Seconds that the probe may take."""
        if probe in self.cell.get("timeouts", {}):
            return self.cell["timeouts"][probe]
        return self.cell["compile_timeout_s"] if probe == COMPILE else self.cell["timeout_s"]

    def open(self, members: List[str], warm: bool) -> Worker:
        """A worker for these members: forked from the warm host, or a process of its own."""
        orders = [member for member in self.cell["members"] if member["distribution"] in members]
        task = cast(work.CellTask, dict(self.cell, members=orders))
        return Worker(task, self.settings, self.private, None if warm else self.launch.start_s)

    def close(self) -> None:
        """End the worker and its leftovers."""
        if self.worker is not None:
            self.worker.close()
            self.worker = None


def keys_of(cell: CellOrder) -> List[str]:
    """The keys of the folders that the runner has brought for a cell: its overlay, and upstream's tests with pytest."""
    suite = cell["suite"]
    return [key for key in (cell["overlay"], *((suite["tests"], suite["packages"]) if suite else ())) if key]


def changes_torch(cell: CellOrder, packages: Dict[str, str]) -> bool:
    """Whether its overlay holds what torch looks for when it is imported, or replaces a package of the image.

    The warm host has imported torch without the one, and perhaps with the other.
    """
    members = [canonical(member["distribution"]) for member in cell["members"]]
    brought = [canonical(name) for name in cell["added"]]
    return any(name in SOUGHT_BY_TORCH or (name in packages and name not in members) for name in brought)


def proves_work(seen: Seen) -> bool:
    """Whether the answer counts memory that was taken on a GPU, and operators where torch can count them."""
    counts = [seen["metrics"].get(f"device {what}", {"value": what == "operators"}) for what in PROOF]
    return all(count["value"] > 0 for count in counts)


def failed(seen: Seen) -> bool:
    """Whether the member did not pass a probe that applies to it."""
    return seen["status"] not in ("passed", "skipped")


def doubtful(seen: Seen) -> bool:
    """Whether it is a failure that no second process has shown yet."""
    return failed(seen) and not seen.get("sure")


def confirmed(before: Seen, now: Seen) -> Seen:
    """The answer of a fresh process, which counts, with what another process showed before it.

    A failure is sure where a fresh process has shown one before, or a fork the same.  A fresh process that fails and
    another that passes make the check flaky; a fork that fails is a fault of ours.
    """
    if not failed(before):
        return now
    fresh = before["isolation"] == "fresh"
    seen = dict(now, attempts=[*before.get("attempts", []), before["status"]])
    seen["sure"] = fresh or signature(before) == signature(now)
    notes: List[str] = [*now.get("notes", [])]
    if not failed(now):
        seen["flaky"] = fresh
        notes.append(f"{'flaky' if fresh else 'warm process disagreed'}: {before['message']}")
    elif signature(before) != signature(now):
        notes.append(f"before, in a {'fresh process' if fresh else 'forked child'}: {before['message']}")
    return dict(seen, notes=notes) if notes else seen


def signature(seen: Seen) -> List[Any]:
    """What two answers have in common that are the same failure."""
    return [seen.get(name) for name in ("status", "code", "exception", "signal", "exit")]
