"""Probes on a GPU, as far as it can be known without one: by a scripted torch, and by a real one that pretends."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.support import ROOT, scripted_torch

NO_PLAN = "cuDNN Frontend error: [cudnn_frontend] Error: No execution plans support the graph."
ILLEGAL = "CUDA error: an illegal memory access was encountered"


class Simulation:
    """A process that has imported torch, and answers each case of tests/support/simulated.py in a fork of its own."""

    def __init__(self, python: str, errors: Path) -> None:
        self.errors = errors
        with errors.open("w") as stream:
            self.process = subprocess.Popen(
                [python, "-m", "tests.support.simulated"],
                cwd=ROOT,
                env={**os.environ, "PYTHONPATH": f"{ROOT / 'src'}{os.pathsep}{ROOT}"},
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=stream,
                text=True,
            )

    def __call__(self, *case: str) -> Any:
        """What came of a case."""
        assert self.process.stdin and self.process.stdout
        print(json.dumps(case), file=self.process.stdin, flush=True)
        answered = json.loads(self.process.stdout.readline() or "{}")
        assert "result" in answered, answered.get("error", "") + self.errors.read_text()
        return answered["result"]


@pytest.fixture(scope="module")
def simulated(torch_python: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Simulation]:
    """Cases that the tests of this module ask for one by one."""
    simulation = Simulation(torch_python, tmp_path_factory.mktemp("simulated") / "errors")
    with simulation.process:
        yield simulation
        assert simulation.process.stdin
        simulation.process.stdin.close()


def alone(python: str, *case: str) -> Any:
    """What came of a case in a process of its own, with the variables of this one."""
    environment = {**os.environ, "PYTHONPATH": f"{ROOT / 'src'}{os.pathsep}{ROOT}"}
    command = [python, "-m", "tests.support.simulated", *case]
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def scripted(folder: Path, code: str, **script: Any) -> Any:
    """What a program prints as JSON that imports the scripted torch and the probes."""
    scripted_torch.write(folder, **script)
    environment = {**os.environ, "PYTHONPATH": f"{folder}{os.pathsep}{ROOT / 'src'}"}
    code = f"import json\nfrom torch_compat_matrix.probes import child, evidence\n{code}"
    done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


ANSWER = """
import sys, types
def sample(probe):
    for name in ("first", "second"):
        with probe.part(name):
            pass
module = types.ModuleType("torch_compat_matrix.probes.libraries.nothing")
module.__dict__.update(DISTRIBUTION="nothing", MODULE="nothing", sample=sample)
sys.modules[module.__name__] = module
print(json.dumps(child.answer("sample", "nothing", {"device": "cuda"})))
"""


def test_an_error_of_a_kernel_is_named_at_the_part_that_launched_it(tmp_path: Path) -> None:
    """Each part waits for the device, so that what comes late is not taken for the next part's."""
    seen = scripted(tmp_path, ANSWER, synchronize=[ILLEGAL])
    assert [(part["name"], part["status"]) for part in seen["parts"]] == [("first", "failed"), ("second", "passed")]
    assert seen["status"] == "raised"
    assert seen["message"] == ILLEGAL


def test_a_pass_on_a_gpu_carries_the_memory_that_it_took(tmp_path: Path) -> None:
    """Peak and allocations stand in the observation."""
    seen = scripted(tmp_path, ANSWER, allocations=[3, 10], peak=4096)
    assert seen["status"] == "passed"
    assert seen["metrics"]["peak device memory"] == {"value": 4096.0, "unit": "bytes"}
    assert seen["metrics"]["device allocations"] == {"value": 7.0, "unit": "count"}


def test_a_probe_that_took_no_memory_did_not_run_on_the_gpu(tmp_path: Path) -> None:
    """Nothing allocated is no pass, whatever the parts say."""
    seen = scripted(tmp_path, ANSWER, allocations=[3, 3])
    assert (seen["status"], seen["code"]) == ("failed", "wrong-device")


def test_what_keeps_cuda_from_starting_is_an_observation(tmp_path: Path) -> None:
    """It is raised by the probe, with CUDA's own words, and never a pass."""
    seen = scripted(tmp_path, ANSWER, start="Error 802: system not yet initialized")
    assert (seen["status"], seen["message"]) == ("raised", "Error 802: system not yet initialized")
    assert seen["device"] == "cuda"


def test_a_library_that_works_in_another_process_leaves_the_gpu_to_it(tmp_path: Path) -> None:
    """It proves itself there; a context of this process could keep it from the GPU (exclusive mode)."""
    working = ANSWER.replace("MODULE=", "ELSEWHERE='in a kernel', MODULE=")
    seen = scripted(tmp_path, working, allocations=[0, 0])
    assert (seen["status"], seen["notes"]) == ("passed", ["device: in a kernel"])
    assert "device allocations" not in seen["metrics"]


def test_the_scripted_torch_spoils_forks_as_cuda_does(tmp_path: Path) -> None:
    """A child knows that its parent asked the driver, and cannot start CUDA."""
    code = """
import importlib.metadata, os, torch
read, write = os.pipe()
if os.fork() == 0:
    try:
        torch.cuda.init()
        said = ""
    except RuntimeError as error:
        said = str(error)
    os.write(write, json.dumps([torch.cuda._is_in_bad_fork(), torch.cuda.is_initialized(), said[:18]]).encode())
    os._exit(0)
print(json.dumps([importlib.metadata.version("torch"), json.loads(os.read(read, 999))]))
"""
    for number, (at_import, spoiled) in enumerate(((["init"], True), (["get_arch_list"], True), ([], False))):
        seen = scripted(tmp_path / str(number), code, at_import=at_import)
        assert seen == ["2.9.0+cu128", [spoiled, not spoiled, "Cannot re-initiali" if spoiled else ""]]


@pytest.mark.parametrize(("kind", "operators"), [("sound", 2), ("disguised", 0), ("moves", 0)])
def test_a_library_that_computes_on_the_cpu_does_not_pass_as_cuda(
    simulated: Simulation, kind: str, operators: int
) -> None:
    """Its result lies on the device and is right; only the count of its operators there shows it."""
    seen = simulated("planted", kind)
    assert seen["metrics"]["device operators"]["value"] == operators
    assert (seen["status"], seen.get("code", "")) == (("passed", "") if operators else ("failed", "wrong-device"))


def test_counting_ends_where_it_has_shown_enough(simulated: Simulation) -> None:
    """It takes time for each operator, which a probe with a hundred thousand of them does not have."""
    assert simulated("planted", "sound", "10")["notes"] == ["goes on"]
    seen = simulated("planted", "sound", "600")
    assert (seen["notes"], seen["metrics"]["device operators"]["value"]) == (["is over"], 1000)


@pytest.mark.parametrize(("kind", "operators"), [("sound", [2]), ("disguised", [0])])
def test_compiled_code_is_counted_by_its_graphs(simulated: Simulation, kind: str, operators: list[int]) -> None:
    """What the compiler was given to compute on the device, copies aside."""
    assert simulated("planted_graph", kind) == operators


SEEDS = pytest.mark.parametrize("seeds", [40, pytest.param(300, marks=pytest.mark.slow)])


@SEEDS
def test_no_seed_raises_an_alarm_where_the_image_allows_tf32(simulated: Simulation, seeds: int) -> None:
    """Probes choose their precision: with what they meet, every seed would raise one."""
    assert simulated("tf32_alarms", "chosen", str(seeds)) == 0
    assert simulated("tf32_alarms", "met", str(seeds)) == seeds


@SEEDS
def test_tf32_has_a_part_with_its_own_tolerance(simulated: Simulation, seeds: int) -> None:
    """Sound under all seeds, and an error of 1 percent is seen under each."""
    assert simulated("tf32_part", "1.0", str(seeds)) == [""]
    assert simulated("tf32_part", "1.01", str(seeds)) == ["wrong-value"]


def test_nothing_is_compared_with_tf32_on(simulated: Simulation) -> None:
    """Neither what the image sets before a probe nor what a part leaves behind is met by a comparison."""
    seen = simulated("flags_at_comparisons")
    assert seen["statuses"] == ["passed", "passed"]
    assert seen["compared"] > 20
    assert seen["wrong"] == []


def test_precision_can_be_read_by_either_api_once_it_is_chosen(simulated: Simulation) -> None:
    """torch refuses to read a flag that its two APIs have set differently; a library may read either."""
    for before, after, old, matmul in simulated("readable_flags"):
        assert set(before.values()) <= {"ieee", "tf32", "mixed"}
        assert (after, old, matmul) == ({"products": "ieee", "convolutions": "ieee"}, [False, False], "highest")


@pytest.mark.parametrize(
    ("jiterator", "triton", "status", "said"),
    [
        ("works", "illegal", "passed", "kernel compiled at run time by NVRTC"),
        (
            "nvrtc",
            "works",
            "passed",
            "by Triton, through torch.compile; not by NVRTC",
        ),
        ("dlopen", "compiler", "skipped", "Failed to find C compiler"),
        ("illegal", "works", "failed", ""),
    ],
)
def test_a_missing_tool_costs_the_kernel_that_is_compiled_at_run_time(
    simulated: Simulation, jiterator: str, triton: str, status: str, said: str
) -> None:
    """The part is left out with the tool's words; an error of the device is not."""
    seen = simulated("run_time_kernel", jiterator, triton)
    assert seen["status"] == status
    assert said in " ".join(seen["notes"])


@pytest.mark.parametrize(
    ("refusing", "words", "status"),
    [
        ("cudnn_attention", NO_PLAN, "passed"),
        ("default", NO_PLAN, "failed"),
        ("cudnn_attention", ILLEGAL, "failed"),
    ],
)
def test_a_backend_of_attention_may_have_no_plan(simulated: Simulation, refusing: str, words: str, status: str) -> None:
    """One that was not asked for by default is left out with its words; the default must work."""
    seen = simulated("attention", refusing, words)
    assert seen["status"] == status
    assert (status == "passed") == any("No execution plans" in note for note in seen["notes"])


def test_a_card_without_bfloat16_is_not_asked_for_it(simulated: Simulation) -> None:
    """The part is left out, with the reason."""
    seen = simulated("old_card")
    assert seen["status"] == "skipped"
    assert "no bfloat16" in " ".join(seen["notes"])


@pytest.mark.parametrize(("optimiser", "found"), [("steps", ""), ("stands still", "does-not-train")])
def test_fp16_trains_under_a_gradient_scaler(simulated: Simulation, optimiser: str, found: str) -> None:
    """The step on a GPU, here on the CPU, and with an optimiser that moves nothing."""
    assert simulated("scaled_step", optimiser) == found


def test_deepspeed_builds_nothing_with_an_nvcc_that_is_not_there(simulated: Simulation, tmp_path: Path) -> None:
    """Where torch sees a GPU, even the op for the CPU needs it."""
    assert simulated("optional_build", "")["status"] == "skipped"
    (tmp_path / "bin").mkdir()
    (tmp_path / "bin" / "nvcc").touch(mode=0o755)
    assert simulated("optional_build", str(tmp_path))["status"] == "passed"


def test_a_process_group_of_one_talks_to_itself(simulated: Simulation) -> None:
    """Whatever interface the image names: a container without a network has none but `lo`."""
    assert simulated("loopback") == ["passed", "lo", "lo"]


def test_a_workspace_changes_no_ratio_of_peak_memory(simulated: Simulation) -> None:
    """It is made by a call that is not counted, and so does not count against whoever comes first."""
    without, beside = (simulated("memory_ratio", str(size)) for size in (0, 32 << 20))
    assert without > 1.5
    assert beside == pytest.approx(without, rel=0.05)


@pytest.mark.slow
def test_a_first_compile_says_whether_a_cache_served_it(
    torch_python: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The caches of a launch outlive a check: the second time is not cold, and its metrics show so."""
    monkeypatch.setenv("TORCHINDUCTOR_CACHE_DIR", str(tmp_path))
    cold, warm = alone(torch_python, "compiled_twice")
    assert cold["sum: compile cache hits"] == 0
    assert warm["sum: compile cache hits"] > 0
    assert cold["sum: kernels"] == warm["sum: kernels"] > 0
    assert "sum: compiled/eager time of a training step" in cold
