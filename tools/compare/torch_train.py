"""PyTorch's side of the training comparison: the model of our preset gpt-shakespeare, a step of AdamW with clipping.

usage: torch_train.py THREADS f32|bf16 eager|compile      then {"steps": N} a line; answers {"seconds": [...], "peak_resident": bytes}
"""

import sys
import time

import torch
from torch import nn
from torch.nn import functional as F

import worker

VOCAB, WIDTH, LAYERS, HEADS, CONTEXT, BATCH = 65, 384, 6, 6, 256, 16


class Block(nn.Module):
    def __init__(self):
        super().__init__()
        self.norm1, self.norm2 = nn.LayerNorm(WIDTH), nn.LayerNorm(WIDTH)
        self.qkv = nn.Linear(WIDTH, 3 * WIDTH, bias=False)
        self.out = nn.Linear(WIDTH, WIDTH, bias=False)
        self.up = nn.Linear(WIDTH, 4 * WIDTH, bias=False)
        self.down = nn.Linear(4 * WIDTH, WIDTH, bias=False)

    def forward(self, x):
        heads = self.qkv(self.norm1(x)).view(BATCH, CONTEXT, 3, HEADS, WIDTH // HEADS)
        q, k, v = heads.permute(2, 0, 3, 1, 4)
        mixed = F.scaled_dot_product_attention(q, k, v, is_causal=True)
        x = x + self.out(mixed.transpose(1, 2).reshape(BATCH, CONTEXT, WIDTH))
        return x + self.down(F.gelu(self.up(self.norm2(x))))


class Gpt(nn.Module):
    def __init__(self):
        super().__init__()
        self.tokens, self.positions = nn.Embedding(VOCAB, WIDTH), nn.Embedding(CONTEXT, WIDTH)
        self.blocks = nn.ModuleList(Block() for _ in range(LAYERS))
        self.norm, self.head = nn.LayerNorm(WIDTH), nn.Linear(WIDTH, VOCAB, bias=False)

    def forward(self, ids, targets):
        x = self.tokens(ids) + self.positions(torch.arange(CONTEXT))
        for block in self.blocks:
            x = block(x)
        logits = self.head(self.norm(x)).float()
        return F.cross_entropy(logits.view(-1, VOCAB), targets.view(-1))


def main():
    threads, dtype, mode = int(sys.argv[1]), sys.argv[2], sys.argv[3]
    torch.set_num_threads(threads)
    torch.manual_seed(0)
    model = Gpt()
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3, fused=True)
    loss_of = torch.compile(model) if mode == "compile" else model
    ids, targets = torch.randint(0, VOCAB, (2, BATCH, CONTEXT))

    def step():
        begin = time.perf_counter()
        with torch.autocast("cpu", torch.bfloat16, enabled=dtype == "bf16"):
            loss = loss_of(ids, targets)
        optimizer.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        loss.item()
        return time.perf_counter() - begin

    step()
    step()
    worker.reset_peak()

    def answer(question):
        step()  # after a rest
        seconds = [step() for _ in range(question["steps"])]
        return {"seconds": seconds, "peak_resident": worker.peak_resident()}

    worker.serve({"version": f"PyTorch {torch.__version__}", "tokens": BATCH * CONTEXT,
                  "parameters": sum(p.numel() for p in model.parameters()),
                  "capability": torch.backends.cpu.get_cpu_capability()}, answer)


main()
