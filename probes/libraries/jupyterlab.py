"""JupyterLab, which is what images offer as Jupyter: `jupyter` itself is a metapackage without a module to import."""

import os
import sys
import tempfile
from contextlib import contextmanager
from typing import Any, Iterator, List, Tuple

from ..evidence import require
from ..probe import Probe

DISTRIBUTION = "jupyterlab"
MODULE = "jupyterlab"
NEEDS = ("torch", "jupyter_client", "nbformat", "nbclient")
NOT_APPLICABLE = {
    "autograd": "Jupyter runs cells; it computes no gradients of its own",
    "compile": "Jupyter runs cells; it holds no code that torch.compile could compile",
}
ELSEWHERE = "a kernel of Jupyter's is a process of its own, whose result says where it lies"
COVERS = {
    "jupyter_client.manager.KernelManager": "sample/kernel",
    "nbclient.NotebookClient": "sample/notebook",
    "jupyterlab.labapp.LabApp": "",
}

PATIENCE_S = 60
"""How long a kernel may take to start, or a cell to import torch on a busy machine."""

CELL = """
import torch
data = torch.arange(6.0, device={device!r}).reshape(2, 3)
(data @ data.T).tolist(), data.device.type, torch.__version__
"""


def sample(probe: Probe) -> None:
    """A kernel computes on the device, keeps its variables, follows a seed, tells of an error, and ends; so does a
    notebook that is run whole."""
    with _places():
        with probe.part("kernel"):
            _kernel(probe)
        with probe.part("notebook"):
            _notebook()


def _kernel(probe: Probe) -> None:
    import torch
    from jupyter_client.manager import KernelManager

    manager = KernelManager()
    manager.start_kernel()
    try:
        client = manager.blocking_client()
        client.start_channels()
        client.wait_for_ready(timeout=PATIENCE_S)
        wanted = ([[5.0, 14.0], [14.0, 50.0]], probe.device.type, torch.__version__)
        _answers(client, CELL.format(device=str(probe.device)), wanted, "a product in a cell")
        _answers(client, "data.sum().item(), int(data.numel())", (15.0, 6), "a variable in the next cell")
        for seed in (probe.seed, probe.seed + 1):
            torch.manual_seed(seed)
            wanted = torch.randn(3).tolist()
            code = f"_ = torch.manual_seed({seed}); torch.randn(3).tolist()"
            _answers(client, code, wanted, f"draws in a cell after seed {seed}", "seed-ignored")
        reply, shown = _execute(client, "1 / 0")
        said = reply.get("ename") or f"status {reply['status']} and {shown}"
        require(said == "ZeroDivisionError", "wrong-value", f"a cell that divides by zero gave {said}")
        client.stop_channels()
        manager.shutdown_kernel()
        require(not manager.is_alive(), "wrong-value", "the kernel runs on after it was shut down")
    finally:
        if manager.is_alive():
            manager.shutdown_kernel(now=True)


def _execute(client: Any, code: str) -> Tuple[Any, str]:
    """The kernel's reply to a cell, and what the cell showed as its result."""
    shown: List[str] = []

    def listen(message: Any) -> None:
        if message["msg_type"] == "execute_result":
            shown.append(message["content"]["data"]["text/plain"])

    reply = client.execute_interactive(code, output_hook=listen, timeout=PATIENCE_S)
    return reply["content"], "".join(shown)


def _answers(client: Any, code: str, wanted: Any, what: str, otherwise: str = "wrong-value") -> None:
    reply, shown = _execute(client, code)
    said = f"{reply.get('ename')}: {reply.get('evalue')}" if reply["status"] != "ok" else shown
    require(said.split() == repr(wanted).split(), otherwise, f"{what} is {said or 'nothing'}, not {wanted}")


def _notebook() -> None:
    """nbclient, which nbconvert runs notebooks by, fills in the outputs."""
    import nbformat
    from nbclient import NotebookClient

    cells = [nbformat.v4.new_code_cell(cell) for cell in ("total = sum(range(6)); total", "print(total)")]
    notebook = nbformat.v4.new_notebook(cells=cells)
    NotebookClient(notebook, timeout=PATIENCE_S).execute()
    first, second = (cell["outputs"] for cell in notebook.cells)
    require(len(first) == len(second) == 1, "wrong-shape", f"{len(first)} and {len(second)} outputs, not one each")
    shown = first[0]["data"]["text/plain"], second[0].get("text")
    require(shown == ("15", "15\n"), "wrong-value", f"the cells of a notebook gave {shown}, not 15 twice")


@contextmanager
def _places() -> Iterator[None]:
    """Jupyter's files in a folder of our own, and for its kernels the packages that this process sees."""
    before = dict(os.environ)
    with tempfile.TemporaryDirectory() as folder:
        for name in ("JUPYTER_RUNTIME_DIR", "JUPYTER_DATA_DIR", "JUPYTER_CONFIG_DIR", "IPYTHONDIR"):
            os.environ[name] = os.path.join(folder, name.lower())
        os.environ["PYTHONPATH"] = os.pathsep.join(path for path in sys.path if path)
        try:
            yield
        finally:
            os.environ.clear()
            os.environ.update(before)
