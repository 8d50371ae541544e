#!/usr/bin/env python3
"""Predicted against measured peak memory, over random settings: `lmxlab fit` beside `lmxlab bench`, and for adapters a short `lmxlab train`,
each in a process of its own.

    tools/plan/sweep.py --program build/release/lmxlab [--count 60] [--seed 1] [--checkpoints DIR] [--only TEXT] [--jobs 1] [--gpu]
        [--json FILE]

Models are random config.json files of dense families, the tiny model of every family, presets, and with --checkpoints the model
folders in DIR, whose weights are mapped. A prompt alone may take less than `fit` plans, of a text with 128 tokens more: it is
held against the larger of `bench --mode prefill` and `--mode decode`. The allocator's counter is compared at every size; above
256 MiB the resident set too, less what the process held before the model, with the plan and what is kept for reuse. Exits with 1
where the median is above 3 % or the worst above 8 %.
"""
import argparse
import concurrent.futures
import itertools
import json
import pathlib
import random
import statistics
import subprocess
import sys
import tempfile

MIB = 1 << 20
# In sizes that two cores can run; those of BIG are above 256 MiB in most uses.
PRESETS = ["gpt-tiny", "gpt-shakespeare", "llama-tiny"]
BIG = ["gpt-small", "llama-30m", "smollm2-135m"]
FAMILIES = ["gpt2", "llama", "mistral", "qwen2", "qwen3", "smollm3", "olmo2", "phi3", "starcoder2", "gemma", "gemma2", "gemma3_text"]
OWN_HEAD_DIM = {"llama", "mistral", "qwen3", "gemma", "gemma2", "gemma3_text"}  # need not be width / heads
KINDS = ["family"] * 5 + ["tiny"] * 5 + ["preset", "big", "checkpoint"]  # as often


def config_of(rng, family):
    """A config.json of a family, as transformers writes it, of a random size: widths are whole groups of 32, 64 or 128."""
    small = rng.random() < 0.4
    heads = rng.choice([2, 4] if small else [4, 6, 8])
    head_dim = rng.choice([32, 64])
    if family in OWN_HEAD_DIM and rng.random() < 0.3:
        head_dim = 128
    width = heads * min(head_dim, 64)
    if family in OWN_HEAD_DIM and rng.random() < 0.3:
        width += rng.choice([32, 64, 128])
    kv_heads = rng.choice([n for n in range(1, heads + 1) if heads % n == 0])
    depth = rng.randint(1, 4) if small else rng.randint(3, 8)
    vocabulary = rng.choice([256, 1000, 4096]) if small else rng.choice([2048, 8192, 16001, 32000])
    context = rng.choice([512, 1024])
    tied = rng.random() < 0.5
    if family == "gpt2":
        return {"model_type": family, "n_embd": width, "n_head": heads, "n_layer": depth, "n_positions": context,
                "vocab_size": vocabulary, "activation_function": "gelu_new", "tie_word_embeddings": True}
    config = {"model_type": family, "hidden_size": width, "intermediate_size": 128 * max(1, round(width * rng.uniform(2, 4) / 128)),
              "num_hidden_layers": depth, "num_attention_heads": heads, "num_key_value_heads": kv_heads,
              "vocab_size": vocabulary, "max_position_embeddings": context, "rms_norm_eps": 1e-6,
              "hidden_act": "silu", "rope_theta": 10000.0, "tie_word_embeddings": tied}
    if family in OWN_HEAD_DIM:
        config["head_dim"] = head_dim
    window = rng.choice([16, 100, 256])
    if family in ("mistral", "phi3", "starcoder2"):
        config["sliding_window"] = rng.choice([None, window])
    if family in ("qwen2", "qwen3", "smollm3"):
        use = rng.random() < 0.5
        config.update(use_sliding_window=use, sliding_window=window if use else None)
        if family != "smollm3":
            config["max_window_layers"] = rng.randint(0, depth)
    if family == "phi3":
        config["original_max_position_embeddings"] = context
    if family == "starcoder2":
        config.update(hidden_act="gelu_pytorch_tanh", norm_epsilon=1e-5, use_bias=rng.random() < 0.7)
        del config["rms_norm_eps"]
    if family.startswith("gemma"):
        config.update(hidden_act="gelu_pytorch_tanh", hidden_activation="gelu_pytorch_tanh", tie_word_embeddings=True)
    if family in ("gemma2", "gemma3_text"):
        config.update(sliding_window=window, query_pre_attn_scalar=head_dim)
    if family == "gemma3_text":
        config.update(rope_local_base_freq=10000.0, sliding_window_pattern=rng.randint(2, 6))
    return config


class Model:
    """What MODEL is on the command line, and what its settings may be."""

    def __init__(self, program, name, shown, packs=True, big=False):
        info = subprocess.run([program, "info", name, "--json"], capture_output=True, text=True)
        if info.returncode:
            raise SystemExit(f"info {name}: exit code {info.returncode}\n{info.stderr}")
        info = json.loads(info.stdout)
        config = info["config"]
        position = config.get("position") or {}
        self.name, self.shown, self.packs, self.big = name, shown, packs, big
        self.learned = position.get("length") if isinstance(position, dict) else None
        attention = [mixer.get("attention", mixer) for mixer in (layer["mixer"] for layer in config["layers"])]
        attention += [block["attention"] for block in config.get("shared_blocks") or []]
        kinds = [mixer.get("kind", "attention") for mixer in attention]
        self.packs_cache = info["kv_bytes_per_token"] > 0 and "mla" not in kinds and all(
            mixer["head_dim"] % 32 == 0 for mixer, kind in zip(attention, kinds) if kind in ("attention", "nsa"))
        self.adapts = name.endswith("-tiny") and config["vocab"] >= 256 and not config.get("mtp_heads")
        self.program = program
        self.groups = [g for g in (32, 64, 128) if packs and self.whole(program, g)]

    def pack(self, folder):
        """Makes a folder of packed weights; false for a family that has no form for them."""
        done = subprocess.run([self.program, "quantize", self.name, str(folder), "--bits", "4", "--group-size", str(self.groups[0]), "--json",
                               "--quiet"], capture_output=True, text=True)
        if done.returncode not in (0, 6):
            raise SystemExit(f"quantize {self.name}: exit code {done.returncode}\n{done.stderr}{done.stdout}")
        return done.returncode == 0

    def saves_packed(self):
        with tempfile.TemporaryDirectory() as made:
            return bool(self.groups) and self.pack(pathlib.Path(made) / "packed")

    def whole(self, program, group):
        """Whether every matrix has inputs of whole groups: the program knows those of each mixer."""
        done = subprocess.run([program, "fit", self.name, "--memory", "1000GB", "--bits", "4", "--group-size", str(group)],
                              capture_output=True, text=True)
        if done.returncode and "no multiple of the group size" not in done.stderr:
            raise SystemExit(f"fit {self.name} --group-size {group}: exit code {done.returncode}\n{done.stderr}")
        return done.returncode == 0


def models(rng, program, folder, checkpoints):
    """Endlessly one after another: families in turn, so that each takes part as often as the others."""
    listed = subprocess.run([program, "list", "--json"], capture_output=True, text=True, check=True).stdout
    tiny = [p["name"] for p in json.loads(listed)["presets"] if p["name"].endswith("-tiny")]
    families, presets, big, folders, tiny = (itertools.cycle(rng.sample(some, len(some)))
                                             for some in (FAMILIES, PRESETS, BIG, checkpoints or [None], tiny))
    for number in itertools.count():
        kind = rng.choice(KINDS)
        if kind == "checkpoint" and checkpoints:
            path = next(folders)
            yield Model(program, str(path), f"{path.name} (weights)", packs=False)
        elif kind == "preset":
            name = next(presets)
            yield Model(program, name, name)
        elif kind == "tiny":
            name = next(tiny)
            yield Model(program, name, name)
        elif kind == "big":
            name = next(big)
            yield Model(program, name, name, big=True)
        else:
            family = next(families)
            path = folder / f"{family}-{number}"
            path.mkdir()
            config = config_of(rng, family)
            (path / "config.json").write_text(json.dumps(config))
            width, depth = config.get("hidden_size", config.get("n_embd")), config.get("num_hidden_layers", config.get("n_layer"))
            yield Model(program, str(path), f"{family} {width}x{depth}, {config['vocab_size']}")


def settings(rng, model):
    """One random setting: the mode, and the arguments that fit and bench share."""
    mode = rng.choice(["train", "decode", "prefill"] + (["lora", "qlora"] if model.adapts else []))
    if mode == "qlora" and not model.saves_packed():
        mode = "lora"
    train = mode in ("train", "lora", "qlora")
    batch = rng.choice([1, 2] if model.big else [1, 2, 3, 8, 16])
    context = rng.choice([17, 64, 200, 256] if train and model.big else [17, 64, 128, 200, 300, 500])
    if model.learned:
        context = min(context, model.learned if train else max(1, model.learned - 130, model.learned // 2))
    if train:
        batch = max(1, min(batch, (512 if model.big else 2048) // context))
    # New weights under adapters are float32 in a run; `fit` takes those of a preset for a checkpoint's of the type it is given.
    dtype = "f32" if mode == "lora" else rng.choice(["f32", "f32", "bf16"])
    both = ["--batch", str(batch), "--context", str(context), "--dtype", dtype]
    if train:
        if rng.random() < 0.4:
            both.append("--gradient-checkpointing")
        optimizer = rng.choice(["adamw", "adamw", "adafactor"])
        both += ["--optimizer", optimizer]
        if optimizer == "adamw" and rng.random() < 0.4:
            both += ["--state-bits", "8"]
        if rng.random() < 0.25:
            both += ["--accumulate", "2"]
        if mode != "train":
            both += ["--rank", str(rng.choice([4, 8, 16, 32]))]
        return mode, both
    if model.groups and rng.random() < 0.5:
        both += ["--bits", str(rng.choice([2, 3, 4, 5, 6, 8])), "--group-size", str(rng.choice(model.groups))]
        if rng.random() < 0.25:
            both += ["--embedding-bits", str(rng.choice([4, 6, 8]))]
    if model.packs_cache and rng.random() < 0.35:
        both += ["--kv-bits", rng.choice(["32", "16", "8", "4"])]
    return mode, both


def run(program, words):
    done = subprocess.run([program, *words, "--json", "--quiet"], capture_output=True, text=True, timeout=600)
    if done.returncode not in (0, 7) or not done.stdout.strip():
        raise RuntimeError(f"{' '.join(words)}: exit code {done.returncode}\n{done.stderr}{done.stdout}")
    return json.loads(done.stdout)


def as_planned(plan, gpu):
    """Since a GPU's queue runs ahead as far as there is memory, and what it uses is held."""
    return ["--memory", f"{plan['peak_bytes'] / MIB + 0.001:.3f}MB"] if gpu else []


def train(program, preset, given, within):
    """What a few steps of a recipe take, given as `fit` is."""
    rows, tokens = int(given["--batch"]), int(given["--context"])
    with tempfile.TemporaryDirectory() as made:
        folder = pathlib.Path(made)
        # As many tokens, one a byte, as `fit` counts for its data.
        (folder / "text").write_text("a" * (max(2 * rows * tokens, 4096) + 1 + tokens))
        keys = {"model.preset": preset, "data.tokenizer": "byte", "data.file": folder / "text", "data.validation": 0,
                "adapter.rank": given["--rank"], "run.batch": rows, "run.context": tokens, "run.dtype": given["--dtype"],
                "run.accumulate": given.get("--accumulate", 1), "run.gradient_checkpointing": str("--gradient-checkpointing" in given).lower(),
                "run.steps": 3, "run.eval_every": 0, "optimizer.name": given["--optimizer"], "optimizer.state_bits": given.get("--state-bits", 32)}
        return run(program, ["train", *(word for key, value in keys.items() for word in ("--set", f"{key}={value}")),
                             "--out", str(folder / "run"), *within])


def compare_adapters(program, model, mode, both, gpu):
    given = dict(zip(both, [*both[1:], ""]))
    with tempfile.TemporaryDirectory() as made:
        name = model.name
        if mode == "qlora":
            name = str(pathlib.Path(made) / "packed")
            model.pack(name)
        plan = run(program, ["fit", name, "--mode", mode, "--memory", "1000GB", *both])
        return row_of(model, mode, both, plan, train(program, name, given, as_planned(plan, gpu))["peak_bytes"])


def compare(program, model, mode, both, gpu):
    if mode in ("lora", "qlora"):
        return compare_adapters(program, model, mode, both, gpu)
    # Of a machine that is named, so that this one's bandwidth is not measured each time.
    plan = run(program, ["fit", model.name, "--mode", "train" if mode == "train" else "generate", "--memory", "1000GB", *both])
    within = as_planned(plan, gpu)
    real = run(program, ["bench", model.name, "--mode", mode, "--repeat", "1", *both, *within])
    row = row_of(model, mode, both, plan, real["peak_bytes"])
    if mode == "prefill" and row["counter"] > 0:  # what is planned goes on behind the prompt
        words = ["bench", model.name, "--mode", "decode", "--repeat", "1", *both, *within]
        row = row_of(model, mode, both, plan, max(real["peak_bytes"], run(program, words)["peak_bytes"]))
    if plan["peak_bytes"] >= 256 * MIB and not gpu:
        row["resident"] = real["peak_resident_bytes"] - real["resident_before_bytes"]
        row["resident set"] = plan["resident_bytes"] / row["resident"] - 1
    return row


def row_of(model, mode, both, plan, measured):
    planned = plan["peak_bytes"] - plan["parts"]["mapped"]
    return {"mode": mode, "model": model.shown, "settings": both, "words": words_of(model, mode, both), "planned": planned,
            "measured": measured, "counter": planned / measured - 1}


def words_of(model, mode, both):
    return f"{mode:8} {model.shown:26} {' '.join(w.removeprefix('--') for w in both):78}"


def line(row):
    text = (f"{row['words']} {row['planned'] / MIB:8.2f} {row['measured'] / MIB:8.2f} MiB "
            f"{100 * row['counter']:+6.2f} %")
    if "resident" in row:
        text += f"  resident {row['resident'] / MIB:8.1f} {100 * row['resident set']:+6.2f} %"
    return text


def main():
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("--program", required=True)
    p.add_argument("--count", type=int, default=60)
    p.add_argument("--seed", type=int, default=1)
    p.add_argument("--checkpoints", type=pathlib.Path, help="model folders of known families take part too")
    p.add_argument("--gpu", action="store_true", help="of what a GPU needs: the runs get what was planned, since MLX's queue runs ahead "
                   "as far as there is memory. The resident set says nothing there")
    p.add_argument("--only", metavar="TEXT", help="of the settings, those whose line has this text")
    p.add_argument("--jobs", type=int, default=1, help="settings at a time")
    p.add_argument("--json", dest="out")
    a = p.parse_args()
    rng = random.Random(a.seed)
    checkpoints = []
    for path in sorted(a.checkpoints.glob("*/config.json")) if a.checkpoints else []:
        if json.loads(path.read_text()).get("model_type") in FAMILIES:
            checkpoints.append(path.parent)
    rows, failed = [], 0
    with tempfile.TemporaryDirectory() as made:
        asked = [(model, *settings(rng, model))
                 for model in itertools.islice(models(rng, a.program, pathlib.Path(made), checkpoints), a.count)]
        asked = [one for one in asked if not a.only or a.only in words_of(*one)]
        again = []

        def note(one, result, last):
            nonlocal failed
            try:
                rows.append(result())
                print(line(rows[-1]), flush=True)
            except RuntimeError as e:
                if not last:
                    return again.append(one)
                failed += 1
                print(e, flush=True)

        with concurrent.futures.ThreadPoolExecutor(a.jobs) as pool:
            done = {pool.submit(compare, a.program, *one, a.gpu): one for one in asked}
            try:
                for future in concurrent.futures.as_completed(done):
                    note(done[future], future.result, last=a.jobs == 1)
            except KeyboardInterrupt:  # what is there is told
                pool.shutdown(wait=True, cancel_futures=True)
                failed += len(asked) - len(rows) - len(again)
        # Processes that compile the same kernels at a time can read each other's half-written files.
        for one in again:
            note(one, lambda one=one: compare(a.program, *one, a.gpu), last=True)
    print("\nthe worst five")
    for row in sorted(rows, key=lambda r: max(abs(r["counter"]), abs(r.get("resident set", 0))))[:-6:-1]:
        print(line(row))
    print()
    if failed:
        print(f"{failed} settings did not run")
    good = not failed
    for kind in ("counter", "resident set"):
        some = sorted(abs(r[kind]) for r in rows if kind in r)
        if not some:
            continue
        median, worst = statistics.median(some), some[-1]
        good &= median <= 0.03 and worst <= 0.08
        print(f"{kind}: {len(some)} settings, median error {100 * median:.2f} %, worst {100 * worst:.2f} %")
    if a.out:
        pathlib.Path(a.out).write_text(json.dumps(rows, indent=1))
    sys.exit(0 if good else 1)


if __name__ == "__main__":
    main()
