#include "lmxlab/data/bpe.h"

#include "lmxlab/base/error.h"

#include <algorithm>
#include <bit>
#include <limits>
#include <queue>
#include <unordered_set>

namespace lmxlab::data {

namespace {

[[noreturn]] void bad(const std::string& what) {
  throw Error(Kind::bad_data, "[tokenizer] model BPE: " + what +
                                  ". The file is damaged or was edited; get it again.");
}

}  // namespace

PairTable::PairTable(size_t expected) {
  const size_t size = std::bit_ceil(std::max<size_t>(16, expected * 2));
  slots_.assign(size, {0, -1});
  shift_ = 64 - std::countr_zero(size);
}

void PairTable::put(uint64_t key, int value) {
  size_t i = slot(key);
  while (slots_[i].second >= 0 && slots_[i].first != key) i = (i + 1) & (slots_.size() - 1);
  slots_[i] = {key, value};
}

int PairTable::find(uint64_t key) const {
  for (size_t i = slot(key);; i = (i + 1) & (slots_.size() - 1)) {
    if (slots_[i].second < 0) return -1;
    if (slots_[i].first == key) return slots_[i].second;
  }
}

char32_t code_point(std::string_view text, size_t at, size_t& length) {
  const auto byte = [&](size_t k) {
    return static_cast<char32_t>(static_cast<unsigned char>(text[at + k]));
  };
  const char32_t c = byte(0);
  if (c < 0x80) return length = 1, c;
  if (c < 0xE0) return length = 2, (c & 0x1F) << 6 | (byte(1) & 0x3F);
  if (c < 0xF0) return length = 3, (c & 0x0F) << 12 | (byte(1) & 0x3F) << 6 | (byte(2) & 0x3F);
  return length = 4,
         (c & 0x07) << 18 | (byte(1) & 0x3F) << 12 | (byte(2) & 0x3F) << 6 | (byte(3) & 0x3F);
}

Bpe::Bpe(Data data) : data_(std::move(data)), ranks_(data_.merges.size()) {
  small_.fill(-1);
  vocab_.reserve(data_.vocab.size());
  std::unordered_set<int> seen;
  seen.reserve(data_.vocab.size());
  for (const auto& [token, id] : data_.vocab) {
    if (!vocab_.emplace(token, id).second) bad("the token \"" + token + "\" stands twice in vocab");
    if (!seen.insert(id).second) bad("the id " + std::to_string(id) + " stands twice in vocab");
    if (token.empty()) continue;
    size_t length = 0;
    const char32_t code = code_point(token, 0, length);
    if (length != token.size()) continue;
    if (code < small_.size()) {
      small_[code] = id;
    } else {
      large_.emplace(code, id);
    }
  }
  if (data_.unk_token) {
    const auto unk = id(*data_.unk_token);
    if (!unk) bad("unk_token \"" + *data_.unk_token + "\" is not in vocab");
    unk_ = *unk;
  }
  merges_.reserve(data_.merges.size());
  for (const auto& pair : data_.merges) {
    const auto part = [&](const std::string& token) {
      if (const auto found = id(token)) return *found;
      bad("merge " + std::to_string(merges_.size()) + " (\"" + pair.first + "\", \"" + pair.second +
          "\"): \"" + token + "\" is not in vocab");
    };
    const Merge m{part(pair.first), part(pair.second), part(pair.first + pair.second)};
    ranks_.put(PairTable::key(m.left, m.right), static_cast<int>(merges_.size()));
    merges_.push_back(m);
  }
  if (!merges_.empty()) cache_ = std::make_unique<std::array<Shard, kShards>>();
}

std::optional<int> Bpe::id(std::string_view token) const {
  const auto it = vocab_.find(token);
  return it == vocab_.end() ? std::nullopt : std::optional<int>(it->second);
}

void Bpe::symbols(std::string_view piece, std::vector<int>& out) const {
  bool after_unk = false;
  for (size_t at = 0; at < piece.size();) {
    size_t length = 0;
    const char32_t code = code_point(piece, at, length);
    int id = -1;
    if (code < small_.size()) {
      id = small_[code];
    } else if (const auto it = large_.find(code); it != large_.end()) {
      id = it->second;
    }
    if (id >= 0) {
      out.push_back(id);
    } else if (unk_ < 0) {
      throw UnknownSymbol{at, code};
    } else if (!(after_unk && data_.fuse_unk)) {
      out.push_back(unk_);
    }
    after_unk = id < 0;
    at += length;
  }
}

void Bpe::merge(std::vector<int>& ids) const {
  if (ids.size() > static_cast<size_t>(std::numeric_limits<int>::max()))
    throw Error(Kind::resource,
                "[tokenizer] a word of 2^31 characters or more cannot be merged. Encode the text "
                "in parts.");
  const int n = static_cast<int>(ids.size());
  if (n < 2) return;
  // Symbols are a linked list in place; an entry whose pair has changed since is skipped when it
  // comes up.
  std::vector<int> next(ids.size()), previous(ids.size());
  using Entry = std::pair<int, int>;  // rank, position: the leftmost of the best rank first
  std::vector<Entry> start;
  const auto rank_of = [&](int i, int j) { return ranks_.find(PairTable::key(ids[i], ids[j])); };
  for (int i = 0; i < n; ++i) {
    next[i] = i + 1, previous[i] = i - 1;
    if (i + 1 < n)
      if (const int rank = rank_of(i, i + 1); rank >= 0) start.emplace_back(rank, i);
  }
  std::priority_queue<Entry, std::vector<Entry>, std::greater<>> queue(std::greater<>(),
                                                                       std::move(start));
  const auto push = [&](int i, int j) {
    if (const int rank = rank_of(i, j); rank >= 0) queue.emplace(rank, i);
  };
  while (!queue.empty()) {
    const auto [rank, i] = queue.top();
    queue.pop();
    const Merge& m = merges_[static_cast<size_t>(rank)];
    const int j = next[i];
    if (ids[i] != m.left || j >= n || ids[j] != m.right) continue;
    ids[i] = m.result;
    ids[j] = -1;
    next[i] = next[j];
    if (next[i] < n) previous[next[i]] = i;
    if (previous[i] >= 0) push(previous[i], i);
    if (next[i] < n) push(i, next[i]);
  }
  std::erase(ids, -1);
}

void Bpe::encode(std::string_view piece, std::vector<int>& ids) const {
  if (piece.empty()) return;
  if (data_.ignore_merges)
    if (const auto whole = id(piece)) return ids.push_back(*whole);
  if (merges_.empty()) return symbols(piece, ids);
  const bool cached = piece.size() <= kLongestCached;
  Shard* shard = cached ? &(*cache_)[StringHash()(piece) % kShards] : nullptr;
  if (cached) {
    const std::lock_guard lock(shard->mutex);
    if (const auto it = shard->words.find(piece); it != shard->words.end()) {
      ids.insert(ids.end(), it->second.begin(), it->second.end());
      return;
    }
  }
  std::vector<int> word;
  word.reserve(piece.size());
  symbols(piece, word);
  merge(word);
  ids.insert(ids.end(), word.begin(), word.end());
  if (cached) {
    const std::lock_guard lock(shard->mutex);
    if (shard->words.size() >= kShardWords) shard->words.clear();
    shard->words.emplace(piece, std::move(word));
  }
}

}  // namespace lmxlab::data
