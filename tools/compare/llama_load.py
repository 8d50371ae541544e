"""llama.cpp from the start to the first token, and what it holds in memory: a fresh process for each measurement.

usage: llama_load.py THREADS FILE.gguf TEXT [GREEDY]
prints {"seconds": from opening the file to the first token, "bytes": of the whole process, resident at most after 512 tokens and 128
more; "tokens": GREEDY tokens after TEXT}
"""

import json
import sys
import time

import llama_cpp  # noqa: F401  before the clock starts
from llama_cpp import Llama

from worker import peak_resident


def main():
    threads, file, text = int(sys.argv[1]), sys.argv[2], sys.argv[3]
    greedy = int(sys.argv[4]) if len(sys.argv) > 4 else 0
    begin = time.perf_counter()
    model = Llama(file, n_ctx=1024, n_threads=threads, n_threads_batch=threads, n_batch=512, n_ubatch=512, verbose=False, flash_attn=True)
    prompt = model.tokenize(text.encode())
    model.eval(prompt)
    seconds = time.perf_counter() - begin
    tokens = []
    for token in model.generate(prompt, top_k=1, temp=0.0, repeat_penalty=1.0) if greedy else ():
        tokens.append(token)
        if len(tokens) == greedy:
            break
    model.reset()
    model.eval([(i * 7919) % model.n_vocab() for i in range(512)])
    for i in range(128):
        model.eval([(i * 31 + 7) % model.n_vocab()])
    after = peak_resident()
    print(json.dumps({"seconds": seconds, "bytes": after, "prompt": prompt, "tokens": tokens}))


main()
