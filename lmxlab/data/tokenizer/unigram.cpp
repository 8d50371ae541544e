#include "lmxlab/data/tokenizer/unigram.h"

#include "lmxlab/base/error.h"
#include "lmxlab/data/tokenizer/byte_level.h"
#include "lmxlab/data/tokenizer/unicode.h"

#include <algorithm>
#include <cmath>
#include <cstdio>
#include <cstdlib>
#include <limits>

namespace lmxlab::data {
namespace {

constexpr double kUnknownPenalty = 10;
constexpr size_t kShards = 16, kShardWords = 4096, kLongestCached = 64;

// The library's JSON reader makes a double of a number's digits, as an integer, and divides by a
// power of ten: sometimes one bit off. Ties between ways of the same tokens hang on it.
double as_the_library_reads(double x) {
  if (x == 0 || !std::isfinite(x)) return x;
  char digits[40];
  for (int precision = 14; precision <= 16; ++precision) {  // the shortest that reads back
    std::snprintf(digits, sizeof digits, "%.*e", precision, std::fabs(x));
    if (std::strtod(digits, nullptr) == std::fabs(x)) break;
  }
  uint64_t significand = 0;
  int exponent = 0;
  const char* at = digits;
  for (; *at != 'e' && *at != 0; ++at) {
    if (*at < '0' || *at > '9') continue;
    significand = significand * 10 + static_cast<uint64_t>(*at - '0');
    --exponent;
  }
  exponent += 1 + (*at == 'e' ? std::atoi(at + 1) : 0);
  while (significand % 10 == 0 && significand > 0) significand /= 10, ++exponent;
  if (exponent < -300 || exponent > 300) return x;
  const double power = std::strtod(("1e" + std::to_string(std::abs(exponent))).c_str(), nullptr);
  const auto whole = static_cast<double>(significand);
  return std::copysign(exponent < 0 ? whole / power : whole * power, x);
}

}  // namespace

// Ids of short pieces; filled by any thread, dropped when full.
struct Unigram::Cache {
  struct Shard {
    std::mutex mutex;
    std::unordered_map<std::string, std::vector<int>, StringHash, std::equal_to<>> words;
  };
  std::array<Shard, kShards> shards;
};

Unigram::Unigram(Data data) : data_(std::move(data)), cache_(std::make_shared<Cache>()) {
  byte_ids_.fill(-1);
  const auto count = static_cast<int>(data_.vocab.size());
  if (data_.vocab.size() > static_cast<size_t>(kLargestId))
    bad_model("Unigram", "it has more than 2^24 tokens");
  const auto checked = [&](int id, const char* name) {
    if (id < 0 || id >= count)
      bad_model("Unigram", std::string(name) + ": expected an id from 0 to " +
                               std::to_string(count - 1) + ", got " + std::to_string(id));
    return static_cast<size_t>(id);
  };
  if (data_.unk_id) checked(*data_.unk_id, "unk_id");
  std::vector<bool> hidden(data_.vocab.size());
  for (const int id : data_.hidden) hidden[checked(id, "hidden")] = true;
  user_defined_.resize(data_.vocab.size());
  for (const int id : data_.user_defined) user_defined_[checked(id, "user_defined")] = true;
  // The smallest positive float: where SentencePiece begins to look for the highest score.
  double lowest = std::numeric_limits<double>::infinity(),
         highest = std::numeric_limits<float>::min();
  std::vector<ByteTrie::Entry> entries;
  ids_.reserve(data_.vocab.size());
  for (int id = 0; id < count; ++id) {
    const auto& token = data_.vocab[static_cast<size_t>(id)];
    ids_[token.text] = id;  // of equal tokens the last, as in the library
    const double score = data_.single_precision ? token.score : as_the_library_reads(token.score);
    scores_.push_back(score);
    if (data_.byte_fallback)
      if (const int byte = byte_of_token(token.text);
          byte >= 0 && token.text == byte_token(static_cast<unsigned char>(byte)))
        byte_ids_[static_cast<size_t>(byte)] = id;
    if (hidden[static_cast<size_t>(id)]) continue;
    entries.emplace_back(token.text, id);
    if (user_defined_[static_cast<size_t>(id)]) continue;
    lowest = std::min(lowest, score);
    highest = std::max(highest, score);
  }
  unk_score_ = (std::isinf(lowest) ? 0 : lowest) - kUnknownPenalty;
  if (data_.single_precision) unk_score_ = static_cast<float>(unk_score_);
  for (const int id : data_.user_defined) {
    const auto at = static_cast<size_t>(id);
    scores_[at] = static_cast<double>(data_.vocab[at].text.size()) * highest - 0.1;
  }
  trie_ = ByteTrie(std::move(entries));
}

std::optional<int> Unigram::id(std::string_view token) const {
  const auto it = ids_.find(token);
  return it == ids_.end() ? std::nullopt : std::optional<int>(it->second);
}

// Viterbi: the best way to end at each byte, then back from the end. Runs of unk are one part.
std::vector<Unigram::Part> Unigram::best_path(std::string_view piece) const {
  struct Node {
    double score = 0;
    uint32_t begin = 0;
    int id = -1;
    bool reached = false;
  };
  if (piece.size() > std::numeric_limits<uint32_t>::max())
    throw Error(Kind::resource, "[tokenizer] a piece of 4 GiB or more. Encode the text in parts.");
  std::vector<Node> best(piece.size() + 1);
  best[0].reached = true;
  const auto rounded = [&](double x) {
    return data_.single_precision ? static_cast<double>(static_cast<float>(x)) : x;
  };
  const auto offer = [&](size_t begin, size_t end, double sum, int id) {
    Node& node = best[end];
    if (node.reached && sum <= node.score) return;
    node = {rounded(sum), static_cast<uint32_t>(begin), id, true};
  };
  for (size_t at = 0; at < piece.size();) {
    const size_t length = character_length(piece, at);
    const double till_here = best[at].score;
    bool alone = false;
    int node = 0;
    for (size_t k = at; k < piece.size(); ++k) {
      node = trie_.child(node, static_cast<unsigned char>(piece[k]));
      if (node < 0) break;
      const int id = trie_.value(node);
      if (id < 0) continue;
      offer(at, k + 1, till_here + scores_[static_cast<size_t>(id)], id);
      if (k + 1 - at == length) alone = true;
    }
    if (!alone) {
      if (!data_.unk_id) {
        size_t unused = 0;
        throw UnknownSymbol{at, code_point(piece, at, unused)};
      }
      offer(at, at + length, rounded(till_here + unk_score_), *data_.unk_id);
    }
    at += length;
  }
  std::vector<Part> parts;
  for (size_t end = piece.size(); end > 0;) {
    const Node& node = best[end];
    const size_t begin = node.begin;
    if (data_.unk_id && node.id == *data_.unk_id && !parts.empty() && parts.back().id == node.id)
      parts.back().begin = begin;
    else
      parts.push_back({begin, end, node.id});
    end = begin;
  }
  std::reverse(parts.begin(), parts.end());
  return parts;
}

void Unigram::encode(std::string_view piece, std::vector<int>& ids,
                     std::vector<std::string>* tokens) const {
  if (piece.empty()) return;
  const bool cached = !tokens && piece.size() <= kLongestCached;
  auto& shard = cache_->shards[StringHash()(piece) % kShards];
  if (cached) {
    const std::lock_guard lock(shard.mutex);
    if (const auto it = shard.words.find(piece); it != shard.words.end()) {
      ids.insert(ids.end(), it->second.begin(), it->second.end());
      return;
    }
  }
  std::vector<int> result;
  for (const Part& part : best_path(piece)) {
    const std::string_view text = piece.substr(part.begin, part.end - part.begin);
    const auto put = [&](int id, std::string_view token) {
      result.push_back(id);
      if (tokens) tokens->emplace_back(token);
    };
    if (part.id != data_.unk_id) {
      put(part.id, text);
    } else if (const auto known = data_.single_precision ? std::nullopt : id(text)) {
      put(*known, text);  // several unknown characters may be a token together
    } else if (data_.byte_fallback && std::all_of(text.begin(), text.end(), [&](char c) {
                 return byte_ids_[static_cast<unsigned char>(c)] >= 0;
               })) {
      for (const char c : text)
        put(byte_ids_[static_cast<unsigned char>(c)], byte_token(static_cast<unsigned char>(c)));
    } else {
      put(*data_.unk_id, text);
    }
  }
  ids.insert(ids.end(), result.begin(), result.end());
  if (cached) {
    const std::lock_guard lock(shard.mutex);
    if (shard.words.size() >= kShardWords) shard.words.clear();
    shard.words.emplace(piece, std::move(result));
  }
}

}  // namespace lmxlab::data
