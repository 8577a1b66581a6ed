"""The cache is code that will be run: what is loaded belongs to this user, is what was recorded, and stays whole."""

import os
import shutil
import socket
import stat
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from cache_attacks import ATTACKS, content, entry, loads_a_copy, refuses_what_is_anothers
from graph_harness import by_python, heard, specializations, svi_of
from programs_for_svi import DATA, normal_guide, normal_model

import varigrad as vg
from varigrad.compile.backends import cache, compilation
from varigrad.compile.backends.cache import Untrusted


@pytest.fixture
def home(tmp_path, monkeypatch):
    """The cache of a user who has one."""
    monkeypatch.setenv("VARIGRAD_CACHE", str(tmp_path / "own" / "cache"))
    return tmp_path / "own" / "cache"


def test_what_is_whole_is_loaded_from_a_copy(home):
    loads_a_copy(home)


@pytest.mark.parametrize("name", ATTACKS)
def test_what_is_not_ours_or_not_whole_is_not_loaded(name, home):
    attack, text = ATTACKS[name]
    folder = entry(cache.made(home))
    attack(folder)
    loaded = []
    with pytest.raises(compilation.DAMAGED) as error:
        cache.loaded(folder, lambda *given: loaded.append(given))
    assert not loaded
    if text and "link" not in name:
        assert isinstance(error.value, Untrusted) and text in str(error.value)


@pytest.mark.parametrize("whose", ["step.so", "done.json", "key", "cache", "own"])
def test_what_belongs_to_another_user_is_not_loaded(whose, home, monkeypatch):
    refuses_what_is_anothers(whose, home, monkeypatch)


def test_a_folder_that_is_exchanged_while_it_is_read(home, monkeypatch):
    """What has been opened is what is checked and read."""
    folder = entry(cache.made(home))
    real = cache._content

    def exchanging(inside, name, *most):
        if name == "done.json" and folder.exists():
            folder.rename(folder.with_name("gone"))
            entry(home, b"evil")
        return real(inside, name, *most)

    monkeypatch.setattr(cache, "_content", exchanging)
    assert cache.loaded(folder, content) == b"library"


def test_the_place_is_for_this_user_only(home):
    before = os.umask(0)
    try:
        place = cache.place()
    finally:
        os.umask(before)
    assert place == cache.CacheFolder(home, "")
    assert stat.S_IMODE(home.stat().st_mode) == stat.S_IMODE(home.parent.stat().st_mode) == 0o700


def test_a_link_to_the_cache_is_followed_once(home, tmp_path, monkeypatch):
    (tmp_path / "own").mkdir(0o700)
    (tmp_path / "link").symlink_to(tmp_path / "own")
    monkeypatch.setenv("VARIGRAD_CACHE", str(tmp_path / "link" / "cache"))
    assert cache.place().folder == home


def shared(folder, tmp_path, monkeypatch):
    folder.mkdir(parents=True)
    folder.chmod(0o777)


def below_shared(folder, tmp_path, monkeypatch):
    folder.parent.mkdir()
    folder.parent.chmod(0o777)


def read_only(folder, tmp_path, monkeypatch):
    folder.mkdir(parents=True)
    real = os.access
    monkeypatch.setattr(cache.os, "access", lambda path, mode: Path(path) != folder and real(path, mode))


def a_file(folder, tmp_path, monkeypatch):
    folder.parent.write_text("in the way")


def foreign(folder, tmp_path, monkeypatch):
    folder.mkdir(parents=True)
    real = os.stat

    def stat_of(path, *a, **k):
        found = real(path, *a, **k)
        return os.stat_result([*found[:4], os.geteuid() + 1, *found[5:]]) if Path(path) == folder else found

    monkeypatch.setattr(cache.os, "stat", stat_of)


def no_home(folder, tmp_path, monkeypatch):
    def home():
        raise RuntimeError("Could not determine home directory.")

    monkeypatch.delenv("VARIGRAD_CACHE")
    monkeypatch.setenv("XDG_CACHE_HOME", "")
    monkeypatch.setattr(Path, "home", home)


def dangling(folder, tmp_path, monkeypatch):
    (tmp_path / "link").symlink_to(tmp_path / "unmounted")
    monkeypatch.setenv("VARIGRAD_CACHE", str(tmp_path / "link"))


def below_dangling(folder, tmp_path, monkeypatch):
    dangling(folder, tmp_path, monkeypatch)
    monkeypatch.setenv("VARIGRAD_CACHE", str(tmp_path / "link" / "cache"))


ELSEWHERE = {
    dangling: "is a symbolic link to nothing",
    below_dangling: "is a symbolic link to nothing",
    shared: "is not safe to load code from: others can write",
    below_shared: "is not safe to load code from: others can write",
    foreign: "belongs to another user",
    read_only: "cannot be written: no permission",
    a_file: "cannot be written: ",
    no_home: "there is no place for the cache: Could not determine home directory.",
}


@pytest.mark.parametrize("how", ELSEWHERE, ids=lambda f: f.__name__)
def test_a_place_that_is_no_good_is_replaced_by_one_for_this_process(how, home, tmp_path, monkeypatch):
    """It compiles all the same, and one warning says what to do."""
    how(home, tmp_path, monkeypatch)
    if how is shared:
        entry(home)
    with heard() as said:
        svi = vg.SVI(normal_model, normal_guide, vg.optim.Adam(lr=0.05), seed=0, compile="wait")
        svi.run(6, DATA)
        vg.SVI(normal_model, normal_guide, vg.optim.Adam(lr=0.05), seed=0, compile="wait")
    assert len(said) == 1 and ELSEWHERE[how] in said[0] and "set VARIGRAD_CACHE to a folder that is yours" in said[0]
    assert specializations(svi)[0].graph_steps == 4
    final = specializations(svi)[0].step.traced.compilation.entry
    assert not (tmp_path / "unmounted").exists()
    assert final.parent == cache.private(os.getpid()) and stat.S_IMODE(final.parent.stat().st_mode) == 0o700


def test_a_folder_for_one_process_goes_with_it(tmp_path):
    script = (
        "import os; from varigrad.compile.backends import cache; p = cache.private(os.getpid()); print(p, flush=True)\n"
        "if not os.fork(): os._exit(0)\n"
        "os.wait(); assert p.exists()\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, env={**os.environ, "TMPDIR": str(tmp_path)}
    )
    assert done.returncode == 0, done.stderr
    assert Path(done.stdout.strip()).parent == tmp_path and not list(tmp_path.iterdir())


def test_nowhere_is_safe(home, tmp_path, monkeypatch):
    """Neither the cache nor the folder for temporary files: steps run eagerly."""
    shared(home, tmp_path, monkeypatch)
    unsafe = tmp_path / "tmp"
    unsafe.mkdir()
    unsafe.chmod(0o777)
    cache.private.cache_clear()
    monkeypatch.setattr(cache.tempfile, "tempdir", str(unsafe))
    with heard() as said:
        vg.SVI(normal_model, normal_guide, vg.optim.Adam(lr=0.05), seed=0, compile="wait").run(6, DATA)
    cache.private.cache_clear()
    assert len(said) == 1 and "there is no place for the library: others can write" in said[0]


def waiting():
    svi = vg.SVI(normal_model, normal_guide, vg.optim.Adam(lr=0.05), seed=0, compile="wait")
    losses = svi.run(20, DATA).losses
    return svi, losses


@pytest.mark.parametrize("damage", ["truncated", "altered", "others may write it", "no sum", "a pipe"])
def test_a_damaged_library_is_built_again(damage, home):
    _, losses = waiting()
    folder = next(f for f in home.iterdir() if (f / "done.json").exists())
    whole = (folder / "step.so").read_bytes()
    ATTACKS[damage][0](folder)
    with heard() as said:
        svi, again = waiting()
    assert torch.equal(losses, again) and not said
    assert not specializations(svi)[0].step.traced.compilation.library.found
    assert len((folder / "step.so").read_bytes()) == len(whole)
    svi, again = waiting()
    assert torch.equal(losses, again) and specializations(svi)[0].step.traced.compilation.library.found


def test_a_library_that_is_cut_short_while_it_is_in_use(home):
    """A copy is in force: no SIGBUS, and the same numbers."""
    svi, _ = waiting()
    for library in home.glob("*/step.so"):
        os.truncate(library, 0)
    losses = svi.run(50, DATA).losses
    with by_python():
        eager = svi_of(normal_model, normal_guide)
        eager.run(20, DATA)
    torch.testing.assert_close(losses, eager.run(50, DATA).losses, rtol=1e-4, atol=1e-5)


def test_another_process_was_quicker_and_left_rubbish(home):
    """What this one has made is used all the same."""
    svi = vg.SVI(normal_model, normal_guide, vg.optim.Adam(lr=0.05), seed=0, compile=True)
    svi._step_compiler.wait = True
    real = compilation.Compilation._finish

    def finish(self, code):
        self.entry.mkdir()
        (self.entry / "step.so").write_bytes(b"rubbish")
        real(self, code)

    compilation.Compilation._finish = finish
    try:
        with heard() as said:
            svi.run(10, DATA)
    finally:
        compilation.Compilation._finish = real
    assert not said and specializations(svi)[0].graph_steps == 8


def test_folders_of_killed_processes_with_odd_names(home):
    root = cache.made(home)
    for name in (f"building-{socket.gethostname()}-x-y", "building-", "building-a"):
        (root / name).mkdir()
        os.utime(root / name, (time.time() - 2 * cache.DAY,) * 2)
    cache.clear_away(root)
    assert {f.name for f in root.glob("building-*")} <= {f"building-{socket.gethostname()}-x-y"}
    shutil.rmtree(root)
