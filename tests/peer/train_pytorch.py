"""The program of examples/train.cpp as it is usually written for a machine with two memories."""

import torch
from torch import nn
from torch.nn import functional as F
from torch.utils.data import DataLoader, Dataset

DEPTH, DIM, HEADS, CONTEXT, BATCH, STEPS = 2, 64, 2, 64, 8, 60
device = torch.device("cuda" if torch.cuda.is_available() else "cpu")


class Windows(Dataset):
    def __init__(self, tokens):
        self.tokens = tokens

    def __len__(self):
        return (len(self.tokens) - 1) // CONTEXT

    def __getitem__(self, i):
        piece = self.tokens[i * CONTEXT:(i + 1) * CONTEXT + 1]
        return piece[:-1], piece[1:]


class Gpt(nn.Module):
    def __init__(self, vocab):
        super().__init__()
        self.embed = nn.Embedding(vocab, DIM)
        self.positions = nn.Embedding(CONTEXT, DIM)
        layer = nn.TransformerEncoderLayer(DIM, HEADS, 4 * DIM, dropout=0, activation="gelu", batch_first=True, norm_first=True)
        self.blocks = nn.TransformerEncoder(layer, DEPTH, nn.LayerNorm(DIM), enable_nested_tensor=False)
        self.head = nn.Linear(DIM, vocab, bias=False)
        self.head.weight = self.embed.weight
        for p in self.parameters():
            if p.dim() > 1:
                nn.init.normal_(p, std=0.02)

    def forward(self, x):
        h = self.embed(x) + self.positions(torch.arange(x.shape[1], device=x.device))
        mask = nn.Transformer.generate_square_subsequent_mask(x.shape[1], device=x.device)
        return self.head(self.blocks(h, mask=mask, is_causal=True))


def loader(tokens, shuffle):
    return DataLoader(Windows(tokens), BATCH, shuffle=shuffle, drop_last=True, num_workers=2, pin_memory=torch.cuda.is_available())


@torch.no_grad()
def validate(model, batches):
    model.eval()
    total, count = torch.zeros((), device=device), 0
    for x, y in batches:
        x, y = x.to(device, non_blocking=True), y.to(device, non_blocking=True)
        total += F.cross_entropy(model(x).flatten(0, 1), y.flatten())
        count += 1
    model.train()
    return total.item() / count


@torch.no_grad()
def generate(model, ids, n):
    model.eval()
    ids = torch.tensor([ids]).to(device)
    for _ in range(n):
        chances = F.softmax(model(ids[:, -CONTEXT:])[:, -1] / 0.8, -1)
        ids = torch.cat([ids, torch.multinomial(chances, 1)], 1)
    return ids[0].cpu().tolist()


def main():
    torch.manual_seed(1337)
    text = open("lmxlab/data/tinyshakespeare.txt").read()
    characters = sorted(set(text))
    number = {c: i for i, c in enumerate(characters)}
    tokens = torch.tensor([number[c] for c in text])
    cut = len(tokens) * 9 // 10
    model = Gpt(len(characters)).to(device)
    optimizer = torch.optim.AdamW(model.parameters(), lr=3e-3, weight_decay=0.01)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, STEPS)
    held_out = loader(tokens[cut:], False)
    before = validate(model, held_out)
    for step, (x, y) in enumerate(loader(tokens[:cut], True)):
        if step == STEPS:
            break
        x, y = x.to(device, non_blocking=True), y.to(device, non_blocking=True)
        optimizer.zero_grad(set_to_none=True)
        loss = F.cross_entropy(model(x).flatten(0, 1), y.flatten())
        loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        schedule.step()
    print(f"{sum(p.numel() for p in model.parameters())} parameters, {STEPS} steps, "
          f"validation loss {before:.4f} -> {validate(model, held_out):.4f} nats a character")
    print("".join(characters[i] for i in generate(model, [number[c] for c in "ROMEO:"], 120)))


if __name__ == "__main__":  # workers import this file again
    main()
