"""Importing varigrad is cheap next to importing torch, and brings nothing that a feature does not need."""

import json
import subprocess
import sys

BUDGET = 0.15  # seconds of processor time beyond torch
NOISE = 8  # processors differ, and are shared

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
