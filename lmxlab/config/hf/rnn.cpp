// Models of linear recurrences with gates: RecurrentGemma, RWKV, xLSTM.
#include "lmxlab/config/hf/shared.h"

#include <algorithm>
#include <cmath>

namespace lmxlab::config {
namespace {

constexpr int kMost = 1 << 28;  // of a width that is multiplied

/// Writing: a factor of which the class makes `value` again, rounding down.
double factor_of(int value, int dim) {
  if (dim < 1) return 1;
  double factor = static_cast<double>(value) / dim;
  while (whole(dim * factor) < value) factor = std::nextafter(factor, 2 * factor + 1);
  return factor;
}
/// Reading: what a factor makes of the width, rounded down.
int width_of(Keys& k, double value, const char* factor) {
  if (value >= 1 && value < 1 << 30) return static_cast<int>(value);
  k.wrong(std::string(factor) + ": it gives a width of " + Json(value).dump());
  return 1;
}

/// The shortest list that gives the layers when it is repeated.
std::vector<std::string> block_types(const Decoder& d) {
  std::vector<std::string> all;
  for (size_t i = 0; i < static_cast<size_t>(d.depth); ++i)
    all.emplace_back(d.recurs(i) ? "recurrent" : "attention");
  for (size_t period = 1; period < all.size(); ++period)
    if (std::equal(all.begin() + static_cast<std::ptrdiff_t>(period), all.end(), all.begin())) {
      all.resize(period);
      break;
    }
  return all;
}
void recurrent_gemma_keys(Keys& k, Decoder& d) {
  const auto* own = d.recurrent ? std::get_if<RgLru>(&*d.recurrent) : nullptr;
  RgLru m = own ? *own : RgLru{};
  if (k.reading())
    d.context = 8192, d.act = Act::gelu_tanh, d.tie = true, d.window = 2048, d.logit_softcap = 30.f;
  else
    // The file says the width of gate and up together.
    d.heads = m.heads, d.hidden = 2 * std::min(d.hidden, kMost);
  sizes(k, d, false);
  if (k.reading()) d.hidden /= 2;
  k.skip({"head_dim"});
  k(d.eps, {"rms_norm_eps"});
  k.act(d.act, {"hidden_activation"});
  k(d.qkv_bias, {"attention_bias"});
  k(d.window, {"attention_window_size"});
  k(d.logit_softcap, {"logits_soft_cap"});
  k.rope(d, {.share = 0.5f});
  if (k.reading()) m.width = d.dim, m.heads = d.heads;
  k(m.width, {"lru_width"});
  k(m.conv, {"conv1d_width"});
  m.act = d.act;
  d.recurrent = m;
  std::vector<std::string> types{"recurrent", "recurrent", "attention"};
  if (!k.reading()) types = block_types(d);
  k(types, {"block_types"});
  if (k.reading()) {
    if (types.empty()) k.wrong("block_types: expected at least one"), types = {"recurrent"};
    for (const auto& t : types)
      if (t != "recurrent" && t != "attention") k.refuse("block_types: \"" + t + "\"");
    d.recurrent_layers = layers_where(
        d, [&](int i) { return types[static_cast<size_t>(i - 1) % types.size()] == "recurrent"; });
  }
  k.skip(
      {"layer_types", "layers_block_type", "w_init_variance_scale", "final_w_init_variance_scale"});
}
Model recurrent_gemma_model(const Decoder& d) {
  Block b = llama_block(d);
  b.norm = RmsNorm{.eps = d.eps, .weight_offset = 1};
  attention_of(b).qkv_bias = d.qkv_bias, attention_of(b).out_bias = true;
  mlp_of(b).bias = true;
  Model m = assemble(d, "recurrent_gemma", b);
  // The class keeps it in bfloat16.
  const auto root = std::sqrt(static_cast<float>(d.dim));
  const int exponent = std::ilogb(root);
  m.embed_scale = std::ldexp(std::nearbyint(std::ldexp(root, 7 - exponent)), exponent - 7);
  return m;
}

/// A layer of theirs is two blocks of ours: time mixing, then channel mixing.
void rwkv_keys(Keys& k, Decoder& d) {
  if (k.reading()) d.eps = 1e-5f, d.context = 1024;
  int layers = d.depth / 2;
  k.require(d.vocab, {"vocab_size"});
  k(d.context, {"context_length", "max_position_embeddings"});
  k.require(d.dim, {"hidden_size"});
  k.depth(layers, {"num_hidden_layers"});
  const auto* own = d.recurrent ? std::get_if<RwkvTime>(&*d.recurrent) : nullptr;
  RwkvTime m = own ? *own : RwkvTime{};
  if (k.reading()) m.inner = d.dim, d.hidden = 4 * std::min(d.dim, kMost), d.depth = 2 * layers;
  k(m.inner, {"attention_hidden_size"});
  k(d.hidden, {"intermediate_size"});
  k(d.eps, {"layer_norm_epsilon"});
  k(d.tie, {"tie_word_embeddings"});
  k(d.init_std, {"initializer_range"});
  d.recurrent = m;
  // It halves the stream and what is added to it: the same function.
  k.constant("rescale_every", 0);
}
Model rwkv_model(const Decoder& d) {
  Block b = llama_block(d);
  b.norm = LayerNorm{.eps = d.eps}, b.ffn = Nothing{};
  Model m = assemble(d, "rwkv", b);
  for (size_t i = 1; i < m.layers.size(); i += 2) m.layers[i].mixer = RwkvChannel{d.hidden};
  m.embed_norm = b.norm, m.final_norm = LayerNorm{.eps = 1e-5f};
  return m;
}

void xlstm_keys(Keys& k, Decoder& d) {
  const auto* own = d.recurrent ? std::get_if<Mlstm>(&*d.recurrent) : nullptr;
  Mlstm m = own ? *own : Mlstm{.heads = 8};
  if (k.reading()) d.logit_softcap = 30.f;
  k.require(d.vocab, {"vocab_size"});
  k.require(d.dim, {"hidden_size", "embedding_dim"});
  k.depth(d.depth, {"num_hidden_layers", "num_blocks"});
  k(m.heads, {"num_heads"});
  k(d.eps, {"norm_eps"});
  k(m.eps, {"eps"});
  k(m.gate_cap, {"gate_soft_cap"});
  k(d.logit_softcap, {"output_logit_soft_cap"});
  k.constant("tie_word_embeddings", false);  // the class ties nothing, whatever it says
  k(d.init_std, {"initializer_range"});
  k.only("use_bias", false, "biases of projections and norms are not supported");
  double keys = 0.5, values = 1, ffn = 2.667;
  int multiple = 64;
  if (!k.reading()) {
    keys = factor_of(product(m.heads, m.key_dim), d.dim),
    values = factor_of(product(m.heads, m.value_dim), d.dim);
    ffn = factor_of(d.hidden, d.dim), multiple = 1;
  }
  k(keys, {"qk_dim_factor"});
  k(values, {"v_dim_factor"});
  k(ffn, {"ffn_proj_factor"});
  k(multiple, {"ffn_round_up_to_multiple_of"});
  std::string weights = "single";
  k(weights, {"weight_mode"});
  if (weights != "single") k.refuse("weight_mode: \"" + weights + "\"");
  if (k.reading()) {
    if (m.heads < 1) k.wrong("num_heads: expected at least 1"), m.heads = 1;
    if (multiple < 1) k.wrong("ffn_round_up_to_multiple_of: expected at least 1"), multiple = 1;
    const auto of_a_head = [&](double factor, const char* name) {
      const int all = width_of(k, d.dim * factor, name);
      if (all % m.heads != 0)
        k.wrong(std::string(name) + ": " + std::to_string(all) + " is no multiple of num_heads, " +
                std::to_string(m.heads));
      return std::max(1, all / m.heads);
    };
    m.key_dim = of_a_head(keys, "qk_dim_factor"), m.value_dim = of_a_head(values, "v_dim_factor");
    const double blocks = (d.dim * ffn + multiple - 1) / multiple;
    d.hidden = width_of(k, std::floor(blocks) * multiple, "ffn_proj_factor");
    m.norm_eps = d.eps;
  }
  d.recurrent = m;
  k.skip({"add_out_norm", "norm_reduction_force_float32", "chunkwise_kernel", "sequence_kernel",
          "step_kernel", "mode", "chunk_size", "return_last_states", "autocast_kernel_dtype",
          "inference_state_dtype", "max_inference_chunksize", "num_blocks", "embedding_dim"});
}
Model xlstm_model(const Decoder& d) {
  return assemble(d, "xlstm", llama_block(d));
}

}  // namespace

std::vector<HfClass> rnn_classes() {
  return {
      {"recurrent_gemma", "RecurrentGemmaForCausalLM", "recurrent_gemma", recurrent_gemma_keys,
       recurrent_gemma_model},
      {"rwkv", "RwkvForCausalLM", "rwkv", rwkv_keys, rwkv_model},
      {"xlstm", "xLSTMForCausalLM", "xlstm", xlstm_keys, xlstm_model},
  };
}

}  // namespace lmxlab::config
