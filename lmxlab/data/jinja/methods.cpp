// Methods of str, list, tuple, dict and numbers.
#include "lmxlab/data/jinja/operators.h"
#include "lmxlab/data/jinja/unicode.h"

#include <algorithm>
#include <cmath>

namespace lmxlab::data::jinja {
namespace {

using Args = Arguments;

// A part of a text that start and end (in code points) cut out.
struct Window {
  std::string_view text;
  int64_t first = 0;   // code point where it begins
  bool inside = true;  // the start is not behind the end
};

Window window(Runtime& rt, std::string_view text, const Bound& b, size_t from) {
  rt.step(text.size() / 16);
  const auto n = static_cast<int64_t>(count_codes(text));
  const auto bound = [&](size_t i, int64_t otherwise) {
    if (!b.has(i) || b[i].is_none()) return otherwise;
    int64_t v = to_index(rt, b[i]);
    if (v < 0) v += n;
    return std::max<int64_t>(v, 0);
  };
  const int64_t start = bound(from, 0), end = std::min(bound(from + 1, n), n);
  if (start > end) return {{}, start, false};
  const size_t begin = offset_of(text, static_cast<size_t>(start));
  const std::string_view rest = text.substr(begin);
  return {rest.substr(0, offset_of(rest, static_cast<size_t>(end - start))), start, true};
}

std::optional<int64_t> search(Runtime& rt, const Value& self, const Args& args, bool last,
                              const char* name) {
  const Bound b(rt, name, args, {"", "", ""}, 1);
  const std::string wanted = b.string(rt, 0, "");
  const Window w = window(rt, self.text(), b, 1);
  if (!w.inside) return std::nullopt;
  const size_t at = last ? rfind_text(w.text, wanted) : find_text(w.text, wanted);
  if (at == std::string_view::npos) return std::nullopt;
  return w.first + static_cast<int64_t>(count_codes(w.text.substr(0, at)));
}

Value find(Runtime& rt, const Value& self, const Args& args) {
  return Value::integer(search(rt, self, args, false, "find").value_or(-1));
}
Value rfind(Runtime& rt, const Value& self, const Args& args) {
  return Value::integer(search(rt, self, args, true, "rfind").value_or(-1));
}
Value index(Runtime& rt, const Value& self, const Args& args) {
  const auto at = search(rt, self, args, false, "index");
  if (!at) rt.fail("substring not found");
  return Value::integer(*at);
}
Value rindex(Runtime& rt, const Value& self, const Args& args) {
  const auto at = search(rt, self, args, true, "rindex");
  if (!at) rt.fail("substring not found");
  return Value::integer(*at);
}

Value count(Runtime& rt, const Value& self, const Args& args) {
  const Bound b(rt, "count", args, {"", "", ""}, 1);
  const std::string wanted = b.string(rt, 0, "");
  const Window w = window(rt, self.text(), b, 1);
  if (!w.inside) return Value::integer(0);
  if (wanted.empty()) return Value::integer(static_cast<int64_t>(count_codes(w.text)) + 1);
  int64_t n = 0;
  for (size_t at = find_text(w.text, wanted); at != w.text.npos;
       at = find_text(w.text, wanted, at + wanted.size())) {
    rt.step(1 + wanted.size() / 16);
    ++n;
  }
  return Value::integer(n);
}

Value affix(Runtime& rt, const Value& self, const Args& args, bool start) {
  const char* name = start ? "startswith" : "endswith";
  const Bound b(rt, name, args, {"", "", ""}, 1);
  const Window w = window(rt, self.text(), b, 1);
  const auto fits = [&](const Value& v) {
    if (!v.is_text())
      rt.fail(std::string(name) + " first arg must be str or a tuple of str, not " +
              std::string(v.type_name()));
    return w.inside && (start ? w.text.starts_with(v.text()) : w.text.ends_with(v.text()));
  };
  if (b[0].is_undefined()) rt.fail(b[0].undefined().message);
  if (!b[0].is_tuple()) return Value(fits(b[0]));
  return Value(std::any_of(b[0].items().begin(), b[0].items().end(), fits));
}
Value startswith(Runtime& rt, const Value& self, const Args& args) {
  return affix(rt, self, args, true);
}
Value endswith(Runtime& rt, const Value& self, const Args& args) {
  return affix(rt, self, args, false);
}

template <bool left, bool right>
Value strip_method(Runtime& rt, const Value& self, const Args& args) {
  const Bound b(rt, "strip", args, {""});
  const bool spaces = !b.has(0) || b[0].is_none();
  return rt.text(spaces ? strip(self.text(), left, right)
                        : strip(self.text(), left, right, b.string(rt, 0, "")),
                 self.is_markup());
}

template <std::string (*change)(std::string_view)>
Value changed(Runtime& rt, const Value& self, const Args& args) {
  const Bound b(rt, "str method", args, {});
  rt.step(self.text().size() / 8);
  return rt.text(change(self.text()), self.is_markup());
}

Value replace(Runtime& rt, const Value& self, const Args& args) {
  const Bound b(rt, "replace", args, {"", "", "count"}, 2);
  const std::string wanted = b.string(rt, 0, "");
  const std::string by = self.is_markup() ? escaped(rt, b[1]) : b.string(rt, 1, "");
  int64_t left = b.index(rt, 2, -1);
  const std::string_view text = self.text();
  std::string out;
  size_t at = 0;
  const auto put = [&] {
    rt.step();
    rt.make(by.size());
    out += by;
    if (left > 0) --left;
  };
  if (wanted.empty()) {  // between all characters
    while (left != 0) {
      put();
      if (at == text.size()) break;
      const size_t start = at;
      next_code(text, at);
      out.append(text.substr(start, at - start));
    }
  } else {
    while (left != 0) {
      const size_t found = find_text(text, wanted, at);
      if (found == text.npos) break;
      rt.step(wanted.size() / 16);
      out.append(text.substr(at, found - at));
      put();
      at = found + wanted.size();
    }
  }
  out.append(text.substr(at));
  return rt.text(std::move(out), self.is_markup());
}

Value texts(Runtime& rt, const std::vector<std::string_view>& parts, bool markup) {
  std::vector<Value> out;
  out.reserve(parts.size());
  for (const auto part : parts) out.push_back(rt.text(part, markup));
  return rt.list(std::move(out));
}

Value split_method(Runtime& rt, const Value& self, const Args& args, bool from_right) {
  const Bound b(rt, from_right ? "rsplit" : "split", args, {"sep", "maxsplit"});
  const bool spaces = !b.has(0) || b[0].is_none();
  const std::string separator = spaces ? "" : b.string(rt, 0, "");
  if (!spaces && separator.empty()) rt.fail("empty separator");
  int64_t left = b.index(rt, 1, -1);
  if (left < 0) left = INT64_MAX;
  std::string_view rest = self.text();
  rt.step(rest.size() / 8);
  std::vector<std::string_view> parts;
  if (spaces) {
    rest = strip(rest, !from_right, from_right);
    while (!rest.empty()) {
      rt.step();
      if (left-- == 0) {  // what remains keeps its inner spaces only
        parts.push_back(strip(rest, !from_right, from_right));
        break;
      }
      size_t cut = 0, begin = 0, end = rest.size();
      if (from_right) {
        begin = 0;
        for (size_t i = rest.size(); i > 0;) {
          size_t k = i - 1;
          while (k > 0 && (static_cast<unsigned char>(rest[k]) & 0xC0) == 0x80) --k;
          size_t next = k;
          if (is_space(next_code(rest, next))) {
            begin = i;
            break;
          }
          i = k;
        }
        parts.push_back(rest.substr(begin));
        rest = strip(rest.substr(0, begin), false, true);
      } else {
        for (cut = 0; cut < rest.size();) {
          size_t next = cut;
          if (is_space(next_code(rest, next))) break;
          cut = next;
        }
        end = cut;
        parts.push_back(rest.substr(0, end));
        rest = strip(rest.substr(end), true, false);
      }
    }
  } else if (from_right) {
    // Matches are taken from the end, so overlapping ones differ from those of split.
    size_t end = rest.size();
    while (left-- > 0) {
      const size_t at = rfind_text(rest.substr(0, end), separator);
      rt.step(1 + (separator.size() < 16 ? 0 : end / 16));
      if (at == rest.npos) break;
      parts.push_back(rest.substr(at + separator.size(), end - at - separator.size()));
      end = at;
    }
    parts.push_back(rest.substr(0, end));
  } else {
    size_t at = 0;
    while (left-- > 0) {
      const size_t found = find_text(rest, separator, at);
      rt.step(1 + separator.size() / 16);
      if (found == rest.npos) break;
      parts.push_back(rest.substr(at, found - at));
      at = found + separator.size();
    }
    parts.push_back(rest.substr(at));
  }
  if (from_right) std::reverse(parts.begin(), parts.end());
  return texts(rt, parts, self.is_markup());
}
Value split(Runtime& rt, const Value& self, const Args& args) {
  return split_method(rt, self, args, false);
}
Value rsplit(Runtime& rt, const Value& self, const Args& args) {
  return split_method(rt, self, args, true);
}
Value splitlines(Runtime& rt, const Value& self, const Args& args) {
  const Bound b(rt, "splitlines", args, {"keepends"});
  rt.step(self.text().size() / 8);
  return texts(rt, split_lines(self.text(), b.flag(rt, 0)), self.is_markup());
}

template <bool last>
Value partition(Runtime& rt, const Value& self, const Args& args) {
  const Bound b(rt, "partition", args, {""}, 1);
  const std::string separator = b.string(rt, 0, "");
  if (separator.empty()) rt.fail("empty separator");
  const std::string_view text = self.text();
  const size_t at = last ? rfind_text(text, separator) : find_text(text, separator);
  const auto piece = [&](std::string_view part) { return rt.text(part, self.is_markup()); };
  if (at == text.npos)
    return last ? rt.tuple({piece(""), piece(""), self}) : rt.tuple({self, piece(""), piece("")});
  return rt.tuple(
      {piece(text.substr(0, at)), piece(separator), piece(text.substr(at + separator.size()))});
}

Value join_method(Runtime& rt, const Value& self, const Args& args) {
  const Bound b(rt, "join", args, {""}, 1);
  const CursorPtr cursor = try_iterate(rt, b[0]);
  if (!cursor) rt.fail("can only join an iterable");
  std::string out;
  int64_t n = 0;
  for (Value item; cursor->next(rt, item); ++n) {
    if (n > 0) rt.make(self.text().size()), out += self.text();
    if (self.is_markup()) {
      out += escaped(rt, item);
      continue;
    }
    if (!item.is_text())
      rt.fail("sequence item " + std::to_string(n) + ": expected str instance, " +
              std::string(item.type_name()) + " found");
    append_text(rt, item, out);
  }
  return rt.text(std::move(out), self.is_markup());
}

template <bool all_title>
bool title_case(const std::u32string& codes) {
  bool inside = false, any = false;
  for (const char32_t c : codes) {
    if (is_upper(c) || is_title(c)) {
      if (inside) return false;
      inside = any = true;
    } else if (is_lower(c)) {
      if (!inside) return false;
      inside = any = true;
    } else {
      inside = false;
    }
  }
  return any;
}

template <bool (*property)(char32_t)>
Value all_are(Runtime& rt, const Value& self, const Args& args) {
  const Bound b(rt, "str method", args, {});
  rt.step(self.text().size() / 8);
  const auto codes = decode_utf8(self.text());
  return Value(!codes.empty() && std::all_of(codes.begin(), codes.end(), property));
}
// Cased characters of one kind only, and at least one.
template <bool (*wanted)(char32_t), bool (*other)(char32_t)>
Value cased_as(Runtime& rt, const Value& self, const Args& args) {
  const Bound b(rt, "str method", args, {});
  rt.step(self.text().size() / 8);
  const auto codes = decode_utf8(self.text());
  return Value(
      std::any_of(codes.begin(), codes.end(), wanted) &&
      std::none_of(codes.begin(), codes.end(), [](char32_t c) { return other(c) || is_title(c); }));
}
Value istitle(Runtime& rt, const Value& self, const Args&) {
  rt.step(self.text().size() / 8);
  return Value(title_case<true>(decode_utf8(self.text())));
}
Value isascii(Runtime&, const Value& self, const Args&) {
  return Value(std::all_of(self.text().begin(), self.text().end(),
                           [](char c) { return static_cast<unsigned char>(c) < 0x80; }));
}
Value isprintable(Runtime& rt, const Value& self, const Args&) {
  rt.step(self.text().size() / 8);
  const auto codes = decode_utf8(self.text());
  return Value(std::all_of(codes.begin(), codes.end(), is_printable));
}
Value isidentifier(Runtime& rt, const Value& self, const Args&) {
  rt.step(self.text().size() / 8);
  const auto codes = decode_utf8(self.text());
  const auto starts = [](char32_t c) { return c == '_' || is_alpha(c); };
  return Value(!codes.empty() && starts(codes[0]) &&
               std::all_of(codes.begin(), codes.end(),
                           [&](char32_t c) { return starts(c) || is_decimal(c); }));
}

enum class Align { left, right, center };
template <Align align>
Value justify(Runtime& rt, const Value& self, const Args& args) {
  const Bound b(rt, "str method", args, {"", ""}, 1);
  const int64_t width = to_index(rt, b[0]);
  const std::string fill = b.string(rt, 1, " ");
  if (count_codes(fill) != 1) rt.fail("The fill character must be exactly one character long");
  rt.step(self.text().size() / 16);
  const auto n = static_cast<int64_t>(count_codes(self.text()));
  if (width <= n) return self;
  const int64_t room = width - n;
  rt.make(static_cast<size_t>(std::min(room, int64_t{1} << 40)) * fill.size());
  const int64_t before = align == Align::left    ? 0
                         : align == Align::right ? room
                                                 : room / 2 + (room & width & 1);
  std::string out;
  for (int64_t i = 0; i < before; ++i) out += fill;
  out += self.text();
  for (int64_t i = before; i < room; ++i) out += fill;
  return rt.text(std::move(out), self.is_markup());
}

Value zfill(Runtime& rt, const Value& self, const Args& args) {
  const Bound b(rt, "zfill", args, {""}, 1);
  const int64_t room = to_index(rt, b[0]) - static_cast<int64_t>(count_codes(self.text()));
  if (room <= 0) return self;
  rt.make(static_cast<size_t>(room));
  const std::string& text = self.text();
  const size_t sign = !text.empty() && (text[0] == '+' || text[0] == '-');
  return rt.text(
      text.substr(0, sign) + std::string(static_cast<size_t>(room), '0') + text.substr(sign),
      self.is_markup());
}

Value expandtabs(Runtime& rt, const Value& self, const Args& args) {
  const Bound b(rt, "expandtabs", args, {"tabsize"});
  const int64_t size = std::max<int64_t>(b.index(rt, 0, 8), 0);
  std::string out;
  int64_t column = 0;
  for (const char c : self.text()) {
    if (c == '\t') {
      const int64_t by = size == 0 ? 0 : size - column % size;
      rt.make(static_cast<size_t>(by));
      out.append(static_cast<size_t>(by), ' ');
      column += by;
      continue;
    }
    out += c;
    if (c == '\n' || c == '\r')
      column = 0;
    else if ((static_cast<unsigned char>(c) & 0xC0) != 0x80)
      ++column;
  }
  return rt.text(std::move(out), self.is_markup());
}

Value removeprefix(Runtime& rt, const Value& self, const Args& args) {
  const Bound b(rt, "removeprefix", args, {""}, 1);
  std::string_view text = self.text();
  const std::string prefix = b.string(rt, 0, "");
  if (text.starts_with(prefix)) text.remove_prefix(prefix.size());
  return rt.text(text, self.is_markup());
}
Value removesuffix(Runtime& rt, const Value& self, const Args& args) {
  const Bound b(rt, "removesuffix", args, {""}, 1);
  std::string_view text = self.text();
  const std::string suffix = b.string(rt, 0, "");
  if (text.ends_with(suffix)) text.remove_suffix(suffix.size());
  return rt.text(text, self.is_markup());
}

Value format(Runtime& rt, const Value& self, const Args& args) {
  return format_braces(rt, self, args);
}
Value format_map(Runtime& rt, const Value& self, const Args& args) {
  const Bound b(rt, "format_map", args, {""}, 1);
  if (!b[0].is_dict()) rt.fail("format_map() takes a mapping");
  Arguments named;
  for (const auto& [key, value] : b[0].dict().items)
    if (key.is_text()) named.named.emplace_back(key.text(), value);
  return format_braces(rt, self, named);
}

Value refuse(Runtime& rt, const Value& self, const Args&) {
  rt.fail("this method of '" + std::string(self.type_name()) +
              "' is not supported: it makes values that are no text, number, list or dict",
          Kind::unsupported);
}

// ---- list, tuple, dict, numbers ----

Value item_count(Runtime& rt, const Value& self, const Args& args) {
  const Bound b(rt, "count", args, {""}, 1);
  const CursorPtr cursor = iterate(rt, self);
  int64_t n = 0;
  for (Value item; cursor->next(rt, item);) n += equal(rt, item, b[0]);
  return Value::integer(n);
}
Value item_index(Runtime& rt, const Value& self, const Args& args) {
  const Bound b(rt, "index", args, {"", "", ""}, 1);
  const auto n = static_cast<int64_t>(*length(rt, self));
  const auto bound = [&](size_t i, int64_t otherwise) {
    const int64_t v = b.index(rt, i, otherwise);
    return v < 0 ? std::max<int64_t>(v + n, 0) : v;
  };
  const int64_t from = bound(1, 0), to = std::min(bound(2, n), n);
  const CursorPtr cursor = iterate(rt, self);
  int64_t i = 0;
  for (Value item; i < to && cursor->next(rt, item); ++i)
    if (i >= from && equal(rt, item, b[0])) return Value::integer(i);
  rt.fail(self.is_tuple() ? "tuple.index(x): x not in tuple"
                          : repr(rt, b[0]) + " is not in " + std::string(self.type_name()));
}
Value itself(Runtime& rt, const Value& self, const Args& args) {
  const Bound b(rt, "copy", args, {});
  return self.is_bool() ? Value(self.integer()) : self;
}
Value dict_get(Runtime& rt, const Value& self, const Args& args) {
  const Bound b(rt, "get", args, {"", ""}, 1);
  const Value* found = self.dict().find(rt, b[0]);
  return found ? *found : b.get(1, Value(None{}));
}
template <DictView::Part part>
Value view(Runtime& rt, const Value& self, const Args& args) {
  const Bound b(rt, "dict method", args, {});
  return rt.object<DictView>(self, part);
}
Value fromkeys(Runtime& rt, const Value&, const Args& args) {
  const Bound b(rt, "fromkeys", args, {"", ""}, 1);
  DictBuilder out(rt);
  const CursorPtr cursor = iterate(rt, b[0]);
  for (Value key; cursor->next(rt, key);) out.set(key, b.get(1, Value(None{})));
  return out.finish();
}
Value bit_length(Runtime&, const Value& self, const Args&) {
  return Value::integer(static_cast<int64_t>(self.integer().bits()));
}
Value bit_count(Runtime&, const Value& self, const Args&) {
  const std::string bits = self.integer().abs().to_string(2);
  return Value::integer(std::count(bits.begin(), bits.end(), '1'));
}
Value is_integer(Runtime&, const Value& self, const Args&) {
  return Value(std::isfinite(self.real()) && std::trunc(self.real()) == self.real());
}

constexpr Method kText[] = {
    {"capitalize", changed<capitalize>},
    {"casefold", changed<casefold>},
    {"center", justify<Align::center>},
    {"count", count},
    {"encode", refuse},
    {"endswith", endswith},
    {"expandtabs", expandtabs},
    {"find", find},
    {"format", format},
    {"format_map", format_map},
    {"index", index},
    {"isalnum", all_are<is_alnum>},
    {"isalpha", all_are<is_alpha>},
    {"isascii", isascii},
    {"isdecimal", all_are<is_decimal>},
    {"isdigit", all_are<is_digit>},
    {"isidentifier", isidentifier},
    {"islower", cased_as<is_lower, is_upper>},
    {"isnumeric", all_are<is_numeric>},
    {"isprintable", isprintable},
    {"isspace", all_are<is_space>},
    {"istitle", istitle},
    {"isupper", cased_as<is_upper, is_lower>},
    {"join", join_method},
    {"ljust", justify<Align::left>},
    {"lower", changed<lower>},
    {"lstrip", strip_method<true, false>},
    {"maketrans", refuse},
    {"partition", partition<false>},
    {"removeprefix", removeprefix},
    {"removesuffix", removesuffix},
    {"replace", replace},
    {"rfind", rfind},
    {"rindex", rindex},
    {"rjust", justify<Align::right>},
    {"rpartition", partition<true>},
    {"rsplit", rsplit},
    {"rstrip", strip_method<false, true>},
    {"split", split},
    {"splitlines", splitlines},
    {"startswith", startswith},
    {"strip", strip_method<true, true>},
    {"swapcase", changed<swapcase>},
    {"title", changed<title>},
    {"translate", refuse},
    {"upper", changed<upper>},
    {"zfill", zfill},
};
constexpr Method kList[] = {
    {"append", refuse, true},  {"clear", refuse, true},  {"copy", itself},
    {"count", item_count},     {"extend", refuse, true}, {"index", item_index},
    {"insert", refuse, true},  {"pop", refuse, true},    {"remove", refuse, true},
    {"reverse", refuse, true}, {"sort", refuse, true},
};
constexpr Method kTuple[] = {{"count", item_count}, {"index", item_index}};
constexpr Method kDict[] = {
    {"clear", refuse, true},
    {"copy", itself},
    {"fromkeys", fromkeys},
    {"get", dict_get},
    {"items", view<DictView::items>},
    {"keys", view<DictView::keys>},
    {"pop", refuse, true},
    {"popitem", refuse, true},
    {"setdefault", refuse, true},
    {"update", refuse, true},
    {"values", view<DictView::values>},
};
constexpr Method kInteger[] = {
    {"as_integer_ratio", refuse}, {"bit_count", bit_count}, {"bit_length", bit_length},
    {"conjugate", itself},        {"from_bytes", refuse},   {"to_bytes", refuse},
};
constexpr Method kFloat[] = {
    {"as_integer_ratio", refuse}, {"conjugate", itself}, {"fromhex", refuse}, {"hex", refuse},
    {"is_integer", is_integer},
};

template <size_t n>
const Method* named(const Method (&table)[n], std::string_view name) {
  const auto* it = std::find_if(std::begin(table), std::end(table),
                                [&](const Method& m) { return m.name == name; });
  return it == std::end(table) ? nullptr : it;
}

}  // namespace

const Method* find_method(const Value& self, std::string_view name) {
  if (self.is_text()) return named(kText, name);
  if (self.is_list()) return named(kList, name);
  if (self.is_tuple() || self.as<Range>()) return named(kTuple, name);
  if (self.is_dict()) return named(kDict, name);
  if (self.is_integer()) return named(kInteger, name);
  if (self.is_float()) return named(kFloat, name);
  return nullptr;
}

}  // namespace lmxlab::data::jinja
