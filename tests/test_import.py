"""Importing varigrad brings nothing that a feature does not need, so that it is cheap next to importing torch."""

import json
import re
import subprocess
import sys
from pathlib import Path

import varigrad as vg

SOURCE = Path(vg.__file__).read_text()

CODE = """
import json, sys
import torch
before = set(sys.modules)
import varigrad
print(json.dumps([sorted(set(sys.modules) - before), sorted(sys.modules)]))
"""


def test_import_brings_nothing_heavy():
    ran = subprocess.run([sys.executable, "-W", "error", "-c", CODE], capture_output=True, text=True, check=True)
    new, loaded = json.loads(ran.stdout)
    packages = {name.split(".")[0] for name in loaded}
    assert not packages & {
        "matplotlib",
        "sklearn",
        "scipy",
        "pandas",
        "pyro",
        "hypothesis",
        "pytest",
        "IPython",
        "sympy",
    }
    assert "varigrad.testing" not in new, "a user who tests nothing needs no registry of programs"
    others = {name.split(".")[0] for name in new} - set(sys.stdlib_module_names)
    assert others <= {"varigrad", "tqdm", "torch", "numpy"}


def test_completion_shows_what_is_public_and_nothing_else():
    names = dir(vg)
    assert {"SVI", "ELBO", "compare", "decide", "Comparison", "sample", "distributions", "optim"} <= set(names)
    assert not {"TYPE_CHECKING", "terms", "capture", "inference", "objectives", "language", "shapes"} & set(names)
    assert all(hasattr(vg, name) for name in names)
    assert set(names) == {*re.findall(r"^(?:    )?from \S+ import \w+ as (\w+)$", SOURCE, re.M), "__version__"}
