#include "lmxlab/data/jinja/lexer.h"

#include "lmxlab/base/error.h"
#include "lmxlab/base/text.h"
#include "lmxlab/data/jinja/operators.h"
#include "lmxlab/data/jinja/unicode.h"

#include <algorithm>
#include <array>
#include <cstdio>

namespace lmxlab::data::jinja {

void fail_syntax(int line, const std::string& message) {
  throw Error(Kind::bad_data, "[chat template] line " + std::to_string(line) + ": " + message);
}

std::string describe(const Token& token) {
  switch (token.type) {
    case Token::Type::data: return "template data / text";
    case Token::Type::variable_begin: return "begin of print statement";
    case Token::Type::variable_end: return "end of print statement";
    case Token::Type::block_begin: return "begin of statement block";
    case Token::Type::block_end: return "end of statement block";
    case Token::Type::string: return "string";
    case Token::Type::integer: return "integer";
    case Token::Type::real: return "float";
    case Token::Type::end: return "end of template";
    case Token::Type::name:
    case Token::Type::op: return token.text;
  }
  return {};
}

namespace {

bool is_digit_char(char c) {
  return c >= '0' && c <= '9';
}

std::string normalized(std::string_view source) {
  std::string out;
  out.reserve(source.size());
  for (size_t i = 0; i < source.size(); ++i) {
    if (source[i] == '\r') {
      out += '\n';
      if (i + 1 < source.size() && source[i + 1] == '\n') ++i;
    } else {
      out += source[i];
    }
  }
  if (!out.empty() && out.back() == '\n') out.pop_back();
  return out;
}

class Lexer {
 public:
  explicit Lexer(std::string_view source) : source_(normalized(source)), text_(source_) {}

  std::vector<Token> run() {
    while (at_ < text_.size()) root();
    add(Token::Type::end, "");
    return std::move(tokens_);
  }

 private:
  using Type = Token::Type;

  bool starts(std::string_view s, size_t at) const { return text_.substr(at).starts_with(s); }
  void add(Type type, std::string text) { tokens_.push_back({type, std::move(text), line_}); }
  // Moves to `to`, counting lines.
  void advance(size_t to) {
    line_ += static_cast<int>(std::count(text_.begin() + static_cast<ptrdiff_t>(at_),
                                         text_.begin() + static_cast<ptrdiff_t>(to), '\n'));
    line_starting_ = to > at_ && text_[to - 1] == '\n';
    at_ = to;
  }
  size_t skip_spaces(size_t at) const {
    while (at < text_.size()) {
      size_t next = at;
      if (!is_space(next_code(text_, next))) break;
      at = next;
    }
    return at;
  }
  static char sign_at(std::string_view text, size_t at) {
    return at < text.size() && (text[at] == '-' || text[at] == '+') ? text[at] : '\0';
  }

  // Text up to a tag: `sign` and lstrip_blocks decide what of its end goes.
  void data(std::string_view text, char sign, bool variable) {
    std::string_view kept = text;
    if (sign == '-') {
      kept = strip(text, false, true);
    } else if (sign != '+' && !variable) {
      const size_t line = text.rfind('\n') + 1;  // npos + 1 is 0
      if (line > 0 || line_starting_)
        if (strip(text.substr(line), true, true).empty()) kept = text.substr(0, line);
    }
    if (!kept.empty()) add(Type::data, std::string(kept));
    advance(at_ + text.size());
  }

  // The end of `{% raw %}` that begins at `at`, or npos.
  size_t raw_begin(size_t at) const {
    at = skip_spaces(at + 2 + (sign_at(text_, at + 2) ? 1 : 0));
    if (!starts("raw", at)) return text_.npos;
    at = skip_spaces(at + 3);
    if (starts("-%}", at)) return skip_spaces(at + 3);
    return starts("%}", at) ? at + 2 : text_.npos;
  }
  // Behind the closing sign of a tag, `%}` or `#}`, that stands at `at`, or npos.
  size_t tag_end(std::string_view close, size_t at) const {
    if (starts("-", at) && starts(close, at + 1)) return skip_spaces(at + 3);
    if (starts("+", at) && starts(close, at + 1)) return at + 3;
    if (!starts(close, at)) return text_.npos;
    return at + 2 + (at + 2 < text_.size() && text_[at + 2] == '\n');
  }

  void root() {
    size_t begin = at_;
    for (;; ++begin) {
      begin = text_.find('{', begin);
      if (begin == text_.npos || begin + 1 >= text_.size()) {
        add(Type::data, std::string(text_.substr(at_)));
        return advance(text_.size());
      }
      const char kind = text_[begin + 1];
      if (kind == '%' || kind == '{' || kind == '#') break;
    }
    const char kind = text_[begin + 1], sign = sign_at(text_, begin + 2);
    const size_t raw = kind == '%' ? raw_begin(begin) : text_.npos;
    data(text_.substr(at_, begin - at_), sign, kind == '{');
    if (raw != text_.npos) {
      advance(raw);
      return raw_block();
    }
    if (kind == '#') return comment(begin + 2 + (sign ? 1 : 0));
    add(kind == '{' ? Type::variable_begin : Type::block_begin, "");
    advance(begin + 2 + (sign ? 1 : 0));
    code(kind == '{');
  }

  void comment(size_t begin) {
    const size_t at = text_.find("#}", begin);
    if (at == text_.npos) {
      if (begin >= text_.size()) return advance(text_.size());  // Jinja takes what is empty
      fail_syntax(line_, "Missing end of comment tag");
    }
    const bool sign = at > begin && sign_at(text_, at - 1);
    advance(tag_end("#}", sign ? at - 1 : at));
  }

  void raw_block() {
    for (size_t at = text_.find("{%", at_); at != text_.npos; at = text_.find("{%", at + 1)) {
      const char sign = sign_at(text_, at + 2);
      size_t end = skip_spaces(at + 2 + (sign ? 1 : 0));
      if (!starts("endraw", end)) continue;
      end = tag_end("%}", skip_spaces(end + 6));
      if (end == text_.npos) continue;
      data(text_.substr(at_, at - at_), sign, false);
      return advance(end);
    }
    if (at_ < text_.size()) fail_syntax(line_, "Missing end of raw directive");
  }

  void code(bool variable) {
    std::string open;  // brackets, innermost last
    while (at_ < text_.size()) {
      if (open.empty()) {
        size_t end = text_.npos;
        if (variable)
          end = starts("-}}", at_) ? skip_spaces(at_ + 3) : starts("}}", at_) ? at_ + 2 : end;
        else
          end = tag_end("%}", at_);
        if (end != text_.npos) {
          add(variable ? Type::variable_end : Type::block_end, "");
          return advance(end);
        }
      }
      if (const size_t end = skip_spaces(at_); end != at_) {
        advance(end);
        continue;
      }
      if (!number() && !name() && !string()) sign(open);
    }
  }

  // Digits with single underscores between them; returns where they end.
  template <class IsDigit>
  size_t digits(size_t at, IsDigit is_digit) const {
    while (at < text_.size() && is_digit(text_[at])) {
      ++at;
      if (at + 1 < text_.size() && text_[at] == '_' && is_digit(text_[at + 1])) ++at;
    }
    return at;
  }

  bool number() {
    if (!is_digit_char(text_[at_])) return false;
    const auto plain = [&](size_t end) {
      std::string out(text_.substr(at_, end - at_));
      std::erase(out, '_');
      return out;
    };
    const size_t whole = digits(at_, is_digit_char);
    size_t end = whole;
    if (at_ == 0 || text_[at_ - 1] != '.') {
      if (end + 1 < text_.size() && text_[end] == '.' && is_digit_char(text_[end + 1]))
        end = digits(end + 1, is_digit_char);
      if (end < text_.size() && (text_[end] | 0x20) == 'e') {
        const size_t sign = end + 1 + (sign_at(text_, end + 1) ? 1 : 0);
        if (sign < text_.size() && is_digit_char(text_[sign])) end = digits(sign, is_digit_char);
      }
    }
    Token token{end > whole ? Type::real : Type::integer, {}, line_};
    if (token.type == Type::real) {
      token.value = Value(parse_float(plain(end)).value_or(0));
    } else {
      end = text_[at_] == '0' ? digits(at_, [](char c) { return c == '0'; }) : whole;
      const char letter = at_ + 1 < text_.size() ? static_cast<char>(text_[at_ + 1] | 0x20) : ' ';
      if (text_[at_] == '0' && (letter == 'x' || letter == 'o' || letter == 'b')) {
        const int base = letter == 'x' ? 16 : letter == 'o' ? 8 : 2;
        const size_t from = at_ + 2 + (at_ + 2 < text_.size() && text_[at_ + 2] == '_');
        const size_t to = digits(from, [&](char c) {
          return Integer::parse(std::string_view(&c, 1), base).has_value();
        });
        if (to > from) end = to;
      }
      const auto value = parse_integer(plain(end), 0);
      if (!value) fail_syntax(line_, "invalid number");
      token.value = Value(*value);
    }
    tokens_.push_back(std::move(token));
    advance(end);
    return true;
  }

  bool name() {
    size_t end = at_;
    while (end < text_.size()) {
      size_t next = end;
      const char32_t c = next_code(text_, next);
      if (c != '_' && !is_alnum(c)) break;
      end = next;
    }
    if (end == at_) return false;
    add(Type::name, std::string(text_.substr(at_, end - at_)));
    advance(end);
    return true;
  }

  bool string() {
    const char quote = text_[at_];
    if (quote != '\'' && quote != '"') return false;
    size_t end = at_ + 1;
    while (end < text_.size() && text_[end] != quote) end += text_[end] == '\\' ? 2 : 1;
    if (end >= text_.size()) return false;
    add(Type::string, unescape(text_.substr(at_ + 1, end - at_ - 1)));
    advance(end + 1);
    return true;
  }

  // Python's unicode-escape.
  std::string unescape(std::string_view in) const {
    std::string out;
    const auto code = [&](size_t at, size_t length, int base) {
      const auto v =
          at + length <= in.size() ? Integer::parse(in.substr(at, length), base) : std::nullopt;
      if (!v || v->negative() || in[at] == '+')
        fail_syntax(line_, "truncated escape in a string: expected " + std::to_string(length) +
                               " hexadecimal digits");
      if (*v >= Integer(0x110000) || (*v >= Integer(0xD800) && *v < Integer(0xE000)))
        fail_syntax(line_, "an escape in a string stands for no character");
      append_utf8(out, static_cast<char32_t>(v->small()));
      return length;
    };
    for (size_t i = 0; i < in.size(); ++i) {
      if (in[i] != '\\' || i + 1 == in.size()) {
        out += in[i];
        continue;
      }
      const char c = in[++i];
      switch (c) {
        case '\n': break;
        case '\\':
        case '\'':
        case '"': out += c; break;
        case 'a': out += '\a'; break;
        case 'b': out += '\b'; break;
        case 'f': out += '\f'; break;
        case 'n': out += '\n'; break;
        case 'r': out += '\r'; break;
        case 't': out += '\t'; break;
        case 'v': out += '\v'; break;
        case 'x': i += code(i + 1, 2, 16); break;
        case 'u': i += code(i + 1, 4, 16); break;
        case 'U': i += code(i + 1, 8, 16); break;
        case 'N':
          throw Error(Kind::unsupported, "[chat template] line " + std::to_string(line_) +
                                             ": \\N{...} in a string is not supported: write the "
                                             "character itself");
        default:
          if (c >= '0' && c <= '7') {
            size_t length = 1;
            while (length < 3 && i + length < in.size() && in[i + length] >= '0' &&
                   in[i + length] <= '7')
              ++length;
            i += code(i, length, 8) - 1;
          } else if (static_cast<unsigned char>(c) >= 0x80) {
            // Python replaces the character by an escape first, whose backslash is then escaped.
            size_t next = i;
            const char32_t wide = next_code(in, next);
            char buffer[16];
            std::snprintf(buffer, sizeof buffer,
                          wide < 0x100     ? "\\x%02x"
                          : wide < 0x10000 ? "\\u%04x"
                                           : "\\U%08x",
                          static_cast<unsigned>(wide));
            out += buffer;
            i = next - 1;
          } else {
            out += '\\';
            out += c;
          }
      }
    }
    return out;
  }

  void sign(std::string& open) {
    static constexpr std::array<std::string_view, 26> signs{
        "//", "**", "==", "!=", ">=", "<=", "+", "-", "/", "*", "%", "~", "[",
        "]",  "(",  ")",  "{",  "}",  ">",  "<", "=", ".", ":", "|", ",", ";"};
    const auto* it = std::find_if(signs.begin(), signs.end(),
                                  [&](std::string_view s) { return starts(s, at_); });
    if (it == signs.end()) {
      size_t next = at_;
      next_code(text_, next);
      fail_syntax(line_, "unexpected char " + repr_text(text_.substr(at_, next - at_)) + " at " +
                             std::to_string(count_codes(text_.substr(0, at_))));
    }
    const char c = (*it)[0];
    if (c == '(' || c == '[' || c == '{') {
      open += c == '(' ? ')' : c == '[' ? ']' : '}';
    } else if (c == ')' || c == ']' || c == '}') {
      if (open.empty()) fail_syntax(line_, "unexpected '" + std::string(1, c) + "'");
      if (open.back() != c)
        fail_syntax(line_, "unexpected '" + std::string(1, c) + "', expected '" +
                               std::string(1, open.back()) + "'");
      open.pop_back();
    }
    add(Type::op, std::string(*it));
    advance(at_ + it->size());
  }

  std::string source_;
  std::string_view text_;
  size_t at_ = 0;
  int line_ = 1;
  bool line_starting_ = true;
  std::vector<Token> tokens_;
};

}  // namespace

std::vector<Token> tokenize(std::string_view source) {
  if (const size_t at = invalid_utf8_at(source); at != std::string_view::npos)
    throw Error(Kind::bad_data, "[chat template] byte " + std::to_string(at) +
                                    " is not valid UTF-8: expected text");
  return Lexer(source).run();
}

}  // namespace lmxlab::data::jinja
