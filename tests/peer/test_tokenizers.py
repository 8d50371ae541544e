"""Our tokenizer.json in the `tokenizers` package, and our program against it. LMXLAB_PROGRAM names the program."""

import json
import os
import subprocess
from pathlib import Path

import pytest
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

ROOT = Path(__file__).resolve().parents[2]
FIXTURES = ROOT / "tests/fixtures/tokenizers"
NAMES = sorted(p.stem for p in FIXTURES.glob("*.json") if "tokenizer" in json.loads(p.read_text()))  # one each
PROGRAM = os.environ["LMXLAB_PROGRAM"]
SHAKESPEARE = (ROOT / "lmxlab/data/tinyshakespeare.txt").read_text()
STRINGS = ["Hello, world!", "First Citizen:\n\n  Before we proceed", "it's we'll DON'T", "1234 5.6", "naïve e\u0301 漢字かな 👍🏽",
           "tabs\t\tand   spaces ", "def f(x):\r\n\treturn x**2", "<|endoftext|>"]


def run(*arguments):
    done = subprocess.run([PROGRAM, *map(str, arguments), "--json"], capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def ids_of(folder, text):
    return run("tokenize", folder, "--text", text)["ids"]


@pytest.mark.parametrize("name", NAMES)
def test_tokenize_gives_the_packages_ids(name, tmp_path):
    fixture = json.loads((FIXTURES / f"{name}.json").read_text())
    (tmp_path / "tokenizer.json").write_text(json.dumps(fixture["tokenizer"]))
    theirs = Tokenizer.from_str(json.dumps(fixture["tokenizer"]))
    texts = [c["text"] for c in fixture["cases"]]
    (tmp_path / "texts.json").write_text(json.dumps(texts))
    ours = run("tokenize", tmp_path, "--json-file", tmp_path / "texts.json")["ids"]
    assert ours == [theirs.encode(t, add_special_tokens=False).ids for t in texts]
    ours = run("tokenize", tmp_path, "--json-file", tmp_path / "texts.json", "--add-special")["ids"]
    assert ours == [theirs.encode(t).ids for t in texts]


def test_a_trained_folder_opens_in_the_package(tmp_path):
    source = tmp_path / "source.txt"
    source.write_text(SHAKESPEARE[:100_000])
    run("tokenizer", "train", source, "--vocab-size", 600, "--out", tmp_path / "ours")
    theirs = Tokenizer.from_file(str(tmp_path / "ours/tokenizer.json"))
    for text in STRINGS + [SHAKESPEARE[-2000:]]:
        ids = ids_of(tmp_path / "ours", text)
        assert ids == theirs.encode(text, add_special_tokens=False).ids
        assert theirs.decode(ids, skip_special_tokens=False) == text
    # The same merges as the package's own trainer, with whatever special tokens the program put in front.
    special = [t["content"] for t in json.loads((tmp_path / "ours/tokenizer.json").read_text())["added_tokens"]]
    peer = Tokenizer(models.BPE())
    peer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    peer.decoder = decoders.ByteLevel()
    peer.train([str(source)], trainers.BpeTrainer(vocab_size=600, special_tokens=special, show_progress=False,
                                                  initial_alphabet=pre_tokenizers.ByteLevel.alphabet()))
    assert json.loads(peer.to_str())["model"]["merges"] == json.loads(theirs.to_str())["model"]["merges"]


def test_a_saved_folder_opens_in_transformers(tmp_path):
    from transformers import AutoTokenizer

    source = tmp_path / "source.txt"
    source.write_text(SHAKESPEARE[:100_000])
    run("tokenizer", "train", source, "--vocab-size", 400, "--out", tmp_path / "ours")
    theirs = AutoTokenizer.from_pretrained(tmp_path / "ours")
    for text in STRINGS:
        assert theirs(text, add_special_tokens=False)["input_ids"] == ids_of(tmp_path / "ours", text)
