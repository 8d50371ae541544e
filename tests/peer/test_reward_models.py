"""Reward models beside transformers' ...ForSequenceClassification with one label: theirs opened by us, ours by them, and adapters with a
head that peft keeps (SEQ_CLS).

LMXLAB_PROGRAM names the program.
"""

import json
import os
import subprocess

import numpy as np
import peft
import pytest
import torch
from safetensors.numpy import load_file, save_file
from transformers import (AutoModelForCausalLM, AutoModelForSequenceClassification, GPT2Config, GPT2ForSequenceClassification, GPT2LMHeadModel, GPTNeoXConfig,
                          GPTNeoXForCausalLM, GPTNeoXForSequenceClassification, LlamaConfig, LlamaForCausalLM, LlamaForSequenceClassification, Qwen2Config,
                          Qwen2ForCausalLM, Qwen2ForSequenceClassification)

PROGRAM = os.environ["LMXLAB_PROGRAM"]
SIZES = dict(vocab_size=258, hidden_size=32, num_hidden_layers=2, num_attention_heads=4, intermediate_size=48, max_position_embeddings=64)
MODELS = {
    "llama": (LlamaForSequenceClassification, LlamaForCausalLM, LlamaConfig(num_key_value_heads=2, **SIZES)),
    "qwen2": (Qwen2ForSequenceClassification, Qwen2ForCausalLM, Qwen2Config(num_key_value_heads=2, tie_word_embeddings=True, **SIZES)),
    "gpt_neox": (GPTNeoXForSequenceClassification, GPTNeoXForCausalLM, GPTNeoXConfig(**SIZES)),
    "gpt2": (GPT2ForSequenceClassification, GPT2LMHeadModel, GPT2Config(vocab_size=258, n_embd=32, n_layer=2, n_head=4, n_positions=64)),
}
IDS = np.random.default_rng(3).integers(1, 258, (3, 11))


def made(of, config, seed):
    """Weights large enough that every part shows."""
    torch.manual_seed(seed)
    config.pad_token_id = 0
    config.num_labels = 1
    config._attn_implementation = "eager"
    model = of(config).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
    return model


def theirs(model, ids=IDS):
    with torch.no_grad():
        return model(input_ids=torch.tensor(ids).long()).logits[:, 0].numpy()


def ours(arguments, folder, ids=IDS):
    """Of the last token."""
    save_file({"input_ids": ids.astype(np.int64)}, folder / "ids.safetensors")
    done = subprocess.run([PROGRAM, "logits", *arguments, "--tokens-file", folder / "ids.safetensors", "--out", folder / "out.safetensors", "--json"],
                          capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    return load_file(folder / "out.safetensors")["logits"][:, -1, 0]


def close(got, want):
    worst = np.abs(got - want).max()
    print(f"worst difference {worst:.2e} of {np.abs(want).max():.2f}")
    assert worst <= 1e-5 * max(1, np.abs(want).max()), worst
    assert np.abs(want).max() > 0.05, "it says nothing"


def trained(base, folder, more=""):
    """A run of ours from a language model of theirs: three steps on pairs."""
    lines = [json.dumps({"prompt": f"{i}=", "chosen": "ab" * (1 + i % 3), "rejected": "yz" * (1 + i % 2)}) for i in range(24)]
    (folder / "pairs.jsonl").write_text("\n".join(lines) + "\n")
    (folder / "recipe.toml").write_text(f"""
[model]
preset = "{base}"
[data]
file = "{folder / 'pairs.jsonl'}"
tokenizer = "byte"
[objective]
kind = "reward"
[optimizer]
name = "adamw"
lr = 0.01
{more}
[run]
out = "{folder / 'run'}"
steps = 3
batch = 4
context = 16
""")
    done = subprocess.run([PROGRAM, "train", folder / "recipe.toml", "--quiet"], capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    return folder / "run"


@pytest.mark.parametrize("name", MODELS)
def test_theirs_is_read(name, tmp_path):
    of, _, config = MODELS[name]
    model = made(of, config, 1)
    model.save_pretrained(tmp_path / "model")
    close(ours([tmp_path / "model"], tmp_path), theirs(model))
    close(ours([tmp_path / "model", "--cached", "5"], tmp_path), theirs(model))


@pytest.mark.parametrize("name", MODELS)
def test_ours_is_read(name, tmp_path):
    of, language, config = MODELS[name]
    made(language, config, 2).save_pretrained(tmp_path / "base")
    run = trained(tmp_path / "base", tmp_path)
    kept = json.loads((run / "config.json").read_text())
    assert kept["architectures"] == [of.__name__]
    model, report = AutoModelForSequenceClassification.from_pretrained(run, pad_token_id=0, attn_implementation="eager", dtype=torch.float32,
                                                                       output_loading_info=True)
    assert type(model) is of and model.num_labels == 1
    assert not report["missing_keys"] and not report["unexpected_keys"], report
    close(ours([run], tmp_path), theirs(model.eval()))


@pytest.mark.parametrize("name", ["llama", "gpt2"])
def test_an_adapter_of_ours(name, tmp_path):
    _, language, config = MODELS[name]
    made(language, config, 2).save_pretrained(tmp_path / "base")
    run = trained(tmp_path / "base", tmp_path, "[adapter]\nrank = 4\n")
    assert not (run / "config.json").exists()
    base = AutoModelForSequenceClassification.from_pretrained(tmp_path / "base", num_labels=1, pad_token_id=0, attn_implementation="eager", dtype=torch.float32)
    close(ours([run], tmp_path), theirs(peft.PeftModel.from_pretrained(base, run).eval()))
    # The base alone is still a language model, of which ours and theirs are one.
    assert type(AutoModelForCausalLM.from_pretrained(tmp_path / "base")) is language
    # Merged it is a reward model of its own.
    done = subprocess.run([PROGRAM, "merge", tmp_path / "base", run, tmp_path / "merged", "--json"], capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    merged = AutoModelForSequenceClassification.from_pretrained(tmp_path / "merged", pad_token_id=0, attn_implementation="eager", dtype=torch.float32).eval()
    close(ours([run], tmp_path), theirs(merged))


def test_an_adapter_of_theirs(tmp_path):
    of, language, config = MODELS["llama"]
    made(language, config, 2).save_pretrained(tmp_path / "base")
    base = of.from_pretrained(tmp_path / "base", num_labels=1, pad_token_id=0, attn_implementation="eager", dtype=torch.float32)
    torch.manual_seed(5)
    model = peft.get_peft_model(base, peft.LoraConfig(task_type="SEQ_CLS", r=4, lora_alpha=8, target_modules=["q_proj", "v_proj"])).eval()
    with torch.no_grad():
        for key, parameter in model.named_parameters():
            if "lora_B" in key or "score" in key:
                parameter.normal_(0, 0.1)
    model.save_pretrained(tmp_path / "adapter")
    close(ours([tmp_path / "base", "--adapter", tmp_path / "adapter"], tmp_path), theirs(model))


def test_more_labels_are_refused(tmp_path):
    of, _, config = MODELS["llama"]
    model = made(of, config, 1)
    model.save_pretrained(tmp_path / "model")
    kept = json.loads((tmp_path / "model" / "config.json").read_text())
    kept["id2label"] = {"0": "bad", "1": "good", "2": "best"}
    (tmp_path / "model" / "config.json").write_text(json.dumps(kept))
    done = subprocess.run([PROGRAM, "info", tmp_path / "model"], capture_output=True, text=True, timeout=60)
    assert done.returncode != 0 and "3 (id2label)" in done.stderr, done.stderr
