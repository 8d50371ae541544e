"""SmolLM2-135M (Q4_1) and Gemma-3-270M (Q4_K_M) against what transformers computed from the same files.

LMXLAB_PROGRAM names the program, LMXLAB_MODELS a folder with both GGUF files (scripts/models.sh), LMXLAB_FIXTURES the
recorded results; without those nothing can be compared, which in CI is a failure.
"""

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

PROGRAM = os.environ["LMXLAB_PROGRAM"]
MODELS = Path(os.environ["LMXLAB_MODELS"])
FIXTURES = Path(os.environ["LMXLAB_FIXTURES"])
CI = os.environ.get("CI", "") not in ("", "0", "false")
FILES = {"smollm2": "SmolLM2-135M-Instruct.Q4_1.gguf", "gemma3": "gemma-3-270m-q4_k_m.gguf"}
LOGITS = 2e-2  # as the fixtures state it for work on dequantised float32 weights


def run(*arguments, text=None):
    done = subprocess.run([PROGRAM, *map(str, arguments)], input=text, capture_output=True, text=True, timeout=600)
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.fixture(scope="module", params=FILES)
def model(request):
    path = FIXTURES / "real_models" / f"{request.param}.json"
    if not path.exists():
        if CI:
            pytest.fail(f"{path} is absent, but must be there in CI")
        pytest.skip(f"{path} is absent")
    return request.param, MODELS / FILES[request.param], json.loads(path.read_text())


def test_tokens(model, tmp_path):
    _, file, facts = model
    texts = [prompt["text"] for prompt in facts["prompts"]]
    (tmp_path / "texts.json").write_text(json.dumps(texts))
    answer = json.loads(run("tokenize", file, "--json-file", tmp_path / "texts.json", "--add-special", "--json"))
    assert answer["ids"] == [prompt["ids"] for prompt in facts["prompts"]]


@pytest.mark.parametrize("cached", [None, 1])
def test_logits(model, tmp_path, cached):
    _, file, facts = model
    for prompt in facts["prompts"]:
        save_file({"input_ids": np.array([prompt["ids"]], np.int32)}, tmp_path / "in.safetensors")
        options = [] if cached is None else ["--cached", cached]
        run("logits", file, "--tokens-file", tmp_path / "in.safetensors", "--out", tmp_path / "out.safetensors", *options)
        logits = load_file(tmp_path / "out.safetensors")["logits"][0].astype(np.float64)
        for place in prompt["positions"]:
            row = logits[place["pos"]]
            assert np.abs(row[place["top_ids"]] - place["top_logits"]).max() < LOGITS
            assert abs(np.log(np.exp(row - row.max()).sum()) + row.max() - place["logsumexp"]) < LOGITS
            assert np.abs(row[:: place["sample_every"]] - place["sample"]).max() < LOGITS


def test_greedy_text(model):
    _, file, facts = model
    for prompt in facts["prompts"]:
        ids = ",".join(map(str, prompt["ids"]))
        answer = json.loads(run("generate", file, "--tokens", ids, "--max-tokens", 64, "--temperature", 0, "--ignore-eos", "--json"))
        safe = prompt["greedy_safe_prefix"]
        assert answer["tokens"][:safe] == prompt["greedy_ids"][:safe]


def test_perplexity(model, tmp_path):
    _, file, facts = model
    wanted = facts["perplexity"]
    text = (FIXTURES.parent / "data" / wanted["text"]).read_text()[: wanted["char_count_read"]]
    (tmp_path / "text.txt").write_text(text)
    answer = json.loads(run("perplexity", file, "--file", tmp_path / "text.txt", "--max-tokens", wanted["tokens"],
                            "--context", wanted["tokens"], "--json"))
    assert answer["tokens"] == wanted["predictions"]
    assert abs(answer["nll"] - wanted["mean_nll"]) < wanted["tolerance_mean_nll"]


def test_conversation(tmp_path):
    """What was said is remembered, and read once only."""
    file = MODELS / FILES["smollm2"]
    saved = tmp_path / "conversation.json"
    out = run("chat", file, "--system", "You answer in one short sentence.", "--temperature", 0,
              text=f"What is the capital of France?\nAnd of Italy?\n/stats\n/save {saved}\n")
    assert "Paris" in out.splitlines()[0] and "Rome" in out.splitlines()[1]
    known = int(out.split("(")[1].split(" known")[0])
    assert known > 30
    roles = [message["role"] for message in json.loads(saved.read_text())["messages"]]
    assert roles == ["system", "user", "assistant", "user", "assistant"]


def mapped(pid, files):
    """Sums over the mappings of files in a process, in bytes, as /proc/PID/smaps counts them."""
    sums, inside = {}, False
    for line in Path(f"/proc/{pid}/smaps").read_text().splitlines():
        words = line.split()
        if not words[0].endswith(":"):
            inside = len(words) > 5 and line.split(maxsplit=5)[5] in files
        elif inside and words[-1] == "kB":
            sums[words[0][:-1]] = sums.get(words[0][:-1], 0) + 1024 * int(words[1])
    return sums


@pytest.mark.skipif(sys.platform != "linux", reason="others do not tell what processes share")
def test_two_processes_hold_the_weights_once(tmp_path):
    file, cache = (MODELS / FILES["smollm2"]).resolve(), tmp_path / "weights"
    command = [PROGRAM, "generate", file, "--prompt", "Once upon a time", "--max-tokens", "1000000", "--ignore-eos"]
    running = []
    try:
        for seed in (1, 2):
            running.append(subprocess.Popen([*map(str, command), "--seed", str(seed)], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL,
                                            env=os.environ | {"LMXLAB_WEIGHT_CACHE": str(cache)}))
            assert len(running[-1].stdout.read(40)) == 40  # some passes
        files = {str(path) for path in (file, *cache.glob("*"))}
        both = [mapped(process.pid, files) for process in running]
        total = {key: both[0][key] + both[1][key] for key in both[0]}
        print(f"{file.stat().st_size} bytes in the file, of both processes", total)
        # What was laid out anew is read from the cache instead of the file: together they are one model.
        assert total["Rss"] > 1.8 * file.stat().st_size
        assert total["Pss"] < 1.1 * file.stat().st_size
        assert total["Anonymous"] == 0
        assert total["Private_Clean"] + total["Private_Dirty"] < 0.05 * file.stat().st_size
    finally:
        for process in running:
            process.kill()
            process.communicate()


def test_converted_folder_opens_in_transformers(tmp_path):
    from transformers import AutoModelForCausalLM, AutoTokenizer
    import torch

    file = MODELS / FILES["smollm2"]
    run("convert", file, tmp_path / "folder", "--dtype", "f32")
    theirs = AutoModelForCausalLM.from_pretrained(tmp_path / "folder", dtype=torch.float32).eval()
    ids = [[504, 3575, 282, 4649, 314]]
    with torch.no_grad():
        wanted = theirs(torch.tensor(ids)).logits.numpy()
    save_file({"input_ids": np.array(ids, np.int32)}, tmp_path / "in.safetensors")
    run("logits", file, "--tokens-file", tmp_path / "in.safetensors", "--out", tmp_path / "out.safetensors")
    assert np.abs(load_file(tmp_path / "out.safetensors")["logits"] - wanted).max() < 1e-3
    tokenizer = AutoTokenizer.from_pretrained(tmp_path / "folder")
    text = "The capital of France is 1789, isn't it?\n\n  Señor Øystein"
    ours = json.loads(run("tokenize", file, "--text", text, "--json"))["ids"]
    assert tokenizer(text, add_special_tokens=False)["input_ids"] == ours
    messages = [{"role": "user", "content": "Hello"}]
    rendered = tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=True)
    (tmp_path / "messages.json").write_text(json.dumps(messages))
    ours = json.loads(run("template", file, "--messages", tmp_path / "messages.json", "--add-generation-prompt", "--json"))["text"]
    assert ours == rendered


@pytest.mark.parametrize("name", ["smollm2", "gemma3"])
def test_gguf_file(name, tmp_path):
    """GGUF -> folder -> GGUF: the gguf package reads it, packs the same bytes, and finds the tokenizer of the first file."""
    from gguf import GGMLQuantizationType as Type, GGUFReader
    from gguf.quants import dequantize, quantize

    def value(reader, key):
        field = reader.fields.get(key)
        return None if field is None else field.contents()

    first, folder, second = MODELS / FILES[name], tmp_path / "folder", tmp_path / "again.gguf"
    run("convert", first, folder, "--dtype", "bf16")
    run("convert", folder, second, "--format", "gguf", "--dtype", "q8_0")
    a, b = GGUFReader(first), GGUFReader(second)
    old, new = ({t.name: t for t in r.tensors} for r in (a, b))
    assert set(new) == set(old)
    for tensor_name in list(old)[:12] + ["output_norm.weight"]:
        x, y = old[tensor_name], new[tensor_name]
        assert list(x.shape) == list(y.shape)
        if len(x.shape) == 1:
            assert y.tensor_type == Type.F32
            continue
        assert y.tensor_type == Type.Q8_0
        rows = dequantize(x.data[:64], x.tensor_type)
        rounded = (rows.view(np.uint32) + 0x7FFF + (rows.view(np.uint32) >> 16 & 1) & 0xFFFF0000).view(np.float32)
        np.testing.assert_array_equal(y.data[:64], quantize(rounded, Type.Q8_0), err_msg=tensor_name)
    architecture = value(a, "general.architecture")
    keys = [f"{architecture}.{key}" for key in ("block_count", "embedding_length", "feed_forward_length", "context_length",
                                                "attention.head_count", "attention.head_count_kv", "attention.layer_norm_rms_epsilon",
                                                "attention.sliding_window", "rope.freq_base")]
    keys += ["general.architecture", *(f"tokenizer.ggml.{key}" for key in ("model", "tokens", "merges", "bos_token_id", "eos_token_id"))]
    for key in keys:
        assert value(a, key) == pytest.approx(value(b, key)) if isinstance(value(a, key), float) else value(a, key) == value(b, key), key
    text = "The capital of France is 1789, isn't it?\n\n  Señor Øystein 東京 <b>"
    assert run("tokenize", first, "--text", text) == run("tokenize", second, "--text", text)
