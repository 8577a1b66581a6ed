"""How long a step takes: varigrad, Pyro and hand-written torch on the same work. `python -m benchmarks.run`."""
