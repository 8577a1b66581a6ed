"""One SVI in two threads: the second is refused, and the first goes on as if it had been alone."""

import copy
import threading

import pytest
import torch

import varigrad as vg
from varigrad import distributions as dist
from varigrad.errors import VarigradError


def svi_of(entered=None, go=None):
    def model():
        z = vg.sample("z", dist.Normal(0.0, 1.0))
        if entered is not None and threading.current_thread() is not threading.main_thread():
            entered.set()
            assert go.wait(60)
        vg.sample("x", dist.Normal(z, 1.0), obs=torch.tensor(2.0))

    def guide():
        vg.sample("z", dist.Normal(vg.param("m", 0.0), 1.0))

    return vg.SVI(model, guide, vg.optim.Adam(lr=0.1), seed=0)


@pytest.mark.parametrize("first", [lambda svi: svi.step(), lambda svi: svi.run(3, progress=False)])
@pytest.mark.parametrize("second", [lambda svi: svi.step(), lambda svi: svi.run(3, progress=False)])
def test_a_second_thread_is_refused(first, second):
    entered, go, errors = threading.Event(), threading.Event(), []
    svi, twin = svi_of(entered, go), svi_of()

    def inside():
        try:
            first(svi)
        except BaseException as error:
            errors.append(error)

    thread = threading.Thread(target=inside)
    thread.start()
    assert entered.wait(60)
    with pytest.raises(VarigradError, match=r"another thread is taking steps of this SVI; because .* updates would"):
        second(svi)
    go.set()
    thread.join(60)
    first(twin)
    assert not errors
    assert all(map(torch.equal, svi.bound.parameters(), twin.bound.parameters()))
    second(svi)  # now it is alone


def test_threads_one_after_the_other_are_served():
    svi = svi_of()
    for _ in range(3):
        thread = threading.Thread(target=svi.step)
        thread.start()
        thread.join()
    assert svi.bound.steps == 3


def test_a_callback_and_a_copy_may_take_steps():
    svi = svi_of()
    svi.run(2, progress=False, callback=lambda metrics: svi.step() and False)
    assert svi.bound.steps == 4
    copy.deepcopy(svi).step()


def test_an_error_lets_others_in():
    svi = svi_of()
    with pytest.raises(VarigradError):
        svi.step(1)
    thread = threading.Thread(target=svi.step)
    thread.start()
    thread.join()
    assert svi.bound.steps == 1
