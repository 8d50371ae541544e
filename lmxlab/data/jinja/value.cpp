#include "lmxlab/data/jinja/value.h"

#include "lmxlab/base/text.h"
#include "lmxlab/data/jinja/runtime.h"
#include "lmxlab/data/jinja/unicode.h"

#include <algorithm>
#include <cmath>
#include <cstdio>
#include <cstdlib>
#include <functional>
#include <limits>

namespace lmxlab::data::jinja {
namespace {

constexpr size_t kIndexFrom = 8;  // a dict with more items has a hash index

void append_repr(Runtime& rt, const Value& v, std::string& out) {
  rt.step();
  const Runtime::Level level(rt);
  if (v.is_text()) {
    const std::string quoted = repr_text(v.text());
    rt.make(quoted.size());
    out += v.is_markup() ? "Markup(" + quoted + ")" : quoted;
  } else if (v.is_sequence()) {
    const bool tuple = v.is_tuple();
    out += tuple ? '(' : '[';
    bool first = true;
    for (const Value& item : v.items()) {
      if (!first) out += ", ";
      first = false;
      append_repr(rt, item, out);
    }
    if (tuple && v.items().size() == 1) out += ',';
    out += tuple ? ')' : ']';
  } else if (v.is_dict()) {
    out += '{';
    bool first = true;
    for (const auto& [key, value] : v.dict().items) {
      if (!first) out += ", ";
      first = false;
      append_repr(rt, key, out);
      out += ": ";
      append_repr(rt, value, out);
    }
    out += '}';
  } else if (v.is_undefined()) {
    out += "Undefined";
  } else {
    append_text(rt, v, out);
  }
}

}  // namespace

bool Value::is_list() const {
  return is_sequence() && !std::get<ListPtr>(data_)->tuple;
}
bool Value::is_tuple() const {
  return is_sequence() && std::get<ListPtr>(data_)->tuple;
}
bool Value::is_group() const {
  return is_sequence() && std::get<ListPtr>(data_)->group;
}
Integer Value::integer() const {
  return is_bool() ? Integer(boolean() ? 1 : 0) : std::get<Integer>(data_);
}
const std::vector<Value>& Value::items() const {
  return std::get<ListPtr>(data_)->items;
}

std::string_view Value::type_name() const {
  if (is_missing() || is_undefined()) return "Undefined";
  if (is_none()) return "NoneType";
  if (is_bool()) return "bool";
  if (is_integer()) return "int";
  if (is_float()) return "float";
  if (is_text()) return is_markup() ? "Markup" : "str";
  if (is_sequence()) return is_tuple() ? "tuple" : "list";
  if (is_dict()) return "dict";
  return object().type_name();
}

int Value::depth() const {
  if (is_sequence()) return std::get<ListPtr>(data_)->depth;
  if (is_dict()) return dict().depth;
  if (is_object()) return object().depth;
  return 0;
}

bool Value::same(const Value& other) const {
  if (data_.index() != other.data_.index()) return false;
  if (is_none() || is_missing()) return true;
  if (is_bool()) return boolean() == other.boolean();
  // CPython keeps one object for small integers and for short constants.
  if (is_integer())
    return integer() == other.integer() && integer() >= Integer(-5) && integer() <= Integer(256);
  if (is_text())
    return std::get<Text>(data_).text == std::get<Text>(other.data_).text ||
           (text() == other.text() && text().size() <= 1);
  if (is_sequence())
    return std::get<ListPtr>(data_) == std::get<ListPtr>(other.data_) ||
           (is_tuple() && other.is_tuple() && items().empty() && other.items().empty());
  if (is_dict()) return std::get<DictPtr>(data_) == std::get<DictPtr>(other.data_);
  if (is_object()) return std::get<ObjectPtr>(data_) == std::get<ObjectPtr>(other.data_);
  if (is_undefined()) return std::get<UndefinedPtr>(data_) == std::get<UndefinedPtr>(other.data_);
  return false;
}

// ---- dict ----

size_t Dict::find_index(Runtime& rt, const Value& key, size_t hash) const {
  if (index_.empty()) {
    for (size_t i = 0; i < items.size(); ++i)
      if (jinja::equal(rt, items[i].first, key)) return i;
    return items.size();
  }
  const auto [begin, end] = index_.equal_range(hash);
  for (auto it = begin; it != end; ++it)
    if (jinja::equal(rt, items[it->second].first, key)) return it->second;
  return items.size();
}

const Value* Dict::find(Runtime& rt, const Value& key) const {
  const size_t h = hash(rt, key);
  const size_t i = find_index(rt, key, h);
  return i < items.size() ? &items[i].second : nullptr;
}

const Value* Dict::find(std::string_view key) const {
  const auto is_key = [&](const Pair& p) { return p.first.is_text() && p.first.text() == key; };
  if (index_.empty()) {
    const auto it = std::find_if(items.begin(), items.end(), is_key);
    return it == items.end() ? nullptr : &it->second;
  }
  const auto [begin, end] = index_.equal_range(std::hash<std::string_view>()(key));
  for (auto it = begin; it != end; ++it)
    if (is_key(items[it->second])) return &items[it->second].second;
  return nullptr;
}

void DictBuilder::set(const Value& key, const Value& value) {
  const size_t h = hash(rt_, key);
  rt_.step();
  dict_->depth = std::max({dict_->depth, key.depth() + 1, value.depth() + 1});
  rt_.check_nesting(dict_->depth);
  const size_t i = dict_->find_index(rt_, key, h);
  if (i < dict_->items.size()) {
    dict_->items[i].second = value;
    return;
  }
  rt_.make(2 * sizeof(Value));
  dict_->items.emplace_back(key, value);
  if (!dict_->index_.empty()) {
    dict_->index_.emplace(h, i);
  } else if (dict_->items.size() > kIndexFrom) {
    for (size_t k = 0; k < dict_->items.size(); ++k)
      dict_->index_.emplace(hash(rt_, dict_->items[k].first), k);
  }
}

void DictBuilder::update(const Dict& other) {
  for (const auto& [key, value] : other.items) set(key, value);
}

Value DictBuilder::finish() {
  return Value(Value::DictPtr(std::move(dict_)));
}

// ---- what every value can do ----

bool truth(Runtime& rt, const Value& v) {
  if (v.is_bool()) return v.boolean();
  if (v.is_integer()) return !v.integer().is_zero();
  if (v.is_float()) return v.real() != 0;
  if (v.is_text()) return !v.text().empty();
  if (v.is_sequence()) return !v.items().empty();
  if (v.is_dict()) return !v.dict().items.empty();
  if (v.is_object()) return v.object().truth(rt);
  return false;
}

std::string repr_float(double v) {
  if (std::isnan(v)) return "nan";
  if (std::isinf(v)) return v > 0 ? "inf" : "-inf";
  char buffer[40];
  const auto reads_back = [&] { return std::strtod(buffer, nullptr) == v; };
  const auto print = [&](int digits) {
    std::snprintf(buffer, sizeof buffer, "%.*e", digits - 1, v);
  };
  if (std::abs(v) < std::numeric_limits<double>::min()) {  // what has fewer than 15 digits
    for (int digits = 1; digits < 17 && (print(digits), !reads_back()); ++digits) continue;
  } else {
    print(15);
  }
  if (!reads_back()) {
    print(16);
    // Below a power of two doubles lie closer, so that the nearest decimal of 16 digits may miss
    // where its neighbour does not.
    if (!reads_back()) {
      char* last = std::find(buffer, buffer + sizeof buffer, 'e') - 1;
      if (*last < '9') ++*last;
      if (!reads_back()) print(17);
    }
  }
  std::string text(buffer);
  const size_t e = text.find('e');
  const int exponent = std::atoi(text.c_str() + e + 1);
  std::string sign, digits;
  for (const char c : text.substr(0, e)) {
    if (c == '-') sign = "-";
    if (c >= '0' && c <= '9') digits += c;
  }
  while (digits.size() > 1 && digits.back() == '0') digits.pop_back();
  const int count = static_cast<int>(digits.size());
  if (exponent < -4 || exponent >= 16) {
    std::snprintf(buffer, sizeof buffer, "e%c%02d", exponent < 0 ? '-' : '+', std::abs(exponent));
    return sign + digits.substr(0, 1) + (count > 1 ? "." + digits.substr(1) : "") + buffer;
  }
  if (exponent < 0)
    return sign + "0." + std::string(static_cast<size_t>(-exponent - 1), '0') + digits;
  if (count <= exponent + 1)
    return sign + digits + std::string(static_cast<size_t>(exponent + 1 - count), '0') + ".0";
  const auto point = static_cast<size_t>(exponent + 1);
  return sign + digits.substr(0, point) + "." + digits.substr(point);
}

std::string repr_text(std::string_view text) {
  const bool single = text.find('\'') != text.npos, both = single && text.find('"') != text.npos;
  const char quote = single && !both ? '"' : '\'';
  std::string out(1, quote);
  char buffer[16];
  for (size_t at = 0; at < text.size();) {
    const size_t start = at;
    const char32_t c = next_code(text, at);
    if (c == static_cast<unsigned char>(quote) || c == '\\') {
      out += '\\';
      out += static_cast<char>(c);
    } else if (c == '\n') {
      out += "\\n";
    } else if (c == '\r') {
      out += "\\r";
    } else if (c == '\t') {
      out += "\\t";
    } else if (c >= 0x20 && c < 0x7F) {
      out += static_cast<char>(c);
    } else if (c >= 0x80 && is_printable(c)) {
      out.append(text.substr(start, at - start));
    } else {
      std::snprintf(buffer, sizeof buffer,
                    c < 0x100     ? "\\x%02x"
                    : c < 0x10000 ? "\\u%04x"
                                  : "\\U%08x",
                    static_cast<unsigned>(c));
      out += buffer;
    }
  }
  return out + quote;
}

void append_text(Runtime& rt, const Value& v, std::string& out) {
  if (v.is_text()) {
    rt.make(v.text().size());
    out += v.text();
  } else if (v.is_bool()) {
    out += v.boolean() ? "True" : "False";
  } else if (v.is_none()) {
    out += "None";
  } else if (v.is_integer()) {
    const Integer i = v.integer();
    if (!i.is_small()) rt.step(1 + i.bits() * i.bits() / 256);
    out += i.to_string();
  } else if (v.is_float()) {
    out += repr_float(v.real());
  } else if (v.is_object()) {
    const Runtime::Level level(rt);
    out += v.object().repr(rt);
  } else if (!v.is_undefined() && !v.is_missing()) {
    append_repr(rt, v, out);
  }
}

std::string to_text(Runtime& rt, const Value& v) {
  std::string out;
  append_text(rt, v, out);
  return out;
}

std::string repr(Runtime& rt, const Value& v) {
  std::string out;
  append_repr(rt, v, out);
  return out;
}

std::partial_ordering compare_numbers(const Value& a, const Value& b) {
  if (a.is_integer() && b.is_integer()) return a.integer() <=> b.integer();
  if (a.is_float() && b.is_float()) return a.real() <=> b.real();
  if (a.is_integer()) return 0 <=> compare_numbers(b, a);
  const double f = a.real();
  if (std::isnan(f)) return std::partial_ordering::unordered;
  if (std::isinf(f)) return f <=> 0.0;
  const auto whole = Integer::truncate(f) <=> b.integer();
  if (whole != 0) return whole;
  return f - std::trunc(f) <=> 0.0;
}

bool equal(Runtime& rt, const Value& a, const Value& b) {
  if (a.is_text() || b.is_text()) {
    if (!a.is_text() || !b.is_text() || a.text().size() != b.text().size()) return false;
    rt.step(1 + a.text().size() / 64);
    return a.text() == b.text();
  }
  rt.step();
  if (a.is_number() && b.is_number()) return compare_numbers(a, b) == 0;
  if (a.is_sequence() && b.is_sequence()) {
    if (a.is_tuple() != b.is_tuple() || a.items().size() != b.items().size()) return false;
    const Runtime::Level level(rt);
    for (size_t i = 0; i < a.items().size(); ++i)
      if (!equal(rt, a.items()[i], b.items()[i])) return false;
    return true;
  }
  if (a.is_dict() && b.is_dict()) {
    if (a.dict().items.size() != b.dict().items.size()) return false;
    const Runtime::Level level(rt);
    for (const auto& [key, value] : a.dict().items) {
      const Value* theirs = b.dict().find(rt, key);
      if (!theirs || !equal(rt, value, *theirs)) return false;
    }
    return true;
  }
  if (a.is_object() && b.is_object()) return a.object().equal(rt, b.object());
  return (a.is_none() && b.is_none()) || (a.is_undefined() && b.is_undefined());
}

bool ordered(Runtime& rt, const Value& a, const Value& b, Order order) {
  const auto holds = [&](std::partial_ordering o) {
    switch (order) {
      case Order::lt: return o < 0;
      case Order::le: return o <= 0;
      case Order::gt: return o > 0;
      case Order::ge: return o >= 0;
    }
    return false;
  };
  if (a.is_undefined()) rt.fail(a.undefined().message);
  if (b.is_undefined()) rt.fail(b.undefined().message);
  rt.step();
  if (a.is_number() && b.is_number()) return holds(compare_numbers(a, b));
  if (a.is_text() && b.is_text()) {
    rt.step(std::min(a.text().size(), b.text().size()) / 64);
    return holds(a.text().compare(b.text()) <=> 0);
  }
  if (a.is_sequence() && b.is_sequence() && a.is_tuple() == b.is_tuple()) {
    const Runtime::Level level(rt);
    const auto &x = a.items(), &y = b.items();
    for (size_t i = 0; i < std::min(x.size(), y.size()); ++i)
      if (!equal(rt, x[i], y[i])) return ordered(rt, x[i], y[i], order);
    return holds(x.size() <=> y.size());
  }
  const auto* views = a.as<DictView>();
  const auto* others = b.as<DictView>();
  if (views && others && views->is_set() && others->is_set()) {  // as sets: which holds which
    const bool upwards = order == Order::lt || order == Order::le;
    const Value &inner = upwards ? a : b, &outer = upwards ? b : a;
    const size_t n = *length(rt, inner), m = *length(rt, outer);
    if (order == Order::lt || order == Order::gt ? n >= m : n > m) return false;
    const CursorPtr cursor = iterate(rt, inner);
    for (Value item; cursor->next(rt, item);)
      if (!outer.object().contains(rt, outer, item)) return false;
    return true;
  }
  static constexpr const char* signs[] = {"<", "<=", ">", ">="};
  rt.fail("'" + std::string(signs[static_cast<int>(order)]) +
          "' not supported between instances of '" + std::string(a.type_name()) + "' and '" +
          std::string(b.type_name()) + "'");
}

size_t hash(Runtime& rt, const Value& v) {
  rt.step();
  if (v.is_text()) {
    rt.step(v.text().size() / 64);
    return std::hash<std::string_view>()(v.text());
  }
  if (v.is_integer()) return v.integer().hash();
  if (v.is_float()) {
    const double d = v.real();
    if (std::isfinite(d) && std::trunc(d) == d && std::abs(d) < 1e300)
      return Integer::truncate(d).hash();
    return std::hash<double>()(d);
  }
  if (v.is_tuple()) {
    const Runtime::Level level(rt);
    size_t h = 7;
    for (const Value& item : v.items()) h = h * 1'000'003 + hash(rt, item);
    return h;
  }
  if (v.is_list() || v.is_dict() || v.as<DictView>())
    rt.fail("unhashable type: '" + std::string(v.type_name()) + "'");
  return v.is_object() && !v.as<Range>() ? std::hash<Object*>()(&v.object()) : 1;
}

std::optional<size_t> length(Runtime& rt, const Value& v) {
  if (v.is_text()) {
    rt.step(v.text().size() / 64);
    return count_codes(v.text());
  }
  if (v.is_sequence()) return v.items().size();
  if (v.is_dict()) return v.dict().items.size();
  if (v.is_undefined()) return 0;
  return v.is_object() ? v.object().length(rt) : std::nullopt;
}

bool is_callable(const Value& v) {
  return v.is_undefined() || (v.is_object() && v.object().callable());
}

Value from_json(Runtime& rt, const Json& json) {
  rt.step();
  if (json.is_null()) return Value(None{});
  if (json.is_bool()) return Value(json.as_bool());
  if (json.is_integer()) return Value::integer(json.as_integer());
  if (const std::string* digits = json.digits()) return Value(*Integer::parse(*digits));
  if (json.is_number()) return Value(json.as_number());
  if (json.is_string()) {
    if (invalid_utf8_at(json.as_string()) != std::string::npos)
      rt.fail("a string in the data is not valid UTF-8");
    return rt.text(json.as_string());
  }
  const Runtime::Level level(rt);
  if (json.is_array()) {
    std::vector<Value> items;
    for (const Json& item : json.as_array()) items.push_back(from_json(rt, item));
    return rt.list(std::move(items));
  }
  DictBuilder dict(rt);
  for (const auto& [key, value] : json.as_object()) dict.set(rt.text(key), from_json(rt, value));
  return dict.finish();
}

}  // namespace lmxlab::data::jinja
