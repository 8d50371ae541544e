// Native sparse attention against a twin in doubles, one query, one head and one branch at a time;
// through the cache, behind padding, within a limit, and its gradients.
#include "lmxlab/core/nsa.h"

#include "lmxlab/config/count.h"
#include "lmxlab/config/validate.h"
#include "lmxlab/core/runtime.h"
#include "tests/core/mixer_cache.h"
#include "tests/core/support.h"

#include <algorithm>
#include <map>
#include <numeric>

namespace lmxlab::core {
namespace {

using test::cache_of;
using test::doubles;
using test::positions;
using test::row;
using test::some;
using test::through;

constexpr int kDim = 12, kAll = 1 << 20;

config::Nsa sizes() {
  return {.heads = 4,
          .kv_heads = 2,
          .head_dim = 6,
          .block = 4,
          .stride = 2,
          .hidden = 7,
          .selected_block = 4,
          .selected = 3,
          .first = 1,
          .local = 1,
          .window = 5};
}

std::unique_ptr<Nsa> built(const config::Nsa& c, uint64_t seed = 1) {
  Init init(seed);
  auto out = std::make_unique<Nsa>(c, Build{kDim, 0, 1, 0.4f, 0.4f, init});
  mx::eval(values(collect(*out)));
  return out;
}

// ---- the twin ----

using Row = std::vector<double>;

struct Twin {
  config::Nsa c;
  std::map<std::string, std::pair<mx::Shape, Row>> w;
  std::vector<std::vector<int>> chosen = {};  // of each query and key head, once they are fixed
  bool fixed = false;

  Twin(const config::Nsa& config, Nsa& of) : c(config) {
    for (const auto& e : collect(of)) w[e.path] = {e.param->value.shape(), doubles(e.param->value)};
  }
  Row linear(const std::string& name, const Row& x) const {
    const auto& [shape, m] = w.at(name + ".weight");
    Row y(static_cast<size_t>(shape[0]));
    for (size_t o = 0; o < y.size(); ++o)
      for (size_t i = 0; i < x.size(); ++i) y[o] += m[o * x.size() + i] * x[i];
    return y;
  }
  Row head(const Row& of, int i) const {
    return {of.begin() + i * c.head_dim, of.begin() + (i + 1) * c.head_dim};
  }
  Row turned(Row x, int position) const {
    const auto half = static_cast<size_t>(c.head_dim) / 2;
    for (size_t i = 0; i < half; ++i) {
      const double angle = position * std::pow(10000.0, -2.0 * static_cast<double>(i) / c.head_dim);
      const double a = x[i], b = x[i + half];
      x[i] = a * std::cos(angle) - b * std::sin(angle);
      x[i + half] = a * std::sin(angle) + b * std::cos(angle);
    }
    return x;
  }
  Row compress(const std::string& name, const std::vector<Row>& rows, int first) const {
    const auto& place = w.at(name + ".position").second;
    Row flat;
    for (int j = 0; j < c.block; ++j)
      for (int d = 0; d < c.head_dim; ++d)
        flat.push_back(rows[static_cast<size_t>(first + j)][static_cast<size_t>(d)] +
                       place[static_cast<size_t>(j * c.head_dim + d)]);
    auto hidden = linear(name + ".up_proj", flat);
    for (auto& h : hidden) h /= 1 + std::exp(-h);
    return linear(name + ".down_proj", hidden);
  }
  // Shares of keys, and what they make of values.
  std::pair<Row, Row> attend(const Row& q, const std::vector<Row>& k,
                             const std::vector<Row>& v) const {
    Row shares, out(static_cast<size_t>(c.head_dim));
    for (const auto& key : k)
      shares.push_back(std::exp(std::inner_product(q.begin(), q.end(), key.begin(), 0.0) /
                                std::sqrt(double(c.head_dim))));
    const double all = std::accumulate(shares.begin(), shares.end(), 0.0);
    for (size_t i = 0; i < k.size(); ++i) {
      shares[i] /= all;
      for (size_t d = 0; d < out.size(); ++d) out[d] += shares[i] * v[i][d];
    }
    return {shares, out};
  }
  // Blocks that the shares of compressed blocks choose; `first` is the number of the first of them.
  std::vector<int> best(const Row& shares, int first, int t) const {
    std::vector<std::pair<double, int>> scored;
    for (int j = 0; j <= t / c.selected_block; ++j) {
      double worth = 0;
      for (size_t i = 0; i < shares.size(); ++i)
        for (int p = 0; p < c.block; p += c.stride) {  // each stride of the compressed block
          const int at = (first + static_cast<int>(i)) * c.stride + p;
          if (at / c.selected_block == j) worth += shares[i];
        }
      if (j < c.first || j > t / c.selected_block - c.local) worth = 1e9;
      scored.emplace_back(-worth, j);
    }
    std::sort(scored.begin(), scored.end());
    scored.resize(std::min(scored.size(), static_cast<size_t>(c.selected)));
    std::vector<int> out;
    for (const auto& [_, j] : scored) out.push_back(j);
    return out;
  }
  Row operator()(const std::vector<Row>& x, int limit = kAll) {
    const int K = c.kv_heads, G = c.heads / K, L = static_cast<int>(x.size());
    // Keys and values of a branch and key head, by position.
    std::vector<std::vector<Row>> k(static_cast<size_t>(3 * K)), v(k.size());
    std::vector<Row> q, gates;
    for (const auto& in : x) {
      q.push_back(linear("q_proj", in)), gates.push_back(linear("gate_proj", in));
      const auto keys = linear("k_proj", in), values = linear("v_proj", in);
      for (int i = 0; i < 3 * K; ++i) {
        k[static_cast<size_t>(i)].push_back(head(keys, i));
        v[static_cast<size_t>(i)].push_back(head(values, i));
      }
    }
    Row out;
    if (!fixed) chosen.clear();
    size_t choice = 0;
    for (int t = 0; t < L; ++t) {
      const auto at = static_cast<size_t>(t);
      Row heads;
      for (int group = 0; group < K; ++group) {
        const auto of = [&](int branch) { return static_cast<size_t>(branch * K + group); };
        std::vector<Row> small_k, small_v;
        int first_block = -1;
        for (int i = 0; i * c.stride + c.block - 1 <= t; ++i) {
          if (i * c.stride <= t - limit) continue;
          if (first_block < 0) first_block = i;
          small_k.push_back(compress("compress_k", k[of(0)], i * c.stride));
          small_v.push_back(compress("compress_v", v[of(0)], i * c.stride));
        }
        std::vector<Row> coarse;
        Row shares(small_k.size());
        for (int h = group * G; h < (group + 1) * G; ++h) {
          const auto [share, mixed] = attend(head(q[at], h), small_k, small_v);
          coarse.push_back(mixed);
          for (size_t i = 0; i < shares.size(); ++i) shares[i] += share[i];
        }
        if (!fixed) chosen.push_back(best(shares, std::max(first_block, 0), t));
        const auto& blocks = chosen[choice++];
        for (int h = group * G; h < (group + 1) * G; ++h) {
          const auto turn = turned(head(q[at], h), t);
          std::vector<Row> fine_k, fine_v, near_k, near_v;
          for (int s = std::max(0, t - limit + 1); s <= t; ++s) {
            const auto i = static_cast<size_t>(s);
            if (std::find(blocks.begin(), blocks.end(), s / c.selected_block) != blocks.end())
              fine_k.push_back(turned(k[of(1)][i], s)), fine_v.push_back(v[of(1)][i]);
            if (s > t - c.window)
              near_k.push_back(turned(k[of(2)][i], s)), near_v.push_back(v[of(2)][i]);
          }
          const auto fine = attend(turn, fine_k, fine_v).second;
          const auto near = attend(turn, near_k, near_v).second;
          const auto gate = [&](int branch) {
            return 1 / (1 + std::exp(-gates[at][static_cast<size_t>(branch * c.heads + h)]));
          };
          for (size_t d = 0; d < fine.size(); ++d)
            heads.push_back(gate(0) * coarse[static_cast<size_t>(h - group * G)][d] +
                            gate(1) * fine[d] + gate(2) * near[d]);
        }
      }
      const auto y = linear("o_proj", heads);
      out.insert(out.end(), y.begin(), y.end());
    }
    return out;
  }
};

std::vector<Row> rows_of(const Row& flat) {
  std::vector<Row> out;
  for (size_t i = 0; i < flat.size(); i += kDim)
    out.emplace_back(flat.begin() + static_cast<std::ptrdiff_t>(i),
                     flat.begin() + static_cast<std::ptrdiff_t>(i) + kDim);
  return out;
}
Row twin_of(const config::Nsa& c, Nsa& mixer, const mx::array& x, int limit = kAll) {
  Row out;
  for (int i = 0; i < x.shape(0); ++i) {
    const auto y = Twin(c, mixer)(rows_of(doubles(row(x, i))), limit);
    out.insert(out.end(), y.begin(), y.end());
  }
  return out;
}
// Sums of float32 over the width and the keys; outputs are of order one.
constexpr double kBound = 2e-5;

TEST(Nsa, OnePassIsTheTwin) {
  for (const auto& change : std::vector<std::function<void(config::Nsa&)>>{
           [](auto&) {}, [](auto& c) { c.kv_heads = 4; }, [](auto& c) { c.kv_heads = 1; },
           [](auto& c) { c.stride = 4; }, [](auto& c) { c.selected_block = 8, c.selected = 2; },
           [](auto& c) { c.first = 0, c.local = 2; }, [](auto& c) { c.window = 40; },
           [](auto& c) { c.selected = 50; }}) {
    auto c = sizes();
    change(c);
    const auto mixer = built(c);
    for (const int length : {1, 3, 4, 29}) {
      const auto x = some({2, length, kDim}, 7);
      Pass pass;
      test::expect_close((*mixer)(x, pass), twin_of(c, *mixer, x), kBound,
                         std::to_string(length) + " positions");
    }
  }
}

TEST(Nsa, ThroughTheCacheIsTheTwin) {
  const auto c = sizes();
  const auto mixer = built(c);
  const auto x = some({2, 41, kDim}, 8);
  const auto want = twin_of(c, *mixer, x);
  for (const std::vector<int>& pieces :
       {std::vector{1}, {7}, {2}, {30, 1}, {3, 1, 1, 9, 2}, {41}}) {
    auto cache = cache_of(*mixer);
    test::expect_close(through(*mixer, cache, x, pieces), want, kBound,
                       "pieces from " + std::to_string(pieces[0]));
  }
}

// Memory: whole blocks are compressed once, and it is restored, copied and cut like any other.
TEST(Nsa, KeepsWhatItCompressed) {
  const auto c = sizes();
  const auto mixer = built(c);
  const auto x = some({2, 33, kDim}, 20);
  Pass alone;
  const auto want = (*mixer)(x, alone);
  for (const int before : {2, 3, 4, 21}) {
    auto cache = cache_of(*mixer);
    through(*mixer, cache, positions(x, 0, before), {5, 1});
    const auto* blocks =
        dynamic_cast<BlockCache*>(dynamic_cast<CompositeCache*>(cache.layer(0))->part(0));
    ASSERT_TRUE(blocks);
    EXPECT_EQ(blocks->part(1)->length(), before < 4 ? 0 : (before - 4) / 2 + 1);
    EXPECT_EQ(blocks->arrays().size(), blocks->array_count());
    auto other = cache_of(*mixer);
    other.layer(0)->restore(cache.arrays(), before), other.advance(before);
    EXPECT_THROW(other.layer(0)->restore({cache.arrays()[0]}, before), Error);
    const Cache copy = cache;
    for (Cache* each : {&cache, &other}) {
      const auto rest = through(*mixer, *each, positions(x, before, 33), {1, 3});
      test::expect_close(rest, doubles(positions(want, before, 33)), kBound);
    }
    auto turned = copy;
    turned.reorder(mx::array({1, 0}, mx::int32));
    const auto rows = mx::take(positions(x, before, 33), mx::array({1, 0}, mx::int32), 0);
    test::expect_close(
        through(*mixer, turned, rows, {2}),
        doubles(mx::take(positions(want, before, 33), mx::array({1, 0}, mx::int32), 0)), kBound,
        "reordered");
  }
}

TEST(Nsa, GoesBackWhileTheWindowIsNotFull) {
  auto c = sizes();
  c.window = 64;
  const auto mixer = built(c);
  const auto x = some({2, 33, kDim}, 8);
  auto cache = cache_of(*mixer);
  through(*mixer, cache, positions(x, 0, 20), {5});
  through(*mixer, cache, some({2, 6, kDim}, 99), {1});
  cache.trim(6);
  const auto rest = through(*mixer, cache, positions(x, 20, 33), {1, 4});
  Pass pass;
  test::expect_close(rest, doubles(positions((*mixer)(x, pass), 20, 33)), kBound);
}

TEST(Nsa, ALimitOfTheCacheLimitsAllBranches) {
  const auto c = sizes();
  const auto mixer = built(c);
  const auto x = some({1, 30, kDim}, 9);
  for (const int limit : {3, 9, 14})
    for (const int piece : {1, 4}) {
      auto cache = cache_of(*mixer, {.max_kv = limit});
      test::expect_close(through(*mixer, cache, x, {piece}), twin_of(c, *mixer, x, limit), kBound,
                         "limit " + std::to_string(limit));
    }
}

// Blocks are counted from each row's first token.
TEST(Nsa, PaddingChangesNothing) {
  const auto c = sizes();
  const auto mixer = built(c);
  const auto x = some({3, 31, kDim}, 10);
  const int pads[] = {0, 3, 14};
  const mx::array padding(pads, {3}, mx::int32);
  Pass pass{.pads = padding};
  const auto whole = (*mixer)(x, pass);
  EXPECT_TRUE(mx::all(mx::isfinite(whole)).item<bool>());
  for (const std::vector<int>& pieces : {std::vector{1}, {20, 1}, {6}}) {
    auto cache = cache_of(*mixer);
    cache.pads = padding;
    const auto cached = through(*mixer, cache, x, pieces);
    for (int i = 0; i < 3; ++i) {
      const auto want = twin_of(c, *mixer, row(x, i, pads[i]));
      test::expect_close(row(whole, i, pads[i]), want, kBound, "row " + std::to_string(i));
      test::expect_close(row(cached, i, pads[i]), want, kBound, "cached " + std::to_string(i));
    }
  }
}

TEST(Nsa, LaterPositionsChangeNothing) {
  const auto mixer = built(sizes());
  const auto x = some({1, 30, kDim}, 11);
  for (const int kept : {2, 3, 5, 17}) {
    const auto other = mx::concatenate({positions(x, 0, kept), some({1, 30 - kept, kDim}, 12)}, 1);
    Pass a, b;
    const auto one = positions((*mixer)(x, a), 0, kept);
    test::expect_close(one, doubles(positions((*mixer)(other, b), 0, kept)), 1e-6);
  }
}

// So wide that not all queries of a piece are gathered for at once; one pass gathers nothing.
TEST(Nsa, ManyQueriesGatherSomeAtATime) {
  auto c = sizes();
  c.heads = c.kv_heads = 1, c.head_dim = 256, c.selected_block = 256, c.selected = 2;
  const auto mixer = built(c);
  const auto x = some({1, 1250, kDim}, 21);
  Pass pass;
  const auto want = (*mixer)(x, pass);
  auto cache = cache_of(*mixer);
  const auto got = through(*mixer, cache, x, {1050, 200});
  const double most = static_cast<double>(mx::max(mx::abs(want)).item<float>());
  test::expect_close(positions(got, 1050, 1250), doubles(positions(want, 1050, 1250)), 2e-5 * most);
}

TEST(Nsa, GradientsAreThoseOfTheTwin) {
  const auto c = sizes();
  const auto mixer = built(c);
  const auto x = some({1, 19, kDim}, 14), slope = some({1, 19, kDim}, 15);
  const auto entries = collect(*mixer);
  const auto loss = [&](const Arrays& in) -> Arrays {
    const Lend lend(entries, std::span(in).subspan(1));
    Pass pass;
    return {mx::sum(mx::multiply((*mixer)(in[0], pass), slope))};
  };
  auto in = values(entries);
  in.insert(in.begin(), x);
  std::vector<int> all(in.size());
  std::iota(all.begin(), all.end(), 0);
  const auto grads = mx::value_and_grad(loss, all)(in).second;

  const auto g = doubles(slope);
  auto flat = doubles(x);
  Twin twin(c, *mixer);
  twin(rows_of(flat));
  twin.fixed = true;  // the choice has no gradient
  const auto value = [&] {
    const auto y = twin(rows_of(flat));
    return std::inner_product(y.begin(), y.end(), g.begin(), 0.0);
  };
  const double h = 1e-5;
  HostRandom random(16);
  for (size_t i = 0; i < grads.size(); ++i) {
    const std::string path = i ? entries[i - 1].path : "the input";
    const auto got = doubles(grads[i]);
    double most = 0;
    for (int n = 0; n < 12; ++n) {
      const size_t k = random.below(got.size());
      double& at = i ? twin.w[path].second[k] : flat[k];
      const double was = at;
      at = was + h;
      const double up = value();
      at = was - h;
      const double want = (up - value()) / (2 * h);
      at = was;
      EXPECT_NEAR(got[k], want, 1e-3 * std::max(1.0, std::abs(want))) << path << "[" << k << "]";
      most = std::max(most, std::abs(want));
    }
    EXPECT_GT(most, 0) << path;
  }
}

}  // namespace
}  // namespace lmxlab::core
