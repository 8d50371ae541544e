"""llama.cpp's side of the comparison of inference.

usage: llama_run.py THREADS FILE.gguf      then {"prompt": N, "decode": M} a line; answers {"prefill": seconds, "decode": seconds}
"""

import sys
import time

import llama_cpp
from llama_cpp import Llama

import worker


def main():
    threads, file = int(sys.argv[1]), sys.argv[2]

    def load(flash):
        return Llama(file, n_ctx=1024, n_threads=threads, n_threads_batch=threads, n_batch=512, n_ubatch=512, verbose=False,
                     flash_attn=flash)

    def run(model, prompt, decode):
        vocab = model.n_vocab()
        model.reset()
        begin = time.perf_counter()
        model.eval([(i * 7919) % vocab for i in range(prompt)])
        between = time.perf_counter()
        for i in range(decode):
            model.eval([(i * 31 + 7) % vocab])
        return {"prefill": between - begin, "decode": time.perf_counter() - between}

    # Its two ways of attention: whichever is faster here.
    models = {flash: load(flash) for flash in (False, True)}
    total = {flash: min(sum(run(model, 512, 16).values()) for _ in range(2)) for flash, model in models.items()}
    flash = min(total, key=total.get)
    model = models.pop(flash)
    models.clear()
    facts = {"version": f"llama-cpp-python {llama_cpp.__version__}, flash attention {'on' if flash else 'off'}"}
    worker.serve(facts, lambda question: run(model, question["prompt"], question["decode"]))


main()
