#include "lmxlab/align/rewards.h"

#include "lmxlab/data/tokenizer/regex.h"

#include <charconv>
#include <cmath>
#include <limits>
#include <string_view>
#include <utility>

namespace lmxlab::align {
namespace {

class Function : public Reward {
 public:
  explicit Function(std::function<double(const Completion&)> f) : f_(std::move(f)) {}
  std::vector<double> operator()(std::span<const Completion> completions) override {
    std::vector<double> out;
    for (const auto& c : completions) out.push_back(f_(c));
    return out;
  }

 private:
  std::function<double(const Completion&)> f_;
};

class Sum : public Reward {
 public:
  explicit Sum(std::vector<std::pair<double, std::shared_ptr<Reward>>> parts)
      : parts_(std::move(parts)) {}
  std::vector<double> operator()(std::span<const Completion> completions) override {
    std::vector<double> out(completions.size());
    for (const auto& [weight, part] : parts_) {
      const auto some = (*part)(completions);
      for (size_t i = 0; i < out.size(); ++i) out[i] += weight * some.at(i);
    }
    return out;
  }

 private:
  std::vector<std::pair<double, std::shared_ptr<Reward>>> parts_;
};

// ASCII's alone, whatever the locale.
bool is_space(char c) {
  return c == ' ' || (c >= '\t' && c <= '\r');
}
bool is_digit(char c) {
  return c >= '0' && c <= '9';
}
bool is_upper(char c) {
  return c >= 'A' && c <= 'Z';
}
bool is_letter(char c) {
  return is_upper(c) || (c >= 'a' && c <= 'z');
}
bool is_punctuation(char c) {
  return c > ' ' && c < '\x7f' && !is_digit(c) && !is_letter(c);
}

std::string normalized(std::string_view text, const ExactMatch& o) {
  std::string out;
  for (const char c : text) {
    if (o.ignore_punctuation && is_punctuation(c)) continue;
    if (o.strip && is_space(c)) {
      if (!out.empty() && out.back() != ' ') out += ' ';
    } else {
      out += o.ignore_case && is_upper(c) ? static_cast<char>(c - 'A' + 'a') : c;
    }
  }
  if (o.strip && !out.empty() && out.back() == ' ') out.pop_back();
  return out;
}

// What a pattern means by a text as it stands.
std::string literal(std::string_view text) {
  std::string out;
  for (const char c : text) {
    if (is_punctuation(c) || c == ' ') out += '\\';
    out += c;
  }
  return out;
}

class Found : public Reward {
 public:
  explicit Found(const Pattern& p) : pattern_(p) {
    if (p.pattern.empty())
      throw Error(Kind::usage, "[reward] pattern: expected a regular expression, got none");
    compiled("");  // says now what is wrong with it
  }
  std::vector<double> operator()(std::span<const Completion> completions) override {
    std::vector<double> out;
    for (const auto& c : completions) {
      const std::string& answer = c.sample->answer;
      if (!last_ || last_->first != answer) last_.emplace(answer, compiled(answer));
      out.push_back(found(last_->second, c.text) ? 1 : 0);
    }
    return out;
  }

 private:
  data::Regex compiled(const std::string& answer) const {
    std::string p = replace_all(pattern_.pattern, "{answer}", literal(answer));
    return data::Regex(pattern_.whole ? "\\A(?:" + p + ")\\z" : p);
  }
  static std::string replace_all(std::string text, std::string_view from, const std::string& to) {
    for (size_t at = 0; (at = text.find(from, at)) != std::string::npos; at += to.size())
      text.replace(at, from.size(), to);
    return text;
  }
  static bool found(const data::Regex& regex, const std::string& text) {
    size_t begin = 0, end = 0;
    try {
      return regex.find(text, 0, begin, end);
    } catch (const Error& e) {
      if (e.kind() == Kind::resource) return false;
      throw;
    }
  }

  Pattern pattern_;
  std::optional<std::pair<std::string, data::Regex>> last_;  // a group has one answer
};

// A number that begins at `at`, and where it ends; none: `at` itself.
std::pair<double, size_t> number_at(std::string_view text, size_t at) {
  std::string digits;
  size_t i = at;
  if (text[i] == '-' || text[i] == '+') {
    if (text[i++] == '-') digits = "-";
  }
  const auto take = [&] {
    const size_t from = i;
    while (i < text.size() && is_digit(text[i])) digits += text[i++];
    return i - from;
  };
  const auto digit_at = [&](size_t j) { return j < text.size() && is_digit(text[j]); };
  size_t whole = take();
  // 1,234,567: a comma stands before exactly three digits.
  while (whole > 0 && whole <= 3 && i < text.size() && text[i] == ',' && digit_at(i + 1) &&
         digit_at(i + 2) && digit_at(i + 3) && !digit_at(i + 4)) {
    ++i;
    take();
  }
  if (i < text.size() && text[i] == '.' && digit_at(i + 1)) {
    digits += text[i++];
    whole += take();
  }
  if (whole == 0) return {0, at};
  if (i < text.size() && (text[i] == 'e' || text[i] == 'E')) {
    const bool sign = i + 1 < text.size() && (text[i + 1] == '-' || text[i + 1] == '+');
    if (digit_at(i + (sign ? 2 : 1))) {
      digits += 'e', ++i;
      if (sign) digits += text[i++];
      take();
    }
  }
  double value = 0;
  const auto [end, fault] = std::from_chars(digits.data(), digits.data() + digits.size(), value);
  if (fault != std::errc()) value = std::numeric_limits<double>::infinity();
  return {value, i};
}

std::optional<double> last_number(std::string_view text) {
  std::optional<double> last;
  for (size_t i = 0; i < text.size();) {
    // "5-3" holds a 3, and a minus between.
    const bool sign = text[i] == '-' || text[i] == '+';
    const bool behind =
        i > 0 && (is_digit(text[i - 1]) || is_letter(text[i - 1]) || text[i - 1] == ')');
    if (!(is_digit(text[i]) || text[i] == '.' || (sign && !behind))) {
      ++i;
      continue;
    }
    const auto [value, end] = number_at(text, i);
    if (end == i) {
      ++i;
      continue;
    }
    last = value, i = end;
  }
  return last;
}

// What stands in the last \boxed{...}, or the whole text.
std::string_view boxed(std::string_view text) {
  constexpr std::string_view kMark = "\\boxed{";
  const size_t at = text.rfind(kMark);
  if (at == std::string_view::npos) return text;
  const size_t from = at + kMark.size();
  int depth = 1;
  for (size_t i = from; i < text.size(); ++i) {
    if (text[i] == '{') ++depth;
    if (text[i] == '}' && --depth == 0) return text.substr(from, i - from);
  }
  return text;
}

double numeric(const Completion& c, double tolerance) {
  const auto said = last_number(boxed(c.text)), right = last_number(boxed(c.sample->answer));
  if (!said || !right || !std::isfinite(*said) || !std::isfinite(*right)) return 0;
  return std::abs(*said - *right) <= tolerance * std::max(1.0, std::abs(*right)) ? 1 : 0;
}

double length(const Completion& c, const Length& o) {
  const int over = c.tokens - o.target;
  return -std::min(o.most, o.penalty * std::max(over, o.below ? -over : 0));
}

void not_negative(const char* name, double value) {
  if (!(value >= 0) || !std::isfinite(value))
    throw Error(Kind::usage, std::string("[reward] ") + name + ": expected 0 or more, got " +
                                 Json(value).dump());
}

std::shared_ptr<Reward> make(const ExactMatch& o) {
  return reward_function([o](const Completion& c) {
    return normalized(c.text, o) == normalized(c.sample->answer, o) ? 1.0 : 0.0;
  });
}
std::shared_ptr<Reward> make(const Pattern& o) {
  return std::make_shared<Found>(o);
}
std::shared_ptr<Reward> make(const Numeric& o) {
  not_negative("tolerance", o.tolerance);
  return reward_function([o](const Completion& c) { return numeric(c, o.tolerance); });
}
std::shared_ptr<Reward> make(const Length& o) {
  not_negative("target", o.target), not_negative("penalty", o.penalty);
  not_negative("most", o.most);
  return reward_function([o](const Completion& c) { return length(c, o); });
}
std::shared_ptr<Reward> make(const Program& o) {
  return external_reward(o);
}
std::shared_ptr<Reward> make(const Judge& o) {
  return model_reward(o);
}

}  // namespace

std::shared_ptr<Reward> reward_function(std::function<double(const Completion&)> function) {
  return std::make_shared<Function>(std::move(function));
}

std::shared_ptr<Reward> weighted_sum(
    std::vector<std::pair<double, std::shared_ptr<Reward>>> rewards) {
  if (rewards.empty()) throw Error(Kind::usage, "[reward] expected at least one reward, got none");
  return std::make_shared<Sum>(std::move(rewards));
}

std::shared_ptr<Reward> make_reward(const RewardConfig& config) {
  return std::visit([](const auto& o) { return make(o); }, config.reward);
}

std::shared_ptr<Reward> make_reward(const std::vector<RewardConfig>& configs) {
  std::vector<std::pair<double, std::shared_ptr<Reward>>> parts;
  for (const auto& c : configs) {
    if (!std::isfinite(c.weight))
      throw Error(Kind::usage, "[reward] weight: expected a finite number");
    parts.emplace_back(c.weight, make_reward(c));
  }
  return weighted_sum(std::move(parts));
}

}  // namespace lmxlab::align
