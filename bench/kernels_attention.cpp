// Attention, forward and gradient, against MLX's ordinary ops: training shapes, prefill, decode,
// and decode over the caches of several layers, of numbers and quantized.
#include <cmath>
#include <string>
#include <tuple>

#include "bench/bench.h"
#include "lmxlab/kernels/attention.h"
#include "lmxlab/kernels/fused.h"

namespace mx = mlx::core;
using lmxlab::bench::Arrays;
using lmxlab::kernels::attention;
using lmxlab::kernels::AttentionMask;
using lmxlab::kernels::quantized_attention;
using lmxlab::kernels::QuantizedKeys;

namespace {

struct Shape {
  int batch, heads, groups, queries, keys, width;
};

// [B, H, L, Dh], as a projection gives it; or as a cache does.
mx::array heads(int batch, int heads, int length, int width, mx::Dtype dtype, bool cache) {
  const auto x = mx::astype(mx::random::normal({batch, length, heads, width}), dtype);
  const auto y = mx::transpose(x, {0, 2, 1, 3});
  return cache ? mx::contiguous(y) : y;
}

// A cache as it lies in memory: room for more keys behind those that count.
mx::array with_room(const mx::array& x) {
  const auto shape = x.shape();
  const auto all =
      mx::concatenate({x, mx::slice(x, {0, 0, 0, 0}, {1, shape[1], 256, shape[3]})}, 2);
  mx::eval(all);
  return mx::slice(all, {0, 0, 0, 0}, shape);
}

// One query after another through kLayers caches, as in a step of generation, so that what a graph
// costs once hardly counts, and small caches are not those of the call before. Times are of all
// layers.
constexpr int kLayers = 8;

void decode(lmxlab::bench::Bench& bench, const Shape& s, mx::Dtype dtype, int bits,
            const std::string& title) {
  if (!bench.wanted(title)) return;
  constexpr int kGroup = 64;
  const float scale = 1 / std::sqrt(static_cast<float>(s.width));
  Arrays in{heads(1, s.heads, 1, s.width, dtype, false)};
  double bytes = 0;
  for (int i = 0; i < 2 * kLayers; i++) {
    const auto x = heads(1, s.groups, s.keys, s.width, dtype, true);
    for (const auto& part : bits == 0 ? Arrays{x} : mx::quantize(x, kGroup, bits)) {
      in.push_back(with_room(part));
      bytes += static_cast<double>(part.nbytes());
    }
  }
  const auto layers = [=](bool fused) {
    return [=](const Arrays& a) -> Arrays {
      auto q = a[0];
      for (int i = 0; i < kLayers; i++) {
        if (bits == 0) {
          const auto &k = a[1 + 2 * i], &v = a[2 + 2 * i];
          q = fused ? attention(q, k, v, scale, {.causal = true})
                    : mx::fast::scaled_dot_product_attention(q, k, v, scale, "causal");
          continue;
        }
        const auto keys = [&](int first) {
          return QuantizedKeys{a[first], a[first + 1], a[first + 2], kGroup, bits};
        };
        const auto k = keys(1 + 6 * i), v = keys(4 + 6 * i);
        lmxlab::kernels::set_fused(fused);
        q = quantized_attention(q, k, v, scale, {.causal = true});
        lmxlab::kernels::set_fused(true);
      }
      return {q};
    };
  };
  bench.ops(title, in, layers(true), layers(false), {.bytes = bytes});
}

void decodes(lmxlab::bench::Bench& bench) {
  for (const auto& [h, g, width] : {std::tuple{9, 3, 64}, {32, 8, 128}}) {
    for (const int keys : {512, 2048, 8192}) {
      if (bench.quick() && (keys != 2048 || h != 9)) continue;
      for (const auto& [dtype, bits, type] : {std::tuple{mx::float32, 0, "f32"},
                                              {mx::bfloat16, 0, "bf16"},
                                              {mx::bfloat16, 8, "8bit"},
                                              {mx::bfloat16, 4, "4bit"}}) {
        decode(bench, {1, h, g, 1, keys, width}, dtype, bits,
               "decode " + std::string(type) + " " + std::to_string(kLayers) + " layers 1x" +
                   std::to_string(h) + "/" + std::to_string(g) + "x1x" + std::to_string(keys) +
                   "x" + std::to_string(width));
      }
    }
  }
}

}  // namespace

int main(int argc, char** argv) {
  lmxlab::bench::Bench bench("attention", argc, argv);
  for (const auto& [dtype, type] :
       {std::pair{mx::float32, "f32"}, {mx::bfloat16, "bf16"}, {mx::float16, "f16"}}) {
    for (const Shape& s : {Shape{1, 2, 2, 4, 4, 8},
                           {2, 4, 4, 32, 32, 32},
                           {1, 9, 3, 100, 100, 64},
                           {16, 6, 6, 256, 256, 64},
                           {1, 9, 3, 512, 512, 64},
                           {1, 9, 3, 64, 2048, 64},
                           {1, 4, 4, 1024, 1024, 128},
                           {1, 9, 3, 1, 16, 64},
                           {1, 9, 3, 1, 512, 64},
                           {1, 9, 3, 1, 2048, 64},
                           {1, 9, 3, 1, 8192, 64},
                           {1, 32, 8, 1, 2048, 128},
                           {8, 9, 3, 1, 512, 64},
                           {1, 9, 3, 4, 2048, 64}}) {
      // Half types are scalar loops in MLX's ordinary ops: large ones would take minutes.
      const double pairs = double(s.batch) * s.heads * s.queries * s.keys;
      if (dtype == mx::float16 && pairs > 1e6) continue;
      const bool decode = s.queries < s.keys;
      const auto q = heads(s.batch, s.heads, s.queries, s.width, dtype, false);
      const auto k = heads(s.batch, s.groups, s.keys, s.width, dtype, decode);
      const auto v = heads(s.batch, s.groups, s.keys, s.width, dtype, decode);
      const auto g = heads(s.batch, s.heads, s.queries, s.width, dtype, false);
      const float scale = 1 / std::sqrt(static_cast<float>(s.width));
      const auto ours = [=](const Arrays& in) -> Arrays {
        return {attention(in[0], in[1], in[2], scale, {.causal = true})};
      };
      const auto plain = [=](const Arrays& in) -> Arrays {
        return {mx::fast::scaled_dot_product_attention(in[0], in[1], in[2], scale, "causal")};
      };
      const auto gradient = [](auto f) {
        return [=](const Arrays& in) { return mx::vjp(f, {in[0], in[1], in[2]}, {in[3]}).second; };
      };
      const std::string title = std::string(type) + " " + std::to_string(s.batch) + "x" +
                                std::to_string(s.heads) + "/" + std::to_string(s.groups) + "x" +
                                std::to_string(s.queries) + "x" + std::to_string(s.keys) + "x" +
                                std::to_string(s.width);
      // Half of the square of the queries is hidden.
      const double seen = pairs - double(s.batch) * s.heads * s.queries * (s.queries - 1) / 2;
      const double bytes =
          2.0 * static_cast<double>(k.nbytes()) + 2.0 * static_cast<double>(q.nbytes());
      bench.ops("forward " + title, {q, k, v}, ours, plain,
                {.flops = 4 * seen * s.width, .bytes = bytes});
      if (decode) continue;
      bench.ops("gradient " + title, {q, k, v, g}, gradient(ours), gradient(plain),
                {.flops = 14 * seen * s.width});
    }
  }
  decodes(bench);
  return bench.done();
}
