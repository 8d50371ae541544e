"""Adapters that the package peft makes, beside the model with them in transformers: as they are, merged, and on packed weights.

LMXLAB_PROGRAM names the program; LMXLAB_FIXTURES the folder with checkpoints/.
"""

import json
import os
import subprocess
from pathlib import Path

import numpy as np
import peft
import pytest
import torch
from safetensors.numpy import load_file, save_file
from transformers import AutoModelForCausalLM

PROGRAM = os.environ["LMXLAB_PROGRAM"]
FIXTURES = os.environ.get("LMXLAB_FIXTURES")
CHECKPOINTS = Path(FIXTURES or Path(__file__).resolve().parents[3] / "shared/fixtures") / "checkpoints"

# Names and targets; of a class that fuses projections, of one whose matrices lie across, of one with renamed parts.
CASES = {
    "lora": ("llama", dict(r=4, lora_alpha=12, target_modules=["q_proj", "v_proj", "down_proj"])),
    "rslora": ("llama", dict(r=4, lora_alpha=12, use_rslora=True, target_modules="all-linear")),
    "dora": ("qwen3", dict(r=4, lora_alpha=8, use_dora=True, target_modules="all-linear")),
    "patterns": ("llama", dict(r=4, lora_alpha=8, target_modules=["q_proj", "k_proj"], rank_pattern={"k_proj": 2}, alpha_pattern={"k_proj": 3})),
    "fused": ("phi3", dict(r=4, lora_alpha=8, target_modules=["qkv_proj", "gate_up_proj", "o_proj"])),
    "fused dora": ("phi3", dict(r=4, lora_alpha=8, use_dora=True, target_modules=["qkv_proj", "gate_up_proj"])),
    "across": ("gpt2", dict(r=4, lora_alpha=8, target_modules=["c_attn", "c_fc"], fan_in_fan_out=True)),
    "renamed": ("gpt_neox", dict(r=4, lora_alpha=8, target_modules=["query_key_value", "dense_h_to_4h"])),
    "layers": ("llama", dict(r=4, lora_alpha=8, target_modules=["q_proj"], layers_to_transform=[0])),
}


def adapted(name, settings, folder):
    """The model with an adapter that does something, which is saved."""
    base = AutoModelForCausalLM.from_pretrained(CHECKPOINTS / name, dtype=torch.float32, attn_implementation="eager")
    torch.manual_seed(1)
    model = peft.get_peft_model(base, peft.LoraConfig(task_type="CAUSAL_LM", **settings)).eval()
    with torch.no_grad():
        for key, parameter in model.named_parameters():
            if "lora_B" in key:
                parameter.normal_(0, 0.1)
            if "magnitude" in key:
                parameter.mul_(1 + 0.1 * torch.randn_like(parameter))
    model.save_pretrained(folder)
    return model


def logits_of(model, ids):
    with torch.no_grad():
        return model(input_ids=torch.tensor(ids).long(), use_cache=False).logits.numpy()


def ours(arguments, ids, folder):
    save_file({"input_ids": ids.astype(np.int64)}, folder / "ids.safetensors")
    done = subprocess.run([PROGRAM, "logits", *arguments, "--tokens-file", folder / "ids.safetensors", "--out", folder / "out.safetensors", "--json"],
                          capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    return load_file(folder / "out.safetensors")["logits"]


@pytest.mark.parametrize("case", CASES)
def test_an_adapter_of_peft(case, tmp_path):
    name, settings = CASES[case]
    if not (CHECKPOINTS / name).exists():
        assert not os.environ.get("CI"), f"no {name} in {CHECKPOINTS}"
        pytest.skip("no checkpoints")
    ids = load_file(CHECKPOINTS / name / "reference.safetensors")["input_ids"]
    base = ours([CHECKPOINTS / name], ids, tmp_path)
    model = adapted(name, settings, tmp_path / "adapter")
    want = logits_of(model, ids)
    near = 1e-5 * np.abs(want).max() + 1e-4
    assert np.abs(want - base).max() > 10 * near, "it does nothing"
    for cached in ([], ["--cached", "5"]):
        got = ours([CHECKPOINTS / name, "--adapter", tmp_path / "adapter", *cached], ids, tmp_path)
        assert np.abs(got - want).max() <= near, np.abs(got - want).max()

    # Merged by us, opened by transformers; the checkpoint's type rounds what it holds.
    done = subprocess.run([PROGRAM, "convert", CHECKPOINTS / name, tmp_path / "wide", "--dtype", "f32", "--json"], capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    done = subprocess.run([PROGRAM, "merge", tmp_path / "wide", tmp_path / "adapter", tmp_path / "merged", "--json"], capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["max_error"] == 0
    merged = AutoModelForCausalLM.from_pretrained(tmp_path / "merged", dtype=torch.float32, attn_implementation="eager").eval()
    got = logits_of(merged, ids)
    assert np.abs(got - want).max() <= near, np.abs(got - want).max()


OURS = {
    "lora": ("llama", "rank = 4\nalpha = 12\nranks = [{ pattern = \"v_proj\", rank = 2 }]"),
    "dora": ("qwen3", "rank = 4\ndora = true\ntargets = [\"q_proj\", \"mlp.up_proj\"]"),
    "fused": ("phi3", "rank = 4\nlast_layers = 1"),
    "across": ("gpt2", "rank = 4\ntargets = [\"q_proj\", \"k_proj\", \"v_proj\", \"down_proj\"]"),
}


@pytest.mark.parametrize("case", OURS)
def test_an_adapter_of_ours(case, tmp_path):
    """Trained by a recipe; its run folder is opened by peft, and is a model to every command."""
    name, settings = OURS[case]
    if not (CHECKPOINTS / name).exists():
        assert not os.environ.get("CI"), f"no {name} in {CHECKPOINTS}"
        pytest.skip("no checkpoints")
    ids = load_file(CHECKPOINTS / name / "reference.safetensors")["input_ids"]
    vocabulary = json.loads((CHECKPOINTS / name / "config.json").read_text())["vocab_size"]
    tokens = np.random.default_rng(1).integers(0, vocabulary, 2000).astype(np.uint16)
    save_file({"tokens": tokens}, tmp_path / "tokens.safetensors")
    (tmp_path / "recipe.toml").write_text(f"""
[model]
preset = "{CHECKPOINTS / name}"
[data]
file = "{tmp_path / 'tokens.safetensors'}"
[adapter]
{settings}
[optimizer]
name = "adamw"
lr = 0.05
[run]
steps = 5
batch = 2
context = 16
out = "{tmp_path / 'run'}"
""")
    done = subprocess.run([PROGRAM, "train", tmp_path / "recipe.toml", "--json"], capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    base = AutoModelForCausalLM.from_pretrained(CHECKPOINTS / name, dtype=torch.float32, attn_implementation="eager")
    before = logits_of(base.eval(), ids)
    want = logits_of(peft.PeftModel.from_pretrained(base, tmp_path / "run").eval(), ids)
    near = 1e-5 * np.abs(want).max() + 1e-4
    assert np.abs(want - before).max() > 10 * near, "it does nothing"
    got = ours([tmp_path / "run"], ids, tmp_path)
    assert np.abs(got - want).max() <= near, np.abs(got - want).max()
