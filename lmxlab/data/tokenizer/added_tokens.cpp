#include "lmxlab/data/tokenizer/added_tokens.h"

#include "lmxlab/data/tokenizer/regex.h"
#include "lmxlab/data/tokenizer/unicode.h"

#include <algorithm>

namespace lmxlab::data {
namespace {

bool is_word(std::string_view character) {
  static const Regex word(R"([\p{Alphabetic}\p{M}\p{Nd}\p{Pc}\x{200C}\x{200D}])");
  size_t begin = 0, end = 0;
  return word.find(character, 0, begin, end);
}

bool stands_alone(std::string_view text, size_t begin, size_t end) {
  if (begin > 0) {
    const size_t before = character_before(text, begin);
    if (is_word(text.substr(before, begin - before))) return false;
  }
  return end >= text.size() || !is_word(text.substr(end, character_length(text, end)));
}

}  // namespace

AddedMatcher::AddedMatcher(const std::vector<AddedToken>& tokens,
                           const std::vector<std::string>& patterns)
    : tokens_(&tokens) {
  std::vector<ByteTrie::Entry> entries;
  for (size_t i = 0; i < patterns.size(); ++i)
    entries.emplace_back(patterns[i], static_cast<int>(i));
  trie_ = ByteTrie(std::move(entries));
}

void AddedMatcher::split(
    std::string_view text, bool special, const std::function<void(size_t, size_t)>& on_text,
    const std::function<void(const AddedToken&, size_t, size_t)>& on_token) const {
  size_t done = 0, length = 0;
  size_t run_begin = 0, run_end = 0;  // white space that was walked over last
  for (size_t at = 0; at < text.size();) {
    if (!trie_.begins_with(static_cast<unsigned char>(text[at]))) {
      ++at;
      continue;
    }
    const auto found = trie_.longest(text, at);
    if (found.value < 0) {
      ++at;
      continue;
    }
    const AddedToken& token = (*tokens_)[static_cast<size_t>(found.value)];
    size_t begin = at, end = at + found.length;
    at = end;  // the next match begins behind this one, also where the flags reject it
    if (token.special && !special) continue;
    if (token.single_word && !stands_alone(text, begin, end)) continue;
    if (token.lstrip) {
      while (begin > done) {
        const size_t before = character_before(text, begin);
        if (!is_white_space(code_point(text, before, length))) break;
        begin = before;
      }
      begin = std::min(std::max(begin, done), end);
    }
    if (token.rstrip) {
      if (end < run_begin || end > run_end) {
        run_begin = run_end = end;
        while (run_end < text.size() && is_white_space(code_point(text, run_end, length)))
          run_end += length;
      }
      end = run_end;
    }
    if (begin > done) on_text(done, begin);
    if (begin < end) on_token(token, begin, end);  // else the one before has all of it
    done = end;
  }
  if (done < text.size()) on_text(done, text.size());
}

}  // namespace lmxlab::data
