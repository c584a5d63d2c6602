"""A user's command in the place of the probe host: in the environment of a cell's child, on the same walls."""

import json
import os
import shutil
import sys
from typing import Any, Dict, List, NoReturn

from .child import CellTask, enter, places_of
from .host import settle
from .trial import main as trial


def main(arguments: List[str]) -> NoReturn:
    """`ORDER OVERLAYS FOLDER [COMMAND...]`: become the command, or a prompt, in the environment of the order's cell.

    The command `--trial FILE` tries a probe module there.

    `python` is the cell's interpreter, whatever it is called in the image; the command starts in the folder.
    """
    order_file, overlays, folder, *command = arguments
    with open(order_file) as stream:
        order: Dict[str, Any] = json.load(stream)
    (cell,) = order["cells"]
    overlay = os.path.join(overlays, cell["overlay"]) if cell["overlay"] else None
    places = places_of(cell["id"], bool(order.get("compile_cache")))
    task: CellTask = {**cell, "overlay": overlay, "image_packages": {}, "places": places}  # type: ignore[typeddict-item]
    own = os.path.dirname(sys.executable)
    path = os.environ.get("PATH", os.defpath).split(os.pathsep)
    os.environ["PATH"] = os.pathsep.join([own, *(place for place in path if place != own)])
    settle(order["threads"])
    enter(task)
    os.environ["PS1"] = f"({cell['id']}) \\w $ "
    os.chdir(folder)
    if command[:1] == ["--trial"]:
        sys.exit(trial(command[1], order["device"]))
    if not command:
        shell = shutil.which("bash")
        command = [shell, "--norc", "-i"] if shell else ["sh", "-i"]
    program = sys.executable if command[0] in ("python", "python3") else command[0]
    try:
        os.execvp(program, command)
    except OSError as error:
        print(f"{command[0]}: {error.strerror}", file=sys.stderr)
        os._exit(127)
