"""Private names of torch stand in `_torch_internals.py` only, so that an upgrade of torch is looked at in one place."""

import ast
import re
from pathlib import Path

import pytest
import torch
from torch import distributions as td

import varigrad._torch_internals as internals

SOURCE = Path(internals.__file__).parent
FILES = sorted(path for path in SOURCE.rglob("*.py") if path.name != "_torch_internals.py")
OWN = frozenset({"self", "cls", "twin", "super()"})
"""An object of the class in which the code stands: it may use what that class inherits (`test_torch_internals.py`)."""
OTHERS = {
    ("sys", "_getframe"),
    ("source", "_call"),
    ("Cached", "_inverse"),
    ("self.lower_spline", "_inverse"),
}
"""Private names of Python, and methods of our own classes that transforms of torch have as well."""
STORES = {"_parameters", "_buffers", "_modules"}
CLASSES = (
    torch.Tensor,
    torch.UntypedStorage,
    torch.nn.Module,
    torch.optim.Optimizer,
    torch.autograd.graph.Node,
    internals.OpOverload,
    internals.OpOverloadPacket,
    internals.TorchDispatchMode,
    td.Transform,
    *(found for name in td.__all__ if isinstance(found := getattr(td, name), type)),
)
ON_INSTANCES = {"_schema", "_opname", "_qualified_op_name", "_dirichlet", "_unbroadcasted_scale_tril"}


def is_private(name):
    return name.startswith("_") and not name.startswith("__")


TORCH_NAMES = STORES | ON_INSTANCES | {name for kind in CLASSES for name in dir(kind) if is_private(name)}
TREES = {path: ast.parse(path.read_text()) for path in FILES}


def defined_in(tree):
    """The names that a module gives to something: functions, classes, variables, attributes, keywords."""
    for node in ast.walk(tree):
        if isinstance(node, (ast.FunctionDef, ast.ClassDef)):
            yield node.name
        elif isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store):
            yield node.id
        elif isinstance(node, ast.Attribute) and isinstance(node.ctx, ast.Store):
            yield node.attr
        elif isinstance(node, ast.keyword) and node.arg:
            yield node.arg
        elif isinstance(node, ast.alias):
            yield node.asname or node.name
        elif isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == "setattr":
            yield from (text.value for text in node.args[1:2] if isinstance(text, ast.Constant))


OURS = {name for tree in TREES.values() for name in defined_in(tree)}


def roots_in_torch(tree):
    """The names under which a module knows torch, or parts of it."""
    names = {"torch"}
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom) and (node.module or "").split(".")[0] == "torch":
            names |= {alias.asname or alias.name for alias in node.names}
        elif isinstance(node, ast.Assign) and ast.unparse(node.value).startswith("torch."):
            names |= {target.id for target in node.targets if isinstance(target, ast.Name)}
    return names


def private_names_of_torch(source):
    """Each use of a private name of torch in a source text, as `line: code`."""
    tree = ast.parse(source)
    roots = roots_in_torch(tree)
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom):
            parts = (node.module or "").split(".")
            if parts[0] == "torch" and any(map(is_private, [*parts, *(alias.name for alias in node.names)])):
                yield f"{node.lineno}: {ast.unparse(node)}"
        elif isinstance(node, ast.Import):
            if any(is_private(part) for a in node.names if a.name.startswith("torch.") for part in a.name.split(".")):
                yield f"{node.lineno}: {ast.unparse(node)}"
        elif isinstance(node, ast.Attribute) and is_private(node.attr):
            owner = ast.unparse(node.value)
            if owner in OWN or (owner, node.attr) in OTHERS:
                continue
            if owner.split(".")[0] in roots or node.attr in TORCH_NAMES or node.attr not in OURS:
                yield f"{node.lineno}: {ast.unparse(node)}"
        elif isinstance(node, ast.Call) and ast.unparse(node.func) in ("getattr", "hasattr", "setattr"):
            named = node.args[1].value if len(node.args) > 1 and isinstance(node.args[1], ast.Constant) else ""
            if named in TORCH_NAMES and ast.unparse(node.args[0]) not in OWN:
                yield f"{node.lineno}: {ast.unparse(node)}"


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(SOURCE)))
def test_no_private_name_of_torch_elsewhere(path):
    found = list(private_names_of_torch(path.read_text()))
    assert not found, "\n".join([f"give these a name in _torch_internals.py, and a test ({path}):", *found])


@pytest.mark.parametrize(
    "line",
    [
        "import torch; torch._foreach_add",
        "import torch; torch._C._autograd",
        "from torch._ops import OpOverload",
        "from torch.utils import _pytree",
        "from torch.utils import _pytree as pytree",
        "import torch._inductor",
        "from torch import distributions as td; td.Distribution._validate_args",
        "import torch; aten = torch.ops.aten; aten._local_scalar_dense",
        "tensor._version",
        "storage._cdata",
        "module._parameters",
        "func._schema",
        "something._that_no_file_of_ours_defines",
        'getattr(node.target, "_schema", None)',
    ],
)
def test_a_private_name_is_found(line):
    assert len(list(private_names_of_torch(line))) >= 1


def test_private_names_that_our_classes_inherit_are_tested():
    """A private name after `self.` that nothing of ours defines is one that the class of torch has to have."""
    nodes = [node for tree in TREES.values() for node in ast.walk(tree) if isinstance(node, ast.Attribute)]
    names = {node.attr for node in nodes if ast.unparse(node.value) in OWN and is_private(node.attr)}
    tests = (Path(__file__).parent / "test_torch_internals.py").read_text()
    inherited = {name for name in names - OURS if name in TORCH_NAMES}
    assert inherited
    for name in inherited:
        assert re.search(rf"\b{name}\b", tests), f"{name} has no test"


def test_every_name_has_a_test_and_a_user():
    """Each name in `_torch_internals.py` is used in the package, and stands in the file that tests what it means."""
    text = Path(internals.__file__).read_text()
    names = re.findall(r"^(?:class |def )?(\w+)(?:: [^=\n]+)?(?: = |\()", text, re.M)
    names += re.findall(r"import (\w+) as \1\b", text)
    tests = (Path(__file__).parent / "test_torch_internals.py").read_text()
    used = "\n".join(path.read_text() for path in FILES)
    helpers = {"Hook", "AotRunner"}  # types of what the others take and return
    for name in set(names) - helpers:
        assert re.search(rf"\b{name}\b", used), f"{name} is used nowhere"
        assert re.search(rf"\binternals\.{name}\b", tests), f"{name} has no test"
    assert len(set(names)) > 50
