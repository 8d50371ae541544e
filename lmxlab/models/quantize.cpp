#include "lmxlab/models/quantize.h"

#include "lmxlab/core/linear.h"
#include "lmxlab/core/runtime.h"
#include "lmxlab/core/transformer.h"

#include <mlx/transforms.h>

namespace lmxlab {
namespace {

struct Packable {
  std::string path;
  core::Weight* weight;
  int bits;
};

std::vector<Packable> packable(core::Transformer& model, const QuantizeOptions& o) {
  struct Finder : core::Visitor {
    const QuantizeOptions& options;
    std::vector<Packable> out;
    explicit Finder(const QuantizeOptions& o) : options(o) {}
    void linear(const std::string& path, core::Linear& l) override {
      out.push_back({path, &l.weight, options.bits});
    }
    void embedding(const std::string& path, core::Embedding& e) override {
      out.push_back(
          {path, &e.weight, options.embedding_bits ? options.embedding_bits : options.bits});
    }
  } finder(o);
  model.visit(finder);
  return std::move(finder.out);
}

template <class... Allowed>
void expect(const char* what, int got, Allowed... allowed) {
  if (((got == allowed) || ...)) return;
  std::string list;
  ((list += (list.empty() ? "" : ", ") + std::to_string(allowed)), ...);
  throw Error(Kind::usage, std::string("[quantize] ") + what + ": expected one of " + list +
                               ", got " + std::to_string(got));
}

void evaluate(const core::Weight& w) {
  mx::eval(w.w.value, w.scales->value, w.biases->value);
}

// Each packed weight, evaluated before the next.
template <class F>
void change_packed(LanguageModel& model, F change) {
  const Enter enter(model.runtime());
  for (const auto& p : packable(model.transformer(), {})) {
    if (!p.weight->quantized()) continue;
    change(*p.weight);
    evaluate(*p.weight);
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
  const auto all = packable(model.transformer(), options);
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
    p.weight->quantize(options.group_size, p.bits);
    evaluate(*p.weight);
  }
}

}  // namespace lmxlab
