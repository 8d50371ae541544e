"""Seconds from the start of the program to the first token: the first start ever (weights are laid out for this machine and
kept), then with the files out of the page cache, then with them in it.

    python3 tools/compare/first_token.py [--program build/release/lmxlab] [--rounds 5] MODEL...

MODEL is a GGUF file or a model folder. Others that map the files keep them in memory: stop them first.
"""

import argparse
import json
import os
import statistics
import subprocess
import tempfile
from pathlib import Path


def files_of(path):
    return [p for p in ([path] if path.is_file() else path.rglob("*")) if p.is_file()]


def drop(paths):
    """Out of the page cache: the next reader waits for the disk."""
    for path in paths:
        fd = os.open(path, os.O_RDONLY)
        os.fsync(fd)  # dirty pages would stay
        os.posix_fadvise(fd, 0, 0, os.POSIX_FADV_DONTNEED)
        os.close(fd)


def start(program, model, cache):
    command = [program, "generate", model, "--prompt", "The capital of France is", "--max-tokens", "1", "--temperature", "0", "--json"]
    done = subprocess.run(command, capture_output=True, text=True, env=os.environ | {"LMXLAB_WEIGHT_CACHE": cache}, check=True)
    return json.loads(done.stdout)["start_to_first_token_s"]


def main():
    arguments = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    arguments.add_argument("--program", default="build/release/lmxlab")
    arguments.add_argument("--rounds", type=int, default=5)
    arguments.add_argument("models", nargs="+", type=Path)
    chosen = arguments.parse_args()
    print("| model | bytes | first ever | cold | warm |\n| --- | --- | --- | --- | --- |")
    for model in chosen.models:
        with tempfile.TemporaryDirectory() as cache:
            size = sum(p.stat().st_size for p in files_of(model))
            first = start(chosen.program, model, cache)
            times = {"cold": [], "warm": []}
            for _ in range(chosen.rounds):
                drop(files_of(model) + files_of(Path(cache)))
                for name in times:
                    times[name].append(start(chosen.program, model, cache))
            cells = [f"{statistics.median(t):.3f} s ({min(t):.3f} to {max(t):.3f})" for t in times.values()]
            print(f"| {model.name} | {size / 1e6:.0f} MB | {first:.3f} s | {cells[0]} | {cells[1]} |", flush=True)


if __name__ == "__main__":
    main()
