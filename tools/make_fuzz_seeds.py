#!/usr/bin/env python3
"""Makes the seeds of the fuzz targets, tests/fuzz/corpus/TARGET/NAME: small files of every format, right in all they say.

    python3 tools/make_fuzz_seeds.py        (nothing but Python is needed)

What a fuzzer found (found-*) and what it kept (40 hexadecimal digits) lies beside them and stays.
"""

import base64
import json
import struct
from pathlib import Path

TOP = Path(__file__).resolve().parents[1]
FIXTURES = TOP / "tests/fixtures"
CORPUS = TOP / "tests/fuzz/corpus"


def put(target, name, content):
    folder = CORPUS / target
    folder.mkdir(parents=True, exist_ok=True)
    if not isinstance(content, (bytes, str)):
        content = json.dumps(content, ensure_ascii=False, separators=(",", ":"))
    (folder / name).write_bytes(content.encode() if isinstance(content, str) else content)


# ---- safetensors ----


def safetensors(header, data):
    text = json.dumps(header, separators=(",", ":")).encode()
    return struct.pack("<Q", len(text)) + text + data


def make_safetensors():
    sizes = dict(F32=4, F16=2, BF16=2, I32=4, I64=8, U8=1, U16=2, U32=4, U64=8, I8=1, I16=2, BOOL=1, F64=8, C64=8, F8_E4M3=1,
                 F8_E5M2=1)
    at, header = 0, {"__metadata__": {"format": "pt"}}
    for name, size in sizes.items():
        header[f"w.{name}"] = {"dtype": name, "shape": [2, 1], "data_offsets": [at, at + 2 * size]}
        at += 2 * size
    put("safetensors", "types", safetensors(header, bytes(range(at))))
    put("safetensors", "shapes", safetensors({
        "a": {"dtype": "F32", "shape": [], "data_offsets": [0, 4]},
        "b": {"dtype": "F32", "shape": [0, 7], "data_offsets": [4, 4]},
        "c": {"dtype": "F64", "shape": [1], "data_offsets": [4, 12]}}, bytes(12)))


# ---- GGUF ----

TYPES = dict(u8=(0, "B"), i8=(1, "b"), u16=(2, "H"), i16=(3, "h"), u32=(4, "I"), i32=(5, "i"), f32=(6, "f"), bool=(7, "?"),
             string=(8, None), array=(9, None), u64=(10, "Q"), i64=(11, "q"), f64=(12, "d"))


def packed(kind, value):
    if kind == "string":
        value = value.encode() if isinstance(value, str) else value
        return struct.pack("<Q", len(value)) + value
    if kind.startswith("["):
        inner = kind[1:-1]
        number = TYPES["array" if inner.startswith("[") else inner][0]
        return struct.pack("<IQ", number, len(value)) + b"".join(packed(inner, v) for v in value)
    return struct.pack("<" + TYPES[kind][1], value)


def gguf(values, tensors, alignment=32):
    """values: key -> (type, value), "[type]" for an array; tensors: name -> (shape, number of the type, bytes)."""
    out = b"GGUF" + struct.pack("<IQQ", 3, len(tensors), len(values))
    for key, (kind, value) in values.items():
        number = TYPES["array" if kind.startswith("[") else kind][0]
        out += packed("string", key) + struct.pack("<I", number) + packed(kind, value)
    data = b""
    for name, (shape, number, size) in tensors.items():
        data += bytes(-len(data) % alignment)
        out += packed("string", name) + struct.pack("<I", len(shape)) + b"".join(struct.pack("<Q", n) for n in shape)
        out += struct.pack("<IQ", number, len(data))
        data += bytes((7 * i + number) % 256 for i in range(size))
    return out + bytes(-len(out) % alignment) + data


def form(arch, **more):
    keys = {"general.architecture": ("string", arch)}
    sizes = dict(block_count=1, context_length=64, embedding_length=8, feed_forward_length=16)
    for key, value in sizes.items():
        keys[f"{arch}.{key}"] = ("u32", value)
    keys[f"{arch}.attention.head_count"] = ("u32", 2)
    for key, value in more.items():
        keys[f"{arch}.{key.replace('__', '.')}"] = value
    return keys


def vocabulary(model, tokens, **more):
    keys = {"tokenizer.ggml.model": ("string", model), "tokenizer.ggml.tokens": ("[string]", tokens)}
    for key, value in more.items():
        keys[f"tokenizer.ggml.{key}"] = value
    return keys


def make_gguf():
    blocks = {2: (32, 18), 8: (32, 34), 16: (256, 66), 17: (256, 74), 18: (256, 98), 19: (256, 50), 20: (32, 18), 21: (256, 110),
              22: (256, 82), 23: (256, 136), 29: (256, 56), 34: (256, 54), 35: (256, 66), 39: (32, 17), 40: (64, 36)}
    for number, (weights, size) in blocks.items():
        put("gguf", f"type-{number}", gguf({}, {"w": ([weights], number, size)}))
    plain = {0: 4, 1: 2, 24: 1, 25: 2, 26: 4, 27: 8, 28: 8, 30: 2}
    put("gguf", "plain", gguf({"general.alignment": ("u32", 8)},
                              {f"w{n}": ([2, 1], n, 2 * size) for n, size in plain.items()}, 8))
    put("gguf", "values", gguf({
        **{k: (k, 1) for k in ("u8", "i8", "u16", "i16", "u32", "i32", "f32", "bool", "u64", "i64", "f64")},
        "s": ("string", "text"), "a": ("[i16]", [1, -2]), "n": ("[[string]]", [["a"], []])}, {}))
    table = {"token_embd.weight": ([8, 4], 0, 128)}
    norm = dict(attention__layer_norm_rms_epsilon=("f32", 1e-5))
    put("gguf", "llama", gguf(form("llama", rope__dimension_count=("u32", 4), rope__freq_base=("f32", 1e4), **norm) |
                              vocabulary("llama", ["<unk>", "<s>", "</s>", "<0x0A>", "\u2581", "a", "b", "ab"],
                                         scores=("[f32]", [0, 0, 0, 0, -1, -2, -3, -0.5]),
                                         token_type=("[i32]", [2, 3, 3, 6, 1, 1, 1, 1]), bos_token_id=("u32", 1),
                                         eos_token_id=("u32", 2), add_bos_token=("bool", True)) |
                              {"tokenizer.chat_template": ("string", "{{ messages[0].content }}")}, table))
    put("gguf", "qwen3", gguf(form("qwen3", attention__key_length=("u32", 8), attention__head_count_kv=("[u32]", [1]),
                                   rope__scaling__type=("string", "yarn"), rope__scaling__factor=("f32", 4),
                                   rope__scaling__original_context_length=("u32", 16), **norm) |
                              vocabulary("gpt2", ["<|x|>", "a", "b", "\u0120", "ab"], pre=("string", "qwen2"),
                                         merges=("[string]", ["a b"]), token_type=("[i32]", [3, 1, 1, 1, 1])), table))
    put("gguf", "gpt2", gguf(form("gpt2", attention__layer_norm_epsilon=("f32", 1e-5)) |
                             vocabulary("bert", ["[UNK]", "[CLS]", "[SEP]", "\u2581a", "b"], unknown_token_id=("u32", 0),
                                        cls_token_id=("u32", 1), seperator_token_id=("u32", 2),
                                        token_type=("[i32]", [3, 3, 3, 1, 1])), table))
    put("gguf", "phi3", gguf(form("phi3", attention__sliding_window=("u32", 8),
                                  rope__scaling__original_context_length=("u32", 16),
                                  rope__scaling__attn_factor=("f32", 1.2), **norm) |
                             vocabulary("t5", ["<pad>", "</s>", "<unk>", "\u2581", "a"], scores=("[f32]", [0, 0, 0, -2, -3]),
                                        token_type=("[i32]", [3, 3, 2, 1, 1]), eos_token_id=("u32", 1),
                                        precompiled_charsmap=("[u8]", [])),
                             table | {"rope_factors_long.weight": ([2], 0, 8), "rope_factors_short.weight": ([2], 0, 8)}))
    for arch in ("gemma3", "starcoder2", "olmo2", "smollm3"):
        put("gguf", arch, gguf(form(arch, attention__key_length=("u32", 4), rope__freq_base_swa=("f32", 1e4), attn_logit_softcapping=("f32", 50),
                                    attention__layer_norm_epsilon=("f32", 1e-5), **norm),
                               table | {"rope_freqs.weight": ([2], 0, 8)}))


# ---- tokenizers ----

WORDS = {"<unk>": 0, "a": 1, "b": 2, "ab": 3, "\u0120": 4, "\u0120a": 5, "l": 6, "o": 7, "lo": 8, "\u2581": 9, "<0x0A>": 10}


def tokenizer(model, **more):
    return {"version": "1.0", "truncation": None, "padding": None, "added_tokens": [], "normalizer": None, "pre_tokenizer": None,
            "post_processor": None, "decoder": None, "model": model} | more


def added(id, content, **flags):
    names = ("single_word", "lstrip", "rstrip", "normalized", "special")
    return {"id": id, "content": content} | {n: flags.get(n, False) for n in names}


def bpe(**more):
    return {"type": "BPE", "dropout": None, "unk_token": None, "continuing_subword_prefix": None, "end_of_word_suffix": None,
            "fuse_unk": False, "byte_fallback": False, "ignore_merges": False, "vocab": WORDS,
            "merges": [["a", "b"], ["\u0120", "a"], ["l", "o"]]} | more


def make_tokenizers():
    split = {"type": "Split", "pattern": {"Regex": r"(?i:'s|'t)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}|\s+(?!\S)|\s+"},
             "behavior": "Isolated", "invert": False}
    bytes_ = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": False}
    put("tokenizer_json", "byte-level", tokenizer(
        bpe(), added_tokens=[added(11, "<|x|>", special=True), added(12, "<s>", lstrip=True, rstrip=True, single_word=True)],
        pre_tokenizer={"type": "Sequence", "pretokenizers": [split, bytes_]}, decoder=bytes_, normalizer={"type": "NFC"},
        post_processor={"type": "TemplateProcessing", "single": [{"SpecialToken": {"id": "<s>", "type_id": 0}},
                                                                 {"Sequence": {"id": "A", "type_id": 0}}],
                        "pair": [{"Sequence": {"id": "A", "type_id": 0}}, {"Sequence": {"id": "B", "type_id": 1}}],
                        "special_tokens": {"<s>": {"id": "<s>", "ids": [12], "tokens": ["<s>"]}}},
        truncation={"direction": "Right", "max_length": 8, "strategy": "LongestFirst", "stride": 1},
        padding={"strategy": {"Fixed": 16}, "direction": "Left", "pad_to_multiple_of": 8, "pad_id": 0, "pad_type_id": 0,
                 "pad_token": "<unk>"}))
    put("tokenizer_json", "llama", {"tokenizer": tokenizer(
        bpe(unk_token="<unk>", fuse_unk=True, byte_fallback=True, merges=["a b", "l o"]),
        normalizer={"type": "Sequence", "normalizers": [{"type": "Prepend", "prepend": "\u2581"},
                                                        {"type": "Replace", "pattern": {"String": " "}, "content": "\u2581"}]},
        decoder={"type": "Sequence", "decoders": [{"type": "Replace", "pattern": {"String": "\u2581"}, "content": " "},
                                                  {"type": "ByteFallback"}, {"type": "Fuse"},
                                                  {"type": "Strip", "content": " ", "start": 1, "stop": 0}]}),
        "config": {"bos_token": "<s>", "eos_token": {"content": "</s>"}, "add_bos_token": True, "tokenizer_class": "LlamaTokenizer"}})
    put("tokenizer_json", "affixes", tokenizer(
        bpe(continuing_subword_prefix="##", end_of_word_suffix="</w>", vocab={"a": 0, "##b": 1, "ab": 2, "##b</w>": 3, "ab</w>": 4},
            merges=[["a", "##b"], ["a", "##b</w>"]]), pre_tokenizer={"type": "Whitespace"},
        decoder={"type": "BPEDecoder", "suffix": "</w>"}))
    put("tokenizer_json", "unigram", tokenizer(
        {"type": "Unigram", "unk_id": 0, "byte_fallback": False, "vocab": [["<unk>", 0], ["\u2581", -2.5], ["a", -3], ["ab", -1e2]]},
        normalizer={"type": "Precompiled", "precompiled_charsmap": ""},
        pre_tokenizer={"type": "Metaspace", "replacement": "\u2581", "prepend_scheme": "first", "split": True},
        decoder={"type": "Metaspace", "replacement": "\u2581", "prepend_scheme": "always", "split": True}))
    put("tokenizer_json", "word-piece", tokenizer(
        {"type": "WordPiece", "unk_token": "[UNK]", "continuing_subword_prefix": "##", "max_input_chars_per_word": 100,
         "vocab": {"[UNK]": 0, "[CLS]": 1, "[SEP]": 2, "a": 3, "##b": 4, "hello": 5}},
        normalizer={"type": "BertNormalizer", "clean_text": True, "handle_chinese_chars": True, "strip_accents": None,
                    "lowercase": True},
        pre_tokenizer={"type": "BertPreTokenizer"}, decoder={"type": "WordPiece", "prefix": "##", "cleanup": True},
        post_processor={"type": "BertProcessing", "sep": ["[SEP]", 2], "cls": ["[CLS]", 1]}))
    parts = ["Whitespace", "WhitespaceSplit", "UnicodeScripts"]
    put("tokenizer_json", "word-level", tokenizer(
        {"type": "WordLevel", "vocab": {"<unk>": 0, "hello": 1, "1": 2}, "unk_token": "<unk>"},
        normalizer={"type": "Sequence", "normalizers": [{"type": t} for t in
                                                        ("NFD", "NFKC", "NFKD", "Lowercase", "StripAccents", "Nmt")] +
                    [{"type": "Strip", "strip_left": True, "strip_right": True},
                     {"type": "Replace", "pattern": {"Regex": "o+"}, "content": "0"}]},
        pre_tokenizer={"type": "Sequence", "pretokenizers": [{"type": t} for t in parts] +
                       [{"type": "Digits", "individual_digits": True}, {"type": "Punctuation", "behavior": "MergedWithNext"},
                        {"type": "CharDelimiterSplit", "delimiter": "x"}, {"type": "FixedLength", "length": 5}]},
        post_processor={"type": "RobertaProcessing", "sep": ["<unk>", 0], "cls": ["hello", 1], "trim_offsets": True,
                        "add_prefix_space": True},
        decoder={"type": "CTC", "pad_token": "<pad>", "word_delimiter_token": "|", "cleanup": True}))
    put("tokenizer_json", "bytes", tokenizer(bpe(), normalizer={"type": "ByteLevel"}, lmxlab={
        "added_are_text": True, "model": {"late_fallback": False, "frozen": ["ab"], "unused": ["lo"], "ranks": [0, 0, 1]}}))
    put("tokenizer_json", "own", tokenizer(
        {"type": "Unigram", "unk_id": 0, "byte_fallback": True, "vocab": [["<unk>", 0], ["\u2581", -2.5], ["a", -3]]},
        lmxlab={"model": {"single_precision": True, "hidden": [0], "user_defined": [2]},
                "normalizer": {"charsmap": "", "add_dummy_prefix": True, "remove_extra_whitespaces": True,
                               "escape_whitespaces": True, "whitespace_as_suffix": False, "kept": ["a"]},
                "decoder": {"strip_first": True, "strip_all": False, "unk_piece": "<unk>", "unk_surface": "?",
                            "controls": ["<s>"]}}))

    ranks = [bytes([i]) for i in range(97, 105)] + [b"ab", b"cd", b"abcd"]
    lines = "".join(f"{base64.b64encode(t).decode()} {i}\n" for i, t in enumerate(ranks))
    put("ranks", "tiktoken", lines)
    put("ranks", "tekken", {
        "config": {"pattern": r"\p{L}+|\p{N}|[^\s\p{L}]+|\s+", "num_vocab_tokens": 11, "default_vocab_size": 13,
                   "default_num_special_tokens": 2, "version": "v3"},
        "vocab": [{"rank": i, "token_bytes": base64.b64encode(t).decode(), "token_str": None} for i, t in enumerate(ranks)],
        "special_tokens": [{"rank": 0, "token_str": "<unk>", "is_control": True}, {"rank": 1, "token_str": "<s>"}]})
    put("ranks", "words", "[PAD]\n[UNK]\n[CLS]\n[SEP]\n[MASK]\nhello\n##a\nab\n")
    put("ranks", "merges", '{"a":0,"b":1,"ab":2,"\u0120":3}\0#version: 0.2\na b\n')


# ---- SentencePiece ----


def varint(n):
    out = b""
    while n > 0x7F:
        out, n = out + bytes([n & 0x7F | 0x80]), n >> 7
    return out + bytes([n])


def field(number, value):
    if isinstance(value, float):
        return varint(number << 3 | 5) + struct.pack("<f", value)
    if isinstance(value, int):
        return varint(number << 3) + varint(value)
    value = value.encode() if isinstance(value, str) else value
    return varint(number << 3 | 2) + varint(len(value)) + value


def sentencepiece(pieces, kind, charsmap=b"", **trainer):
    out = b"".join(field(1, field(1, text) + field(2, float(score)) + field(3, type_)) for text, score, type_ in pieces)
    more = {"suffix": 24, "byte_fallback": 35, "unk_surface": 44}
    out += field(2, field(3, kind) + b"".join(field(more[k], v) for k, v in trainer.items()))
    return out + field(3, field(2, charsmap) + field(3, 1) + field(4, 1) + field(5, 1))


def make_sentencepiece():
    pieces = [("<unk>", 0, 2), ("<s>", 0, 3), ("</s>", 0, 3), ("\u2581", -1, 1), ("a", -2, 1), ("b", -3, 1), ("ab", -0.5, 1),
              ("\u2581a", -0.7, 1), ("<x>", 0, 4), ("aba", -4, 5)]
    # A double array whose only rule turns "A" into "a".
    units = [0] * 256
    units[0] = 1 << 10
    units[1 ^ 0x41] = 0x41 | 1 << 8 | 1 << 10
    units[1 ^ 0x41 ^ 1] = 0x80000000
    charsmap = struct.pack("<I", 4 * len(units)) + struct.pack(f"<{len(units)}I", *units) + b"a\0"
    put("sentencepiece", "unigram", sentencepiece(pieces, 1, charsmap))
    put("sentencepiece", "bpe", sentencepiece(pieces + [(f"<0x{b:02X}>", 0, 6) for b in (0x0A, 0xE2, 0x96, 0x81)], 2,
                                              byte_fallback=1))
    put("sentencepiece", "characters", sentencepiece(pieces, 4, suffix=1, unk_surface=" ? "))


# ---- texts ----


def make_texts():
    snippets = json.loads((FIXTURES / "chat_templates/snippets.json").read_text())["snippets"]
    texts = [s["template"] for s in snippets]
    for i in range(0, len(texts), 12):  # a few in one file: fewer and as good
        put("jinja", f"snippets-{i // 12:02}", "\n".join(texts[i:i + 12]))
    put("jinja", "chat", "{%- for m in messages %}{{ '<|' + m.role + '|>' }}{% if m.content is string %}{{ m.content | trim }}"
        "{% else %}{% for c in m.content or [] %}{{ c.text }}{% endfor %}{% endif %}{% if m.tool_calls %}"
        "{{ m.tool_calls | tojson(indent=2) }}{% endif %}{{ eos_token }}{%- endfor %}"
        "{% if add_generation_prompt %}<|assistant|>{% endif %}")
    put("jinja", "macro", "{% macro f(x, y=2) -%}{{ x }}{{ caller() if caller else y }}{%- endmacro %}{% set ns = namespace(n=0) %}"
        "{% for k, v in d | items recursive %}{% set ns.n = ns.n + loop.index0 %}{{ f(k, y=v) }}{% else %}-{% endfor %}"
        "{% call f(1) %}{{ ns.n }}{% endcall %}{% filter upper %}{{ strftime_now('%d %b %Y') }}{% endfilter %}"
        "{% generation %}{{ l[::-1] ~ 'x' * 3 }}{% endgeneration %}{# no #}{% raw %}{{ }}{% endraw %}")

    for folder in sorted((FIXTURES / "models").iterdir()):
        put("config_json", folder.name, json.loads((folder / "config.json").read_text()))
    base = dict(vocab_size=64, hidden_size=16, intermediate_size=32, num_hidden_layers=2, num_attention_heads=4,
                num_key_value_heads=2, max_position_embeddings=64, rms_norm_eps=1e-6)
    more = {
        "llama": dict(rope_scaling=dict(rope_type="llama3", factor=8, low_freq_factor=1, high_freq_factor=4,
                                        original_max_position_embeddings=32), mlp_bias=True, hidden_act="silu"),
        "mistral": dict(sliding_window=8, head_dim=4), "qwen2": dict(use_sliding_window=False, rope_theta=1e6),
        "qwen3": dict(head_dim=8, rope_parameters=dict(rope_type="yarn", factor=4, beta_fast=32, beta_slow=1, mscale=1,
                                                       mscale_all_dim=1, original_max_position_embeddings=16)),
        "gemma2": dict(head_dim=8, query_pre_attn_scalar=8, sliding_window=8, attn_logit_softcapping=50.0,
                       final_logit_softcapping=30.0, hidden_activation="gelu_pytorch_tanh"),
        "gemma3_text": dict(head_dim=8, query_pre_attn_scalar=8, sliding_window=8, rope_local_base_freq=1e4,
                            layer_types=["sliding_attention", "full_attention"]),
        "phi3": dict(original_max_position_embeddings=32, rope_scaling=dict(type="longrope", short_factor=[1, 1],
                                                                            long_factor=[2, 3])),
        "smollm3": dict(no_rope_layers=[1, 0]), "olmo2": dict(rope_scaling=dict(type="linear", factor=2)),
        "starcoder2": dict(use_bias=True, norm_epsilon=1e-5, hidden_act="gelu_pytorch_tanh"),
    }
    for model, keys in more.items():
        put("config_json", model, dict(model_type=model) | base | keys)
    put("config_json", "multimodal", dict(model_type="many", text_config=dict(model_type="llama") | base))

    for path in sorted((TOP / "recipes").glob("*.toml"))[:4]:
        put("toml", path.stem, path.read_text())
    put("toml", "values", 'a.b."c.d" = [1, 0x1F, 1_000, -2.5e3, nan, -inf, true, "t\\u00e9\\n", \'l\']\n[[t]]\nd = 1979-05-27T07:32:00Z\n'
        'm = """\nx\n"""\n[[t]]\nn = { x = 1, y.z = [[1], []] }\n[t.u]\ne = {}\n')

    user, answer = '{"role": "user", "content": "a"}', '{"role": "assistant", "content": "b"}'
    call = '{"role": "assistant", "content": null, "tool_calls": [{"function": {"name": "f", "arguments": "{\\"x\\": 1}"}}]}'
    put("samples", "chat", '\ufeff{"messages": [{"role": "system", "content": "s"}, ' + f'{user}, {call}, {{"role": "tool", "content": "2"}}, {answer}], '
        '"tools": "[{}]", "chat_template_kwargs": {"x": 1}}\r\n\r\n')
    put("samples", "pair", f'{{"chosen": [{user}, {answer}], "rejected": [{user}, {answer}, {user}, {answer}]}}\n')
    put("samples", "pair-strings", '{"prompt": "a", "chosen": "b", "rejected": "c"}\n{"prompt": "a", "chosen": "b", "rejected": "d"}')
    put("samples", "answer", '{"prompt": "2 + 2", "answer": 4}\n{"prompt": [{"role": "user", "content": [{"type": "text", "text": "x"}]}], "answer": "y"}\n')
    put("samples", "completion", f'{{"prompt": [{user}], "completion": [{answer}]}}\n')
    put("samples", "mixed", '{"text": "a"}\n{"prompt": "a", "completion": "b"}\n')


if __name__ == "__main__":
    make_safetensors()
    make_gguf()
    make_tokenizers()
    make_sentencepiece()
    make_texts()
    sizes = [p.stat().st_size for p in CORPUS.rglob("*") if p.is_file()]
    print(f"{len(sizes)} files, {sum(sizes)} bytes")
