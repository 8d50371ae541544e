// "..." % values, "...".format(...), and the format specifications of numbers and texts.
#include "lmxlab/base/text.h"
#include "lmxlab/data/jinja/operators.h"
#include "lmxlab/data/jinja/unicode.h"

#include <algorithm>
#include <cmath>
#include <cstdio>
#include <cstdlib>

namespace lmxlab::data::jinja {
namespace {

constexpr int kMaxPrecision = 1'000;
constexpr int64_t kMaxWidth = 10'000'000;

bool is_digit_char(char c) {
  return c >= '0' && c <= '9';
}

std::string ascii(std::string_view text) {  // of a repr: everything else escaped
  std::string out;
  char buffer[16];
  for (size_t at = 0; at < text.size();) {
    const char32_t c = next_code(text, at);
    if (c < 0x80) {
      out += static_cast<char>(c);
      continue;
    }
    std::snprintf(buffer, sizeof buffer,
                  c < 0x100     ? "\\x%02x"
                  : c < 0x10000 ? "\\u%04x"
                                : "\\U%08x",
                  static_cast<unsigned>(c));
    out += buffer;
  }
  return out;
}

// |v| as printf's %e, %f or %g with this precision.
std::string print_real(double v, char type, int precision, bool alternate) {
  const bool upper_case = type >= 'A' && type <= 'Z';
  if (std::isnan(v)) return upper_case ? "NAN" : "nan";
  if (std::isinf(v)) return upper_case ? "INF" : "inf";
  const std::string format = std::string("%") + (alternate ? "#" : "") + ".*" + type;
  std::string out(static_cast<size_t>(precision) + 400, '\0');
  const int n = std::snprintf(out.data(), out.size(), format.c_str(), precision, std::abs(v));
  out.resize(static_cast<size_t>(std::max(n, 0)));
  return out;
}

std::string pad(Runtime& rt, std::string_view text, int64_t width, char align,
                std::string_view fill) {
  const auto n = static_cast<int64_t>(count_codes(text));
  if (width <= n) return std::string(text);
  const int64_t room = width - n;
  rt.make(static_cast<size_t>(room) * fill.size());
  const int64_t before = align == '<' ? 0 : align == '^' ? room / 2 : room;
  std::string out;
  for (int64_t i = 0; i < before; ++i) out += fill;
  out += text;
  for (int64_t i = before; i < room; ++i) out += fill;
  return out;
}

// ---- % ----

class Percent {
 public:
  Percent(Runtime& rt, const Value& format, const Value& values)
      : rt_(rt), format_(format.text()), markup_(format.is_markup()), values_(values) {}

  Value run() {
    std::string out;
    while (at_ < format_.size()) {
      const size_t next = std::min(format_.find('%', at_), format_.size());
      out.append(format_.substr(at_, next - at_));
      at_ = next;
      if (at_ == format_.size()) break;
      ++at_;
      rt_.step();
      out += conversion();
      rt_.make(out.size() > made_ ? out.size() - made_ : 0);
      made_ = out.size();
    }
    const bool mapping = !values_.is_tuple() && !values_.is_text() &&
                         (values_.is_dict() || values_.is_list() || values_.as<Range>());
    const size_t given = values_.is_tuple() ? values_.items().size() : 1;
    if (used_ < given && !mapping) rt_.fail("not all arguments converted during string formatting");
    return rt_.text(std::move(out), markup_);
  }

 private:
  char peek() {
    if (at_ >= format_.size()) rt_.fail("incomplete format");
    return format_[at_];
  }

  const Value& next_value() {
    const size_t given = values_.is_tuple() ? values_.items().size() : 1;
    if (used_ >= given) rt_.fail("not enough arguments for format string");
    ++used_;
    return values_.is_tuple() ? values_.items()[used_ - 1] : values_;
  }

  int64_t number() {
    if (peek() == '*') {
      ++at_;
      const Value& v = next_value();
      if (!v.is_integer()) rt_.fail("* wants int");
      return std::clamp<int64_t>(to_index(rt_, v), -kMaxWidth, kMaxWidth);
    }
    int64_t n = 0;
    while (is_digit_char(peek())) n = std::min(n * 10 + (format_[at_++] - '0'), kMaxWidth);
    return n;
  }

  std::string conversion() {
    const Value* value = nullptr;
    if (peek() == '(') {
      if (!values_.is_dict()) rt_.fail("format requires a mapping");
      const size_t begin = ++at_;
      for (int open = 1; open > 0; ++at_) {
        if (peek() == '(') ++open;
        if (format_[at_] == ')') --open;
      }
      const auto key = format_.substr(begin, at_ - 1 - begin);
      value = values_.dict().find(key);
      if (!value) rt_.fail("KeyError: " + repr_text(key));
      used_ = 1;
    }
    bool left = false, plus_sign = false, space = false, zero = false, alternate = false;
    for (;; ++at_) {
      const char c = peek();
      if (c == '-')
        left = true;
      else if (c == '+')
        plus_sign = true;
      else if (c == ' ')
        space = true;
      else if (c == '0')
        zero = true;
      else if (c == '#')
        alternate = true;
      else
        break;
    }
    int64_t width = number(), precision = -1;
    if (width < 0) left = true, width = -width;
    if (peek() == '.') {
      ++at_;
      precision = std::max<int64_t>(number(), 0);
    }
    while (peek() == 'h' || peek() == 'l' || peek() == 'L') ++at_;
    const size_t place = at_;
    const char type = peek();
    ++at_;
    if (type == '%') return "%";
    if (!value) value = &next_value();
    const Value& v = *value;
    std::string sign, prefix, body;
    bool numeric = true;
    switch (type) {
      case 's':
      case 'r':
      case 'a': {
        numeric = false;
        body = type == 's' ? to_text(rt_, v) : repr(rt_, v);
        if (type == 'a') body = ascii(body);
        if (markup_) body = type == 's' ? escaped(rt_, v) : escape_html(body);
        if (precision >= 0) body.resize(offset_of(body, static_cast<size_t>(precision)));
        break;
      }
      case 'c':
        numeric = false;
        if (v.is_integer() && v.integer() >= Integer(0) && v.integer() < Integer(0x110000) &&
            (v.integer() < Integer(0xD800) || v.integer() >= Integer(0xE000)))
          body = encode_utf8(static_cast<char32_t>(v.integer().small()));
        else if (v.is_text() && count_codes(v.text()) == 1)
          body = v.text();
        else
          rt_.fail("%c requires int or char");
        break;
      case 'd':
      case 'i':
      case 'u':
      case 'o':
      case 'x':
      case 'X': {
        const bool decimal = type == 'd' || type == 'i' || type == 'u';
        if (v.is_undefined()) rt_.fail(v.undefined().message);
        if (!(v.is_integer() || (decimal && v.is_float())))
          rt_.fail("%" + std::string(1, type) +
                   " format: " + (decimal ? "a real number" : "an integer") + " is required, not " +
                   std::string(v.type_name()));
        if (v.is_float() && !std::isfinite(v.real()))
          rt_.fail("cannot convert float infinity or NaN to integer");
        const Integer i = v.is_float() ? Integer::truncate(v.real()) : v.integer();
        if (!i.is_small()) rt_.step(1 + i.bits() * i.bits() / 256);
        sign = i.negative() ? "-" : plus_sign ? "+" : space ? " " : "";
        body = i.abs().to_string(type == 'o' ? 8 : decimal ? 10 : 16);
        if (alternate && !decimal) prefix = std::string("0") + type;
        if (precision > static_cast<int64_t>(body.size())) {
          rt_.make(static_cast<size_t>(precision));
          body.insert(0, static_cast<size_t>(precision) - body.size(), '0');
        }
        if (type == 'X') body = upper(body);
        break;
      }
      case 'e':
      case 'E':
      case 'f':
      case 'F':
      case 'g':
      case 'G': {
        const double d = to_real(rt_, v);
        if (precision > kMaxPrecision) rt_.fail("precision too large", Kind::resource);
        sign = std::signbit(d) && !std::isnan(d) ? "-" : plus_sign ? "+" : space ? " " : "";
        body = print_real(d, type, precision < 0 ? 6 : static_cast<int>(precision), alternate);
        break;
      }
      default:
        rt_.fail("unsupported format character '" + std::string(1, type) + "' at index " +
                 std::to_string(count_codes(format_.substr(0, place))));
    }
    if (numeric && zero && !left) {
      const auto room = width - static_cast<int64_t>(sign.size() + prefix.size() + body.size());
      if (room > 0) {
        rt_.make(static_cast<size_t>(room));
        body.insert(0, static_cast<size_t>(room), '0');
      }
    }
    return pad(rt_, sign + prefix + body, width, left ? '<' : '>', " ");
  }

  Runtime& rt_;
  std::string_view format_;
  bool markup_;
  const Value& values_;
  size_t at_ = 0, used_ = 0, made_ = 0;
};

// ---- {} ----

struct Spec {
  std::string fill = " ";
  char align = 0, sign = '-', grouping = 0, type = 0;
  bool alternate = false, zero = false, z = false;
  int64_t width = 0, precision = -1;
};

Spec parse_spec(Runtime& rt, std::string_view text, const Value& v) {
  const auto invalid = [&] {
    rt.fail("Invalid format specifier '" + std::string(text) + "' for object of type '" +
            std::string(v.type_name()) + "'");
  };
  Spec s;
  const auto is_align = [](char c) { return c == '<' || c == '>' || c == '=' || c == '^'; };
  size_t at = 0, first = 0;
  if (!text.empty()) next_code(text, first);
  if (first < text.size() && is_align(text[first])) {
    s.fill = std::string(text.substr(0, first));
    s.align = text[first];
    at = first + 1;
  } else if (!text.empty() && is_align(text[0])) {
    s.align = text[0];
    at = 1;
  }
  const auto take = [&](std::string_view chars, char otherwise) {
    return at < text.size() && chars.find(text[at]) != chars.npos ? text[at++] : otherwise;
  };
  const auto number = [&] {
    int64_t n = 0;
    while (at < text.size() && is_digit_char(text[at]))
      if ((n = n * 10 + (text[at++] - '0')) > kMaxWidth)
        rt.fail("Too many decimal digits in format string");
    return n;
  };
  s.sign = take("+- ", '-');
  s.z = take("z", 0);
  s.alternate = take("#", 0);
  if (at < text.size() && text[at] == '0') {
    ++at;
    s.zero = true;
    if (!s.align) s.fill = "0", s.align = v.is_text() ? '<' : '=';
  }
  s.width = number();
  s.grouping = take(",_", 0);
  if (take(",_", 0)) rt.fail("Cannot specify both ',' and '_'.");
  if (take(".", 0)) {
    if (at >= text.size() || !is_digit_char(text[at]))
      rt.fail("Format specifier missing precision");
    s.precision = number();
  }
  if (text.size() - at > 1) invalid();
  if (at < text.size()) s.type = text[at];
  return s;
}

std::string grouped(std::string_view digits, char separator, size_t every) {
  std::string out;
  for (size_t i = 0; i < digits.size(); ++i) {
    if (i > 0 && (digits.size() - i) % every == 0) out += separator;
    out += digits[i];
  }
  return out;
}

// Sign, prefix, the digits before the point, and what follows them.
std::string assemble(Runtime& rt, const Spec& s, const std::string& sign, std::string digits,
                     const std::string& rest, size_t every) {
  const std::string fill = s.fill;
  const auto head = static_cast<int64_t>(sign.size()), tail = static_cast<int64_t>(rest.size());
  const auto whole = [&] { return s.grouping ? grouped(digits, s.grouping, every) : digits; };
  if (s.align == '=' && fill == "0") {
    // Zeros count as digits, and are grouped with them.
    rt.make(static_cast<size_t>(std::max<int64_t>(s.width, 0)));
    const int64_t room = s.width - head - tail;
    if (room > static_cast<int64_t>(digits.size()) && !s.grouping)
      digits.insert(0, static_cast<size_t>(room) - digits.size(), '0');
    if (s.grouping) {
      const auto n = static_cast<int64_t>(digits.size());
      int64_t count = std::max(n, room - room / static_cast<int64_t>(every + 1));
      const auto width_of = [&](int64_t d) { return d + (d - 1) / static_cast<int64_t>(every); };
      while (count > n && width_of(count - 1) >= room) --count;
      while (width_of(count) < room) ++count;
      digits.insert(0, static_cast<size_t>(count - n), '0');
    }
    return sign + whole() + rest;
  }
  const std::string body = whole() + rest;
  if (s.align == '=') return sign + pad(rt, body, s.width - head, '>', fill);
  return pad(rt, sign + body, s.width, s.align ? s.align : '>', fill);
}

// As g, but it always looks like a float, and one digit earlier turns to an exponent.
std::string print_general(double v, int digits) {
  std::string body = print_real(v, 'e', digits - 1, false);
  const size_t e = body.find('e');
  if (e == body.npos || !std::isfinite(v)) return body;
  const int exponent = std::atoi(body.c_str() + e + 1);
  if (exponent < -4 || exponent >= digits - 1) {
    std::string mantissa = body.substr(0, e);
    if (mantissa.find('.') != mantissa.npos) {
      while (mantissa.back() == '0') mantissa.pop_back();
      if (mantissa.back() == '.') mantissa.pop_back();
    }
    return mantissa + body.substr(e);
  }
  body = print_real(v, 'g', digits, false);
  return body.find('.') == body.npos ? body + ".0" : body;
}

std::string format_real(Runtime& rt, double v, const Spec& s) {
  std::string sign = std::signbit(v) && !std::isnan(v) ? "-"
                     : s.sign == '-'                   ? ""
                                                       : std::string(1, s.sign);
  if (s.precision > kMaxPrecision) rt.fail("precision too large", Kind::resource);
  const int precision = static_cast<int>(s.precision);
  std::string body;
  switch (s.type) {
    case 0:
      if (precision < 0) {
        body = repr_float(std::abs(v));
      } else {
        body = print_general(v, std::max(precision, 1));
      }
      break;
    case '%':
      body = print_real(v * 100, 'f', precision < 0 ? 6 : precision, s.alternate) + "%";
      break;
    case 'n':
    case 'e':
    case 'E':
    case 'f':
    case 'F':
    case 'g':
    case 'G': {
      const char type = s.type == 'n' ? 'g' : s.type;
      int digits = precision < 0 ? 6 : precision;
      body = print_real(v, type, digits, s.alternate);
      break;
    }
    default:
      rt.fail("Unknown format code '" + std::string(1, s.type) + "' for object of type 'float'");
  }
  size_t whole = 0;
  while (whole < body.size() && is_digit_char(body[whole])) ++whole;
  if (s.z && sign == "-" && body.find_first_of("123456789") == body.npos)
    sign = s.sign == '-' ? "" : std::string(1, s.sign);
  return assemble(rt, s, sign, body.substr(0, whole), body.substr(whole), 3);
}

std::string format_integer(Runtime& rt, const Integer& i, const Spec& s) {
  if (s.precision >= 0) rt.fail("Precision not allowed in integer format specifier");
  if (!i.is_small()) rt.step(1 + i.bits() * i.bits() / 256);
  std::string sign = i.negative() ? "-" : s.sign == '-' ? "" : std::string(1, s.sign);
  int base = 10;
  switch (s.type) {
    case 0:
    case 'd':
    case 'n': break;
    case 'b': base = 2; break;
    case 'o': base = 8; break;
    case 'x':
    case 'X': base = 16; break;
    case 'c': {
      if (i < Integer(0) || i >= Integer(0x110000) || (i >= Integer(0xD800) && i < Integer(0xE000)))
        rt.fail("%c arg not in range(0x110000)");
      return pad(rt, encode_utf8(static_cast<char32_t>(i.small())), s.width,
                 s.align ? s.align : '>', s.fill);
    }
    default:
      rt.fail("Unknown format code '" + std::string(1, s.type) + "' for object of type 'int'");
  }
  if (s.grouping == ',' && base != 10)
    rt.fail("Cannot specify ',' with '" + std::string(1, s.type) + "'.");
  std::string digits = i.abs().to_string(base);
  if (s.type == 'X') digits = upper(digits);
  if (s.alternate && base != 10) sign += std::string("0") + s.type;
  return assemble(rt, s, sign, digits, "", base == 10 ? 3 : 4);
}

class Braces {
 public:
  Braces(Runtime& rt, const Arguments& arguments, bool markup)
      : rt_(rt), arguments_(arguments), markup_(markup) {}

  std::string run(std::string_view text, int level) {
    if (level > 2) rt_.fail("Max string recursion exceeded");
    std::string out;
    for (size_t at = 0; at < text.size();) {
      const char c = text[at];
      if (c != '{' && c != '}') {
        out += c;
        ++at;
        continue;
      }
      if (at + 1 < text.size() && text[at + 1] == c) {
        out += c;
        at += 2;
        continue;
      }
      if (c == '}') rt_.fail("Single '}' encountered in format string");
      rt_.step();
      size_t end = ++at;
      int open = 1;
      bool bracket = false;
      for (; end < text.size(); ++end) {
        if (text[end] == '[') bracket = true;
        if (text[end] == ']') bracket = false;
        if (bracket) continue;
        if (text[end] == '{') ++open;
        if (text[end] == '}' && --open == 0) break;
      }
      if (end >= text.size())
        rt_.fail(at >= text.size() ? "Single '{' encountered in format string"
                                   : "expected '}' before end of string");
      out += field(text.substr(at, end - at), level);
      rt_.make(64);
      at = end + 1;
    }
    return out;
  }

 private:
  std::string field(std::string_view text, int level) {
    size_t at = 0;
    for (bool bracket = false; at < text.size(); ++at) {
      if (text[at] == '[') bracket = true;
      if (text[at] == ']') bracket = false;
      if (!bracket && (text[at] == '!' || text[at] == ':')) break;
    }
    const std::string_view name = text.substr(0, at);
    Value v = lookup(name);
    if (at < text.size() && text[at] == '!') {
      if (at + 1 >= text.size()) rt_.fail("end of string while looking for conversion specifier");
      const char conversion = text[at + 1];
      if (conversion == 's')
        v = rt_.text(to_text(rt_, v));
      else if (conversion == 'r')
        v = rt_.text(repr(rt_, v));
      else if (conversion == 'a')
        v = rt_.text(ascii(repr(rt_, v)));
      else
        rt_.fail("Unknown conversion specifier '" + std::string(1, conversion) + "'");
      at += 2;
      if (at < text.size() && text[at] != ':') rt_.fail("expected ':' after conversion specifier");
    }
    const std::string spec = at < text.size() ? run(text.substr(at + 1), level + 1) : "";
    const std::string out = format_value(rt_, v, spec);
    rt_.make(out.size());
    return markup_ && !v.is_markup() ? escape_html(out) : out;
  }

  Value lookup(std::string_view name) {
    size_t at = std::min(name.find_first_of(".["), name.size());
    const std::string_view first = name.substr(0, at);
    const bool number = !first.empty() && std::all_of(first.begin(), first.end(), is_digit_char);
    Value v;
    if (first.empty() || number) {
      if (first.empty() ? numbered_ : automatic_)
        rt_.fail("cannot switch between automatic field numbering and manual field specification");
      (first.empty() ? automatic_ : numbered_) = true;
      size_t i = first.empty() ? next_++ : 0;
      for (const char c : first)
        i = std::min<size_t>(i * 10 + static_cast<size_t>(c - '0'), 1 << 30);
      if (i >= arguments_.positional.size())
        rt_.fail("Replacement index " + std::to_string(i) +
                 " out of range for positional args tuple");
      v = arguments_.positional[i];
    } else {
      rt_.step(arguments_.named.size() / 8);
      const auto it = std::find_if(arguments_.named.begin(), arguments_.named.end(),
                                   [&](const auto& n) { return n.first == first; });
      if (it == arguments_.named.end()) rt_.fail("KeyError: " + repr_text(first));
      v = it->second;
    }
    while (at < name.size()) {
      if (name[at] == '.') {
        const size_t end = std::min(name.find_first_of(".[", at + 1), name.size());
        if (end == at + 1) rt_.fail("Empty attribute in format string");
        v = get_attribute(rt_, v, name.substr(at + 1, end - at - 1));
        at = end;
      } else if (name[at] == '[') {
        const size_t end = name.find(']', at);
        if (end == name.npos) rt_.fail("Missing ']' in format string");
        const auto key = name.substr(at + 1, end - at - 1);
        if (key.empty()) rt_.fail("Empty attribute in format string");
        const bool digits = std::all_of(key.begin(), key.end(), is_digit_char);
        v = get_item(rt_, v, digits ? Value(*Integer::parse(key)) : rt_.text(key));
        at = end + 1;
      } else {
        rt_.fail("Only '.' or '[' may follow ']' in format field specifier");
      }
    }
    return v;
  }

  Runtime& rt_;
  const Arguments& arguments_;
  bool markup_;
  size_t next_ = 0;
  bool automatic_ = false, numbered_ = false;
};

}  // namespace

Value format_percent(Runtime& rt, const Value& format, const Value& values) {
  return Percent(rt, format, values).run();
}

Value format_braces(Runtime& rt, const Value& format, const Arguments& arguments) {
  return rt.text(Braces(rt, arguments, format.is_markup()).run(format.text(), 1),
                 format.is_markup());
}

std::string format_value(Runtime& rt, const Value& v, std::string_view spec) {
  if (spec.empty()) return to_text(rt, v);
  if (!v.is_text() && !v.is_number())
    rt.fail("unsupported format string passed to " + std::string(v.type_name()) + ".__format__");
  const Spec s = parse_spec(rt, spec, v);
  if (v.is_text()) {
    if (s.type && s.type != 's')
      rt.fail("Unknown format code '" + std::string(1, s.type) + "' for object of type 'str'");
    if (s.align == '=') rt.fail("'=' alignment not allowed in string format specifier");
    if (s.sign != '-') rt.fail("Sign not allowed in string format specifier");
    if (s.alternate) rt.fail("Alternate form (#) not allowed in string format specifier");
    if (s.grouping) rt.fail("Cannot specify ',' with 's'.");
    std::string_view text = v.text();
    if (s.precision >= 0) text = text.substr(0, offset_of(text, static_cast<size_t>(s.precision)));
    return pad(rt, text, s.width, s.align ? s.align : '<', s.fill);
  }
  const bool real = v.is_float() ||
                    (s.type && std::string_view("eEfFgG%").find(s.type) != std::string_view::npos);
  return real ? format_real(rt, to_real(rt, v), s) : format_integer(rt, v.integer(), s);
}

}  // namespace lmxlab::data::jinja
