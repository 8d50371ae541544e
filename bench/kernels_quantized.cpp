// Products with quantized weights: each format against MLX's own ops, then all products of one
// token and of 512 in a model of SmolLM2-135M's sizes with random Q4_1 weights, each layer its own
// memory.
#include <numeric>

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

// In DRAM's reach or not as the sizes have it: the same matrix again and again.
void formats(bench::Bench& b, int out, int in) {
  std::vector<QuantizedWeight> all;
  for (const auto f : test::block_formats()) all.push_back(test::random_blocks(f, out, in, 1));
  for (const int bits : {2, 3, 4, 5, 6, 8}) {
    all.push_back(test::random_affine(bits, 64, mx::bfloat16, out, in, 1));
  }
  for (const auto& w : all) {
    for (const int rows : {1, 4, 8, 9, 64}) {
      for (const auto a : {Activations::int8, Activations::int16, Activations::float32}) {
        if (rows > 1 && a == Activations::float32) continue;
        const auto x = mx::random::normal({rows, in}, mx::random::key(1));
        const auto title = test::describe(w) + " " + name(a) + " " + std::to_string(rows) + "x" +
                           std::to_string(in) + "x" + std::to_string(out);
        b.ops(
            title, {x},
            [&](const Arrays& v) -> Arrays { return {kernels::quantized_linear(v[0], w, a)}; },
            [&](const Arrays& v) -> Arrays { return {plain(v[0], w)}; },
            {.flops = 2.0 * rows * in * out, .bytes = bytes_of(w)});
      }
    }
  }
}

// The products of SmolLM2-135M, in the order of a token.
class Model {
 public:
  explicit Model(kernels::QuantFormat format) {
    const auto add = [&](int out, int in) {
      return test::random_blocks(format, out, in, static_cast<unsigned>(++seed_));
    };
    for (int i = 0; i < 30; i++) {
      layers_.push_back({add(576, 576), add(192, 576), add(192, 576), add(576, 576), add(1536, 576),
                         add(1536, 576), add(576, 1536)});
    }
    head_ = add(49152, 576);
  }
  double bytes() const {
    double sum = bytes_of(*head_);
    for (const auto& l : layers_) {
      for (const auto& w : l) sum += bytes_of(w);
    }
    return sum;
  }
  /// Each product waits for the one before it, as in a token.
  array token(array x, Activations a, bool head) const {
    for (const auto& l : layers_) {
      const auto q = kernels::quantized_linear(x, l[0], a),
                 k = kernels::quantized_linear(x, l[1], a),
                 v = kernels::quantized_linear(x, l[2], a);
      x = kernels::quantized_linear(mx::depends({q}, {k, v})[0], l[3], a);
      const auto gate = kernels::quantized_linear(x, l[4], a);
      const auto up = kernels::quantized_linear(x, l[5], a);
      x = kernels::quantized_linear(mx::depends({gate}, {up})[0], l[6], a);
    }
    return head ? kernels::quantized_linear(x, *head_, a) : x;
  }

 private:
  int seed_ = 0;
  std::vector<std::vector<QuantizedWeight>> layers_;
  std::optional<QuantizedWeight> head_;
};

}  // namespace

int main(int argc, char** argv) {
  bench::Bench b("quantized", argc, argv);
  std::printf("{\"bench\":\"quantized\",\"read_gbytes_per_s\":%.2f}\n",
              kernels::measure_read_bandwidth() / 1e9);
  const Model model(kernels::QuantFormat::q4_1);
  for (const auto a : {Activations::int8, Activations::int16, Activations::float32}) {
    const auto one = mx::ones({1, 576});
    mx::eval(one);
    b.run(std::string("token Q4_1 ") + name(a), [&] { mx::eval(model.token(one, a, true)); }, {},
          {.bytes = model.bytes()});
  }
  for (const auto dtype : {mx::float32, mx::bfloat16}) {
    for (const auto a : {Activations::int8, Activations::int16}) {
      const auto prompt = mx::ones({512, 576}, dtype);
      mx::eval(prompt);
      b.run(std::string("prefill 512 Q4_1 ") + name(a) + (dtype == mx::float32 ? " f32" : " bf16"),
            [&] { mx::eval(model.token(prompt, a, false)); }, {},
            {.flops = 2.0 * 512 * 30 * (2 * 576 * 576 + 2 * 192 * 576 + 3 * 1536 * 576)});
    }
  }
  formats(b, 576, 768);
  formats(b, 4096, 4096);
  return b.done();
}
