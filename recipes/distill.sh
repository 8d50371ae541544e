#!/bin/sh
# Shows: a small model learns from a large one's distributions, which runs in every step, or has run once: its 16 likeliest
# tokens are kept in a file that the other seeds share. Beside the same model on the text alone; equal steps, three seeds.
# Data: the built-in Tiny Shakespeare. Takes: four minutes.
# Must reach: 0.06 nats less than on the text alone; the kept tokens cost at most 0.01 of that.
. "$(dirname "$0")/common.sh"
split_shakespeare
head -c "${LEARN:-1003854}" "$out/learn.txt" >"$out/some.txt"
common="--set optimizer.lr=4e-3 --set run.batch=12 --set run.context=64 --set model.context=64 --set data.tokenizer=byte"

# shellcheck disable=SC2086
train $common --set model.preset=gpt-shakespeare-small --set run.steps="${TEACHER_STEPS:-2000}" --out "$out/teacher" >"$out/teacher.json"
loss() { "$lmxlab" perplexity "$1" --file "$out/held-out.txt" --max-tokens "${EVAL:-20000}" --json --quiet | number nll; }
student() { # student NAME SEED SETTING...
  name=$1 seed=$2
  shift 2
  # shellcheck disable=SC2086
  train $common --data "$out/some.txt" --set model.preset=gpt-tiny --set run.steps="${STEPS:-800}" --set run.seed="$seed" \
    --out "$out/$name-$seed" "$@" >"$out/$name-$seed.json"
}
distill="--set objective.kind=distill --set objective.hard_labels=0.3"

alone=0 online=0 kept=0
for seed in $(seq "${SEEDS:-3}"); do
  student alone "$seed"
  # shellcheck disable=SC2086
  student online "$seed" $distill --set objective.teacher="$out/teacher"
  if [ "$seed" = 1 ]; then how="$out/teacher --set objective.top_k=16"; else how=$out/kept-1/teacher.safetensors; fi
  # shellcheck disable=SC2086
  student kept "$seed" $distill --set objective.teacher=$how
  alone=$(calc "$alone + $(loss "$out/alone-$seed") / ${SEEDS:-3}")
  online=$(calc "$online + $(loss "$out/online-$seed") / ${SEEDS:-3}")
  kept=$(calc "$kept + $(loss "$out/kept-$seed") / ${SEEDS:-3}")
done
echo "teacher $(loss "$out/teacher")"
echo "alone $alone"
echo "gain $(calc "$alone - $online")"
echo "lost $(calc "sqrt(($kept - $online) ^ 2)")"
