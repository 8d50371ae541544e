"""PyTorch's side of the longest context: one step of training with a checkpoint a block, and what it adds to resident memory.

usage: torch_context.py THREADS gpt-shakespeare|gpt-small CONTEXT      prints {"peak_bytes": ..., "seconds": ...}
"""

import json
import sys
import time

import torch
from torch import nn
from torch.nn import functional as F
from torch.utils.checkpoint import checkpoint

import worker

# Our presets: width, layers, heads, vocabulary, whether linear layers have biases, whether the head is the embedding.
SHAPES = {"gpt-shakespeare": (384, 6, 6, 65, False, False), "gpt-small": (768, 12, 12, 50257, True, True)}


class Block(nn.Module):
    def __init__(self, width, heads, bias, gelu):
        super().__init__()
        self.heads, self.gelu = heads, gelu
        self.norm1, self.norm2 = nn.LayerNorm(width), nn.LayerNorm(width)
        self.qkv, self.out = nn.Linear(width, 3 * width, bias=bias), nn.Linear(width, width, bias=bias)
        self.up, self.down = nn.Linear(width, 4 * width, bias=bias), nn.Linear(4 * width, width, bias=bias)

    def forward(self, x):
        batch, context, width = x.shape
        q, k, v = self.qkv(self.norm1(x)).view(batch, context, 3, self.heads, width // self.heads).permute(2, 0, 3, 1, 4)
        mixed = F.scaled_dot_product_attention(q, k, v, is_causal=True)
        x = x + self.out(mixed.transpose(1, 2).reshape(batch, context, width))
        return x + self.down(F.gelu(self.up(self.norm2(x)), approximate=self.gelu))


class Gpt(nn.Module):
    def __init__(self, shape, context):
        super().__init__()
        width, layers, heads, vocabulary, bias, tied = shape
        self.tokens, self.positions = nn.Embedding(vocabulary, width), nn.Embedding(context, width)
        self.blocks = nn.ModuleList(Block(width, heads, bias, "tanh" if tied else "none") for _ in range(layers))
        self.norm, self.head = nn.LayerNorm(width), nn.Linear(width, vocabulary, bias=False)
        if tied:
            self.head.weight = self.tokens.weight

    def forward(self, ids, targets):
        x = self.tokens(ids) + self.positions(torch.arange(ids.shape[1]))
        for block in self.blocks:
            x = checkpoint(block, x, use_reentrant=False)
        logits = self.head(self.norm(x))
        return F.cross_entropy(logits.view(-1, logits.shape[-1]), targets.reshape(-1))


def main():
    threads, name, context = int(sys.argv[1]), sys.argv[2], int(sys.argv[3])
    torch.set_num_threads(threads)
    torch.manual_seed(0)
    a = torch.ones(64, 64, requires_grad=True)
    (a @ a).sum().backward()  # its libraries and threads are there
    worker.reset_peak()
    before = worker.peak_resident()
    shape = SHAPES[name]
    model = Gpt(shape, context)
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3, fused=True)
    ids, targets = torch.randint(0, shape[3], (2, 1, context))
    for tokens in (16, context):  # a short step makes the moments
        begin = time.perf_counter()
        loss = model(ids[:, :tokens], targets[:, :tokens])
        optimizer.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        seconds = time.perf_counter() - begin
    print(json.dumps({"peak_bytes": worker.peak_resident() - before, "seconds": seconds, "version": f"PyTorch {torch.__version__}",
                      "parameters": sum(p.numel() for p in model.parameters())}))


main()
