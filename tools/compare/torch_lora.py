"""PyTorch's side of fine-tuning: transformers and peft, LoRA of rank 16 on every linear layer of a GGUF file's model, whose weights
transformers makes dense. A step of AdamW with clipping.

usage: torch_lora.py THREADS FILE.gguf BATCH CONTEXT f32|bf16
    then {"steps": N} a line; answers {"seconds": [...], "peak_resident": bytes}
"""

import pathlib
import sys
import time

import peft
import torch
import transformers

import worker


def main():
    threads, file, batch, context, dtype = int(sys.argv[1]), pathlib.Path(sys.argv[2]), int(sys.argv[3]), int(sys.argv[4]), sys.argv[5]
    torch.set_num_threads(threads)
    torch.manual_seed(0)
    kind = torch.bfloat16 if dtype == "bf16" else torch.float32
    model = transformers.AutoModelForCausalLM.from_pretrained(file.parent, gguf_file=file.name, dtype=kind)
    model.config.use_cache = False
    lora = peft.LoraConfig(r=16, lora_alpha=32, target_modules="all-linear", task_type="CAUSAL_LM")
    model = peft.get_peft_model(model, lora)
    model.train()
    trained = [p for p in model.parameters() if p.requires_grad]
    optimizer = torch.optim.AdamW(trained, lr=2e-4)
    ids = torch.randint(0, 40000, (batch, context))

    def step():
        begin = time.perf_counter()
        loss = model(input_ids=ids, labels=ids).loss
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(trained, 1.0)
        optimizer.step()
        loss.item()
        return time.perf_counter() - begin

    step()
    worker.reset_peak()

    def answer(question):
        step()  # after a rest
        seconds = [step() for _ in range(question["steps"])]
        return {"seconds": seconds, "peak_resident": worker.peak_resident()}

    versions = f"PyTorch {torch.__version__}, transformers {transformers.__version__}, peft {peft.__version__}"
    worker.serve({"version": versions, "tokens": batch * context, "trained": sum(p.numel() for p in trained)}, answer)


main()
