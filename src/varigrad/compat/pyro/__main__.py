"""Runs a program written for Pyro: `python -m varigrad.compat.pyro script.py [arguments]`."""

from __future__ import annotations

import os
import runpy
import sys

from varigrad.compat.pyro.install import install

USAGE = """usage: python -m varigrad.compat.pyro script.py [arguments]
       python -m varigrad.compat.pyro -m module [arguments]

Runs a program written for Pyro, unchanged, on varigrad."""


def main() -> None:
    """Run what the command line names as `__main__`, with `import pyro` meaning this package."""
    arguments = sys.argv[1:]
    if not arguments or arguments[0] in ("-h", "--help"):
        print(USAGE)
        sys.exit(0 if arguments else 2)
    if arguments[0] == "-m" and len(arguments) < 2:
        print(USAGE)
        sys.exit(2)
    install()
    if arguments[0] == "-m":
        sys.argv = arguments[1:]
        runpy.run_module(arguments[1], run_name="__main__", alter_sys=True)
        return
    script = arguments[0]
    if not os.path.exists(script):
        sys.exit(f"python -m varigrad.compat.pyro: there is no file {script!r}")
    sys.argv = arguments
    # Python puts the current directory first for `-m`; a script expects its own.
    sys.path[0] = os.path.dirname(os.path.abspath(script))
    runpy.run_path(script, run_name="__main__")


if __name__ == "__main__":
    main()
