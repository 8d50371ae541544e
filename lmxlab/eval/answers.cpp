#include "lmxlab/eval/answers.h"

#include "lmxlab/base/error.h"
#include "lmxlab/base/text.h"
#include "lmxlab/data/tokenizer/regex.h"

#include <algorithm>
#include <map>

namespace lmxlab {
namespace {

// Braces may stand in it, in pairs.
std::optional<std::string> last_boxed(std::string_view text) {
  constexpr std::string_view kOpen = "\\boxed{";
  for (size_t at = text.rfind(kOpen); at != text.npos;
       at = at == 0 ? text.npos : text.rfind(kOpen, at - 1)) {
    const size_t begin = at + kOpen.size();
    int depth = 1;
    for (size_t i = begin; i < text.size(); ++i) {
      depth += text[i] == '{' ? 1 : text[i] == '}' ? -1 : 0;
      if (depth == 0) return std::string(trim(text.substr(begin, i - begin)));
    }
  }
  return std::nullopt;
}

bool digit(char c) {
  return c >= '0' && c <= '9';
}

std::optional<std::string> last_number(std::string_view text) {
  std::optional<std::string> last;
  for (size_t i = 0; i < text.size();) {
    if (!digit(text[i])) {
      ++i;
      continue;
    }
    // A sign counts where it does not join two words.
    const bool sign = i > 0 && text[i - 1] == '-' &&
                      (i == 1 || text[i - 2] == ' ' || text[i - 2] == '\n' || text[i - 2] == '(' ||
                       text[i - 2] == '$' || text[i - 2] == '=');
    std::string number = sign ? "-" : "";
    bool point = false;
    for (; i < text.size(); ++i) {
      const bool more = i + 1 < text.size() && digit(text[i + 1]);
      if (digit(text[i])) {
        number += text[i];
      } else if (text[i] == '.' && more && !point) {
        number += '.', point = true;
      } else if (!(text[i] == ',' && more && !point)) {
        break;
      }
    }
    if (point) {
      number.erase(number.find_last_not_of('0') + 1);
      if (number.back() == '.') number.pop_back();
    }
    last = std::move(number);
  }
  return last;
}

}  // namespace

struct AnswerFinder::Pattern {
  data::Regex regex;
};

AnswerFinder::AnswerFinder(const std::string& pattern) {
  try {
    pattern_ = std::make_unique<Pattern>(Pattern{data::Regex(pattern)});
  } catch (const Error& e) {
    throw Error(Kind::usage, std::string("[answer] ") + e.what());
  }
}
AnswerFinder::AnswerFinder() = default;
AnswerFinder::~AnswerFinder() = default;
AnswerFinder::AnswerFinder(AnswerFinder&&) noexcept = default;
AnswerFinder& AnswerFinder::operator=(AnswerFinder&&) noexcept = default;

std::optional<std::string> AnswerFinder::operator()(std::string_view text) const {
  if (!pattern_) {
    const auto boxed = last_boxed(text);
    return boxed ? boxed : last_number(text);
  }
  std::optional<std::string> last;
  data::Regex::Match match{};
  std::optional<data::Regex::Match> group;
  for (size_t at = 0; at <= text.size() && pattern_->regex.find(text, at, match, group);) {
    const auto [begin, end] = group.value_or(match);
    last = std::string(trim(text.substr(begin, end - begin)));
    at = match.end;
    if (match.end > match.begin) continue;
    // Behind an empty match: the next character, which may be several bytes.
    for (++at; at < text.size() && (static_cast<unsigned char>(text[at]) & 0xc0) == 0x80;) ++at;
  }
  return last;
}

std::optional<Vote> majority(const std::vector<std::optional<std::string>>& answers) {
  std::map<std::string, Vote> votes;
  for (size_t i = 0; i < answers.size(); ++i) {
    if (!answers[i]) continue;
    const auto [at, fresh] = votes.try_emplace(*answers[i], Vote{*answers[i], 0, i});
    ++at->second.votes;
  }
  std::optional<Vote> best;
  for (const auto& [answer, vote] : votes)
    if (!best || vote.votes > best->votes ||
        (vote.votes == best->votes && vote.first < best->first))
      best = vote;
  return best;
}

double pass_at_k(int n, int c, int k) {
  if (c < 0 || c > n || k < 1 || k > n)
    throw Error(Kind::usage, "[pass@k] expected 0 to n right ones of n and k from 1 to n, got " +
                                 std::to_string(c) + " of " + std::to_string(n) +
                                 ", k = " + std::to_string(k));
  double none = 1;  // a product, since the binomials overflow
  for (int i = n - c + 1; i <= n; ++i) none *= std::max(0.0, 1.0 - double(k) / i);
  return 1 - none;
}

}  // namespace lmxlab
