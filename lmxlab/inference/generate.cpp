#include "lmxlab/inference/generate.h"

#include "lmxlab/config/rope.h"
#include "lmxlab/core/runtime.h"
#include "lmxlab/core/transformer.h"
#include "lmxlab/inference/stop_strings.h"
#include "lmxlab/kernels/memory.h"
#include "lmxlab/kernels/rehearsal.h"
#include "lmxlab/kernels/start_step.h"

#include <mlx/ops.h>
#include <mlx/transforms.h>

#include <algorithm>
#include <chrono>
#include <cstring>
#include <deque>

namespace lmxlab {
namespace {

using Clock = std::chrono::steady_clock;
using Prompts = std::vector<std::vector<int>>;

double seconds_since(Clock::time_point start) {
  return std::chrono::duration<double>(Clock::now() - start).count();
}

// Copies out what a draw made contiguous. Unlike to_vector it queues nothing behind the step that
// is running.
template <class T>
std::vector<T> read(const mx::array& a) {
  kernels::wait_for(a);
  std::vector<T> out(a.size());
  std::memcpy(out.data(), a.data<T>(), a.nbytes());
  return out;
}

std::vector<mx::array> arrays_of(const Draw& d) {
  std::vector<mx::array> out{d.tokens};
  for (const auto* a : {&d.logprobs, &d.top_ids, &d.top_logprobs})
    if (*a) out.push_back(**a);
  return out;
}

// A row of the batch as its reader sees it.
struct Row {
  int index = 0;      // in `results`
  int remaining = 0;  // tokens it may still make
  std::optional<data::StreamDecoder> decoder = {};
  StopStrings stops{{}};
};

// Fewer than the 128 from which on a piece of a prompt may be rounded, with those read again.
constexpr int kMostDrafted = 32;

void check(const LanguageModel& model, Prompts& prompts, const GenerateOptions& o,
           const data::Tokenizer* tokenizer) {
  const auto& config = model.config();
  Problems problems;
  const auto at_least = [&](const char* name, int value, int low) {
    if (value < low)
      problems.add(std::string(name) + ": expected " + std::to_string(low) + " or more, got " +
                   std::to_string(value));
  };
  at_least("max_tokens", o.max_tokens, 0);
  at_least("prefill_chunk", o.prefill_chunk, 1);
  at_least("max_kv", o.max_kv, 0);
  if (o.reuse && prompts.size() != 1)
    problems.add("reuse: expected one prompt, got " + std::to_string(prompts.size()));
  if (o.shared &&
      std::any_of(prompts.begin(), prompts.end(), [&](const auto& p) { return p != prompts[0]; }))
    problems.add("shared: expected rows of one prompt, got several prompts");
  if (o.shared && o.reuse) problems.add("shared and reuse: expected one of them, got both");
  if (o.draft && prompts.size() != 1)
    problems.add("draft: expected one prompt, got " + std::to_string(prompts.size()));
  if (o.num_draft_tokens < 0 || o.num_draft_tokens > kMostDrafted)
    problems.add("num_draft_tokens: expected 0 (as many as pay) to " +
                 std::to_string(kMostDrafted) + ", got " + std::to_string(o.num_draft_tokens));
  if (const int bits = o.kv_bits.value_or(0); bits != 0 && bits != 4 && bits != 8 && bits != 16)
    problems.add("kv_bits: expected 0 (keys and values as computed), 16, 8 or 4, got " +
                 std::to_string(bits));
  for (const auto& s : o.stop_strings) {
    if (s.empty()) problems.add("stop_strings: one is empty. Leave it out.");
    if (invalid_utf8_at(s) != std::string::npos) problems.add("stop_strings: one is not UTF-8");
  }
  if (!o.stop_strings.empty() && !tokenizer)
    problems.add("stop_strings need a tokenizer. Give one, or stop_tokens.");
  const auto* learned = std::get_if<config::Learned>(&config.position);
  for (size_t r = 0; r < prompts.size(); ++r) {
    auto& prompt = prompts[r];
    const std::string name = prompts.size() == 1 ? "prompt" : "prompt " + std::to_string(r);
    if (prompt.empty() && tokenizer && tokenizer->bos_id()) prompt.push_back(*tokenizer->bos_id());
    if (prompt.empty()) problems.add(name + ": expected at least one token, got none");
    const auto wrong = std::find_if(prompt.begin(), prompt.end(),
                                    [&](int id) { return id < 0 || id >= config.vocab; });
    if (wrong != prompt.end())
      problems.add(name + ": token " + std::to_string(wrong - prompt.begin()) +
                   ": expected an id from 0 to " + std::to_string(config.vocab - 1) + ", got " +
                   std::to_string(*wrong));
    if (learned && prompt.size() > static_cast<size_t>(learned->length))
      problems.add(name + ": expected at most the " + std::to_string(learned->length) +
                   " positions that the model has learned, got " + std::to_string(prompt.size()) +
                   " tokens. Shorten it.");
  }
  problems.raise(Kind::usage, "[generate] cannot start");
  if (o.draft && config::depends_on_length(config))
    throw Error(
        Kind::unsupported,
        "[speculative] this model's rotary frequencies depend on the length of the text, so "
        "that tokens read together are not what they are one by one. Leave the draft out.");
}

}  // namespace

struct TokenStream::Impl {
  Impl(const LanguageModel& m, Prompts p, GenerateOptions o, const data::Tokenizer* tokenizer)
      : model(m), options(std::move(o)), prompts(std::move(p)) {
    expect_tokens(model.config(), "generate");
    check(model, prompts, options, tokenizer);
    const auto& config = model.config();
    std::vector<uint64_t> seeds;
    for (size_t r = 0; r < prompts.size(); ++r) seeds.push_back(options.sampling.seed + r);
    const Enter enter(model.runtime());
    sampler.emplace(options.sampling, config.vocab, prompts, std::move(seeds), options.logprobs,
                    options.tempered_logprobs);
    const auto* learned = std::get_if<config::Learned>(&config.position);
    results.resize(prompts.size());
    for (size_t r = 0; r < prompts.size(); ++r) {
      const int n = static_cast<int>(prompts[r].size());
      longest = std::max(longest, n);
      results[r].prompt_tokens = n;
      Row row;
      row.index = static_cast<int>(r);
      // The last token is drawn, not fed, so it needs no position.
      row.remaining =
          learned ? std::min(options.max_tokens, learned->length - n + 1) : options.max_tokens;
      if (tokenizer) row.decoder.emplace(*tokenizer, options.skip_special);
      row.stops = StopStrings(options.stop_strings);
      columns.push_back(std::move(row));
      live.push_back(true);
    }
    if (!options.draft) return;
    pace.emplace(options.num_draft_tokens);
    text = prompts[0];
  }

  ~Impl() {
    if (started) wait();  // nothing of a step may outlive the cache, or the caller's `main`
  }

  void wait() noexcept {
    try {
      const Enter enter(model.runtime());
      kernels::finish_steps();
    } catch (...) {
    }
  }

  std::optional<TokenEvent> next() {
    while (events.empty() && !ended) {
      try {
        advance();
      } catch (...) {
        auto error = current_error();
        wait();  // for what still writes into the cache
        ended = true, pending.reset(), reading.reset(), seen.reset(), running.clear(),
        cache = Cache();
        throw error;
      }
    }
    if (ended) give_back();
    if (events.empty()) return std::nullopt;
    auto e = std::move(events.front());
    events.pop_front();
    return e;
  }

  void advance() {
    const Enter enter(model.runtime());
    const auto start = Clock::now();
    if (!started) {
      started = true;
      kernels::reset_peak();
      if (!any_left()) return finish_all(StopReason::length);
      if (!prefill()) return finish_all(StopReason::canceled);
      take(start);
      stats.time_to_first_token_s = seconds_since(start);
    } else if (pending || !pace) {
      take(start);
    } else if (pace->drafts() > 0) {
      speculate(start);
    } else {
      resume();
      take(start);
    }
    stats.peak_bytes = static_cast<int64_t>(kernels::peak_bytes());
  }

  // The prompt but its last token in pieces, then the first draw. False if it was to stop.
  bool prefill() {
    const auto start = Clock::now();
    // Equal prompts are read once: their rows part with the first draw.
    Prompts distinct;
    std::vector<int32_t> row_of;
    for (const auto& p : prompts) {
      const auto at = std::find(distinct.begin(), distinct.end(), p) - distinct.begin();
      row_of.push_back(static_cast<int32_t>(at));
      if (row_of.back() == static_cast<int32_t>(distinct.size())) distinct.push_back(p);
    }
    const int rows = static_cast<int>(distinct.size());
    std::vector<int32_t> pads;
    for (const auto& p : distinct) pads.push_back(longest - static_cast<int>(p.size()));
    // Columns of the prompts, padded at their left.
    const auto columns_of = [&](int from, int to) {
      std::vector<int32_t> ids;
      for (size_t r = 0; r < distinct.size(); ++r)
        for (int i = from; i < to; ++i)
          ids.push_back(i < pads[r] ? 0 : distinct[r][static_cast<size_t>(i - pads[r])]);
      return kernels::host_array(ids.data(), {rows, to - from});
    };
    const bool padded = std::any_of(pads.begin(), pads.end(), [](int n) { return n > 0; });
    std::optional<mx::array> padding;
    if (padded) padding = mx::array(pads.begin(), {rows}, mx::int32);
    const int known = take_over();
    // What is kept for other rows ends before the token whose logits these draw from.
    const int kept = options.shared ? longest - 1 : 0;
    if (known == 0)
      cache = model.make_cache(padding, {.kv_bits = kv_bits(), .max_kv = options.max_kv});
    cache.text_length = longest;
    // Room for all of it at once, but not for a max_tokens that nobody expects to be reached.
    const int64_t wanted = int64_t{longest} + most_left() - 1;
    const int64_t sensible =
        std::max<int64_t>(model.config().context, int64_t{longest} + core::kGrowth);
    cache.reserve(static_cast<int>(std::min(wanted, sensible)));

    for (int from = known, to; from < longest; from = to) {
      if (options.stop.stop_requested()) return false;
      if (from == kept && kept > 0) keep_prompt(kept);
      to = std::min(from < kept ? kept : longest, from + options.prefill_chunk);
      const auto piece = columns_of(from, to);
      const kernels::WithActivations rounded(model.prompt_activations(int64_t{rows} * (to - from)));
      auto pass = model.make_pass(&cache);
      const auto hidden = model.transformer().hidden(piece, pass);
      if (to < longest) {
        auto all = cache.arrays();
        if (tells()) all.push_back(hidden);
        mx::eval(all);
        tell(prompts[0], from, hidden);
        continue;
      }
      // The head sees the last position alone: logits of a whole piece would be the largest array
      // of all.
      const int n = hidden.shape(1);
      const auto last = mx::slice(hidden, {0, n - 1, 0}, {rows, n, hidden.shape(2)});
      auto logits = mx::squeeze(model.transformer().head(last), 1);
      if (distinct.size() < prompts.size()) {
        const mx::array index(row_of.begin(), {static_cast<int>(row_of.size())}, mx::int32);
        logits = mx::take(logits, index, 0);
        cache.reorder(index);
      }
      pending = sampler->draw(logits);
      if (tells()) seen = Seen{from, hidden};
    }
    // Not queue(): steps of many rows are evaluated in order, each array given up after its last
    // use.
    mx::eval(queued());
    tell_seen();
    read<int32_t>(pending->tokens);
    stats.reused_tokens = known;
    size_t total = 0;
    for (const auto& p : distinct) total += p.size();
    total -= static_cast<size_t>(known);
    stats.prefill_tokens_per_s = static_cast<double>(total) / seconds_since(start);
    return true;
  }

  int kv_bits() const { return options.kv_bits.value_or(model.kv_bits()); }

  void keep_prompt(int tokens) {
    const auto& prompt = prompts[0];
    *options.shared = {{prompt.begin(), prompt.begin() + tokens}, cache, kv_bits()};
  }

  // What the caller's cache has read of the prompt becomes ours: so many tokens, the last one of
  // the prompt never, since its logits are needed.
  int take_over() {
    auto* const given = options.reuse ? options.reuse : options.shared;
    if (!given) return 0;
    auto kept = std::exchange(*given, {});
    const auto& prompt = prompts[0];
    const auto most = std::min({kept.tokens.size(), prompt.size() - 1,
                                static_cast<size_t>(std::max(kept.cache.length(), 0))});
    const auto shared = static_cast<int>(
        std::mismatch(prompt.begin(), prompt.begin() + static_cast<ptrdiff_t>(most),
                      kept.tokens.begin())
            .first -
        prompt.begin());
    const int back = kept.cache.length() - shared;
    const bool fits = !kept.cache.empty() && kept.cache.max_kv == options.max_kv &&
                      kept.cache.rows() == 1 && kept.kv_bits == kv_bits();
    if (shared == 0 || !fits || !kept.cache.can_trim(back)) return 0;
    kept.cache.trim(back);
    cache = std::move(kept.cache);
    return shared;
  }
  // When all is over: the cache, for the next time.
  void give_back() {
    if (!options.reuse || cache.empty()) return;
    wait();
    cache.unmark();
    PromptCache all{prompts[0], std::move(cache), kv_bits()};
    cache = Cache();
    all.tokens.insert(all.tokens.end(), results[0].tokens.begin(), results[0].tokens.end());
    all.tokens.resize(std::min(all.tokens.size(), static_cast<size_t>(all.cache.length())));
    *options.reuse = std::move(all);
  }

  // Starts the pending draw, with the cache.
  std::vector<mx::array> queued() const {
    auto all = cache.arrays();
    for (auto& a : arrays_of(*pending)) all.push_back(a);
    if (seen) all.push_back(seen->hidden);
    return all;
  }
  void queue() { kernels::start_step(queued()); }

  // The tokens of the pending draw become events, while the step after it runs.
  void take(Clock::time_point start) {
    if (options.stop.stop_requested()) return finish_all(StopReason::canceled);
    // Small arrays made here must not wait for the step that is running.
    const kernels::MemoryFor here(kernels::MemoryUse::step);
    reading = std::exchange(pending, {});
    if (most_left() > 1 && !(pace && pace->drafts() > 0)) {
      const Draw& now = *reading;
      const int rows = static_cast<int>(columns.size());
      running = cache.arrays();
      auto pass = model.make_pass(&cache);
      const int at = cache.length();
      const auto hidden = model.transformer().hidden(mx::reshape(now.tokens, {rows, 1}), pass);
      pending = sampler->draw(mx::squeeze(model.transformer().head(hidden), 1));
      if (tells()) seen = Seen{at, hidden};
      running.clear();  // or the step could not write into them
    }
    // One token ahead: the next step goes in before this one's token is read. A queue keeps its
    // order, and `start_step` lets a step write into the cache that the one before still works on.
    if (pending) queue();
    const auto events_now = read_draw();
    int made = 0;
    for (size_t c = 0; c < columns.size(); ++c) {
      if (!live[c]) continue;
      accept(c, events_now[c]);
      ++made;
    }
    tell_seen();
    count(made, seconds_since(start));
    if (pace) pace->plain(seconds_since(start));
    if (any_live()) drop_finished();
  }

  // Tokens that are read now, and how long they took.
  void count(int made, double seconds) {
    if (!first_taken) {
      first_taken = true;
    } else {
      decoded += made;
      decode_s += seconds;
      stats.decode_tokens_per_s = decode_s > 0 ? decoded / decode_s : 0;
    }
    if (!any_live()) ended = true;
  }

  // One event for each row of `reading`.
  std::vector<TokenEvent> read_draw() const {
    const Draw& now = *reading;
    const auto tokens = read<int32_t>(now.tokens);
    const auto logprobs = now.logprobs ? read<float>(*now.logprobs) : std::vector<float>();
    const auto top_ids = now.top_ids ? read<int32_t>(*now.top_ids) : std::vector<int32_t>();
    const auto top_logprobs =
        now.top_logprobs ? read<float>(*now.top_logprobs) : std::vector<float>();
    std::vector<TokenEvent> out(tokens.size());
    const auto n = static_cast<size_t>(std::max(options.logprobs, 0));
    for (size_t r = 0; r < out.size(); ++r) {
      out[r].token = tokens[r];
      if (now.logprobs) out[r].logprob = logprobs[r];
      for (size_t i = 0; i < n; ++i)
        out[r].top.emplace_back(top_ids[r * n + i], top_logprobs[r * n + i]);
    }
    return out;
  }

  // What the model made of tokens of the one text, for drafts that read it.
  struct Seen {
    int first;
    mx::array hidden;  // [1, L, D]
  };
  bool tells() const { return options.draft && options.draft->reads_hidden(); }
  void tell(std::span<const int> of, int first, const mx::array& hidden) {
    if (tells()) options.draft->saw(of, first, hidden);
  }
  void tell_seen() {
    if (seen) tell(text, seen->first, seen->hidden);
    seen.reset();
  }

  // What the cache has not seen of the text, then these.
  mx::array hidden_behind(std::span<const int> drafted) {
    std::vector<int32_t> ids(text.begin() + cache.length(), text.end());
    ids.insert(ids.end(), drafted.begin(), drafted.end());
    auto pass = model.make_pass(&cache);
    return model.transformer().hidden(
        kernels::host_array(ids.data(), {1, static_cast<int>(ids.size())}), pass);
  }
  // [1, L, D] -> [n, V], of the last n positions.
  mx::array logits_of(const mx::array& hidden, int n) const {
    const int length = hidden.shape(1);
    const auto last = mx::slice(hidden, {0, length - n, 0}, {1, length, hidden.shape(2)});
    return mx::squeeze(model.transformer().head(last), 0);
  }
  Sampler sampler_at(std::span<const int> drafted) const {
    return sampler_behind(options.sampling, model.config().vocab, text, drafted,
                          results[0].tokens.size(), options.logprobs);
  }

  // Drafts, reads the drafted tokens in one pass, and keeps those that it would have drawn: up to
  // the first other one, which is drawn as well. What the cache has seen beyond is taken back;
  // where that reaches back to the mark, the tokens since are read again with the next ones, or
  // alone if they have become many.
  void speculate(Clock::time_point start) {
    constexpr size_t kAgain = 8;
    if (options.stop.stop_requested()) return finish_all(StopReason::canceled);
    const bool many = text.size() - static_cast<size_t>(cache.length()) > kAgain;
    const int wanted = many ? 0 : std::min(pace->drafts(), columns[0].remaining - 1);
    std::vector<int> drafted;
    if (wanted > 0)
      drafted = options.draft->draft({text, wanted, options.sampling, results[0].tokens.size()});
    const int vocab = model.config().vocab, n = static_cast<int>(drafted.size());
    if (n > std::max(wanted, 0) ||
        std::any_of(drafted.begin(), drafted.end(), [&](int id) { return id < 0 || id >= vocab; }))
      throw Error(Kind::usage, "[speculative] a draft of " + std::to_string(n) +
                                   " tokens: expected at most " + std::to_string(wanted) +
                                   ", ids from 0 to " + std::to_string(vocab - 1));
    cache.mark();
    const int first = cache.length();
    const auto hidden = hidden_behind(drafted);
    pending = sampler_at(drafted).draw(logits_of(hidden, n + 1));
    if (tells()) seen = Seen{first, hidden};
    queue();
    reading = std::exchange(pending, {});
    const auto drawn = read_draw();
    // A rehearsal has no tokens to compare: it meets the largest pass, behind refused ones, first.
    const bool refused =
        kernels::rehearsing() && stats.draft_tokens <= static_cast<int>(kAgain + 1) * n;
    int accepted = 0;
    while (!refused && accepted < n &&
           drawn[static_cast<size_t>(accepted)].token == drafted[static_cast<size_t>(accepted)])
      ++accepted;
    int made = 0;
    for (; made <= accepted && live[0]; ++made) accept(0, drawn[static_cast<size_t>(made)]);
    if (seen) {  // but for the token that was drawn last
      const int known = static_cast<int>(text.size()) - 1 - first;
      seen->hidden = mx::slice(hidden, {0, 0, 0}, {1, known, hidden.shape(2)});
    }
    tell_seen();
    if (!cache.rewind(static_cast<int>(text.size()) - 1))
      throw Error(
          Kind::unsupported,
          "[speculative] a layer's cache takes back nothing, not to a mark either. Leave the "
          "draft out.");
    stats.draft_tokens += n, stats.accepted_tokens += accepted;
    count(made, seconds_since(start));
    pace->round(n, accepted, seconds_since(start));
  }

  // From drafts to one token ahead.
  void resume() {
    const kernels::MemoryFor here(kernels::MemoryUse::step);
    cache.unmark();
    sampler.emplace(sampler_at({}));
    const int first = cache.length();
    const auto hidden = hidden_behind({});
    pending = sampler->draw(logits_of(hidden, 1));
    if (tells()) seen = Seen{first, hidden};
    queue();
    tell_seen();
  }

  void accept(size_t column, TokenEvent e) {
    Row& row = columns[column];
    Generation& g = results[static_cast<size_t>(row.index)];
    e.row = row.index;
    g.tokens.push_back(e.token);
    if (pace) text.push_back(e.token);
    if (options.logprobs >= 0) g.logprobs.push_back(e.logprob);
    --row.remaining;
    const auto& stops = options.stop_tokens;
    if (!options.ignore_eos && std::find(stops.begin(), stops.end(), e.token) != stops.end()) {
      e.finished = StopReason::stop_token;
    } else {
      if (row.decoder) e.text = row.stops.push(row.decoder->push(e.token));
      if (row.stops.found())
        e.finished = StopReason::stop_string;
      else if (row.remaining <= 0)
        e.finished = StopReason::length;
    }
    close(column, std::move(e));
  }

  // Adds the event; if it is the row's last one, with the text that was held back.
  void close(size_t column, TokenEvent e) {
    Row& row = columns[column];
    Generation& g = results[static_cast<size_t>(row.index)];
    if (e.finished) {
      if (row.decoder) e.text += row.stops.push(row.decoder->finish());
      e.text += row.stops.finish();
      g.reason = *e.finished;
      live[column] = false;
    }
    g.text += e.text;
    events.push_back(std::move(e));
  }

  void finish_all(StopReason reason) {
    for (size_t c = 0; c < columns.size(); ++c) {
      if (!live[c]) continue;
      TokenEvent e;
      e.row = columns[c].index;
      e.finished = reason;
      close(c, std::move(e));
    }
    ended = true;
  }

  // A row that ended runs along silently until half of the rows have: leaving it out copies the
  // cache.
  void drop_finished() {
    std::vector<int> rows;
    for (size_t c = 0; c < columns.size(); ++c)
      if (live[c]) rows.push_back(static_cast<int>(c));
    if (rows.size() * 2 > columns.size() || !pending) return;
    const mx::array index(rows.begin(), {static_cast<int>(rows.size())}, mx::int32);
    const auto keep = [&](const mx::array& a) { return mx::contiguous(mx::take(a, index, 0)); };
    const Draw all = *pending;
    pending = Draw{keep(all.tokens)};
    if (all.logprobs) pending->logprobs = keep(*all.logprobs);
    if (all.top_ids) pending->top_ids = keep(*all.top_ids);
    if (all.top_logprobs) pending->top_logprobs = keep(*all.top_logprobs);
    cache.reorder(index);
    sampler->reorder(rows);
    std::vector<Row> kept;
    for (const int c : rows) kept.push_back(std::move(columns[static_cast<size_t>(c)]));
    columns = std::move(kept);
    live.assign(columns.size(), true);
  }

  bool any_live() const { return std::find(live.begin(), live.end(), true) != live.end(); }
  bool any_left() const { return most_left() > 0; }
  int most_left() const {
    int most = 0;
    for (size_t c = 0; c < columns.size(); ++c)
      if (live[c]) most = std::max(most, columns[c].remaining);
    return most;
  }

  const LanguageModel& model;
  GenerateOptions options;
  Prompts prompts;
  int longest = 0;
  std::optional<Sampler> sampler = {};
  std::vector<Row> columns;  // row c of the cache
  std::vector<bool> live;
  std::vector<Generation> results;
  std::deque<TokenEvent> events;
  Cache cache;
  std::optional<Draw> pending = {};  // running, not read yet
  // What a step writes that may still run, for as long as nobody else has it.
  std::optional<Draw> reading = {};
  std::vector<mx::array> running = {};
  bool started = false, first_taken = false, ended = false;
  std::optional<Pace> pace = {};  // with a draft
  std::vector<int> text = {};     // then, prompt and what was made
  std::optional<Seen> seen = {};  // by the step that runs
  GenerateStats stats;
  double decoded = 0, decode_s = 0;
};

TokenStream::TokenStream(const LanguageModel& model, std::vector<std::vector<int>> prompts,
                         GenerateOptions options, const data::Tokenizer* tokenizer)
    : impl_(std::make_unique<Impl>(model, std::move(prompts), std::move(options), tokenizer)) {}
TokenStream::TokenStream(TokenStream&&) noexcept = default;
TokenStream& TokenStream::operator=(TokenStream&&) noexcept = default;
TokenStream::~TokenStream() = default;

std::optional<TokenEvent> TokenStream::next() {
  return impl_->next();
}
const std::vector<Generation>& TokenStream::results() const {
  return impl_->results;
}
const GenerateStats& TokenStream::stats() const {
  return impl_->stats;
}
const Cache* TokenStream::cache() const {
  return impl_->cache.empty() ? nullptr : &impl_->cache;
}

std::vector<Generation> stream_generate_batch(const LanguageModel& model, const Prompts& prompts,
                                              const GenerateOptions& options,
                                              const data::Tokenizer* tokenizer,
                                              const OnToken& on_token, GenerateStats* stats) {
  TokenStream stream(model, prompts, options, tokenizer);
  while (const auto e = stream.next())
    if (on_token) on_token(*e);
  if (stats) *stats = stream.stats();
  return stream.results();
}

std::vector<Generation> generate_batch(const LanguageModel& model, const Prompts& prompts,
                                       const GenerateOptions& options,
                                       const data::Tokenizer* tokenizer, GenerateStats* stats) {
  return stream_generate_batch(model, prompts, options, tokenizer, nullptr, stats);
}

Generation stream_generate(const LanguageModel& model, std::span<const int> prompt,
                           const GenerateOptions& options, const data::Tokenizer* tokenizer,
                           const OnToken& on_token, GenerateStats* stats) {
  const Prompts prompts{std::vector<int>(prompt.begin(), prompt.end())};
  return stream_generate_batch(model, prompts, options, tokenizer, on_token, stats).front();
}

Generation generate(const LanguageModel& model, std::span<const int> prompt,
                    const GenerateOptions& options, const data::Tokenizer* tokenizer,
                    GenerateStats* stats) {
  return stream_generate(model, prompt, options, tokenizer, nullptr, stats);
}

}  // namespace lmxlab
