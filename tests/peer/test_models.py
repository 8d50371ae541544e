"""Runs of our program opened by transformers, and folders of transformers opened by our program.

LMXLAB_PROGRAM names the program.
"""

import json
import os
import subprocess
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.numpy import load_file, save_file
from transformers import AutoModelForCausalLM, AutoTokenizer

PROGRAM = os.environ["LMXLAB_PROGRAM"]
LOGITS = 1e-4  # float32 on both sides, two orders of summation, logits of order ten
PROMPT = "ROMEO:"
STRINGS = ["First Citizen:\nBefore we proceed any further", "  two  spaces ", "\n\n\n", "it's, we'll; O!", "a", "ZzYy&-?"]

LLAMA = """
[model]
preset = "llama-tiny"
depth = 2
dim = 48
heads = 4
kv_heads = 2
hidden = 96
context = 128

[data]
tokenizer = "byte"

[run]
batch = 4
context = 64
"""
GPT_WITH_BIASES = """
[model]
preset = "gpt-tiny"
depth = 2
dim = 32
heads = 2
context = 96

[run]
batch = 4
context = 32
"""
HEADS = LLAMA + """
[objective]
kind = "mtp"
heads = 2
"""
RECIPES = {"default": None, "llama": LLAMA, "gpt": GPT_WITH_BIASES, "heads": HEADS}


def run(*arguments):
    done = subprocess.run([PROGRAM, *map(str, arguments), "--json"], capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


@pytest.fixture(scope="module", params=RECIPES)
def trained(request, tmp_path_factory):
    """The folder of a run of 20 steps."""
    folder = tmp_path_factory.mktemp(request.param)
    recipe = []
    if RECIPES[request.param]:
        (folder / "recipe.toml").write_text(RECIPES[request.param])
        recipe = [folder / "recipe.toml"]
    report = run("train", *recipe, "--steps", 20, "--out", folder / "run", "--set", "run.eval_batches=2")
    assert report["steps"] == 20
    assert np.isfinite(report["loss"])
    return folder / "run"


@pytest.fixture(scope="module")
def theirs(trained):
    model, loading = AutoModelForCausalLM.from_pretrained(trained, output_loading_info=True, attn_implementation="eager")
    # Nothing missing, unexpected or of another shape, but for heads, which lie behind the last layer.
    behind = f"model.layers.{model.config.num_hidden_layers}", f"model.layers.{model.config.num_hidden_layers + 1}"
    loading["unexpected_keys"] = [k for k in loading["unexpected_keys"] if not k.startswith(behind)]
    assert not any(loading.values()), loading
    return model.eval()


def our_logits(folder, ids, tmp_path, *options):
    save_file({"input_ids": np.asarray(ids, dtype=np.int32)}, tmp_path / "tokens.safetensors")
    run("logits", folder, "--tokens-file", tmp_path / "tokens.safetensors", "--out", tmp_path / "logits.safetensors", *options)
    return load_file(tmp_path / "logits.safetensors")["logits"]


def random_ids(config, length):
    return np.random.default_rng(5).integers(0, config.vocab_size, (3, length))


def worst(a, b):
    assert a.shape == b.shape
    difference = np.abs(a - b)
    at = np.unravel_index(difference.argmax(), difference.shape)
    return difference[at], f"at {at}: {a[at]} and {b[at]}"


def test_logits_are_those_of_transformers(trained, theirs, tmp_path):
    ids = random_ids(theirs.config, theirs.config.max_position_embeddings)
    with torch.no_grad():
        want = theirs(torch.tensor(ids)).logits.numpy()
    assert np.abs(want).max() > 0.1  # or nothing would be compared
    for options in [(), ("--cached", 7)]:
        off, where = worst(our_logits(trained, ids, tmp_path, *options), want)
        assert off <= LOGITS, where


def test_greedy_text_is_that_of_transformers(trained, theirs):
    tokenizer = AutoTokenizer.from_pretrained(trained)
    prompt = tokenizer(PROMPT, return_tensors="pt")
    count = min(64, theirs.config.max_position_embeddings - prompt.input_ids.shape[1])
    assert count > 32
    ours = run("generate", trained, "--prompt", PROMPT, "--temperature", 0, "--max-tokens", count, "--ignore-eos")
    theirs.generation_config.eos_token_id = None
    with torch.no_grad():
        out = theirs.generate(**prompt, do_sample=False, max_new_tokens=count, eos_token_id=None)
    want = out[0, prompt.input_ids.shape[1]:].tolist()
    assert len(want) == count
    assert ours["tokens"] == want
    assert ours["prompt_tokens"] == prompt.input_ids.shape[1]
    assert ours["text"] == tokenizer.decode(want, skip_special_tokens=True)


def test_tokenizer_is_that_of_transformers(trained, tmp_path):
    tokenizer = AutoTokenizer.from_pretrained(trained)
    (tmp_path / "texts.json").write_text(json.dumps(STRINGS))
    ids = run("tokenize", trained, "--json-file", tmp_path / "texts.json")["ids"]
    assert ids == [tokenizer(text, add_special_tokens=False)["input_ids"] for text in STRINGS]
    assert [tokenizer.decode(row) for row in ids] == STRINGS
    (tmp_path / "ids.json").write_text(json.dumps(ids))
    assert run("tokenize", trained, "--json-file", tmp_path / "ids.json", "--decode")["text"] == STRINGS
    ids = run("tokenize", trained, "--json-file", tmp_path / "texts.json", "--add-special")["ids"]
    assert ids == [tokenizer(text)["input_ids"] for text in STRINGS]


def test_bytes_beyond_ascii(trained):
    tokenizer = AutoTokenizer.from_pretrained(trained)
    recipe = (trained / "recipe.toml").read_text()
    if '"byte"' not in recipe:
        assert '"char"' in recipe
        return
    for text in ["naïve", "漢字 👍🏽", "tabs\t\r\n"]:
        ids = run("tokenize", trained, "--text", text)["ids"]
        assert ids == tokenizer(text, add_special_tokens=False)["input_ids"]
        assert tokenizer.decode(ids) == text


@pytest.mark.parametrize("keep_ours", [True, False], ids=["config kept", "config of transformers alone"])
def test_saved_by_transformers_loads_here(trained, theirs, tmp_path, keep_ours):
    back = tmp_path / "back"
    theirs.save_pretrained(back)
    config = json.loads((back / "config.json").read_text())
    if keep_ours:
        assert "lmxlab" in config
    else:
        del config["lmxlab"]
        (back / "config.json").write_text(json.dumps(config))
    ids = random_ids(theirs.config, 24)
    # The same weights; biases that are zero may be added or left out.
    off, where = worst(our_logits(back, ids, tmp_path), our_logits(trained, ids, tmp_path))
    assert off == 0, where


@pytest.mark.parametrize("name", ["gpt2_gelu_new", "gpt2_gelu_untied", "llama_gqa", "llama_bias_tied"])
def test_fixtures_are_what_transformers_computes(name, tmp_path):
    """The references of tests/models/golden_test.cpp, computed again by the installed version."""
    folder = Path(__file__).resolve().parents[1] / "fixtures/models" / name
    reference = load_file(folder / "reference.safetensors")
    model = AutoModelForCausalLM.from_pretrained(folder, attn_implementation="eager").eval()
    with torch.no_grad():
        again = model(torch.tensor(reference["input_ids"]).long()).logits.numpy()
    assert worst(again, reference["logits"])[0] <= LOGITS
    off, where = worst(our_logits(folder, reference["input_ids"], tmp_path), again)
    assert off <= LOGITS, where
