"""Law 4: the twin in `examples/mini.py` shares no code with us and has our gradients, draw by draw and on average."""

import importlib.util
import sys
from pathlib import Path

import pytest
import registry
import torch

import varigrad as vg
from varigrad import distributions as td
from varigrad.estimators import Enumerate
from varigrad.gradients.exact import exact_gradient, expected_gradient, largest_difference
from varigrad.gradients.outcomes import Outcomes, outcomes

PATH = Path(__file__).parent.parent / "examples" / "mini.py"
_spec = importlib.util.spec_from_file_location("mini", PATH)
mini = importlib.util.module_from_spec(_spec)
sys.modules["mini"] = mini  # dataclasses look their module up
_spec.loader.exec_module(mini)


def t(*values):
    return torch.tensor(values, dtype=torch.float64)


# Each program is written once, in a language given as an argument: ours or the twin's. They are called with
# `lang` (sample, param, plate) and, in the guide, the estimator.


class Chain:
    """a -> b -> c over two-state choices, an index at a time; d depends on nothing."""

    def model(lang):
        a = lang.sample("a", td.Categorical(t(0.4, 0.6)))
        b = lang.sample("b", td.Categorical(t(0.3, 0.7, 0.8, 0.2).reshape(2, 2)[a]))
        lang.sample("c", td.Normal(t(-1.0, 1.5)[b], t(1.0)[0]), obs=t(0.7)[0])
        d = lang.sample("d", td.Bernoulli(t(0.2)[0]))
        lang.sample("e", td.Normal(2 * d, t(0.8)[0]), obs=t(1.1)[0])

    def guide(lang, estimator):
        a = lang.sample("a", td.Categorical(logits=lang.param("la", t(0.3, -0.2))), estimator=estimator)
        rows = lang.param("lb", t(0.5, -0.1, -0.6, 0.9).reshape(2, 2))
        lang.sample("b", td.Categorical(logits=rows[a]), estimator=estimator)
        lang.sample("d", td.Bernoulli(logits=lang.param("ld", t(0.4)[0])), estimator=estimator)


class Storm:
    """A global choice above a plate's; a parameter in the model, too."""

    def model(lang):
        storm = lang.sample("storm", td.Bernoulli(t(0.3)[0]))
        with lang.plate("streets", 2):
            rain = lang.sample("rain", td.Bernoulli(0.1 + 0.7 * storm))
            lang.sample("x", td.Normal(lang.param("slope", t(1.7)[0]) * rain, t(1.0)[0]), obs=t(1.9, 0.8))

    def guide(lang, estimator):
        storm = lang.sample("storm", td.Bernoulli(logits=lang.param("ls", t(0.2)[0])), estimator=estimator)
        logits = torch.where(storm > 0, lang.param("stormy", t(0.6, -0.3)), lang.param("calm", t(-0.5, 0.1)))
        with lang.plate("streets", 2):
            lang.sample("rain", td.Bernoulli(logits=logits), estimator=estimator)


class Twice:
    """The broken promise: a global choice reads the plate's sum, and the plate is entered again."""

    def model(lang):
        with lang.plate("n", 2):
            z = lang.sample("z", td.Bernoulli(t(0.4, 0.7)))
        w = lang.sample("w", td.Bernoulli(logits=z.sum(-1) - 1))
        with lang.plate("n", 2):
            lang.sample("x", td.Normal(z + 2 * w, t(0.9)[0]), obs=t(0.4, 2.2))

    def guide(lang, estimator):
        with lang.plate("n", 2):
            z = lang.sample("z", td.Bernoulli(logits=lang.param("lz", t(0.2, -0.4))), estimator=estimator)
        lang.sample("w", td.Bernoulli(logits=z.sum(-1) * lang.param("lw", t(0.7)[0])), estimator=estimator)


class Escape:
    """A value leaves torch: Python's `if`, and a table written in place."""

    def model(lang):
        a = lang.sample("a", td.Bernoulli(t(0.6)[0]))
        b = lang.sample("b", td.Bernoulli(t(0.3)[0]))
        lang.sample("x", td.Normal(t(2.0)[0] if a > 0 else t(-0.5)[0], t(1.0)[0]), obs=t(1.2)[0])
        table = t(0.0, 0.0)
        table[0] = b
        lang.sample("y", td.Normal(table.sum(), t(0.7)[0]), obs=t(0.3)[0])

    def guide(lang, estimator):
        lang.sample("a", td.Bernoulli(logits=lang.param("la", t(-0.3)[0])), estimator=estimator)
        lang.sample("b", td.Bernoulli(logits=lang.param("lb", t(0.5)[0])), estimator=estimator)


class Grid:
    """Two plates crosswise, their choices added; an event of two."""

    def model(lang):
        with lang.plate("columns", 2):
            a = lang.sample("a", td.Bernoulli(t(0.3)[0]))
            with lang.plate("rows", 1):
                b = lang.sample("b", td.Bernoulli(t(0.6)[0]))
                lang.sample("x", td.Normal(a + b, t(1.0)[0]), obs=t(0.2, 1.7).reshape(1, 2))

    def guide(lang, estimator):
        with lang.plate("columns", 2):
            a = lang.sample("a", td.Bernoulli(logits=lang.param("la", t(0.3, -0.6))), estimator=estimator)
            with lang.plate("rows", 1):
                logits = lang.param("lb", t(0.1)[0]) + a
                lang.sample("b", td.Bernoulli(logits=logits), estimator=estimator)


PROGRAMS = {program.__name__: program for program in (Chain, Storm, Twice, Escape, Grid)}
ESTIMATORS = {name: (e.make(), e.twin(mini)) for name, e in registry.ESTIMATORS.items() if e.twin is not None}
# Elements of a plate that vary together need costs inside the plate; and two draws of everything take too long here.
REFUSED = {("Twice", "enumerate")}
LONG = {(p, "leave_one_out") for p in ("Chain", "Grid", "Storm", "Twice")} | {("Chain", "enumerate")}


def ours(program, estimator):
    bound = vg.ELBO()(lambda: program.model(vg), lambda: program.guide(vg, estimator))
    return bound


class Twin:
    def __init__(self, program, estimator):
        self.programs = (lambda: program.model(mini), lambda: program.guide(mini, estimator))
        self.leaves = {}
        mini.estimate(*self.programs, self.leaves, {})

    def estimate(self, source, state):
        def draw(distribution):
            # The source reads probabilities as numbers: that is not the program's doing, and no leak.
            with torch._C.DisableTorchFunctionSubclass():
                return source.draw(distribution)

        value, surrogate, state = mini.estimate(*self.programs, self.leaves, state, draw)
        grads = torch.autograd.grad(surrogate, list(self.leaves.values()), allow_unused=True)
        filled = (torch.zeros_like(p) if g is None else g for p, g in zip(self.leaves.values(), grads, strict=True))
        return value, dict(zip(self.leaves, filled, strict=True)), state

    def expected_gradient(self):
        total = {name: torch.zeros_like(leaf) for name, leaf in self.leaves.items()}
        for source in outcomes():
            _, gradient, _ = self.estimate(source, {})
            total = {name: total[name] + source.probability * gradient[name] for name in total}
        return total


CASES = [pytest.param(p, e, id=f"{p}-{e}") for p in PROGRAMS for e in ESTIMATORS if (p, e) not in REFUSED | LONG]


@pytest.mark.parametrize(("program", "estimator"), CASES)
def test_expected_gradients_are_equal(program, estimator):
    our_estimator, its_estimator = ESTIMATORS[estimator]
    bound = ours(PROGRAMS[program], our_estimator)
    twin = Twin(PROGRAMS[program], its_estimator)
    assert twin.leaves.keys() == dict(bound.named_parameters()).keys()
    mean = twin.expected_gradient()
    assert largest_difference(mean, expected_gradient(bound).mean) < 1e-9
    assert largest_difference(mean, exact_gradient(bound)[1]) < 1e-9


@pytest.mark.parametrize("program", PROGRAMS)
@pytest.mark.parametrize("estimator", ["score", "moving_average"])
def test_gradients_are_equal_draw_by_draw(program, estimator):
    # The same costs, not only the same mean: a term too many in a cost would show here and nowhere above.
    our_estimator, its_estimator = ESTIMATORS[estimator]
    bound, twin, state = ours(PROGRAMS[program], our_estimator), Twin(PROGRAMS[program], its_estimator), {}
    names = list(twin.leaves)
    leaves = [dict(bound.named_parameters())[name] for name in names]
    for path in [source.path for source in _used_up(bound)]:
        bound.draw_from(Outcomes(path))
        result = bound.estimate()
        bound.advance(result.state)
        grads = torch.autograd.grad(result.surrogate, leaves, allow_unused=True)
        value, gradient, state = twin.estimate(Outcomes(path), state)
        torch.testing.assert_close(value, result.value, rtol=0, atol=1e-9)
        for name, grad in zip(names, grads, strict=True):
            expected = torch.zeros_like(gradient[name]) if grad is None else grad
            torch.testing.assert_close(gradient[name], expected, rtol=0, atol=1e-9)


def _used_up(bound):
    for source in outcomes():
        bound.draw_from(source)
        bound.estimate()
        yield source


def test_enumeration_in_spite_of_cross_element_dependence_is_refused_by_both():
    with pytest.raises(vg.errors.SiteError, match="cannot serve this site"):
        ours(Twice, Enumerate()).estimate()
    with pytest.raises(ValueError, match="needs costs inside its plates"):
        Twin(Twice, mini.Enumerate())


def test_provenance_of_a_chain():
    run = mini.Run({}, lambda d: d.sample(), {}).of(lambda: Chain.model(mini), lambda: Chain.guide(mini, mini.Score()))
    upstream = {term.name: {source.site for source in term.upstream} for term in run.terms if term.sign > 0}
    assert upstream == {"a": {"a"}, "b": {"a", "b"}, "c": {"a", "b"}, "d": {"d"}, "e": {"d"}}


def test_pathwise_and_leave_one_out_on_the_coin():
    torch.manual_seed(0)
    for estimator in (mini.Pathwise(), mini.LeaveOneOut(2)):
        svi = mini.SVI(mini.coin, lambda e=estimator: mini.coin_guide(e), lr=5e-4, betas=(0.93, 0.999))
        for _ in range(150):
            svi.step()
        assert svi.leaves["a"].exp() > 15.2
        assert svi.leaves["b"].exp() < 14.8


def test_it_is_short_and_imports_nothing_of_ours():
    text = PATH.read_text()
    assert len(text.splitlines()) <= 400
    imports = [line for line in text.splitlines() if line.startswith(("import ", "from "))]
    assert not any("varigrad" in line for line in imports)


LEAVES = {
    "if": lambda z: 1.0 if z > 0 else 0.0,
    "item": lambda z: z.item(),
    "int": lambda z: [1.0, 2.0][int(z)],
    "tolist": lambda z: z.reshape(1).tolist()[0],
    "numpy": lambda z: float(z.numpy()),
    "write": lambda z: torch.zeros(2, dtype=z.dtype).add_(z),
    "index": lambda z: torch.zeros(2, dtype=z.dtype).__setitem__(0, z),
    "out": lambda z: torch.add(z, 1, out=torch.zeros((), dtype=z.dtype)),
}
STAYS = {
    "shape": lambda z: z.shape,
    "indexing": lambda z: t(1.0, 2.0)[z.long()],
    "pieces": lambda z: torch.max(torch.stack([z, 1 - z]), 0),
    "validation": lambda z: td.Bernoulli(0.2 + 0.5 * z, validate_args=True).log_prob(t(1.0)[0]),
}


@pytest.mark.parametrize("operation", LEAVES | STAYS)
def test_a_value_that_leaves_torch_is_noticed(operation):
    run = mini.Run({}, lambda d: d.sample(), {})
    z = mini.marked(t(1.0)[0], frozenset({mini.Source("z")}), run.leaks)
    (LEAVES | STAYS)[operation](z)
    assert run.leaks == ({mini.Source("z")} if operation in LEAVES else set())
