"""What was found out on the first run is looked at again: gradients stay exact when programs change in the middle.

Every case is held to the exact gradient, by enumeration of the draws and of the programs (`changing_programs.py`).
"""

import warnings

import pytest
import torch
from changing_programs import CASES, DATA, LOGITS, ON, Changing, coins, guide_of, guide_with
from registry import ESTIMATORS
from torch import nn

import varigrad as vg
from varigrad import distributions as dist
from varigrad.errors import SiteError
from varigrad.estimators import DisARM, Enumerate, LeaveOneOut, MovingAverage, Score
from varigrad.objectives.checks import rechecks
from varigrad.objectives.checks.rechecks import StaleCheckWarning
from varigrad.objectives.exploration import Exploration
from varigrad.testing import exact_gradient, expected_gradient, largest_difference

SERVING = ("score", "moving_average", "leave_one_out", "disarm", "muprop")


def bias(bound, *args):
    return largest_difference(expected_gradient(bound, *args).mean, exact_gradient(bound, *args)[1])


def stepped(svi, count, args):
    """So many steps, one by one."""
    for _ in range(count):
        svi.step(*args)


@pytest.mark.parametrize("estimator", SERVING)
@pytest.mark.parametrize("name", [n for n in CASES if n not in ("branch_on_a_number", "option_of_an_operation")])
def test_a_change_is_seen_at_once(name, estimator):
    if name == "through_another_site" and estimator in ("leave_one_out", "disarm"):
        estimator = "score"  # two sites in lanes have too many outcomes to enumerate
    case: Changing = CASES[name]()
    bound = vg.ELBO()(case.model, guide_of(name, ESTIMATORS[estimator].make()))
    bound(*case.before)
    bound(*case.before)
    case.change(bound)
    assert bias(bound, *case.after) < 1e-9


def test_a_program_may_assert_what_holds_only_in_its_own_shapes():
    """Side by side there are more dimensions: a loop is taken, as for any other error of shapes."""

    def model():
        z = vg.sample("z", dist.Bernoulli(torch.tensor(0.4, dtype=torch.float64)))
        assert z.shape == ()
        vg.sample("x", dist.Normal(2 * z, 1.0), obs=torch.tensor(0.7, dtype=torch.float64))

    def guide():
        logits = vg.param("t", torch.tensor(0.3, dtype=torch.float64))
        vg.sample("z", dist.Bernoulli(logits=logits), estimator=LeaveOneOut(2))

    bound = vg.ELBO()(model, guide)
    assert not bound.side_by_side
    assert bias(bound) < 1e-9


def test_a_program_may_assert_what_holds_only_at_the_present_parameters():
    """At other parameters nothing is said then, and the program goes on."""
    places = []

    def model():
        with vg.plate("n", 2):
            z = vg.sample("z", dist.Bernoulli(torch.tensor(0.4, dtype=torch.float64)))
            loc = torch.tensor([float(v) for v in z.flatten()], dtype=torch.float64).reshape(z.shape)
            vg.sample("x", dist.Normal(loc, 1.0), obs=torch.ones(2, dtype=torch.float64))

    def guide():
        logits = vg.param("t", torch.tensor([0.3, -0.2], dtype=torch.float64))
        places.append(logits.tolist())
        assert places[-1] == [0.3, -0.2]
        with vg.plate("n", 2):
            vg.sample("z", dist.Bernoulli(logits=logits), estimator=LeaveOneOut(2))

    bound = vg.ELBO()(model, guide)
    assert any(place != [0.3, -0.2] for place in places)
    assert bias(bound) < 1e-9


@pytest.mark.parametrize("name", ["gate", "eval_to_train", "branch_with_a_site"])
def test_a_change_is_seen_without_plates(name):
    """Lanes of alternatives, where `sum()` adds up what belongs to different lanes."""
    gate = torch.zeros((), dtype=torch.float64)
    norm = nn.BatchNorm1d(1, momentum=0.0).double().eval()
    state = {"on": False}

    def model():
        z = vg.sample("z", dist.Bernoulli(torch.tensor(0.4, dtype=torch.float64)))
        if name == "gate":
            mean = z + vg.param("gate", gate) * z.sum()
        elif name == "eval_to_train":
            mean = z + norm(torch.stack([z, 0 * z], -1).reshape(-1, 1)).sum()
        else:
            mean = z
        vg.sample("x", dist.Normal(mean, 1.0), obs=DATA[0])
        if state["on"]:
            vg.sample("y", dist.Normal(z.sum(), 1.0), obs=DATA[1])

    for estimator in (LeaveOneOut(2), DisARM(), Enumerate()):
        state["on"] = False
        norm.eval()

        def guide(estimator=estimator):
            vg.sample("z", dist.Bernoulli(logits=vg.param("t", LOGITS[0])), estimator=estimator)

        bound = vg.ELBO()(model, guide)
        bound()
        if name == "gate":
            with torch.no_grad():
                dict(bound.named_parameters())["gate"].fill_(0.5)
        norm.train()
        state["on"] = True
        bound()
        assert bias(bound) < 1e-9, estimator


@pytest.mark.parametrize("name", ["eval_to_train_without_averages", "other_number", "other_shape"])
def test_modes_and_arguments_tell_without_operations(name, monkeypatch):
    monkeypatch.setattr(rechecks, "OPERATIONS", 0)  # the number of operations tells, too, where it changes
    test_a_change_is_seen_at_once(name, "score")


def late(compile=False, estimator=None):
    """A run whose program begins to mix a plate where no look can see it, before step 10."""
    case = CASES["option_of_an_operation"]()
    guide = guide_with(estimator or Score(MovingAverage()))
    svi = vg.SVI(case.model, guide, vg.optim.Adam(lr=0.01), seed=0, compile=compile)
    stepped(svi, 3, ())
    case.change(svi.bound)
    return svi


TEXT = r"'z': what reads it mixes the elements of plate 'n' \(aten\.sum.*so steps 1 to 10 may have used gradients"


def test_what_could_not_be_seen_is_found_at_step_ten_with_one_warning():
    svi = late()
    stepped(svi, 10 - svi.bound.steps, ())
    assert svi.bound.discovered.vectorization.mixed == {}  # so there is something to find
    with pytest.warns(StaleCheckWarning, match=TEXT) as caught:
        svi.step()
    assert [w.filename for w in caught if issubclass(w.category, StaleCheckWarning)] == [__file__]
    assert bias(svi.bound) < 1e-9
    svi.run(120, progress=False)  # over the looks at step 100, silently


def test_a_block_of_steps_ends_where_a_look_is_due():
    svi = late()
    with pytest.warns(StaleCheckWarning, match=TEXT):
        svi.run(30, progress=False)
    assert bias(svi.bound) < 1e-9


def test_blocks_of_compiled_steps_end_where_looks_are_due(monkeypatch):
    looks, look = [], Exploration.look
    monkeypatch.setattr(
        Exploration, "look", lambda self, *args, **options: looks.append(self.steps) or look(self, *args, **options)
    )
    case = CASES["option_of_an_operation"]()  # and nothing changes
    svi = vg.SVI(case.model, guide_with(Score()), vg.optim.Adam(lr=0.01), seed=1, compile="wait")
    svi.run(150, progress=False)
    assert {10, 100} <= set(looks)


@pytest.mark.parametrize("compile", [False, "wait"])
def test_from_the_look_on_a_run_goes_on_as_one_that_has_always_known(compile):
    svi = late(compile)
    with pytest.warns(StaleCheckWarning):
        svi.run(8, progress=False)
    knows = CASES["option_of_an_operation"]()
    knows.change(svi.bound)
    other = vg.SVI(knows.model, guide_with(Score(MovingAverage())), vg.optim.Adam(lr=0.01), seed=1, compile=compile)
    other.init()
    assert other.bound.discovered.vectorization.mixed
    other.load_state(svi.state())
    assert torch.equal(svi.run(20, progress=False).losses, other.run(20, progress=False).losses)
    for one, two in zip(svi.bound.parameters(), other.bound.parameters(), strict=True):
        assert torch.allclose(one, two, atol=1e-12)


def test_a_loop_of_ones_own_counts_its_steps():
    case = CASES["option_of_an_operation"]()
    bound = vg.ELBO()(case.model, guide_with(Score()))
    bound()
    case.change(bound)
    for _ in range(9):
        bound()
    with pytest.warns(StaleCheckWarning, match="steps 1 to 10 may"):
        bound()
    assert bias(bound) < 1e-9


def test_a_compiled_loop_of_ones_own_counts_its_steps():
    case = CASES["option_of_an_operation"]()
    loss = vg.compiled(vg.ELBO()(case.model, guide_with(Score())), wait=True, seed=0)
    loss()
    case.change(loss.bound)
    for _ in range(9):
        loss()
    with pytest.warns(StaleCheckWarning, match="steps 1 to 10 may"):
        loss()
    assert bias(loss.bound) < 1e-9


def test_a_step_that_is_recorded_anew_is_looked_at():
    case = CASES["option_of_an_operation"]()
    svi = vg.SVI(case.model, guide_with(Score()), vg.optim.Adam(lr=0.01), seed=0, compile="wait")
    stepped(svi, 3, ())
    case.change(svi.bound)
    with pytest.warns(StaleCheckWarning, match="steps 1 to 3 may"):
        svi.step()
    assert bias(svi.bound) < 1e-9


@pytest.mark.parametrize("what", ["argument", "closure", "branch between tensors that require gradients"])
def test_a_run_of_other_operations_is_looked_at_before_its_step(what):
    """Neither statements nor shapes change, and no gradient flows in two of the three."""
    state = {"on": False}

    def model(gate):
        with vg.plate("n", 3):
            z = vg.sample("z", dist.Bernoulli(torch.full((3,), 0.4, dtype=torch.float64)))
            w = vg.param("w", torch.ones((), dtype=torch.float64)) if what.startswith("branch") else 1.0
            opened = gate > 0 if what == "argument" else state["on"]
            vg.sample("x", dist.Normal(z + (3 * w * z.flip(-1) if opened else 0 * w * z), 1.0), obs=DATA)

    bound = vg.ELBO()(model, guide_with(Score()))
    shut, opened = torch.tensor(0.0), torch.tensor(1.0)
    for _ in range(12):
        bound(shut)
    state["on"] = True
    bound(opened)
    assert bound.discovered.vectorization.mixed == {"z": frozenset({"n"})}
    assert bias(bound, opened) < 1e-9


def normed(z, running, **options):
    """`batch_norm` of the plate's elements, as one batch of one channel."""
    averages = (torch.zeros(1).double(), torch.ones(1).double()) if running else (None, None)
    return torch.nn.functional.batch_norm(z.reshape(-1, 1), *averages, **options).reshape(-1)


def instances(z, use_input_stats):
    averages = torch.zeros(1).double(), torch.ones(1).double()
    return torch.nn.functional.instance_norm(z.reshape(1, 1, -1), *averages, None, None, use_input_stats).reshape(-1)


def bags(z, offsets):
    table = torch.nn.functional.embedding_bag(torch.arange(3), z.reshape(3, 1), torch.tensor(offsets), mode="sum")
    return table.reshape(-1)


ARRANGEMENTS = {  # what keeps elements apart and what mixes them, by an argument alone
    "batch_norm training": lambda z, on: normed(z, True, training=on),
    "batch_norm averages": lambda z, on: normed(z, not on, training=on),
    "instance_norm use_input_stats": instances,
    "embedding_bag offsets": lambda z, on: bags(z, [0, 0, 2] if on else [0, 1, 2]),
    "as_strided": lambda z, on: z.clone().as_strided((3,), (0 if on else 1,)),
    "flip": lambda z, on: z.reshape(3, 1).flip(0 if on else 1).reshape(3),
    "cumsum by keyword": lambda z, on: z.reshape(3, 1).cumsum(dim=0 if on else 1).reshape(3),
    "softmax": lambda z, on: z.reshape(3, 1).softmax(0 if on else 1).reshape(3),
    "transpose": lambda z, on: (z.reshape(3, 1) * torch.ones(3).double()).transpose(0, int(on))[:, 0],
    "einsum": lambda z, on: torch.einsum("ij->ji" if on else "ij->ij", z.reshape(3, 1) * torch.ones(3).double())[:, 0],
}


@pytest.mark.parametrize("name", ARRANGEMENTS)
def test_an_argument_that_makes_an_operation_mix_is_looked_at_before_its_step(name):
    """The number of operations, all shapes and all statements stay what they were."""
    state = {"on": False}

    def model():
        with vg.plate("n", 3):
            z = vg.sample("z", dist.Bernoulli(torch.full((3,), 0.4, dtype=torch.float64)))
            vg.sample("x", dist.Normal(z + 3 * ARRANGEMENTS[name](z + 0.5, state["on"]), 1.0), obs=DATA)

    bound = vg.ELBO()(model, guide_with(Score()))
    for _ in range(2):
        bound()
    assert not bound.discovered.vectorization.mixed.get("z")
    state["on"] = True
    bound()
    assert bias(bound) < 1e-9


def test_random_control_flow_is_looked_at_a_few_times(monkeypatch):
    looks, count = [], [0]

    def model():
        z = vg.sample("z", dist.Normal(0.0, 1.0))
        count[0] += 1
        for _ in range(count[0] % 50):
            z = z * 1.0
        vg.factor("f", -z.square())

    bound = vg.ELBO()(model, lambda: vg.sample("z", dist.Normal(vg.param("m", torch.tensor(0.0)), 1.0)))
    look = Exploration.look
    monkeypatch.setattr(Exploration, "look", lambda *args, **kwargs: looks.append(1) or look(*args, **kwargs))
    for _ in range(99):
        bound()
    assert 0 < len(looks) <= rechecks.OPERATIONS + 1  # and one at step 10


def test_a_later_look_says_since_when():
    case = CASES["option_of_an_operation"]()
    bound = vg.ELBO()(case.model, guide_with(Score()))
    for _ in range(12):
        bound()
    case.change(bound)
    for _ in range(88):
        bound()
    with pytest.warns(StaleCheckWarning, match="steps 11 to 100 may"):
        bound()


def test_lanes_that_come_to_be_mixed_end_in_a_loop():
    state = {"shape": (-1, 1)}

    def model():
        z = vg.sample("z", dist.Bernoulli(torch.tensor(0.4, dtype=torch.float64)))
        mean = z.reshape(state["shape"]).sum(1, keepdim=True).expand(z.numel(), 1)
        vg.sample("x", dist.Normal(mean.reshape(z.shape), 1.0), obs=DATA[0])

    def guide():
        vg.sample("z", dist.Bernoulli(logits=vg.param("t", LOGITS[0])), estimator=LeaveOneOut(2))

    bound = vg.ELBO()(model, guide)
    for _ in range(5):
        bound()
    assert bound.side_by_side
    state["shape"] = (1, -1)  # the same operations, with arguments that are not looked at
    for _ in range(5):
        bound()
    with pytest.warns(StaleCheckWarning, match="cannot run side by side: the density of 'x' mixes particles or alter"):
        bound()
    assert not bound.side_by_side
    assert bias(bound) < 1e-9


def test_lanes_that_another_axis_mixes_end_in_a_loop_at_once():
    state = {"on": False}

    def model():
        z = vg.sample("z", dist.Bernoulli(torch.tensor(0.4, dtype=torch.float64)))
        mean = z.reshape(-1, 1).sum(0 if state["on"] else 1, keepdim=True).expand(z.numel(), 1).reshape(z.shape)
        vg.sample("x", dist.Normal(mean, 1.0), obs=DATA[0])

    def guide():
        vg.sample("z", dist.Bernoulli(logits=vg.param("t", LOGITS[0])), estimator=LeaveOneOut(2))

    bound = vg.ELBO()(model, guide)
    for _ in range(5):
        bound()
    assert bound.side_by_side
    state["on"] = True
    bound()
    assert not bound.side_by_side
    assert bias(bound) < 1e-9


def test_enumeration_of_a_plate_that_comes_to_be_mixed_is_refused():
    case = CASES["option_of_an_operation"]()
    bound = vg.ELBO()(case.model, guide_with(Enumerate()))
    for _ in range(10):
        bound()
    case.change(bound)
    with pytest.warns(StaleCheckWarning), pytest.raises(SiteError, match="Enumerate cannot serve this site"):
        bound()


def test_compat_keeps_its_bound_and_looks_again():
    import varigrad.compat.pyro as pyro
    import varigrad.compat.pyro.distributions as pdist
    from varigrad.compat.pyro.infer import SVI, Trace_ELBO

    pyro.clear_param_store()
    state = {"on": False}

    def model():
        with pyro.plate("n", 3):
            z = pyro.sample("z", pdist.Bernoulli(torch.full((3,), 0.4, dtype=torch.float64)))
            pyro.sample("x", pdist.Normal(z + z.sum(-1, keepdim=True) if state["on"] else z, 1.0), obs=DATA)

    def guide():
        with pyro.plate("n", 3):
            pyro.sample("z", pdist.Bernoulli(logits=pyro.param("t", LOGITS)))

    elbo = Trace_ELBO()
    svi = SVI(model, guide, pyro.optim.SGD({"lr": 0.0}), elbo)
    svi.step()
    state["on"] = True
    for _ in range(9):
        svi.step()
    with pytest.warns(StaleCheckWarning, match="steps 1 to 10 may"):
        svi.step()
    assert bias(elbo.bound(model, guide)) < 1e-9
    pyro.clear_param_store()


def test_modes_that_go_back_and_forth_are_looked_at_once_each(monkeypatch):
    case = CASES["eval_to_train"]()
    bound = vg.ELBO()(case.model, guide_with(Score())).init()
    looks = []
    plain = bound.exploration.look
    monkeypatch.setattr(bound.exploration, "look", lambda *args, **kwargs: looks.append(1) or plain(*args, **kwargs))
    net = next(m for m in bound.modules() if isinstance(m, nn.BatchNorm1d))
    bound()
    for training in (True, False, True, False):
        net.train(training)
        bound()
        assert bool(bound.discovered.vectorization.mixed) is training
    assert len(looks) == 1


def test_batches_of_ever_new_shapes_are_not_looked_at_for_ever(monkeypatch):
    model = coins(lambda z, w: z + 0 * w.sum())
    bound = vg.ELBO()(model, guide_with(Score()))
    bound(ON.expand(1))
    looks = []
    plain = bound.exploration.look
    monkeypatch.setattr(bound.exploration, "look", lambda *args, **kwargs: looks.append(1) or plain(*args, **kwargs))
    for size in range(2, 60):
        bound(ON.expand(size))
    assert 0 < len(looks) <= 9  # eight shapes and the looks at steps 10 and 100


def test_a_program_that_is_proven_is_looked_at_by_its_operations_alone():
    bound = vg.ELBO()(coins(lambda z: 2 * z.exp()), guide_with(Score())).init()
    assert bound.discovered.proven
    assert bound.exploration.look((), {}, bound.discovered).points == 0


def test_points_where_a_program_fails_say_nothing():
    weight = torch.zeros((), dtype=torch.float64)

    def mean(z):
        gate = vg.param("gate", weight)
        if float(gate.detach()) != 0.0:
            raise ValueError("not at this value")
        return z

    bound = vg.ELBO()(coins(mean), guide_with(Score())).init()
    assert bound.discovered.points == 0
    assert bias(bound) < 1e-9


def test_a_look_that_fails_leaves_the_error_to_the_step():
    def mean(z, w):
        if len(w) == 2:
            raise RuntimeError("no batch of two")
        return z * w

    bound = vg.ELBO()(coins(mean), guide_with(Score()))
    bound(ON.expand(1))
    with pytest.raises(RuntimeError, match="no batch of two"):
        bound(ON.expand(2))
    bound(ON.expand(1))
    assert bound.steps == 2


def test_a_copy_goes_on_looking():
    import copy

    svi = late()
    twin = copy.deepcopy(svi)
    for one in (svi, twin):
        stepped(one, 7, ())
        with pytest.warns(StaleCheckWarning):
            one.step()
    for one, two in zip(svi.bound.parameters(), twin.bound.parameters(), strict=True):
        assert torch.equal(one, two)


def test_a_plan_tells_of_a_change_and_leaves_the_run_as_it_is():
    svi = late()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert svi.plan()["z"].cross_element == ("n",)
    assert svi.bound.discovered.vectorization.mixed == {}


def numeric_only(monkeypatch):
    """No operation can be followed, so that numbers alone have to tell."""
    from varigrad.objectives import discovery
    from varigrad.objectives.checks.plate_independence_by_operations import UNSEEN, Structure

    monkeypatch.setattr(discovery, "structure_of_plates", lambda *args: Structure())
    monkeypatch.setattr(discovery, "structure_of_lanes", lambda *args: UNSEEN)


NUMERIC = ("gate", "layer_scale", "last_layer_of_zeros", "eval_to_train", "bland_minibatch", "branch_with_a_site",
           "frozen_gate", "buffer_that_is_overwritten", "through_another_site")  # fmt: skip


@pytest.mark.parametrize("name", NUMERIC)
def test_numbers_at_other_points_tell_without_operations(name, monkeypatch):
    numeric_only(monkeypatch)
    case = CASES[name]()
    bound = vg.ELBO()(case.model, guide_of(name, Score(MovingAverage())))
    bound(*case.before)
    case.change(bound)
    assert bias(bound, *case.after) < 1e-9


def test_numbers_at_other_points_tell_of_lanes(monkeypatch):
    numeric_only(monkeypatch)
    gate = torch.zeros((), dtype=torch.float64)

    def model():
        z = vg.sample("z", dist.Bernoulli(torch.tensor(0.4, dtype=torch.float64)))
        vg.sample("x", dist.Normal(z + vg.param("gate", gate) * z.sum(), 1.0), obs=DATA[0])

    def guide():
        vg.sample("z", dist.Bernoulli(logits=vg.param("t", LOGITS[0])), estimator=LeaveOneOut(2))

    bound = vg.ELBO()(model, guide)
    assert not bound.side_by_side
    assert bound.discovered.points >= 1 or bound.discovered.reason


def only_here(estimator, logits):
    """Three coins in a plate, by a guide that refuses all other parameters, so that no other point says anything."""

    def guide():
        given = vg.param("t", logits)
        assert given.tolist() == logits.tolist()
        with vg.plate("n", 3):
            vg.sample("z", dist.Bernoulli(logits=given), estimator=estimator)

    return guide


HEADS = torch.tensor([3.0, 3.0, 3.0], dtype=torch.float64)
MIXED_HERE = {
    "by_its_neighbours": (lambda z: z + z.flip(-1), LOGITS),
    "from_one_element_to_another": (lambda z: z + torch.eye(3, dtype=z.dtype)[0] * z.roll(-1, -1), LOGITS),
    "where_no_draw_is": (lambda z: z + 9 * (1 - z).prod(-1, keepdim=True), HEADS),
}


@pytest.mark.parametrize("name", MIXED_HERE)
def test_numbers_at_the_present_point_tell_without_operations(name, monkeypatch):
    """The product tells nothing where all three coins show heads, whichever one is changed."""
    numeric_only(monkeypatch)
    mean, logits = MIXED_HERE[name]
    torch.manual_seed(0)
    bound = vg.ELBO()(coins(mean), only_here(Score(), logits)).init()
    assert bound.discovered.points == 0
    assert bound.discovered.vectorization.mixed == {"z": {"n"}}
    assert bias(bound) < 1e-9


def test_sites_that_cancel_in_each_other_are_changed_one_at_a_time(monkeypatch):
    """Changed together, `a` and `b` differ as they did before, at all points."""
    numeric_only(monkeypatch)
    half = torch.full((3,), 0.5, dtype=torch.float64)

    def guide():
        with vg.plate("n", 3):
            vg.sample("a", dist.Bernoulli(logits=vg.param("s", LOGITS)), estimator=Score())
            vg.sample("b", dist.Bernoulli(logits=vg.param("t", -LOGITS)), estimator=Score())

    def model():
        with vg.plate("n", 3):
            a, b = vg.sample("a", dist.Bernoulli(half)), vg.sample("b", dist.Bernoulli(half))
            vg.sample("x", dist.Normal((a != b).flip(-1).double(), 1.0), obs=DATA)

    bound = vg.ELBO()(model, guide)
    assert bound.discovered.vectorization.mixed == {"a": {"n"}, "b": {"n"}}
    assert bias(bound) < 1e-9


def test_lanes_are_compared_at_other_draws_without_operations(monkeypatch):
    """Where all lanes show heads, the largest of them is the one that a lane has by itself."""
    numeric_only(monkeypatch)
    torch.manual_seed(0)

    def model():
        with vg.plate("n", 3):
            z = vg.sample("z", dist.Bernoulli(torch.full((3,), 0.4, dtype=torch.float64)))
            vg.sample("x", dist.Normal(z + z.reshape(-1, 3).amax(0), 1.0), obs=DATA)

    bound = vg.ELBO()(model, only_here(LeaveOneOut(2), HEADS))
    assert bound.discovered.points == 0
    assert not bound.side_by_side
    assert bias(bound) < 1e-9


def test_what_is_read_outside_of_a_plate_depends_on_all_elements_without_operations(monkeypatch):
    """No number shows it either: the choice that reads the plate is held while the elements are changed."""
    numeric_only(monkeypatch)

    def guide():
        with vg.plate("n", 3):
            z = vg.sample("z", dist.Bernoulli(logits=vg.param("t", LOGITS)), estimator=Score())
        vg.sample("g", dist.Bernoulli(logits=vg.param("u", ON) - z.sum()), estimator=Score())

    def model():
        n = vg.plate("n", 3)
        with n:
            vg.sample("z", dist.Bernoulli(torch.full((3,), 0.4, dtype=torch.float64)))
        g = vg.sample("g", dist.Bernoulli(0.3 * ON))
        with n:
            vg.sample("x", dist.Normal(2 * g, 1.0), obs=DATA)

    bound = vg.ELBO()(model, guide)
    assert bound.discovered.vectorization.mixed == {}
    assert bound.plan()["z"].cross_element == ("n",)
    assert bias(bound) < 1e-9


def test_numbers_are_looked_at_again_where_nothing_is_proven(monkeypatch):
    numeric_only(monkeypatch)
    svi = late()
    stepped(svi, 7, ())
    with pytest.warns(StaleCheckWarning, match="'z': what reads it mixes the elements of plate 'n'. That did not show"):
        svi.step()
    assert bias(svi.bound) < 1e-9


def test_points_are_left_again(monkeypatch):
    numeric_only(monkeypatch)
    seen = []

    def mean(z):
        seen.append(float(vg.param("gate", torch.zeros((), dtype=torch.float64)).detach()))
        return z + seen[-1] * z.flip(-1)

    bound = vg.ELBO()(coins(mean), guide_with(Score())).init()
    assert 0 < bound.discovered.points <= 3
    assert len(set(seen)) == 1 + bound.discovered.points  # zero, and other points
    assert seen[0] == seen[-1] == 0.0  # the plan is made at the present one
    assert float(dict(bound.named_parameters())["gate"].detach()) == 0.0


def test_a_look_at_a_step_that_is_due_neither_warns_nor_cures():
    svi = late()
    stepped(svi, 7, ())
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        svi.bound.gradients(1)
        svi.evaluate()
    assert svi.bound.discovered.vectorization.mixed == {}
    with pytest.warns(StaleCheckWarning, match=TEXT):
        svi.step()


def test_evaluations_in_a_row_need_one_look(monkeypatch):
    looks, look = [], Exploration.look
    monkeypatch.setattr(Exploration, "look", lambda *args, **kwargs: looks.append(1) or look(*args, **kwargs))
    one, other = torch.tensor([0.3]), torch.tensor([0.3, -0.4])

    def model(data):
        z = vg.sample("z", dist.Bernoulli(0.4))
        with vg.plate("n", len(data)):
            vg.sample("x", dist.Normal(z, 1.0), obs=data)

    def guide(data):
        vg.sample("z", dist.Bernoulli(logits=vg.param("t", torch.tensor(0.3))))

    svi = vg.SVI(model, guide, vg.optim.Adam(lr=0.01), seed=0)

    def looks_of(action, *args, **kwargs):
        looks.clear()
        action(*args, **kwargs)
        return len(looks)

    assert looks_of(svi.step, one) == 0  # but for the first, which is none of these
    assert [looks_of(svi.evaluate, one) for _ in range(3)] == [1, 0, 0]
    assert [looks_of(svi.evaluate, other, particles=3) for _ in range(2)] == [1, 0]
    assert [looks_of(svi.step, one) for _ in range(2)] == [0, 0]
    assert looks_of(svi.evaluate, one) == 0
    assert [looks_of(svi.step, other) for _ in range(2)] == [1, 0]  # the run has learnt something
    assert [looks_of(svi.evaluate, one) for _ in range(2)] == [1, 0]
    assert looks_of(svi.step, one) == 0
    svi.init(one)
    assert [looks_of(svi.evaluate, one) for _ in range(2)] == [1, 0]
    assert looks_of(svi.step, other) == 1  # nothing is known from before


def test_what_runs_beside_the_steps_have_found_is_known_in_the_next():
    svi = late()
    stepped(svi, 10 - svi.bound.steps, ())
    for _ in range(3):
        with svi.bound.preserved(1):
            assert bias(svi.bound) < 1e-9
        assert svi.bound.discovered.vectorization.mixed == {}
    with pytest.warns(StaleCheckWarning, match=TEXT):
        svi.step()
