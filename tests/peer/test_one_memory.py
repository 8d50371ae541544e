"""The PyTorch program that docs/unified-memory.md shows beside ours runs, and learns what ours learns."""

import json
import os
import re
import subprocess
import sys
from pathlib import Path

TOP = Path(os.environ["LMXLAB_SOURCE"])
SETTINGS = ["model.depth=2", "model.dim=64", "model.heads=2", "optimizer.lr=3e-3", "run.steps=60", "run.batch=8",
            "run.context=64", "run.eval_every=0", "data.validation=0.1"]


def test_both_programs_learn_alike(tmp_path):
    script = subprocess.run([sys.executable, "tests/peer/train_pytorch.py"], cwd=TOP, capture_output=True, text=True, timeout=600)
    assert script.returncode == 0, script.stderr
    parameters, before, after = re.search(r"^(\d+) parameters, 60 steps, validation loss ([\d.]+) -> ([\d.]+)", script.stdout).groups()

    # The settings of examples/train.cpp, which a test of its own runs.
    words = [w for s in SETTINGS for w in ("--set", s)]
    done = subprocess.run([os.environ["LMXLAB_PROGRAM"], "train", *words, "--out", tmp_path / "run", "--json"],
                          capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    ours = json.loads(done.stdout.splitlines()[-1])
    print(script.stdout, ours)
    assert 90_000 < int(parameters) < 130_000
    assert float(before) < 4.5
    assert abs(float(after) - ours["val_loss"]) < 0.3
