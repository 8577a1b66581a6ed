"""Print what becomes of random graphs, and the smallest that go wrong in the same way.

PYTHONPATH=tests .venv/bin/python -m random_graphs seed [up to seed] [--threads]

Each graph runs in a process of its own, so that one that crashes is a verdict like any other. `--threads` shares all
loops among three threads.
"""

import multiprocessing
import sys
from collections import Counter

import torch

from random_graphs.drawing import drawn
from random_graphs.verdicts import FINE, smallest, verdict
from varigrad.compile.backends.c import fusion

FORK = multiprocessing.get_context("fork")
SECONDS = 600


def _answer(seed: int, shrinks: bool, pipe) -> None:
    graph = drawn(seed)
    found = verdict(graph)
    pipe.send((found, str(graph)))
    if shrinks and found not in FINE:
        small = smallest(graph)
        pipe.send((verdict(small), str(small)))


def answers(seed: int, shrinks: bool = True):
    """The verdict of a graph and its text; then those of the smallest that is wrong in the same way."""
    ours, theirs = FORK.Pipe(duplex=False)
    process = FORK.Process(target=_answer, args=(seed, shrinks, theirs))
    process.start()
    theirs.close()
    said = False
    try:
        while ours.poll(SECONDS):
            yield ours.recv()
            said = True
    except EOFError:
        pass
    process.kill()
    process.join()
    if not said:
        yield f"crashed with {process.exitcode}", str(drawn(seed))


def main(arguments: list[str]) -> int:
    if "--threads" in arguments:
        torch.get_num_threads = lambda: 3
        fusion.SHARED = 1
    seeds = [int(a) for a in arguments if not a.startswith("--")]
    counts: Counter[str] = Counter()
    for seed in range(seeds[0], seeds[-1] + (len(seeds) == 1)):
        for number, (found, text) in enumerate(answers(seed)):
            if not number:
                counts[found if found in FINE else "wrong"] += 1
            if len(seeds) == 1 or found not in FINE:
                print(f"{seed}, {'the smallest' if number else 'as drawn'}: {found}", flush=True)
            if len(seeds) == 1 or number:
                print(text, flush=True)
    print(dict(counts))
    return 1 if counts["wrong"] else 0


if __name__ == "__main__":
    torch.set_num_threads(1)
    sys.exit(main(sys.argv[1:]))
