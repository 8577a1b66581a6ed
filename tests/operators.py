"""Writes the list of all that torch can do with a tensor, and what the tracker makes of it: `torch_operators.txt`.

    python tests/operators.py            writes the list for the torch that is installed
    python tests/operators.py --check    shows what differs from the list (or from another one, if it is named)

`torch_operators.txt` is for the release in its first line. What another release has besides, or otherwise, is in
`operators_of_torch/RELEASE.txt`, in the form in which `--check` shows it.

Parts of torch register operators of their own when they are imported. So the list is of a process of its own, which
imports nothing but what this file does.

Each operator of torch's own (every overload of the namespaces aten and prims; others are taken for code that is not
torch's, whatever they are) and each public function or method is one of

* carries: its results are marked, and that is all that it does;
* escapes: whatever goes in is taken to have left torch, for the reason that follows;
* by its parts: written in Python without a hook of its own, so that the functions it calls are seen instead;
* takes no tensors: it has no argument that could be a tracked one;
* not seen: a tensor may go in unnoticed. `docs/architecture.md` names these.
"""

import functools
import importlib
import inspect
import sys
import types
import warnings
from pathlib import Path

import torch
from torch import Tensor

from varigrad.terms.operator_allowlist import TELLING, WITH_RUNNING_AVERAGES
from varigrad.terms.side_effects import effect_of, writes

LIST = Path(__file__).with_name("torch_operators.txt")
OTHER_RELEASES = LIST.parent / "operators_of_torch"
RELEASE = torch.__version__.split("+")[0]
MODULES = """torch torch.nn.functional torch.linalg torch.fft torch.special torch.func torch.autograd
torch.autograd.functional torch.autograd.forward_ad torch.autograd.graph torch.utils torch.utils.checkpoint
torch.utils.dlpack torch.nn.utils torch.nn.utils.rnn torch.nn.utils.parametrize torch.nn.utils.parametrizations
torch.nn.utils.stateless torch.nn.init torch.sparse torch.nested torch.masked torch.overrides""".split()  # noqa: SIM905

# Functions in C that have neither a schema nor a hook.
NOT_SEEN = {"torch.utils.dlpack.to_dlpack", "torch.to_dlpack"}
BY_PARTS = {
    "torch.tensor": "a copy, by detach",
    "torch.as_tensor": "the tensor itself",
    "torch.asarray": "the tensor itself or a copy",
    "torch.from_dlpack": "reads by __dlpack__, which is seen",
    "torch.sparse_coo_tensor": "results are refused by layout",
    "torch.sparse_compressed_tensor": "results are refused by layout",
    "torch.sparse_csr_tensor": "results are refused by layout",
    "torch.sparse_csc_tensor": "results are refused by layout",
    "torch.sparse_bsr_tensor": "results are refused by layout",
    "torch.sparse_bsc_tensor": "results are refused by layout",
    "torch.Tensor.new": "an alias",
    "torch.Tensor.new_tensor": "a copy, by detach",
    "torch.Tensor.as_subclass": "overridden by the tracker",
    "torch.Tensor._make_subclass": "torch refuses: the memory belongs to an object already",
    "torch.Tensor._make_wrapper_subclass": "the class is refused where a site is met",
    "torch.Tensor._dtensor__new__": "the class is refused where a site is met",
    "torch.Tensor.__new__": "an alias",
    "torch.Tensor._view_func": "replays a view of another tensor",
    "torch.Tensor._view_func_unsafe": "replays a view of another tensor",
    "torch.Tensor._rev_view_func_unsafe": "replays a view of another tensor",
    "torch.Tensor._use_count": "says nothing of values",
    "torch.Tensor._fix_weakref": "says nothing of values",
    "torch.Tensor.__delitem__": "torch refuses it",
    "torch.Tensor.__torch_dispatch__": "the tracker's own",
    "torch.Tensor.__init_subclass__": "of the class",
    "torch.Tensor.__subclasshook__": "of the class",
    "torch.fork": "the function's operators are seen",
    "torch.wait": "the function's operators are seen",
}


def of_schema(schema):
    """The line for one registered overload."""
    kinds = [str(a.type) for a in schema.arguments]
    if not any("Tensor" in k or k in ("t", "Any", "Optional[t]") or "[t]" in k for k in kinds):
        return "takes no tensors"
    space, name = schema.name.split("::")
    if any(writes(a) for a in schema.arguments):
        return "escapes: writes into its arguments"
    if space not in ("aten", "prims"):
        return "escapes: calls code that is not torch's"
    if name in TELLING:
        return f"escapes: {TELLING[name]}"
    if not any("Tensor" in str(r.type) for r in schema.returns):
        return "escapes: answers with what is no tensor"
    if any("Tensor" not in str(r.type) for r in schema.returns):
        return "escapes: answers with numbers beside tensors"
    if name in WITH_RUNNING_AVERAGES:
        return "carries; escapes where it is given running averages in training"
    return "carries"


def of_function(name, function):
    """The line for a public function or method."""
    if name in NOT_SEEN:
        return "not seen"
    if name in BY_PARTS:
        return f"by its parts: {BY_PARTS[name]}"
    effect = effect_of(function)
    if hasattr(function, "cache_info") or name.rsplit(".", 1)[-1].startswith("has_torch_function"):
        return "takes no tensors"
    if isinstance(function, types.FunctionType):
        inner = inspect.unwrap(function)
        inner = inner if isinstance(inner, types.FunctionType) else function
        names = set(inner.__code__.co_names) | set(function.__code__.co_names)
        if not names & {"handle_torch_function", "has_torch_function"} and effect.leaves and not effect.silent:
            takes = inner.__code__.co_argcount + inner.__code__.co_kwonlyargcount + (inner.__code__.co_flags & 12)
            return "by its parts" if takes else "takes no tensors"
    if effect.silent:
        return "carries: answers that are no tensors say nothing of values"
    if effect.leaves == "has no schema" and function not in overridable():
        return "takes no tensors"
    if effect.leaves:
        return f"escapes: {effect.leaves}"
    if effect.changes is not None:
        return "carries; escapes with arguments that make it write or choose by a mask"
    return "carries"


@functools.cache
def overridable():
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return {f for functions in torch.overrides.get_overridable_functions().values() for f in functions}


def functions():
    """All public functions of the modules, and the methods and attributes of a tensor, by name."""
    found = {}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for path in MODULES:
            module = importlib.import_module(path)
            for name in dir(module):
                value = getattr(module, name)
                if name.startswith("_") and not name.startswith("_foreach_"):
                    continue
                if isinstance(value, type) or not callable(value) or inspect.ismodule(value):
                    continue
                if str(getattr(value, "__module__", "torch")).split(".")[0] in ("torch", "None"):
                    found[f"{path}.{name}"] = value
        for name in dir(Tensor):
            value = inspect.getattr_static(Tensor, name)
            if isinstance(value, (types.GetSetDescriptorType, property)):
                found[f"torch.Tensor.{name} (read)"] = value.__get__
            elif callable(value) and getattr(object, name, None) is not getattr(Tensor, name):
                found[f"torch.Tensor.{name}"] = getattr(Tensor, name)
    return found


def lines():
    """The list, sorted."""
    own = [s for s in torch._C._jit_get_all_schemas() if s.name.split("::")[0] in ("aten", "prims")]
    found = {f"{s.name}.{s.overload_name}".rstrip("."): of_schema(s) for s in own}
    found |= {name: of_function(name, function) for name, function in functions().items()}
    return [f"{name}  {what}" for name, what in sorted(found.items())]


def of_list(path=LIST):
    """What a list says, by name."""
    return dict(line.split("  ", 1) for line in Path(path).read_text().splitlines()[1:])


def listed(path=LIST):
    """What a list says of the torch that is installed, by name."""
    found, other = of_list(path), OTHER_RELEASES / f"{RELEASE}.txt"
    for line in other.read_text().splitlines() if other.exists() else ():
        kind, rest = line.split(": ", 1)
        name, _, what = rest.partition("  ")
        if kind == "gone":
            found.pop(name, None)
        else:
            found[name] = what.split(" -> ")[-1]
    return found


def differences(before):
    """What is new, gone or different: of a list's content, and of the torch that is installed."""
    now = dict(line.split("  ", 1) for line in lines())
    return [
        *(f"new: {name}  {now[name]}" for name in now if name not in before),
        *(f"gone: {name}" for name in before if name not in now),
        *(
            f"changed: {name}  {before[name]} -> {now[name]}"
            for name in now
            if before.get(name, now[name]) != now[name]
        ),
    ]


if __name__ == "__main__":
    if "--check" in sys.argv:
        print("\n".join(differences(listed(*sys.argv[2:]))) or "the list is complete")
    elif LIST.read_text().startswith(f"torch {RELEASE}\n"):
        LIST.write_text("\n".join([f"torch {RELEASE}", *lines()]) + "\n")
    else:
        (OTHER_RELEASES / f"{RELEASE}.txt").write_text("".join(f"{line}\n" for line in differences(of_list())))
