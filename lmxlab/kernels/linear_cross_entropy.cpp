#include <algorithm>
#include <cstdint>
#include <optional>
#include <tuple>
#include <vector>

#include "lmxlab/kernels/cross_entropy.h"
#include "lmxlab/kernels/cross_entropy_tiles.h"
#include "lmxlab/kernels/dense.h"
#include "lmxlab/kernels/gemm.h"
#include "lmxlab/kernels/one_order.h"
#include "lmxlab/kernels/op.h"
#include "lmxlab/kernels/panels.h"
#include "lmxlab/kernels/rehearsal.h"
#include "lmxlab/kernels/thread_pool.h"

namespace lmxlab::kernels {
namespace {

namespace mx = mlx::core;
using mx::array;

// How the logits are cut: into chunks of tokens, and those into tiles of some words each.
constexpr int64_t kTile = 2 << 20;  // elements of a tile, and of a chunk's float32 sums for dx
constexpr int64_t kTokens = 2048;   // of a chunk where the vocabulary is large
constexpr int64_t kWords = 64;      // a tile's are a multiple

struct Cut {
  int64_t rows, columns;

  /// @param sums  floats a token of the chunk's own sums
  Cut(int64_t tokens, int64_t vocabulary, int64_t sums) {
    if (one_order()) {  // a row of logits is one tile, as in cross_entropy
      rows = std::clamp<int64_t>(kTile / vocabulary, 1, std::max<int64_t>(1, tokens));
      columns = vocabulary;
      return;
    }
    rows = kTile / std::min(std::max<int64_t>(1, vocabulary), kTile / kTokens);
    rows = std::min({rows, tokens, kTile / std::max<int64_t>(1, sums)});
    rows = std::max<int64_t>(1, rows);
    const int64_t tiles = (vocabulary * rows + kTile - 1) / kTile;
    columns = ((vocabulary + tiles - 1) / tiles + kWords - 1) / kWords * kWords;
    columns = std::min(vocabulary, columns);
  }
};

// x [T, D], the weight [V, D] and the rest of a head, on memory.
struct Head {
  int64_t tokens, width, vocabulary;
  MatrixView x, w;
  const void* bias;
  Type bias_type;
  HeadOptions options;

  /// The tile of logits from (row, word) on: where it lies if all are kept, or may lie.
  Tile place(int64_t row, int64_t word, const Cut& cut, float* kept, float* memory) const {
    const int64_t rows = std::min(cut.rows, tokens - row);
    const int64_t columns = std::min(cut.columns, vocabulary - word);
    if (kept) {
      return {kept + row * vocabulary + word, Type::f32, rows, columns, vocabulary, word};
    }
    return {memory, Type::f32, rows, columns, columns, word};
  }
  void fill(const Tile& t, int64_t row) const {
    gemm(t.rows, t.columns, width, panels::at(x, row, 0), panels::at(w, t.first, 0).transposed(),
         {t.data, Type::f32, t.ld});
    const auto* some = static_cast<const char*>(bias);
    apply_head(t, bias ? some + t.first * size_of(bias_type) : nullptr, bias_type, options.scale,
               options.softcap);
  }
};

// The inputs x, weight and bias of an op as its task holds them.
class HeadInputs {
 public:
  HeadInputs(const array& x, const array& w, const array* bias, const HeadOptions& options)
      : tokens_(x.size() == 0 ? 0 : static_cast<int64_t>(x.size()) / x.shape(-1)),
        width_(w.shape(1)),
        vocabulary_(w.shape(0)),
        x_type_(type_of(x.dtype())),
        w_type_(type_of(w.dtype())),
        bias_type_(bias ? type_of(bias->dtype()) : Type::f32),
        x_(x),
        w_(w),
        options_(options) {
    if (bias) bias_.emplace(*bias);
  }
  /// Once, in the task.
  Head read() const { return on(x_.read(), w_.read(), bias_ ? bias_->read() : nullptr); }
  /// Without its memory.
  Head shape() const { return on(nullptr, nullptr, nullptr); }

 private:
  Head on(const void* x, const void* w, const void* bias) const {
    return {tokens_, width_,     vocabulary_, {x, x_type_, width_, 1}, {w, w_type_, width_, 1},
            bias,    bias_type_, options_};
  }
  int64_t tokens_, width_, vocabulary_;
  Type x_type_, w_type_, bias_type_;
  Dense x_, w_;
  std::optional<Dense> bias_;
  HeadOptions options_;
};

// What the product of a tile takes for itself; the first tile is the largest.
size_t logits_workspace(const Head& head, const Cut& cut) {
  return gemm_workspace(1, cut.rows, cut.columns, head.width, head.x, head.w.transposed(),
                        {nullptr, Type::f32, cut.columns});
}

// Where gradients go; null: not wanted.
struct Gradients {
  void *dx, *dw, *dbias;
  float *dx_sums, *bias_sums;  // of a chunk, where dx is no float32; of the words
};

// As bfloat16 a product of logits' gradients reads half as much; it would round to that anyway.
Type gradient_type(const Head& head) {
  const bool narrow = head.x.type == Type::bf16 && head.w.type != Type::f16 && packs_bf16();
  return narrow ? Type::bf16 : Type::f32;
}

// The same of the products of gradients().
size_t gradients_workspace(const Head& head, const Cut& cut, bool kept, const Gradients& to) {
  const Type type = gradient_type(head);
  const MatrixView p{nullptr, type, cut.columns * (type == Type::bf16 ? 2 : 1), 1};
  const Type sums = to.dx_sums ? Type::f32 : head.x.type;
  size_t most = kept ? 0 : logits_workspace(head, cut);
  if (to.dx)
    most = std::max(most, gemm_workspace(1, cut.rows, head.width, cut.columns, p, head.w,
                                         {nullptr, sums, head.width}));
  if (to.dw)
    most = std::max(most, gemm_workspace(1, cut.columns, head.width, cut.rows, p.transposed(),
                                         head.x, {nullptr, head.w.type, head.width}));
  return most;
}

// kept: all logits, or null; memory: for the gradient by a tile, or null for the place of its
// logits.
void gradients(const Head& head, const Cut& cut, const TileGradient& k, float* kept, float* memory,
               const Gradients& to) {
  const int64_t width = head.width, vocabulary = head.vocabulary;
  const Type type = gradient_type(head);
  const MatrixOut dx{to.dx, head.x.type, width}, dw{to.dw, head.w.type, width};
  if (to.bias_sums) std::fill_n(to.bias_sums, vocabulary, 0.0f);
  for (int64_t row = 0; row < head.tokens; row += cut.rows) {
    const MatrixOut dx_rows = panels::at(dx, row, 0);
    const MatrixOut sums = to.dx_sums ? MatrixOut{to.dx_sums, Type::f32, width} : dx_rows;
    int64_t rows = 0;
    for (int64_t word = 0; word < vocabulary; word += cut.columns) {
      const Tile z = head.place(row, word, cut, kept, memory);
      rows = z.rows;
      if (!kept) head.fill(z, row);
      const Tile place = memory ? head.place(row, word, cut, nullptr, memory) : z;
      const int64_t ld = place.ld * (type == Type::bf16 ? 2 : 1);
      tile_gradient(z, k.from(row), place.data, type, ld);
      const MatrixView p{place.data, type, ld, 1};
      if (to.bias_sums) {
        add_columns({place.data, type, rows, z.columns, ld, word}, to.bias_sums + word);
      }
      if (to.dx) gemm(rows, width, z.columns, p, panels::at(head.w, word, 0), sums, word > 0);
      if (to.dw) {
        gemm(z.columns, width, rows, p.transposed(), panels::at(head.x, row, 0),
             panels::at(dw, word, 0), row > 0);
      }
    }
    if (to.dx_sums) {
      parallel_for(rows, std::max<int64_t>(1, 16384 / std::max<int64_t>(1, width)),
                   [&](int64_t begin, int64_t end) {
                     panels::write_tile(to.dx_sums + begin * width, width, end - begin, width,
                                        panels::at(dx_rows, begin, 0), false);
                   });
    }
  }
  if (head.tokens == 0 && to.dw) gemm(vocabulary, width, 0, head.w, head.w, dw);  // zeros
  if (to.dbias) {
    panels::write_tile(to.bias_sums, vocabulary, 1, vocabulary,
                       {to.dbias, head.bias_type, vocabulary}, false);
  }
}

struct Wanted {
  bool x, w, bias;
  bool operator==(const Wanted&) const = default;
};

// x, weight, targets, lse, slopes of nll and of lse, (bias), (logits) -> those wanted of dx,
// dweight, dbias
class LinearCrossEntropyGrad : public Op {
 public:
  LinearCrossEntropyGrad(const HeadOptions& head, const CrossEntropyOptions& options, bool kept,
                         Wanted wanted)
      : head_(head), options_(options), kept_(kept), wanted_(wanted) {}
  const char* name() const override { return "lmxlab::LinearCrossEntropyGrad"; }
  bool same(const Op& other) const override {
    const auto& op = static_cast<const LinearCrossEntropyGrad&>(other);
    return head_ == op.head_ && options_ == op.options_ && kept_ == op.kept_ &&
           wanted_ == op.wanted_;
  }
  std::vector<mx::Shape> output_shapes(const Arrays& in) override {
    std::vector<mx::Shape> out;
    for (const auto& like : differentiated(in)) out.push_back(like.shape());
    return out;
  }
  /// Those inputs whose gradients are wanted.
  Arrays differentiated(const Arrays& in) const {
    Arrays out;
    if (wanted_.x) out.push_back(in[0]);
    if (wanted_.w) out.push_back(in[1]);
    if (wanted_.bias) out.push_back(in[6]);
    return out;
  }

  Arrays plain(const Arrays& in) const override {
    const auto f = [&](const Arrays& v) -> Arrays {
      auto next = v.begin();
      const auto x = wanted_.x ? *next++ : in[0], w = wanted_.w ? *next++ : in[1];
      std::optional<array> bias;
      if (const auto* b = bias_of(in)) bias = wanted_.bias ? *next : *b;
      const auto c = plain::linear_cross_entropy(x, w, bias, in[2], head_, options_);
      return {c.nll, c.lse};
    };
    return mx::vjp(f, differentiated(in), {in[4], in[5]}).second;
  }

  void eval_cpu(const Arrays& in, Arrays& out) override {
    release_inputs(in, out);
    for (auto& o : out) give(o);
    auto next = out.begin();
    const auto place = [&](bool wanted) { return wanted ? (next++)->data<void>() : nullptr; };
    Gradients to{};
    to.dx = place(wanted_.x), to.dw = place(wanted_.w), to.dbias = place(wanted_.bias);
    const int64_t width = in[1].shape(1), vocabulary = in[1].shape(0);
    const auto tokens = static_cast<int64_t>(in[2].size());
    Cut cut(tokens, vocabulary, 0);
    // What several tiles add up to is rounded once, in the end.
    const bool apart = wanted_.x && in[0].dtype() != mx::float32 && cut.columns < vocabulary;
    if (apart) cut = Cut(tokens, vocabulary, width);
    const bool over_logits = kept_ && in.back().is_donatable();
    const Scratch<float> tile(over_logits ? 0 : cut.rows * cut.columns),
        sums(apart ? cut.rows * width : 0), bias_sums(wanted_.bias ? vocabulary : 0);
    if (apart) to.dx_sums = sums.get();
    if (wanted_.bias) to.bias_sums = bias_sums.get();
    float* const logits = kept_ ? const_cast<float*>(in.back().data<float>()) : nullptr;
    const HeadInputs inputs(in[0], in[1], bias_of(in), head_);
    expect_workspace(gradients_workspace(inputs.shape(), cut, kept_, to));
    task([cut, to, over_logits, tile, logits, vocabulary, inputs, targets = Dense(in[2]),
          lse = Dense(in[3]), nll_slope = Dense(in[4]), lse_slope = Dense(in[5]), head = head_,
          options = options_, held = std::tuple{sums, bias_sums}] {
      const TileGradient k{static_cast<const int32_t*>(targets.read()),
                           static_cast<const float*>(lse.read()),
                           static_cast<const float*>(nll_slope.read()),
                           static_cast<const float*>(lse_slope.read()),
                           vocabulary,
                           options,
                           head};
      gradients(inputs.read(), cut, k, logits, over_logits ? nullptr : tile.get(), to);
    });
  }

 private:
  const array* bias_of(const Arrays& in) const {
    return in.size() - (kept_ ? 1 : 0) > 6 ? &in[6] : nullptr;
  }
  HeadOptions head_;
  CrossEntropyOptions options_;
  bool kept_;
  Wanted wanted_;
};

array plain_logits(const array& x, const array& weight, const std::optional<array>& bias,
                   const HeadOptions& head) {
  const auto w = mx::astype(weight, x.dtype());
  auto z = mx::astype(mx::matmul(x, mx::transpose(w)), mx::float32);
  if (bias) z = z + mx::astype(*bias, mx::float32);
  if (head.scale != 1) z = z * array(head.scale);
  if (head.softcap != 0) z = mx::tanh(z / array(head.softcap)) * array(head.softcap);
  return z;
}

// x, weight, targets, (bias) -> nll, lse, (the logits behind the head, float32)
class LinearCrossEntropy : public Op {
 public:
  /// @param keep  the logits, for the gradient: where they are one tile
  LinearCrossEntropy(const HeadOptions& head, const CrossEntropyOptions& options, bool keep)
      : head_(head), options_(options), keep_(keep) {}
  const char* name() const override { return "lmxlab::LinearCrossEntropy"; }
  bool same(const Op& other) const override {
    const auto& op = static_cast<const LinearCrossEntropy&>(other);
    return head_ == op.head_ && options_ == op.options_ && keep_ == op.keep_;
  }
  std::vector<mx::Shape> output_shapes(const Arrays& in) override {
    std::vector<mx::Shape> out{in[2].shape(), in[2].shape()};
    if (keep_) out.push_back({static_cast<int>(in[2].size()), in[1].shape(0)});
    return out;
  }
  Arrays plain(const Arrays& in) const override {
    std::optional<array> bias;
    if (in.size() > 3) bias = in[3];
    const auto z = plain_logits(in[0], in[1], bias, head_);
    const auto c = plain::cross_entropy(z, in[2], options_);
    Arrays out{c.nll, c.lse};
    if (keep_) out.push_back(mx::reshape(z, {static_cast<int>(in[2].size()), in[1].shape(0)}));
    return out;
  }

  void eval_cpu(const Arrays& in, Arrays& out) override {
    for (auto& o : out) give(o);
    const int64_t tokens = static_cast<int64_t>(in[2].size());
    const Cut cut(tokens, in[1].shape(0), 0);
    const Scratch<float> tile(keep_ ? 0 : cut.rows * cut.columns);
    const Scratch<LogitSums> memory(tokens);
    const HeadInputs inputs(in[0], in[1], in.size() > 3 ? &in[3] : nullptr, head_);
    expect_workspace(logits_workspace(inputs.shape(), cut));
    task([cut, tile, memory, tokens, kept = keep_ ? out[2].data<float>() : nullptr, inputs,
          targets = Dense(in[2]), nll = out[0].data<float>(), lse = out[1].data<float>(),
          options = options_] {
      const Head head = inputs.read();
      const auto* ids = static_cast<const int32_t*>(targets.read());
      LogitSums* const sums = memory.get();
      std::fill_n(sums, tokens, LogitSums{});
      for (int64_t row = 0; row < tokens; row += cut.rows) {
        for (int64_t word = 0; word < head.vocabulary; word += cut.columns) {
          const Tile z = head.place(row, word, cut, kept, tile.get());
          head.fill(z, row);
          add_tile(z, ids + row, options.label_smoothing != 0, sums + row);
        }
      }
      finish(sums, ids, tokens, head.vocabulary, options, nll, lse);
    });
  }

  Arrays vjp(const Arrays& in, const Arrays& cotangents, const std::vector<int>& argnums,
             const Arrays& outputs) override {
    Wanted wanted{};
    for (const int i : argnums) (i == 0 ? wanted.x : i == 1 ? wanted.w : wanted.bias) |= i != 2;
    Arrays inputs{in[0], in[1], in[2], outputs[1], cotangents[0], cotangents[1]};
    if (in.size() > 3) inputs.push_back(in[3]);
    if (keep_) inputs.push_back(outputs[2]);
    auto op = std::make_shared<LinearCrossEntropyGrad>(head_, options_, keep_, wanted);
    std::vector<mx::Shape> shapes;
    std::vector<mx::Dtype> dtypes;
    for (const auto& like : op->differentiated(inputs))
      shapes.push_back(like.shape()), dtypes.push_back(like.dtype());
    Arrays all;
    if (!shapes.empty()) all = array::make_arrays(shapes, dtypes, op, inputs);
    Arrays out;
    for (const int i : argnums) {
      const int at = i == 0 ? 0 : i == 1 ? wanted.x : wanted.x + wanted.w;
      out.push_back(i == 2 ? mx::zeros_like(in[2]) : all[static_cast<size_t>(at)]);
    }
    return out;
  }

 private:
  HeadOptions head_;
  CrossEntropyOptions options_;
  bool keep_;
};

}  // namespace

CrossEntropy linear_cross_entropy(const array& x, const array& weight,
                                  const std::optional<array>& bias, const array& targets,
                                  const HeadOptions& head, const CrossEntropyOptions& options) {
  const auto ids = mx::astype(targets, mx::int32);
  auto rows = x.shape();
  if (!rows.empty()) rows.pop_back();
  if (x.ndim() == 0 || rows != targets.shape() || weight.ndim() != 2 || weight.shape(0) == 0 ||
      weight.shape(1) != x.shape(-1) ||
      (bias && (bias->ndim() != 1 || bias->shape(0) != weight.shape(0)))) {
    throw Error(Kind::usage,
                "[linear_cross_entropy] expected x [..., D], weight [V, D], bias [V] and targets "
                "[...]");
  }
  if (!fused(x.dtype()) || !fused(weight.dtype()) || (bias && !fused(bias->dtype()))) {
    return plain::linear_cross_entropy(x, weight, bias, ids, head, options);
  }
  Arrays in{x, weight, ids};
  if (bias) in.push_back(*bias);
  const int64_t vocabulary = weight.shape(0);
  const bool keep = static_cast<int64_t>(ids.size()) <= kTile / vocabulary;
  std::vector<mx::Shape> shapes{rows, rows};
  if (keep) shapes.push_back({static_cast<int>(ids.size()), weight.shape(0)});
  const auto out =
      array::make_arrays(shapes, std::vector<mx::Dtype>(shapes.size(), mx::float32),
                         std::make_shared<LinearCrossEntropy>(head, options, keep), std::move(in));
  return {out[0], out[1]};
}

CrossEntropy plain::linear_cross_entropy(const array& x, const array& weight,
                                         const std::optional<array>& bias, const array& targets,
                                         const HeadOptions& head,
                                         const CrossEntropyOptions& options) {
  return plain::cross_entropy(plain_logits(x, weight, bias, head), targets, options);
}

}  // namespace lmxlab::kernels
