"""False alarms and missed ones over many nights of `compat run --confirm`, and what confirming costs.

`python -m benchmarks.alarms [--nights 20] [--planted 100]` runs each night through the product: 50 libraries of tiny
wheels with own probes, on five stand-ins, are 500 checks.  One check in a hundred fails in 5 % of its launches, one
stand-in fails one launch in fifty as a whole, and each night a library or its helper has a sound new release.
`--planted N` spreads releases over the nights that are broken on one stand-in: at import, by an exception, a wrong
value, a crash, a hang, or only in `compile`; each is mended after two nights.  `--beside` runs each night in a second
home with `--confirm 0`, to compare CPU seconds, which other work on the machine hardly changes, and wall time;
`--work S` lets each check take so many CPU seconds, and `--torch X` takes the real torch, so that a launch costs what
it costs.  The tosses are drawn by `--seed`, the launch's number and the check's name.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import resource
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from benchmarks.contenders import ROOT
from tests.support import scripted_torch
from tests.support.tinywheels import wheel
from torch_compat_matrix.runner.records.runs import Run

IMAGES = [f"host-{number}" for number in range(5)]
SHAKY, SHARE, ONE_IN, FIRST = IMAGES[-1], 0.05, 50, 7
"""The stand-in of which every 50th launch fails, from the 8th on; the share in which a flipping check fails."""
STAYS = 2
"""Nights after which a broken release is followed by a sound one."""
BROKEN = {
    "import": "raise ImportError(\"cannot import name 'gone'\")",
    "raises": "def value():\n    raise RuntimeError('no kernel for this layout')",
    "wrong": "def value():\n    return 2",
    "crash": "def value():\n    import ctypes\n    ctypes.string_at(0)",
    "hang": "def value():\n    import time\n    time.sleep(1000)",
}
"""How a release may be broken, by the code that takes the place of `value`."""
KINDS = ("import", "wrong", "raises", "crash", "wrong", "raises", "import", "crash", "wrong", "hang")
"""One planted release after the other; a hang costs whole time-outs, so that it is the rarest."""

COIN = '''
import fcntl, hashlib, os

def number(what):
    """The number of this launch among those that asked for it: one for all processes of the launch."""
    launch = os.path.dirname(os.path.dirname(os.environ["TMPDIR"]))
    with open(os.path.join(os.environ["ALARMS_STATE"], what.replace("/", "+")), "a+") as stream:
        fcntl.flock(stream, fcntl.LOCK_EX)
        stream.seek(0)
        seen = stream.read().splitlines()
        if launch not in seen:
            print(launch, file=stream)
            return len(seen)
        return seen.index(launch)

def toss(check):
    """Raise where this launch is one of those in which the check, or the whole host, fails."""
    host = os.environ["ALARMS_HOST"]
    if host == {shaky!r} and number(host) % {one_in} == {first}:
        raise RuntimeError("the device does not answer")
    check = host + "/" + check
    if check in {flipping!r}:
        drawn = hashlib.sha256(f"{seed}/{{check}}/{{number(check)}}".encode()).digest()[0]
        if drawn < 256 * {share}:
            raise AssertionError("0.1307 is not within 0.05 of 0.2")
'''
PROBES = """
import time
DISTRIBUTION = MODULE = {name!r}
NEEDS = ()

def {probe}(probe):
    import alarmcoin, {name} as library
    until = time.process_time() + {work}
    while time.process_time() < until:
        pass
    alarmcoin.toss("{name}/{probe}")
    assert library.value() == 1, f"{{library.value()}} is not 1"
"""


@dataclass(frozen=True)
class Planted:
    """A broken release: the first night that sees it, its library's number, the stand-in that it breaks, and how."""

    night: int
    library: int
    image: str
    kind: str

    @property
    def check(self) -> str:
        probe = "import" if self.kind == "import" else probe_of(self.library)
        return f"{self.image}/alarmlib{self.library:02}-{version_of(self.library)}/{probe}"


def probe_of(number: int) -> str:
    """What a library is asked beside its import: half of them are compiled."""
    return "compile" if number % 4 > 1 else "sample"


def version_of(number: int) -> str:
    """How matrix.yaml names a library: half of them move themselves, the others have a helper that does."""
    return "latest" if number % 2 else "1.0"


class Site:
    """The folder with wheels, own probes and matrix.yaml, in which the nights run."""

    def __init__(self, folder: Path, options: argparse.Namespace) -> None:
        self.folder, self.options = folder, options
        draw = random.Random(options.seed)
        libraries = range(options.libraries)
        checks = [
            f"{image}/alarmlib{number:02}/{probe}"
            for image in IMAGES
            for number in libraries
            for probe in ("import", probe_of(number))
        ]
        self.flipping = draw.sample(checks, max(1, len(checks) // 100))
        nights = range(1, options.nights)
        early = nights[: 1 - STAYS]  # so that each planted release is seen as often
        turns = [number for _ in range(options.planted) for number in draw.sample(libraries, len(libraries))]
        self.planted = [
            Planted(early[place * len(early) // options.planted], number, draw.choice(IMAGES), KINDS[place % 10])
            for place, number in enumerate(turns[: options.planted])
        ]
        self.sound = {night: draw.choice(libraries) for night in nights}
        self.write()

    def write(self) -> None:
        """What no night changes."""
        wheels, probes = self.folder / "wheels", self.folder / "probes"
        for folder in (wheels, probes):
            folder.mkdir()
        options = self.options
        state = {"shaky": SHAKY, "one_in": ONE_IN, "first": FIRST, "share": SHARE}
        wheel(wheels, "alarmcoin", "1.0", code=COIN.format(flipping=self.flipping, seed=options.seed, **state))
        if not options.torch:
            scripted_torch.wheel(wheels, version="2.13.0", cuda=None, gpus=[])
        requires = f"[torch=={options.torch or '2.13.0'}, alarmcoin==1.0]"
        lines = ["limits: { timeout: 10, gpus: none }", "probes: [import, sample, compile, ./probes]", "images:"]
        for image in IMAGES:
            env = f"{{ ALARMS_HOST: {image}, ALARMS_STATE: }}"
            lines.append(f"  {image}: {{ local: {{ python: host, requires: {requires} }}, env: {env} }}")
        lines.append("libraries:")
        for number in range(options.libraries):
            name, probe = f"alarmlib{number:02}", probe_of(number)
            lines.append(f'  {name}: {{ versions: ["{version_of(number)}"], probes: [import, {probe}] }}')
            (probes / f"{name}.py").write_text(PROBES.format(name=name, probe=probe, work=options.work))
            if version_of(number) != "latest":
                code = f"import alarmcoin\nalarmcoin.toss('{name}/import')\nfrom alarmhelp{number:02} import value\n"
                wheel(wheels, name, "1.0", f"alarmhelp{number:02}", code=code)
        (self.folder / "matrix.yaml").write_text("\n".join(lines) + "\n")

    def broken(self, night: int) -> list[Planted]:
        """The planted releases that the night sees."""
        return [each for each in self.planted if each.night <= night < each.night + STAYS]

    def publish(self, night: int) -> None:
        """The new releases of the night."""
        for number in range(self.options.libraries):
            now, before = ([each for each in self.broken(n) if each.library == number] for n in (night, night - 1))
            if night and now == before and self.sound.get(night) != number:
                continue
            code = "def value():\n    return 1\n"
            for each in now:
                body = "".join(f"    {line}\n" for line in BROKEN[each.kind].splitlines())
                code += f"if os.environ['ALARMS_HOST'] == {each.image!r}:\n{body}"
            name, code = f"alarmhelp{number:02}", "import os\n" + code
            if version_of(number) == "latest":
                name = f"alarmlib{number:02}"
                code = f"import alarmcoin\nalarmcoin.toss('{name}/import')\n{code}"
            wheel(self.folder / "wheels", name, f"1.{night}", code=code)

    def run(self, home: str, confirm: int) -> Mapping[str, float]:
        """A night in this home: exit status, CPU seconds, wall time."""
        place = self.folder / home
        (place / "state").mkdir(parents=True, exist_ok=True)
        clean = {name: value for name, value in os.environ.items() if not name.startswith("COMPAT_")}
        links = f"{clean.get('PIP_FIND_LINKS', '') if self.options.torch else ''} {self.folder / 'wheels'}"
        own = {"PIP_FIND_LINKS": links.strip(), "UV_CACHE_DIR": str(self.folder / "uv")}
        own |= {} if self.options.torch else {"PIP_NO_INDEX": "1", "PIP_CONFIG_FILE": os.devnull}
        own |= {"COMPAT_HOME": str(place), "ALARMS_STATE": str(place / "state"), "PYTHONPATH": str(ROOT / "src")}
        command = [sys.executable, "-m", "torch_compat_matrix", "run", "--backend", "local", "--rerun", "-q"]
        before, started = resource.getrusage(resource.RUSAGE_CHILDREN), time.monotonic()
        done = subprocess.run(
            [*command, "--confirm", str(confirm)],
            cwd=self.folder,
            env={**clean, **own},
            capture_output=True,
            text=True,
            check=False,
        )
        if done.returncode not in (0, 1, 5, 6):
            raise SystemExit(f"a night ended with status {done.returncode}:\n{done.stderr[-4000:]}")
        after = resource.getrusage(resource.RUSAGE_CHILDREN)
        spent = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
        return {"status": done.returncode, "CPU s": spent, "wall s": time.monotonic() - started}

    def bad_launches(self) -> str:
        launches = (self.folder / "home" / "state" / SHAKY).read_text().count("\n")
        return f"{launches} launches on {SHAKY}, of which {max(0, launches - 1 - FIRST + ONE_IN) // ONE_IN} failed"


def main() -> None:
    """Run the nights; print a line for each, and the counts."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.alarms", description=__doc__)
    parser.add_argument("--nights", type=int, default=20, help="counted ones; one more comes first, as their baseline")
    parser.add_argument("--planted", type=int, default=0, metavar="N")
    parser.add_argument("--libraries", type=int, default=50, metavar="N")
    parser.add_argument("--beside", action="store_true")
    parser.add_argument("--work", type=float, default=0, metavar="S")
    parser.add_argument("--torch", default="", metavar="X")
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    options.nights += 1
    total, spent, missed = Counter[str](), Counter[str](), Counter[str]()
    with tempfile.TemporaryDirectory(prefix="compat-alarms-") as name, suppress(KeyboardInterrupt):
        site, found = Site(Path(name), options), set[Planted]()
        for night in range(options.nights):
            site.publish(night)
            took = site.run("home", 15)
            outcomes = list(Run.open(site.folder / "home").outcomes().values())
            counting = [each for each in outcomes if each.verdict.broken and not each.unconfirmed]
            announced = {each.check for each in counting if not each.quarantined}
            if bool(announced) != (took["status"] == 1):
                raise SystemExit(f"status {took['status']} with {sorted(announced)}")
            due = {each.check: each for each in site.broken(night)}
            found |= {each for check, each in due.items() if check in announced}
            over = [each for each in site.planted if each.night == night + 1 - STAYS and each not in found]
            missed.update(each.kind for each in over)
            late = [each.check for each in site.planted if each.night == night and each.check not in announced]
            seen = {
                "checks": len(outcomes),
                "planted": sum(each.night == night for each in site.planted),
                "later": len(late),
                "announced": len(announced),
                "false alarms": len(announced - due.keys()),
                "unconfirmed": sum(bool(each.unconfirmed) for each in outcomes),
                "flaky": sum(each.flaky for each in outcomes),
                "no verdict": sum(not each.verdict.final for each in outcomes),
                "quarantined": sum(bool(each.quarantined) for each in outcomes),
            }
            total.update(seen if night else {})
            words = {"false": sorted(announced - due.keys()), "not yet": late}
            print(json.dumps({"night": night, **took, **seen, **words}), flush=True)
            for home, used in {"with": took, "without": site.run("beside", 0)}.items() if options.beside else ():
                spent.update({f"{home} {unit}": used[unit] for unit in ("CPU s", "wall s") if night})
            print(site.bad_launches(), flush=True)
    print(f"in {night} nights: {dict(total)}; missed: {dict(missed)}")
    for unit in ("CPU s", "wall s") if options.beside else ():
        ladder, none = spent[f"with {unit}"], spent[f"without {unit}"]
        print(f"{unit} with {ladder:.1f}, without {none:.1f}, ratio {ladder / none:.3f}")


if __name__ == "__main__":
    main()
