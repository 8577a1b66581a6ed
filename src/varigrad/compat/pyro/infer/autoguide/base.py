"""`AutoGuide`, the interface of Pyro's automatic guides: a native guide whose parameters are in the parameter store."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import Any

from torch import Tensor
from torch.distributions import constraints

from varigrad import guides as native
from varigrad.compat.pyro import poutine
from varigrad.compat.pyro.infer.autoguide.initialization import InitFunction, InitMessenger
from varigrad.compat.pyro.infer.autoguide.utils import deep_getattr, deep_setattr
from varigrad.compat.pyro.nn.module import PyroModule, PyroParam
from varigrad.errors import VarigradError
from varigrad.language.messages import Plate, Program
from varigrad.language.runtime import lasting
from varigrad.language.trace import Trace


class AutoGuide(PyroModule):
    """A guide built from a model: call it with the model's arguments; it returns the values of its sites by name.

    Its parameters are called after it: `AutoNormal.locs.z`.

    Args:
        model: the model.
        create_plates: function of the model's arguments that returns the plates to use, for a model that chooses its
            minibatches itself.
    """

    def __init__(self, model: Program, *, create_plates: Program | None = None) -> None:
        super().__init__()
        self._belong(model, create_plates)

    def _belong(self, model: Program, create_plates: Program | None) -> None:
        # In a tuple: the model's parameters are not the guide's.
        self.__dict__.update(_pyro_name=type(self).__name__, _model=(model,), create_plates=create_plates)

    create_plates: Program | None

    @property
    def model(self) -> Program:
        """The model it was built from."""
        model: Program = self.__dict__["_model"][0]
        return model

    def median(self, *args: object, **kwargs: object) -> dict[str, Tensor]:
        """The median of every site, by name."""
        raise NotImplementedError(f"{type(self).__name__} has no median")


class ModelGuide(AutoGuide):
    """Interface of automatic guides that wrap a native guide.

    Args:
        model, create_plates: see `AutoGuide`.
        init_loc_fn: where to start, one of `pyro.infer.autoguide.initialization` or a function of a site.
    """

    def __init__(self, model: Program, init_loc_fn: InitFunction, create_plates: Program | None = None) -> None:
        if not callable(init_loc_fn):
            raise VarigradError(f"init_loc_fn must be a function of a site, got {init_loc_fn!r}")
        super().__init__(model, create_plates=create_plates)
        self.init_loc_fn = init_loc_fn
        self.__dict__["_tracer"] = poutine.trace(InitMessenger(init_loc_fn)(model))
        self.__dict__["_native"] = self._build(self.__dict__["_tracer"])  # no submodule: its parameters are ours

    def _build(self, model: Program) -> native.AutoGuide:
        raise NotImplementedError

    @property
    def prototype_trace(self) -> poutine.Trace:
        """The run of the model from which the guide was built."""
        return poutine.util.prune_subsample_sites(self.__dict__["_tracer"].trace)

    def forward(self, *args: object, **kwargs: object) -> dict[str, Tensor]:
        """Sample every site; returns the values by name."""
        self._ready(args, kwargs)
        values: dict[str, Tensor] = self._native(*args, **kwargs)
        return values

    def call(self, *args: object, **kwargs: object) -> tuple[Tensor, ...]:
        """The values alone, in program order."""
        return tuple(self(*args, **kwargs).values())

    def sample_latent(self, *args: object, **kwargs: object) -> Tensor | dict[str, Tensor]:
        """Sample every site; returns the values by name."""
        values: dict[str, Tensor] = self(*args, **kwargs)
        return values

    def median(self, *args: object, **kwargs: object) -> dict[str, Tensor]:
        """The median of every site, by name; arguments are those of the model, if the guide was not called before."""
        self._ready(args, kwargs)
        found: dict[str, Tensor] = self._native.median()
        return found

    def quantiles(self, quantiles: Sequence[float] | Tensor, *args: object, **kwargs: object) -> dict[str, Tensor]:
        """Quantiles of every site, `[quantiles, *site]`: see the native `AutoGuide.quantiles`."""
        self._ready(args, kwargs)
        found: dict[str, Tensor] = self._native.quantiles(quantiles)
        return found

    def _ready(self, args: tuple[object, ...], kwargs: dict[str, object]) -> None:
        if not self._native._ready:
            with lasting():
                self._setup_prototype(*args, **kwargs)

    def _setup_prototype(self, *args: object, **kwargs: object) -> None:
        self._native.setup(*args, **kwargs)

    def _keep(self, name: str, value: Tensor, constraint: constraints.Constraint = constraints.real) -> None:
        """Make a parameter under a dotted name below the guide's own."""
        deep_setattr(self, name, PyroParam(value.detach().clone().contiguous(), constraint))

    def _read(self, name: str) -> Tensor:
        value = deep_getattr(self, name)
        assert isinstance(value, Tensor)
        return value


class Inside(native.AutoGuide):
    """Mixin for native guides whose parameters belong to one of Pyro's guides, the `keeper`."""

    draws_for_init = 1
    keeper: ModelGuide

    def __init__(self, keeper: ModelGuide, model: Program, **options: Any) -> None:
        self.__dict__["keeper"] = keeper
        super().__init__(_Waiting(model), init=native.init_to_sample, plates=keeper.create_plates, **options)

    @property
    def kind(self) -> str:
        return type(self.keeper).__name__

    def randomness(self) -> AbstractContextManager[None]:
        return nullcontext()

    def knows_minibatch(self, plate: Plate, trace: Trace) -> bool:
        return True  # the engine compares minibatches, so another one in the model cannot go by unseen


class _Waiting:
    """A model that is not run before the guide's first call, even if it needs no arguments."""

    def __init__(self, program: Program) -> None:
        self._program = program

    def __call__(self, *args: object, **kwargs: object) -> object:
        return self._program(*args, **kwargs)
