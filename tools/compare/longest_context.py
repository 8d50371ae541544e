"""The longest context, batch 1, that trains in a given memory: ours and PyTorch's, both computing every block again.

Memory grows with the context in a straight line, bytes = a + b L, and time with its square: the line goes through the peaks of a
step at a few lengths. What it says of ours is then tried at that length, in which attention looks back a few tokens only: that
takes the same memory, and minutes instead of hours.
"""

import json
import os
import subprocess

from sides import Missing

LIMIT = 4 << 30
PATIENCE = 900  # seconds of a run
WINDOW = 64
# PyTorch's lengths, and ours: with lots of the size that the longest has.
LENGTHS = {"gpt-shakespeare": ((4096, 8192, 12288), (131072, 147456, 163840)), "gpt-small": ((1024, 2048, 3072), (24576, 32768, 40960))}


def result(words, environment):
    try:
        done = subprocess.run(list(map(str, words)), env=environment, capture_output=True, text=True, timeout=PATIENCE)
    except subprocess.TimeoutExpired:
        raise Missing(f"{words[-2]} {words[-1]} took more than {PATIENCE} s")
    if done.returncode != 0:
        raise Missing((done.stderr.strip().splitlines() or [f"exit code {done.returncode}"])[-1])
    return json.loads(done.stdout.splitlines()[-1])


def line(points):
    """a and b of bytes = a + b L, and the largest distance from it as a share."""
    n = len(points)
    x, y = sum(p[0] for p in points) / n, sum(p[1] for p in points) / n
    b = sum((p[0] - x) * (p[1] - y) for p in points) / sum((p[0] - x) ** 2 for p in points)
    a = y - b * x
    return a, b, max(abs(a + b * p[0] - p[1]) / p[1] for p in points)


def longest(name, side, lengths, measure, report):
    """The length at which the line meets the limit, and what was measured."""
    points, answer = [], None
    for length in lengths:
        answer = measure(length)
        points.append((length, answer["peak_bytes"]))
        report.line({"context": {"model": name, "side": side, "length": length, **answer}})
    a, b, off = line(points)
    tokens = int((LIMIT - a) / b)
    report.note(f"{name}, {side}: {a / 1e6:.0f} MB + {b / 1e3:.1f} KB a token (at {', '.join(map(str, lengths))} tokens, off by "
                f"{100 * off:.1f} % at most): {tokens} tokens in {LIMIT >> 30} GiB")
    return tokens, answer


def fits(length, measure):
    """The length, or the first of some shorter ones, that stays below the limit: the line may have a bend."""
    for share in (1, 0.98, 0.95, 0.9, 0.8):
        rounded = int(length * share) // 1024 * 1024
        try:
            return rounded, measure(rounded)
        except Missing as e:
            refused = e
    raise refused


def context(c, report):
    """Ours and PyTorch's, for a small model and for GPT-2's smallest."""
    ours = dict(os.environ, LMXLAB_THREADS=str(c.threads))
    program = c.benches / "bench_train_step"

    def step(name, length, *more):
        return result([program, name, length, "--checkpointing", *more], ours)

    # Blocks that are free go back to the system at once: resident memory is what PyTorch holds, at short contexts too.
    theirs = c.environment({"MALLOC_MMAP_THRESHOLD_": str(256 << 10)})

    def torch_step(name, length):
        return result([c.python, "tools/compare/torch_context.py", c.threads, name, length], theirs)

    for name, (lengths, far) in LENGTHS.items():
        if c.quick:
            lengths, far = lengths[:2], far[:2]
        try:
            mine, _ = longest(name, "ours", far, lambda n: step(name, n, "--window", WINDOW), report)
            mine, tried = fits(mine, lambda n: step(name, n, "--window", WINDOW, "--limit", LIMIT))
            report.note(f"{name}, ours: {mine} tokens took {tried['peak_bytes'] / 2**30:.3f} GiB of arrays, "
                        f"{(tried['peak_resident_bytes'] - tried['resident_bytes_before']) / 2**30:.3f} GiB of resident memory")
            whole = step(name, lengths[-1])["peak_bytes"], step(name, lengths[-1], "--window", WINDOW)["peak_bytes"]
            report.note(f"{name}, ours at {lengths[-1]} tokens: {whole[0]} bytes, {whole[1]} with a window of {WINDOW}")
            other, answer = longest(name, "PyTorch", lengths, lambda n: torch_step(name, n), report)
        except Missing as e:
            report.note(f"{name}: {e}")
            continue
        report.row("context", f"longest context in 4 GiB, {name}", [mine], answer["version"] + ", a checkpoint a block", [other], "tokens",
                   "2 at least")
