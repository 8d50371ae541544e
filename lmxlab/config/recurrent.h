// Mixers that keep a state of a fixed size instead of keys and values. Their chunks, an
// implementation's choice, are no part of a model.
#pragma once

#include "lmxlab/config/ffn.h"

#include <array>
#include <cstdint>
#include <utility>
#include <vector>

namespace lmxlab::config {

/// Mamba-2 (arXiv:2405.21060). One projection gives z, x, B, C and dt; x, B and C go through a
/// causal depthwise convolution and silu. A head's state h [state, head_dim]:
///   dt = clamp(softplus(dt + dt_bias)),  h = exp(-exp(A_log) dt) h + dt B x^T,  y = h^T C + D x
/// Heads of a group share B and C. Then norm(y silu(z)), norm(y) silu(z) or y silu(z), the RMSNorm
/// over the width of each group, and the output projection.
struct Mamba2 {
  static constexpr const char* kind = "mamba2";
  int heads = 1, head_dim = 64;
  int groups = 1, state = 128;
  int conv = 4;
  bool in_bias = false, conv_bias = true, out_bias = false;
  bool norm = true, norm_before_gate = false;
  float norm_eps = 1e-5f;
  float dt_min = 0;
  std::optional<float> dt_max = {};
  std::vector<float> scales = {};  // z, x, B, C and dt are multiplied by them (Falcon-H1)
  template <class V>
  void visit(V& v) {
    v("heads", heads, "heads");
    v("head_dim", head_dim, "dimensions of a head");
    v("groups", groups, "groups of heads that share B and C");
    v("state", state, "numbers of the state a dimension");
    v("conv", conv, "positions that the convolution sees");
    v("in_bias", in_bias, "bias of the input projection");
    v("conv_bias", conv_bias, "bias of the convolution");
    v("out_bias", out_bias, "bias of the output projection");
    v("norm", norm, "an RMSNorm beside the gate");
    v("norm_before_gate", norm_before_gate, "the norm first, then the gate");
    v("norm_eps", norm_eps, "added to the norm's mean square");
    v("dt_min", dt_min, "the least time step");
    v("dt_max", dt_max, "the greatest time step");
    v("scales", scales, "z, x, B, C and dt are multiplied by them; none: by 1");
  }
};

/// How the input projections of a gated delta net are stored; the arithmetic is one.
///   joint     in_proj_qkvz and in_proj_ba, each ordered by key head (Qwen3-Next)
///   parts     in_proj_qkv, in_proj_z, in_proj_b, in_proj_a (Qwen3.5)
///   separate  q_proj, k_proj, v_proj, g_proj, b_proj, a_proj (OLMo hybrid)
enum class DeltaProjections { joint, parts, separate };

/// Gated DeltaNet (arXiv:2412.06464). q, k and v go through a causal depthwise convolution and
/// silu; q and k get length 1, q is divided by sqrt(key_dim). A head's state S [key_dim,
/// value_dim]:
///   S = exp(-exp(A_log) softplus(a + dt_bias)) S,  S = S + k (beta (v - S^T k))^T,  o = S^T q
/// with beta = sigmoid(b), or twice that. Then norm(o) silu(z), the RMSNorm over each head, and the
/// output projection.
struct GatedDelta {
  static constexpr const char* kind = "gated_delta";
  int heads = 1, key_heads = 1;
  int key_dim = 64, value_dim = 64;
  int conv = 4;
  bool allow_neg_eigval = false;
  float norm_eps = 1e-6f;
  DeltaProjections projections = DeltaProjections::separate;
  template <class V>
  void visit(V& v) {
    v("heads", heads, "value heads");
    v("key_heads", key_heads, "query and key heads");
    v("key_dim", key_dim, "dimensions of a query or key head");
    v("value_dim", value_dim, "dimensions of a value head");
    v("conv", conv, "positions that the convolution sees");
    v("allow_neg_eigval", allow_neg_eigval, "beta up to 2 instead of 1");
    v("norm_eps", norm_eps, "added to the norm's mean square");
    v("projections", projections, "how they are stored: joint, parts or separate");
  }
};

/// LFM2's (huggingface.co/LiquidAI): one projection gives B, C and x; y = C conv(B x), the causal
/// depthwise convolution without activation; and the output projection.
struct ShortConv {
  static constexpr const char* kind = "short_conv";
  int conv = 3;
  bool bias = false;
  template <class V>
  void visit(V& v) {
    v("conv", conv, "positions that the convolution sees");
    v("bias", bias, "biases of projections and convolution");
  }
};

/// Kimi Delta Attention (arXiv:2510.26692): a gated delta net whose state decays by rows. f and z
/// are projections of the input, of low rank or not; a head's state S [head_dim, head_dim]:
///   S = diag(exp(-exp(A_log) softplus(f + dt_bias))) S,  S = S + k (beta (v - S^T k))^T
/// or, with a lower bound, exp(lower_bound sigmoid(exp(A_log) (f + dt_bias))). The gate is
/// norm(o) sigmoid(z).
struct KimiDelta {
  static constexpr const char* kind = "kimi_delta";
  int heads = 1, head_dim = 64;
  int conv = 4;
  bool low_rank = true;
  std::optional<float> lower_bound = {};
  float norm_eps = 1e-6f;
  template <class V>
  void visit(V& v) {
    v("heads", heads, "heads");
    v("head_dim", head_dim, "dimensions of a head");
    v("conv", conv, "positions that the convolution sees");
    v("low_rank", low_rank, "decays and gate through head_dim numbers");
    v("lower_bound", lower_bound, "of the log decays, below 0");
    v("norm_eps", norm_eps, "added to the norm's mean square");
  }
};

/// RMSNorms of what dt is made of, of B and of C: none (Mamba), without weights (Falcon Mamba),
/// with weights (Jamba).
enum class MambaNorms { none, plain, learned };

/// Mamba (arXiv:2312.00752). One projection gives x and z; x goes through a causal depthwise
/// convolution and silu, and gives dt, B and C. The state h [inner, state]:
///   dt = softplus(dt_proj(dt)),  h = exp(-exp(A_log) dt) h + dt x B^T,  y = h C + D x
/// Then y silu(z) and the output projection.
struct Mamba {
  static constexpr const char* kind = "mamba";
  int inner = 64, state = 16, dt_rank = 4;
  int conv = 4;
  bool bias = false, conv_bias = true;
  MambaNorms norms = MambaNorms::none;
  float norm_eps = 1e-6f;
  template <class V>
  void visit(V& v) {
    v("inner", inner, "inner width");
    v("state", state, "numbers of the state a dimension");
    v("dt_rank", dt_rank, "numbers that the time steps are made of");
    v("conv", conv, "positions that the convolution sees");
    v("bias", bias, "biases of the input and output projections");
    v("conv_bias", conv_bias, "bias of the convolution");
    v("norms", norms, "of dt, B and C: none, plain or learned");
    v("norm_eps", norm_eps, "added to the norms' mean squares");
  }
};

/// Decays as they are, or rounded to the type that a file has them in.
enum class Decays { exact, bfloat16, float16 };

/// Lightning attention (arXiv:2501.08313): q, k and v through silu; a head's state decays at a
/// fixed rate, S = exp(-slope) S + k v^T, o = S^T q, slope = 2^(-8 head / heads) (1 - layer /
/// (layers - 1)). Then sigmoid(gate) norm(o), the RMSNorm over all heads, and the output
/// projection.
/// Rounded decays T(d) = round(exp(-slope d)) are no powers of one number, so that the positions at
/// which they are used are a part of the model: position i in its block of `block` sees position j
/// there by T(i - j), and what stood before it by T(i + 1); a block leaves behind
///   S' = exp(-round(slope) block) S + sum_j T(block - 1 - j) k_j v_j^T
struct Lightning {
  static constexpr const char* kind = "lightning";
  int heads = 1, head_dim = 64;
  float norm_eps = 1e-6f;
  Decays decays = Decays::exact;
  int block = 256;
  template <class V>
  void visit(V& v) {
    v("heads", heads, "heads");
    v("head_dim", head_dim, "dimensions of a head");
    v("norm_eps", norm_eps, "added to the norm's mean square");
    v("decays", decays, "exact, or rounded: bfloat16 or float16");
    v("block", block, "positions between which rounded decays are used");
  }
};

/// Griffin's recurrent block around the real-gated linear recurrent unit (arXiv:2402.19427,
/// sections 2.3 and 2.4). Two projections give x and y; x goes through a causal depthwise
/// convolution. Gates r and i are sigmoids of products of x with one matrix and bias a head; the
/// state h [width]:
///   a = exp(-8 softplus(p) r),  h = a h + sqrt(1 - a^2) i x,  and h = i x at the first position
/// Then act(y) h and the output projection.
struct RgLru {
  static constexpr const char* kind = "rg_lru";
  int width = 64, heads = 1;
  int conv = 4;
  Act act = Act::gelu_tanh;
  template <class V>
  void visit(V& v) {
    v("width", width, "width of the recurrence");
    v("heads", heads, "blocks that the gates' matrices are made of");
    v("conv", conv, "positions that the convolution sees");
    v("act", act, "silu, gelu, gelu_tanh, relu or relu2");
  }
};

/// RWKV-4's time mixing (arXiv:2305.13048, section 3.1). Keys, values and receptances r are
/// projections of m x_t + (1 - m) x_(t-1), each with an m of its own. For each of `inner` channels,
/// over the positions i before t:
///   o_t = (sum_i exp(k_i - (t - 1 - i) w) v_i + exp(u + k_t) v_t) / (the same without v)
/// with w = exp(time_decay), u = time_first. Then sigmoid(r) o and the output projection.
struct RwkvTime {
  static constexpr const char* kind = "rwkv_time";
  int inner = 64;
  template <class V>
  void visit(V& v) {
    v("inner", inner, "channels of keys, values and receptances");
  }
};

/// RWKV-4's channel mixing (the same paper): sigmoid(R x') V relu(K x'')^2, where x' and x'' are
/// m x_t + (1 - m) x_(t-1). It sees the position before, so that it is no FFN. RWKV-7's
/// (arXiv:2503.14456) has no sigmoid(R x').
struct RwkvChannel {
  static constexpr const char* kind = "rwkv_channel";
  int hidden = 1;
  bool gate = true;
  template <class V>
  void visit(V& v) {
    v("hidden", hidden, "inner width");
    v("gate", gate, "what is mixed times a sigmoid; false: RWKV-7's");
  }
};

/// RWKV-7's time mixing (arXiv:2503.14456). Every projection is of x_t + m (x_(t-1) -
/// x_t), each with an m of its own; w, a, g and n are of low rank, w behind tanh, g behind sigmoid.
/// r, k, v: projections; v becomes v + sigmoid(n) (v_f - v), v_f that of the layer `values_from`. A
/// head's state S [head_dim, head_dim]:
///   e = k k_k of length 1,  k' = k (1 + (sigmoid(a) - 1) k_a)
///   S = (diag(exp(-exp(-0.5) sigmoid(w))) - (sigmoid(a) e) e^T) S + k' v^T,  o = S^T r
/// Then (norm(o) + (sum r k' r_k) v) g, the LayerNorm over each head, and the output projection.
struct Rwkv7 {
  static constexpr const char* kind = "rwkv7";
  int heads = 1, head_dim = 64;
  int decay_rank = 64, rate_rank = 64, value_rank = 32, gate_rank = 128;
  std::optional<int> values_from = {};
  float norm_eps = 64e-5f;
  template <class V>
  void visit(V& v) {
    v("heads", heads, "heads");
    v("head_dim", head_dim, "dimensions of a head");
    v("decay_rank", decay_rank, "numbers that decays are made of");
    v("rate_rank", rate_rank, "numbers that in-context learning rates are made of");
    v("value_rank", value_rank, "numbers that shares of another layer's values are made of");
    v("gate_rank", gate_rank, "numbers that the gate is made of");
    v("values_from", values_from, "the earlier layer whose values are mixed in; none: its own");
    v("norm_eps", norm_eps, "added to the norm's variance");
  }
};

/// Mamba-3 of one input and one output a head (ICLR 2026, "Mamba-3"; as its authors' code). One
/// projection gives z, x, B, C, and for each head dt, a and l, and the angles' rates r:
///   dt = softplus(dt + dt_bias),  A = -max(softplus(a), decay_min),  l = sigmoid(l)
///   B = R_t (norm(B) + B_bias),  C = R_t (norm(C) + C_bias), biases a head
/// R_t turns the pair (2 i, 2 i + 1) by the sum of dt pi tanh(r_i) up to t. The state S [state,
/// head_dim], by the trapezoidal rule:
///   S_t = exp(dt A) (S_(t-1) + (1 - l) dt B_(t-1) x_(t-1)^T) + l dt B_t x_t^T,  y = S^T C + D x
/// Heads of a group share B and C. Then y silu(z), or norm(y) silu(z), the RMSNorm over each head,
/// and the output projection.
struct Mamba3 {
  static constexpr const char* kind = "mamba3";
  int heads = 1, head_dim = 64;
  int groups = 1, state = 128;
  int angles = 32;
  bool norm = false;
  float norm_eps = 1e-5f;
  float decay_min = 1e-4f;
  template <class V>
  void visit(V& v) {
    v("heads", heads, "heads");
    v("head_dim", head_dim, "dimensions of a head");
    v("groups", groups, "groups of heads that share B and C");
    v("state", state, "numbers of the state a dimension");
    v("angles", angles, "pairs of the state's numbers that turn");
    v("norm", norm, "an RMSNorm of each head before the gate");
    v("norm_eps", norm_eps, "added to the norms' mean squares");
    v("decay_min", decay_min, "the least rate of decay");
  }
};

/// xLSTM's matrix memory (arXiv:2405.04517, section 2.3; as in arXiv:2503.13427). With i and f
/// projections of the input, each through cap tanh(. / cap), a head's state C [key_dim, value_dim],
/// n [key_dim] and m:
///   m' = max(log sigmoid(f) + m, i),  a = exp(log sigmoid(f) + m - m'),  b = exp(i - m')
///   C = a C + b k v^T,  n = a n + b k,  o = C^T q / (max(|n^T q|, exp(-m')) + eps)
/// where q is divided by sqrt(key_dim) and all begin at zero. Then sigmoid(gate) norm(o), the
/// LayerNorm over each head without bias, and the output projection.
struct Mlstm {
  static constexpr const char* kind = "mlstm";
  int heads = 1;
  int key_dim = 32, value_dim = 64;
  float gate_cap = 15;
  float eps = 1e-6f, norm_eps = 1e-6f;
  template <class V>
  void visit(V& v) {
    v("heads", heads, "heads");
    v("key_dim", key_dim, "dimensions of a query or key head");
    v("value_dim", value_dim, "dimensions of a value head");
    v("gate_cap", gate_cap, "i and f become cap * tanh(. / cap)");
    v("eps", eps, "added to what outputs are divided by");
    v("norm_eps", norm_eps, "added to the norm's variance");
  }
};

/// What a recurrent mixer is made of.
struct RecurrentSize {
  std::vector<std::pair<int64_t, int64_t>> parameters = {};  // rows and columns of each
  std::pair<int64_t, int64_t> window = {};  // inputs that it keeps: positions, channels
  std::array<int64_t, 3> state = {};        // float32: heads, rows, columns
  int64_t beside = 0;                       // float32: other numbers that it keeps
  int products = 0;                         // with the state a token: reads and writes
};
/// @throws Error(usage) where a dimension is more than an array's can be.
RecurrentSize size_of(const Mamba2& mixer, int dim);
RecurrentSize size_of(const GatedDelta& mixer, int dim);
RecurrentSize size_of(const ShortConv& mixer, int dim);
RecurrentSize size_of(const KimiDelta& mixer, int dim);
RecurrentSize size_of(const Mamba& mixer, int dim);
RecurrentSize size_of(const Lightning& mixer, int dim);
RecurrentSize size_of(const RgLru& mixer, int dim);
RecurrentSize size_of(const RwkvTime& mixer, int dim);
RecurrentSize size_of(const RwkvChannel& mixer, int dim);
RecurrentSize size_of(const Rwkv7& mixer, int dim);
RecurrentSize size_of(const Mamba3& mixer, int dim);
RecurrentSize size_of(const Mlstm& mixer, int dim);

}  // namespace lmxlab::config

template <>
struct lmxlab::EnumNames<lmxlab::config::DeltaProjections> {
  static constexpr std::pair<config::DeltaProjections, const char*> table[] = {
      {config::DeltaProjections::joint, "joint"},
      {config::DeltaProjections::parts, "parts"},
      {config::DeltaProjections::separate, "separate"}};
};
template <>
struct lmxlab::EnumNames<lmxlab::config::Decays> {
  static constexpr std::pair<config::Decays, const char*> table[] = {
      {config::Decays::exact, "exact"},
      {config::Decays::bfloat16, "bfloat16"},
      {config::Decays::float16, "float16"}};
};
template <>
struct lmxlab::EnumNames<lmxlab::config::MambaNorms> {
  static constexpr std::pair<config::MambaNorms, const char*> table[] = {
      {config::MambaNorms::none, "none"},
      {config::MambaNorms::plain, "plain"},
      {config::MambaNorms::learned, "learned"}};
};
