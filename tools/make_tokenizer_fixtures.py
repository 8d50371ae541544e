"""Makes tests/fixtures/tokenizers/*.json with the `tokenizers` package (0.23.3 was used): run from the repository root.

Each NAME.json holds a tokenizer.json, the ids the package gives for many strings, and their decoded text; train.json holds
the merges its BpeTrainer finds. Nothing here calls our code.
"""

import json
import tempfile
from pathlib import Path

import tokenizers
from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, pre_tokenizers, processors, trainers

OUT = Path("tests/fixtures/tokenizers")
SOURCE = "lmxlab/data/tinyshakespeare.txt"
SOURCE_BYTES = 200_000
SHAKESPEARE = Path(SOURCE).read_bytes()[:SOURCE_BYTES].decode()
ALPHABET = pre_tokenizers.ByteLevel.alphabet()

MIXED = [
    "Straße, naïve café, Ångström; la niña comió piñas.\n",
    "Быстрая коричневая лиса прыгает через ленивую собаку. " * 3,
    "敏捷的棕色狐狸跳过了懒狗。敏捷的狐狸。 素早い茶色の狐はのろまな犬を飛び越える。カタカナ ",
    "الثعلب البني السريع يقفز فوق الكلب الكسول\u060c ١٢٣ ٤٥٦ ",
    "तेज भूरी लोमड़ी आलसी कुत्ते पर कूदती है। १२३ ",
    "👩‍👩‍👧‍👦 👍🏽 🇩🇪🇫🇷 👩‍👩‍👧‍👦 👍🏽 ",
    "def f(x):\n    return x**2  # 12345 67890\n\n\n\tif x >= 10:\r\n\t\tpass\r\n",
    "aaaa aaaaaaa aaa ababab abababab ====== ======== ---------- xxxxxxxxxxxxxxx",
]

STRINGS = [
    "", " ", "  ", "   ", "\n", "\n\n", "\n\n\n", "\t", " \t\n ", "\r\n", "\r\n\r\n", "a", " a", "a ", "  a  b   c    ",
    "Hello, world!", "First Citizen:\nBefore we proceed any further, hear me speak.",
    "I'm you're he's we've I'd they'll can't DON'T I'M O'Neil's ''s 'tis", "it'ſ I'ſ \u2019s",
    "0", "12", "123", "1234567890", "3.14159e-10", "v1.2.3-rc4", "½ ² Ⅷ ١٢٣ १२३ 〇",
    "café cafe\u0301 e\u0301\u0302\u0303 \u0301", "Ångström ÅÄÖ straße STRASSE ẞ",
    "Быстрая лиса и ленивая собака", "敏捷的棕色狐狸跳过了懒狗", "素早い茶色の狐 カタカナ ひらがな 漢字かな交じり文",
    "다람쥐 헌 쳇바퀴에 타고파", "الثعلب البني السريع", "तेज भूरी लोमड़ी", "ภาษาไทยไม่มีช่องว่าง",
    "mixed English и русский 和中文 و عربی together", "👍", "👍🏽👩‍👩‍👧‍👦 🇩🇪🇫🇷", "emoji👍in👍words", "\U0001F600\U0001F601 \U0001F602",
    "\u00a0nbsp\u00a0", "\u3000ideographic\u3000space", "a\u2003em\u2009thin\u200bzero", "line\u2028sep\u2029para\u0085nel",
    "\u180ea\u180e b", "\x00\x01\x02\x1c\x1d\x7f", "\ufeffBOM", "\ufffd replacement", "tab\tseparated\tvalues",
    "def f(x):\n    return x**2\n\n\tif x >= 10:  # note\n", "https://example.com/a?b=c&d=%20#e", "foo@bar.example.org",
    "{\"key\": [1, 2.5, null, true]}", "!?!?... --- *** $$$ @#%^&*()_+-=[]{}|;':\",./<>?", "snake_case CamelCase kebab-case",
    "supercalifragilisticexpialidocious", "x" * 300, "ab" * 100, "=" * 77, " " * 50 + "end", "\n" * 20 + "end",
    "<|endoftext|>", "one<|endoftext|>two", " <|endoftext|> ", "<|endoftext|><|endoftext|>", "<|endoftext", "<|end<|endoftext|>",
    "<s>Hi</s>", "a <mask> b", "call [TOOL] now", "call[TOOL]now", "xtoolx tool tools", "the normal one", "<|pad|>a  <|pad|>  b",
    "  <mask>", "<mask>  ", "<mask> <mask>", " \n<mask>\n x",
]


def trained(text, vocab_size, special, pre, **options):
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(vocab_size=vocab_size, special_tokens=special, initial_alphabet=ALPHABET,
                                  show_progress=False, **options)
    tokenizer.train_from_iterator(text, trainer)
    return tokenizer


def write(name, note, tokenizer, strings=STRINGS, document=None, config=None):
    cases = []
    for text in strings:
        plain = tokenizer.encode(text, add_special_tokens=False).ids
        around = tokenizer.encode(text, add_special_tokens=True).ids
        case = {"text": text, "ids": plain, "decoded": tokenizer.decode(plain, skip_special_tokens=False)}
        if around != plain:
            case["ids_special"] = around
        skipped = tokenizer.decode(around, skip_special_tokens=True)
        if skipped != case["decoded"]:
            case["decoded_skip"] = skipped
        cases.append(case)
    save(name, {"note": note, "reference": "tokenizers " + tokenizers.__version__,
                "tokenizer": document or json.loads(tokenizer.to_str()), "config": config, "cases": cases})


def save(name, value):
    (OUT / (name + ".json")).write_text(json.dumps(value, ensure_ascii=True, separators=(",", ":")) + "\n")


def byte_level(**options):
    return pre_tokenizers.ByteLevel(**{"add_prefix_space": False, **options})


def split_then_bytes(*patterns):
    steps = [pre_tokenizers.Split(Regex(p), "isolated") for p in patterns]
    return pre_tokenizers.Sequence(steps + [byte_level(use_regex=False)])


LLAMA3 = (r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*"
          r"|\s*[\r\n]+|\s+(?!\S)|\s+")
O200K = (r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]*[\p{Ll}\p{Lm}\p{Lo}\p{M}]+(?i:'s|'t|'re|'ve|'m|'ll|'d)?"
         r"|[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]+[\p{Ll}\p{Lm}\p{Lo}\p{M}]*(?i:'s|'t|'re|'ve|'m|'ll|'d)?"
         r"|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+")
SCRIPTS = [r"\p{N}{1,3}+", r"[\p{Han}\p{Hiragana}\p{Katakana}]+", r"\w+|\h|[^\w\s]+|\S?\s+", r"x{,4}|(?:ab){2,3}"]


def make_tokenizers():
    text = [SHAKESPEARE[:60_000]] + MIXED
    end = "<|endoftext|>"
    gpt2 = trained(text, 640, [end], byte_level())
    write("byte_level", "GPT-2: ByteLevel with its own pattern", gpt2, config={"eos_token": end, "bos_token": {"content": end}})

    old = json.loads(trained(text[1:], 400, [end], byte_level()).to_str())
    old["model"]["merges"] = [" ".join(m) for m in old["model"]["merges"]]
    del old["model"]["type"], old["model"]["ignore_merges"], old["model"]["byte_fallback"]
    for part in ("pre_tokenizer", "decoder"):
        del old[part]["use_regex"]
    write("string_merges", "as files were before tokenizers 0.20", Tokenizer.from_str(json.dumps(old)), document=old)

    write("prefix_space", "a space in front of every piece that has none", trained(text[1:], 420, ["<s>", "</s>"],
                                                                                   byte_level(add_prefix_space=True)))

    llama = trained(text, 560, ["<s>", "</s>"], split_then_bytes(LLAMA3))
    llama.add_special_tokens([AddedToken(end, special=True, normalized=False), AddedToken("<|pad|>", rstrip=True, special=True)])
    llama.add_tokens([AddedToken("<mask>", lstrip=True, rstrip=True, normalized=False), AddedToken("[TOOL]", single_word=True),
                      AddedToken("tool", single_word=True, normalized=True), AddedToken("normal one", normalized=True),
                      AddedToken("<|end", normalized=False)])
    llama.post_processor = processors.Sequence([
        processors.ByteLevel(trim_offsets=False),
        processors.TemplateProcessing(single="<s> $A </s>:1", pair="<s> $A </s> $B:1 </s>:1", special_tokens=[("<s>", 0), ("</s>", 1)])])
    write("llama3", "Split and ByteLevel in a Sequence, a template, added tokens with every flag", llama,
          config={"bos_token": "<s>", "eos_token": "</s>"})

    whole = json.loads(llama.to_str())
    whole["model"]["ignore_merges"] = True
    whole["added_tokens"] = []
    whole["post_processor"] = None
    for word in ("Ġworld", "Citizen", "ĠĠĠĠĠĠ", "superc", "123"):
        whole["model"]["vocab"].setdefault(word, len(whole["model"]["vocab"]))
    write("ignore_merges", "words of the vocabulary that no merge makes", Tokenizer.from_str(json.dumps(whole)), document=whole)

    write("o200k", "letters by case, marks", trained(text, 500, [], split_then_bytes(O200K)))
    write("scripts", "several Splits; constructs where Ruby's syntax and Perl's differ", trained(text, 500, [], split_then_bytes(*SCRIPTS)))

    letters = sorted(set("".join(STRINGS + [SHAKESPEARE])))
    chars = Tokenizer(models.BPE(vocab={c: i for i, c in enumerate(letters)}, merges=[]))
    chars.decoder = decoders.Fuse()
    write("characters", "one id a character, in the order of code points", chars)

    order = list(range(0x21, 0x7F)) + list(range(0xA1, 0xAD)) + list(range(0xAE, 0x100))
    letter, extra = {b: chr(b) for b in order}, 256
    for b in range(256):
        if b not in letter:
            letter[b], extra = chr(extra), extra + 1
    raw = Tokenizer(models.BPE(vocab={letter[b]: b for b in range(256)}, merges=[]))
    raw.pre_tokenizer = byte_level(use_regex=False)
    raw.decoder = decoders.ByteLevel(add_prefix_space=False, use_regex=False)
    write("bytes", "the id of a byte is the byte", raw)


def make_training():
    runs = []

    def run(name, texts, vocab_size, special=(), min_frequency=0):
        tokenizer = Tokenizer(models.BPE())
        tokenizer.pre_tokenizer = byte_level()
        trainer = trainers.BpeTrainer(vocab_size=vocab_size, special_tokens=list(special), initial_alphabet=ALPHABET,
                                      min_frequency=min_frequency, show_progress=False)
        if texts is None:
            with tempfile.NamedTemporaryFile("w", suffix=".txt", newline="") as file:
                file.write(SHAKESPEARE)
                file.flush()
                tokenizer.train([file.name], trainer)
        else:
            tokenizer.train_from_iterator(texts, trainer)
        model = json.loads(tokenizer.to_str())["model"]
        tokens = sorted(model["vocab"], key=model["vocab"].get)
        runs.append({"name": name, "texts": texts, "vocab_size": vocab_size, "special_tokens": list(special),
                     "min_frequency": min_frequency, "merges": model["merges"],
                     "first": tokens[:len(tokens) - len(model["merges"])], "size": len(tokens)})

    run("file", None, 1000, ["<|endoftext|>"])
    run("scripts", MIXED, 5000)
    run("runs", ["aaaa aaaaaaa aaa aaaaaaaaaaaaaaaaaaaa", "ababab abababab bababab", "=" * 100 + " " + "-" * 33, "abcabcabc bcabca cab"], 2000)
    run("min_frequency", MIXED + [SHAKESPEARE[:3000]], 5000, ["<s>", "</s>", "the", "a"], 3)
    run("white_space", ["a\n\n\nb  c\t\t\td \n \n e\r\n\r\n\r\nf", "   x    y     z      ", "\n\n\n\n"], 400)
    save("train", {"reference": "tokenizers " + tokenizers.__version__, "source": SOURCE, "source_bytes": SOURCE_BYTES, "runs": runs})


if __name__ == "__main__":
    OUT.mkdir(parents=True, exist_ok=True)
    make_tokenizers()
    make_training()
