#include "lmxlab/eval/perplexity.h"

#include "lmxlab/base/random.h"
#include "lmxlab/config/presets.h"
#include "lmxlab/core/runtime.h"

#include <gtest/gtest.h>
#include <mlx/ops.h>

#include <cmath>

namespace lmxlab {
namespace {

std::vector<int> some_text(int n, int vocab) {
  HostRandom random(5);
  std::vector<int> out;
  for (int i = 0; i < n; ++i)
    out.push_back(static_cast<int>(random.below(static_cast<uint64_t>(vocab))));
  return out;
}

// The definition: every window's logits whole, log-softmax in float64, each token counted in the
// first window that predicts it.
double by_definition(const LanguageModel& model, const std::vector<int>& text, int context,
                     int stride) {
  const Enter enter(model.runtime());
  double sum = 0;
  size_t counted = 1;
  for (size_t begin = 0; counted < text.size(); begin += static_cast<size_t>(stride)) {
    const size_t end = std::min(text.size(), begin + static_cast<size_t>(context));
    const std::vector<int> window(text.begin() + static_cast<ptrdiff_t>(begin),
                                  text.begin() + static_cast<ptrdiff_t>(end));
    const auto logits = model.forward(mx::array(window.begin(), {static_cast<int>(window.size())}));
    const int V = logits.shape(2);
    const auto values = to_vector<float>(logits);
    for (; counted < end; ++counted) {
      const auto* row = values.data() + (counted - begin - 1) * static_cast<size_t>(V);
      double total = 0;
      for (int v = 0; v < V; ++v) total += std::exp(static_cast<double>(row[v]));
      sum += std::log(total) - static_cast<double>(row[text[counted]]);
    }
  }
  return sum / static_cast<double>(text.size() - 1);
}

TEST(Perplexity, IsTheMeanOverEveryTokenButTheFirst) {
  const LanguageModel model(config::preset("llama-tiny"), 3);
  const auto text = some_text(300, 256);
  for (const auto& [context, stride] :
       {std::pair(64, 32), {64, 63}, {64, 1}, {300, 150}, {1000, 500}, {2, 1}}) {
    const auto got = perplexity(model, text, {.context = context, .stride = stride});
    EXPECT_EQ(got.tokens, 299);
    EXPECT_NEAR(got.nll, by_definition(model, text, context, stride), 2e-5)
        << context << ", " << stride;
    EXPECT_DOUBLE_EQ(got.perplexity(), std::exp(got.nll));
  }
  const auto usual = perplexity(model, text);
  EXPECT_EQ(usual.context, 128);
  EXPECT_EQ(usual.stride, 64);
}

TEST(Perplexity, Progress) {
  const LanguageModel model(config::preset("llama-tiny"), 3);
  int64_t last = 0;
  perplexity(model, some_text(400, 256), {}, [&](int64_t done, int64_t all) {
    EXPECT_GT(done, last);
    EXPECT_EQ(all, 399);
    last = done;
  });
  EXPECT_EQ(last, 399);
  std::stop_source source;
  source.request_stop();
  EXPECT_THROW(perplexity(model, some_text(10, 256), {.stop = source.get_token()}), Error);
}

TEST(Perplexity, RefusesWhatCannotBe) {
  const LanguageModel llama(config::preset("llama-tiny"), 3), gpt(config::preset("gpt-tiny"), 3);
  const auto fails = [](const LanguageModel& model, const std::vector<int>& text,
                        const PerplexityOptions& options, const std::string& part) {
    try {
      perplexity(model, text, options);
      ADD_FAILURE() << "no error: " << part;
    } catch (const Error& e) {
      EXPECT_EQ(e.kind(), Kind::usage);
      EXPECT_NE(std::string(e.what()).find(part), std::string::npos) << e.what();
    }
  };
  fails(llama, {1}, {}, "at least 2 tokens");
  fails(llama, {1, 256}, {}, "token 1: expected an id from 0 to 255, got 256");
  fails(llama, {1, 2}, {.context = 1}, "context");
  fails(llama, {1, 2}, {.context = 8, .stride = 8}, "stride");
  fails(gpt, {1, 2}, {.context = 100'000}, "learned");
}

}  // namespace
}  // namespace lmxlab
