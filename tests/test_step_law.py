"""The step law: n steps are n steps of torch's plain optimiser along the gradients that `backward()` leaves."""

import pytest
import torch
from step_programs import DATA, LAYOUTS, MINUS_DATA, OPTIMIZERS, assert_close, followed, stepped

import varigrad as vg
from varigrad.errors import ParameterError


@pytest.fixture(autouse=True)
def _nobody_writes_into_the_users_data():
    before = {kind: data.clone() for kind, data in DATA.items()}
    yield
    for kind, data in before.items():
        assert DATA[kind].equal(data) and MINUS_DATA[kind].equal(-data)


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("optimizer", ["vg Adam", "vg SGD momentum", "ClippedAdam, all options"])
def test_eager_steps_are_torchs(layout, optimizer):
    case, (ours, plain) = LAYOUTS[layout], OPTIMIZERS[optimizer]
    expected = followed(case.loss, case.make(torch.float32), plain)
    found, _ = stepped(case.loss, case.make(torch.float32), ours)
    assert_close(found, expected)


@pytest.mark.parametrize("layout", LAYOUTS)
def test_clipping_scales_once(layout):
    case = LAYOUTS[layout]
    plain = OPTIMIZERS["vg SGD"][1]
    expected = followed(case.loss, case.make(torch.float32), plain, clip_norm=0.5)
    found, _ = stepped(case.loss, case.make(torch.float32), vg.optim.SGD(lr=0.01, clip_norm=0.5))
    assert_close(found, expected)


@pytest.mark.parametrize("optimizer", OPTIMIZERS)
def test_every_optimizer_follows_every_layout(optimizer):
    ours, plain = OPTIMIZERS[optimizer]
    for layout, case in LAYOUTS.items():
        parameters = case.make(torch.float32)
        if optimizer == "Muon" and any(p.dim() != 2 for p in parameters):
            continue
        if optimizer == "Adafactor" and any(p.numel() == 0 for p in parameters):
            continue  # torch divides by the number of elements
        if "fused" in optimizer and "strided" in layout:
            with pytest.raises(ParameterError, match="has gaps in memory"):
                stepped(case.loss, parameters, ours)
            continue
        expected = followed(case.loss, case.make(torch.float32), plain)
        found, _ = stepped(case.loss, parameters, ours)
        assert_close(found, expected)
