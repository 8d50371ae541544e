"""A model folder with random weights, for the sweep over batch and context. Speed does not depend on the values."""

import json
import pathlib

import numpy

# The width and depth of gpt-shakespeare, with rotary positions: it takes any context.
GROWING = dict(hidden_size=384, num_hidden_layers=6, num_attention_heads=6, num_key_value_heads=6, intermediate_size=1024,
               vocab_size=256, rope_theta=10000.0)


def weights(shape):
    """(name, rows, columns) of every matrix; norms have one row."""
    width, hidden = shape["hidden_size"], shape["intermediate_size"]
    size = width // shape["num_attention_heads"]
    wide = size * shape["num_key_value_heads"]
    yield "model.embed_tokens", shape["vocab_size"], width
    yield "model.norm", 1, width
    for i in range(shape["num_hidden_layers"]):
        layer = f"model.layers.{i}."
        yield layer + "input_layernorm", 1, width
        yield layer + "post_attention_layernorm", 1, width
        for name, rows, columns in (("self_attn.q", width, width), ("self_attn.k", wide, width), ("self_attn.v", wide, width),
                                    ("self_attn.o", width, width), ("mlp.gate", hidden, width), ("mlp.up", hidden, width),
                                    ("mlp.down", width, hidden)):
            yield layer + name + "_proj", rows, columns


def values(random, rows, columns):
    if rows == 1:
        return numpy.ones(columns, numpy.float32)
    return (random.standard_normal((rows, columns), numpy.float32) * 0.02).astype(numpy.float32)


def folder(place, shape):
    """A model folder in Hugging Face layout."""
    from safetensors.numpy import save_file
    place = pathlib.Path(place)
    if (place / "model.safetensors").exists():
        return place
    place.mkdir(parents=True, exist_ok=True)
    random = numpy.random.default_rng(0)
    save_file({name + ".weight": values(random, rows, columns) for name, rows, columns in weights(shape)},
              place / "model.safetensors", {"format": "pt"})
    config = dict(shape, model_type="llama", architectures=["LlamaForCausalLM"], hidden_act="silu", rms_norm_eps=1e-5,
                  max_position_embeddings=8192, tie_word_embeddings=True, torch_dtype="float32")
    (place / "config.json").write_text(json.dumps(config, indent=1))
    return place
