#include "lmxlab/data/tokenizer/normalizer.h"

#include "lmxlab/base/error.h"
#include "lmxlab/base/text.h"
#include "lmxlab/data/tokenizer/byte_level.h"

#include <algorithm>

namespace lmxlab::data {
namespace {

// Rewrites character by character: f(code, characters) appends what becomes of one.
template <class F>
void rewrite(Normalized& n, F&& f) {
  std::string out;
  out.reserve(n.text.size() + n.text.size() / 8);
  size_t origin = 0;
  each_character(n.text, [&](char32_t c, size_t begin, size_t end) {
    f(out, c, std::string_view(n.text).substr(begin, end - begin));
    if (begin < n.origin) origin = out.size();
  });
  n.text = std::move(out), n.origin = origin;
}

bool is_chinese(char32_t c) {
  return (c >= 0x4E00 && c <= 0x9FFF) || (c >= 0x3400 && c <= 0x4DBF) ||
         (c >= 0x20000 && c <= 0x2A6DF) || (c >= 0x2A700 && c <= 0x2B73F) ||
         (c >= 0x2B740 && c <= 0x2B81F) || (c >= 0x2B920 && c <= 0x2CEAF) ||
         (c >= 0xF900 && c <= 0xFAFF) || (c >= 0x2F800 && c <= 0x2FA1F);
}

bool is_ascii(std::string_view text) {
  return std::all_of(text.begin(), text.end(),
                     [](char c) { return static_cast<unsigned char>(c) < 0x80; });
}

}  // namespace

void UnicodeForm::apply(Normalized& n) const {
  if (is_ascii(n.text)) return;
  std::string out = normalized(n.text, form);
  if (n.origin > 0 && !out.empty()) {
    // What the first character becomes: itself composed, or all its parts.
    const bool compose = form == NormalForm::nfc || form == NormalForm::nfkc;
    const size_t first =
        compose ? 0 : normalized(n.text.substr(0, character_length(n.text, 0)), form).size();
    n.origin = std::min(out.size(), std::max(first, character_length(out, 0)));
  }
  n.text = std::move(out);
}

void Lowercase::apply(Normalized& n) const {
  rewrite(n, [](std::string& out, char32_t c, std::string_view) { append_lower_case(out, c); });
}

void StripSpaces::apply(Normalized& n) const {
  size_t begin = 0, end = n.text.size(), length = 0;
  while (left && begin < end && is_white_space(code_point(n.text, begin, length))) begin += length;
  while (right && end > begin) {
    const size_t before = character_before(n.text, end);
    if (!is_white_space(code_point(n.text, before, length))) break;
    end = before;
  }
  n.text.erase(end);
  n.text.erase(0, begin);
  n.origin = std::min(n.text.size(), n.origin - std::min(n.origin, begin));
}

void StripAccents::apply(Normalized& n) const {
  if (is_ascii(n.text)) return;
  rewrite(n, [](std::string& out, char32_t c, std::string_view s) {
    if (!is_mark(c)) out += s;
  });
}

void Prepend::apply(Normalized& n) const {
  if (n.text.empty()) return;
  n.text.insert(0, content);
  if (n.origin > 0) n.origin += content.size();
}

Pattern Pattern::text(std::string source) {
  Pattern p{false, std::move(source), {}};
  if (p.source.empty()) p.regex.emplace("");
  return p;
}
Pattern Pattern::expression(std::string source) {
  Pattern p{true, std::move(source), {}};
  p.regex.emplace(p.source);
  return p;
}

void Pattern::matches(std::string_view text, std::vector<Regex::Match>& out) const {
  if (regex) return regex->matches(text, out);
  for (size_t at = text.find(source); at != std::string_view::npos;
       at = text.find(source, at + source.size()))
    out.push_back({at, at + source.size()});
}

void Replace::apply(Normalized& n) const {
  std::vector<Regex::Match> found;
  if (!n.text.empty()) pattern.matches(n.text, found);
  if (found.empty()) return;
  std::string out;
  out.reserve(n.text.size() + n.text.size() / 8);
  size_t done = 0, origin = 0;
  const auto keep = [&](size_t upto) {
    if (done < n.origin) origin = out.size() + std::min(upto, n.origin) - done;
    out.append(n.text, done, upto - done);
  };
  for (const auto& m : found) {
    keep(m.begin);
    out += content;
    check_length(out.size(), n.limit);
    if (n.origin > 0 && m.end <= n.origin) origin = out.size();
    done = m.end;
  }
  keep(n.text.size());
  n.text = std::move(out), n.origin = origin;
}

std::string Replace::replaced(std::string_view text) const {
  Normalized n(std::string(text), 0);
  apply(n);
  return std::move(n.text);
}

void Nmt::apply(Normalized& n) const {
  rewrite(n, [](std::string& out, char32_t c, std::string_view s) {
    if ((c >= 1 && c <= 8) || c == 0x0B || (c >= 0x0E && c <= 0x1F) || c == 0x7F || c == 0x8F ||
        c == 0x9F)
      return;
    const bool space = c == 9 || c == 0x0A || c == 0x0C || c == 0x0D || c == 0x1680 ||
                       (c >= 0x200B && c <= 0x200F) || c == 0x2028 || c == 0x2029 || c == 0x2581 ||
                       c == 0xFEFF || c == 0xFFFD;
    if (space)
      out += ' ';
    else
      out += s;
  });
}

void Precompiled::apply(Normalized& n) const {
  std::string out;
  out.reserve(n.text.size() + n.text.size() / 8);
  const std::string_view text = n.text;
  size_t origin = 0;
  // The library takes the first rule that fits a prefix, and puts it for the whole.
  const auto rule = [&](size_t begin, size_t end) {
    const auto match = map->shortest(text.substr(begin, end - begin));
    if (match.length > 0) out += match.replacement;
    check_length(out.size(), n.limit);
    return match.length > 0;
  };
  for (size_t at = 0; at < text.size();) {
    const size_t end = cluster_end(text, at);
    if (end - at >= 6 || !rule(at, end))
      for (size_t c = at, length = 0; c < end; c += length) {
        length = character_length(text, c);
        if (!rule(c, c + length)) out += text.substr(c, length);
        if (c < n.origin) origin = out.size();
      }
    else if (at < n.origin)
      origin = out.size();
    at = end;
  }
  n.text = std::move(out), n.origin = origin;
}

void BertNormalizer::apply(Normalized& n) const {
  if (clean_text)
    rewrite(n, [](std::string& out, char32_t c, std::string_view s) {
      const bool control = c != '\t' && c != '\n' && c != '\r' && is_other(c);
      if (c == 0 || c == 0xFFFD || control) return;
      if (is_white_space(c))
        out += ' ';
      else
        out += s;
    });
  if (handle_chinese_chars && !is_ascii(n.text))
    rewrite(n, [](std::string& out, char32_t c, std::string_view s) {
      const bool apart = is_chinese(c);
      if (apart) out += ' ';
      out += s;
      if (apart) out += ' ';
    });
  if (strip_accents.value_or(lowercase) && !is_ascii(n.text)) {
    UnicodeForm{NormalForm::nfd}.apply(n);
    rewrite(n, [](std::string& out, char32_t c, std::string_view s) {
      if (!is_nonspacing_mark(c)) out += s;
    });
  }
  if (lowercase) Lowercase{}.apply(n);
}

void ByteLevelNormalizer::apply(Normalized& n) const {
  std::string out;
  append_letters(out, std::string_view(n.text).substr(0, n.origin));
  const size_t origin = out.size();
  append_letters(out, std::string_view(n.text).substr(n.origin));
  n.text = std::move(out), n.origin = origin;
}

void SentencePieceNormalizer::index_kept() {
  std::vector<ByteTrie::Entry> entries;
  for (const auto& k : kept) entries.emplace_back(k, 0);
  kept_trie = std::make_shared<ByteTrie>(std::move(entries));
}

void SentencePieceNormalizer::apply(Normalized& n) const {
  const std::string_view text = n.text;
  // What stands at `at` becomes this; `length` is how much of the text that is.
  const auto next = [&](size_t at, size_t& length) {
    if (kept_trie && !kept_trie->empty())
      if (const auto kept_piece = kept_trie->longest(text, at); kept_piece.value >= 0)
        return text.substr(at, length = kept_piece.length);
    if (map)
      if (const auto rule = map->longest(text.substr(at)); rule.length > 0) {
        length = rule.length;
        return rule.replacement;
      }
    return text.substr(at, length = character_length(text, at));
  };
  size_t at = 0, length = 0;
  if (remove_extra_whitespaces)
    while (at < text.size() && next(at, length) == " ") at += length;
  if (at >= text.size()) {
    n.text.clear(), n.origin = 0;
    return;
  }
  const std::string_view space = escape_whitespaces ? kMetaspace : " ";
  std::string out;
  out.reserve(text.size() + text.size() / 4);
  if (add_dummy_prefix && !whitespace_as_suffix) out += space;
  bool after_space = remove_extra_whitespaces;
  for (; at < text.size(); at += length) {
    std::string_view part = next(at, length);
    while (after_space && part.starts_with(' ')) part.remove_prefix(1);
    if (!part.empty()) {
      for (const char c : part)
        if (c == ' ')
          out += space;
        else
          out += c;
      check_length(out.size(), n.limit);
      after_space = remove_extra_whitespaces && part.ends_with(' ');
    }
  }
  if (remove_extra_whitespaces)
    while (out.ends_with(space)) out.resize(out.size() - space.size());
  if (add_dummy_prefix && whitespace_as_suffix) out += space;
  n.text = std::move(out), n.origin = 0;
}

void normalize(const std::vector<Normalizer>& steps, Normalized& n) {
  for (const auto& step : steps) {
    std::visit([&](const auto& s) { s.apply(n); }, step);
    check_length(n.text.size(), n.limit);
  }
}

void check_length(size_t bytes, size_t limit) {
  if (bytes > limit)
    throw Error(Kind::resource,
                "[tokenizer] the normalizers, pre-tokenizers or decoders make the text " +
                    std::to_string(bytes) + " bytes long: expected " + std::to_string(limit) +
                    " at most, 64 times what it was. Use another tokenizer.");
}

}  // namespace lmxlab::data
