#include "lmxlab/training/pairs.h"

#include "lmxlab/base/random.h"
#include "lmxlab/core/runtime.h"
#include "lmxlab/core/transformer.h"
#include "lmxlab/training/pair_objectives.h"

#include <mlx/ops.h>
#include <mlx/transforms.h>

#include <algorithm>
#include <numeric>

namespace lmxlab {
namespace {

constexpr uint64_t kMismatch = 0x6b746f;  // apart from the numbers of epochs

using Sequences = std::vector<const data::TokenSample*>;

// One a row, padded at the right.
data::Batch rows_of(const Sequences& sequences, int context) {
  const size_t rows = sequences.size(), width = static_cast<size_t>(context);
  std::vector<int32_t> inputs(rows * width), targets(rows * width);
  std::vector<uint8_t> loss(rows * width);
  int64_t tokens = 0;
  for (size_t r = 0; r < rows; ++r) {
    const auto& s = *sequences[r];
    const size_t n = std::min(s.ids.size(), width);
    tokens += static_cast<int64_t>(n);
    for (size_t i = 0; i < n; ++i) {
      inputs[r * width + i] = s.ids[i];
      if (i + 1 == s.ids.size()) continue;
      targets[r * width + i] = s.ids[i + 1];
      loss[r * width + i] = s.loss[i + 1];
    }
  }
  const mx::Shape shape{static_cast<int>(rows), context};
  data::Batch out{mx::array(inputs.data(), shape, mx::int32),
                  mx::array(targets.data(), shape, mx::int32),
                  mx::array(loss.data(), shape, mx::bool_)};
  out.tokens = tokens;
  return out;
}

template <class T>
mx::array column(const std::vector<T>& v, mx::Dtype type) {
  return mx::array(v.data(), {static_cast<int>(v.size())}, type);
}

// A prompt with another sample's answer.
data::TokenSample mismatched(const data::TokenSample& prompt, const data::TokenSample& answer) {
  const auto begin = [](const data::TokenSample& s) {
    return std::find(s.loss.begin(), s.loss.end(), 1) - s.loss.begin();
  };
  const auto keep = begin(prompt), from = begin(answer);
  data::TokenSample out;
  out.ids.assign(prompt.ids.begin(), prompt.ids.begin() + keep);
  out.loss.assign(out.ids.size(), 0);
  out.ids.insert(out.ids.end(), answer.ids.begin() + from, answer.ids.end());
  out.loss.insert(out.loss.end(), answer.loss.begin() + from, answer.loss.end());
  return out;
}

}  // namespace

std::vector<TokenPair> pairs_of(data::TokenSamples samples, uint64_t seed) {
  auto& s = samples.sequences;
  std::vector<TokenPair> out;
  if (samples.kind == data::SampleKind::unpaired) {
    if (s.size() == 1)
      throw Error(Kind::usage,
                  "[pairs] expected at least 2 unpaired samples, got 1: the divergence is measured "
                  "on prompts with another sample's answer");
    std::vector<size_t> cycle(s.size());
    std::iota(cycle.begin(), cycle.end(), size_t{0});
    HostRandom(seed, kMismatch).shuffle(cycle);
    for (const auto& one : s) out.push_back({one, {}});
    for (size_t i = 0; i < cycle.size(); ++i)
      out[cycle[i]].second = mismatched(s[cycle[i]], s[cycle[(i + 1) % cycle.size()]]);
    return out;
  }
  if (samples.kind != data::SampleKind::preference || s.size() % 2 != 0)
    throw Error(Kind::internal, "[pairs] expected preferences");
  for (size_t i = 0; i < s.size(); i += 2) out.push_back({std::move(s[i]), std::move(s[i + 1])});
  return out;
}

PairLayout pair_layout(ObjectiveKind kind) {
  switch (kind) {
    case ObjectiveKind::dpo: return PairLayout::reference;
    case ObjectiveKind::reward: return PairLayout::scored;
    case ObjectiveKind::kto: return PairLayout::unpaired;
    default: return PairLayout::plain;
  }
}

size_t beside_of(PairLayout layout) {
  switch (layout) {
    case PairLayout::plain: return 0;
    case PairLayout::reference: return 1;
    case PairLayout::scored: return 2;
    case PairLayout::unpaired: return 6;
  }
  return 0;
}

data::Batch pair_batch(const std::vector<const TokenPair*>& pairs, int context, PairLayout layout) {
  Sequences first, second;
  std::vector<float> reference_first, reference_second, value;
  for (const auto* p : pairs) {
    first.push_back(&p->first), second.push_back(&p->second);
    reference_first.push_back(p->reference_first);
    reference_second.push_back(p->reference_second);
    value.push_back(p->first.value);
  }
  if (layout == PairLayout::unpaired) {
    auto out = rows_of(first, context);
    const auto other = rows_of(second, context);
    out.beside = {column(reference_first, mx::float32),
                  column(value, mx::float32),
                  other.inputs,
                  other.targets,
                  *other.loss,
                  column(reference_second, mx::float32)};
    return out;
  }
  auto all = first;
  all.insert(all.end(), second.begin(), second.end());
  auto out = rows_of(all, context);
  if (layout == PairLayout::reference) {
    reference_first.insert(reference_first.end(), reference_second.begin(), reference_second.end());
    out.beside = {column(reference_first, mx::float32)};
  } else if (layout == PairLayout::scored) {
    std::vector<int32_t> last;
    for (const auto* s : all)
      last.push_back(std::max(0, std::min(static_cast<int>(s->ids.size()), context) - 1));
    out.beside = {column(last, mx::int32), column(value, mx::float32)};
  }
  return out;
}

data::Batch pair_batch_like(int pairs, int context, PairLayout layout) {
  const auto zeros = [](mx::Shape shape, mx::Dtype type) {
    auto a = mx::zeros(std::move(shape), type);
    a.eval();
    return a;
  };
  const auto rows = [&](int n) -> data::Batch {
    const mx::Shape shape{n, context};
    return {zeros(shape, mx::int32), zeros(shape, mx::int32), zeros(shape, mx::bool_)};
  };
  auto out = rows(layout == PairLayout::unpaired ? pairs : 2 * pairs);
  if (layout == PairLayout::reference) {
    out.beside = {zeros({2 * pairs}, mx::float32)};
  } else if (layout == PairLayout::scored) {
    out.beside = {zeros({2 * pairs}, mx::int32), zeros({pairs}, mx::float32)};
  } else if (layout == PairLayout::unpaired) {
    const auto other = rows(pairs);
    out.beside = {zeros({pairs}, mx::float32),
                  zeros({pairs}, mx::float32),
                  other.inputs,
                  other.targets,
                  *other.loss,
                  zeros({pairs}, mx::float32)};
  }
  return out;
}

data::Rows pair_rows(std::vector<TokenPair> pairs, int context, PairLayout layout) {
  const auto all = std::make_shared<const std::vector<TokenPair>>(std::move(pairs));
  return {static_cast<int64_t>(all->size()), [=](std::span<const uint32_t> rows) {
            std::vector<const TokenPair*> some;
            for (const auto row : rows) some.push_back(&(*all)[row]);
            return pair_batch(some, context, layout);
          }};
}

void measure_reference(LanguageModel& model, std::vector<TokenPair>& pairs, int batch, int context,
                       mx::Dtype compute) {
  const Enter enter(model.runtime());
  for (size_t first = 0; first < pairs.size(); first += static_cast<size_t>(batch)) {
    const size_t last = std::min(pairs.size(), first + static_cast<size_t>(batch));
    std::vector<const TokenPair*> some;
    for (size_t i = first; i < last; ++i) some.push_back(&pairs[i]);
    core::Pass pass;
    pass.dtype = compute;
    auto out = row_logprobs(model.transformer(), pair_batch(some, context, PairLayout::plain), pass)
                   .logprobs;
    as_error([&] { out.eval(); });
    for (size_t i = first; i < last; ++i) {
      pairs[i].reference_first = out.data<float>()[i - first];
      pairs[i].reference_second = out.data<float>()[last - first + i - first];
    }
  }
}

}  // namespace lmxlab
