# ruff: noqa: E501 - one mutant a line
"""Deliberate mistakes in the gradient machinery, all of which the fast laws have to notice. `make mutants`.

A mutant replaces one fragment of one source file in a copy of the package, and `tests/laws.py` runs against the copy
in a process of its own, the law that is expected to break first. The run fails if a mutant survives, if a fragment is
no longer in the source (so that this list cannot rot), or if the source itself breaks a law.

    .venv/bin/python tests/mutants.py [part of a mutant's name ...]
"""

import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
import traceback
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

HERE = Path(__file__).parent
SOURCE = Path(os.environ.get("MUTANTS_SOURCE", HERE.parent / "src"))
AT_ONCE = 2
SECONDS = 600


@dataclass(frozen=True)
class Mutant:
    """One mistake: in `file`, the only occurrence of `old` becomes `new`; `law` is expected to break."""

    name: str
    file: str
    old: str
    new: str
    law: str


M = Mutant
MUTANTS = (
    # Score functions and their baselines.
    M("surrogate's sign flipped", "estimators/score.py", "(cost - guess.value) *", "(guess.value - cost) *", "score on bernoulli"),
    M("surrogate 5 % too large", "estimators/score.py", "(cost - guess.value) *", "1.05 * (cost - guess.value) *", "score on bernoulli"),
    M("average that has seen its own draw", "estimators/baselines.py", "return Guess(average, self._next(average, cost", "return Guess(self._next(average, cost.mean()), self._next(average, cost", "moving average on bernoulli"),
    M("element's average that has seen its own draw", "estimators/baselines.py", "return Guess(average, state.index_put(", "return Guess(self._next(average, cost), state.index_put(", "moving average per element on mixture"),
    M("decay and its complement exchanged", "estimators/baselines.py", "average, fresh, 1 - self.decay", "average, fresh, self.decay", "a moving average is carried"),
    M("baselines' state forgotten", "objectives/estimate.py", "states[site] = _cut(result.state)", "pass", "a moving average is carried"),
    M("network's guess not detached", "estimators/baselines.py", "Guess(value.detach(), None, (cost", "Guess(value, None, (cost", "a network is trained"),
    M("network's input not detached", "estimators/baselines.py", "[_cut(i) for i in inputs]", "[untracked(i) for i in inputs]", "a network is trained"),
    M("network trained away from the cost", "objectives/estimate.py", "surrogate = surrogate - loss", "surrogate = surrogate + loss", "a network is trained"),
    M("network not trained", "objectives/estimate.py", "losses.append(result.regression)", "pass", "a network is trained"),
    M("tensor of a baseline not detached", "estimators/baselines.py", "Guess(value.detach(), None, regression)", "Guess(value, None, regression)", "a value baseline"),
    M("second baseline learns the whole cost", "estimators/baselines.py", "part.guess(cost - total,", "part.guess(cost,", "the second baseline"),
    M("baseline may see its own draw", "estimators/baselines.py", "== site for source in", "== () for source in", "a baseline does not see"),
    M("baseline may see its own draw as a number", "estimators/baselines.py", "get_provenance(*tensors) | left)", "get_provenance(*tensors))", "a baseline does not see"),
    M("network may share parameters", "objectives/parameters.py", "        if shared:", "        if False:", "a network is not shared"),
    M("normalised by what the draw did", "estimators/score.py", "draw.log_q / spread.sqrt()", "draw.log_q / (spread + signal.square()).sqrt()", "normalising"),
    M("normalised by the square", "estimators/score.py", "spread.sqrt().clamp(min=1)", "spread.clamp(min=1)", "normalising"),
    M("self-critical of the draw", "estimators/score.py", "value[lanes.own[0]] = mode[0]", "value[lanes.own[0]] = value[0]", "self critical on bernoulli"),
    M("self-critical with the sign of a cost", "estimators/score.py", "(cost[0] - baseline) *", "(baseline - cost[0]) *", "self critical on bernoulli"),
    M("constants of this very draw", "estimators/optimal.py", "torch.where(average[1] > 0, average[0] / average[1], 0.0)", "fresh[0] / fresh[1]", "optimal score on bernoulli"),
    M("constants by the score, not its square", "estimators/optimal.py", "_pooled(f * square, dims)", "_pooled(f * score, dims)", "optimal constants"),
    M("one constant for all logits", "estimators/optimal.py", "average[0] / average[1], 0.0)", "average[0].sum() / average[1].sum(), 0.0)", "optimal constants differ"),
    M("constants from logits that are not free", "estimators/optimal.py", "scores = torch.autograd.grad(twin.log_prob(value).sum(), leaves)", "scores = torch.autograd.grad(sum(x.gather(-1, value.unsqueeze(-1)).sum() for x in leaves) if kind is td.Categorical else twin.log_prob(value).sum(), leaves)", "optimal score on categorical"),
    M("coefficients of this very draw", "estimators/baselines.py", "_coefficients(products)", "_coefficients(products + f.mean())", "combination on bernoulli"),
    M("coefficients never learned", "estimators/baselines.py", "return 1 / k + inverse *", "return 1 / k + 0 * inverse *", "a combination is"),
    # Draws that are coupled across particles.
    M("mirror image the same way round", "distributions/couplings.py", "torch.cat([half, middle - half])", "torch.cat([half, half])", "antithetic particles"),
    M("uniform numbers mirrored beyond the grid", "distributions/couplings.py", "1 - torch.finfo(half.dtype).eps / 2", "1.0", "antithetic particles"),
    M("normal numbers mirrored about a half", "distributions/couplings.py", "middle = 0.0 if normal", "middle = 0.5 if normal", "antithetic on normals"),
    M("lanes coupled instead of particles", "objectives/run.py", "len(batch) - settings.layout.dims)", "0)", "antithetic particles"),
    M("Sobol points not scrambled", "distributions/source.py", "scramble=True", "scramble=False", "sobol particles"),
    M("Sobol points scrambled once for all", "distributions/source.py", "scramble=True, seed=seed", "scramble=True, seed=1", "sobol particles"),
    # Leave-one-out.
    M("mean over all draws, its own included", "estimators/leave_one_out.py", "- value) / (value.shape[dim] - 1)", ") / value.shape[dim]", "leave one out on categorical"),
    M("mean over the others divided by K", "estimators/leave_one_out.py", "/ (value.shape[dim] - 1)", "/ value.shape[dim]", "a constant cancels"),
    M("draws summed, not averaged", "estimators/leave_one_out.py", "* log_q).mean(dim)", "* log_q).sum(dim)", "leave one out on bernoulli"),
    M("particles averaged twice", "estimators/leave_one_out.py", " * cost.shape[draw.particles]", "", "leave one out of particles on bernoulli"),
    M("weights of the draws sum to K", "estimators/base.py", "1 / count)", "1.0)", "leave one out on mixture"),
    # Enumeration.
    M("enumerated probabilities without gradient", "estimators/enumeration.py", "draw.log_q[1:].exp() * relative", "draw.log_q[1:].exp().detach() * relative + 0 * draw.log_q[1:]", "enumerate on categorical"),
    M("enumerated densities for probabilities", "estimators/enumeration.py", "draw.log_q[1:].exp() * relative", "draw.log_q[1:] * relative", "enumerate on bernoulli"),
    M("enumerated values weighted alike", "estimators/enumeration.py", "draw.log_q[1:].exp()])", "torch.full_like(draw.log_q[1:], 0.5)])", "enumerate on categorical"),
    M("enumeration though a plate is crossed", "estimators/enumeration.py", "per_element = True", "per_element = False", "plate crossed by"),
    # DisARM.
    M("DisARM without sigma(|theta|)", "estimators/coupled.py", "sign * torch.sigmoid(logits.detach().abs())", "sign * torch.ones_like(logits)", "disarm on bernoulli"),
    M("DisARM with sigma(theta)", "estimators/coupled.py", "logits.detach().abs()", "logits.detach()", "disarm on extreme"),
    M("DisARM with the sign of b, not b~", "estimators/coupled.py", "sign = 1 - 2 * other", "sign = 1 - 2 * value", "disarm on bernoulli"),
    M("DisARM's pair drawn independently", "estimators/coupled.py", "[neither, apart, apart, both]", "[(1 - row) ** 2, row * (1 - row), row * (1 - row), row**2]", "disarm on bernoulli"),
    M("DisARM without the half", "estimators/coupled.py", "0.5 * (cost[0] - cost[1])", "(cost[0] - cost[1])", "disarm on bernoulli"),
    # ARM, ARMS.
    M("MuProp's mean not differentiated", "estimators/taylor.py", "draw.log_q[0] + path", "draw.log_q[0] + path.detach()", "muprop on bernoulli"),
    M("densities between values of coins continued wrongly", "distributions/continued.py", "value * distribution.logits - positive", "value * distribution.logits + positive", "muprop on bernoulli"),
    M("sticks without the chain rule", "estimators/sticks.py", "weight - probs * (before.cumsum(-1) - before)", "weight", "disarm on categorical"),
    M("sticks that fall twice without sigma", "estimators/sticks.py", "(fell[0] - fell[1]) * torch.maximum(heads, 1 - heads)", "fell[0] - fell[1]", "disarm on categorical"),
    M("sticks not needed left out", "estimators/sticks.py", "torch.where(place <= two, heads - fell[1], 0.0)", "0.0", "disarm on categorical"),
    M("sticks not halved", "estimators/sticks.py", "return 0.5 * (slope", "return (slope", "disarm on categorical"),
    M("ARM without the uniform", "estimators/coupled.py", "(draw.noise - 0.5) * logits", "0.5 * logits", "arm on bernoulli"),
    M("ARM's uniform not placed in its cell", "estimators/coupled.py", "uniform = low + width * ", "uniform = ", "arm on bernoulli"),
    M("ARM's alternatives exchanged", "estimators/coupled.py", "value[0] = ((cell == 2) | both)", "value[0] = ((cell == 0) | both)", "arm on bernoulli"),
    M("ARMS not corrected for the correlation", "estimators/coupled.py", "weight = (1 - rare) / (1 - share)", "weight = torch.ones_like(share)", "arms on bernoulli"),
    M("ARMS corrected as if no two were rare", "estimators/coupled.py", "(1 - rare) / (1 - share)", "1 - rare", "arms on masked"),
    M("ARMS drawn independently", "estimators/coupled.py", "all_of = (1 - number * t).clamp(min=0) ** (n - 1)", "all_of = q**number", "arms on bernoulli"),
    M("ARMS averaged over n", "estimators/coupled.py", ".sum(0) / (self.n - 1)", ".sum(0) / self.n", "arms on bernoulli"),
    M("ARMS with rare ones above a half", "estimators/coupled.py", "torch.where(row <= 0.5, is_rare", "torch.where(row >= 0.5, is_rare", "arms on extreme"),
    # Uniform numbers, where outcomes are enumerated.
    M("one node too few", "testing/exact.py", "else degree + 1", "else degree", "uniform numbers"),
    M("quadrature believed over a jump", "testing/conformance.py", "> tolerance / 4", "> 4", "uniform numbers"),
    # Control variates from slopes of other draws.
    M("expansion added twice", "estimators/double_control.py", ".mean(0) - moved", ".mean(0) + moved", "double control with weight on bernoulli"),
    M("expansion of the draw's own slope", "estimators/double_control.py", "linear(others(slope), score, event, cost)", "linear(slope, score, event, cost)", "double control with weight on bernoulli"),
    M("one-hot expansion as of coins", "estimators/double_control.py", "if one_hot else moved * (1 - mean)", "if False else moved * (1 - mean)", "double control on one_hot"),
    M("weights that have seen the draw", "estimators/double_control.py", "(alpha,) = coefficients(state, (self.alpha,), plain)", "(alpha,) = coefficients(learnt(state, plain, (control,)), (self.alpha,), plain)", "double control on bernoulli"),
    M("steps that always turn over", "estimators/rodeo.py", "linear(self.score.abs(), there", "linear(torch.ones_like(self.score), there", "rodeo with weights on bernoulli"),
    M("steps that leave the score as it is", "estimators/rodeo.py", "- there * self.score / count", "- 0 * there * self.score / count", "rodeo with weights on bernoulli"),
    M("network of all draws, its own included", "estimators/rodeo.py", "other = (1 - torch.eye(k, dtype=value.dtype, device=value.device)) / (k - 1)", "other = torch.ones(k, k, dtype=value.dtype) / k", "rodeo with a network on bernoulli"),
    M("weights without a constant", "estimators/coefficients.py", "torch.ones_like(plain)", "torch.zeros_like(plain)", "weights of control variates"),
    M("weights forgotten", "estimators/coefficients.py", "DECAY * state[1].to(cross) + square", "square", "weights of control variates"),
    M("slopes that know of other draws, in a network", "objectives/slope.py", "if choices[site].estimator.apart:", "if False:", "rodeo with a network on"),
    # Networks for control variates.
    M("Relax without the gradient of its network", "estimators/relax.py", "times(cost - two, score, event) + path", "times(cost - two, score, event)", "a network that knows nothing"),
    M("Relax's second path forgotten", "estimators/relax.py", "(one - two).sum(), leaf", "one.sum(), leaf", "a network that knows nothing"),
    M("Lax's path by the location alone", "estimators/relax.py", "(loc + scale * noise), event)", "(loc + scale.detach() * noise), event)", "a network that knows nothing"),
    M("Lax's network not taken off the cost", "estimators/relax.py", "left.detach() * draw.log_q", "cost * draw.log_q", "a network that knows nothing"),
    M("Relax's network not trained", "estimators/relax.py", "following_units(state, cost), loss)\n\n    def parameters_of_baselines(self) -> Mapping[str, Any]:\n        return {\"\": self.network}\n\n\n@dataclass", "following_units(state, cost))\n\n    def parameters_of_baselines(self) -> Mapping[str, Any]:\n        return {\"\": self.network}\n\n\n@dataclass", "networks learn"),
    # Local expectations.
    M("local expectation of one coordinate at all", "estimators/coordinates.py", "torch.where(chosen, others, value[0])", "torch.where(chosen | True, others, value[0])", "local expectations of an event"),
    M("local expectation without the draw", "estimators/local.py", "(log_q.exp() * relative).sum((0, -1))", "(log_q.exp() * (costs - costs.mean(0)))[1:].sum((0, -1))", "local expectation on bernoulli"),
    M("local expectation on densities", "estimators/local.py", "(log_q.exp() * relative)", "(log_q * relative)", "local expectation on bernoulli"),
    M("coordinates' densities exchanged", "estimators/coordinates.py", "diagonal(dim1=0, dim2=-1)", "flip(0).diagonal(dim1=0, dim2=-1)", "local expectations of an event"),
    M("lanes of coordinates summed", "estimators/local.py", ".flatten(0, 1) / count", ".flatten(0, 1)", "local expectations of an event"),
    M("local expectation though a plate is crossed", "estimators/local.py", "per_element = True", "per_element = False", "local expectation on plate_entered"),
    # Draws without replacement.
    M("set's order not forgotten", "estimators/without_replacement.py", "(probs * first * (f - baseline))", "(probs * (f - baseline))", "unordered set on categorical"),
    M("set's baseline without the value's own share", "estimators/without_replacement.py", "(second * p * f).sum(1)", "(second * p * f * (1 - torch.eye(len(p)))).sum(1)", "unordered set on categorical"),
    M("set drawn with replacement", "estimators/without_replacement.py", "index = _one_of(left, open_, source)", "index = _one_of(probs, open_, source)", "unordered set on categorical"),
    M("others forgotten in a set's chances", "estimators/without_replacement.py", "mass = rest + sum(", "mass = sum(", "unordered set on categorical"),
    M("sets though a plate is crossed", "estimators/without_replacement.py", "    k: int = 2\n\n    per_element = True", "    k: int = 2\n\n    per_element = False", "unordered set on plate_entered"),
    M("sampled value not weighted", "estimators/without_replacement.py", "torch.where(sampled > 0, (rest + sampled) / sampled, 0.0)", "torch.where(sampled > 0, 1.0, 0.0)", "sum and sample on categorical"),
    M("sampled value in its own baseline", "estimators/without_replacement.py", "share = torch.where(summed, p, 0.0)", "share = p", "sum and sample on categorical"),
    M("lane 0 always the likeliest", "estimators/without_replacement.py", "chosen = source.index(torch.cat([top, mass], -1)).unsqueeze(-1)", "chosen = torch.zeros_like(listed[..., :1])", "sum and sample on categorical"),
    # Measure-valued derivatives.
    M("mean's Rayleigh with one normal", "estimators/measure_valued.py", "(second.square() + third.square()).sqrt()", "second.abs()", "measure valued"),
    M("scale's Maxwell without its sign", "estimators/measure_valued.py", "torch.where(first < 0, -maxwell, maxwell)", "maxwell", "measure valued"),
    M("mean's constant", "estimators/measure_valued.py", "(sigma * math.sqrt(2 * math.pi))", "(sigma * math.sqrt(math.pi))", "measure valued"),
    M("Gamma's rate without the shape", "estimators/measure_valued.py", "(shape / rate).detach()", "(1 / rate).detach()", "measure valued"),
    M("Gamma's shape without the half", "estimators/measure_valued.py", "shape * 0.5 * (f", "shape * (f", "measure valued"),
    M("Exponential's sign", "estimators/measure_valued.py", "q.rate[0] * (f[0] - f[1]) /", "q.rate[0] * (f[1] - f[0]) /", "measure valued"),
    M("Poisson one too low", "estimators/measure_valued.py", "return [z + 1]", "return [z + 2]", "measure valued"),
    # Couplings.
    M("steps not divided by their chance", "estimators/stochastic_ad.py", "(cost[1] - cost[0]) / chance", "(cost[1] - cost[0])", "stochastic ad on bernoulli"),
    M("all coordinates step", "estimators/stochastic_ad.py", "torch.where(taken, target", "torch.where(taken | True, target", "stochastic ad on event"),
    M("Binomial without its trials", "estimators/stochastic_ad.py", "p * (1 - p) * (trials - x), p", "p * (1 - p) * (1 - x), p", "stochastic ad on binomial"),
    M("down with the sign of up", "estimators/stochastic_ad.py", "-logits * down", "logits * down", "stochastic ad on bernoulli"),
    M("Geometric with the sign of successes", "estimators/stochastic_ad.py", "-q.logits[0] * size", "q.logits[0] * size", "steps to neighbours"),
    M("NegativeBinomial without its failures", "estimators/stochastic_ad.py", "(q.total_count[0] + x)", "x", "steps to neighbours"),
    M("categories' flow over one probability", "estimators/stochastic_ad.py", "1 / (own + other)", "1 / own", "stochastic ad on categorical"),
    M("impossible categories not stepped over", "estimators/stochastic_ad.py", "(k > here) & (p > 0)", "(k > here)", "values without"),
    M("steps though a plate is crossed", "estimators/stochastic_ad.py", "per_element = True", "per_element = False", "stochastic ad on plate_entered"),
    # Partly reparameterised draws.
    M("no score part", "objectives/estimate.py", "needs_cost or choice.estimator.partial or", "needs_cost or", "partly reparameterised draws by quadrature"),
    M("the noise's slope forgotten", "estimators/generalised.py", "density + log_value + deviation.log()", "density + log_value", "partly reparameterised draws by quadrature"),
    M("Beta's odds without their slope", "estimators/generalised.py", "one * logsigmoid(odds) +", "(one - 1) * logsigmoid(odds) +", "partly reparameterised draws by quadrature"),
    M("the shape not brought down", "estimators/generalised.py", "1 / (concentration + i)", "1 / (concentration + i + 1)", "partly reparameterised draws by sampling"),
    # Relaxations.
    M("noise given another draw", "estimators/relaxations.py", "z = given(hard, logits,", "z = given(1 - hard, logits,", "relaxations have"),
    M("the soft value in place of the draw", "estimators/relaxations.py", "return hard + (soft - soft.detach())", "return soft", "relaxations have"),
    M("no gap", "estimators/relaxations.py", ".clamp(min=self.gap)", ".clamp(min=0)", "relaxations have"),
    M("no gap between categories", "estimators/relaxations.py", "largest - self.gap", "largest", "a relaxed choice"),
    M("the noise is the first one", "estimators/relaxations.py", "one_hot, source).mean(0)", "one_hot, source)[0]", "relaxations have"),
    M("a schedule that stands still", "estimators/relaxations.py", "temperature.at(step.to(like)), step + 1", "temperature.at(step.to(like)), step", "a temperature"),
    M("relaxed densities not continued", "terms/term.py", "continued_log_prob if relaxed else", "continued_log_prob if False else", "a straight through"),
    # Lanes.
    M("sites after an alternative not drawn anew", "estimators/base.py", "value[list(self.source)]", "value[[r if r in self.own else 0 for r in range(self.count)]]", "leave one out on categorical_chain"),
    M("source of a site's lanes leaves out those before", "objectives/run.py", "rows in self.lanes.items() if s in before for r in rows}", "rows in self.lanes.items() if s in before for r in ()}", "leave one out on categorical_chain"),
    M("last lane for lane 0", "terms/cost.py", "return value[0] if wide else value", "return value[-1] if wide else value", "estimators mix"),
    M("lanes of two sites added, not averaged", "objectives/estimate.py", "torch.stack(averages).mean(0)", "torch.stack(averages).sum(0)", "estimators mix"),
    M("loop: sites after an alternative not drawn anew", "objectives/bound.py", "for n in order[: order.index(site)]}", "for n in order}", "leave one out on categorical_chain"),
    M("loop: sites before an alternative drawn anew", "objectives/bound.py", "for n in order[: order.index(site)]}", "for n in ()}", "leave one out on categorical_chain"),
    M("loop: another minibatch for the alternative", "objectives/bound.py", "draw.value[row]}, base.indices", "draw.value[row]}, None", "leave one out on subsampled"),
    M("programs that mix their lanes run side by side", "objectives/layout.py", 'return f"the density of {term.name!r} mixes', 'return None and f"the density of {term.name!r} mixes', "plate crossed by"),
    # The cost of a site.
    M("a downstream term dropped", "terms/cost.py", "return [t for t in terms if site in t.upstream or", "return [t for t in list(terms)[:-1] if site in t.upstream or", "score on bernoulli"),
    M("own term missing", "terms/cost.py", "for term in terms:\n        keep", "for term in terms:\n        if term.name == site and term.sign < 0:\n            continue\n        keep", "score on bernoulli"),
    M("a guide's term with the wrong sign", "terms/cost.py", "term.sign > 0 else total - log_prob", "term.sign > 0 else total + log_prob", "score on categorical_chain"),
    M("own term with the wrong sign", "terms/cost.py", "term.sign > 0 else -log_prob", "term.sign > 0 else log_prob", "score on bernoulli"),
    M("all terms count as downstream", "terms/cost.py", "for t in terms if site in t.upstream or", "for t in terms if t.sign or site in t.upstream or", "what is not downstream"),
    M("plates not reduced", "terms/cost.py", "return log_prob.sum(summed, keepdim=True) if summed else log_prob", "return log_prob", "score on nested"),
    M("plates reduced though kept", "terms/cost.py", "if plates else ()", "if plates and False else ()", "an element of a plate"),
    M("plates kept though crossed", "terms/cost.py", "if p.dim is not None} - crossed", "if p.dim is not None}", "plate crossed by sum"),
    # Dependencies.
    M("a value does not carry what is upstream of it", "terms/tracking.py", "provenance = site.upstream", "provenance = NOTHING", "score on chain"),
    M("sites not followed", "objectives/run.py", "follow = estimator.needs_cost or", "follow = False and", "score on bernoulli"),
    M("escapes ignored", "terms/tracking.py", "escaped = self.escapes.provenance", "escaped = NOTHING", "leak by if"),
    M("escapes cross no plate", "terms/tracking.py", "Token(t.site, self.plates[t.site]) for t in escaped", "Token(t.site) for t in escaped", "plate crossed by item"),
    M("the dispatcher does not mark", "terms/provenance.py", "if escapes is not None and not escapes.active:", "if True:", "leak by scripted"),
    M("writes in place ignored", "terms/provenance.py", "versions != _versions(plain_args)", "(False and versions != _versions(plain_args))", "leak by add_"),
    M("out= ignored", "terms/provenance.py", '"out" in kwargs or', '"nothing" in kwargs or', "leak by out"),
    M("shapes that tell ignored", "terms/provenance.py", "or name in _SHAPE_TELLS", "", "leak by nonzero"),
    M("masks as indices ignored", "terms/provenance.py", 'name == "__getitem__" and _mask_index', 'name == "" and _mask_index', "leak by mask shape"),
    M("transforms that close over a value ignored", "terms/provenance.py", "or _functorch_level() is not None", "", "leak by vmap"),
    M("compiled callables not made eager", "terms/stance.py", 'self._stance = set_stance("force_eager")', 'self._stance = set_stance("default")', "a compiled callable"),
    M("a mask not looked at", "terms/tracking.py", "upstream |= message.mask._provenance", "pass", "dependent mask"),
    M("a scale not looked at", "terms/tracking.py", "upstream |= message.scale._provenance", "pass", "dependent scale"),
    M("a factor's value not looked at", "terms/tracking.py", "upstream |= get_provenance(message.log_factor)", "upstream |= NOTHING", "dependent factor"),
    M("leaving a plate crosses nothing", "terms/tracking.py", "t.crossed | (self.plates[t.site] - here)", "t.crossed", "score on plate_entered"),
    M("mixing inside a plate ignored", "objectives/layout.py", "if _mixes(perform,", "if False and _mixes(perform,", "plate crossed by flip"),
    M("every other element changed at once", "objectives/layout.py", "[index == i for i in range(size)]", "[index % 2 == 0]", "mixing by"),
    M("mixing looked for at one draw only", "objectives/layout.py", "for start in starts:", "for start in starts[:1]:", "mixing by product"),
    M("lanes compared at one draw only", "objectives/layout.py", "(8 if small else 2) *", "0 *", "mixing by"),
    M("hidden tensors not looked for", "terms/term.py", "if not statement.opaque:", "if True:", "a distribution may hide"),
    # Terms.
    M("scale forgotten", "terms/term.py", "log_prob = log_prob * message.scale", "pass", "score on scaled"),
    M("scale of a minibatch forgotten", "language/plates.py", "scale=message.scale * self.factor", "scale=message.scale", "a minibatch estimates"),
    M("mask forgotten", "terms/term.py", "log_prob = masked(log_prob, message.mask)", "pass", "score on masked"),
    M("mask put on the draw's own density", "terms/term.py", "message.plates, sites, raw,", "message.plates, sites, log_prob,", "score on masked"),
    M("inner mask put on the draw's own density", "terms/term.py", "raw = log_prob if bare is distribution else density(bare, value)", "raw = log_prob", "masks do not touch"),
    # Pathwise gradients and closed forms.
    M("sticking the landing at every site", "terms/term.py", "hold = sign < 0 and message.name in fixed", "hold = sign < 0", "score on bernoulli"),
    M("sticking the landing ignored", "terms/term.py", "hold = sign < 0 and message.name in fixed", "hold = False", "sticking the landing has no"),
    M("the model's density held constant", "terms/term.py", "hold = sign < 0 and message.name in fixed", "hold = message.name in fixed", "a chain of normals"),
    M("path through log q dropped", "objectives/estimate.py", "drop = term.sign < 0 and", "drop = term.sign < 0 or", "pathwise on normals"),
    M("score part of a rejection sampler dropped", "objectives/estimate.py", "or is_partial(run.draws[name].distribution)", "", "a partial reparameterisation"),
    M("kinks ignored", "objectives/choice.py", "KINKED if message.name in kinked else PATHWISE", "PATHWISE", "a kinked choice"),
    M("closed form with the wrong sign", "objectives/adjust.py", "return Term(name, -1,", "return Term(name, 1,", "divergences in closed"),
    M("closed form that depends on its own draw", "objectives/adjust.py", "if name in given:", "if False:", "a divergence is"),
    M("closed form not scaled", "objectives/adjust.py", "density = density * right.scale", "pass", "divergences in closed"),
    M("gradient of the closed form dropped", "objectives/estimate.py", "term.sign < 0 and term.latent and term.name", "term.sign < 0 and term.name", "divergences in closed"),
    # Value, surrogate, draws.
    M("particles not averaged", "objectives/estimate.py", "    if count > 1:", "    if False:", "particles are averaged"),
    M("value: guide's terms added", "objectives/estimate.py", "value - _total(dropped)", "value + _total(dropped)", "score on bernoulli"),
    M("loss climbs", "objectives/bound.py", "result.surrogate.detach() - result.surrogate -", "result.surrogate - result.surrogate.detach() -", "loss has minus"),
    M("Bernoulli drawn the wrong way round", "distributions/source.py", "(self.uniform(shape, probs) < probs)", "(self.uniform(shape, probs) > probs)", "draws follow"),
    M("categories drawn one too low", "distributions/source.py", "cdf[..., :-1] <= (", "cdf[..., 1:] <= (", "draws follow"),
    # Where a gradient comes from.
    M("earlier draws not held", "objectives/gradients.py", "value.register_hook(torch.zeros_like)", "value.register_hook(torch.clone)", "a gradient is the sum"),
    M("parts not averaged over particles", "objectives/gradients.py", "torch.full_like(total, 1 / parts.count)", "torch.ones_like(total)", "a gradient is the sum"),
    M("what comes by a draw counted twice", "objectives/gradients.py", "add(DIRECT, through, -1)", "pass", "a gradient is the sum"),
    # The step (laws: tests/step_laws.py).
    M("gradients not laid out", "inference/laid_out.py", "    return laid_out_like(gradient, parameter)\n", "    return gradient\n", "steps of fused kernels"),
    M("gradients climb, and are the very ones", "inference/laid_out.py", "iter(torch._foreach_neg([g for g in gradients if g is not None]))", "iter([g for g in gradients if g is not None])", "eager steps"),
    M("one gradient for two parameters", "inference/laid_out.py", "iter(torch._foreach_neg([g for g in gradients if g is not None]))", "map({id(g): -g for g in gradients if g is not None}.get, [id(g) for g in gradients if g is not None])", "clipping scales once"),
    M("a gradient's strides not looked at", "inference/laid_out.py", "gradient.stride() == stride\n", "True\n", "a gradient that is set by hand"),
    M("the first moment's strides not looked at", "inference/laid_out.py", "first.stride() == stride", "True", "moments in another order"),
    M("the second moment's strides not looked at", "inference/laid_out.py", "second.stride() == stride", "True", "moments in another order"),
    M("a moment's shape not looked at", "inference/laid_out.py", "first.shape == shape", "True", "a moment of another shape"),
    M("moments for torch's kernels left as they are", "inference/laid_out.py", "and value.stride() != parameter.stride()", "and False", "moments in another order"),
    M("gaps not refused", "inference/laid_out.py", "if not is_dense(parameter):", "if False:", "gaps and overlaps are refused"),
    M("overlaps not refused", "inference/laid_out.py", "if stride <= reach:", "if stride < 0:", "gaps and overlaps are refused"),
    M("any strides called dense", "inference/laid_out.py", "if stride != expected:", "if stride < expected:", "gaps and overlaps are refused"),
    M("counts of steps not looked at", "inference/adam.py", "torch._foreach_add_(steps, 1)", "pass", "eager steps"),
    M("complex parameters for the kernel", "inference/adam.py", "if kind[0].is_complex:", "if False:", "complex parameters"),
    M("clipping in place", "inference/clipped_adam.py", 'list(torch._foreach_clamp_min([p.grad for p in params], -group["clip_norm"]))', '[p.grad.clamp_(min=-group["clip_norm"]) for p in params]', "clipped adam leaves"),
    M("clipping from above only", "inference/clipped_adam.py", 'list(torch._foreach_clamp_min([p.grad for p in params], -group["clip_norm"]))', "[p.grad.clone() for p in params]", "eager steps"),
    M("clipped Adam's correction off by one", "inference/clipped_adam.py", "(1 - beta1**k)", "(1 - beta1 ** (k + 1))", "eager steps"),
    M("clipped Adam's decay on the wrong side", "inference/clipped_adam.py", 'alpha=group["weight_decay"]', 'alpha=-group["weight_decay"]', "eager steps"),
    M("the schedule of clipped Adam late", "inference/clipped_adam.py", 'group["lr"] *= group["lrd"]', "pass", "eager steps"),
    M("variance not centred", "inference/clipped_adam.py", 'if group["centered_variance"] else', "if False else", "eager steps"),
    M("a step of AdagradRMSProp counted twice", "inference/advi.py", 'state["step"] += 1', 'state["step"] += 2', "eager steps"),
    M("AdagradRMSProp: weight of the oldest", "inference/advi.py", 'square, group["t"])', 'square, 1 - group["t"])', "eager steps"),
    M("compiled Adam's correction off by one", "inference/updates.py", "steps = count + 1", "steps = count + 2", "compiled steps by adam"),
    M("compiled Adam: eps on the wrong side", "inference/updates.py", "(second.sqrt() / root + eps.to(value.dtype))", "((second.sqrt() + eps.to(value.dtype)) / root)", "compiled steps by adam"),
    M("compiled AdamW grows", "inference/updates.py", "value * (1 - lr * decay)", "value * (1 + lr * decay)", "compiled steps by adamw"),
    M("compiled Adam decays like AdamW", "inference/updates.py", "if decays and decoupled:", "if decays:", "compiled steps by adam with decay"),
    M("compiled SGD: momentum dampened at first", "inference/updates.py", "torch.where(count == 0, grad,", "torch.where(count < 0, grad,", "a graph that begins anew"),
    M("compiled SGD: nesterov left out", "inference/updates.py", "grad + momentum * buffer if nesterov else buffer", "buffer", "compiled steps by nesterov"),
    M("gradients joined in another order", "inference/memory.py", "pieces.append(grads[id(p)].reshape(-1))", "pieces.append(grads[id(p)].transpose(0, -1).reshape(-1))", "compiled steps by sgd"),
    M("parameters start anew in their bucket", "inference/memory.py", "place.copy_(p.detach().clone())", "pass", "compiled steps by sgd"),
    M("moments start anew", "inference/memory.py", "kept[i].copy_(old)", "kept[i].zero_()", "compiled steps by adam"),
    M("the count starts anew", "inference/memory.py", "bucket.count.fill_(age)", "bucket.count.fill_(0)", "compiled steps by adam"),
    M("the count not given back", "inference/memory.py", "fill_(bucket.count.item())", "fill_(1.0)", "from compiled steps to eager ones"),
    M("compiled clipping scales up", "inference/step.py", "(limit / (norm + 1e-6)).clamp(max=1.0)", "(limit / (norm + 1e-6))", "clipping scales once"),
    M("compiled gradients handed on as they are", "inference/descent.py", "id(p): laid_out_like(g, p) for", "id(p): g for", "a user may keep gradients"),
    M("a compiled bound climbs", "inference/compiled.py", "found = downhill(torch.autograd.grad(result.surrogate, leaves, allow_unused=True), leaves)", "found = torch.autograd.grad(result.surrogate, leaves, allow_unused=True)", "loops of one's own"),
    M("a frozen parameter keeps its gradient", "inference/descent.py", "            p.grad = None  # an optimiser", "            pass  # an optimiser", "frozen parameters"),
    M("an unfrozen parameter not noticed", "inference/descent.py", "or any(p.requires_grad for p in self._frozen)", "", "frozen parameters"),
    M("a graph with what is no longer frozen", "inference/session.py", "if any(p.requires_grad for p in form.frozen):", "if False:", "frozen parameters, compiled"),
    M("an optimiser of others kept", "inference/descent.py", "        _check_foreign(optimizer,", "        self.current_optimizer = optimizer\n        _check_foreign(optimizer,", "an optimiser of others"),
    M("autocast's copies kept", "objectives/bound.py", "torch.clear_autocast_cache()", "pass", "autocast around a loop"),
    M("compat: gradients shared", "compat/pyro/optim/optim.py", "p.grad = laid_out_like(p.grad, p)", "pass", "compat follows"),
    M("assert_step lets all pass", "testing/step.py", "if bool((apart <= limit).all()):", "if True:", "assert step finds"),
    M("assert_step reads in the order of memory", "testing/step.py", "p.grad.clone().contiguous()", "p.grad.clone()", "assert step finds"),
)  # fmt: skip


def mutated(mutant: Mutant | None, folder: Path) -> str | None:
    """Copy the package with the mutant in it; what is wrong with the mutant, if anything."""
    shutil.copytree(SOURCE / "varigrad", folder / "varigrad")
    if mutant is None:
        return None
    path = folder / "varigrad" / mutant.file
    text = path.read_text()
    if text.count(mutant.old) != 1:
        return f"its text is {text.count(mutant.old)} times in {mutant.file}: {mutant.old!r}"
    for stale in path.parent.glob(f"__pycache__/{path.stem}.*"):
        stale.unlink()
    path.write_text(text.replace(mutant.old, mutant.new))
    return None


def tried(mutant: Mutant | None) -> tuple[bool, str, float]:
    """Whether it was noticed, by what (or why not), and how long that took."""
    start = time.perf_counter()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        wrong = mutated(mutant, folder)
        if wrong:
            return False, wrong, 0.0
        path = os.pathsep.join([str(folder), str(HERE)])
        command = [sys.executable, __file__, "--laws", str(folder), mutant.law if mutant else ""]
        environment = {**os.environ, "PYTHONPATH": path, "OMP_NUM_THREADS": "1"}
        try:
            run = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=SECONDS, cwd=folder)
        except subprocess.TimeoutExpired:
            return False, f"no verdict after {SECONDS} s", time.perf_counter() - start
    seconds = time.perf_counter() - start
    if run.returncode:
        return False, f"broken: {run.stderr.strip().splitlines()[-1][:100]}", seconds
    broken, how = json.loads(run.stdout.strip().splitlines()[-1])
    if broken is None:
        return mutant is None, "no law", seconds
    if how in ("NameError", "AttributeError", "ImportError", "SyntaxError", "UnboundLocalError"):
        return False, f"not a mutant but nonsense: {how} in {broken!r}", seconds
    return mutant is not None, broken if how == "AssertionError" else f"{broken} ({how})", seconds


def first_broken(folder: str, expected: str) -> tuple[str | None, str]:
    """The first law that does not hold, those whose names start with `expected` tried first."""
    import warnings

    import torch
    from laws import LAWS as OF_GRADIENTS
    from step_laws import LAWS as OF_STEPS

    import varigrad

    assert Path(varigrad.__file__).is_relative_to(folder), varigrad.__file__
    warnings.simplefilter("ignore")
    torch.set_num_threads(1)
    LAWS = {**OF_GRADIENTS, **OF_STEPS}
    order = sorted(LAWS, key=lambda name: not (expected and name.startswith(expected)))
    if expected and not order[0].startswith(expected):
        raise ValueError(f"there is no law {expected!r}")
    for name in order:
        torch.manual_seed(20261123)
        try:
            LAWS[name]()
        except Exception as error:
            traceback.print_exc()
            return name, type(error).__name__
    return None, ""


def main(wanted: list[str]) -> int:
    start = time.perf_counter()
    chosen = [m for m in MUTANTS if not wanted or any(w in m.name for w in wanted)]
    good = True
    with ThreadPoolExecutor(AT_ONCE) as pool:
        results = pool.map(tried, [None, *chosen])
        for mutant, (noticed, by, seconds) in zip([None, *chosen], results, strict=True):
            good &= noticed
            verdict = ("killed" if mutant else "holds") if noticed else "SURVIVED" if mutant else "BROKEN"
            name = mutant.name if mutant else "(the source as it is)"
            print(f"{name:<52} {verdict:<9} {seconds:5.1f} s  {by}", flush=True)
    print(f"{len(chosen)} mutants, {time.perf_counter() - start:.0f} s: {'all killed' if good else 'NOT GOOD'}")
    return 0 if good else 1


if __name__ == "__main__":
    if sys.argv[1:2] == ["--laws"]:
        sys.stdout.write("\n" + json.dumps(first_broken(*sys.argv[2:])) + "\n")
    else:
        sys.exit(main(sys.argv[1:]))
