# ruff: noqa: E501 - one mutant a line
"""Lanes, costs, terms and surrogates: what is computed from a run."""

from mutants import M

MUTANTS = (
    # Uniform numbers, where outcomes are enumerated.
    M("one node too few", "gradients/outcomes.py", "else degree + 1", "else degree", "uniform numbers"),
    M("quadrature believed over a jump", "testing/conformance.py", "> tolerance / 4", "> 4", "uniform numbers"),
    # Lanes.
    M("sites after an alternative not drawn anew", "estimators/base.py", "value[list(self.source)]", "value[[r if r in self.own else 0 for r in range(self.count)]]", "leave one out on categorical_chain"),
    M("source of a site's lanes leaves out those before", "objectives/run_record.py", "rows in self.lanes.items() if s in before for r in rows}", "rows in self.lanes.items() if s in before for r in ()}", "leave one out on categorical_chain"),
    M("last lane for lane 0", "terms/cost.py", "return value[0] if wide else value", "return value[-1] if wide else value", "estimators mix"),
    M("lanes of two sites added, not averaged", "objectives/surrogate.py", "torch.stack(averages).mean(0)", "torch.stack(averages).sum(0)", "estimators mix"),
    M("loop: sites after an alternative not drawn anew", "objectives/program_runs.py", "for n in order[: order.index(site)]}", "for n in order}", "leave one out on categorical_chain"),
    M("loop: sites before an alternative drawn anew", "objectives/program_runs.py", "for n in order[: order.index(site)]}", "for n in ()}", "leave one out on categorical_chain"),
    M("loop: another minibatch for the alternative", "objectives/program_runs.py", "forced, base.indices)", "forced, None)", "leave one out on subsampled"),
    M("programs that mix their lanes run side by side", "objectives/checks/lane_independence.py", 'return f"the density of {term.name!r} mixes', 'return None and f"the density of {term.name!r} mixes', "cross-element dependence by"),
    # The cost of a site.
    M("a downstream term dropped", "terms/cost.py", "return [t for t in terms if site in t.upstream or", "return [t for t in list(terms)[:-1] if site in t.upstream or", "score on bernoulli"),
    M("own term missing", "terms/cost.py", "for term in terms:\n        keep", "for term in terms:\n        if term.name == site and term.sign < 0:\n            continue\n        keep", "score on bernoulli"),
    M("a guide's term with the wrong sign", "terms/cost.py", "term.sign > 0 else total - log_prob", "term.sign > 0 else total + log_prob", "score on categorical_chain"),
    M("own term with the wrong sign", "terms/cost.py", "term.sign > 0 else -log_prob", "term.sign > 0 else log_prob", "score on bernoulli"),
    M("all terms count as downstream", "terms/cost.py", "for t in terms if site in t.upstream or", "for t in terms if t.sign or site in t.upstream or", "what is not downstream"),
    M("plates not reduced", "terms/cost.py", "return log_prob.sum(summed, keepdim=True) if summed else log_prob", "return log_prob", "score on nested"),
    M("plates reduced though kept", "terms/cost.py", "if plates else ()", "if plates and False else ()", "an element of a plate"),
    M("plates kept in spite of cross-element dependence", "terms/cost.py", "if p.dim is not None} - cross_element", "if p.dim is not None}", "cross-element dependence by sum"),
    # Terms.
    M("scale forgotten", "terms/term.py", "log_prob = log_prob * message.scale", "pass", "score on scaled"),
    M("scale of a minibatch forgotten", "language/plates.py", "scale=message.scale * self.factor", "scale=message.scale", "a minibatch estimates"),
    M("mask forgotten", "terms/term.py", "log_prob = masked(log_prob, message.mask) if own", "log_prob = log_prob if own", "score on masked"),
    M("mask put on the draw's own density", "terms/term.py", "message.plates, sites, raw,", "message.plates, sites, log_prob,", "score on masked"),
    M("inner mask put on the draw's own density", "terms/term.py", "raw = log_prob if bare is distribution else density(bare, value)", "raw = log_prob", "masks do not touch"),
    # Pathwise gradients and closed forms.
    M("sticking the landing at every site", "terms/term.py", "hold = sign < 0 and message.name in fixed", "hold = sign < 0", "score on bernoulli"),
    M("sticking the landing ignored", "terms/term.py", "hold = sign < 0 and message.name in fixed", "hold = False", "sticking the landing has no"),
    M("the model's density held constant", "terms/term.py", "hold = sign < 0 and message.name in fixed", "hold = message.name in fixed", "a chain of normals"),
    M("path through log q dropped", "objectives/surrogate.py", "drop = term.sign < 0 and", "drop = term.sign < 0 or", "pathwise on normals"),
    M("score part of a rejection sampler dropped", "objectives/surrogate.py", "or is_partial(run.draws[name].distribution)", "", "a partial reparameterisation"),
    M("kinks ignored", "objectives/estimator_selection.py", "NONDIFFERENTIABLE if message.name in nondifferentiable else PATHWISE", "PATHWISE", "a kinked choice"),
    M("closed form with the wrong sign", "objectives/weights_and_kl.py", "return Term(name, -1,", "return Term(name, 1,", "divergences in closed"),
    M("closed form that depends on its own draw", "objectives/weights_and_kl.py", "if name in given:", "if False:", "a divergence is"),
    M("closed form not scaled", "objectives/weights_and_kl.py", "density = density * right.scale", "pass", "divergences in closed"),
    M("gradient of the closed form dropped", "objectives/surrogate.py", "term.sign < 0 and term.latent and term.name", "term.sign < 0 and term.name", "divergences in closed"),
    # Value, surrogate, draws.
    M("particles not averaged", "objectives/surrogate.py", "    if count > 1:", "    if False:", "particles are averaged"),
    M("value: guide's terms added", "objectives/surrogate.py", "value - _total(dropped)", "value + _total(dropped)", "score on bernoulli"),
    M("loss climbs", "objectives/bound.py", "surrogate.detach() - surrogate -", "surrogate - surrogate.detach() -", "loss has minus"),
    M("Bernoulli drawn the wrong way round", "distributions/rng.py", "(self.uniform(shape, probs) < probs)", "(self.uniform(shape, probs) > probs)", "draws follow"),
    M("categories drawn one too low", "distributions/rng.py", "cdf[..., :-1] <= (", "cdf[..., 1:] <= (", "draws follow"),
    # Where a gradient comes from.
    M("earlier draws not held", "objectives/gradient_draws.py", "value.register_hook(torch.zeros_like)", "value.register_hook(torch.clone)", "a gradient is the sum"),
    M("parts not averaged over particles", "objectives/gradient_draws.py", "torch.full_like(total, 1 / parts.count)", "torch.ones_like(total)", "a gradient is the sum"),
    M("what comes by a draw counted twice", "objectives/gradient_draws.py", "add(DIRECT, through, -1)", "pass", "a gradient is the sum"),
)  # fmt: skip
