"""The compiling process, `python worker.py FOLDER PARENT`: compiles in the background while steps continue.

It reads `FOLDER/step.c` or, for Inductor, `FOLDER/graph.pickle`, and leaves `FOLDER/done.json` beside the library, with
the library's sha256, or `FOLDER/failed.txt`. It ends when its parent does, even if the parent is killed.
"""

from __future__ import annotations

import hashlib
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
    "-fwrapv",  # whole numbers wrap around, as torch's do
    "-fPIC", "-shared", "-w",
    *(["-mprefer-vector-width=512"] if platform.machine() == "x86_64" else []),  # as wide as torch's own
)  # fmt: skip


ANSWER = 20.0
"""Seconds after which a silent compiler is given something small to compile; it has as long for that."""
LONGEST = 1800.0
"""The largest number of seconds for a whole step."""


class CompilerError(Exception):
    """No compiler is installed, or the compiler does not work."""


def c_compiler() -> list[str]:
    """The command that compiles C: `CC` with its arguments, else the first of cc, gcc, clang.

    Raises:
        CompilerError: there is none.
    """
    given = os.environ.get("CC", "")
    try:
        command = shlex.split(given)
    except ValueError as error:
        raise CompilerError(f"CC={given!r} is no command: {error}") from error
    if command:
        return _found(command, "CC")
    name = next((c for c in ("cc", "gcc", "clang") if shutil.which(c)), None)
    if name is None:
        raise CompilerError("there is no C compiler (install gcc, or set CC)")
    return [name]


def cxx_compiler() -> list[str]:
    """The command that compiles C++, as Inductor looks for it.

    Raises:
        CompilerError: there is none.
    """
    given = os.environ.get("CXX", "")
    if given:
        return _found([given], "CXX")
    if shutil.which("g++") is None and os.environ.get("TORCH_INDUCTOR_INSTALL_GXX") != "1":
        raise CompilerError("there is no C++ compiler (install g++)")
    return ["g++"]


def _found(command: list[str], variable: str) -> list[str]:
    if shutil.which(command[0]) is None:
        raise CompilerError(f"{variable}={shlex.join(command)!r}: there is no program {command[0]!r}")
    return command


def main(folder: Path, parent: int) -> None:
    """Compile what lies in the folder, for the process with the number `parent`."""
    threading.Thread(target=_end_with, args=(parent, folder), daemon=True).start()
    try:
        report = build_c(folder) if (folder / "step.c").exists() else build(folder)
        names = [f.name for f in folder.iterdir() if f.suffix in (".so", ".json")]
        report["sha256"] = {name: hashlib.sha256((folder / name).read_bytes()).hexdigest() for name in names}
    except BaseException:
        (folder / "failed.txt").write_text(traceback.format_exc())
        raise
    (folder / "done.json").write_text(json.dumps(report))
    if os.getppid() != parent:
        shutil.rmtree(folder)  # the parent has ended


def build_c(folder: Path) -> dict[str, Any]:
    """Have the C compiler write the library; returns its name."""
    compiler = c_compiler()
    libraries = ["-lm"]
    if platform.machine() == "x86_64" and platform.libc_ver()[0] == "glibc":
        libraries = ["-lmvec", "-lm"]
    _compiled([*compiler, *C_OPTIONS, str(folder / "step.c"), "-o", str(folder / "step.so"), *libraries], folder)
    return {"library": "step.so"}


def _compiled(command: list[str], folder: Path) -> None:
    """Run a compiler; a broken one that never answers is told from one that has much to do."""
    with subprocess.Popen(  # noqa: S603 - the user's own compiler
        command, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE
    ) as process:
        try:
            said = _answer(process, command, folder)
        except subprocess.TimeoutExpired as error:
            raise CompilerError(f"the compiler ({command[0]}) was not done after {LONGEST:.0f} s") from error
        finally:
            process.kill()
    if process.returncode:
        raise CompilerError(f"the compiler ({command[0]}) failed: {_gist(said, process.returncode)}")


def _answer(process: subprocess.Popen[bytes], command: list[str], folder: Path) -> bytes:
    try:
        return process.communicate(timeout=ANSWER)[1]
    except subprocess.TimeoutExpired:
        check_compiler(command[: command.index(C_OPTIONS[0])], folder, ".c")
    return process.communicate(timeout=LONGEST)[1]


def check_compiler(command: list[str], folder: Path, suffix: str) -> None:
    """Compile next to nothing, to find out quickly whether a compiler works.

    Raises:
        CompilerError: the compiler does not work, or does not answer.
    """
    source = folder / f"nothing{suffix}"
    source.write_text("int nothing;\n")
    try:
        done = subprocess.run(  # noqa: S603 - the user's own compiler
            [*command, "-c", str(source), "-o", str(folder / "nothing.o")],
            stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, timeout=ANSWER, check=False,
        )  # fmt: skip
    except subprocess.TimeoutExpired as error:
        raise CompilerError(f"the compiler ({command[0]}) does not answer") from error
    if done.returncode:
        raise CompilerError(f"the compiler ({command[0]}) does not work: {_gist(done.stderr, done.returncode)}")


def _gist(said: bytes, code: int) -> str:
    """The most telling line of a compiler's messages."""
    lines = [line.strip() for line in said.decode(errors="replace").splitlines() if line.strip()]
    return next((line for line in lines if "error" in line.lower()), lines[0] if lines else f"exit status {code}")[:300]


def build(folder: Path) -> dict[str, Any]:
    """Have Inductor write the library; returns its name, and how many kernels it is made of."""
    check_compiler(cxx_compiler(), folder, ".cpp")  # torch takes half a minute to find that out

    import torch

    from varigrad._torch_internals import aot_compile
    from varigrad.compile.graph.graph import unpacked

    job = pickle.loads((folder / "graph.pickle").read_bytes())  # noqa: S301 - written by our own parent
    torch.set_num_threads(job["threads"])
    inputs = tuple(torch.empty_strided(s, t, dtype=kind, device=where) for s, t, kind, where in job["inputs"])
    try:
        found = aot_compile(unpacked(job["graph"]), inputs, job["options"])
    except Exception:  # torch's own in-place functions (dropout's) do not take tensors that live on the stack
        options = {**job["options"], "aot_inductor.allow_stack_allocation": False}
        found = aot_compile(unpacked(job["graph"]), inputs, options)
    library = Path(found)
    kernels = sum(len(re.findall(r"void\s+cpp_\w+\(", s.read_text())) for s in library.parent.glob("*.kernel.cpp"))
    stem = library.name.removesuffix(".so")
    for produced in library.parent.glob(f"{stem}*"):
        if produced.suffix in (".so", ".json"):
            shutil.move(produced, folder / produced.name.replace(stem, "step"))
    shutil.rmtree(library.parent, ignore_errors=True)
    (folder / "graph.pickle").unlink()
    return {"library": "step.so", "kernels": kernels}


def _end_with(parent: int, folder: Path) -> None:
    """End when the parent has ended: a process that is killed cannot say so, so look every half second."""
    while os.getppid() == parent:
        time.sleep(0.5)
    shutil.rmtree(folder, ignore_errors=True)
    os.killpg(os.getpid(), signal.SIGKILL)  # this process leads a group of its own, in which the compiler is too


if __name__ == "__main__":
    try:
        main(Path(sys.argv[1]), int(sys.argv[2]))
    except BaseException:
        os.killpg(os.getpid(), signal.SIGKILL)  # a compiler that hangs has children that outlive it
