// Values as JSON, as Python's json.dumps writes it, and as pprint shows them.
#include "lmxlab/data/jinja/filters.h"
#include "lmxlab/data/jinja/unicode.h"

#include <algorithm>
#include <cmath>
#include <cstdio>

namespace lmxlab::data::jinja {
namespace {

class Writer {
 public:
  Writer(Runtime& rt, bool ascii, const Value& indent, std::string_view item, std::string_view key,
         bool sorted)
      : rt_(rt), ascii_(ascii), lines_(!indent.is_none()), item_(item), key_(key), sorted_(sorted) {
    if (indent.is_text()) {
      indent_ = indent.text();
    } else if (lines_) {
      const int64_t n = to_index(rt, indent);
      rt.make(static_cast<size_t>(std::clamp<int64_t>(n, 0, int64_t{1} << 40)));
      indent_.assign(static_cast<size_t>(std::max<int64_t>(n, 0)), ' ');
    }
  }

  std::string run(const Value& v) {
    write(v);
    return std::move(out_);
  }

 private:
  void line() {
    if (!lines_) return;
    rt_.make(indent_.size() * depth_);
    out_ += '\n';
    for (size_t i = 0; i < depth_; ++i) out_ += indent_;
  }

  void string(std::string_view text) {
    rt_.make(text.size());
    out_ += '"';
    char buffer[16];
    const auto escape = [&](char32_t unit) {
      std::snprintf(buffer, sizeof buffer, "\\u%04x", static_cast<unsigned>(unit));
      out_ += buffer;
    };
    for (size_t at = 0; at < text.size();) {
      const size_t start = at;
      const char32_t c = next_code(text, at);
      switch (c) {
        case '"': out_ += "\\\""; continue;
        case '\\': out_ += "\\\\"; continue;
        case '\n': out_ += "\\n"; continue;
        case '\r': out_ += "\\r"; continue;
        case '\t': out_ += "\\t"; continue;
        case '\f': out_ += "\\f"; continue;
        case '\b': out_ += "\\b"; continue;
        default: break;
      }
      if (c < 0x20 || (ascii_ && c > 0x7E && c < 0x10000)) {
        escape(c);
      } else if (ascii_ && c >= 0x10000) {
        escape(0xD800 + ((c - 0x10000) >> 10));
        escape(0xDC00 + ((c - 0x10000) & 0x3FF));
      } else {
        out_.append(text.substr(start, at - start));
      }
    }
    out_ += '"';
  }

  // What stands for a number, a truth value or none, also as a key.
  std::string scalar(const Value& v) const {
    if (v.is_none()) return "null";
    if (v.is_bool()) return v.boolean() ? "true" : "false";
    if (v.is_integer()) return v.integer().to_string();
    const double d = v.real();
    if (std::isnan(d)) return "NaN";
    if (std::isinf(d)) return d > 0 ? "Infinity" : "-Infinity";
    return repr_float(d);
  }

  void write(const Value& v) {
    rt_.step();
    rt_.make(8);
    if (v.is_text()) return string(v.text());
    if (v.is_none() || v.is_number()) {
      if (v.is_integer() && !v.integer().is_small())
        rt_.step(v.integer().bits() * v.integer().bits() / 256);
      out_ += scalar(v);
      return;
    }
    if (!v.is_sequence() && !v.is_dict())
      rt_.fail("Object of type " + std::string(v.type_name()) + " is not JSON serializable");
    const Runtime::Level level(rt_);
    const bool list = v.is_sequence();
    if (list ? v.items().empty() : v.dict().items.empty()) {
      out_ += list ? "[]" : "{}";
      return;
    }
    out_ += list ? '[' : '{';
    ++depth_;
    bool first = true;
    const auto separate = [&] {
      if (!first) rt_.make(item_.size()), out_ += item_;
      first = false;
      line();
    };
    if (list) {
      for (const Value& item : v.items()) {
        separate();
        write(item);
      }
    } else {
      auto items = v.dict().items;
      rt_.step(items.size());
      if (sorted_)
        std::stable_sort(items.begin(), items.end(),
                         [&](const Pair& a, const Pair& b) { return less(rt_, a.first, b.first); });
      for (const auto& [key, value] : items) {
        separate();
        if (!key.is_text() && !key.is_none() && !key.is_number())
          rt_.fail("keys must be str, int, float, bool or None, not " +
                   std::string(key.type_name()));
        string(key.is_text() ? key.text() : scalar(key));
        out_ += key_;
        rt_.make(key_.size());
        write(value);
      }
    }
    --depth_;
    line();
    out_ += list ? ']' : '}';
  }

  Runtime& rt_;
  bool ascii_, lines_;
  std::string item_, key_, indent_, out_;
  bool sorted_;
  size_t depth_ = 0;
};

// pprint's order of keys: by value where they can be ordered, else by type.
std::vector<Pair> in_order(Runtime& rt, const Dict& dict) {
  auto items = dict.items;
  const auto rank = [](const Value& v) { return std::string(v.is_number() ? "" : v.type_name()); };
  std::stable_sort(items.begin(), items.end(), [&](const Pair& a, const Pair& b) {
    const auto x = rank(a.first), y = rank(b.first);
    if (x != y) return x < y;
    return (a.first.is_number() || a.first.is_text()) && less(rt, a.first, b.first);
  });
  return items;
}

class Pretty {
 public:
  explicit Pretty(Runtime& rt) : rt_(rt) {}
  std::string run(const Value& v) {
    write(v, 0, 0);
    return std::move(out_);
  }

 private:
  static constexpr size_t kWidth = 80;

  std::string one_line(const Value& v) {
    rt_.step();
    const Runtime::Level level(rt_);
    if (v.is_dict()) {
      std::string out = "{";
      for (const auto& [key, value] : in_order(rt_, v.dict())) {
        if (out.size() > 1) out += ", ";
        out += one_line(key) + ": " + one_line(value);
      }
      rt_.make(out.size());
      return out + "}";
    }
    if (!v.is_sequence()) return repr(rt_, v);
    std::string out = v.is_tuple() ? "(" : "[";
    for (const Value& item : v.items()) {
      if (out.size() > 1) out += ", ";
      out += one_line(item);
    }
    rt_.make(out.size());
    if (v.is_tuple() && v.items().size() == 1) out += ",";
    return out + (v.is_tuple() ? ")" : "]");
  }

  void newline(size_t indent) {
    rt_.make(indent + 2);
    out_ += "\n" + std::string(indent, ' ');
  }

  void write(const Value& v, size_t indent, size_t allowance) {
    const Runtime::Level level(rt_);
    const std::string line = one_line(v);
    const bool splits = (v.is_sequence() && !v.items().empty()) ||
                        (v.is_dict() && !v.dict().items.empty()) || (v.is_text() && !v.is_markup());
    if (count_codes(line) + indent + allowance <= kWidth || !splits) {
      out_ += line;
    } else if (v.is_text()) {
      text(v.text(), indent, allowance);
    } else if (v.is_dict()) {
      out_ += '{';
      const auto items = in_order(rt_, v.dict());
      for (size_t i = 0; i < items.size(); ++i) {
        const bool last = i + 1 == items.size();
        const std::string key = one_line(items[i].first);
        out_ += key + ": ";
        write(items[i].second, indent + 1 + count_codes(key) + 2, last ? allowance + 1 : 1);
        if (!last) out_ += ',', newline(indent + 1);
      }
      out_ += '}';
    } else {
      const bool tuple = v.is_tuple();
      const auto& items = v.items();
      const std::string end = tuple ? (items.size() == 1 ? ",)" : ")") : "]";
      out_ += tuple ? '(' : '[';
      for (size_t i = 0; i < items.size(); ++i) {
        const bool last = i + 1 == items.size();
        write(items[i], indent + 1, last ? allowance + end.size() : 1);
        if (!last) out_ += ',', newline(indent + 1);
      }
      out_ += end;
    }
  }

  // A long text in several literals: lines, and those cut behind white space.
  void text(const std::string& s, size_t indent, size_t allowance) {
    const bool outermost = ++texts_ == 1 && out_.empty();
    const size_t in = indent + (outermost ? 1 : 0), after = allowance + (outermost ? 1 : 0);
    std::vector<std::string> chunks;
    const auto lines = split_lines(s, true);
    for (size_t i = 0; i < lines.size(); ++i) {
      const bool last = i + 1 == lines.size();
      const auto room = [&](bool at_end) {
        const size_t used = in + (at_end ? after : 0);
        return used < kWidth ? kWidth - used : 0;
      };
      const std::string whole = repr_text(lines[i]);
      rt_.make(2 * whole.size());
      if (count_codes(whole) <= room(last)) {
        chunks.push_back(whole);
        continue;
      }
      std::string current;
      const std::string_view rest = lines[i];
      for (size_t at = 0; at < rest.size();) {
        size_t end = at;  // a run of what is no space, and the spaces behind it
        for (const bool space : {false, true})
          for (size_t next = end; next < rest.size(); end = next)
            if (is_space(next_code(rest, next)) != space) break;
        const std::string candidate = current + std::string(rest.substr(at, end - at));
        rt_.step(1 + candidate.size() / 8);
        if (count_codes(repr_text(candidate)) > room(last && end == rest.size())) {
          if (!current.empty()) chunks.push_back(repr_text(current));
          current = std::string(rest.substr(at, end - at));
        } else {
          current = candidate;
        }
        at = end;
      }
      if (!current.empty()) chunks.push_back(repr_text(current));
    }
    if (chunks.size() == 1) {
      out_ += chunks[0];
      return;
    }
    if (outermost) out_ += '(';
    for (size_t i = 0; i < chunks.size(); ++i) {
      if (i > 0) newline(in);
      out_ += chunks[i];
    }
    if (outermost) out_ += ')';
  }

  Runtime& rt_;
  std::string out_;
  int texts_ = 0;
};

}  // namespace

std::string to_json_text(Runtime& rt, const Value& v, bool ensure_ascii, const Value& indent,
                         std::string_view item_separator, std::string_view key_separator,
                         bool sort_keys) {
  return Writer(rt, ensure_ascii, indent, item_separator, key_separator, sort_keys).run(v);
}

std::string pretty(Runtime& rt, const Value& v) {
  return Pretty(rt).run(v);
}

}  // namespace lmxlab::data::jinja
