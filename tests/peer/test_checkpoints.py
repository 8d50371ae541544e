"""Every checkpoint beside the repository: read and written by our program, opened by transformers, the same logits.

LMXLAB_PROGRAM names the program; LMXLAB_FIXTURES the folder with checkpoints/.
"""

import json
import os
import subprocess
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.numpy import load_file
from transformers import AutoModelForCausalLM

PROGRAM = os.environ["LMXLAB_PROGRAM"]
FIXTURES = os.environ.get("LMXLAB_FIXTURES")
CHECKPOINTS = Path(FIXTURES or Path(__file__).resolve().parents[3] / "shared/fixtures") / "checkpoints"


def names():
    found = sorted(p.parent.name for p in CHECKPOINTS.glob("*/reference.json"))
    assert found or not os.environ.get("CI"), f"no checkpoints in {CHECKPOINTS}"
    return found


def convert(name, out):
    return subprocess.run([PROGRAM, "convert", CHECKPOINTS / name, out, "--quiet", "--json"], capture_output=True, text=True, timeout=120)


@pytest.mark.parametrize("name", names())
def test_written_and_opened_by_transformers(name, tmp_path):
    done = convert(name, tmp_path / "out")
    assert done.returncode == 0, done.stderr
    facts = json.loads((CHECKPOINTS / name / "reference.json").read_text())
    reference = load_file(CHECKPOINTS / name / "reference.safetensors")
    attention = facts.get("attention", "eager")
    model, loading = AutoModelForCausalLM.from_pretrained(tmp_path / "out", output_loading_info=True, dtype=torch.float32,
                                                          attn_implementation=attention if attention in ("eager", "sdpa") else "eager")
    assert not any(loading.values()), loading
    with torch.no_grad():
        got = model.eval()(torch.tensor(reference["input_ids"]).long(), use_cache=False).logits.numpy()
    want = reference["logits"]
    off = np.abs(got - want)
    at = np.unravel_index(off.argmax(), off.shape)
    assert off.max() <= facts["atol"] + facts["rtol"] * np.abs(want).max(), f"at {at}: {got[at]} and {want[at]}"
