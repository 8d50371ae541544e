#include "lmxlab/data/jinja/operators.h"

#include "lmxlab/base/text.h"
#include "lmxlab/data/jinja/unicode.h"

#include <algorithm>
#include <cmath>
#include <cstdlib>

namespace lmxlab::data::jinja {
namespace {

// Work with large integers grows with the square of their length.
void charge(Runtime& rt, const Integer& a, const Integer& b) {
  if (!a.is_small() || !b.is_small()) rt.step(1 + (a.bits() + 64) * (b.bits() + 64) / 256);
}

Value integers(Runtime& rt, Operator op, const Integer& a, const Integer& b) {
  charge(rt, a, b);
  switch (op) {
    case Operator::add: return Value(a + b);
    case Operator::sub: return Value(a - b);
    case Operator::mul: return Value(a * b);
    case Operator::div: {
      if (b.is_zero()) rt.fail("division by zero");
      const auto d = Integer::true_divide(a, b);
      if (!d) rt.fail("integer division result too large for a float");
      return Value(*d);
    }
    case Operator::floordiv:
    case Operator::mod: {
      if (b.is_zero()) rt.fail("integer division or modulo by zero");
      if (a.is_small() && b.is_small() && b.small() != -1) {
        int64_t q = a.small() / b.small(), r = a.small() % b.small();
        if (r != 0 && (r < 0) != (b.small() < 0)) --q, r += b.small();
        return Value::integer(op == Operator::mod ? r : q);
      }
      const auto d = Integer::divide(a, b);
      return Value(op == Operator::mod ? d.remainder : d.quotient);
    }
    case Operator::pow:
      if (b.negative()) {
        if (a.is_zero()) rt.fail("0.0 cannot be raised to a negative power");
        const auto x = a.to_double(), y = b.to_double();
        if (!x || !y) rt.fail("int too large to convert to float");
        return Value(std::pow(*x, *y));
      }
      rt.step(64);
      if (b.is_small() && a.bits() > 1) {
        const size_t bits = a.bits() * static_cast<size_t>(std::min<int64_t>(b.small(), 1 << 20));
        if (bits > 64 && bits <= Integer::kMaxBits) rt.step(bits * bits / 256);
      }
      return Value(Integer::power(a, b));
  }
  return Value(None{});
}

Value floats(Runtime& rt, Operator op, double a, double b) {
  switch (op) {
    case Operator::add: return Value(a + b);
    case Operator::sub: return Value(a - b);
    case Operator::mul: return Value(a * b);
    case Operator::div:
      if (b == 0) rt.fail("float division by zero");
      return Value(a / b);
    case Operator::floordiv:
    case Operator::mod: {
      if (b == 0) rt.fail("float floor division or modulo by zero");
      double r = std::fmod(a, b), q = (a - r) / b;
      if (r != 0 && (r < 0) != (b < 0))
        r += b, q -= 1;
      else if (r == 0)
        r = std::copysign(0.0, b);
      if (op == Operator::mod) return Value(r);
      if (q == 0) return Value(std::copysign(0.0, a / b));
      const double whole = std::floor(q);
      return Value(q - whole > 0.5 ? whole + 1 : whole);
    }
    case Operator::pow: {
      if (a == 0 && b < 0) rt.fail("0.0 cannot be raised to a negative power");
      if (a < 0 && std::isfinite(a) && std::isfinite(b) && std::trunc(b) != b)
        rt.fail("a complex number would come of it", Kind::unsupported);
      const double r = std::pow(a, b);
      if (std::isinf(r) && std::isfinite(a) && std::isfinite(b))
        rt.fail("(34, 'Numerical result out of range')");
      return Value(r);
    }
  }
  return Value(None{});
}

Value repeat(Runtime& rt, const Value& v, const Value& times) {
  if (!times.integer().is_small()) rt.fail("cannot fit 'int' into an index-sized integer");
  const int64_t given = times.integer().negative() ? 0 : times.integer().small();
  const size_t unit = v.is_text() ? v.text().size() : v.items().size() * sizeof(Value);
  const size_t n = unit == 0 ? 0 : static_cast<size_t>(given);
  if (n > 0 && n > (size_t{1} << 40) / unit) rt.make(SIZE_MAX);
  rt.make(n * unit);
  if (v.is_text()) {
    std::string out;
    out.reserve(n * unit);
    for (size_t i = 0; i < n; ++i) out += v.text();
    return rt.text(std::move(out), v.is_markup());
  }
  std::vector<Value> out;
  for (size_t i = 0; i < n; ++i) out.insert(out.end(), v.items().begin(), v.items().end());
  return v.is_tuple() ? rt.tuple(std::move(out)) : rt.list(std::move(out));
}

Value concatenate(Runtime& rt, const Value& a, const Value& b) {
  if (a.is_text() && b.is_text()) {
    if (a.is_markup() == b.is_markup()) return rt.text(a.text() + b.text(), a.is_markup());
    return rt.text(escaped(rt, a) + escaped(rt, b), true);
  }
  if (a.is_sequence() && b.is_sequence() && a.is_tuple() == b.is_tuple()) {
    std::vector<Value> out = a.items();
    out.insert(out.end(), b.items().begin(), b.items().end());
    return a.is_tuple() ? rt.tuple(std::move(out)) : rt.list(std::move(out));
  }
  if (!a.is_undefined() && !b.is_undefined() && !a.is_markup() && (a.is_text() || a.is_sequence()))
    rt.fail("can only concatenate " + std::string(a.type_name()) + " (not \"" +
            std::string(b.type_name()) + "\") to " + std::string(a.type_name()));
  rt.fail_type("+", a, b);
}

bool is_hashable(Runtime& rt, const Value& v) {
  rt.step();
  if (!v.is_tuple()) return !v.is_list() && !v.is_dict() && !v.as<DictView>();
  return std::all_of(v.items().begin(), v.items().end(),
                     [&](const Value& item) { return is_hashable(rt, item); });
}

// __getitem__: none where Python raises TypeError or LookupError.
std::optional<Value> element(Runtime& rt, const Value& object, const Value& key) {
  if (object.is_dict()) {
    if (!is_hashable(rt, key)) return std::nullopt;
    const Value* found = object.dict().find(rt, key);
    return found ? std::optional(*found) : std::nullopt;
  }
  if (object.is_sequence() || object.is_text()) {
    if (!key.is_integer() || !key.integer().is_small()) return std::nullopt;
    int64_t i = key.integer().small();
    const auto n = static_cast<int64_t>(*length(rt, object));
    if (i < 0) i += n;
    if (i < 0 || i >= n) return std::nullopt;
    if (object.is_sequence()) return object.items()[static_cast<size_t>(i)];
    const std::string_view text = object.text();
    size_t at = offset_of(text, static_cast<size_t>(i));
    const size_t start = at;
    next_code(text, at);
    return rt.text(text.substr(start, at - start), object.is_markup());
  }
  return object.is_object() ? object.object().item(rt, key) : std::nullopt;
}

class BoundMethod : public Object {
 public:
  BoundMethod(Value self, const Method* method) : self_(std::move(self)), method_(method) {
    depth = self_.depth() + 1;
  }
  std::string_view type_name() const override { return "builtin_function_or_method"; }
  std::string repr(Runtime&) const override {
    return "<built-in method " + std::string(method_->name) + " of " +
           std::string(self_.type_name()) + " object>";
  }
  bool callable() const override { return true; }
  Value call(Runtime& rt, const Arguments& arguments) override {
    return method_->run(rt, self_, arguments);
  }

 private:
  Value self_;
  const Method* method_;
};

Value unsafe(Runtime& rt, const Value& object, std::string_view name) {
  return rt.undefined("access to attribute " + repr_text(name) + " of '" +
                      std::string(object.type_name()) + "' object is unsafe.");
}

}  // namespace

std::string_view sign_of(Operator op) {
  static constexpr std::string_view signs[] = {"+", "-", "*", "/", "//", "%", "** or pow()"};
  return signs[static_cast<int>(op)];
}

double to_real(Runtime& rt, const Value& v) {
  if (v.is_undefined()) rt.fail(v.undefined().message);
  if (v.is_float()) return v.real();
  if (!v.is_integer()) rt.fail("must be real number, not " + std::string(v.type_name()));
  const auto d = v.integer().to_double();
  if (!d) rt.fail("int too large to convert to float");
  return *d;
}

Value binary(Runtime& rt, Operator op, const Value& a, const Value& b) {
  if (op == Operator::mod && a.is_text()) return format_percent(rt, a, b);
  if (a.is_undefined() || b.is_undefined()) rt.fail_type("", a, b);
  if (a.is_number() && b.is_number()) {
    if (a.is_integer() && b.is_integer()) return integers(rt, op, a.integer(), b.integer());
    return floats(rt, op, to_real(rt, a), to_real(rt, b));
  }
  if (op == Operator::add) return concatenate(rt, a, b);
  if (op == Operator::mul) {
    if ((a.is_text() || a.is_sequence()) && b.is_integer()) return repeat(rt, a, b);
    if ((b.is_text() || b.is_sequence()) && a.is_integer()) return repeat(rt, b, a);
    if (a.is_text() || a.is_sequence() || b.is_text() || b.is_sequence())
      rt.fail("can't multiply sequence by non-int of type '" +
              std::string((a.is_text() || a.is_sequence() ? b : a).type_name()) + "'");
  }
  rt.fail_type(std::string(sign_of(op)), a, b);
}

Value negate(Runtime& rt, const Value& v) {
  if (v.is_undefined()) rt.fail(v.undefined().message);
  if (v.is_float()) return Value(-v.real());
  if (!v.is_integer())
    rt.fail("bad operand type for unary -: '" + std::string(v.type_name()) + "'");
  return Value(-v.integer());
}

Value plus(Runtime& rt, const Value& v) {
  if (v.is_undefined()) rt.fail(v.undefined().message);
  if (!v.is_number()) rt.fail("bad operand type for unary +: '" + std::string(v.type_name()) + "'");
  return v.is_float() ? v : Value(v.integer());
}

bool contains(Runtime& rt, const Value& item, const Value& in) {
  rt.step();
  if (in.is_text()) {
    if (!item.is_text())
      rt.fail("'in <string>' requires string as left operand, not " +
              std::string(item.type_name()));
    rt.step(in.text().size() / 64);
    return find_text(in.text(), item.text()) != std::string_view::npos;
  }
  if (in.is_sequence()) {
    for (const Value& other : in.items())
      if (equal(rt, other, item)) return true;
    return false;
  }
  if (in.is_dict()) return in.dict().find(rt, item) != nullptr;
  if (in.is_undefined()) return false;
  if (in.is_object()) return in.object().contains(rt, in, item);
  rt.fail("argument of type '" + std::string(in.type_name()) + "' is not iterable");
}

std::optional<Value> find_attribute(Runtime& rt, const Value& object, std::string_view name) {
  if (name.size() > 4 && name.starts_with("__") && name.ends_with("__"))
    return unsafe(rt, object, name);
  if (object.is_undefined()) rt.fail(object.undefined().message);
  if (object.is_object()) {
    if (auto v = object.object().attribute(rt, name, object)) return v;
  } else if (object.is_number()) {
    if (name == "real") return object.is_bool() ? Value(object.integer()) : object;
    if (name == "imag") return object.is_float() ? Value(0.0) : Value::integer(0);
    if (object.is_integer() && name == "numerator") return Value(object.integer());
    if (object.is_integer() && name == "denominator") return Value::integer(1);
  } else if (object.is_group()) {
    if (name == "grouper") return object.items()[0];
    if (name == "list") return object.items()[1];
  }
  if (const Method* method = find_method(object, name)) {
    if (method->unsafe) return unsafe(rt, object, name);
    return rt.object<BoundMethod>(object, method);
  }
  return std::nullopt;
}

Value get_attribute(Runtime& rt, const Value& object, std::string_view name) {
  rt.step();
  if (auto v = find_attribute(rt, object, name)) return std::move(*v);
  // The common case without a key of its own to make.
  if (object.is_dict()) {
    if (const Value* v = object.dict().find(name)) return *v;
    return rt.undefined_member(object, rt.text(name));
  }
  const Value key = rt.text(name);
  if (auto v = element(rt, object, key)) return std::move(*v);
  return rt.undefined_member(object, key);
}

Value get_item(Runtime& rt, const Value& object, const Value& key) {
  rt.step();
  if (object.is_undefined()) rt.fail(object.undefined().message);
  if (auto v = element(rt, object, key)) return std::move(*v);
  if (key.is_text())
    if (auto v = find_attribute(rt, object, key.text())) return std::move(*v);
  return rt.undefined_member(object, key);
}

Value slice(Runtime& rt, const Value& object, const Value& start, const Value& stop,
            const Value& step) {
  if (object.is_undefined()) rt.fail(object.undefined().message);
  auto* range = object.as<Range>();
  if (!object.is_text() && !object.is_sequence() && !range)
    rt.fail(object.is_dict()
                ? "unhashable type: 'slice'"
                : "'" + std::string(object.type_name()) + "' object is not subscriptable");
  constexpr int64_t kFar = int64_t{1} << 60;
  const auto bound = [&](const Value& v, int64_t otherwise) {
    if (v.is_none() || v.is_missing()) return otherwise;
    if (!v.is_integer())
      rt.fail("slice indices must be integers or None or have an __index__ method");
    const Integer i = v.integer();
    if (!i.is_small()) return i.negative() ? -kFar : kFar;
    return std::clamp(i.small(), -kFar, kFar);
  };
  const int64_t by = bound(step, 1), n = static_cast<int64_t>(*length(rt, object));
  if (by == 0) rt.fail("slice step cannot be zero");
  const auto place = [&](const Value& v, int64_t otherwise) {
    int64_t i = bound(v, otherwise);
    if (v.is_none() || v.is_missing()) return i;
    if (i < 0) i += n;
    return by > 0 ? std::clamp<int64_t>(i, 0, n) : std::clamp<int64_t>(i, -1, n - 1);
  };
  const int64_t from = place(start, by > 0 ? 0 : n - 1), to = place(stop, by > 0 ? n : -1);
  if (range) {
    const auto at = [&](int64_t i) { return range->start + i * range->step; };
    // A step of that size takes one item at most, whatever it is.
    constexpr int64_t kMaxStep = int64_t{1} << 31;
    const bool far =
        by > kMaxStep || by < -kMaxStep || range->step > kMaxStep || range->step < -kMaxStep;
    return rt.object<Range>(at(from), at(to),
                            range->step * (far ? std::clamp(by, -n - 1, n + 1) : by));
  }
  const Range chosen(from, to, by);
  const size_t count = chosen.size();
  if (object.is_sequence()) {
    std::vector<Value> out;
    out.reserve(count);
    for (size_t i = 0; i < count; ++i)
      out.push_back(object.items()[static_cast<size_t>(chosen.at(i))]);
    return object.is_tuple() ? rt.tuple(std::move(out)) : rt.list(std::move(out));
  }
  const std::string& text = object.text();
  rt.step(text.size() / 16);
  if (by == 1) {
    const size_t begin = offset_of(text, static_cast<size_t>(from));
    const std::string_view rest = std::string_view(text).substr(begin);
    return rt.text(rest.substr(0, offset_of(rest, count)), object.is_markup());
  }
  const auto codes = decode_utf8(text);
  std::u32string out;
  for (size_t i = 0; i < count; ++i) out += codes[static_cast<size_t>(chosen.at(i))];
  return rt.text(encode_utf8(out), object.is_markup());
}

Value call(Runtime& rt, const Value& callee, const Arguments& arguments) {
  rt.step();
  if (callee.is_undefined()) rt.fail(callee.undefined().message);
  if (!callee.is_object() || !callee.object().callable())
    rt.fail("'" + std::string(callee.type_name()) + "' object is not callable");
  const Runtime::Level level(rt);
  return callee.object().call(rt, arguments);
}

std::string escape_html(std::string_view text) {
  std::string out;
  for (const char c : text) {
    switch (c) {
      case '&': out += "&amp;"; break;
      case '<': out += "&lt;"; break;
      case '>': out += "&gt;"; break;
      case '"': out += "&#34;"; break;
      case '\'': out += "&#39;"; break;
      default: out += c;
    }
  }
  return out;
}

std::string escaped(Runtime& rt, const Value& v) {
  return v.is_markup() ? v.text() : escape_html(to_text(rt, v));
}

// Digits of any script as ASCII's, spaces of any kind as one.
std::string plain_digits(std::string_view text) {
  std::string plain;
  for (size_t at = 0; at < text.size();) {
    const char32_t c = next_code(text, at);
    const int digit = decimal_value(c);
    if (digit >= 0)
      plain += static_cast<char>('0' + digit);
    else
      append_utf8(plain, is_space(c) ? U' ' : c);
  }
  return plain;
}

std::optional<double> parse_float(std::string_view text) {
  const std::string plain = plain_digits(text);
  std::string_view trimmed = strip(plain, true, true);
  std::string number;
  for (size_t i = 0; i < trimmed.size(); ++i) {  // an underscore may stand between two digits
    const auto is_digit_at = [&](size_t k) {
      return k < trimmed.size() && trimmed[k] >= '0' && trimmed[k] <= '9';
    };
    if (trimmed[i] == '_') {
      if (i == 0 || !is_digit_at(i - 1) || !is_digit_at(i + 1)) return std::nullopt;
    } else {
      number += trimmed[i];
    }
  }
  std::string word = lower(number);
  const bool signed_ = !word.empty() && (word[0] == '-' || word[0] == '+');
  const std::string bare = word.substr(signed_);
  if (bare == "inf" || bare == "infinity" || bare == "nan") {
    const double v = bare == "nan" ? NAN : INFINITY;
    return word[0] == '-' ? -v : v;
  }
  // Digits, a point, an exponent: what strtod takes beyond that (hexadecimal) Python does not.
  size_t i = 0, digits = 0;
  const auto skip_digits = [&] {
    const size_t begin = i;
    while (i < bare.size() && bare[i] >= '0' && bare[i] <= '9') ++i;
    return i - begin;
  };
  digits = skip_digits();
  if (i < bare.size() && bare[i] == '.') ++i, digits += skip_digits();
  if (digits == 0) return std::nullopt;
  if (i < bare.size() && bare[i] == 'e') {
    ++i;
    if (i < bare.size() && (bare[i] == '-' || bare[i] == '+')) ++i;
    if (skip_digits() == 0) return std::nullopt;
  }
  if (i != bare.size()) return std::nullopt;
  return std::strtod(word.c_str(), nullptr);
}

std::optional<Integer> parse_integer(std::string_view text, int base) {
  const std::string plain = plain_digits(text);
  std::string_view rest = strip(plain, true, true);
  const bool negative = rest.starts_with('-');
  if (negative || rest.starts_with('+')) rest.remove_prefix(1);
  bool prefixed = false;
  if (rest.size() > 1 && rest[0] == '0') {
    const char letter = static_cast<char>(rest[1] | 0x20);
    const int named = letter == 'x' ? 16 : letter == 'o' ? 8 : letter == 'b' ? 2 : 0;
    if (named && (base == named || base == 0)) {
      rest.remove_prefix(2);
      base = named;
      prefixed = true;
    }
  }
  if (base == 0) {
    base = 10;
    if (rest.size() > 1 && rest[0] == '0' && rest.find_first_not_of("0_") != rest.npos)
      return std::nullopt;
  }
  std::string digits;
  for (size_t i = 0; i < rest.size(); ++i) {
    if (rest[i] != '_') {
      digits += rest[i];
    } else if ((i == 0 && !prefixed) || i + 1 == rest.size() || (i > 0 && rest[i - 1] == '_')) {
      return std::nullopt;
    }
  }
  if (digits.empty() || digits[0] == '-' || digits[0] == '+') return std::nullopt;
  const auto value = Integer::parse(digits, base);
  return value && negative ? -*value : value;
}

}  // namespace lmxlab::data::jinja
