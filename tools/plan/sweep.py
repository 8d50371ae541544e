#!/usr/bin/env python3
"""Predicted against measured peak memory, over random settings: `lmxlab fit` beside `lmxlab bench`, each in a process of its own.

    tools/plan/sweep.py --program build/release/lmxlab [--count 60] [--seed 1] [--json FILE]

The allocator's counter is compared at every size; above 256 MiB the resident set too, less what the process held before the
model. Exits with 1 where the median is above 3 % or the worst above 8 %.
"""
import argparse
import json
import random
import statistics
import subprocess
import sys

MIB = 1 << 20
# Every family with a preset, in sizes that two cores can run.
PRESETS = ["gpt-tiny", "gpt-shakespeare-small", "gpt-shakespeare", "gpt-small", "llama-tiny", "smollm2-135m", "smollm2-360m"]
TRAINED = ["gpt-tiny", "gpt-shakespeare-small", "gpt-shakespeare", "gpt-small", "llama-tiny", "smollm2-135m"]


def settings(rng, available):
    """One random setting: the arguments that fit and bench share, and what only one of them is told."""
    mode = rng.choice(["train", "decode", "prefill"])
    model = rng.choice([p for p in (TRAINED if mode == "train" else PRESETS) if p in available])
    big = model in ("gpt-small", "smollm2-135m", "smollm2-360m")
    batch = rng.choice([1, 2] if big else [1, 2, 3, 8, 16])
    context = rng.choice([17, 64, 200, 256] if mode == "train" and big else [17, 64, 128, 200, 256, 500])
    context = min(context, available[model] - (0 if mode == "train" else 130))
    if mode == "train" and not big:
        batch = min(batch, 4096 // max(1, context))
    both = ["--batch", str(max(1, batch)), "--context", str(max(2, context))]
    dtype = rng.choice(["f32", "f32", "bf16"])
    both += ["--dtype", dtype]
    if mode == "train":
        if rng.random() < 0.4:
            both.append("--gradient-checkpointing")
        optimizer = rng.choice(["adamw", "adamw", "adafactor"])
        both += ["--optimizer", optimizer]
        if optimizer == "adamw" and rng.random() < 0.4:
            both += ["--state-bits", "8"]
        if rng.random() < 0.25:
            both += ["--accumulate", "2"]
    if mode != "train" and rng.random() < 0.5 and not model.endswith("tiny"):
        both += ["--bits", str(rng.choice([2, 3, 4, 5, 6, 8]))]
        if rng.random() < 0.5:
            both += ["--kv-bits", rng.choice(["32", "8", "4"])]
    return mode, model, both


def run(program, words):
    done = subprocess.run([program, *words, "--json", "--quiet"], capture_output=True, text=True, timeout=600)
    if done.returncode not in (0, 7) or not done.stdout.strip():
        raise SystemExit(f"{' '.join(words)}: exit code {done.returncode}\n{done.stderr}")
    return json.loads(done.stdout)


def main():
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("--program", required=True)
    p.add_argument("--count", type=int, default=60)
    p.add_argument("--seed", type=int, default=1)
    p.add_argument("--json", dest="out")
    a = p.parse_args()
    rng = random.Random(a.seed)
    available = {}
    for name in PRESETS:
        info = subprocess.run([a.program, "info", name, "--json"], capture_output=True, text=True)
        if info.returncode == 0:
            available[name] = json.loads(info.stdout).get("config", {}).get("context") or 256
    rows, seen = [], set()
    while len(rows) < a.count:
        mode, model, both = settings(rng, available)
        if (mode, model, *both) in seen:
            continue
        seen.add((mode, model, *both))
        plan = run(a.program, ["fit", model, "--mode", "train" if mode == "train" else "generate", *both])
        real = run(a.program, ["bench", model, "--mode", mode, "--repeat", "1", *both])
        predicted, measured = plan["peak_bytes"], real["peak_bytes"]
        errors = {"counter": predicted / measured - 1}
        resident = real["peak_resident_bytes"] - real.get("resident_before_bytes", 0)
        if predicted >= 256 * MIB:
            errors["resident_error"] = predicted / resident - 1
        rows.append({"mode": mode, "model": model, "settings": both, "predicted": predicted, "measured": measured,
                     "resident": resident, **errors})
        extra = f"  resident {resident / MIB:9.1f} {100 * errors['resident_error']:+6.2f} %" if "resident_error" in errors else ""
        print(f"{mode:8} {model:22} {' '.join(both):52} {predicted / MIB:9.1f} {measured / MIB:9.1f} MiB "
              f"{100 * errors['counter']:+6.2f} %{extra}", flush=True)
    good = True
    for kind in ("counter", "resident_error"):
        some = sorted(abs(r[kind]) for r in rows if kind in r)
        if not some:
            continue
        median, worst = statistics.median(some), some[-1]
        good &= median <= 0.03 and worst <= 0.08
        print(f"{kind}: {len(some)} settings, median error {100 * median:.2f} %, worst {100 * worst:.2f} %")
    if a.out:
        with open(a.out, "w") as f:
            json.dump(rows, f, indent=1)
    sys.exit(0 if good else 1)


if __name__ == "__main__":
    main()
