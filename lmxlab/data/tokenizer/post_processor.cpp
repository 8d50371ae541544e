#include "lmxlab/data/tokenizer/post_processor.h"

#include "lmxlab/base/error.h"

#include <algorithm>

namespace lmxlab::data {
namespace {

constexpr size_t kLongestPadding = size_t{1} << 30, kMostPaddingBytes = size_t{1} << 28;

void append(Encoding& to, const Encoding& from) {
  to.ids.insert(to.ids.end(), from.ids.begin(), from.ids.end());
  to.type_ids.insert(to.type_ids.end(), from.type_ids.begin(), from.type_ids.end());
  to.tokens.insert(to.tokens.end(), from.tokens.begin(), from.tokens.end());
}

void put(Encoding& to, const std::pair<std::string, int>& token, int type_id, bool front) {
  to.ids.insert(front ? to.ids.begin() : to.ids.end(), token.second);
  to.type_ids.insert(front ? to.type_ids.begin() : to.type_ids.end(), type_id);
  to.tokens.insert(front ? to.tokens.begin() : to.tokens.end(), token.first);
}

void retype(Encoding& e, int type_id) {
  e.type_ids.assign(e.ids.size(), type_id);
}

using Sequences = std::vector<Encoding>;

void apply(const ByteLevel&, Sequences&, bool) {}

void apply(const BertProcessing& b, Sequences& s, bool special) {
  if (!special) return;
  for (size_t i = 0; i < s.size(); ++i) {
    if (i == 0) put(s[i], b.cls, 0, true);
    put(s[i], b.sep, i == 0 ? 0 : 1, false);
  }
}

void apply(const RobertaProcessing& r, Sequences& s, bool special) {
  for (size_t i = 0; i < s.size(); ++i) {
    retype(s[i], 0);
    if (!special) continue;
    put(s[i], i == 0 ? r.cls : r.sep, 0, true);
    put(s[i], r.sep, 0, false);
  }
}

void apply(const Template& t, Sequences& s, bool special) {
  if (s.size() > 2)
    throw Error(Kind::unsupported,
                "[tokenizer] post_processor: expected one or two sequences for a "
                "TemplateProcessing, got the parts of another one. Use one of them.");
  Sequences out;
  for (const auto& item : s.size() == 2 ? t.pair : t.single) {
    if (item.token.empty()) {
      if (item.second && s.size() < 2)
        throw Error(Kind::bad_data,
                    "[tokenizer] post_processor: the template of one sequence names the second. "
                    "Mend the template.");
      out.push_back(s[item.second ? 1 : 0]);
      retype(out.back(), item.type_id);
    } else if (const auto* token = special ? t.find(item.token) : nullptr) {
      out.push_back({token->ids, {}, token->tokens});
      retype(out.back(), item.type_id);
    }
  }
  s = std::move(out);
}

size_t count(const ByteLevel&, bool) {
  return 0;
}
size_t count(const BertProcessing&, bool pair) {
  return pair ? 3 : 2;
}
size_t count(const RobertaProcessing&, bool pair) {
  return pair ? 4 : 2;
}
size_t count(const Template& t, bool pair) {
  size_t n = 0;
  for (const auto& item : pair ? t.pair : t.single)
    if (const auto* token = t.find(item.token)) n += token->ids.size();
  return n;
}

void shorten(Encoding& e, size_t length, bool left) {
  if (e.ids.size() <= length) return;
  const auto cut = [&](auto& list) {
    if (left)
      list.erase(list.begin(), list.end() - static_cast<std::ptrdiff_t>(length));
    else
      list.resize(length);
  };
  cut(e.ids), cut(e.type_ids), cut(e.tokens);
}

}  // namespace

const Template::Special* Template::find(std::string_view name) const {
  for (const auto& s : special_tokens)
    if (s.name == name && !name.empty()) return &s;
  return nullptr;
}

size_t added_count(const std::vector<PostProcessor>& steps, bool pair) {
  size_t n = 0;
  for (const auto& step : steps)
    n += std::visit([&](const auto& s) { return count(s, pair); }, step);
  return n;
}

Encoding process(const std::vector<PostProcessor>& steps, std::vector<Encoding> sequences,
                 bool special) {
  for (const auto& step : steps)
    std::visit([&](const auto& s) { apply(s, sequences, special); }, step);
  if (sequences.size() == 1) return std::move(sequences[0]);
  Encoding out;
  for (const auto& s : sequences) append(out, s);
  return out;
}

void truncate(const Truncation& t, std::vector<Encoding>& s, size_t reserved) {
  const size_t most = t.max_length - std::min(t.max_length, reserved);
  size_t total = 0;
  for (const auto& e : s) total += e.ids.size();
  if (total <= most) return;
  using Strategy = Truncation::Strategy;
  if (most == 0 || (s.size() == 1 && t.strategy == Strategy::longest_first)) {
    for (auto& e : s) shorten(e, most, t.left);
    return;
  }
  if (t.strategy == Strategy::longest_first) {
    size_t a = s[0].ids.size(), b = s[1].ids.size();
    const bool swapped = a > b;
    if (swapped) std::swap(a, b);
    b = a > most ? a : std::max(a, most - a);
    if (a + b > most) a = most / 2, b = a + most % 2;
    if (swapped) std::swap(a, b);
    shorten(s[0], a, t.left), shorten(s[1], b, t.left);
    return;
  }
  const size_t which = t.strategy == Strategy::only_first ? 0 : 1;
  const size_t excess = total - most;
  if (which >= s.size() || s[which].ids.size() <= excess)
    throw Error(Kind::usage, "[tokenizer] truncation to " + std::to_string(t.max_length) +
                                 " tokens of " + (which == 0 ? "the first" : "the second") +
                                 " sequence only: it is too short, or there is none, for the " +
                                 std::to_string(excess) +
                                 " tokens to be cut off. Shorten the other one.");
  shorten(s[which], s[which].ids.size() - excess, t.left);
}

void pad(const Padding& p, Encoding& e) {
  size_t length = p.fixed.value_or(e.ids.size());
  if (length > kLongestPadding || p.multiple_of.value_or(1) > kLongestPadding)
    throw Error(Kind::resource, "[tokenizer] padding to " + std::to_string(length) +
                                    " tokens: expected 2^30 at most. Mend the tokenizer's "
                                    "padding section.");
  if (p.multiple_of && *p.multiple_of > 0) {
    const size_t rest = length % *p.multiple_of;
    if (rest > 0) length += *p.multiple_of - rest;
  }
  if (length <= e.ids.size()) return;
  const size_t more = length - e.ids.size();
  const size_t each = 2 * sizeof(int) + sizeof(std::string) + p.token.size();
  if (more > kMostPaddingBytes / each)
    throw Error(Kind::resource, "[tokenizer] padding with " + std::to_string(more) +
                                    " tokens takes more than 256 MiB. Mend the tokenizer's "
                                    "padding section.");
  const auto fill = [&](auto& list, const auto& value) {
    list.insert(p.left ? list.begin() : list.end(), more, value);
  };
  fill(e.ids, p.id), fill(e.type_ids, p.type_id), fill(e.tokens, p.token);
}

}  // namespace lmxlab::data
