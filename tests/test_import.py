"""Importing varigrad is cheap next to importing torch, and brings nothing that a feature does not need."""

import json
import re
import subprocess
import sys
from pathlib import Path

import varigrad as vg

BUDGET = 0.15  # seconds of processor time beyond torch
NOISE = 8  # processors differ, and are shared
SOURCE = Path(vg.__file__).read_text()

CODE = """
import json, sys, time
import torch
before, start = set(sys.modules), time.process_time()
import varigrad
print(json.dumps([time.process_time() - start, sorted(set(sys.modules) - before), sorted(sys.modules)]))
"""


def test_import_is_cheap_and_brings_nothing_heavy():
    runs = []
    for _ in range(3):
        ran = subprocess.run([sys.executable, "-W", "error", "-c", CODE], capture_output=True, text=True, check=True)
        runs.append(json.loads(ran.stdout))
    assert min(seconds for seconds, _, _ in runs) < BUDGET * NOISE
    _, new, loaded = runs[0]
    packages = {name.split(".")[0] for name in loaded}
    assert not packages & {"matplotlib", "sklearn", "scipy", "pandas", "pyro", "hypothesis", "pytest", "IPython"}
    assert "varigrad.testing" not in new, "a user who tests nothing needs no registry of programs"
    others = {name.split(".")[0] for name in new} - set(sys.stdlib_module_names)
    assert others <= {"varigrad", "tqdm", "torch", "numpy"}


def test_completion_shows_what_is_public_and_nothing_else():
    names = dir(vg)
    assert {"SVI", "ELBO", "compare", "decide", "Comparison", "sample", "distributions", "optim"} <= set(names)
    assert not {"TYPE_CHECKING", "terms", "capture", "inference", "objectives", "language", "shapes"} & set(names)
    assert all(hasattr(vg, name) for name in names)
    assert set(names) == {*re.findall(r"^(?:    )?from \S+ import \w+ as (\w+)$", SOURCE, re.M), "__version__"}
