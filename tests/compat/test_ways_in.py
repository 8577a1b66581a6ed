"""Three ways in: a command line, a finder for `import pyro`, a plain import."""

import os
import subprocess
import sys
import textwrap

import pytest

import varigrad.compat.pyro as pyro
from varigrad.compat.pyro import install, uninstall
from varigrad.compat.pyro.install import _FINDER


def run(*arguments, **options):
    return subprocess.run(
        [sys.executable, *arguments], capture_output=True, text=True, timeout=120, check=False, **options
    )


def test_it_says_what_it_emulates_and_what_it_is():
    assert pyro.__version__.startswith("1.9.0")
    assert pyro.__backend__ == "varigrad"


@pytest.fixture
def installed():
    before = {n: m for n, m in sys.modules.items() if n.split(".")[0] == "pyro"}
    for name in before:
        del sys.modules[name]
    install()
    yield
    uninstall()
    sys.modules.update(before)


def test_after_install_import_pyro_is_this_package(installed):
    import pyro as imported
    import pyro.infer.tracegraph_elbo
    from pyro.ops.provenance import get_provenance

    assert imported is sys.modules["varigrad.compat.pyro"]
    assert imported.infer.tracegraph_elbo is sys.modules["varigrad.compat.pyro.infer.tracegraph_elbo"]
    assert get_provenance.__module__ == "varigrad.compat.pyro.ops.provenance"
    assert imported.__spec__.name == "varigrad.compat.pyro"  # one module object, its own name
    assert imported.__name__ == "varigrad.compat.pyro"


def test_installing_twice_is_installing_once(installed):
    install()
    assert sys.meta_path.count(_FINDER) == 1


def test_what_is_not_there_is_an_error_that_says_so(installed):
    with pytest.raises(ModuleNotFoundError, match=r"No module named 'pyro\.contrib': varigrad emulates"):
        import pyro.contrib.epidemiology  # noqa: F401


def test_uninstall_takes_the_names_away(installed):
    import pyro as imported

    uninstall()
    assert "pyro" not in sys.modules
    assert _FINDER not in sys.meta_path
    uninstall()  # nothing to do
    assert imported.__backend__ == "varigrad"  # a module that somebody holds goes on working


def test_it_refuses_when_another_pyro_has_been_imported(tmp_path, monkeypatch):
    (tmp_path / "pyro.py").write_text("__version__ = '1.9.2'")
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, "pyro", raising=False)
    import pyro as other

    try:
        assert other.__version__ == "1.9.2"
        with pytest.raises(ImportError, match=r"pyro has been imported already, from .*pyro\.py"):
            install()
        assert _FINDER not in sys.meta_path
    finally:
        del sys.modules["pyro"]


SCRIPT = """
import sys
import helper
import pyro
import pyro.distributions as dist
from pyro.infer import SVI, Trace_ELBO

assert pyro.__backend__ == "varigrad" and __name__ == "__main__" and helper.here
print(sys.argv[1:], pyro.sample("z", dist.Delta(dist.constraints.positive and __import__("torch").tensor(2.0))).item())
if "fail" in sys.argv:
    raise KeyError("from the script")
"""


def test_a_script_is_run_from_the_command_line(tmp_path):
    folder = tmp_path / "programs"
    folder.mkdir()
    (folder / "script.py").write_text(textwrap.dedent(SCRIPT))
    (folder / "helper.py").write_text("here = True")
    done = run("-W", "error", "-m", "varigrad.compat.pyro", os.path.join("programs", "script.py"), "a", cwd=tmp_path)
    assert done.stderr == "" and done.stdout == "['a'] 2.0\n"
    done = run("-m", "varigrad.compat.pyro", "script.py", "fail", cwd=folder)
    assert done.returncode == 1 and "KeyError: 'from the script'" in done.stderr
    done = run("-m", "varigrad.compat.pyro", "-m", "script", "b", cwd=folder)
    assert done.stdout == "['b'] 2.0\n"


def test_the_command_line_says_how_it_is_used():
    done = run("-m", "varigrad.compat.pyro")
    assert done.returncode == 2 and "usage: python -m varigrad.compat.pyro script.py" in done.stdout
    done = run("-m", "varigrad.compat.pyro", "nowhere.py")
    assert done.returncode == 1 and "there is no file 'nowhere.py'" in done.stderr
