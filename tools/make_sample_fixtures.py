"""Makes tests/fixtures/samples/: two small tokenizers and cases.json, with the packages `transformers` 5 and `tokenizers`: run from
the repository root. Nothing here calls our code.

cases.json: `generation`: templates with {% generation %} blocks, written for these fixtures, with the ids and the mask that
apply_chat_template(return_assistant_tokens_mask=True) gives. `turns`: templates without such blocks, by their name in the chat_templates.json that lies beside the
repository, and the mask of a rule written by hand for each: what stands between two texts (open, close), the closing one included,
by the tokenizer's offsets. `split`: the conversations are cut off behind each turn, and the last turn alone counts.
"""

import json
import re
from pathlib import Path

from tokenizers import AddedToken, Tokenizer, decoders, models, normalizers, pre_tokenizers, trainers
from transformers import PreTrainedTokenizerFast

OUT = Path("tests/fixtures/samples")
SHARED = json.loads(Path("../shared/fixtures/chat_templates.json").read_text())
TEXT = Path("lmxlab/data/tinyshakespeare.txt").read_bytes()[:60_000].decode()
SPECIAL = [
    "<unk>", "<s>", "</s>", "<|im_start|>", "<|im_end|>", "<|begin_of_text|>", "<|start_header_id|>", "<|end_header_id|>", "<|eot_id|>",
    "<start_of_turn>", "<end_of_turn>", "[INST]", "[/INST]", "[TOOL_CALLS]", "[TOOL_RESULTS]", "[/TOOL_RESULTS]", "[AVAILABLE_TOOLS]",
    "[/AVAILABLE_TOOLS]", "<|user|>", "<|assistant|>", "<|system|>", "<|end|>",
]
CHAT_WORDS = "user\nassistant\nsystem\ntool\nmodel\nHello, how can I help?\n\n\n\n" * 40


def byte_level():
    t = Tokenizer(models.BPE())
    t.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    t.decoder = decoders.ByteLevel()
    t.train_from_iterator([TEXT, CHAT_WORDS], trainers.BpeTrainer(
        vocab_size=420, special_tokens=SPECIAL, initial_alphabet=pre_tokenizers.ByteLevel.alphabet(), show_progress=False))
    return t


def metaspace():
    """As Llama 2's: U+2581 for spaces and in front, bytes for what is not there."""
    alphabet = [f"<0x{b:02X}>" for b in range(256)]
    t = Tokenizer(models.BPE(byte_fallback=True, unk_token="<unk>"))
    t.normalizer = normalizers.Sequence([normalizers.Prepend("\u2581"), normalizers.Replace(" ", "\u2581")])
    t.decoder = decoders.Sequence([decoders.Replace("\u2581", " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)])
    words = [w for w in re.findall(r" ?\S+|\n+", TEXT)]
    t.train_from_iterator(words, trainers.BpeTrainer(vocab_size=640, special_tokens=SPECIAL + alphabet, show_progress=False))
    model = json.loads(t.to_str())
    model["added_tokens"] = [a for a in model["added_tokens"] if not a["content"].startswith("<0x")]
    return Tokenizer.from_str(json.dumps(model))


CALL = {"role": "assistant", "content": "Let me see.", "tool_calls": [
    {"id": "call00001", "type": "function", "function": {"name": "get_weather", "arguments": {"city": "Zürich", "unit": "celsius"}}}]}
LISTS = {
    "one": [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Hello, how can I help?"}],
    "multi": [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Hello\n\nthere. 👋🏽"},
              {"role": "user", "content": "Say assistant\n twice."}, {"role": "assistant", "content": " assistant\nassistant "},
              {"role": "user", "content": "Again"}, {"role": "assistant", "content": "\n\nNo é"}],
    "system": [{"role": "system", "content": "You are terse."}, {"role": "user", "content": "2 + 2?"}, {"role": "assistant", "content": "4"},
               {"role": "user", "content": "And 3 + 3?"}, {"role": "assistant", "content": "6"}],
    "tools": [{"role": "system", "content": "Use tools."}, {"role": "user", "content": "Weather in Zürich?"}, CALL,
              {"role": "tool", "name": "get_weather", "tool_call_id": "call00001", "content": "{\"temp\": 21.5}"},
              {"role": "assistant", "content": "It is 21.5 °C."}, {"role": "user", "content": "Thanks"}, {"role": "assistant", "content": "Any time."}],
    "think": [{"role": "user", "content": "Why?"}, {"role": "assistant", "content": "Because.", "reasoning_content": "Let me think."},
              {"role": "user", "content": "And?"}, {"role": "assistant", "content": "Yes.", "reasoning_content": "Hm."}],
}

GENERATION = {
    "im": "{% if tools %}<|im_start|>system\n{{ tools|tojson }}<|im_end|>\n{% endif %}{% for m in messages %}<|im_start|>{{ m.role }}\n"
          "{% if m.role == 'assistant' %}{% generation %}{% if m.reasoning_content %}<think>{{ m.reasoning_content }}</think>\n{% endif %}{{ m.content }}"
          "{% for c in m.tool_calls or [] %}\n<tool_call>{{ c.function|tojson }}</tool_call>{% endfor %}<|im_end|>{% endgeneration %}\n"
          "{% else %}{{ m.content }}<|im_end|>\n{% endif %}{% endfor %}{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}",
    "inst": "{{ bos_token }}{% for m in messages %}{% if m.role == 'assistant' %}{% generation %} {{ m.content|trim }}"
            "{% if m.tool_calls %}[TOOL_CALLS]{{ m.tool_calls|tojson }}{% endif %}{{ eos_token }}{% endgeneration %}"
            "{% elif m.role == 'tool' %}[TOOL_RESULTS]{{ m.content }}[/TOOL_RESULTS]{% else %}[INST] {{ m.content }} [/INST]{% endif %}{% endfor %}",
    "lines": "{%- for m in messages %}\n{{- '<|' ~ m.role ~ '|>' }}\n{% if m.role == 'assistant' -%}\n{%- generation -%}\n{{ m.content }}{{ eos_token }}\n"
             "{%- endgeneration %}\n\n{% else %}\n{{ m.content }}{{ eos_token }}\n{% endif %}{%- endfor %}",
}

# Name of a template: its lists, and what opens and closes a turn of the model.
TURNS = {
    "chatml": (["one", "multi", "system"], "<|im_start|>assistant\n", "<|im_end|>", False),
    "llama3": (["one", "multi", "system"], "<|start_header_id|>assistant<|end_header_id|>\n\n", "<|eot_id|>", False),
    "gemma": (["one", "multi"], "<start_of_turn>model\n", "<end_of_turn>", False),
    "qwen2_5": (["one", "multi", "system", "tools"], "<|im_start|>assistant\n", "<|im_end|>", False),
    "llama2_inst": (["one", "multi", "system"], "[/INST]", "</s>", False),
    "phi3": (["one", "multi", "system"], "<|assistant|>\n", "<|end|>", False),
    "qwen3": (["multi", "tools", "think"], "<|im_start|>assistant\n", "<|im_end|>", True),
    "mistral_v3_tools": (["one", "multi"], "[/INST]", "</s>", False),
}


def fast(tokenizer, template):
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, chat_template=template, bos_token="<s>", eos_token="</s>", unk_token="<unk>",
                                   clean_up_tokenization_spaces=False)


def generation_cases(tokenizers):
    for name, template in GENERATION.items():
        cases = []
        for kind, tokenizer in tokenizers.items():
            for messages in LISTS:
                tools = SHARED["tools"] if messages == "tools" else None
                got = fast(tokenizer, template).apply_chat_template(
                    LISTS[messages], tools=tools, tokenize=True, return_dict=True, return_assistant_tokens_mask=True)
                cases.append({"tokenizer": kind, "messages": messages, "tools": tools is not None, "ids": got["input_ids"], "mask": got["assistant_masks"]})
        yield {"name": name, "template": template, "cases": cases}


def by_hand(tokenizer, text, opening, closing, last_only):
    encoded = tokenizer.encode(text, add_special_tokens=False)
    spans = []
    for found in re.finditer(re.escape(opening), text):
        spans.append((found.end(), text.index(closing, found.end()) + len(closing)))
    if last_only:
        spans = spans[-1:]
    mask = [int(any(b < end and e > begin for begin, end in spans)) for b, e in encoded.offsets]
    return {"ids": encoded.ids, "mask": mask}


def turn_cases(tokenizer):
    for name, (lists, opening, closing, split) in TURNS.items():
        template = next(t["template"] for t in SHARED["templates"] if t["name"] == name)
        cases = []
        for messages in lists:
            tools = SHARED["tools"] if messages == "tools" else None
            whole = LISTS[messages]
            ends = [i + 1 for i, m in enumerate(whole) if m["role"] == "assistant"] if split else [len(whole)]
            sequences = []
            for end in ends:
                text = fast(tokenizer, template).apply_chat_template(whole[:end], tools=tools, tokenize=False)
                sequences.append(by_hand(tokenizer, text, opening, closing, split))
            cases.append({"messages": messages, "tools": tools is not None, "sequences": sequences})
        yield {"name": name, "split": split, "cases": cases}


def main():
    OUT.mkdir(parents=True, exist_ok=True)
    tokenizers = {"byte_level": byte_level(), "metaspace": metaspace()}
    for name, tokenizer in tokenizers.items():
        (OUT / f"{name}.json").write_text(json.dumps(json.loads(tokenizer.to_str())) + "\n")
    cases = {"messages": LISTS, "tools": SHARED["tools"], "generation": list(generation_cases(tokenizers)), "turns": list(turn_cases(tokenizers["byte_level"]))}
    (OUT / "cases.json").write_text(json.dumps(cases) + "\n")


main()
