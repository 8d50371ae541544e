#include "lmxlab/data/tokenizer_train.h"

#include "lmxlab/base/files.h"
#include "lmxlab/base/text.h"
#include "lmxlab/data/tokenizer/byte_level.h"
#include "lmxlab/data/tokenizer/parts.h"

#include <algorithm>
#include <array>
#include <atomic>
#include <exception>
#include <memory>
#include <queue>
#include <thread>
#include <unordered_map>
#include <utility>

namespace lmxlab::data {
namespace {

constexpr size_t kChunkBytes = 1 << 20;
constexpr double kCountingShare = 0.3;  // of the progress bar; the rest is merging

using Counts = std::unordered_map<std::string_view, int64_t>;
struct Text {
  std::string name;  // for messages
  std::string_view content;
  bool by_line;
};

bool is_letter(char c) {
  return (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z');
}

// Cuts where the pattern has an end of a word whatever stands around: behind a line's end if lines
// are sequences, else between a letter and a white space, since no alternative goes from one to the
// other and none looks back.
std::vector<Text> chunks_of(const std::vector<Text>& texts) {
  std::vector<Text> out;
  for (const Text& t : texts) {
    std::string_view rest = t.content;
    while (rest.size() > kChunkBytes) {
      size_t cut = kChunkBytes;
      const auto safe = [&](size_t k) {
        return t.by_line ? rest[k - 1] == '\n'
                         : is_letter(rest[k - 1]) && (rest[k] == ' ' || rest[k] == '\n');
      };
      while (cut < rest.size() && !safe(cut)) ++cut;
      out.push_back({t.name, rest.substr(0, cut), t.by_line});
      rest.remove_prefix(cut);
    }
    if (!rest.empty()) out.push_back({t.name, rest, t.by_line});
  }
  return out;
}

void count_words(const Text& chunk, Counts& counts) {
  std::vector<size_t> ends;
  std::string_view rest = chunk.content;
  while (!rest.empty()) {
    const size_t line = chunk.by_line ? rest.find('\n') : std::string_view::npos;
    const std::string_view sequence =
        rest.substr(0, line == std::string_view::npos ? line : line + 1);
    ends.clear();
    gpt2_regex().cut(sequence, 0, ends);
    size_t begin = 0;
    for (const size_t end : ends) {
      ++counts[sequence.substr(begin, end - begin)];
      begin = end;
    }
    rest.remove_prefix(sequence.size());
  }
}

// Words of all texts with their counts, sorted, so that nothing after depends on threads.
std::vector<std::pair<std::string_view, int64_t>> count_all(const std::vector<Text>& texts,
                                                            const TrainProgress& progress) {
  for (const Text& t : texts)
    if (const size_t bad = invalid_utf8_at(t.content); bad != std::string_view::npos)
      throw Error(Kind::bad_data, "[tokenizer] " + t.name + " is not UTF-8 at byte " +
                                      std::to_string(bad) +
                                      ". Convert it to UTF-8 or leave it out.");
  const std::vector<Text> chunks = chunks_of(texts);
  if (chunks.empty())
    throw Error(
        Kind::bad_data,
        "[tokenizer] there is no text to train on: every input is empty. Name a file with text.");
  gpt2_regex();  // compiled before the threads begin
  const size_t workers =
      std::min<size_t>(chunks.size(), std::max(1u, std::thread::hardware_concurrency()));
  std::vector<Counts> partial(workers);
  std::vector<std::exception_ptr> failures(workers);
  std::atomic<size_t> next{0}, done{0};
  std::atomic<bool> stop{false};
  const auto work = [&](size_t worker) {
    try {
      for (size_t i; !stop && (i = next++) < chunks.size();) {
        count_words(chunks[i], partial[worker]);
        ++done;
        if (worker == 0 && progress)
          progress(kCountingShare * static_cast<double>(done) / static_cast<double>(chunks.size()));
      }
    } catch (...) {
      failures[worker] = std::current_exception();
      stop = true;
    }
  };
  {
    struct Joined {
      std::vector<std::thread> threads;
      ~Joined() {
        for (auto& t : threads) t.join();
      }
    } joined;
    for (size_t w = 1; w < workers; ++w) joined.threads.emplace_back(work, w);
    work(0);
  }
  for (const auto& failure : failures)
    if (failure) std::rethrow_exception(failure);
  for (size_t w = 1; w < workers; ++w)
    for (const auto& [word, count] : partial[w]) partial[0][word] += count;
  std::vector<std::pair<std::string_view, int64_t>> words(partial[0].begin(), partial[0].end());
  std::sort(words.begin(), words.end());
  return words;
}

using Pair = uint64_t;
int left_of(Pair p) {
  return static_cast<int>(p >> 32);
}
int right_of(Pair p) {
  return static_cast<int>(p & 0xFFFFFFFFu);
}

class Merger {
 public:
  Merger(std::vector<std::string> tokens,
         const std::vector<std::pair<std::string_view, int64_t>>& words)
      : tokens_(std::move(tokens)) {
    for (size_t i = 0; i < tokens_.size(); ++i) ids_.emplace(tokens_[i], static_cast<int>(i));
    std::array<int, 256> letter{};
    for (int b = 0; b < 256; ++b)
      letter[static_cast<size_t>(b)] = ids_.at(byte_letter(static_cast<unsigned char>(b)));
    words_.reserve(words.size());
    for (const auto& [word, count] : words) {
      auto& w = words_.emplace_back(Word{{}, count});
      for (const char c : word) w.symbols.push_back(letter[static_cast<unsigned char>(c)]);
      for (size_t i = 0; i + 1 < w.symbols.size(); ++i)
        change(w.symbols[i], w.symbols[i + 1], 1, words_.size() - 1);
    }
    flush();
  }

  void run(size_t vocab_size, int64_t min_frequency, const TrainProgress& progress) {
    const size_t start = tokens_.size();
    const size_t stride = std::max<size_t>(1, (vocab_size - start) / 100);
    while (tokens_.size() < vocab_size && !queue_.empty()) {
      Candidate top = queue_.top();
      queue_.pop();
      const int64_t now = counts_[top.pair];
      if (top.count != now) {  // it fell since it was queued
        top.count = now;
        if (now > 0) queue_.push(top);
        continue;
      }
      if (top.count < 1 || top.count < min_frequency) break;
      apply(top);
      if (progress && (tokens_.size() - start) % stride == 0)
        progress(kCountingShare + (1 - kCountingShare) *
                                      static_cast<double>(tokens_.size() - start) /
                                      static_cast<double>(vocab_size - start));
    }
  }

  const std::vector<std::string>& tokens() const { return tokens_; }
  std::vector<std::pair<std::string, std::string>> take_merges() { return std::move(merges_); }

 private:
  struct Word {
    std::vector<int> symbols;
    int64_t count;
  };
  struct Candidate {
    int64_t count;
    Pair pair;
    size_t places;  // index into places_: the words that had the pair when it was queued
    bool operator<(const Candidate& o) const {
      return count != o.count ? count < o.count : pair > o.pair;
    }
  };

  void change(int left, int right, int sign, size_t word) {
    const Pair pair = PairTable::key(left, right);
    counts_[pair] += sign * words_[word].count;
    if (sign < 0) return;
    auto& places = fresh_[pair];
    if (places.empty() || places.back() != word) places.push_back(static_cast<uint32_t>(word));
  }

  // Queues the pairs that this round brought forth.
  void flush() {
    for (auto& [pair, places] : fresh_) {
      const int64_t count = counts_[pair];
      if (count < 1) continue;
      size_t at = places_.size();
      if (free_.empty()) {
        places_.emplace_back();
      } else {
        at = free_.back();
        free_.pop_back();
      }
      places_[at] = std::move(places);
      queue_.push({count, pair, at});
    }
    fresh_.clear();
  }

  void apply(const Candidate& top) {
    const int left = left_of(top.pair), right = right_of(top.pair);
    std::string token = tokens_[static_cast<size_t>(left)] + tokens_[static_cast<size_t>(right)];
    merges_.emplace_back(tokens_[static_cast<size_t>(left)], tokens_[static_cast<size_t>(right)]);
    // Two pairs can spell the same token: it keeps its first id.
    const auto [it, added] = ids_.emplace(token, static_cast<int>(tokens_.size()));
    if (added) tokens_.push_back(std::move(token));
    for (const uint32_t word : std::exchange(places_[top.places], {}))
      merge_in(word, left, right, it->second);
    free_.push_back(top.places);
    flush();
  }

  void merge_in(size_t word, int left, int right, int result) {
    auto& s = words_[word].symbols;
    size_t out = 0;
    for (size_t i = 0; i < s.size();) {
      if (i + 1 >= s.size() || s[i] != left || s[i + 1] != right) {
        s[out++] = s[i++];
        continue;
      }
      if (out > 0) {
        change(s[out - 1], left, -1, word);
        change(s[out - 1], result, 1, word);
      }
      if (i + 2 < s.size()) {
        change(right, s[i + 2], -1, word);
        change(result, s[i + 2], 1, word);
      }
      s[out++] = result;
      i += 2;
    }
    s.resize(out);
  }

  std::vector<std::string> tokens_;
  std::unordered_map<std::string, int> ids_;
  std::vector<Word> words_;
  std::unordered_map<Pair, int64_t> counts_;
  std::unordered_map<Pair, std::vector<uint32_t>> fresh_;
  std::vector<std::vector<uint32_t>> places_;
  std::vector<size_t> free_;
  std::priority_queue<Candidate> queue_;
  std::vector<std::pair<std::string, std::string>> merges_;
};

// Special tokens, then the letters in the order of their code points.
std::vector<std::string> first_tokens(const TrainOptions& options) {
  std::vector<std::string> tokens;
  const auto add = [&](const std::string& t) {
    const bool is_new = std::find(tokens.begin(), tokens.end(), t) == tokens.end();
    if (is_new) tokens.push_back(t);
    return is_new;
  };
  for (const auto& t : options.special_tokens) {
    if (t.empty() || invalid_utf8_at(t) != std::string::npos)
      throw Error(Kind::usage,
                  "[tokenizer] a special token is empty or not UTF-8. Give it a text.");
    if (!add(t))
      throw Error(Kind::usage,
                  "[tokenizer] the special token \"" + t + "\" stands twice. Name it once.");
  }
  for (const std::string* name : {&options.bos_token, &options.eos_token})
    if (!name->empty() && std::find(tokens.begin(), tokens.end(), *name) == tokens.end())
      throw Error(Kind::usage,
                  "[tokenizer] \"" + *name + "\" is not among the special tokens. Add it to them.");
  std::vector<std::string> letters;
  for (int b = 0; b < 256; ++b) letters.push_back(byte_letter(static_cast<unsigned char>(b)));
  std::sort(letters.begin(), letters.end());  // UTF-8 sorts as code points do
  for (const auto& l : letters) add(l);
  if (options.vocab_size < static_cast<int>(tokens.size()))
    throw Error(Kind::usage, "[tokenizer] the vocabulary is too small: expected at least " +
                                 std::to_string(tokens.size()) + " (" +
                                 std::to_string(options.special_tokens.size()) +
                                 " special tokens and the 256 byte letters), got " +
                                 std::to_string(options.vocab_size) + ". Raise vocab_size.");
  if (options.min_frequency < 0)
    throw Error(Kind::usage, "[tokenizer] min_frequency: expected 0 or more, got " +
                                 std::to_string(options.min_frequency));
  return tokens;
}

Tokenizer train(const std::vector<Text>& texts, const TrainOptions& options,
                std::vector<std::string> first, const TrainProgress& progress) {
  const auto words = count_all(texts, progress);
  if (progress) progress(kCountingShare);
  Merger merger(std::move(first), words);
  merger.run(static_cast<size_t>(options.vocab_size), options.min_frequency, progress);
  Parts parts;
  const ByteLevel bytes{false, true, true};
  parts.pre = {bytes};
  parts.decoders = {bytes};
  Bpe::Data model;
  for (const auto& t : merger.tokens())
    model.vocab.emplace_back(t, static_cast<int>(model.vocab.size()));
  model.merges = merger.take_merges();
  parts.model = std::move(model);
  for (const auto& t : options.special_tokens) {
    AddedToken token;
    token.id = static_cast<int>(parts.added.size());
    token.content = t;
    parts.added.push_back(std::move(token));
  }
  Json config = Json::object();
  if (!options.bos_token.empty()) config["bos_token"] = options.bos_token;
  if (!options.eos_token.empty()) config["eos_token"] = options.eos_token;
  Tokenizer result(std::move(parts), config);
  if (progress) progress(1);
  return result;
}

}  // namespace

Tokenizer train_bpe(std::span<const std::filesystem::path> files, const TrainOptions& options,
                    const TrainProgress& progress) {
  auto first = first_tokens(options);
  std::vector<std::unique_ptr<MappedFile>> mapped;
  std::vector<Text> texts;
  for (const auto& file : files) {
    mapped.push_back(std::make_unique<MappedFile>(file));
    texts.push_back({file.string(), mapped.back()->text(), true});
  }
  return train(texts, options, std::move(first), progress);
}

Tokenizer train_bpe(std::span<const std::string> texts, const TrainOptions& options,
                    const TrainProgress& progress) {
  auto first = first_tokens(options);
  std::vector<Text> list;
  for (const auto& text : texts)
    list.push_back({"text " + std::to_string(list.size()), text, false});
  return train(list, options, std::move(first), progress);
}

}  // namespace lmxlab::data
