"""Beam search against transformers': the same texts, the same scores.

LMXLAB_PROGRAM names the program; LMXLAB_FIXTURES the folder with checkpoints/.
"""

import json
import os
import shutil
import subprocess
from pathlib import Path

import pytest
import torch
from safetensors.numpy import load_file
from transformers import AutoModelForCausalLM

PROGRAM = os.environ["LMXLAB_PROGRAM"]
FIXTURES = os.environ.get("LMXLAB_FIXTURES")
CHECKPOINTS = Path(FIXTURES or Path(__file__).resolve().parents[3] / "shared/fixtures") / "checkpoints"
NAMES = ["llama", "gemma2", "gpt2", "qwen3", "mamba"]
FOUND = [n for n in NAMES if (CHECKPOINTS / n).is_dir()]
assert FOUND == NAMES or not os.environ.get("CI"), f"no checkpoints in {CHECKPOINTS}"


@pytest.mark.parametrize("penalty", [-0.5, 0.0, 1.0, 2.0])
@pytest.mark.parametrize("name", FOUND)
def test_the_same_beams(name, penalty, tmp_path):
    folder = tmp_path / name
    shutil.copytree(CHECKPOINTS / name, folder)
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32, attn_implementation="eager").eval()
    prompt = torch.tensor(load_file(folder / "reference.safetensors")["input_ids"][:1, :9]).long()
    vocab = model.config.vocab_size
    # Tokens that end texts: of 64 one in eight or so, so that some end early and some do not.
    stops = list(range(3, vocab, max(1, vocab // 6)))
    (folder / "generation_config.json").write_text(json.dumps({"eos_token_id": stops}))
    with torch.no_grad():
        want = model.generate(prompt, attention_mask=torch.ones_like(prompt), num_beams=4, num_return_sequences=4, do_sample=False,
                              max_new_tokens=14, length_penalty=penalty, early_stopping=False, eos_token_id=stops, pad_token_id=stops[0],
                              return_dict_in_generate=True, output_scores=True)
    done = subprocess.run([PROGRAM, "generate", folder, "--tokens", ",".join(str(int(i)) for i in prompt[0]), "--beams", "4", "--max-tokens", "14",
                           "--length-penalty", str(penalty), "--json"], capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    got = json.loads(done.stdout)["beams"]
    assert len(got) == 4
    for beam, ids, score in zip(got, want.sequences[:, prompt.shape[1]:].tolist(), want.sequences_scores.tolist()):
        n = len(beam["tokens"])
        assert beam["tokens"] == ids[:n], (beam, ids)
        assert all(i == stops[0] for i in ids[n:]), "theirs is longer"
        assert abs(beam["score"] - score) < 2e-3 * max(1, abs(score))
