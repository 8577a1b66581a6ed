"""The process that compiles: `python worker.py FOLDER PARENT`, apart so that steps go on meanwhile.

Reads `FOLDER/step.c` or, for Inductor, `FOLDER/graph.pickle`, and leaves `FOLDER/done.json` beside the library, or
`FOLDER/failed.txt`. Ends with its parent, however that ends.
"""

from __future__ import annotations

import json
import os
import pickle
import platform
import re
import shlex
import shutil
import signal
import subprocess
import sys
import threading
import time
import traceback
from pathlib import Path
from typing import Any

C_OPTIONS = (
    "-O3", "-march=native", "-fopenmp-simd", "-fno-math-errno", "-fno-trapping-math", "-ffp-contract=off", "-std=gnu11",
    "-fPIC", "-shared", "-w",
    *(["-mprefer-vector-width=512"] if platform.machine() == "x86_64" else []),  # as wide as torch's own
)  # fmt: skip


def main(folder: Path, parent: int) -> None:
    """Compile what lies in the folder, for the process of this number."""
    threading.Thread(target=_end_with, args=(parent, folder), daemon=True).start()
    try:
        report = build_c(folder) if (folder / "step.c").exists() else build(folder)
    except BaseException:
        (folder / "failed.txt").write_text(traceback.format_exc())
        raise
    (folder / "done.json").write_text(json.dumps(report))
    if os.getppid() != parent:
        shutil.rmtree(folder)  # nobody is there to take it


def build_c(folder: Path) -> dict[str, Any]:
    """Have the C compiler write the library; returns its name."""
    compiler = shlex.split(os.environ.get("CC", ""))
    if not compiler:
        compiler = [next((c for c in ("cc", "gcc", "clang") if shutil.which(c)), "cc")]
    libraries = ["-lm"]
    if platform.machine() == "x86_64" and platform.libc_ver()[0] == "glibc":
        libraries = ["-lmvec", "-lm"]
    command = [*compiler, *C_OPTIONS, str(folder / "step.c"), "-o", str(folder / "step.so"), *libraries]
    subprocess.run(command, check=True, capture_output=True)  # noqa: S603 - the user's own compiler
    return {"library": "step.so"}


def build(folder: Path) -> dict[str, Any]:
    """Have Inductor write the library; returns its name, and how many kernels it is made of."""
    import torch
    import torch._inductor as inductor

    from varigrad.capture.graph import unpacked

    job = pickle.loads((folder / "graph.pickle").read_bytes())  # noqa: S301 - written by our own parent
    torch.set_num_threads(job["threads"])
    inputs = tuple(torch.empty_strided(s, t, dtype=kind, device=where) for s, t, kind, where in job["inputs"])
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
