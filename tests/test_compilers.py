"""The compilers of C and C++: which one is used, what it is known by in the cache, what is said where it is broken."""

import os

import graph_harness
import pytest
import torch
from graph_harness import Uncompiled, assert_close, by_python, heard, specializations, svi_of, taken
from programs_for_svi import DATA, normal_guide, normal_model

import varigrad as vg
from varigrad.compile.backends import cache_key, compiler_process, worker
from varigrad.compile.backends.c import library
from varigrad.compile.backends.inductor import InductorRecipe
from varigrad.compile.backends.worker import CompilerError
from varigrad.compile.trace.traced_function import TracedFunction


@pytest.fixture
def home(tmp_path, monkeypatch):
    """The cache of a user who has one."""
    monkeypatch.setenv("VARIGRAD_CACHE", str(tmp_path / "own" / "cache"))
    return tmp_path / "own" / "cache"


def waiting():
    svi = vg.SVI(normal_model, normal_guide, vg.optim.Adam(lr=0.05), seed=0, compile="wait")
    losses = svi.run(20, DATA).losses
    return svi, losses


def program(folder, name, text):
    folder.mkdir(exist_ok=True)
    path = folder / name
    path.write_text(f"#!/bin/sh\n{text}\n")
    path.chmod(0o755)
    return path


def test_without_a_compiler_it_says_so_at_once(home, tmp_path, monkeypatch):
    """No process is started to find that out."""
    (tmp_path / "empty").mkdir()
    monkeypatch.setenv("PATH", str(tmp_path / "empty"))
    for variable in ("CC", "CXX", "TORCH_INDUCTOR_INSTALL_GXX"):
        monkeypatch.delenv(variable, raising=False)

    def started(*given, **options):
        raise AssertionError("a process is started")

    monkeypatch.setattr(compiler_process.subprocess, "Popen", started)
    with heard() as said:
        waiting()
    text = "there is no C compiler (install gcc, or set CC). there is no C++ compiler (install g++)"
    assert len(said) == 1 and text in said[0]


@pytest.mark.parametrize(
    ("given", "text"),
    [
        ("no-such-compiler -O2", "CC='no-such-compiler -O2': there is no program 'no-such-compiler'"),
        ("gcc 'unclosed", 'CC="gcc \'unclosed" is no command: No closing quotation'),
    ],
)
def test_a_variable_that_names_no_compiler(given, text, monkeypatch):
    monkeypatch.setenv("CC", given)
    with pytest.raises(CompilerError) as error:
        worker.c_compiler()
    assert text in str(error.value)
    monkeypatch.setenv("CXX", "no-such-compiler")
    with pytest.raises(CompilerError, match="CXX='no-such-compiler': there is no program 'no-such-compiler'"):
        worker.cxx_compiler()


def test_a_compiler_with_arguments(home, monkeypatch):
    monkeypatch.setenv("CC", "gcc -DUNUSED='a b'")
    assert worker.c_compiler() == ["gcc", "-DUNUSED=a b"]
    svi, _ = waiting()
    assert specializations(svi)[0].step.traced.compilation.library.maker == "C"


BROKEN = "echo 'note: x' >&2; echo 'step.c:1: error: no such header' >&2; exit 1"


def test_a_compiler_that_fails_says_why(tmp_path, monkeypatch):
    monkeypatch.setenv("CC", str(program(tmp_path / "bin", "cc", BROKEN)))
    (tmp_path / "step.c").write_text("int x;\n")
    with pytest.raises(CompilerError, match=r"cc\) failed: step.c:1: error: no such header"):
        worker.build_c(tmp_path)
    monkeypatch.setenv("CXX", str(program(tmp_path / "bin", "g++", "exit 3")))
    with pytest.raises(CompilerError, match=r"g\+\+\) does not work: exit status 3"):
        worker.build(tmp_path)  # before torch's compiler is imported


SAYS = {
    "/bin/false": "the compiler (/bin/false) failed: exit status 1",
    "/does/not/exist": "CC='/does/not/exist': there is no program '/does/not/exist'",
    "prints an error": "cc) failed: step.c:1: error: no such header",
}


@pytest.mark.parametrize("given", SAYS)
def test_broken_compilers_are_named_and_the_run_goes_on(given, home, tmp_path, monkeypatch):
    """All steps are Python's, bit for bit."""
    monkeypatch.setenv("CC", str(program(tmp_path / "bin", "cc", BROKEN)) if given == "prints an error" else given)
    monkeypatch.setenv("CXX", str(program(tmp_path / "bin", "g++", BROKEN)))
    with heard() as said:
        svi, losses = waiting()
    with by_python():
        expected = svi_of(normal_model, normal_guide).run(20, DATA).losses
    assert_close(losses, expected, rtol=1e-4, atol=1e-5)
    assert len(said) == 1 and said[0].startswith("steps run eagerly. ")
    for text in (SAYS[given], "g++) does not work: step.c:1: error: no such header"):
        assert text in said[0] and text in svi.explain()
    assert not list(home.glob("building-*"))


class Made(Uncompiled):
    """Stands in for a library that Inductor has made: it runs the recorded graph."""

    maker = "Inductor"


@pytest.mark.parametrize("given", ["/bin/false", "/does/not/exist"])
def test_a_broken_c_compiler_is_named_where_inductor_takes_its_place(given, home, monkeypatch):
    monkeypatch.setenv("CC", given)
    monkeypatch.setattr(InductorRecipe, "load", lambda self, path, report: Made(self._graph, self._inputs))
    script = (
        "import hashlib, json, pathlib, sys\n"
        "folder = pathlib.Path(sys.argv[1])\n"
        "if (folder / 'step.c').exists():\n"
        "    text = 'CompilerError: the compiler (/bin/false) failed: exit status 1'\n"
        "    (folder / 'failed.txt').write_text(text)\n"
        "    raise SystemExit(1)\n"
        "(folder / 'step.so').write_bytes(b'library')\n"
        "sums = {'step.so': hashlib.sha256(b'library').hexdigest()}\n"
        "(folder / 'done.json').write_text(json.dumps({'library': 'step.so', 'sha256': sums}))\n"
    )
    with graph_harness.worker(script), heard() as said:
        svi, _ = waiting()
    assert taken(svi) == 18
    assert len(said) == 1 and said[0].startswith("Inductor compiles the steps") and SAYS[given] in said[0]
    assert f"form 0, not compiled as C: {SAYS[given]}" in svi.explain()


def test_a_compiler_that_hangs(tmp_path, monkeypatch):
    monkeypatch.setenv("CC", str(program(tmp_path / "bin", "cc", "exec sleep 60")))
    monkeypatch.setattr(worker, "ANSWER", 0.2)
    (tmp_path / "step.c").write_text("int x;\n")
    with pytest.raises(CompilerError, match=r"cc\) does not answer"):
        worker.build_c(tmp_path)


def test_a_compiler_that_only_takes_its_time(tmp_path, monkeypatch):
    """It compiles next to nothing at once, so it is waited for."""
    text = 'case "$*" in *nothing*) exit 0;; esac; sleep 1; echo library > "$(dirname "$0")/../step.so"'
    monkeypatch.setenv("CC", str(program(tmp_path / "bin", "cc", text)))
    monkeypatch.setattr(worker, "ANSWER", 0.4)
    (tmp_path / "step.c").write_text("int x;\n")
    assert worker.build_c(tmp_path) == {"library": "step.so"}
    monkeypatch.setattr(worker, "LONGEST", 0.1)
    with pytest.raises(CompilerError, match="was not done after 0 s"):
        worker.build_c(tmp_path)


# The compiler that a library is built by


VERSION = 'case "$*" in *--version*) echo "{0}"; exit 0;; esac; exec gcc "$@"'


def key(monkeypatch, variable="CC", command=None):
    """The key of one small program, by C or by Inductor."""
    if command is not None:
        monkeypatch.setenv(variable, str(command))
    graph = TracedFunction(lambda: [X + 1.0], [X, SUM], [SUM], {}).graph
    return (
        library.CRecipe(library.translate(graph)).key() if variable == "CC" else InductorRecipe(graph, [X, SUM]).key()
    )


X, SUM = torch.zeros(3), torch.zeros(3)


@pytest.mark.parametrize("variable", ["CC", "CXX"])
def test_another_compiler_has_another_key(variable, tmp_path, monkeypatch):
    one = program(tmp_path / "bin", "one", VERSION.format("one 1.0"))
    other = program(tmp_path / "bin", "other", VERSION.format("one 1.0"))
    first = key(monkeypatch, variable, one)
    assert first == key(monkeypatch, variable, one)
    assert first != key(monkeypatch, variable, other)


def test_another_argument_of_the_compiler_has_another_key(monkeypatch):
    assert key(monkeypatch, "CC", "gcc") != key(monkeypatch, "CC", "gcc -DA") != key(monkeypatch, "CC", "gcc -DB")


@pytest.mark.parametrize("variable", ["CC", "CXX"])
def test_a_compiler_that_is_upgraded_in_place_has_another_key(variable, tmp_path, monkeypatch):
    path = program(tmp_path / "bin", "compiler", VERSION.format("compiler 1.0"))
    before = path.stat()
    first = key(monkeypatch, variable, path)
    program(tmp_path / "bin", "compiler", VERSION.format("compiler 2.0"))
    assert path.stat().st_size == before.st_size
    second = key(monkeypatch, variable, path)
    assert first != second
    # The version counts, not the day of the file.
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns - 10**9))
    assert key(monkeypatch, variable, path) == second


@pytest.mark.parametrize("variable", ["CC", "CXX"])
def test_a_compiler_is_asked_for_its_version_once(variable, tmp_path, monkeypatch):
    asked = tmp_path / "asked"
    path = program(tmp_path / "bin", "compiler", f'echo "$*" >> {asked}; echo compiler 1.0')
    assert len({key(monkeypatch, variable, path) for _ in range(3)}) == 1
    assert asked.read_text() == "--version\n"


@pytest.mark.parametrize("variable", ["CC", "CXX"])
@pytest.mark.parametrize("text", ["/does/not/exist", "no-such-compiler", "/bin/false", "/"])
def test_a_compiler_that_is_missing_or_broken_has_a_key(variable, text, monkeypatch):
    assert key(monkeypatch, variable, text) != key(monkeypatch, variable, "gcc")


def test_a_compiler_that_does_not_tell_its_version_has_a_key(tmp_path, monkeypatch):
    monkeypatch.setattr(cache_key, "PATIENCE", 0.2)
    assert key(monkeypatch, "CC", program(tmp_path / "bin", "cc", "exec sleep 60")) != key(monkeypatch, "CC", "gcc")
