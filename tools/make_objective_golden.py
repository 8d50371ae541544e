#!/usr/bin/env python3
"""Makes tests/training/fixtures/objectives.safetensors: losses and gradients as TRL computes them.

    python3 -m venv VENV && VENV/bin/pip install trl==1.16.0
    VENV/bin/python tools/make_objective_golden.py

Every value comes out of TRL's own code. Where that is a method of a trainer it is called unbound, with a stand-in for
the trainer that has what the method reads, and one for the model that gives fixed logits. Numbers are float64 where
TRL lets them be.

    logits, ref_logits, hidden ...     shared inputs, float32; labels, masks, ids int32
    CASE.loss, CASE.grad.INPUT         outputs, float32
    metadata "cases"                   [{name, function, options}], "versions" {package: version}
"""
import inspect
import json
import pathlib
import textwrap
import types

import numpy as np
import torch
import torch.nn.functional as F
import transformers
import trl
from safetensors.numpy import save_file
from trl.experimental.cpo.cpo_trainer import CPOTrainer
from trl.experimental.gkd.gkd_trainer import GKDTrainer
from trl.experimental.orpo.orpo_trainer import ORPOTrainer
from trl.experimental.sdpo import loss_utils as sdpo
from trl.trainer.distillation_trainer import _chunked_divergence_loss
from trl.trainer.dpo_trainer import DPOTrainer
from trl.trainer.grpo_trainer import GRPOTrainer
from trl.trainer.kto_trainer import KTOTrainer
from trl.trainer.reward_trainer import RewardTrainer
from trl.trainer.utils import nanstd, selective_log_softmax

OUT = pathlib.Path(__file__).resolve().parent.parent / "tests/training/fixtures/objectives.safetensors"
PAIRS, LENGTH, WORDS, HIDDEN, TOP = 3, 7, 9, 5, 3
IGNORE = -100

rng = np.random.default_rng(23)
arrays, cases = {}, []


def inputs(name, values, dtype=np.float32):
    arrays[name] = np.ascontiguousarray(values, dtype=dtype)
    return torch.tensor(arrays[name], dtype=torch.float64 if dtype == np.float32 else torch.long)


def case(name, function, loss, leaves, **options):
    """Records a loss, and its gradients by the leaves {name: tensor}."""
    grads = torch.autograd.grad(loss, list(leaves.values()))
    arrays[f"{name}.loss"] = loss.detach().numpy().astype(np.float32).reshape(())
    for key, g in zip(leaves, grads):
        arrays[f"{name}.grad.{key}"] = g.numpy().astype(np.float32)
    cases.append({"name": name, "function": function, "options": options})


def leaf(x):
    return x.clone().requires_grad_()


class Accelerator:
    device, num_processes = torch.device("cpu"), 1

    def gather(self, x):
        return x

    gather_for_metrics = gather

    def reduce(self, x, reduction):
        return x


class Metrics(dict):
    def __missing__(self, key):
        self[key] = Metrics() if key in ("train", "eval") else []
        return self[key]


def stand_in(**fields):
    """What the trainers' losses read of a trainer in evaluation, without the extras that are off."""
    base = dict(
        model=types.SimpleNamespace(training=False), accelerator=Accelerator(), _metrics=Metrics(),
        _total_train_tokens=0, aux_loss_enabled=False, args=types.SimpleNamespace())
    return types.SimpleNamespace(**{**base, **fields})


# Responses of different lengths behind prompts of different lengths; positions with padding behind them.
SPANS = [(2, 6), (1, 7), (3, 5), (2, 4), (1, 4), (3, 7)]  # first and behind the last token of each response
ids = inputs("input_ids", rng.integers(0, WORDS, (2 * PAIRS, LENGTH)), np.int32)
completion = torch.zeros(2 * PAIRS, LENGTH, dtype=torch.long)
for row, (first, last) in enumerate(SPANS):
    completion[row, first:last] = 1
attention = (torch.arange(LENGTH)[None] < torch.tensor([last for _, last in SPANS])[:, None]).long()
arrays["completion_mask"] = completion.numpy().astype(np.int32)
arrays["attention_mask"] = attention.numpy().astype(np.int32)
logits = inputs("logits", rng.standard_normal((2 * PAIRS, LENGTH, WORDS)) * 1.5)
ref_logits = inputs("ref_logits", arrays["logits"] + rng.standard_normal((2 * PAIRS, LENGTH, WORDS)) * 0.8)


def token_logps(z, labels):
    """As the trainers' fused heads give them: shifted, 0 where there is no label."""
    labels = labels[:, 1:]
    logps = selective_log_softmax(z[:, :-1], labels.clamp(min=0))
    return logps * (labels != IGNORE)


class Model:
    """Answers with fixed logits, as a model with TRL's fused head does."""

    def __init__(self, z):
        self.z = z

    def __call__(self, *_, labels=None, **__):
        if labels is None:
            return types.SimpleNamespace(logits=self.z)
        zeros = torch.zeros(self.z.shape[0], self.z.shape[1] - 1, dtype=self.z.dtype)
        return types.SimpleNamespace(
            log_probs=token_logps(self.z, labels), entropy=zeros, mean_logits=zeros, is_top1=zeros.bool())


labels = ids.masked_fill(completion == 0, IGNORE)
ref_logps = token_logps(ref_logits, labels).sum(1)
lengths = completion.sum(1)


def logps():
    z = leaf(logits)
    case("logprobs", "token_logprobs", token_logps(z, labels).sum(), {"logits": z})


def dpo():
    for name, loss_type, beta in [("sigmoid", "sigmoid", 0.3), ("hinge", "hinge", 0.6), ("ipo", "ipo", 0.4),
                                  ("sigmoid_norm", "sigmoid_norm", 1.5)]:
        z = leaf(logits)
        trainer = stand_in(
            ld_alpha=None, precompute_ref_logps=True, f_divergence_type="reverse_kl", loss_types=[loss_type],
            loss_weights=[1.0], beta=beta, label_smoothing=0.0, use_weighting=False, _tp_size=1)
        batch = {"input_ids": ids, "attention_mask": attention, "completion_mask": completion,
                 "ref_chosen_logps": ref_logps[:PAIRS], "ref_rejected_logps": ref_logps[PAIRS:]}
        loss = DPOTrainer._compute_loss(trainer, Model(z), batch, False)
        case(f"dpo.{name}", "dpo", loss, {"logits": z}, loss_type=loss_type, beta=beta)

    # This TRL smooths labels in CPO's loss only, which is DPO's where it gets ratios to the reference.
    z = leaf(logits)
    ratios = token_logps(z, labels).sum(1) - ref_logps
    trainer = stand_in(alpha=0.0, beta=0.3, loss_type="sigmoid", label_smoothing=0.1)
    losses, *_ = CPOTrainer.cpo_loss(trainer, ratios[:PAIRS], ratios[PAIRS:])
    case("dpo.smoothed", "dpo", losses.mean(), {"logits": z}, loss_type="sigmoid", beta=0.3, label_smoothing=0.1)

    for smoothing in (0.0, 0.2):
        z = leaf(logits)
        means = token_logps(z, labels).sum(1) / lengths
        trainer = stand_in(alpha=0.0, beta=2.0, loss_type="simpo", simpo_gamma=0.7, label_smoothing=smoothing)
        losses, *_ = CPOTrainer.cpo_loss(trainer, means[:PAIRS], means[PAIRS:])
        case(f"simpo.{smoothing}", "simpo", losses.mean(), {"logits": z}, beta=2.0, gamma=0.7,
             label_smoothing=smoothing)


def orpo():
    # Its likelihood loss counts the prompt too: here the whole sequence but its first token is the response.
    z = leaf(logits)
    whole = ids.masked_fill(attention == 0, IGNORE)
    batch = {}
    for side, rows in (("chosen", slice(0, PAIRS)), ("rejected", slice(PAIRS, None))):
        batch |= {f"{side}_{key}": values[rows] for key, values in
                  (("input_ids", ids), ("labels", whole), ("attention_mask", attention))}
    trainer = stand_in(is_encoder_decoder=False, padding_value=0, beta=0.25)
    for method in ("concatenated_inputs", "get_batch_logps"):
        setattr(trainer, method, getattr(ORPOTrainer, method))
    for method in ("concatenated_forward", "odds_ratio_loss"):
        setattr(trainer, method, types.MethodType(getattr(ORPOTrainer, method), trainer))
    loss, _ = ORPOTrainer.get_batch_loss_metrics(trainer, Model(z), batch)
    case("orpo", "orpo", loss, {"logits": z}, **{"lambda": 0.25})


def kto():
    desirable = torch.tensor([1, 0, 1, 1, 0, 0])
    arrays["desirable"] = desirable.numpy().astype(np.int32)
    for name, shift in (("kto", 0.0), ("kto.no_kl", 5.0)):  # shifted, the estimate is negative, and cut to 0
        arrays[f"{name}.mismatched"] = (rng.standard_normal(2 * PAIRS) - 4 - shift).astype(np.float32)
        arrays[f"{name}.ref_mismatched"] = (rng.standard_normal(2 * PAIRS) - 4.8).astype(np.float32)
        kl = torch.tensor(arrays[f"{name}.mismatched"], dtype=torch.float64)
        ref_kl = torch.tensor(arrays[f"{name}.ref_mismatched"], dtype=torch.float64)
        z = leaf(logits)
        options = dict(beta=0.3, desirable_weight=1.0, undesirable_weight=1.4)
        trainer = stand_in(
            calculate_KL=True, _compute_kl_logps=lambda model, batch: kl, precompute_ref_logps=True, loss_type="kto",
            _tp_size=1, **options)
        batch = {"input_ids": ids, "attention_mask": attention, "completion_mask": completion,
                 "label": desirable.bool(), "ref_logps": ref_logps, "ref_KL_logps": ref_kl}
        case(name, "kto", KTOTrainer._compute_loss(trainer, Model(z), batch, False), {"logits": z}, **options)


def reward():
    rewards = inputs("rewards", rng.standard_normal(2 * PAIRS) * 2)
    margin = inputs("margin", rng.uniform(0, 2, PAIRS))
    for name, coefficient, with_margin in (("plain", None, False), ("margin", None, True), ("centered", 0.05, True)):
        r = leaf(rewards)
        trainer = stand_in(args=types.SimpleNamespace(center_rewards_coefficient=coefficient))
        batch = {"margin": margin} if with_margin else {}
        model = lambda **_: types.SimpleNamespace(logits=r[:, None])  # noqa: E731
        loss = RewardTrainer.compute_loss(trainer, model, batch)
        case(f"reward.{name}", "reward", loss, {"rewards": r}, margin=with_margin,
             center_coefficient=coefficient or 0.0)


def advantages():
    """TRL computes them in the middle of generating: those lines of its source, run as they are."""
    source = inspect.getsource(GRPOTrainer._generate_and_score_completions)
    first, last = "mean_grouped_rewards = torch.nanmean", "is_std_zero = "
    lines = source.splitlines()
    begin = next(i for i, line in enumerate(lines) if first in line)
    end = next(i for i, line in enumerate(lines) if last in line)
    code = textwrap.dedent("\n".join(lines[begin:end]))
    rewards = inputs("group_rewards", [1, 0, 0.5, 0.25, 0.1, 0.1, 0.1, 0.1, -3, 5, 2, 2])
    for scale in ("group", "batch", "none"):
        names = {"torch": torch, "nanstd": nanstd, "rewards": rewards, "num_generations": 4,
                 "self": types.SimpleNamespace(scale_rewards=scale)}
        exec(code, names)  # noqa: S102: TRL's own lines
        arrays[f"advantages.{scale}"] = names["advantages"].numpy().astype(np.float32)


def grpo():
    rows, length = 4, 6
    logp = inputs("grpo.logps", -np.abs(rng.standard_normal((rows, length))) - 0.1)
    old = inputs("grpo.old_logps", arrays["grpo.logps"] + rng.standard_normal((rows, length)) * 0.3)
    ref = inputs("grpo.ref_logps", arrays["grpo.logps"] + rng.standard_normal((rows, length)) * 0.5)
    advantage = inputs("grpo.advantages", [0.9, -1.2, 0.4, -0.3])
    mask = torch.tensor([[1, 1, 1, 1, 0, 0], [1, 1, 1, 1, 1, 1], [1, 1, 0, 1, 1, 0], [1, 0, 0, 0, 0, 0]])
    arrays["grpo.mask"] = mask.numpy().astype(np.int32)
    settings = [
        ("grpo", dict(loss_type="grpo", beta=0.04)),
        ("bnpo", dict(loss_type="bnpo", beta=0.04)),
        ("dapo", dict(loss_type="dapo", epsilon_high=0.28)),
        ("dr_grpo", dict(loss_type="dr_grpo", max_completion_length=10)),
        ("kl", dict(loss_type="dapo", beta=0.5, epsilon=0.1)),
        ("gspo", dict(loss_type="grpo", importance_sampling_level="sequence", epsilon=0.05, epsilon_high=0.08)),
        ("gspo_kl", dict(loss_type="dapo", importance_sampling_level="sequence", epsilon=0.05, beta=0.1)),
        ("on_policy", dict(loss_type="dapo", beta=0.1, old=False)),
    ]
    for name, options in settings:
        p = leaf(logp)
        o = {"beta": 0.0, "epsilon": 0.2, "importance_sampling_level": "token", "max_completion_length": 0, **options}
        trainer = stand_in(
            _get_per_token_logps_and_entropies=lambda *_, **__: (p, torch.zeros_like(p), None),
            top_entropy_quantile=1.0, off_policy_mask_threshold=None,
            importance_sampling_level=o["importance_sampling_level"], beta=o["beta"],
            epsilon_low=o["epsilon"], epsilon_high=o.get("epsilon_high", o["epsilon"]), loss_type=o["loss_type"],
            use_vllm=False, max_completion_length=o["max_completion_length"], _entropy_bonus_enabled=False,
            args=types.SimpleNamespace(use_bias_correction_kl=False, delta=None))
        batch = {"prompt_ids": mask[:, :1], "prompt_mask": mask[:, :1], "completion_ids": mask, "completion_mask": mask,
                 "advantages": advantage, "ref_per_token_logps": ref, "num_items_in_batch": mask.sum()}
        if o.get("old", True):
            batch["old_per_token_logps"] = old
        case(f"grpo.{name}", "grpo", GRPOTrainer._compute_loss(trainer, None, batch), {"logps": p}, **options)


def distill():
    teacher = inputs("teacher_logits", rng.standard_normal((2 * PAIRS, LENGTH, WORDS)) * 2)
    for beta, temperature in ((0.0, 1.0), (1.0, 1.0), (0.5, 1.0), (0.1, 2.5), (0.0, 2.0)):
        z = leaf(logits)
        loss = GKDTrainer.generalized_jsd_loss(z[:, :-1], teacher[:, :-1], labels[:, 1:], beta, temperature)
        case(f"distill.{beta}.{temperature}", "distill", loss, {"logits": z}, beta=beta, temperature=temperature)

    # From hidden states and heads, in float32 as TRL's tiles are.
    h = {k: inputs(k, v).float().requires_grad_() for k, v in {
        "student_hidden": rng.standard_normal((PAIRS, LENGTH, HIDDEN)),
        "student_weight": rng.standard_normal((WORDS, HIDDEN)), "student_bias": rng.standard_normal(WORDS)}.items()}
    t = {k: inputs(k, v).float() for k, v in {
        "teacher_hidden": rng.standard_normal((PAIRS, LENGTH, HIDDEN + 2)),
        "teacher_weight": rng.standard_normal((WORDS, HIDDEN + 2))}.items()}
    mask = completion[:PAIRS]
    options = dict(beta=0.3, temperature=1.7, student_scale=0.9, student_softcap=3.0)
    loss, *_ = _chunked_divergence_loss(
        h["student_hidden"], t["teacher_hidden"], h["student_weight"], t["teacher_weight"], mask, options["beta"],
        student_lm_head_bias=h["student_bias"], student_logit_scale=options["student_scale"],
        student_final_logit_softcapping=options["student_softcap"], temperature=options["temperature"])
    case("distill_heads", "distill_heads", loss, h, **options)

    # SDPO's buckets and divergence, on the teacher's largest words.
    for rest, temperature in (("bucket", 1.0), ("renormalize", 1.0), ("bucket", 2.0)):
        z = leaf(logits)
        s, p = F.log_softmax(z[:, :-1] / temperature, -1), F.log_softmax(teacher[:, :-1] / temperature, -1)
        p, kept = p.topk(TOP, -1)
        s = s.gather(-1, kept)
        if rest == "bucket":
            s, p = sdpo.add_tail_bucket(s), sdpo.add_tail_bucket(p)
        else:
            s, p = s - s.logsumexp(-1, keepdim=True), p - p.logsumexp(-1, keepdim=True)
        mask = completion[:, 1:]
        loss = (sdpo.compute_divergence(s, p, 0.0) * mask).sum() / mask.sum()
        case(f"top_k.{rest}.{temperature}", "distill_top_k", loss, {"logits": z}, rest=rest, temperature=temperature,
             k=TOP)


for make in (logps, dpo, orpo, kto, reward, advantages, grpo, distill):
    make()
versions = {"trl": trl.__version__, "torch": torch.__version__, "transformers": transformers.__version__}
OUT.parent.mkdir(parents=True, exist_ok=True)
save_file(arrays, OUT, {"cases": json.dumps(cases), "versions": json.dumps(versions)})
for c in cases:
    print(f"{c['name']:20} {arrays[c['name'] + '.loss']:.6f}")
