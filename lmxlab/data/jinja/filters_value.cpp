// Filters on numbers and on values of any kind, and how filters are found.
#include "lmxlab/data/jinja/filters.h"

#include <algorithm>
#include <cmath>
#include <cstdio>
#include <cstdlib>

namespace lmxlab::data::jinja {
namespace {

using Args = Arguments;

Value abs_filter(Runtime& rt, const Value& v, const Args& args) {
  const Bound b(rt, "abs", args, {});
  if (v.is_float()) return Value(std::abs(v.real()));
  if (v.is_undefined()) rt.fail(v.undefined().message);
  if (!v.is_integer()) rt.fail("bad operand type for abs(): '" + std::string(v.type_name()) + "'");
  return Value(v.integer().abs());
}

Value attr(Runtime& rt, const Value& v, const Args& args) {
  const Bound b(rt, "attr", args, {"name"}, 1);
  const std::string name = b.string(rt, 0, "");
  if (auto found = find_attribute(rt, v, name)) return std::move(*found);
  return rt.undefined_member(v, b[0]);
}

Value default_filter(Runtime& rt, const Value& v, const Args& args) {
  const Bound b(rt, "default", args, {"default_value", "boolean"});
  if (v.is_undefined() || (b.flag(rt, 1) && !truth(rt, v))) return b.get(0, rt.text(""));
  return v;
}

Value int_filter(Runtime& rt, const Value& v, const Args& args) {
  const Bound b(rt, "int", args, {"default", "base"});
  if (v.is_undefined()) rt.fail(v.undefined().message);
  if (v.is_integer()) return Value(v.integer());
  if (v.is_float()) {
    if (std::isinf(v.real())) rt.fail("cannot convert float infinity to integer");
    if (!std::isnan(v.real())) return Value(Integer::truncate(v.real()));
  }
  if (v.is_text()) {
    const int64_t base = b.index(rt, 1, 10);
    rt.step(v.text().size() / 4);
    if (base == 0 || (base >= 2 && base <= 36))
      if (const auto i = parse_integer(v.text(), static_cast<int>(base))) return Value(*i);
    const auto d = parse_float(v.text());
    if (d && std::isfinite(*d)) return Value(Integer::truncate(*d));
  }
  return b.get(0, Value::integer(0));
}

Value float_filter(Runtime& rt, const Value& v, const Args& args) {
  const Bound b(rt, "float", args, {"default"});
  if (v.is_number()) return Value(to_real(rt, v));
  if (v.is_undefined()) rt.fail(v.undefined().message);
  if (v.is_text())
    if (const auto d = parse_float(v.text())) return Value(*d);
  return b.get(0, Value(0.0));
}

// round(): half to even, of the exact binary value.
Value rounded(Runtime& rt, const Value& v, int64_t digits) {
  if (v.is_integer()) {
    if (digits >= 0) return Value(v.integer());
    if (digits < -1'000) return Value::integer(0);
    const Integer unit = Integer::power(Integer(10), Integer(-digits));
    const auto [quotient, rest] = Integer::divide(v.integer(), unit);
    const auto half = rest + rest <=> unit;
    const bool odd = !Integer::divide(quotient, Integer(2)).remainder.is_zero();
    return Value((half > 0 || (half == 0 && odd) ? quotient + Integer(1) : quotient) * unit);
  }
  if (!v.is_float())
    rt.fail("type " + std::string(v.type_name()) + " doesn't define __round__ method");
  const double d = v.real();
  if (!std::isfinite(d) || digits > 350) return v;
  if (digits < -308) return Value(std::copysign(0.0, d));
  if (digits < 0) {
    const double unit = std::pow(10.0, static_cast<double>(-digits));
    return Value(std::nearbyint(d / unit) * unit);
  }
  char buffer[800];
  std::snprintf(buffer, sizeof buffer, "%.*f", static_cast<int>(digits), d);
  return Value(std::strtod(buffer, nullptr));
}

Value round_filter(Runtime& rt, const Value& v, const Args& args) {
  const Bound b(rt, "round", args, {"precision", "method"});
  if (v.is_undefined()) rt.fail(v.undefined().message);
  const std::string method = b.has(1) && b[1].is_text() ? b[1].text() : b.has(1) ? "" : "common";
  if (method != "common" && method != "ceil" && method != "floor")
    rt.fail("method must be common, ceil or floor");
  const Value digits = b.get(0, Value::integer(0));
  if (method == "common") {
    if (digits.is_none()) {  // round(x) gives an integer
      const Value whole = rounded(rt, v, 0);
      if (!whole.is_float()) return whole;
      if (!std::isfinite(whole.real())) rt.fail("cannot convert float to integer");
      return Value(Integer::truncate(whole.real()));
    }
    return rounded(rt, v, to_index(rt, digits));
  }
  const Value unit = binary(rt, Operator::pow, Value::integer(10), digits);
  const Value scaled = binary(rt, Operator::mul, v, unit);
  Value whole = scaled;
  if (scaled.is_float()) {
    const double d = method == "ceil" ? std::ceil(scaled.real()) : std::floor(scaled.real());
    if (!std::isfinite(d)) rt.fail("cannot convert float infinity or NaN to integer");
    whole = Value(Integer::truncate(d));
  } else if (!scaled.is_integer()) {
    rt.fail("must be real number, not " + std::string(scaled.type_name()));
  }
  return binary(rt, Operator::div, whole, unit);
}

Value filesizeformat(Runtime& rt, const Value& v, const Args& args) {
  const Bound b(rt, "filesizeformat", args, {"binary"});
  std::optional<double> given;
  if (v.is_text()) {
    given = parse_float(v.text());
    if (!given) rt.fail("could not convert string to float: " + repr(rt, v));
  }
  const double bytes = given ? *given : to_real(rt, v);
  const bool powers_of_two = b.flag(rt, 0);
  const double base = powers_of_two ? 1024 : 1000;
  if (bytes == 1) return rt.text("1 Byte");
  if (bytes < base) {
    if (!std::isfinite(bytes)) rt.fail("cannot convert float infinity to integer");
    return rt.text(Integer::truncate(bytes).to_string() + " Bytes");
  }
  double unit = base;
  const char* letters = powers_of_two ? "KMGTPEZY" : "kMGTPEZY";
  for (int i = 0; i < 8; ++i) {
    unit *= base;
    if (bytes >= unit && i < 7) continue;
    char buffer[400];
    std::snprintf(buffer, sizeof buffer, "%.1f %c%s", base * bytes / unit, letters[i],
                  powers_of_two ? "iB" : "B");
    return rt.text(buffer);
  }
  return rt.text("");
}

Value tojson(Runtime& rt, const Value& v, const Args& args) {
  const Bound b(rt, "tojson", args, {"ensure_ascii", "indent", "separators", "sort_keys"});
  const Value indent = b.get(1, Value(None{}));
  std::string item = indent.is_none() ? ", " : ",", key = ": ";
  if (b.has(2) && !b[2].is_none()) {
    const auto both = to_vector(rt, b[2]);
    if (both.size() != 2 || !both[0].is_text() || !both[1].is_text())
      rt.fail("separators must be two strings");
    item = both[0].text(), key = both[1].text();
  }
  return rt.text(to_json_text(rt, v, b.flag(rt, 0), indent, item, key, b.flag(rt, 3)));
}

Value pprint(Runtime& rt, const Value& v, const Args& args) {
  const Bound b(rt, "pprint", args, {});
  return rt.text(pretty(rt, v));
}

}  // namespace

const std::vector<Filter> kValueFilters{
    {"abs", abs_filter},
    {"attr", attr},
    {"d", default_filter},
    {"default", default_filter},
    {"filesizeformat", filesizeformat},
    {"float", float_filter},
    {"int", int_filter},
    {"pprint", pprint},
    {"round", round_filter},
    {"tojson", tojson},
};

const Filter* find_filter(std::string_view name) {
  for (const auto* table : {&kTextFilters, &kSequenceFilters, &kValueFilters})
    for (const Filter& f : *table)
      if (f.name == name) return &f;
  return nullptr;
}

}  // namespace lmxlab::data::jinja
