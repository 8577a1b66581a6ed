"""The examples run, print their tables, and write the pictures whose names they print."""

import os
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

EXAMPLES = Path(__file__).parent.parent / "examples"


def run(name, *arguments):
    """What an example prints, warnings being errors as in all tests."""
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-W", "error", str(EXAMPLES / f"{name}.py"), *map(str, arguments)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=240, env=environment, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout


def numbers(output, label):
    """The figures in a row of a table that starts with `label`."""
    (row,) = [line for line in output.splitlines() if line.startswith(f"{label}  ")]
    return [float(word) for word in row.removeprefix(label).split()]


def written(output, path):
    assert f"picture: {path}" in output
    assert path.stat().st_size > 5_000
    assert path.read_bytes().startswith(b"\x89PNG")


def test_coin(tmp_path):
    picture = tmp_path / "new" / "coin.png"
    output = run("coin", "--quick", "--output", picture)
    rows = {
        label: numbers(output, label)
        for label in (
            "score, no baseline",
            "score, decaying average",
            "leave-one-out, 2 draws",
            "pathwise",
            "pathwise, sticking the landing",
        )
    }
    # Its noise is next to nothing, so that all runs arrive together; rounding may decide about the last step.
    assert all(abs(steps - 28) <= 1 for steps in rows["pathwise, sticking the landing"][:3])
    variance = {label: row[3] for label, row in rows.items()}
    assert variance["score, no baseline"] > 100 > 10 > variance["score, decaying average"]
    assert variance["pathwise, sticking the landing"] < 0.1
    assert all(row[-1] > 0 for row in rows.values())
    assert "score, no baseline: 2 of 2 runs were given up after 50 steps" in output
    written(output, picture)


def test_sigmoid_belief_net(tmp_path):
    picture = tmp_path / "net.png"
    output = run("sigmoid_belief_net", "--quick", "--output", picture)
    assert "1618 images to learn from, 179 held out, 64 pixels each" in output
    for label in ("decaying average", "average + network", "leave-one-out, 4 draws", "DisARM"):
        bound, _, microseconds = numbers(output, label)
        assert -50 < bound < -20
        assert microseconds > 0
    written(output, picture)


def test_sigmoid_belief_net_on_packed_images(tmp_path):
    bits = np.random.default_rng(0).integers(0, 2, (50, 784), dtype=np.uint8)
    np.savez(tmp_path / "bits.npz", bits=np.packbits(bits, axis=1))
    output = run("sigmoid_belief_net", "--quick", "--data", tmp_path / "bits.npz", "--output", tmp_path / "net.png")
    assert "45 images to learn from, 5 held out, 784 pixels each" in output


def test_gaussian_mixture(tmp_path):
    picture = tmp_path / "mixture.png"
    output = run("gaussian_mixture", "--quick", "--output", picture)
    for label in ("score, no baseline", "score, decaying average", "leave-one-out, 4 draws"):
        plated, joint, ratio = numbers(output, label)
        assert joint > 10 * plated
        assert ratio > 10
    assert "enumerate                                0         refused" in output
    for label in ("with the plate", "without", "scikit-learn's EM"):
        assert f"\n{label} " in output
    written(output, picture)


def test_hidden_markov(tmp_path):
    picture = tmp_path / "markov.png"
    output = run("hidden_markov", "--quick", "--output", picture)
    own, by_numpy = (float(part.split()[-1]) for part in re.search(r"log-likelihood: (.*)", output)[1].split(","))
    assert own == pytest.approx(by_numpy, abs=0.011)  # both are printed to two decimals
    written(output, picture)
