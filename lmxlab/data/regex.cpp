#include "lmxlab/data/regex.h"

#include "lmxlab/base/error.h"
#include "lmxlab/base/text.h"

#define PCRE2_CODE_UNIT_WIDTH 8
#include <pcre2.h>

#include <algorithm>
#include <cctype>
#include <cstdint>
#include <new>

namespace lmxlab::data {
namespace {

// White_Space of Unicode. PCRE2's own \s has U+180E as well, which left that property in
// Unicode 6.3.
constexpr std::string_view kSpace =
    R"(\t-\r \x{85}\x{A0}\x{1680}\x{2000}-\x{200A}\x{2028}\x{2029}\x{202F}\x{205F}\x{3000})";
constexpr std::string_view kWord = R"(\p{L}\p{M}\p{Nd}\p{Pc})";
constexpr std::string_view kHex = "0-9A-Fa-f";

constexpr uint32_t kOptions = PCRE2_UTF | PCRE2_UCP | PCRE2_MULTILINE | PCRE2_NEVER_BACKSLASH_C;

std::string quote(std::string_view pattern) {
  return "\"" + std::string(pattern) + "\"";
}

std::string message_of(int code) {
  unsigned char buffer[256] = {};
  pcre2_get_error_message(code, buffer, sizeof buffer);
  return reinterpret_cast<const char*>(buffer);
}

bool compiles(const std::string& pattern) {
  int error = 0;
  PCRE2_SIZE at = 0;
  pcre2_code* code = pcre2_compile(reinterpret_cast<PCRE2_SPTR>(pattern.data()), pattern.size(),
                                   kOptions, &error, &at, nullptr);
  pcre2_code_free(code);
  return code != nullptr;
}

// One pass over a Ruby pattern. `atom` is where the last quantifiable item began in the output.
class Translator {
 public:
  explicit Translator(std::string_view in) : in_(in) {}

  std::string run() {
    while (i_ < in_.size()) step();
    return std::move(out_);
  }

 private:
  [[noreturn]] void unsupported(const std::string& what) const {
    throw Error(Kind::unsupported,
                "[regex] " + what + " at byte " + std::to_string(i_) + " of " + quote(in_) +
                    " is not supported: its meaning in Ruby's syntax has no counterpart here. "
                    "Rewrite the pattern without it.");
  }
  bool starts(std::string_view s) const { return in_.substr(i_).starts_with(s); }

  void step() {
    const char c = in_[i_];
    if (c == '\\') return escape(false);
    if (c == '[') return cls();
    if (c == '(') return open();
    if (c == ')') {
      atom_ = groups_.empty() ? out_.size() : groups_.back();
      if (!groups_.empty()) groups_.pop_back();
      out_ += in_[i_++];
      return;
    }
    if (c == '{' && interval()) return;
    if (c == '*' || c == '+' || c == '?') {
      out_ += in_[i_++];
      return;
    }
    atom_ = out_.size();
    do out_ += in_[i_++];
    while (i_ < in_.size() && (static_cast<unsigned char>(in_[i_]) & 0xC0) == 0x80);
  }

  void open() {
    groups_.push_back(out_.size());
    if (starts("(?")) {
      // Inside the flags of Ruby, m means what s means in Perl.
      for (size_t k = i_ + 2;
           k < in_.size() && (std::isalpha(static_cast<unsigned char>(in_[k])) || in_[k] == '-');
           ++k)
        if (in_[k] != 'i' && in_[k] != 'x' && in_[k] != '-')
          unsupported("the group flag " + std::string(1, in_[k]));
      if (starts("(?~")) unsupported("an absence group");
      out_ += "(?";
      i_ += 2;
    } else {
      out_ += in_[i_++];
    }
  }

  // {n,m}+ : possessive in Perl, a repeated repetition in Ruby.
  bool interval() {
    size_t k = i_ + 1;
    while (k < in_.size() && (std::isdigit(static_cast<unsigned char>(in_[k])) || in_[k] == ','))
      ++k;
    if (k >= in_.size() || in_[k] != '}' || k == i_ + 1) return false;
    std::string count(in_.substr(i_, k + 1 - i_));
    if (count.starts_with("{,"))
      count.insert(1, "0");  // {,m} is literal text in PCRE2 before 10.43
    i_ = k + 1;
    if (i_ < in_.size() && in_[i_] == '+') {
      out_.insert(atom_, "(?:");
      out_ += count + ")";
    } else {
      out_ += count;
    }
    return true;
  }

  void escape(bool in_class) {
    if (i_ + 1 >= in_.size()) {
      out_ += in_[i_++];
      return;
    }
    if (!in_class) atom_ = out_.size();
    const auto set = [&](std::string_view members, bool negated) {
      if (in_class && negated) unsupported(std::string("\\") + in_[i_ + 1] + " inside a class");
      out_ += in_class ? std::string(members) : (negated ? "[^" : "[") + std::string(members) + "]";
      i_ += 2;
    };
    const char c = in_[i_ + 1];
    switch (c) {
      case 's': return set(kSpace, false);
      case 'w': return set(kWord, false);
      case 'h': return set(kHex, false);
      case 'W': return set(kWord, true);
      case 'H': return set(kHex, true);
      case 'S':
        if (!in_class) return set(kSpace, true);
        out_ += "\\P{White_Space}";
        i_ += 2;
        return;
      case 'p':
      case 'P': return property();
      case 'v':
        out_ += "\\x0B";
        i_ += 2;
        return;
      case 'u':
        out_ += "\\x{" + std::string(in_.substr(i_ + 2, 4)) + "}";
        i_ += std::min<size_t>(6, in_.size() - i_);
        return;
      case 'x':
        if (const size_t close = in_.find('}', i_);
            in_.substr(i_ + 2).starts_with("{") && close != in_.npos) {
          out_.append(in_.substr(i_, close + 1 - i_));
          i_ = close + 1;
          return;
        }
        break;
      case 'b':
      case 'B':
        if (in_class && c == 'b') break;  // a backspace in both
        [[fallthrough]];
      case 'G':
      case 'K':
      case 'O':
      case 'y':
      case 'Y':
      case 'N':
      case 'k':
      case 'g':
      case 'M':
      case 'C':
      case 'c': unsupported(std::string("\\") + c);
      default: break;
    }
    out_ += in_[i_++];
    out_ += in_[i_++];
  }

  // A name of a script means the script itself here, and its extensions in PCRE2.
  void property() {
    const size_t close = in_.find('}', i_);
    if (i_ + 2 >= in_.size() || in_[i_ + 2] != '{' || close == std::string_view::npos) {
      out_.append(in_.substr(i_, 2));
      i_ += 2;
      return;
    }
    std::string_view name = in_.substr(i_ + 3, close - i_ - 3);
    const bool negated = (in_[i_ + 1] == 'P') != name.starts_with('^');
    if (name.starts_with('^')) name.remove_prefix(1);
    const std::string sign = negated ? "\\P{" : "\\p{";
    const std::string script = "sc:" + std::string(name);
    const bool known = name.size() > 2 && compiles("\\p{" + script + "}");
    out_ += sign + (known ? script : std::string(name)) + "}";
    i_ = close + 1;
  }

  void cls() {
    atom_ = out_.size();
    out_ += in_[i_++];
    if (i_ < in_.size() && in_[i_] == '^') out_ += in_[i_++];
    if (i_ < in_.size() && in_[i_] == ']') out_ += "\\]", ++i_;
    while (i_ < in_.size() && in_[i_] != ']') {
      if (in_[i_] == '\\') {
        escape(true);
      } else if (in_[i_] == '[') {
        unsupported("a class inside a class");
      } else if (starts("&&")) {
        unsupported("an intersection of classes");
      } else {
        out_ += in_[i_++];
      }
    }
    if (i_ < in_.size()) out_ += in_[i_++];
  }

  std::string_view in_;
  size_t i_ = 0;
  std::string out_;
  size_t atom_ = 0;
  std::vector<size_t> groups_;
};

// What a search needs besides the code: one set a thread.
struct Scratch {
  pcre2_match_data* data = pcre2_match_data_create(1, nullptr);
  pcre2_match_context* context = pcre2_match_context_create(nullptr);
  pcre2_jit_stack* stack = pcre2_jit_stack_create(64 << 10, 8 << 20, nullptr);
  Scratch() {
    if (!data || !context) throw std::bad_alloc();
    pcre2_set_match_limit(context, 50'000'000);
    pcre2_set_heap_limit(context, 256 << 10);  // KiB
    if (stack) pcre2_jit_stack_assign(context, nullptr, stack);
  }
  ~Scratch() {
    pcre2_match_data_free(data);
    pcre2_match_context_free(context);
    pcre2_jit_stack_free(stack);
  }
};

}  // namespace

struct Regex::Code {
  pcre2_code* code = nullptr;
  ~Code() { pcre2_code_free(code); }
};

std::string translate_regex(std::string_view pattern) {
  return Translator(pattern).run();
}

Regex::Regex(std::string_view pattern) : pattern_(pattern) {
  if (const size_t bad = invalid_utf8_at(pattern); bad != std::string_view::npos)
    throw Error(Kind::bad_data, "[regex] the pattern is not UTF-8 at byte " + std::to_string(bad));
  const std::string perl = translate_regex(pattern);
  int error = 0;
  PCRE2_SIZE at = 0;
  auto compiled = std::make_shared<Code>();
  auto* context = pcre2_compile_context_create(nullptr);
  if (!context) throw std::bad_alloc();
  pcre2_set_newline(context, PCRE2_NEWLINE_LF);
  pcre2_set_parens_nest_limit(context, 100);
  compiled->code = pcre2_compile(reinterpret_cast<PCRE2_SPTR>(perl.data()), perl.size(), kOptions,
                                 &error, &at, context);
  pcre2_compile_context_free(context);
  if (!compiled->code)
    throw Error(Kind::bad_data, "[regex] the pattern " + quote(pattern) + " does not compile: " +
                                    message_of(error) + " (at byte " + std::to_string(at) + " of " +
                                    quote(perl) + "). Mend the pattern.");
  // Where there is no JIT (or no executable memory) the interpreter gives the same matches.
  pcre2_jit_compile(compiled->code, PCRE2_JIT_COMPLETE);
  code_ = std::move(compiled);
}

bool Regex::find(std::string_view text, size_t from, size_t& begin, size_t& end) const {
  thread_local Scratch scratch;
  const auto* subject = reinterpret_cast<PCRE2_SPTR>(text.data() ? text.data() : "");
  int found = pcre2_match(code_->code, subject, text.size(), from, PCRE2_NO_UTF_CHECK, scratch.data,
                          scratch.context);
  if (found == PCRE2_ERROR_JIT_STACKLIMIT)
    found = pcre2_match(code_->code, subject, text.size(), from, PCRE2_NO_UTF_CHECK | PCRE2_NO_JIT,
                        scratch.data, scratch.context);
  if (found == PCRE2_ERROR_NOMATCH) return false;
  if (found < 0)
    throw Error(Kind::resource,
                "[regex] searching for " + quote(pattern_) + " from byte " + std::to_string(from) +
                    " failed: " + message_of(found) +
                    ". The pattern backtracks too much on this text; simplify it or cut the text.");
  const auto* bounds = pcre2_get_ovector_pointer(scratch.data);
  begin = bounds[0], end = bounds[1];
  return true;
}

void Regex::cut(std::string_view text, size_t base, std::vector<size_t>& ends) const {
  size_t done = 0, from = 0, begin = 0, end = 0;
  const auto piece = [&](size_t upto) {
    if (upto > done) ends.push_back(base + upto), done = upto;
  };
  while (from <= text.size() && find(text, from, begin, end)) {
    piece(begin), piece(end);
    from = end;
    if (end <= begin) {  // an empty match cuts, and the search goes on behind the next character
      if (from >= text.size()) break;
      ++from;
      while (from < text.size() && (static_cast<unsigned char>(text[from]) & 0xC0) == 0x80) ++from;
    }
  }
  piece(text.size());
}

}  // namespace lmxlab::data
