// Products with quantized weights: all those of one token and of 512 in a model of SmolLM2-135M's
// sizes, each layer its own memory (random weights in Q4_1, the head in Q8_0, as it is published);
// then each format against MLX's own ops.
#include "bench/bench.h"
#include "lmxlab/kernels/op.h"
#include "lmxlab/kernels/peaks.h"
#include "lmxlab/kernels/quantized.h"
#include "tests/support/random_quant.h"

namespace mx = mlx::core;
using mx::array;
using namespace lmxlab;
using bench::Arrays;
using kernels::Activations;
using kernels::QuantizedWeight;

namespace {

double bytes_of(const QuantizedWeight& w) {
  const auto size = [](const std::optional<array>& a) { return a ? a->nbytes() : 0; };
  return static_cast<double>(w.packed.nbytes() + size(w.scales) + size(w.biases));
}

array plain(const array& x, const QuantizedWeight& w) {
  const auto y = kernels::quantized_linear(x, w);
  return dynamic_cast<const kernels::Op&>(y.primitive()).plain(y.inputs())[0];
}

const char* name(Activations a) {
  return a == Activations::int8 ? "int8" : a == Activations::int16 ? "int16" : "float32";
}

// The same matrix again and again: it stays in the caches that hold it.
void formats(bench::Bench& b, int out, int in) {
  std::vector<QuantizedWeight> all;
  for (const auto f : test::block_formats()) all.push_back(test::random_blocks(f, out, in, 1));
  for (const int bits : {2, 3, 4, 5, 6, 8}) {
    all.push_back(test::random_affine(bits, 64, mx::bfloat16, out, in, 1));
    if (!kernels::faster_interleaved(all.back())) continue;
    all.push_back(kernels::interleave(all.back()));
    mx::eval(all.back().packed, *all.back().scales, *all.back().biases);
  }
  for (const auto& w : all) {
    const auto apart = kernels::separate(w);  // as ordinary ops would have it
    if (w.interleaved) mx::eval(apart.packed, *apart.scales, *apart.biases);
    for (const int rows : {1, 4, 8, 9, 64}) {
      for (const auto a : {Activations::int8, Activations::int16, Activations::float32}) {
        if (rows > 1 && a == Activations::float32) continue;
        const auto x = mx::random::normal({rows, in}, mx::random::key(1));
        const auto title = test::describe(w) + " " + name(a) + " " + std::to_string(rows) + "x" +
                           std::to_string(in) + "x" + std::to_string(out);
        b.ops(
            title, {x},
            [&](const Arrays& v) -> Arrays { return {kernels::quantized_linear(v[0], w, a)}; },
            [&](const Arrays& v) -> Arrays { return {plain(v[0], apart)}; },
            {.flops = 2.0 * rows * in * out, .bytes = bytes_of(w)});
      }
    }
  }
}

// Times the two in turn: what is left of the bandwidth that reading alone has.
template <class F, class G>
void share_of_bandwidth(const bench::Bench& b, const std::string& title, double bytes, F ours,
                        G read) {
  if (!b.wanted(title)) return;
  std::vector<double> shares;
  double best = 1e30, fastest = 1e30;
  for (int round = 0; round < (b.quick() ? 20 : 200); round++) {
    const double t = bench::seconds_of(ours, 1), r = bench::seconds_of(read, 1);
    shares.push_back(r / t);
    best = std::min(best, t), fastest = std::min(fastest, r);
  }
  std::printf(
      "{\"bench\":\"quantized\",\"case\":\"%s\",\"best_us\":%.1f,\"gbytes_per_s\":%.2f,"
      "\"read_gbytes_per_s\":%.2f,\"share\":%.3f,\"share_of_best\":%.3f}\n",
      title.c_str(), best * 1e6, bytes / best / 1e9, bytes / fastest / 1e9, bench::median(shares),
      fastest / best);
}

// The products of SmolLM2-135M, in the order of a token.
class Model {
 public:
  Model() {
    const auto add = [&](int out, int in, kernels::QuantFormat f = kernels::QuantFormat::q4_1) {
      return test::random_blocks(f, out, in, ++seed_);
    };
    for (int i = 0; i < 30; i++) {
      layers_.push_back({add(576, 576), add(192, 576), add(192, 576), add(576, 576), add(1536, 576),
                         add(1536, 576), add(576, 1536)});
    }
    head_ = add(49152, 576, kernels::QuantFormat::q8_0);
  }
  double bytes() const {
    double sum = bytes_of(*head_);
    for (const auto& l : layers_) {
      for (const auto& w : l) sum += bytes_of(w);
    }
    return sum;
  }
  /// Reads every byte of the weights, as fast as memory gives them.
  void read() const {
    const auto pass = [](const QuantizedWeight& w) {
      const auto* words = reinterpret_cast<const uint64_t*>(w.packed.data<uint8_t>());
      kernels::parallel_for(static_cast<int64_t>(w.packed.nbytes() / 8), 1 << 12,
                            [&](int64_t a, int64_t b) {
                              uint64_t sum = 0;
                              for (int64_t i = a; i < b; i++) sum += words[i];
                              asm volatile("" : : "r"(sum));  // so that it is computed
                            });
    };
    for (const auto& l : layers_) {
      for (const auto& w : l) pass(w);
    }
    pass(*head_);
  }
  /// Each product waits for the one before it, as in a token.
  array token(array x, Activations a, bool head) const {
    for (const auto& l : layers_) {
      const auto qkv = kernels::quantized_linears(x, {l[0], l[1], l[2]}, a);
      x = kernels::quantized_linear(qkv[0], l[3], a);
      const auto gate_up = kernels::quantized_linears(x, {l[4], l[5]}, a);
      x = kernels::quantized_linear(gate_up[0], l[6], a);
    }
    return head ? kernels::quantized_linear(x, *head_, a) : x;
  }

 private:
  uint64_t seed_ = 0;
  std::vector<std::vector<QuantizedWeight>> layers_;
  std::optional<QuantizedWeight> head_;
};

}  // namespace

int main(int argc, char** argv) {
  bench::Bench b("quantized", argc, argv);
  const Model model;
  for (const auto a : {Activations::int8, Activations::int16, Activations::float32}) {
    const auto one = mx::ones({1, 576});
    mx::eval(one);
    share_of_bandwidth(
        b, std::string("token ") + name(a), model.bytes(),
        [&] { mx::eval(model.token(one, a, true)); }, [&] { model.read(); });
  }
  for (const auto dtype : {mx::float32, mx::bfloat16}) {
    for (const auto a : {Activations::int8, Activations::int16}) {
      const auto prompt = mx::ones({512, 576}, dtype);
      mx::eval(prompt);
      b.run(std::string("prefill 512 ") + name(a) + (dtype == mx::float32 ? " f32" : " bf16"),
            [&] { mx::eval(model.token(prompt, a, false)); }, {},
            {.flops = 2.0 * 512 * 30 * (2 * 576 * 576 + 2 * 192 * 576 + 3 * 1536 * 576)});
    }
  }
  formats(b, 576, 768);
  formats(b, 4096, 4096);
  return b.done();
}
