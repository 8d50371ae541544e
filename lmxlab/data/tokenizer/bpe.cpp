#include "lmxlab/data/tokenizer/bpe.h"

#include "lmxlab/base/error.h"
#include "lmxlab/data/tokenizer/byte_level.h"
#include "lmxlab/data/tokenizer/unicode.h"

#include <algorithm>
#include <bit>
#include <limits>
#include <queue>

namespace lmxlab::data {
namespace {

constexpr int kUnknown = -1;  // no merge has it
constexpr int kGone = -2;     // merged into its left neighbour

[[noreturn]] void bad(const std::string& what) {
  bad_model("BPE", what);
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

Bpe::Bpe(Data data)
    : data_(std::move(data)),
      vocab_(data_.vocab, "BPE"),
      ranks_(std::max(data_.merges.size(), data_.merge_ids.size())) {
  small_.fill(kUnknown);
  byte_ids_.fill(-1);
  if (data_.unk_token) unk_ = vocab_.id(*data_.unk_token).value_or(-1);
  for (const auto& [token, id] : data_.vocab) {
    virtual_begin_ = std::max(virtual_begin_, id + 1);
    put_character(token, id);
    if (data_.byte_fallback)
      if (const int byte = byte_of_token(token);
          byte >= 0 && token == byte_token(static_cast<unsigned char>(byte)))
        byte_ids_[static_cast<size_t>(byte)] = id;
  }
  read_merges();
  std::vector<ByteTrie::Entry> entries;
  for (const auto& token : data_.frozen) {
    const auto id = vocab_.id(token);
    if (!id) bad("the frozen token \"" + token + "\" is not in vocab");
    entries.emplace_back(token, *id);
  }
  frozen_ = ByteTrie(std::move(entries));
  // Else a part could be longer than the whole, and taking tokens apart never end.
  if (!data_.unused.empty() && !data_.continuing_subword_prefix.empty())
    bad("unused tokens and a continuing_subword_prefix do not go together");
  for (const auto& token : data_.unused)
    if (const auto id = vocab_.id(token)) apart_.emplace(*id, std::pair(-1, -1));
  if (!apart_.empty())  // of the ways to make a token, the one whose parts come first
    for (auto m = merges_.rbegin(); m != merges_.rend(); ++m)
      if (const auto it = apart_.find(m->result);
          it != apart_.end() && m->left != m->result && m->right != m->result)
        it->second = {m->left, m->right};
  if (!merges_.empty()) cache_ = std::make_unique<std::array<Shard, kShards>>();
  words_ = words_are_apart();
}

void Bpe::put_character(std::string_view token, int id) {
  size_t length = 0;
  if (token.empty()) return;
  const char32_t code = code_point(token, 0, length);
  if (length != token.size()) return;
  if (code < small_.size()) {
    small_[code] = id;
  } else {
    large_.emplace(code, id);
  }
}

// Merges become ids. Their text, most of a large vocabulary's memory, is given up.
void Bpe::read_merges() {
  const bool by_id = data_.merges.empty();
  const size_t count = by_id ? data_.merge_ids.size() : data_.merges.size();
  if (!data_.ranks.empty() && data_.ranks.size() != count)
    bad("expected a rank for each of the " + std::to_string(count) + " merges, got " +
        std::to_string(data_.ranks.size()));
  merges_.reserve(count);
  std::unordered_map<std::string, int> virtual_ids;
  const auto virtual_id = [&](std::string_view character) {
    const int next = virtual_begin_ + static_cast<int>(virtual_texts_.size());
    const auto [it, added] = virtual_ids.emplace(character, next);
    if (added) put_character(virtual_texts_.emplace_back(character), next);
    return it->second;
  };
  const auto add = [&](size_t i, int left, int right, int result) {
    const int rank = data_.ranks.empty() ? static_cast<int>(i) : data_.ranks[i];
    if (i > 0 && rank < merges_.back().rank)
      bad("the rank of merge " + std::to_string(i) + " is smaller than the one before");
    ranks_.put(PairTable::key(left, right), static_cast<int>(i));
    merges_.push_back({left, right, result, rank});
  };
  if (by_id) {
    const auto text = texts();
    for (size_t i = 0; i < count; ++i) {
      auto [left, right, result] = data_.merge_ids[i];
      const std::string_view whole = text[static_cast<size_t>(result)];
      const size_t end = right >= 0 ? whole.size() - text[static_cast<size_t>(right)].size()
                                    : (left >= 0 ? text[static_cast<size_t>(left)].size()
                                                 : character_length(whole, 0));
      if (left < 0) left = virtual_id(whole.substr(0, end));
      if (right < 0) right = virtual_id(whole.substr(end));
      add(i, left, right, result);
    }
    data_.merge_ids = {};
    return;
  }
  const size_t prefix = data_.continuing_subword_prefix.size();
  std::string joined;
  for (size_t i = 0; i < count; ++i) {
    const auto& pair = data_.merges[i];
    const auto part = [&](const std::string& token) {
      if (const auto found = vocab_.id(token)) return *found;
      if (data_.late_fallback && !token.empty() && character_length(token, 0) == token.size())
        return virtual_id(token);
      bad("merge " + std::to_string(i) + " (\"" + pair.first + "\", \"" + pair.second + "\"): \"" +
          token + "\" is not in vocab");
    };
    if (pair.second.size() < prefix)
      bad("merge " + std::to_string(i) + ": \"" + pair.second +
          "\" is shorter than continuing_subword_prefix");
    joined.assign(pair.first).append(pair.second, prefix);
    const int left = part(pair.first), right = part(pair.second);
    add(i, left, right, part(joined));
  }
  data_.merges = {};
}

// By id, those that only merges know at the end.
std::vector<std::string_view> Bpe::texts() const {
  std::vector<std::string_view> out(static_cast<size_t>(virtual_begin_));
  for (const auto& [token, id] : data_.vocab) out[static_cast<size_t>(id)] = token;
  out.insert(out.end(), virtual_texts_.begin(), virtual_texts_.end());
  return out;
}

std::vector<std::pair<std::string, std::string>> Bpe::merges() const {
  const auto text = texts();
  std::vector<std::pair<std::string, std::string>> out;
  out.reserve(merges_.size());
  for (const auto& m : merges_)
    out.emplace_back(text[static_cast<size_t>(m.left)], text[static_cast<size_t>(m.right)]);
  return out;
}

bool Bpe::words_are_apart() const {
  if (merges_.empty() || data_.ignore_merges || !data_.continuing_subword_prefix.empty() ||
      !data_.end_of_word_suffix.empty() || !vocab_.id(kMetaspace))
    return false;
  const auto joins = [](std::string_view token) {
    size_t at = 0;
    while (token.substr(at).starts_with(kMetaspace)) at += kMetaspace.size();
    return token.find(kMetaspace, at) != std::string_view::npos;
  };
  const auto text = texts();
  return std::none_of(data_.frozen.begin(), data_.frozen.end(), joins) &&
         std::none_of(merges_.begin(), merges_.end(), [&](const Merge& m) {
           const auto first = text[static_cast<size_t>(m.left)],
                      second = text[static_cast<size_t>(m.right)];
           return joins(first) || joins(second) ||
                  (second.starts_with(kMetaspace) && !first.ends_with(kMetaspace));
         });
}

int Bpe::character_id(std::string_view piece, size_t at, size_t& length) const {
  const char32_t code = code_point(piece, at, length);
  if (code < small_.size()) return small_[code];
  const auto it = large_.find(code);
  return it == large_.end() ? kUnknown : it->second;
}

int Bpe::unknown_id() const {
  if (unk_ < 0) bad("unk_token \"" + *data_.unk_token + "\" is needed, and is not in vocab");
  return unk_;
}

void Bpe::symbols(std::string_view piece, std::vector<Symbol>& out) const {
  const bool affixes =
      !data_.continuing_subword_prefix.empty() || !data_.end_of_word_suffix.empty();
  std::string affixed;
  bool pending = false;  // an unk that is not put yet
  const auto flush = [&](size_t at) {
    if (pending) out.push_back({unknown_id(), static_cast<uint32_t>(at)});
    pending = false;
  };
  for (size_t at = 0, length = 0; at < piece.size(); at += length) {
    const auto start = static_cast<uint32_t>(at);
    if (!frozen_.empty())
      if (const auto found = frozen_.longest(piece, at); found.value >= 0) {
        flush(at);
        out.push_back({found.value, start, true});
        length = found.length;
        continue;
      }
    int id = character_id(piece, at, length);
    std::string_view text = piece.substr(at, length);
    if (affixes) {
      affixed.clear();
      if (at > 0) affixed += data_.continuing_subword_prefix;
      affixed += text;
      if (at + length == piece.size()) affixed += data_.end_of_word_suffix;
      text = affixed;
      id = vocab_.id(text).value_or(kUnknown);
    }
    if (id >= 0 || data_.late_fallback) {
      flush(at);
      out.push_back({id, start});
      continue;
    }
    if (data_.byte_fallback && std::all_of(text.begin(), text.end(), [&](char c) {
          return byte_ids_[static_cast<unsigned char>(c)] >= 0;
        })) {
      for (const char c : text) out.push_back({byte_ids_[static_cast<unsigned char>(c)], start});
      continue;  // a pending unk comes behind them, as in the library
    }
    if (!data_.unk_token) {
      if (data_.strict) throw UnknownSymbol{at, code_point(piece, at, length)};
      continue;
    }
    if (!data_.fuse_unk) flush(at);
    pending = true;
  }
  flush(piece.size());
}

// Few symbols: the best pair is found by looking at all of them.
void Bpe::merge_short(std::vector<Symbol>& word) const {
  constexpr int kNone = std::numeric_limits<int>::max();
  std::array<int, kShortWord> merge{};  // of each symbol with the next: index, or kNone
  const auto merge_at = [&](size_t i) {
    const int m = ranks_.find(PairTable::key(word[i].id, word[i + 1].id));
    return m < 0 ? kNone : m;
  };
  const auto rank = [&](int m) {
    return m == kNone ? kNone : merges_[static_cast<size_t>(m)].rank;
  };
  size_t n = word.size();
  for (size_t i = 0; i + 1 < n; ++i) merge[i] = merge_at(i);
  for (;;) {
    size_t best = 0;
    int lowest = kNone;
    for (size_t i = 0; i + 1 < n; ++i)
      if (const int r = rank(merge[i]); r < lowest) lowest = r, best = i;
    if (lowest == kNone) break;
    word[best].id = merges_[static_cast<size_t>(merge[best])].result;
    for (size_t i = best + 1; i + 1 < n; ++i) word[i] = word[i + 1], merge[i] = merge[i + 1];
    --n;
    if (best + 1 < n) merge[best] = merge_at(best);
    if (best > 0) merge[best - 1] = merge_at(best - 1);
  }
  word.resize(n);
}

void Bpe::merge_long(std::vector<Symbol>& word) const {
  const int n = static_cast<int>(word.size());
  // Symbols are a linked list in place; an entry whose pair has changed since is skipped when it
  // comes up.
  std::vector<int> next(word.size()), previous(word.size());
  struct Entry {
    int rank, position, merge;
    bool operator>(const Entry& o) const {
      return rank != o.rank ? rank > o.rank : position > o.position;
    }
  };
  std::vector<Entry> start;
  const auto symbol = [&](int i) -> int& { return word[static_cast<size_t>(i)].id; };
  const auto entry = [&](int i, int j, auto&& put) {
    if (const int m = ranks_.find(PairTable::key(symbol(i), symbol(j))); m >= 0)
      put(Entry{merges_[static_cast<size_t>(m)].rank, i, m});
  };
  for (int i = 0; i < n; ++i) {
    next[static_cast<size_t>(i)] = i + 1, previous[static_cast<size_t>(i)] = i - 1;
    if (i + 1 < n) entry(i, i + 1, [&](const Entry& e) { start.push_back(e); });
  }
  std::priority_queue<Entry, std::vector<Entry>, std::greater<>> queue(std::greater<>(),
                                                                       std::move(start));
  const auto push = [&](int i, int j) { entry(i, j, [&](const Entry& e) { queue.push(e); }); };
  while (!queue.empty()) {
    const Entry top = queue.top();
    queue.pop();
    const Merge& m = merges_[static_cast<size_t>(top.merge)];
    const int i = top.position, j = next[static_cast<size_t>(i)];
    if (symbol(i) != m.left || j >= n || symbol(j) != m.right) continue;
    symbol(i) = m.result;
    symbol(j) = kGone;
    const int after = next[static_cast<size_t>(i)] = next[static_cast<size_t>(j)];
    if (after < n) previous[static_cast<size_t>(after)] = i;
    if (const int before = previous[static_cast<size_t>(i)]; before >= 0) push(before, i);
    if (after < n) push(i, after);
  }
  std::erase_if(word, [](const Symbol& s) { return s.id == kGone; });
}

// Frozen symbols stand between the stretches that merge.
void Bpe::merge(std::vector<Symbol>& word) const {
  const auto stretch = [&](std::vector<Symbol>& s) {
    if (s.size() >= 2) s.size() <= kShortWord ? merge_short(s) : merge_long(s);
  };
  if (frozen_.empty()) return stretch(word);
  std::vector<Symbol> out, part;
  const auto flush = [&] {
    stretch(part);
    out.insert(out.end(), part.begin(), part.end());
    part.clear();
  };
  for (const Symbol& s : word) {
    if (!s.frozen) {
      part.push_back(s);
      continue;
    }
    flush();
    out.push_back(s);
  }
  flush();
  word = std::move(out);
}

void Bpe::take_apart(int id, std::vector<int>& ids) const {
  const auto it = apart_.find(id);
  if (it == apart_.end() || it->second.first < 0) return ids.push_back(id);
  take_apart(it->second.first, ids);
  take_apart(it->second.second, ids);
}

void Bpe::finish(std::string_view piece, const std::vector<Symbol>& word,
                 std::vector<int>& ids) const {
  bool after_unk = false;
  const auto put_unknown = [&](std::string_view text, size_t start) {
    if (data_.byte_fallback && std::all_of(text.begin(), text.end(), [&](char c) {
          return byte_ids_[static_cast<unsigned char>(c)] >= 0;
        })) {
      for (const char c : text) ids.push_back(byte_ids_[static_cast<unsigned char>(c)]);
      after_unk = false;
    } else {
      size_t length = 0;
      if (!data_.unk_token) throw UnknownSymbol{start, code_point(text, 0, length)};
      if (!after_unk || !data_.fuse_unk) ids.push_back(unknown_id());
      after_unk = true;
    }
  };
  std::vector<int> parts;
  for (const Symbol& s : word) {
    if (s.id >= 0 && s.id < virtual_begin_) {
      parts.clear();
      if (apart_.empty())
        parts.push_back(s.id);
      else
        take_apart(s.id, parts);
      for (const int id : parts) {
        if (id >= virtual_begin_) {  // a character without a token
          put_unknown(virtual_texts_[static_cast<size_t>(id - virtual_begin_)], s.start);
          continue;
        }
        ids.push_back(id);
        after_unk = false;
      }
      continue;
    }
    put_unknown(piece.substr(s.start, character_length(piece, s.start)), s.start);
  }
}

void Bpe::encode(std::string_view piece, std::vector<int>& ids) const {
  if (!words_) return encode_word(piece, ids);
  for (size_t begin = 0, end = 0; begin < piece.size(); begin = end) {
    while (piece.substr(end).starts_with(kMetaspace)) end += kMetaspace.size();
    end = std::min(piece.find(kMetaspace, end), piece.size());
    try {
      encode_word(piece.substr(begin, end - begin), ids);
    } catch (UnknownSymbol& unknown) {
      unknown.at += begin;
      throw;
    }
  }
}

void Bpe::encode_word(std::string_view piece, std::vector<int>& ids) const {
  if (piece.empty()) return;
  if (piece.size() > static_cast<size_t>(std::numeric_limits<int>::max()))
    throw Error(Kind::resource,
                "[tokenizer] a word of 2^31 bytes or more cannot be merged. Encode the text in "
                "parts.");
  const bool cached = cache_ && piece.size() <= kLongestCached;
  Shard* shard = cached ? &(*cache_)[StringHash()(piece) % kShards] : nullptr;
  if (cached) {
    const std::lock_guard lock(shard->mutex);
    if (const auto it = shard->words.find(piece); it != shard->words.end()) {
      ids.insert(ids.end(), it->second.begin(), it->second.end());
      return;
    }
  }
  std::vector<int> result;
  if (const auto whole = data_.ignore_merges ? vocab_.id(piece) : std::nullopt) {
    result = {*whole};
  } else {
    std::vector<Symbol> word;
    word.reserve(piece.size());
    symbols(piece, word);
    if (!merges_.empty()) merge(word);
    finish(piece, word, result);
  }
  ids.insert(ids.end(), result.begin(), result.end());
  if (cached) {
    const std::lock_guard lock(shard->mutex);
    if (shard->words.size() >= kShardWords) shard->words.clear();
    shard->words.emplace(piece, std::move(result));
  }
}

}  // namespace lmxlab::data
