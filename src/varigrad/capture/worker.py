"""The process that compiles: `python worker.py FOLDER PARENT`, apart so that steps go on meanwhile.

Reads `FOLDER/graph.pickle` and leaves `FOLDER/done.json` beside the library, or `FOLDER/failed.txt`. Ends with its
parent, however that ends.
"""

from __future__ import annotations

import json
import os
import pickle
import re
import shutil
import signal
import sys
import threading
import time
import traceback
from pathlib import Path
from typing import Any

import torch

from varigrad.capture.graph import unpacked


def main(folder: Path, parent: int) -> None:
    """Compile what lies in the folder, for the process of this number."""
    threading.Thread(target=_end_with, args=(parent, folder), daemon=True).start()
    try:
        report = build(folder)
    except BaseException:
        (folder / "failed.txt").write_text(traceback.format_exc())
        raise
    (folder / "done.json").write_text(json.dumps(report))


def build(folder: Path) -> dict[str, Any]:
    """Write the library; returns its name, and how many kernels it is made of."""
    job = pickle.loads((folder / "graph.pickle").read_bytes())  # noqa: S301 - written by our own parent
    torch.set_num_threads(job["threads"])
    inputs = tuple(torch.empty_strided(s, t, dtype=kind, device=where) for s, t, kind, where in job["inputs"])
    import torch._inductor as inductor

    try:
        found = inductor.aot_compile(unpacked(job["graph"]), inputs, options=job["options"])
    except Exception:  # torch's own in-place functions (dropout's) do not take tensors that live on the stack
        options = {**job["options"], "aot_inductor.allow_stack_allocation": False}
        found = inductor.aot_compile(unpacked(job["graph"]), inputs, options=options)
    library = Path(str(found))
    kernels = sum(len(re.findall(r"void\s+cpp_\w+\(", s.read_text())) for s in library.parent.glob("*.kernel.cpp"))
    stem = library.name.removesuffix(".so")
    for produced in library.parent.glob(f"{stem}*"):
        if produced.suffix in (".so", ".json"):
            shutil.move(produced, folder / produced.name.replace(stem, "step"))
    shutil.rmtree(library.parent, ignore_errors=True)
    (folder / "graph.pickle").unlink()
    return {"library": "step.so", "kernels": kernels}


def _end_with(parent: int, folder: Path) -> None:
    """One that is killed can tell nobody: look whether it is still there."""
    while os.getppid() == parent:
        time.sleep(0.5)
    shutil.rmtree(folder, ignore_errors=True)
    os.killpg(os.getpid(), signal.SIGKILL)  # we lead a group of our own, in which the C++ compiler is too


if __name__ == "__main__":
    main(Path(sys.argv[1]), int(sys.argv[2]))
