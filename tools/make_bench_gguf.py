#!/usr/bin/env python3
"""Writes a GGUF file with the sizes of SmolLM2-135M, random weights and a tokenizer of single bytes, for speed
comparisons: llama.cpp loads it, and it is as fast or slow as the real file. What it generates means nothing.

    python tools/make_bench_gguf.py OUT.gguf [--type Q4_1] [--embedding Q8_0]        (needs gguf and numpy)

The default types are those of SmolLM2-135M-Instruct.Q4_1.gguf. The same arguments give the same bytes.
"""

import argparse

import numpy as np
from gguf import GGML_QUANT_SIZES, GGMLQuantizationType, GGUFWriter, TokenType

LAYERS, WIDTH, HIDDEN, HEADS, KV_HEADS, VOCAB, CONTEXT = 30, 576, 1536, 9, 3, 49152, 8192
HEAD = WIDTH // HEADS
# Where a block's float16 scales lie, and what their sizes are beside each other: the weights come out as numbers of
# deviation near 1 / sqrt(WIDTH), around 0.
SCALES = {"Q4_0": {0: 1}, "Q4_1": {0: 1, 2: -7.5}, "Q5_0": {0: 0.5}, "Q5_1": {0: 0.5, 2: -7.75}, "Q8_0": {0: 1 / 16},
          "Q4_K": {0: 1 / 32, 2: 7.5 / 32}, "Q5_K": {0: 1 / 64, 2: 15.5 / 64}, "Q6_K": {208: 1 / 512}}
rng = np.random.default_rng(0)


def blocks(rows, columns, kind):
    weights, size = GGML_QUANT_SIZES[GGMLQuantizationType[kind]]
    if columns % weights:
        raise SystemExit(f"{kind} has blocks of {weights}, which {columns} columns are no multiple of")
    data = rng.integers(0, 256, (rows * columns // weights, size), dtype=np.uint8)
    for at, share in SCALES[kind].items():
        data[:, at:at + 2] = np.full((len(data), 1), share / 4.6 / WIDTH**0.5, np.float16).view(np.uint8)
    return data.reshape(rows, -1)


def letters():
    """GPT-2's printable letter of each byte."""
    kept = [*range(33, 127), *range(161, 173), *range(174, 256)]
    others = (b for b in range(256) if b not in kept)
    return [chr(b) for b in kept] + [chr(256 + i) for i, _ in enumerate(others)]


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("out")
    parser.add_argument("--type", default="Q4_1", choices=SCALES, help="of the layers' matrices")
    parser.add_argument("--embedding", default="Q8_0", choices=SCALES, help="of the embedding, which is also the head")
    args = parser.parse_args()

    out = GGUFWriter(args.out, "llama")
    out.add_name("SmolLM2-135M's sizes, random")
    out.add_block_count(LAYERS)
    out.add_context_length(CONTEXT)
    out.add_embedding_length(WIDTH)
    out.add_feed_forward_length(HIDDEN)
    out.add_head_count(HEADS)
    out.add_head_count_kv(KV_HEADS)
    out.add_rope_dimension_count(HEAD)
    out.add_rope_freq_base(100000.0)
    out.add_layer_norm_rms_eps(1e-5)
    out.add_vocab_size(VOCAB)

    tokens = ["<|endoftext|>", *letters(), "\u0120t"]
    kinds = [TokenType.CONTROL] + [TokenType.NORMAL] * (len(tokens) - 1)
    fill = VOCAB - len(tokens)
    out.add_tokenizer_model("gpt2")
    out.add_tokenizer_pre("smollm")
    out.add_token_list(tokens + [f"<{i}>" for i in range(fill)])
    out.add_token_types(kinds + [TokenType.NORMAL] * fill)
    out.add_token_merges(["\u0120 t"])
    out.add_bos_token_id(0)
    out.add_eos_token_id(0)
    out.add_add_bos_token(False)

    def matrix(name, rows, columns, kind):
        out.add_tensor(name, blocks(rows, columns, kind), raw_dtype=GGMLQuantizationType[kind])

    ones = np.ones(WIDTH, np.float32)
    matrix("token_embd.weight", VOCAB, WIDTH, args.embedding)
    out.add_tensor("output_norm.weight", ones)
    for i in range(LAYERS):
        at = f"blk.{i}."
        out.add_tensor(at + "attn_norm.weight", ones)
        out.add_tensor(at + "ffn_norm.weight", ones)
        matrix(at + "attn_q.weight", WIDTH, WIDTH, args.type)
        matrix(at + "attn_k.weight", KV_HEADS * HEAD, WIDTH, args.type)
        matrix(at + "attn_v.weight", KV_HEADS * HEAD, WIDTH, args.type)
        matrix(at + "attn_output.weight", WIDTH, WIDTH, args.type)
        matrix(at + "ffn_gate.weight", HIDDEN, WIDTH, args.type)
        matrix(at + "ffn_up.weight", HIDDEN, WIDTH, args.type)
        matrix(at + "ffn_down.weight", WIDTH, HIDDEN, args.type)
    out.write_header_to_file()
    out.write_kv_data_to_file()
    out.write_tensors_to_file()
    out.close()


main()
