#include "lmxlab/align/rollout.h"

#include "lmxlab/base/random.h"

#include <mlx/ops.h>

#include <algorithm>
#include <numeric>

namespace lmxlab::align {

Prompts::Prompts(data::SampleFile samples, const data::SampleTokenizer& tokenizer)
    : file(std::move(samples)) {
  if (file.kind != data::SampleKind::answer)
    throw Error(Kind::usage, "[grpo] " + file.name + ": expected samples with an answer, got " +
                                 std::string(data::sample_kind_name(file.kind)) +
                                 ". Give {\"prompt\", \"answer\"} a line.");
  auto tokens = tokenizer(file);
  for (auto& s : tokens.sequences) ids.push_back(std::move(s.ids)), sample.push_back(s.sample);
}

size_t Prompts::drawn(int64_t n, uint64_t seed) const {
  const auto count = static_cast<int64_t>(ids.size());
  std::vector<size_t> order(ids.size());
  std::iota(order.begin(), order.end(), size_t{0});
  HostRandom(seed, static_cast<uint64_t>(n / count)).shuffle(order);
  return order[static_cast<size_t>(n % count)];
}

GenerateOptions generation(const GrpoConfig& c, const data::Tokenizer& tokenizer, bool greedy) {
  GenerateOptions o;
  o.sampling.temperature = greedy ? 0 : static_cast<float>(c.temperature);
  o.sampling.top_p = 1;
  o.max_tokens = c.max_completion_length;
  o.stop_tokens = c.stop_tokens;
  if (o.stop_tokens.empty() && tokenizer.eos_id()) o.stop_tokens = {*tokenizer.eos_id()};
  o.kv_bits = 0;  // as training has keys and values
  if (!greedy) o.logprobs = 0, o.tempered_logprobs = true;
  return o;
}

Completion completion(const data::Sample& sample, const Generation& g) {
  return {&sample, g.text, static_cast<int>(g.tokens.size()), g.reason != StopReason::length};
}

Parts::Parts(const GrpoConfig& config, int of_a_prompt, size_t all) : each(of_a_prompt) {
  const auto group = static_cast<size_t>(each), at_once = static_cast<size_t>(config.rows_at_once);
  shared = at_once > 0 && at_once < group;
  rows = at_once == 0 ? all : shared ? at_once : std::min(all, at_once / group * group);
}

std::vector<Generation> write(const LanguageModel& model,
                              const std::vector<std::vector<int>>& prompts, int each,
                              const GrpoConfig& config, GenerateOptions options,
                              const data::Tokenizer& tokenizer) {
  const auto group = static_cast<size_t>(each);
  const size_t all = prompts.size() * group;
  const Parts parts(config, each, all);
  PromptCache read;
  if (parts.shared) options.shared = &read;
  const uint64_t seed = options.sampling.seed;
  std::vector<Generation> out;
  while (out.size() < all) {
    const size_t first = out.size();
    const size_t n = std::min(parts.rows, parts.shared ? group - first % group : all - first);
    std::vector<std::vector<int>> texts;
    for (size_t i = first; i < first + n; ++i) texts.push_back(prompts[i / group]);
    options.sampling.seed = seed + first;
    for (auto& g : generate_batch(model, texts, options, &tokenizer)) out.push_back(std::move(g));
  }
  return out;
}

data::Batch batch_of(const std::vector<const Row*>& rows, int width) {
  const auto w = static_cast<size_t>(width);
  std::vector<int32_t> inputs(rows.size() * w), targets(rows.size() * w);
  std::vector<uint8_t> loss(rows.size() * w);
  int64_t tokens = 0;
  for (size_t r = 0; r < rows.size(); ++r) {
    const auto& ids = rows[r]->ids;
    for (size_t i = 0; i + 1 < ids.size(); ++i) {
      inputs[r * w + i] = ids[i], targets[r * w + i] = ids[i + 1];
      loss[r * w + i] = rows[r]->learned && static_cast<int>(i) + 1 >= rows[r]->prompt;
    }
    tokens += static_cast<int64_t>(ids.size()) - 1;
  }
  const mx::Shape shape{static_cast<int>(rows.size()), width};
  data::Batch out{mx::array(inputs.begin(), shape), mx::array(targets.begin(), shape)};
  out.loss = mx::array(loss.begin(), shape, mx::bool_);
  out.tokens = tokens;
  return out;
}

mx::array beside_tokens(const std::vector<const Row*>& rows, std::vector<float> Row::*of,
                        int width) {
  const auto w = static_cast<size_t>(width);
  std::vector<float> all(rows.size() * w);
  for (size_t r = 0; r < rows.size(); ++r)
    std::copy((rows[r]->*of).begin(), (rows[r]->*of).end(),
              all.begin() +
                  static_cast<std::ptrdiff_t>(r * w + static_cast<size_t>(rows[r]->prompt) - 1));
  return mx::array(all.begin(), {static_cast<int>(rows.size()), width});
}

void take_tokens(const mx::array& from, const std::vector<Row*>& rows,
                 std::vector<float> Row::*of) {
  const auto all = to_vector<float>(from);
  const auto w = static_cast<size_t>(from.shape(1));
  for (size_t r = 0; r < rows.size(); ++r) {
    const auto first =
        all.begin() + static_cast<std::ptrdiff_t>(r * w + static_cast<size_t>(rows[r]->prompt) - 1);
    (rows[r]->*of)
        .assign(first, first + static_cast<std::ptrdiff_t>(rows[r]->ids.size()) - rows[r]->prompt);
  }
}

std::map<std::string, mx::array> to_arrays(const std::vector<Row>& rows) {
  std::vector<int32_t> ids, lengths;
  std::vector<float> advantages, old, reference;
  for (const auto& r : rows) {
    ids.insert(ids.end(), r.ids.begin(), r.ids.end());
    lengths.insert(lengths.end(),
                   {static_cast<int32_t>(r.ids.size()), r.prompt, r.learned ? 1 : 0});
    advantages.push_back(r.advantage);
    old.insert(old.end(), r.old_logprobs.begin(), r.old_logprobs.end());
    reference.insert(reference.end(), r.ref_logprobs.begin(), r.ref_logprobs.end());
  }
  const auto flat = [](const auto& v) {
    return mx::array(v.begin(), {static_cast<int>(v.size())});
  };
  std::map<std::string, mx::array> out;
  out.emplace("ids", flat(ids)), out.emplace("lengths", flat(lengths));
  out.emplace("advantages", flat(advantages)), out.emplace("old_logprobs", flat(old));
  if (!reference.empty()) out.emplace("ref_logprobs", flat(reference));
  return out;
}

std::vector<Row> from_arrays(const std::map<std::string, mx::array>& arrays) {
  const auto fail = [] {
    throw Error(Kind::mismatch,
                "[grpo] the rollout that was saved does not fit this run. Resume "
                "with the recipe and the samples that it had.");
  };
  const auto of = [&]<class T>(const char* name, T, bool must) {
    const auto it = arrays.find(name);
    if (it == arrays.end() && must) fail();
    return it == arrays.end() ? std::vector<T>() : to_vector<T>(it->second);
  };
  const auto ids = of("ids", int32_t{}, true), lengths = of("lengths", int32_t{}, true);
  const auto advantages = of("advantages", 0.0f, true), old = of("old_logprobs", 0.0f, true);
  const auto reference = of("ref_logprobs", 0.0f, false);
  std::vector<Row> rows;
  size_t at = 0, token = 0;
  if (lengths.size() != 3 * advantages.size()) fail();
  for (size_t r = 0; r < advantages.size(); ++r) {
    Row row;
    const auto n = static_cast<size_t>(std::max(lengths[3 * r], 0));
    row.prompt = lengths[3 * r + 1], row.learned = lengths[3 * r + 2] != 0;
    if (row.prompt < 1 || static_cast<size_t>(row.prompt) >= n || at + n > ids.size()) fail();
    const size_t written = n - static_cast<size_t>(row.prompt);
    const auto part = [&](const auto& v, size_t from, size_t count) {
      if (from + count > v.size()) fail();
      const auto first = v.begin() + static_cast<std::ptrdiff_t>(from);
      return std::vector(first, first + static_cast<std::ptrdiff_t>(count));
    };
    row.ids = part(ids, at, n), row.advantage = advantages[r];
    row.old_logprobs = part(old, token, written);
    if (!reference.empty()) row.ref_logprobs = part(reference, token, written);
    at += n, token += written;
    rows.push_back(std::move(row));
  }
  return rows;
}

}  // namespace lmxlab::align
