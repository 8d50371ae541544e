#include "lmxlab/models/quantize.h"

#include "lmxlab/core/runtime.h"
#include "lmxlab/core/transformer.h"

#include <mlx/transforms.h>

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
  if (w.scales) all.insert(all.end(), {w.scales->value, w.biases->value});
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

}  // namespace

void interleave_model(LanguageModel& model) {
  change_packed(model, [](core::Weight& w) { w.interleave(); });
}
void separate_model(LanguageModel& model) {
  change_packed(model, [](core::Weight& w) { w.separate(); });
}

void quantize_model(LanguageModel& model, const QuantizeOptions& options,
                    const std::function<void(int, int)>& progress) {
  expect("bits", options.bits, 2, 3, 4, 5, 6, 8);
  expect("embedding bits", options.embedding_bits, 0, 2, 3, 4, 5, 6, 8);
  expect("group size", options.group_size, 32, 64, 128);
  const Enter enter(model.runtime());
  const auto all = core::weights_of(model.transformer());
  for (const auto& p : all) {
    const int in = p.weight->w.value.shape(-1);
    if (p.weight->quantized())
      throw Error(Kind::usage, "[quantize] " + p.path + " is quantized already");
    if (in % options.group_size != 0)
      throw Error(Kind::usage, "[quantize] " + p.path + " has " + std::to_string(in) +
                                   " inputs, no multiple of the group size " +
                                   std::to_string(options.group_size) + ". Give a smaller group.");
  }
  int done = 0;
  for (const auto& p : all) {
    if (progress) progress(done++, static_cast<int>(all.size()));
    const bool own = p.embedding && options.embedding_bits;
    p.weight->quantize(options.group_size, own ? options.embedding_bits : options.bits);
    evaluate(*p.weight);
  }
}

}  // namespace lmxlab
