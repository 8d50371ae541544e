#include "lmxlab/data/tokenizer/regex.h"

#include "lmxlab/base/error.h"
#include "lmxlab/base/text.h"

#define PCRE2_CODE_UNIT_WIDTH 8
#include <pcre2.h>

#include <algorithm>
#include <cctype>
#include <cstdint>
#include <new>
#include <utility>

namespace lmxlab::data {
namespace {

// White_Space of Unicode. PCRE2's own \s has U+180E as well, which left that property in
// Unicode 6.3.
constexpr std::string_view kSpace =
    R"(\t-\r \x{85}\x{A0}\x{1680}\x{2000}-\x{200A}\x{2028}\x{2029}\x{202F}\x{205F}\x{3000})";
constexpr std::string_view kWord = R"(\p{Alphabetic}\p{M}\p{Nd}\p{Pc})";
// Outside a class Oniguruma looks into an older table for characters below U+0100, which counts
// superscript digits and fractions.
constexpr std::string_view kLoneWord =
    R"(\p{Alphabetic}\p{M}\p{Nd}\p{Pc}\x{B2}\x{B3}\x{B9}\x{BC}-\x{BE})";
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
  explicit Translator(std::string_view in, bool from_rust = false)
      : in_(in), from_rust_(from_rust) {}

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
    if (from_rust_ && (c == '$' || c == '^')) {  // of the text there, of a line in Ruby
      atom_ = out_.size();
      out_ += c == '$' ? "\\z" : "\\A";
      ++i_;
      return;
    }
    if (from_rust_ && (c == '\\' || c == '[')) return copy();
    if (c == '\\') return escape();
    if (c == '[') {
      atom_ = out_.size();
      out_ += cls(0);
      return;
    }
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
    if (starts("(?~")) unsupported("an absence group");
    out_ += in_[i_++];
    if (i_ >= in_.size() || in_[i_] != '?') return;
    out_ += in_[i_++];
    // Inside the flags of Ruby, m means what s means in Perl; Rust has Perl's.
    size_t k = i_;
    while (k < in_.size() && (std::isalpha(static_cast<unsigned char>(in_[k])) || in_[k] == '-'))
      ++k;
    if (k >= in_.size() || (in_[k] != ')' && in_[k] != ':')) return;  // no flags
    const char dot = from_rust_ ? 's' : 'm';
    for (; i_ < k; ++i_) {
      if (in_[i_] != 'i' && in_[i_] != 'x' && in_[i_] != '-' && in_[i_] != dot)
        unsupported("the group flag " + std::string(1, in_[i_]));
      out_ += in_[i_] == dot ? (from_rust_ ? 'm' : 's') : in_[i_];
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
      if (from_rust_) ++i_;
      out_.insert(atom_, from_rust_ ? "(?>" : "(?:");
      out_ += count + ")";
    } else {
      out_ += count;
    }
    return true;
  }

  // Rust's escapes and classes mean the same in Ruby.
  void copy() {
    atom_ = out_.size();
    size_t depth = 0;
    do {
      depth += in_[i_] == '[';
      depth -= in_[i_] == ']' && depth > 0;
      if (in_[i_] == '\\' && i_ + 1 < in_.size()) out_ += in_[i_++];
      out_ += in_[i_++];
    } while (depth > 0 && i_ < in_.size());
    if (!out_.ends_with('p') && !out_.ends_with('P')) return;
    if (out_.size() - atom_ != 2 || i_ >= in_.size() || in_[i_] != '{') return;
    while (i_ < in_.size() && in_[i_] != '}') out_ += in_[i_++];
    if (i_ < in_.size()) out_ += in_[i_++];
  }

  // A set of characters: members in PCRE2's notation, and what cannot be written as members:
  // expressions of one character.
  struct Set {
    std::string members;
    std::vector<std::string> others;
    std::string written(bool negated) const {
      if (others.empty()) {
        if (!members.empty()) return (negated ? "[^" : "[") + members + "]";
        return negated ? "(?s:.)" : "(?!)";
      }
      std::string any = "(?:";
      if (!members.empty()) any += "[" + members + "]|";
      for (size_t i = 0; i < others.size(); ++i) any += (i ? "|" : "") + others[i];
      any += ")";
      return negated ? "(?:(?!" + any + ")(?s:.))" : any;
    }
    void add(const Set& o) {
      members += o.members;
      others.insert(others.end(), o.others.begin(), o.others.end());
    }
  };

  void escape() {
    if (i_ + 1 >= in_.size()) {
      out_ += in_[i_++];
      return;
    }
    atom_ = out_.size();
    const std::string word = "[" + std::string(kLoneWord) + "]";
    const auto between = [&](const char* before, const char* after) {
      return std::string("(?<") + before + word + ")(?" + after + word + ")";
    };
    switch (in_[i_ + 1]) {
      case 's':
      case 'S':
      case 'w':
      case 'W':
      case 'h':
      case 'H': out_ += member(false).written(false); return;
      case 'p':
      case 'P':
      case 'v':
      case 'u':
      case 'x': out_ += member(false).members; return;
      case 'b':
        out_ += "(?:" + between("=", "!") + "|" + between("!", "=") + ")";
        i_ += 2;
        return;
      case 'B':
        out_ += "(?:" + between("=", "=") + "|" + between("!", "!") + ")";
        i_ += 2;
        return;
      default: out_ += member(false).members;
    }
  }

  // What a backslash and more stands for.
  Set member(bool in_class) {
    const auto set = [&](std::string_view members, bool negated) {
      i_ += 2;
      if (!negated) return Set{std::string(members), {}};
      return Set{{}, {"[^" + std::string(members) + "]"}};
    };
    if (i_ + 1 >= in_.size()) return Set{std::string(1, in_[i_++]), {}};
    const char c = in_[i_ + 1];
    switch (c) {
      case 's': return set(kSpace, false);
      case 'w': return set(in_class ? kWord : kLoneWord, false);
      case 'h': return set(kHex, false);
      case 'W': return set(in_class ? kWord : kLoneWord, true);
      case 'H': return set(kHex, true);
      case 'S': return set(kSpace, true);
      case 'p':
      case 'P': return {property(), {}};
      case 'v': return set("\\x0B", false);
      case 'u': {
        const std::string code(in_.substr(std::min(i_ + 2, in_.size()), 4));
        i_ += std::min<size_t>(6, in_.size() - i_);
        return {"\\x{" + code + "}", {}};
      }
      case 'x':
        if (const size_t close = in_.find('}', i_);
            in_.substr(i_ + 2).starts_with("{") && close != in_.npos) {
          const std::string code(in_.substr(i_, close + 1 - i_));
          i_ = close + 1;
          return {code, {}};
        }
        break;
      case 'b':
        if (in_class) break;  // a backspace in both
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
    std::string both(in_.substr(i_, 2));
    i_ += 2;
    while (i_ < in_.size() && (static_cast<unsigned char>(in_[i_]) & 0xC0) == 0x80)
      both += in_[i_++];
    return {both, {}};
  }

  // A name of a script means the script itself here, and its extensions in PCRE2.
  std::string property() {
    const size_t close = in_.find('}', i_);
    if (i_ + 2 >= in_.size() || in_[i_ + 2] != '{' || close == std::string_view::npos) {
      i_ += 2;
      return std::string(in_.substr(i_ - 2, 2));
    }
    std::string_view name = in_.substr(i_ + 3, close - i_ - 3);
    const bool negated = (in_[i_ + 1] == 'P') != name.starts_with('^');
    if (name.starts_with('^')) name.remove_prefix(1);
    const std::string sign = negated ? "\\P{" : "\\p{";
    const std::string script = "sc:" + std::string(name);
    const bool known = compiles("\\p{" + script + "}");
    i_ = close + 1;
    return sign + (known ? script : std::string(name)) + "}";
  }

  // [:alpha:] and its like, or none.
  bool posix(Set& into) {
    const size_t close = in_.find(":]", i_ + 2);
    if (!starts("[:") || close == std::string_view::npos) return false;
    std::string_view name = in_.substr(i_ + 2, close - i_ - 2);
    const bool negated = name.starts_with('^');
    if (negated) name.remove_prefix(1);
    static constexpr std::pair<std::string_view, std::string_view> kNames[] = {
        {"alpha", R"(\p{Alphabetic})"},
        {"alnum", R"(\p{Alphabetic}\p{Nd})"},
        {"digit", R"(\p{Nd})"},
        {"upper", R"(\p{Uppercase})"},
        {"lower", R"(\p{Lowercase})"},
        {"punct", R"(\p{P}\p{S})"},
        {"cntrl", R"(\p{Cc})"},
        {"blank", R"(\p{Zs}\t)"},
        {"ascii", R"(\x00-\x7F)"},
        {"space", kSpace},
        {"word", kWord},
        {"xdigit", kHex}};
    const bool graph = name == "graph", print = name == "print";
    if (graph || print) {
      i_ = close + 2;
      const std::string none = std::string(graph ? kSpace : R"(\t-\r\x{85}\x{2028}\x{2029})");
      into.others.push_back((negated ? "[" : "[^") + none + R"(\p{Cc}\p{Cn}\p{Cs}])");
      return true;
    }
    for (const auto& [known, members] : kNames)
      if (name == known) {
        i_ = close + 2;
        into.add(negated ? Set{{}, {"[^" + std::string(members) + "]"}}
                         : Set{std::string(members), {}});
        return true;
      }
    if (name.find_first_not_of("abcdefghijklmnopqrstuvwxyz") == std::string_view::npos)
      unsupported("the class [:" + std::string(name) + ":]");
    return false;
  }

  // A class: its members and the classes inside it joined; && cuts with what follows.
  std::string cls(int depth) {
    if (depth > 20) unsupported("a class more than 20 deep");
    ++i_;
    const bool negated = i_ < in_.size() && in_[i_] == '^';
    if (negated) ++i_;
    std::vector<std::string> cut;  // what stands before each &&
    Set set;
    if (i_ < in_.size() && in_[i_] == ']') set.members += "\\]", ++i_;
    while (i_ < in_.size() && in_[i_] != ']') {
      if (in_[i_] == '\\') {
        set.add(member(true));
      } else if (in_[i_] == '[') {
        if (!posix(set)) set.others.push_back(cls(depth + 1));
      } else if (starts("&&")) {
        i_ += 2;
        cut.push_back(set.written(false));
        set = {};
      } else {
        set.members += in_[i_++];
      }
    }
    if (i_ >= in_.size()) return "[" + set.members;  // PCRE2 says that it does not end
    ++i_;
    if (cut.empty()) return set.written(negated);
    std::string both = "(?:";
    for (const auto& c : cut) both += "(?=" + c + ")";
    both += set.written(false) + ")";
    return negated ? "(?:(?!" + both + ")(?s:.))" : both;
  }

  std::string_view in_;
  bool from_rust_;
  size_t i_ = 0;
  std::string out_;
  size_t atom_ = 0;
  std::vector<size_t> groups_;
};

// What a search needs besides the code: one set a thread.
struct Scratch {
  pcre2_match_data* data = pcre2_match_data_create(2, nullptr);
  pcre2_match_context* context = pcre2_match_context_create(nullptr);
  pcre2_jit_stack* stack = pcre2_jit_stack_create(64 << 10, 8 << 20, nullptr);
  Scratch() {
    if (!data || !context) throw std::bad_alloc();
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
  bool jit = false;
  ~Code() { pcre2_code_free(code); }
};

std::string translate_regex(std::string_view pattern) {
  return Translator(pattern).run();
}

std::string ruby_of_rust(std::string_view pattern) {
  return Translator(pattern, true).run();
}

Regex::Regex(std::string_view pattern) : pattern_(pattern) {
  if (const size_t bad = invalid_utf8_at(pattern); bad != std::string_view::npos)
    throw Error(Kind::bad_data, "[regex] the pattern is not UTF-8 at byte " + std::to_string(bad));
  constexpr size_t kLongest = size_t{1} << 16;
  if (pattern.size() > kLongest)
    throw Error(Kind::unsupported, "[regex] a pattern of " + std::to_string(pattern.size()) +
                                       " bytes: expected " + std::to_string(kLongest) +
                                       " at most. Simplify it.");
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
  compiled->jit = pcre2_jit_compile(compiled->code, PCRE2_JIT_COMPLETE) == 0;
  code_ = std::move(compiled);
}

// Begin and end of the match, then of its first group, which may be PCRE2_UNSET; null: there is no
// match.
const size_t* Regex::search(std::string_view text, size_t from, uint64_t& effort) const {
  thread_local Scratch scratch;
  const auto* subject = reinterpret_cast<PCRE2_SPTR>(text.data() ? text.data() : "");
  int found = PCRE2_ERROR_MATCHLIMIT;
  // An easy search costs no more than this; what a harder one uses cannot be asked for, so it is
  // tried with more and more, and pays for the last try.
  constexpr uint64_t kEasy = 2'000, kMore = 8, kMost = uint64_t{1} << 31;
  for (uint64_t limit = kEasy; found == PCRE2_ERROR_MATCHLIMIT; limit *= kMore) {
    if (limit > kEasy) {
      limit = std::min({limit, effort, kMost});
      if (limit == 0) break;
      effort -= limit;
    }
    pcre2_set_match_limit(scratch.context, static_cast<uint32_t>(limit));
    found = code_->jit ? pcre2_jit_match(code_->code, subject, text.size(), from, 0, scratch.data,
                                         scratch.context)
                       : pcre2_match(code_->code, subject, text.size(), from, PCRE2_NO_UTF_CHECK,
                                     scratch.data, scratch.context);
    if (found == PCRE2_ERROR_JIT_STACKLIMIT)
      found = pcre2_match(code_->code, subject, text.size(), from,
                          PCRE2_NO_UTF_CHECK | PCRE2_NO_JIT, scratch.data, scratch.context);
  }
  if (found == PCRE2_ERROR_NOMATCH) return nullptr;
  if (found < 0)
    throw Error(Kind::resource,
                "[regex] searching for " + quote(pattern_) + " from byte " + std::to_string(from) +
                    " failed: " + message_of(found) +
                    ". The pattern backtracks too much on this text; simplify it or cut the text.");
  auto* bounds = pcre2_get_ovector_pointer(scratch.data);
  if (found == 1) bounds[2] = PCRE2_UNSET;  // left as it was where the pattern has no group
  return bounds;
}

bool Regex::find(std::string_view text, size_t from, size_t& begin, size_t& end,
                 uint64_t& effort) const {
  const auto* bounds = search(text, from, effort);
  if (!bounds) return false;
  begin = bounds[0], end = bounds[1];
  return true;
}

bool Regex::find(std::string_view text, size_t from, Match& match,
                 std::optional<Match>& group) const {
  uint64_t effort = effort_for(text.size());
  const auto* bounds = search(text, from, effort);
  if (!bounds) return false;
  match = {bounds[0], bounds[1]};
  group = std::nullopt;
  if (bounds[2] != PCRE2_UNSET) group = Match{bounds[2], bounds[3]};
  return true;
}

void Regex::matches(std::string_view text, std::vector<Match>& out) const {
  constexpr size_t kNone = static_cast<size_t>(-1);
  size_t from = 0, last = kNone, begin = 0, end = 0;
  uint64_t effort = effort_for(text.size());
  while (from <= text.size() && find(text, from, begin, end, effort)) {
    if (begin < end || end != last) {
      out.push_back({begin, end});
      from = last = end;
    } else {  // empty, behind the match before: the search goes on behind the next character
      if (from >= text.size()) break;
      ++from;
      while (from < text.size() && (static_cast<unsigned char>(text[from]) & 0xC0) == 0x80) ++from;
    }
  }
}

void Regex::cut(std::string_view text, size_t base, std::vector<size_t>& ends) const {
  size_t done = 0, from = 0, begin = 0, end = 0;
  uint64_t effort = effort_for(text.size());
  const auto piece = [&](size_t upto) {
    if (upto > done) ends.push_back(base + upto), done = upto;
  };
  while (from <= text.size() && find(text, from, begin, end, effort)) {
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
