"""What is shut at first and opened in the middle of a run: parameters, modes, buffers, arguments, shapes, branches."""

import torch
from torch import nn

import varigrad as vg

DATA = torch.tensor([[0.8, -1.2, 0.3], [-0.4, 1.1, 0.6]], dtype=torch.float64)
MATRIX = torch.tensor([[0.2, -1.0, 0.4], [0.9, 0.1, -0.3], [-0.5, 0.7, 0.6]], dtype=torch.float64)


class Gate:
    """Adds `operation(v)` to a program, or something else, or nothing, while it is shut.

    Attributes:
        told: the library is told of the opening, or sees an operation that it knows although its factor is zero: the
            very next gradient has to be right. Otherwise it may be wrong until the next look.
        announced: it is told of the opening itself, so that this is so of any operation.
        movable: at parameters and arguments near the first ones the gate is open, so that this is so of any operation.
    """

    told = True
    announced = False
    movable = False

    def args(self):
        """The programs' arguments, as they are now."""
        return ()

    def __call__(self, operation, v, *args):
        """What is added, of the shape of `v` or `operation(v)`."""
        raise NotImplementedError

    def shut(self, bound):
        """Before the first step."""

    def open(self, bound):
        """In the middle of the run."""
        raise NotImplementedError

    def size(self, size, *args):
        """Of the plate `n`."""
        return size


class AtZero(Gate):
    """A parameter that starts at zero."""

    movable = True

    def __call__(self, operation, v, *args):
        return vg.param("gate", lambda: torch.zeros((), dtype=torch.float64)) * operation(v)

    def open(self, bound):
        with torch.no_grad():
            dict(bound.named_parameters())["gate"].fill_(0.5)


class BySetting(AtZero):
    """The same, opened by other memory."""

    def open(self, bound):
        dict(bound.named_parameters())["gate"].data = torch.tensor(0.5, dtype=torch.float64)


class ByTraining(AtZero):
    """The same, opened by steps of an optimiser."""

    def open(self, bound):
        gate = dict(bound.named_parameters())["gate"]
        optimiser = torch.optim.SGD([gate], lr=0.5)
        for _ in range(3):
            optimiser.zero_grad()
            bound(*self.args()).backward()
            optimiser.step()


class Scaled(Gate):
    """LayerScale: a module's factor that starts at zero."""

    movable = True

    def __init__(self):
        self.module = nn.Module()
        self.module.register_parameter("scale", nn.Parameter(torch.zeros(1, dtype=torch.float64)))

    def __call__(self, operation, v, *args):
        return vg.module("layer", self.module).scale * operation(v)

    def open(self, bound):
        with torch.no_grad():
            self.module.scale.fill_(0.5)


class LastLayer(Gate):
    """A network along the plate, whose last layer starts at zero."""

    movable = True

    def __init__(self):
        generator = torch.Generator().manual_seed(3)
        self.net = nn.Sequential(nn.Linear(3, 4), nn.Tanh(), nn.Linear(4, 3)).double()
        with torch.no_grad():
            for p in self.net.parameters():
                p.copy_(torch.randn(p.shape, generator=generator, dtype=p.dtype))
            for p in self.net[2].parameters():
                p.zero_()

    def __call__(self, operation, v, *args):
        return vg.module("net", self.net)(operation(v))

    def open(self, bound):
        with torch.no_grad():
            self.net[2].weight.copy_(MATRIX.repeat(1, 2)[:, :4])


class Mode(Gate):
    """A module that does more in training; or the other way round."""

    announced = True

    def __init__(self, training=True):
        self.module, self.training = _Moody(training), training
        self.module.train(not training)

    def __call__(self, operation, v, *args):
        return vg.module("moody", self.module)(operation, v)

    def open(self, bound):
        self.module.train(self.training)


class ModeOfBound(Mode):
    """The same, opened for the whole objective at once."""

    def open(self, bound):
        bound.train(self.training)


class _Moody(nn.Module):
    def __init__(self, mixes):
        super().__init__()
        self.mixes = mixes

    def forward(self, operation, v):
        return 0.7 * operation(v) if self.training == self.mixes else 0.7 * v


class BatchNorm(Gate):
    """Batch normalisation over the plate, in `eval()` at first. Its averages stand still."""

    announced = True

    def __init__(self):
        self.norm = nn.BatchNorm1d(1, momentum=0.0).double().eval()

    def __call__(self, operation, v, *args):
        v = operation(v).expand(v.shape)
        return 1.5 * vg.module("norm", self.norm)(v.reshape(-1, 1)).reshape(v.shape)

    def open(self, bound):
        self.norm.train()


class Buffer(Gate):
    """A module's buffer that starts at zero."""

    announced = True

    def __init__(self):
        self.module = nn.Module()
        self.module.register_buffer("gate", torch.zeros((), dtype=torch.float64))

    def __call__(self, operation, v, *args):
        return vg.module("buffered", self.module).gate * operation(v)

    def open(self, bound):
        self.module.gate.fill_(0.5)


class Argument(Gate):
    """A minibatch's covariate that is zero at first."""

    movable = True

    def __init__(self):
        self.covariate = torch.zeros((), dtype=torch.float64)

    def args(self):
        return (self.covariate,)

    def __call__(self, operation, v, covariate):
        return covariate * operation(v)

    def open(self, bound):
        self.covariate = torch.tensor(0.5, dtype=torch.float64)


class Flag(Gate):
    """An argument that is not a tensor decides on a branch."""

    announced = True

    def __init__(self):
        self.flag = False

    def args(self):
        return (self.flag,)

    def __call__(self, operation, v, flag):
        return 0.5 * operation(v) if flag else 0.5 * v

    def open(self, bound):
        self.flag = True


class Closure(Gate):
    """A variable that the program reads decides on a branch."""

    told = False

    def __init__(self):
        self.flag = False

    def __call__(self, operation, v):
        return 0.5 * operation(v) if self.flag else 0.5 * v

    def open(self, bound):
        self.flag = True


class Threshold(AtZero):
    """A parameter's value decides on a branch."""

    told = False

    def __call__(self, operation, v):
        gate = vg.param("gate", lambda: torch.zeros((), dtype=torch.float64))
        return gate * (operation(v) if gate.detach() > 0.2 else v)


class Shape(Gate):
    """The plate has one element at first, and nothing to mix."""

    announced = True

    def __init__(self):
        self.data = DATA[:, :1]

    def args(self):
        return (self.data,)

    def size(self, size, data):
        return min(size, data.shape[-1])

    def __call__(self, operation, v, data):
        return 0.5 * operation(v)

    def open(self, bound):
        self.data = DATA


class Rectified(AtZero):
    """A parameter far on the flat side of a rectifier."""

    movable = False

    def __call__(self, operation, v):
        return vg.param("gate", lambda: torch.tensor(-6.0, dtype=torch.float64)).relu() * operation(v)


class Hidden(Gate):
    """A tensor that is neither argument, parameter nor buffer."""

    def __init__(self):
        self.factor = torch.zeros((), dtype=torch.float64)

    def __call__(self, operation, v):
        return self.factor * operation(v)

    def open(self, bound):
        self.factor = torch.tensor(0.5, dtype=torch.float64)


class Attribute(Gate):
    """A module's attribute that is a number of Python."""

    def __init__(self):
        self.module = nn.Identity()
        self.module.factor = 0.0

    def __call__(self, operation, v):
        return vg.module("attributed", self.module).factor * operation(v)

    def open(self, bound):
        self.module.factor = 0.5


class Where(Hidden):
    """A mask that lets nothing through at first."""

    def __call__(self, operation, v):
        return 0.5 * torch.where(self.factor > 0, operation(v), v)


class Chosen(Gate):
    """One of two results that are both computed, picked by a number of Python."""

    told = False

    def __init__(self):
        self.which = 0

    def __call__(self, operation, v):
        return 0.5 * torch.stack(torch.broadcast_tensors(v, operation(v)))[self.which]

    def open(self, bound):
        self.which = 1


class Swapped(Gate):
    """A module whose part is replaced by another."""

    told = False

    def __init__(self):
        self.module = nn.Sequential(nn.Identity())

    def __call__(self, operation, v):
        net = vg.module("swapped", self.module)[0]
        return 0.5 * (v if isinstance(net, nn.Identity) else operation(v))

    def open(self, bound):
        self.module[0] = nn.Tanh()


class Open(Gate):
    """Open all the time."""

    announced = True

    def __call__(self, operation, v):
        return vg.param("factor", lambda: torch.tensor(0.5, dtype=torch.float64)) * operation(v)

    def open(self, bound):
        pass


class Frozen(Open):
    """Open all the time; a parameter does not require gradients at first."""

    def shut(self, bound):
        bound.init()
        bound.get_parameter("t0").requires_grad_(False)

    def open(self, bound):
        bound.get_parameter("t0").requires_grad_(True)


class Evaluated(Open):
    """Open all the time; the first run is not differentiated."""

    def shut(self, bound):
        bound.evaluate(particles=2)


GATES = {
    "open": Open,
    "at zero": AtZero,
    "set": BySetting,
    "trained": ByTraining,
    "scaled": Scaled,
    "last layer": LastLayer,
    "train": Mode,
    "eval": lambda: Mode(training=False),
    "train all": ModeOfBound,
    "batch norm": BatchNorm,
    "buffer": Buffer,
    "argument": Argument,
    "flag": Flag,
    "closure": Closure,
    "threshold": Threshold,
    "shape": Shape,
    "rectified": Rectified,
    "hidden": Hidden,
    "attribute": Attribute,
    "where": Where,
    "chosen": Chosen,
    "swapped": Swapped,
    "frozen": Frozen,
    "evaluated": Evaluated,
}
