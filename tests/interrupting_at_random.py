"""Ctrl-C by a timer's signal, at random moments of runs, first runs, callbacks, saving and loops of one's own.

    PYTHONPATH=tests python -m interrupting_at_random eager|compiled [tries] [seed]

What is left behind has to be what some whole number of steps has made: parameters, optimiser, schedule, baselines,
generator, counters and kept losses. Runs go beyond step 100, so both early looks at the programs are met.
"""

import random
import signal
import sys
import time
import warnings

import torch
from graph_harness import same
from interrupting import mixed, score, tree

import varigrad as vg

TOTAL = 115


def left(svi):
    """All that belongs to a number of steps; how far compiled steps have come does not."""
    return {k: v for k, v in tree(svi).items() if k not in ("compiled", "decided", "looks")}


class Twin:
    """A run that is never interrupted: what every number of steps has made."""

    def __init__(self, make):
        self.make = make
        svi = make().init()
        self.losses, self.states = [], [left(svi)]
        for _ in range(TOTAL):
            self.losses.append(svi.step())
            self.states.append(left(svi))

    def check(self, svi, losses=None):
        if svi.bound.is_empty:  # before the programs have been run once
            assert not losses
            return 0
        steps, found = svi.bound.steps, left(svi)
        right = self.states[steps]
        if not steps and found["optimizer"] is None:  # the programs are known, and the optimiser is still to be made
            right = {**right, "optimizer": None, "scheduler": None}
        differ = [name for name in right if not same(found[name], right[name])]
        assert not differ, f"not the state of {steps} steps: {differ}"
        if losses is not None:
            assert losses == self.losses[: len(losses)] and len(losses) == steps, (len(losses), steps)
        return steps


def a_run(twin, interrupted):
    svi = twin.make().init()
    fit = interrupted(lambda: svi.run(TOTAL, progress=False))
    return twin.check(svi, fit and fit.losses.tolist())


def a_first_run(twin, interrupted):
    svi = twin.make()
    fit = interrupted(lambda: svi.run(TOTAL, progress=False))
    return twin.check(svi, fit and fit.losses.tolist())


def a_callback(twin, interrupted):
    svi, seen = twin.make().init(), []
    fit = interrupted(lambda: svi.run(TOTAL, progress=False, callback=lambda m: seen.append((m.step, m.loss)), every=3))
    assert [loss for _, loss in seen] == [twin.losses[step - 1] for step, _ in seen]
    return twin.check(svi, fit and fit.losses.tolist())


def saving(twin, interrupted):
    svi, saved = twin.make().init(), []
    fit = interrupted(
        lambda: svi.run(TOTAL, progress=False, callback=lambda m: saved.append((m.step, svi.state())), every=10)
    )
    for step, state in saved[-1:]:
        other = twin.make().init()
        other.load_state(state)
        assert twin.check(other) == step
    return twin.check(svi, fit and fit.losses.tolist())


def single_steps(twin, interrupted):
    svi, losses = twin.make().init(), []
    interrupted(lambda: [losses.append(svi.step()) for _ in range(TOTAL)])
    assert losses == twin.losses[: len(losses)] and svi.bound.steps - len(losses) in (0, 1)
    return twin.check(svi)


MODES = (a_run, a_first_run, a_callback, saving, single_steps)


class OwnLoop:
    """Loss, gradient and optimiser by hand: the loss is whole or was never asked for."""

    def __init__(self, compiled):
        self.compiled = compiled
        self.states, _, _ = self.run(lambda action: action())

    def run(self, interrupted):
        svi = score()
        bound = svi.bound
        loss = vg.compiled(bound, wait=True, seed=3) if self.compiled else bound
        bound.init()
        optimizer = torch.optim.SGD(bound.parameters(), lr=0.01)
        states = [self.left(bound)]

        def loop():
            for _ in range(TOTAL):
                optimizer.zero_grad()
                loss().backward()
                optimizer.step()
                states.append(self.left(bound))

        interrupted(loop)
        torch.set_grad_enabled(True)  # Ctrl-C in a loop of one's own may come inside torch's optimiser, under no_grad
        return states, bound, self.left(bound)

    @staticmethod
    def left(bound):
        """Estimators' averages and the number of steps: they belong to the loss."""
        found = bound.state_dict()
        return {k: v.clone() for k, v in found.items() if "_estimators" in k}

    def __call__(self, interrupted):
        states, bound, last = self.run(interrupted)
        assert all(same(a, b) for a, b in zip(states, self.states, strict=False))
        assert same(last, self.states[bound.steps])
        return bound.steps


def tried(action, trials, seed):
    """Interrupt an action so many times; after how many steps each time."""
    signal.signal(signal.SIGINT, signal.default_int_handler)
    armed = [False]
    signal.signal(signal.SIGALRM, lambda *_: signal.raise_signal(signal.SIGINT) if armed[0] else None)
    chance, delay = random.Random(seed), [0.0]

    def interrupted(function):
        armed[0], found = True, None
        if delay[0]:
            signal.setitimer(signal.ITIMER_REAL, delay[0])
        try:
            found = function()
            armed[0] = False
        except KeyboardInterrupt:  # in a loop of one's own, or just after a run has ended
            armed[0] = False
        finally:
            signal.setitimer(signal.ITIMER_REAL, 0)
        return found

    action(interrupted)
    start = time.perf_counter()
    action(interrupted)
    whole = time.perf_counter() - start
    taken = []
    for _ in range(trials):
        delay[0] = chance.uniform(1e-4, whole)
        taken.append(action(interrupted))
    return taken


def main(kind, tries=500, seed=0):
    warnings.simplefilter("ignore")
    torch.set_num_threads(1)
    compile = "wait" if kind == "compiled" else False
    actions = [OwnLoop(compile)]
    for make in (mixed, score):
        twin = Twin(lambda make=make: make(compile))
        actions += [lambda interrupted, mode=mode, twin=twin: mode(twin, interrupted) for mode in MODES]
    taken = []
    for i, action in enumerate(actions):
        share = tries // len(actions) + (i < tries % len(actions))
        taken += tried(action, share, seed + i)
    cut = sum(0 < n < TOTAL for n in taken)
    print(f"whole: {len(taken)} interrupts, {cut} inside, after {len(set(taken))} numbers of steps")


if __name__ == "__main__":
    main(sys.argv[1], *map(int, sys.argv[2:]))
