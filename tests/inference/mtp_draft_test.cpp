// Drafts of a model's own heads: what they draft, and that the text stays the same.
#include "lmxlab/inference/mtp_draft.h"

#include "lmxlab/core/runtime.h"
#include "lmxlab/core/transformer.h"
#include "lmxlab/inference/generate.h"
#include "lmxlab/models/quantize.h"
#include "tests/inference/models.h"
#include "tests/inference/samplings.h"
#include "tests/support/error_of.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <mlx/ops.h>

#include <algorithm>

namespace lmxlab {
namespace {

using testing::HasSubstr;
using testing_models::small;

config::Model with_heads(config::Model m, int heads) {
  m.mtp_heads.assign(static_cast<size_t>(heads), config::mtp_block(m));
  return m;
}
std::vector<int> some_text(int n, int vocab) {
  std::vector<int> out;
  for (int i = 0; i < n; ++i) out.push_back((7 * i * i + 3 * i + i / 4) % vocab);
  return out;
}

mx::array ids(const std::vector<int>& tokens, int from, int n) {
  return mx::array(tokens.data() + from, {1, n}, mx::int32);
}
mx::array positions(const mx::array& x, int from, int to) {
  return mx::slice(x, {0, from, 0}, {1, to, x.shape(2)});
}

// The drafts of a greedy text without any cache: every head over the whole text and what is drafted
// behind it.
std::vector<int> whole_drafts(const LanguageModel& model, std::vector<int> text, int most) {
  const Enter enter(model.runtime());
  const auto& t = model.transformer();
  const int n = static_cast<int>(text.size()) - 1, depth = static_cast<int>(t.mtp_heads.size());
  std::vector<int> out;
  auto pass = model.make_pass();
  auto h = t.hidden(ids(text, 0, n), pass);
  auto before = h;  // of the last head
  for (int k = 1; static_cast<int>(out.size()) < most; ++k) {
    int length = n;
    if (k <= depth) {
      before = h;
    } else {  // it reads its own output at one position more
      before = mx::concatenate({before, positions(h, h.shape(1) - 1, h.shape(1))}, 1);
      length = before.shape(1);
    }
    const int head = std::min(k, depth);
    auto own = t.mtp_pass(head - 1, pass);
    own.dtype = pass.dtype;
    h = t.mtp(head - 1, before, ids(text, head, length), own);
    const auto logits = mx::squeeze(t.head(positions(h, length - 1, length)));
    out.push_back(static_cast<int>(mx::argmax(logits).item<uint32_t>()));
    text.push_back(out.back());
  }
  return out;
}

// Heads whose drafts are compared with those of no cache; what the model reads is the text that
// will come, with a wrong token from time to time, so that rounds keep some of it.
class Watched : public DraftSource {
 public:
  Watched(const LanguageModel& model, std::vector<int> text)
      : model_(model), heads_(model), text_(std::move(text)) {}
  bool reads_hidden() const override { return true; }
  void saw(std::span<const int> text, int first, const mx::array& hidden) override {
    heads_.saw(text, first, hidden);
  }
  std::vector<int> draft(const DraftRequest& r) override {
    const auto own = heads_.draft(r);
    if (penalizes(r.sampling) || r.sampling.temperature != 0) return own;
    EXPECT_EQ(own, whole_drafts(model_, {r.text.begin(), r.text.end()}, r.most))
        << "behind " << r.text.size() << " tokens";
    ++compared;
    std::vector<int> out;
    for (size_t at = r.text.size(); out.size() < size_t(r.most) && at < text_.size(); ++at)
      out.push_back(text_[at]);
    const size_t right = round_++ % (size_t(r.most) + 1);
    if (right < out.size()) out[right] = (out[right] + 1) % model_.config().vocab;
    return out;
  }
  int compared = 0;

 private:
  const LanguageModel& model_;
  MtpDraft heads_;
  std::vector<int> text_;
  size_t round_ = 0;
};

std::vector<testing_models::Named> families() {
  auto out = testing_models::all();
  for (const char* name :
       {"gemma3-tiny", "gpt-oss-tiny", "mixtral-tiny", "deepseek-v2-tiny", "mamba-tiny",
        "mamba2-tiny", "rwkv-tiny", "xlstm-tiny", "recurrent-gemma-tiny", "jamba-tiny", "lfm2-tiny",
        "qwen3-next-tiny", "minimax-tiny", "falcon-h1-tiny"}) {
    auto m = config::preset(name);
    m.init_std = 0.2f;
    out.push_back({name, m});
  }
  return out;
}

void expect_plain_text(const std::string& name, const LanguageModel& model) {
  const auto prompt = some_text(9, model.config().vocab);
  int n = 0, drafted = 0, accepted = 0;
  for (const auto& sampling : {samplings().front(), samplings().back()}) {
    GenerateOptions options{.sampling = sampling, .max_tokens = 16};
    const auto want = generate(model, prompt, options);
    auto text = prompt;
    text.insert(text.end(), want.tokens.begin(), want.tokens.end());
    Watched watched(model, text);
    MtpDraft heads(model);
    for (DraftSource* source :
         {static_cast<DraftSource*>(&watched), static_cast<DraftSource*>(&heads)}) {
      options.draft = source, options.num_draft_tokens = 1 + n++ % 4;
      GenerateStats stats;
      EXPECT_EQ(generate(model, prompt, options, nullptr, &stats).tokens, want.tokens)
          << name << ", seed " << sampling.seed << ", " << options.num_draft_tokens;
      drafted += stats.draft_tokens, accepted += stats.accepted_tokens;
    }
    if (sampling.temperature == 0) {
      EXPECT_GT(watched.compared, 2) << name;
    }
  }
  EXPECT_GT(drafted, 30) << name;
  EXPECT_GT(accepted, 2) << name;
}

TEST(MtpDraft, DraftsAndTextAreThoseWithoutCachesInEveryFamily) {
  int heads = 0;
  for (const auto& [name, config] : families())
    expect_plain_text(name, LanguageModel(with_heads(config, 1 + heads++ % 3), 1));
}

TEST(MtpDraft, IsThePlainTextOfPackedWeightsAndCaches) {
  auto config = with_heads(config::preset("llama-tiny"), 2);
  config.init_std = 0.2f;
  LanguageModel packed(config, 1);
  quantize_model(packed, {.bits = 4, .group_size = 32});
  interleave_model(packed);
  const LanguageModel model(with_heads(small({.heads = 2, .kv_heads = 1, .head_dim = 32}), 2), 1);
  using Kept = std::pair<const LanguageModel*, CacheOptions>;
  for (const auto& [m, cache] :
       {Kept(&packed, {}), Kept(&model, {.kv_bits = 8}), Kept(&model, {.max_kv = 9})}) {
    const auto prompt = some_text(9, m->config().vocab);
    for (const auto& sampling : samplings()) {
      GenerateOptions options{.sampling = sampling, .max_tokens = 20};
      options.kv_bits = cache.kv_bits, options.max_kv = cache.max_kv;
      const auto want = generate(*m, prompt, options).tokens;
      MtpDraft heads(*m, cache);
      options.draft = &heads, options.num_draft_tokens = 3;
      EXPECT_EQ(generate(*m, prompt, options).tokens, want);
    }
  }
}

// Long enough for several pieces; drafts measured for whether they pay, with pauses between.
TEST(MtpDraft, LongTextsAndPauses) {
  const LanguageModel model(with_heads(small({.heads = 4, .kv_heads = 2, .head_dim = 8}), 2), 1);
  const auto prompt = some_text(1100, model.config().vocab);
  GenerateOptions options{.sampling = {.temperature = 0}, .max_tokens = 90};
  const auto want = generate(model, prompt, options).tokens;
  auto text = prompt;
  text.insert(text.end(), want.begin(), want.end());
  Watched watched(model, text);
  options.draft = &watched, options.prefill_chunk = 300;
  EXPECT_EQ(generate(model, prompt, options).tokens, want);
  EXPECT_GT(watched.compared, 3);
}

// A source serves one text after another: those that go on, and others.
TEST(MtpDraft, GoesOnWithWhatWasRead) {
  const LanguageModel model(with_heads(small({.heads = 4, .kv_heads = 2, .head_dim = 8}), 2), 1);
  const int vocab = model.config().vocab;
  MtpDraft heads(model);
  PromptCache kept;
  auto text = some_text(9, vocab);
  for (int turn = 0; turn < 4; ++turn) {
    GenerateOptions options{.sampling = {.temperature = 0}, .max_tokens = 12};
    const auto want = generate(model, text, options).tokens;
    options.draft = &heads, options.num_draft_tokens = 3, options.reuse = &kept;
    EXPECT_EQ(generate(model, text, options).tokens, want) << turn;
    text.insert(text.end(), want.begin(), want.end());
    if (turn == 2) text.resize(6);  // another one
    for (const int id : some_text(3 + turn, vocab)) text.push_back(id);
  }
}

TEST(MtpDraft, NeedsHeads) {
  const LanguageModel model(small({.heads = 2, .kv_heads = 1, .head_dim = 8}), 1);
  const auto e = test::error_of([&] { MtpDraft heads(model); });
  EXPECT_EQ(e.kind(), Kind::mismatch);
  EXPECT_THAT(e.what(), HasSubstr("no heads for further tokens"));
}

}  // namespace
}  // namespace lmxlab
