// Named models: a family's function applied to a row of sizes. Any of the sizes can be changed, and
// the same model comes out smaller or larger.
#pragma once

#include "lmxlab/config/model.h"

#include <cstdint>
#include <functional>
#include <string>
#include <string_view>
#include <vector>

namespace lmxlab::config {

/// What may differ between two models of one form. Absent: as it is.
struct Sizes {
  std::optional<int> depth = {}, dim = {}, heads = {}, kv_heads = {}, head_dim = {}, hidden = {},
                     vocab = {}, context = {};
  template <class V>
  void visit(V& v) {
    v("depth", depth, "layers");
    v("dim", dim, "width of the residual stream");
    v("heads", heads, "query heads");
    v("kv_heads", kv_heads, "key and value heads");
    v("head_dim", head_dim, "dimensions of a head");
    v("hidden", hidden, "inner width of the FFN");
    v("vocab", vocab, "tokens in the vocabulary");
    v("context", context, "the longest sequence, in tokens");
  }
};

/// GPT-2: LayerNorm, learned positions, multi-head attention, plain FFN. The defaults are
/// gpt-small.
struct Gpt {
  int depth = 12, dim = 768, heads = 12;
  int hidden = 0;  // 0: 4 * dim
  int vocab = 50257, context = 1024;
  Act act = Act::gelu_tanh;
  bool bias = true;  // of the linear layers; norms always have theirs
  bool tie_head = true;
  float eps = 1e-5f, dropout = 0;
};
/// @throws Error(usage) with every contradiction.
Model gpt(const Gpt& form = {});

/// Llama: RMSNorm, rotary positions, grouped-query attention, gated SiLU, no biases. The defaults
/// are llama-7b.
struct Llama {
  int depth = 32, dim = 4096, heads = 32;
  int kv_heads = 0;  // 0: heads
  int head_dim = 0;  // 0: dim / heads
  int hidden = 0;    // 0: 8/3 * dim, rounded up to a multiple of 256
  int vocab = 32000, context = 2048;
  float theta = 10'000, eps = 1e-6f;
  bool tie_head = false;
};
/// @throws Error(usage) with every contradiction.
Model llama(const Llama& form = {});

struct Preset {
  std::string name, family;
  std::function<Model()> make;
};

/// Every named model, family by family: a tiny one first, released ones, and those of the Python
/// library lmxlab, whose names end in -lmxlab.
const std::vector<Preset>& presets();
std::vector<std::string> families();
/// Parameters of each of presets(), in its order; counted once.
const std::vector<int64_t>& preset_parameters();

/// The named model, with some of its sizes changed (see resize).
/// @throws Error(not_found) naming the nearest presets, Error(usage) if the sizes contradict each
/// other.
Model preset(std::string_view name, const Sizes& overrides = {});

/// The smallest model of a family, with a layer or two of each kind that it has: the preset
/// "<family>-tiny", with hyphens for underscores.
Model tiny(std::string_view family, const Sizes& overrides = {});

/// The same model with other sizes, in every layer. What is not given follows:
///   heads, head_dim   heads * head_dim = dim is kept where it held: head_dim follows, or heads if
///                     only head_dim is given
///   kv_heads          keeps its share of the heads (1 stays 1)
///   hidden            the family's rule if dim changes (gpt: 4 * dim, llama: see Llama), else its
///                     ratio to dim
///   depth             the layers repeat in their order
/// Learned positions get the length `context`.
/// @throws Error(usage) with every contradiction.
Model resize(Model model, const Sizes& sizes);

/// The sizes of a model; what differs between layers, or no layer has, is absent.
Sizes sizes_of(const Model& model);

}  // namespace lmxlab::config
