"""Print the programs with these numbers, what becomes of them, and the smallest that go wrong in the same way.

PYTHONPATH=tests .venv/bin/python -m changing [--steps | --c] number [up to number]
"""

import sys
from collections import Counter

import torch
from graph_harness import InC

from changing.programs import drawn
from changing.verdicts import FINE, by_steps, eagerly, smallest

torch.set_num_threads(1)
WAYS = {"--steps": by_steps, "--c": lambda spec: by_steps(spec, InC)}
verdict = WAYS.get(sys.argv[1], eagerly)
numbers = [int(a) for a in sys.argv[1:] if a not in WAYS]
counts = Counter()
for number in range(numbers[0], numbers[-1] + (len(numbers) == 1)):
    spec = drawn(number)
    found = verdict(spec)
    counts[found if found in FINE else "wrong"] += 1
    if len(numbers) == 1 or found not in FINE:
        print(number, found, "\n   ", spec, flush=True)
    if len(numbers) == 1 and found not in FINE:
        print("    smallest:", smallest(spec, verdict))
print(dict(counts))
