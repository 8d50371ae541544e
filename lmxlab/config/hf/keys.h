// Reading and writing the keys of a config.json by one list. Private to config.
#pragma once

#include "lmxlab/base/fields.h"
#include "lmxlab/config/model.h"

#include <algorithm>
#include <cstdint>
#include <initializer_list>
#include <limits>
#include <set>
#include <string>
#include <vector>

namespace lmxlab::config {

/// A product of numbers from a file, as far as an int goes: what is cut is too large to be valid.
inline int product(int64_t a, int64_t b) {
  constexpr int64_t most = std::numeric_limits<int>::max();
  int64_t out = 0;
  if (__builtin_mul_overflow(a, b, &out)) return (a < 0) == (b < 0) ? int(most) : -int(most);
  return static_cast<int>(std::clamp(out, -most, most));
}
/// The same of a number with a fraction, cut to a whole one.
inline int whole(double x) {
  constexpr double most = std::numeric_limits<int>::max();
  return x == x ? static_cast<int>(std::clamp(x, -most, most)) : 0;
}

/// Older and newer spellings of one key; the first is written.
using Names = std::initializer_list<const char*>;

/// What classes of transformers say of a decoder, flat. Per-layer lists are empty where all layers
/// are alike.
struct Decoder {
  int vocab = 1, context = 2048, dim = 1, depth = 1, heads = 1;
  int kv_heads = 1, head_dim = 1, hidden = 1;
  Act act = Act::silu;
  float eps = 1e-6f, init_std = 0.02f, dropout = 0;
  bool tie = false, mlp_bias = false, head_bias = false;
  bool attention_bias = false, qkv_bias = false, out_bias = false;  // either, or each
  bool qk_norm = false;
  Wiring wiring = Wiring::pre;
  std::optional<float> clip = {};
  std::optional<Alibi> alibi = {};
  std::optional<Temperature> temperature = {};
  float embed_scale = 1, branch_scale = 1, logit_scale = 1;
  struct Scales {
    float stream = 1, branch = 1;
  } attention_scales = {}, recurrent_scales = {}, ffn_scales = {};  // where each has its own
  bool sinks = false, gate = false, gate_by_head = false;
  std::optional<int> v_dim = {};
  float k_scale = 1, v_scale = 1;
  // Of each layer, where they differ; empty: as above.
  std::vector<int> layer_heads = {}, layer_kv_heads = {}, layer_head_dims = {}, layer_hidden = {};
  std::vector<bool> mixes = {}, feeds = {};  // which layers have a mixer, and an FFN; empty: all
  std::optional<Mixer> recurrent = {};       // in the place of attention, in some layers or all
  std::vector<bool> recurrent_layers = {};   // which; empty: all
  std::optional<Moe> moe = {};               // in the place of the dense FFN
  std::vector<bool> sparse = {};             // which layers have it; empty: all
  std::optional<Mla> mla = {};               // in the place of attention
  std::vector<bool> shared_choice = {};      // which layers' indexers have none of their own
  float mscale_all = 0;  // yarn's mscale_all_dim, which latent attention's scores know
  Rope rope = {};
  std::optional<Rope> local_rope = {};  // of layers with a window, where it is another
  std::optional<int> window = {};
  std::vector<bool> sliding = {};  // which layers have the window; empty: all, if there is one
  std::vector<bool> rotated = {};  // which layers have the rope; empty: all
  std::optional<float> score_scale = {}, score_softcap = {}, logit_softcap = {};
  std::vector<Block> blocks = {};  // of a model that is written: what nothing here says
  std::optional<LayerInputs> layer_inputs = {};
  std::optional<AltUp> altup = {};
  int kv_shared = 0, laurel = 0;  // layers at the end with others' keys; rank
  bool v_of_k = false;
  std::vector<float> layer_sparsity = {};
  float gate_scale = 1;
  std::optional<Parallel> parallel = {};
  std::vector<SharedBlock> shared_blocks = {};
  std::vector<bool> hybrids = {};  // which layers have one
  bool scale_by_layer = false;     // the scale of layer i is divided by i + 1

  static bool says(const std::vector<bool>& which, size_t layer) {
    return which.empty() || which[layer];
  }
  bool slides(size_t layer) const { return window && (sliding.empty() || sliding[layer]); }
  bool recurs(size_t layer) const {
    return recurrent && (recurrent_layers.empty() || recurrent_layers[layer]);
  }
  bool rotates(size_t layer) const { return rotated.empty() || rotated[layer]; }
  bool rotates_somewhere() const {
    return std::find(rotated.begin(), rotated.end(), true) != rotated.end();
  }
};

/// Of a class: the share of each head that it rotates where nothing is said, if it can rotate a
/// part, and what it calls its keys.
struct RopeForm {
  std::optional<float> share = {};
  const char *theta_key = "rope_theta", *share_key = "partial_rotary_factor";
};

/// The members of a config.json, read or written: a list of keys serves both.
class Keys {
 public:
  /// Reads from an object, which must outlive this.
  Keys(const Json& object, Problems& problems, std::string prefix = "")
      : in_(&object), problems_(&problems), prefix_(std::move(prefix)) {}
  /// Writes a new one.
  Keys() = default;

  bool reading() const { return in_ != nullptr; }
  /// Reading: the value stays if none of the names is there, or says null.
  template <class T>
  void operator()(T& value, Names names) {
    if (!reading())
      out_[*names.begin()] = fields::write(value);
    else if (const Json* j = find(names))
      fields::read(*j, value, prefix_ + last_, *problems_);
  }
  void require(int& value, Names names);
  void depth(int& value, Names names);
  /// @param tanh_form  the name of gelu_tanh, which has several
  void act(Act& act, Names names, const char* tanh_form = "gelu_pytorch_tanh");
  void rope(Decoder& d, const RopeForm& form = {});
  /// One full layer in so many; also as letters, "LLLG" for four.
  void pattern(int& every, Names names);
  /// Gemma 3: another base for layers with a window.
  void rope_by_layer(Decoder& d);
  /// A table for each type of layer.
  void rope_by_type(Decoder& d, const RopeForm& form = {});
  /// A list of "full_attention" and what a class calls layers with a window.
  void layer_types(Decoder& d, const char* local = "sliding_attention");

  /// A list of "full_attention" and `recurrent`.
  void layer_kinds(Decoder& d, const char* recurrent);
  /// A number, or a word ("auto") that leaves it as it is.
  void number_or_word(int& value, Names names);
  /// A list of two numbers, the second perhaps infinite.
  void limits(float& least, std::optional<float>& most, const char* name);
  /// A list of "dense" and "sparse", in which layers have experts.
  void dense_or_sparse(Decoder& d, const char* name);
  /// Which layers choose keys ("full") and which take the choice before them ("shared"): a list, a
  /// pattern of letters, or one full layer in so many.
  void indexer_types(Decoder& d);

  /// Keys that are read for nothing, since another has said it.
  void skip(Names names) { find(names); }
  /// Written; skipped when read.
  template <class T>
  void constant(const char* name, const T& value) {
    reading() ? void(find({name})) : void(out_[name] = Json(value));
  }
  /// A table inside: `keys` reads or writes its members.
  template <class F>
  void inside(const char* name, F keys) {
    if (!reading()) {
      Keys in;
      keys(in);
      out_[name] = in.take();
    } else if (const Json* table = find({name})) {
      Keys in(*table, *problems_, prefix_ + name + ".");
      keys(in);
      for (auto& u : in.unsupported_) unsupported_.push_back(std::move(u));
      for (auto& u : in.unread()) inner_unread_.push_back(std::move(u));
    }
  }
  /// What the class can say and we cannot do.
  void refuse(const std::string& what) { not_supported(what); }
  /// A switch of the class that we have only in one position.
  void only(const char* name, bool value, const char* what);
  /// Also if it is null.
  bool present(const char* name) const { return in_ && in_->contains(name); }
  bool is_string(const char* name) const { return present(name) && in_->find(name)->is_string(); }
  bool is_number(const char* name) const { return present(name) && in_->find(name)->is_number(); }
  bool is_null(const char* name) const { return present(name) && in_->find(name)->is_null(); }
  void wrong(const std::string& problem) { problems_->add(prefix_ + problem); }

  /// What the class has and we do not.
  const std::vector<std::string>& unsupported() const { return unsupported_; }
  /// Keys that nobody asked for, those left out that say nothing about the function of a model.
  std::vector<std::string> unread() const;
  /// What was written.
  Json take() { return std::move(out_); }

 private:
  const Json* find(Names names);
  void not_supported(const std::string& what) { unsupported_.push_back(prefix_ + what); }
  void read_rope(const Json* table, const std::string& name, Rope& rope, const Decoder& d,
                 const RopeForm& form = {}, std::optional<Temperature>* temperature = nullptr,
                 float* mscale_all_dim = nullptr);
  void write_rope(const Rope& rope, const Decoder& d, const RopeForm& form = {});

  const Json* in_ = nullptr;
  Problems* problems_ = nullptr;
  std::string prefix_, last_;
  std::set<std::string, std::less<>> read_{"lmxlab"};
  std::vector<std::string> unsupported_, inner_unread_;
  Json out_ = Json::object();
};

}  // namespace lmxlab::config
