# ruff: noqa: E501 - one mutant a line
"""Mistakes in log-densities and draws: jumps that are not seen, memories of earlier draws, families that leave torch."""

from mutants import M

MUTANTS = (
    M("jumps of densities not looked for", "objectives/execute.py", "            note_jumps(record.marked, record.tracker.escapes)", "            pass", "a density that jumps"),
    M("classes of users not looked into", "objectives/checks/density_jumps.py", "            _look_inside(statement, escapes)", "            pass", "a density that jumps"),
    M("ends that move taken for fixed", "objectives/checks/density_jumps.py", "    yield from edges.moving\n", "", "a density that jumps"),
    M("values beyond a support not looked at", "objectives/checks/density_jumps.py", "    if edges.inside or edges.ends:\n", "    if edges.inside:\n", "a density that jumps"),
    M("mixtures taken for one component", "distributions/support_edges.py", "return Edges(inside=True, movers=component.moving)", "return Edges(movers=component.moving)", "a density that jumps"),
    M("slopes that jump taken for smooth", "distributions/support_edges.py", "inside = True  # its slope", "pass  # its slope", "a density that jumps"),
    M("images taken for fixed", "distributions/support_edges.py", "return _finite(transform.loc)", "return end", "a density that jumps"),
    M("what broadcasts with a choice moves with it", "terms/tracked.py", 'if effect.name == "broadcast_tensors" and isinstance(result, (tuple, list)):', "if False:", "a density that jumps"),
    M("all comparisons of torch's families harmless", "terms/exempt_comparisons.py", "return module in MODULES or (module, name) in FUNCTIONS", "return True", "a uniform as a factor"),
    M("the handler of a mode taken for the user's code", "terms/exempt_comparisons.py", "    frame = caller(frame)\n", "", "a uniform as a factor"),
    M("a score of moving ends not refused", "objectives/checks/sites.py", "    if any(mover.requires_grad for mover in edges.moving):", "    if False:", "a score function wants"),
    M("point masses scored", "objectives/estimator_selection.py", "        if isinstance(inner_of(message.distribution)[0], Delta):", "        if False:", "a score function wants"),
    M("draws answer for the density", "distributions/rng.py", "self._call(fresh(distribution).sample)", "self._call(distribution.sample)", "a log density remembers"),
    M("what is computed lazily stays", "objectives/execute.py", "    distribution = fresh(message.distribution)\n", "    distribution = message.distribution\n", "a log density remembers"),
    M("correlations drawn as torch draws them", "distributions/traceable_families.py", "device=like.device) / 2", "device=like.device)", "correlations are drawn"),
)  # fmt: skip
