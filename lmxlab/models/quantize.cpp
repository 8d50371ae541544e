#include "lmxlab/models/quantize.h"

#include "lmxlab/base/text.h"

#include "lmxlab/config/hf.h"
#include "lmxlab/core/runtime.h"
#include "lmxlab/core/transformer.h"

#include <mlx/ops.h>
#include <mlx/transforms.h>

#include <algorithm>
#include <cmath>

namespace lmxlab {
namespace {

template <class... Allowed>
void expect(const char* what, int got, Allowed... allowed) {
  if (((got == allowed) || ...)) return;
  std::string list;
  ((list += (list.empty() ? "" : ", ") + std::to_string(allowed)), ...);
  throw Error(Kind::usage, std::string("[quantize] ") + what + ": expected one of " + list +
                               ", got " + std::to_string(got));
}

void evaluate(const core::Weight& w) {
  std::vector<mx::array> all{w.w.value};
  if (w.scales) all.push_back(w.scales->value);
  if (w.biases) all.push_back(w.biases->value);
  mx::eval(all);
}

// Each packed weight, evaluated before the next.
template <class F>
void change_packed(LanguageModel& model, F change) {
  const Enter enter(model.runtime());
  for (const auto& layer : core::weights_of(model.transformer())) {
    if (!layer.weight->quantized()) continue;
    change(*layer.weight);
    evaluate(*layer.weight);
  }
}

kernels::FloatFormat float_format(QuantMode mode) {
  switch (mode) {
    case QuantMode::mxfp4: return kernels::FloatFormat::mxfp4;
    case QuantMode::nvfp4: return kernels::FloatFormat::nvfp4;
    case QuantMode::mxfp8: return kernels::FloatFormat::mxfp8;
    case QuantMode::affine: break;
  }
  return kernels::FloatFormat::none;
}

// What becomes of a layer.
struct Packing {
  int bits, group;  // bits 0: nothing
  kernels::FloatFormat floats;
  bool affine() const { return floats == kernels::FloatFormat::none; }
  int columns() const { return affine() ? group : kernels::float_groups(floats).group; }
  // Of a matrix of so many numbers, each of `element` bytes until now.
  int64_t bytes(int64_t numbers, int64_t element) const {
    const int64_t each = affine() ? bits : kernels::float_groups(floats).bits;
    return numbers * each / 8 + numbers / columns() * (affine() ? 2 * element : 1);
  }
};

// A slice of rows at a time, so that the numbers are never whole in memory.
LayerError compare(const std::string& path, const mx::array& was_whole, const core::Weight& after) {
  LayerError out{path};
  if (!after.quantized()) return out;
  out.bits = after.bits;
  const auto before = mx::reshape(was_whole, {-1, was_whole.shape(-1)});  // experts', as one matrix
  const int rows = before.shape(0), step = std::max(1, (1 << 22) / before.shape(-1));
  double difference = 0, size = 0;
  for (int from = 0; from < rows; from += step) {
    const int to = std::min(rows, from + step);
    const auto was = mx::astype(mx::slice(before, {from, 0}, {to, before.shape(1)}), mx::float32);
    const auto off = mx::subtract(after.rows(mx::arange(from, to, mx::int32), mx::float32), was);
    const auto a = mx::sum(mx::square(off)), b = mx::sum(mx::square(was)),
               c = mx::max(mx::abs(off));
    mx::eval(a, b, c);
    difference += double(a.item<float>()), size += double(b.item<float>());
    out.largest = std::max(out.largest, double(c.item<float>()));
  }
  out.relative_rms = size > 0 ? std::sqrt(difference / size) : 0;
  return out;
}

}  // namespace

bool can_save_packed(const config::Model& config) {
  return config::hf_form(config).model_type != "gpt2";
}

void interleave_model(LanguageModel& model) {
  change_packed(model, [](core::Weight& w) { w.interleave(); });
}
void separate_model(LanguageModel& model) {
  change_packed(model, [](core::Weight& w) { w.separate(); });
}

namespace {

std::vector<Packing> packings(const std::vector<core::LayerWeight>& all,
                              const QuantizeOptions& options) {
  expect("bits", options.bits, 2, 3, 4, 5, 6, 8);
  expect("embedding bits", options.embedding_bits, 0, 2, 3, 4, 5, 6, 8);
  expect("group size", options.group_size, 32, 64, 128);
  for (const auto& l : options.layers) expect("bits of layers", l.bits, 0, 2, 3, 4, 5, 6, 8);
  const auto floats = float_format(options.mode);
  std::vector<Packing> plan;
  std::vector<bool> used(options.layers.size(), false);
  for (const auto& p : all) {
    if (p.weight->quantized())
      throw Error(Kind::usage, "[quantize] " + p.path + " is quantized already");
    Packing how{options.bits, options.group_size, floats};
    if (p.embedding && options.embedding_bits)
      how = {options.embedding_bits, options.group_size, kernels::FloatFormat::none};
    for (size_t i = 0; i < options.layers.size(); ++i) {
      if (!fits_pattern(options.layers[i].pattern, p.path)) continue;
      how = {options.layers[i].bits, options.group_size, kernels::FloatFormat::none};
      used[i] = true;
      break;
    }
    const int in = p.weight->w.value.shape(-1), group = how.columns();
    if (how.bits != 0 && in % group != 0)
      throw Error(Kind::usage, "[quantize] " + p.path + " has " + std::to_string(in) +
                                   " inputs, no multiple of the group size " +
                                   std::to_string(group) + ". Give a smaller group.");
    // MLX packs small floats 32 at once, whatever their groups are.
    if (how.bits != 0 && !how.affine() && p.weight->w.value.size() % 32 != 0)
      throw Error(Kind::usage, "[quantize] " + p.path + " has " +
                                   std::to_string(p.weight->w.value.size()) +
                                   " numbers, and small floats are packed 32 at once. Leave it as "
                                   "it is with --layer-bits \"" +
                                   p.path + "=0\".");
    plan.push_back(how);
  }
  for (size_t i = 0; i < used.size(); ++i)
    if (!used[i])
      throw Error(Kind::usage, "[quantize] the pattern \"" + options.layers[i].pattern +
                                   "\" fits no layer; one is " + all.back().path);
  return plan;
}

}  // namespace

PackedBytes packed_bytes(LanguageModel& model, const QuantizeOptions& options) {
  const auto all = core::weights_of(model.transformer());
  const auto plan = packings(all, options);
  PackedBytes out{.left = model.parameter_bytes()};
  for (size_t i = 0; i < all.size(); ++i) {
    const auto& w = all[i].weight->w.value;
    const auto numbers = static_cast<int64_t>(w.size());
    // Float32, and once more; of small floats, eighteen times for as many as are packed at a time.
    const int64_t again =
        plan[i].affine() ? numbers : 18 * std::min<int64_t>(numbers, core::Weight::kAtATime);
    out.work = std::max(out.work, 4 * (numbers + std::max(numbers, again)));
    if (plan[i].bits == 0) continue;
    out.packed += plan[i].bytes(numbers, static_cast<int64_t>(w.itemsize()));
    out.left -= static_cast<int64_t>(w.nbytes());
  }
  return out;
}

void quantize_model(LanguageModel& model, const QuantizeOptions& options,
                    const std::function<void(int, int)>& progress,
                    std::vector<LayerError>* errors) {
  const Enter enter(model.runtime());
  const auto all = core::weights_of(model.transformer());
  const auto plan = packings(all, options);
  for (size_t i = 0; i < all.size(); ++i) {
    if (progress) progress(static_cast<int>(i), static_cast<int>(all.size()));
    auto& weight = *all[i].weight;
    const auto before = weight.w.value;
    if (!plan[i].affine())
      weight.quantize(plan[i].floats);
    else if (plan[i].bits != 0)
      weight.quantize(plan[i].group, plan[i].bits);
    evaluate(weight);
    if (errors) errors->push_back(compare(all[i].path, before, weight));
  }
}

}  // namespace lmxlab
