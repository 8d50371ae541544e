"""Our program beside PyTorch and llama.cpp, in turn on one machine. scripts/compare.sh prepares both and calls this.

Every round runs ours, then each peer, so that a slow drift of the machine meets all of them.
"""

import argparse
import json
import os
import pathlib
import shutil
import platform
import subprocess
import sys

import models
from longest_context import context
from report import Report
from sides import Missing, Ours, Peer, median

PARTS = ("train", "lora", "decode", "files", "kernels", "growth", "context", "avx2")
# PyTorch and its two libraries held to it: float32 products are MKL's, which the first two do not reach.
AVX2 = {"ATEN_CPU_CAPABILITY": "avx2", "ONEDNN_MAX_CPU_ISA": "AVX2", "MKL_ENABLE_INSTRUCTIONS": "AVX2"}


def train(c, report, cpu=None):
    """A step of training gpt-shakespeare: tokens/s and peak RSS."""
    modes = ("eager",) if c.quick else ("eager", "compile")
    suffix = f", {cpu}" if cpu else ""
    for dtype in ("f32", "bf16"):
        peers, speed, memory = {}, {}, {}
        for mode in modes:
            try:
                peers[mode] = Peer(c.python, "torch_train.py", (c.threads, dtype, mode), c.environment(AVX2 if cpu else {}))
            except Missing as e:
                report.note(f"PyTorch {mode} {dtype}{suffix}: {e}")
        ours, resident = [], []
        for _ in range(c.rounds):
            b = c.ours.run(["bench", "gpt-shakespeare", "--mode", "train", "--batch", "16", "--context", "256", "--repeat", "3",
                            "--dtype", dtype], cpu)
            ours.append(b["tokens_per_s"])
            resident.append(b["peak_resident_bytes"] / 1e6)
            for mode, peer in list(peers.items()):
                try:
                    answer = peer.ask(steps=3)
                except Missing as e:
                    report.note(f"PyTorch {mode} {dtype}{suffix}: {e}")
                    del peers[mode]
                    continue
                speed.setdefault(mode, []).append(peer.facts["tokens"] / median(answer["seconds"]))
                memory.setdefault(mode, []).append((answer["peak_resident"] or 0) / 1e6)
        wanted = "1 at least, 1.3 aim" if cpu else {"f32": "1.1 at least, 1.35 aim", "bf16": "1.15 at least, 1.5 aim"}[dtype]
        for mode, peer in peers.items():
            name = f"{peer.facts['version']}, {mode}"
            report.row("train", f"training step, {dtype}{suffix}", ours, name, speed[mode], "tokens/s", wanted)
            if not cpu:
                report.row("memory", f"training peak RSS, {dtype}", resident, name, memory[mode], "MB", "0.6 at most, 0.4 aim", True)
            peer.close()


LORA = """
[model]
preset = "{file}"
[data]
validation = 0
[adapter]
rank = 16
alpha = 32
[optimizer]
name = "adamw"
lr = 2e-4
[run]
batch = {batch}
context = {context}
steps = {steps}
dtype = "{dtype}"
checkpoint_every = 0
gradient_checkpointing = {again}
"""


def lora(c, report):
    """LoRA on SmolLM2-135M in Q4_1: tokens/s and peak RSS, beside transformers and peft on the same weights made dense."""
    file = subprocess.run(["scripts/models.sh", "smollm2"], capture_output=True, text=True, check=True).stdout.strip()
    batch, context, steps = 4, 256, 6 if c.quick else 12  # the first makes the graph
    for dtype in ("f32", "bf16"):
        try:
            peer = Peer(c.python, "torch_lora.py", (c.threads, file, batch, context, dtype), c.environment({}))
        except Missing as e:
            report.note(f"peft, {dtype}: {e}")
            continue
        ways = {"": "false", ", blocks computed again": "true"}
        speed, memory, their_speed, their_memory = {w: [] for w in ways}, {w: [] for w in ways}, [], []
        for _ in range(c.rounds):
            for way, again in ways.items():
                c.work.mkdir(parents=True, exist_ok=True)
                recipe, out = c.work / "lora.toml", c.work / "lora-run"
                shutil.rmtree(out, ignore_errors=True)
                recipe.write_text(LORA.format(file=file, batch=batch, context=context, steps=steps, dtype=dtype, again=again))
                _, resident = c.ours.measured(["train", recipe, "--out", out])
                lines = [json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines()]
                speed[way].append(lines[-1]["tokens_per_s"])
                memory[way].append(resident / 1e6)
            answer = peer.ask(steps=3)
            their_speed.append(peer.facts["tokens"] / median(answer["seconds"]))
            their_memory.append((answer["peak_resident"] or 0) / 1e6)
        name = peer.facts["version"]
        peer.close()
        for way in ways:
            goals = ("1.5 at least", "0.4 at most") if dtype == "f32" else ("", "")
            report.row("lora", f"LoRA on SmolLM2-135M Q4_1, {batch} x {context}, {dtype}{way}", speed[way], name, their_speed, "tokens/s",
                       goals[0])
            report.row("lora", f"peak RSS, {dtype}{way}", memory[way], name, their_memory, "MB", goals[1], True)


def decode(c, report, cpu=None):
    """SmolLM2-135M's shape in Q4_1, random weights: 128 tokens after 512, and a prompt of 512."""
    build = c.llama / ("avx2" if cpu else "native")
    suffix = f", {cpu}" if cpu else ""
    if not build.is_dir():
        return report.note(f"llama.cpp was not built for {cpu}")
    c.work.mkdir(parents=True, exist_ok=True)
    file = c.work / "smollm2-135m-q4_1.gguf"
    python = c.environment({"PYTHONPATH": f"{build}:{c.llama}/common"})
    if not file.exists():
        subprocess.run([c.python, "tools/make_bench_gguf.py", file, "--type", "Q4_1"], env=python, check=True)
    try:
        peer = Peer(c.python, "llama_run.py", (c.threads, file), python)
    except Missing as e:
        return report.note(f"llama.cpp{suffix}: {e}")
    # The shape and the bits of that file: 4 bits with a scale and an offset for each 32 weights, 8 for the embedding.
    packed = ["--bits", "4", "--group-size", "32", "--embedding-bits", "8", "--dtype", "bf16", "--context", "512", "--repeat", "3"]
    ours, theirs = {"prefill": [], "decode": []}, {"prefill": [], "decode": []}
    for _ in range(c.rounds):
        for mode in ours:
            ours[mode].append(c.ours.run(["bench", "smollm2-135m", "--mode", mode, *packed], cpu)["tokens_per_s"])
        try:
            answer = peer.ask(prompt=512, decode=128)
        except Missing as e:
            return report.note(f"llama.cpp{suffix}: {e}")
        theirs["prefill"].append(512 / answer["prefill"])
        theirs["decode"].append(128 / answer["decode"])
    for mode, work, goal in (("decode", "decode 128 after 512", "2 at least, 3.5 aim"), ("prefill", "prefill 512", "3 at least, 6 aim")):
        report.row(mode, work + suffix, ours[mode], peer.facts["version"], theirs[mode], "tokens/s",
                   "1 at least, 1.3 aim" if cpu else goal)
    peer.close()


def files(c, report):
    """The two real files: 128 tokens after 512, a prompt of 512, from the start to the first token, and resident memory."""
    text = "The capital of France is"
    python = c.environment({"PYTHONPATH": f"{c.llama / 'native'}:{c.llama}/common"})

    def peer_from_start(file, greedy=0):
        words = [c.python, "tools/compare/llama_load.py", c.threads, file, text, greedy]
        with open(c.out / "peers.log", "a") as log:
            done = subprocess.run(list(map(str, words)), env=python, stdout=subprocess.PIPE, stderr=log, text=True, check=True)
        return json.loads(done.stdout.splitlines()[-1])

    for name, goals in (("smollm2", ("2 at least", "3 at least")), ("gemma3", ("1.5 at least, 2 aim", "2 at least"))):
        file = subprocess.run(["scripts/models.sh", name], capture_output=True, text=True, check=True).stdout.strip()
        label = pathlib.Path(file).stem
        try:
            peer = Peer(c.python, "llama_run.py", (c.threads, file), python)
        except Missing as e:
            report.note(f"llama.cpp: {e}")
            continue
        version = peer.facts["version"]
        ours, theirs = ({key: [] for key in ("prefill", "decode", "seconds", "bytes")} for _ in range(2))
        tokens = ",".join(str(i * 7919 % 40000) for i in range(512))
        for _ in range(c.rounds):
            for mode in ("prefill", "decode"):
                ours[mode].append(c.ours.run(["bench", file, "--mode", mode, "--context", "512", "--repeat", "3"])["tokens_per_s"])
            answer = peer.ask(prompt=512, decode=128)
            theirs["prefill"].append(512 / answer["prefill"])
            theirs["decode"].append(128 / answer["decode"])
            ours["seconds"].append(c.ours.measured(["generate", file, "--prompt", text, "--max-tokens", 1])[0])
            ours["bytes"].append(c.ours.measured(["generate", file, "--tokens", tokens, "--max-tokens", 128, "--ignore-eos"])[1] / 1e6)
            answer = peer_from_start(file)
            theirs["seconds"].append(answer["seconds"])
            theirs["bytes"].append(answer["bytes"] / 1e6)
        peer.close()
        for key, work, unit, goal in (("decode", "decode 128 after 512", "tokens/s", goals[0]), ("prefill", "prefill 512", "tokens/s", goals[1]),
                                      ("seconds", "from the start to the first token", "s", "1 at most"),
                                      ("bytes", "peak resident, 512 and 128 tokens", "MB", "1.1 at most")):
            report.row("files", f"{label}: {work}", ours[key], version, theirs[key], unit, goal, key in ("seconds", "bytes"))

    # A file that we wrote, in both: the same greedy text but for the eight bits of llama.cpp's activations.
    file = subprocess.run(["scripts/models.sh", "smollm2"], capture_output=True, text=True, check=True).stdout.strip()
    for dtype in ("f16", "q8_0"):
        made = c.work / f"converted-{dtype}.gguf"
        made.unlink(missing_ok=True)
        c.work.mkdir(parents=True, exist_ok=True)
        c.ours.run(["convert", file, made, "--format", "gguf", "--dtype", dtype])
        answer = peer_from_start(made, 32)
        mine = c.ours.run(["generate", made, "--prompt", text, "--max-tokens", 32, "--temperature", 0, "--ignore-eos"])["tokens"]
        same = next((i for i, (a, b) in enumerate(zip(mine, answer["tokens"])) if a != b), 32)
        report.note(f"{made.name}, written by `convert`: the first {same} of 32 greedy tokens are the same in llama.cpp")
        made.unlink()


def kernel_lines(words):
    """The exit status of a bench, and its lines."""
    done = subprocess.run(words, capture_output=True, text=True)
    return done.returncode, [json.loads(line) for line in done.stdout.splitlines() if line.startswith("{")]


def kernels(c, report):
    """Each kernel against the same function in MLX's ordinary ops."""
    programs = sorted(c.benches.glob("bench_kernels_*"))
    if not programs:
        report.note("no bench_kernels_* was built")
    for program in programs:
        for cpu in (None, "avx2") if "avx2" in c.parts and not c.quick else (None,):
            words = [str(program), "--threads", str(c.threads)] + (["--cpu", cpu] if cpu else [])
            ended, lines = kernel_lines(words + ["--quick"])
            for line in lines:
                if line.get("ratio", 1) < 0.95:  # of a thousand short looks some are slow by chance: a long one tells
                    line["short_look"] = line["ratio"]
                    for longer in kernel_lines(words + ["--only", line["case"]])[1]:
                        if longer.get("case") == line["case"]:
                            line.update(longer)
                report.line(dict(line, set=cpu or "best"))
            ratios = sorted((line["ratio"], line["case"]) for line in lines if "ratio" in line)
            if ended != 0 or not ratios:
                report.note(f"{program.name} ended with {ended} after {len(ratios)} cases")
                continue
            report.kernels.append({"bench": program.name.removeprefix("bench_kernels_"), "set": cpu or "best", "cases": len(ratios),
                                   "least": ratios[0][0], "median": median([r for r, _ in ratios]),
                                   "slow": [(case, ratio) for ratio, case in ratios if ratio < 0.95]})
            print(f"  {program.name}: {len(ratios)} cases, least {ratios[0][0]:.2f} ({ratios[0][1]})", flush=True)


def growth(c, report):
    """How time grows: against FLOPs / the best FLOP/s + bytes / the best GB/s of the same sweep."""
    folder = models.folder(c.work / "growing", models.GROWING)
    by_batch = [(batch, 128) for batch in (1, 2, 4, 8, 16, 32, 64)]
    by_context = [(1, context) for context in (256, 512, 1024, 2048, 4096, 8192)]
    points = by_batch[::3] + by_context[1::2] if c.quick else by_batch + by_context
    for mode in ("train", "prefill"):
        sweep = []
        for batch, context in points:
            try:
                b = c.ours.run(["bench", str(folder), "--mode", mode, "--batch", str(batch), "--context", str(context), "--repeat", "3",
                                "--dtype", "bf16" if mode == "train" else "f32"])
            except Missing as e:
                report.note(f"{mode} {batch}x{context}: {e}")
                continue
            sweep.append(dict(b, mode=mode, batch=batch, context=context))
        best_flops = max((b["gflops"] for b in sweep), default=0)
        best_bytes = max((b["gbytes_per_s"] for b in sweep), default=0)
        for b in sweep:
            b["over"] = 1 / (b["gflops"] / best_flops + b["gbytes_per_s"] / best_bytes)
            report.growth.append(b)
            report.line({"growth": b})
            print(f"  {mode} {b['batch']}x{b['context']}: {b['tokens_per_s']:.0f} tokens/s, {b['over']:.2f} of the bound", flush=True)


class Comparison:
    """What all parts use."""

    def __init__(self, a):
        self.parts, self.quick, self.python = a.parts, a.quick, sys.executable
        self.rounds = a.rounds or (2 if a.quick else 5)
        self.out, self.work = pathlib.Path(a.out), pathlib.Path(a.work)
        self.llama = pathlib.Path(a.llama) if a.llama else None
        self.benches = pathlib.Path(a.program).parent / "bench"
        self.threads = a.threads or len(os.sched_getaffinity(0))
        self.ours = Ours(a.program, self.threads)

    def environment(self, more):
        return dict(os.environ, COMPARE_OUT=str(self.out), OMP_NUM_THREADS=str(self.threads), PYTHONDONTWRITEBYTECODE="1", **more)

    def facts(self):
        machine = self.ours.run(["doctor"])["machine"]
        version = subprocess.run([self.ours.program, "--version"], capture_output=True, text=True).stdout.strip()
        commit = subprocess.run(["git", "describe", "--always", "--dirty"], capture_output=True, text=True).stdout.strip()
        facts = {"processor": machine["chip"], "threads": self.threads, "instruction sets": ", ".join(machine.get("sets", [])),
                 "system": f"{platform.system()} {platform.release()}", "program": f"{version} {commit}",
                 "matrix product": machine["matrix_product"], "rounds": self.rounds,
                 "load before": f"{os.getloadavg()[0]:.2f} (near 0 on a quiet machine)"}
        for key, name in (("f32_flops", "float32 GFLOP/s"), ("bf16_flops", "bfloat16 GFLOP/s"), ("int8_ops", "int8 GOP/s"),
                          ("read_bytes_per_s", "read GB/s")):
            facts[name] = round(machine[key] / 1e9, 1)
        return facts


def main():
    p = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    p.add_argument("--program", required=True, help="our program; benches lie beside it in bench/")
    p.add_argument("--out", required=True, help="where results go")
    p.add_argument("--work", required=True, help="where models of random weights are kept")
    p.add_argument("--llama", help="the folder that scripts/compare_peers.sh prints")
    p.add_argument("--threads", type=int, default=0)
    p.add_argument("--rounds", type=int, default=0, help="5; quick: 2")
    p.add_argument("--quick", action="store_true")
    p.add_argument("parts", nargs="*", help=" ".join(PARTS))
    a = p.parse_args()
    a.parts = a.parts or list(PARTS)
    if unknown := set(a.parts) - set(PARTS):
        p.error(f"unknown part: {', '.join(sorted(unknown))}; expected some of: {' '.join(PARTS)}")
    c = Comparison(a)
    c.out.mkdir(parents=True, exist_ok=True)
    report = Report(c.out, c.facts())
    forced = ["avx2"] if "avx2" in c.parts and "avx2" in report.facts["instruction sets"] else []
    for name, part in (("train", train), ("decode", decode)):
        for cpu in ([None] if name in c.parts else []) + (forced if name in c.parts or c.parts == ["avx2"] else []):
            print(f"== {name}{' with ' + cpu if cpu else ''}", flush=True)
            part(c, report, cpu)
    for name, part in (("lora", lora), ("files", files), ("kernels", kernels), ("growth", growth), ("context", context)):
        if name in c.parts:
            print(f"== {name}", flush=True)
            part(c, report)
    print("\n" + report.finish())
    print(f"in {c.out}: table.md, results.jsonl", file=sys.stderr)


if __name__ == "__main__":
    main()
