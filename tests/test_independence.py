"""What the structural test says of functions whose answer is known, of random programs, and of guides and models."""

import random
from collections.abc import Callable

import pytest
import torch
from independence_answers import APART, MIXES, UNKNOWN, Case
from independence_programs import couples, random_program, value
from independence_writes import random_writes
from torch import Tensor, nn

import varigrad as vg
from varigrad import distributions as dist
from varigrad import estimators as E
from varigrad.errors import VarigradError
from varigrad.objectives.execute import perform
from varigrad.objectives.run_record import Vectorization, VectorizationChanged, vectorization_of
from varigrad.terms.independence import rule_table
from varigrad.terms.independence.analysis import Follower, Origin, Verdict, follow_dimensions
from varigrad.terms.independence.rules import ElementAxis, regrouped
from varigrad.testing import PROGRAMS

N = Origin("z", "n")
KINDS = {"apart": APART, "mixes": MIXES, "unknown": UNKNOWN}
TABLE = [(kind, name) for kind, cases in KINDS.items() for name in cases]


def judged(case: Case) -> tuple[Verdict, Follower]:
    z = torch.rand(case.shape, generator=torch.Generator().manual_seed(0)) + 0.1
    with follow_dimensions() as follower:
        z = z.clone()
        follower.mark(z, N, case.dim)
        result = case.function(z)
    return follower.verdict(result, N, -result.dim() if case.out is None else case.out), follower


@pytest.mark.filterwarnings("ignore:.*nested tensors")
@pytest.mark.parametrize(("kind", "name"), TABLE, ids=[f"{k}-{n}" for k, n in TABLE])
@pytest.mark.parametrize("mode", [torch.enable_grad, torch.no_grad, torch.inference_mode])
def test_the_answer_is_the_one_found_by_hand(kind, name, mode):
    with mode():
        verdict, _ = judged(KINDS[kind][name])
    assert verdict.kind == kind, verdict


def test_the_table_is_long():
    assert len(TABLE) >= 120


@pytest.mark.parametrize("name", APART)
def test_what_is_apart_by_hand_is_apart_by_numbers(name):
    case = APART[name]
    z = value(case.shape, 1).abs() + 0.1
    wide = torch.get_default_dtype()
    torch.set_default_dtype(torch.float64)
    try:
        result = case.function(z.clone())
        out = -result.dim() if case.out is None else case.out
        assert not couples(lambda x: case.function(x.abs() + 0.1).double(), z, case.dim, out)
    finally:
        torch.set_default_dtype(wide)


SHAPES = [(2, 3, 4), (3, 3, 3), (2, 3, 3), (3, 2, 3), (2, 2, 4), (4, 4, 4)]
ORIGINS = ((Origin("z", "lanes"), -3), (Origin("z", "plate"), -2))


def unsound(program: Callable[[Tensor], Tensor], seed: int) -> tuple[list[str], int, int]:
    """Answers "apart" that numbers refute; how many dimensions stayed in place uncoupled, and how many were proven."""
    z = value(SHAPES[seed % len(SHAPES)], seed)
    with torch.set_grad_enabled(seed % 2 == 0), follow_dimensions() as follower:
        followed = z.clone()
        for origin, dim in ORIGINS:
            follower.mark(followed, origin, dim)
        torch.manual_seed(5)
        result = program(followed)
    wrong, free, proven = [], 0, 0
    for origin, axis in ORIGINS:
        for dim in range(-result.dim(), 0):
            if result.shape[dim] != z.shape[axis]:
                continue
            apart = follower.verdict(result, origin, dim).apart
            if not apart and dim != axis:
                continue
            coupled = couples(program, z, axis, dim)
            if apart and coupled:
                wrong.append(f"seed {seed}: {origin.plate} at {dim} of {tuple(result.shape)}")
            free += not coupled and dim == axis
            proven += apart and not coupled and dim == axis
    return wrong, free, proven


def check_programs(make: Callable[[int], Callable[[Tensor], Tensor]], seeds: range, share: float) -> None:
    wrong, free, proven = [], 0, 0
    for seed in seeds:
        found, uncoupled, apart = unsound(make(seed), seed)
        wrong += found
        free, proven = free + uncoupled, proven + apart
    assert not wrong
    assert proven >= share * free


@pytest.mark.filterwarnings("ignore")
def test_nothing_that_couples_is_called_apart():
    check_programs(lambda seed: random_program(seed, 0.6)[0], range(80), share=0.9)


@pytest.mark.filterwarnings("ignore")
def test_compositions_of_common_layers_are_proven():
    check_programs(lambda seed: random_program(seed, 0.0)[0], range(60), share=0.97)


@pytest.mark.filterwarnings("ignore")
def test_no_write_into_shared_memory_is_missed():
    check_programs(random_writes, range(100), share=0.4)


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("block", range(20))
def test_nothing_that_couples_is_called_apart_in_thousands(block):
    many, few = range(1000 + 150 * block, 1150 + 150 * block), range(1000 + 50 * block, 1050 + 50 * block)
    check_programs(lambda seed: random_program(seed, 0.6)[0], many, share=0.9)
    check_programs(lambda seed: random_program(seed, 0.0)[0], few, share=0.97)
    check_programs(random_writes, many, share=0.4)


MUTANTS = {
    "sum": "sum", "mean": "mean", "softmax": "_softmax", "cumsum": "cumsum", "select": "select", "slice": "slice",
    "transpose": "transpose", "permute": "permute", "unsqueeze": "unsqueeze", "mm": "mm", "bmm": "bmm", "view": "view",
    "flip": "flip", "roll": "roll", "index": "index", "gather": "gather", "batch_norm": "native_batch_norm",
    "layer_norm": "native_layer_norm", "sort": "sort",
}  # fmt: skip


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("name", MUTANTS)
def test_a_rule_that_leaves_everything_in_place_is_caught(name, monkeypatch):
    monkeypatch.setitem(rule_table.RULES, MUTANTS[name], lambda call, slot, place: place)
    by_hand = [f"{kind}-{n}" for kind, n in TABLE if judged(KINDS[kind][n])[0].kind != kind]
    assert by_hand


@pytest.mark.filterwarnings("ignore")
def test_the_random_law_catches_wrong_rules(monkeypatch):
    for name in ("sum", "cumsum", "bmm", "select", "flip"):
        monkeypatch.setitem(rule_table.RULES, name, lambda call, slot, place: place)
    assert any(unsound(random_program(seed, 0.6)[0], seed)[0] for seed in range(150))


@pytest.mark.parametrize(
    ("before", "after", "place", "expected"),
    [
        ((2, 3, 4), (6, 4), ElementAxis(-2, 3), ElementAxis(-2, 3)),
        ((2, 3, 4), (6, 4), ElementAxis(-3, 2), ElementAxis(-2, 2, 3)),
        ((6, 4), (2, 3, 4), ElementAxis(-2, 2, 3), ElementAxis(-3, 2)),
        ((6, 4), (2, 3, 4), ElementAxis(-2, 3), ElementAxis(-2, 3)),
        ((2, 3, 4), (24,), ElementAxis(-3, 2), ElementAxis(-1, 2, 12)),
        ((6, 4), (3, 2, 4), ElementAxis(-2, 6), "mixes"),
        ((3, 4), (4, 3), ElementAxis(-2, 3), "mixes"),
        ((3, 4), (3, 1, 2, 2), ElementAxis(-2, 3), ElementAxis(-4, 3)),
    ],
)
def test_a_place_after_a_change_of_shape(before, after, place, expected):
    assert regrouped(before, after, place) == expected


def test_a_merged_dimension_is_what_numbers_say():
    rng = random.Random(0)
    for _ in range(300):
        before = [rng.choice((1, 2, 3, 4, 6)) for _ in range(rng.randint(1, 4))]
        axis = rng.randrange(len(before))
        size = before[axis]
        total = torch.tensor(before).prod().item()
        after, left = [], total
        while left > 1:
            part = rng.choice([d for d in range(1, left + 1) if left % d == 0])
            after.append(part)
            left //= part
        if size < 2 or not after:
            continue
        shape = [1] * len(before)
        shape[axis] = size
        elements = torch.arange(size).reshape(shape).expand(before).reshape(after)
        place = regrouped(before, after, ElementAxis(axis - len(before), size))
        if isinstance(place, ElementAxis):
            index = (torch.arange(after[place.dim]) // place.inner) % size
            index = index.reshape([-1 if d - len(after) == place.dim else 1 for d in range(len(after))])
            assert torch.equal(elements, index.expand(after))


# -- runs of guide and model --


def look(bound, *args) -> tuple[dict[str, dict[str, Verdict]], Verdict | None]:
    """Plates by an exploring run; lanes by one that is side by side, where there are any."""
    programs = bound.model_program, bound.guide_program
    with follow_dimensions() as follower:
        run = perform(
            bound.runs.settings(Vectorization(), track_all=True, explore=True, follower=follower),
            *programs,
            args,
            {},
            {},
        )
        wide = vectorization_of(run, bound.config.particles)
        plates = follower.plates(bound.runs.terms(run, Vectorization(plates=wide.plates)))
    if wide.count == 1 and wide.particles == 1:
        return plates, None
    with follow_dimensions() as follower:
        try:
            run = perform(bound.runs.settings(wide, track_all=True, follower=follower), *programs, args, {}, {})
            terms = bound.runs.terms(run, wide)
        except (VarigradError, VectorizationChanged, RuntimeError, IndexError, ValueError) as error:
            return plates, Verdict("unknown", repr(error))
        return plates, follower.lanes(terms, wide.dims, run.tracker.escapes)


X = torch.tensor([0.8, -1.2, 0.3])


def bernoulli_guide(estimator):
    def guide(*_):
        with vg.plate("n", 3):
            vg.sample("z", dist.Bernoulli(logits=vg.param("t", torch.tensor([0.7, -0.3, 0.2]))), estimator=estimator)

    return guide


def model_of(location):
    def model(*args):
        gate = vg.param("gate", 0.0)
        with vg.plate("n", 3):
            z = vg.sample("z", dist.Bernoulli(torch.full((3,), 0.4)))
            vg.sample("x", dist.Normal(location(z, gate, *args), 1.0), obs=X)

    return model


GATED = {
    "sum": lambda z, gate: z + gate * z.sum(-1, keepdim=True), "flip": lambda z, gate: z + gate * z.flip(-1),
    "neighbour": lambda z, gate: z + gate * z.roll(1, -1), "rank": lambda z, gate: z + gate * z.argsort(-1),
    "attention": lambda z, gate: z + gate * (z.unsqueeze(-1) * z.unsqueeze(-2)).softmax(-1).sum(-1),
    "matrix": lambda z, gate: z + gate * (z @ torch.ones(3, 3)), "first": lambda z, gate: z + gate * z[..., :1],
}  # fmt: skip


@pytest.mark.parametrize("name", GATED)
@pytest.mark.parametrize("estimator", [E.Score(), E.LeaveOneOut(2), E.Enumerate()], ids=lambda e: type(e).__name__)
def test_mixing_behind_a_gate_at_zero_is_found(name, estimator):
    plates, lanes = look(vg.ELBO()(model_of(GATED[name]), bernoulli_guide(estimator)))
    assert plates["z"]["n"].kind == "mixes"
    assert plates["z"]["n"].term == "x"
    assert "test_independence.py" in plates["z"]["n"].sentence()
    assert lanes is None or lanes.apart  # along the plate, not along lanes


@pytest.mark.parametrize("estimator", [E.LeaveOneOut(2), E.Enumerate(), E.DisARM()], ids=lambda e: type(e).__name__)
def test_mixing_of_lanes_behind_a_gate_is_found(estimator):
    def model():
        gate = vg.param("gate", 0.0)
        z = vg.sample("z", dist.Bernoulli(torch.tensor(0.4)))
        vg.sample("x", dist.Normal(z + gate * z.sum(), 1.0), obs=X[0])

    def guide():
        vg.sample("z", dist.Bernoulli(logits=vg.param("t", 0.7)), estimator=estimator)

    _, lanes = look(vg.ELBO()(model, guide))
    assert lanes is not None and lanes.kind == "mixes"
    assert lanes.operation == "aten.sum.default"


def test_batch_norm_is_apart_while_it_evaluates():
    norm = nn.BatchNorm1d(1)
    model = model_of(lambda z, gate: norm(z.reshape(-1, 1)).reshape(z.shape))
    bound = vg.ELBO()(model, bernoulli_guide(E.Score()))
    norm.eval()
    assert look(bound)[0]["z"]["n"].apart
    norm.train()  # writes its running averages, so that the value leaves torch, and crosses the plate by that alone
    assert bound.plan()["z"].cross_element == ("n",)
    norm.track_running_stats, norm.running_mean, norm.running_var = False, None, None
    assert look(bound)[0]["z"]["n"].operation == "aten.native_batch_norm.default"


def test_a_covariate_that_is_zero_hides_nothing():
    model = model_of(lambda z, gate, m: z + m * z.sum(-1, keepdim=True))
    bound = vg.ELBO()(model, bernoulli_guide(E.Score()))
    assert look(bound, torch.tensor(0.0))[0]["z"]["n"].kind == "mixes"


def test_a_density_that_mixes_is_found():
    class Coupled(dist.Normal):
        def log_prob(self, value):
            return super().log_prob(value) + 0 * value.sum(-1, keepdim=True)

    def model():
        with vg.plate("n", 3):
            z = vg.sample("z", dist.Normal(torch.zeros(3), 1.0))
            vg.sample("x", dist.Normal(z, 1.0), obs=X)

    def guide():
        with vg.plate("n", 3):
            vg.sample("z", Coupled(vg.param("m", torch.zeros(3)), 1.0), estimator=E.Score())

    assert look(vg.ELBO()(model, guide))[0]["z"]["n"].kind == "mixes"


def test_a_later_choice_hands_mixing_on():
    def model():
        with vg.plate("n", 3):
            a = vg.sample("a", dist.Bernoulli(torch.full((3,), 0.4)))
            b = vg.sample("b", dist.Bernoulli(0.2 + 0.6 * a))
            vg.sample("x", dist.Normal(b + 0.0 * b.mean(), 1.0), obs=X)

    def guide():
        with vg.plate("n", 3):
            a = vg.sample("a", dist.Bernoulli(torch.full((3,), 0.5)), estimator=E.Score())
            vg.sample("b", dist.Bernoulli(0.3 + 0.4 * a), estimator=E.Score())

    plates = look(vg.ELBO()(model, guide))[0]
    assert plates["a"]["n"].kind == plates["b"]["n"].kind == "mixes"


def test_a_value_that_python_asks_for_is_no_proof():
    def location(z, gate):
        return z + float(z.sum() > 5)

    def model():
        with vg.plate("n", 3):
            z = vg.sample("z", dist.Bernoulli(torch.full((3,), 0.4)))
            vg.factor("x", location(z, 0.0))

    with follow_dimensions() as follower:
        z = torch.zeros(3)
        follower.mark(z, N, -1)
        result = z + location(torch.zeros(3), 0.0)
        assert follower.verdict(result, N, -1).apart
        location(z, 0.0)
    verdict = follower.verdict(result, N, -1)
    assert verdict.kind == "unknown"
    assert "takes a value to Python" in verdict.sentence()


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("name", PROGRAMS)
def test_the_registry_says_the_same_by_numbers(name):
    case = PROGRAMS[name]
    for estimator in (E.Score(), E.LeaveOneOut(2)):
        bound = vg.ELBO(estimators={"z*": estimator}, particles=2, strict=False)(case.model, case.guide)
        try:
            bound.init(*case.args)
        except VarigradError:
            continue  # not every family is served
        plates, lanes = look(bound, *case.args)
        assert bound.discovered is not None and lanes is not None
        by_numbers = {(s, p) for s, found in bound.discovered.vectorization.mixed.items() for p in found}
        by_structure = {(s, p) for s, found in plates.items() for p, v in found.items() if not v.apart}
        assert by_structure == by_numbers
        assert lanes.apart == bound.side_by_side


def test_following_changes_no_number():
    bound = vg.ELBO(particles=2)(model_of(GATED["sum"]), bernoulli_guide(E.LeaveOneOut(2)))
    bound.init()
    settings = bound.runs.settings(bound.discovered.vectorization, track_all=True)
    values = []
    for following in (False, True):
        torch.manual_seed(0)
        if following:
            with follow_dimensions() as follower:
                settings = bound.runs.settings(bound.discovered.vectorization, track_all=True, follower=follower)
                run = perform(settings, bound.model_program, bound.guide_program, (), {}, {})
                values.append([t.log_prob for t in bound.runs.terms(run, bound.discovered.vectorization)])
        else:
            run = perform(settings, bound.model_program, bound.guide_program, (), {}, {})
            values.append([t.log_prob for t in bound.runs.terms(run, bound.discovered.vectorization)])
    assert all(torch.equal(a, b) for a, b in zip(*values, strict=True))


def test_the_worse_of_two_verdicts():
    apart, mixes, unknown = Verdict("apart"), Verdict("mixes", "a"), Verdict("unknown", "b")
    assert apart.join(unknown) is unknown
    assert mixes.join(unknown) is mixes
    assert unknown.join(apart).sentence() == "b may combine its elements"
    assert mixes.sentence() == "a combines or moves its elements"
    assert apart.sentence() == ""
