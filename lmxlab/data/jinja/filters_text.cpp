// Filters on texts.
#include "lmxlab/data/jinja/filters.h"
#include "lmxlab/data/jinja/unicode.h"

#include <algorithm>

namespace lmxlab::data::jinja {
namespace {

using Args = Arguments;

// A text as it is, anything else by str().
Value soft_text(Runtime& rt, const Value& v) {
  return v.is_text() ? v : rt.text(to_text(rt, v));
}

template <std::string (*change)(std::string_view)>
Value changed(Runtime& rt, const Value& v, const Args& args) {
  const Bound b(rt, "filter", args, {});
  const Value text = soft_text(rt, v);
  rt.step(text.text().size() / 8);
  return rt.text(change(text.text()), text.is_markup());
}

Value string_filter(Runtime& rt, const Value& v, const Args& args) {
  const Bound b(rt, "string", args, {});
  return soft_text(rt, v);
}

Value title_filter(Runtime& rt, const Value& v, const Args& args) {
  const Bound b(rt, "title", args, {});
  const std::string text = to_text(rt, v);
  rt.step(text.size() / 8);
  const auto separates = [](char32_t c) {
    return c == '-' || c == '(' || c == '{' || c == '[' || c == '<' || is_space(c);
  };
  std::string out;
  for (size_t at = 0; at < text.size();) {
    size_t end = at;
    bool word = false;
    for (size_t next = end; next < text.size(); end = next) {
      const bool letter = !separates(next_code(text, next));
      if (end != at && letter != word) break;
      word = letter;
    }
    const std::string_view piece = std::string_view(text).substr(at, end - at);
    size_t first = 0;
    next_code(piece, first);
    out += word ? upper(piece.substr(0, first)) + lower(piece.substr(first)) : std::string(piece);
    at = end;
  }
  return rt.text(std::move(out));
}

Value trim(Runtime& rt, const Value& v, const Args& args) {
  const Bound b(rt, "trim", args, {"chars"});
  const Value text = soft_text(rt, v);
  const bool spaces = !b.has(0) || b[0].is_none();
  return rt.text(
      spaces ? strip(text.text(), true, true) : strip(text.text(), true, true, b.string(rt, 0, "")),
      text.is_markup());
}

Value replace_filter(Runtime& rt, const Value& v, const Args& args) {
  const Bound b(rt, "replace", args, {"old", "new", "count"}, 2);
  Arguments plain;
  plain.positional = {rt.text(to_text(rt, b[0])), rt.text(to_text(rt, b[1]))};
  if (b.has(2) && !b[2].is_none()) plain.positional.push_back(b[2]);
  const Value text = rt.text(to_text(rt, v));
  return find_method(text, "replace")->run(rt, text, plain);
}

Value center_filter(Runtime& rt, const Value& v, const Args& args) {
  const Bound b(rt, "center", args, {"width"});
  Arguments width;
  width.positional = {b.get(0, Value::integer(80))};
  const Value text = soft_text(rt, v);
  return find_method(text, "center")->run(rt, text, width);
}

Value indent(Runtime& rt, const Value& v, const Args& args) {
  const Bound b(rt, "indent", args, {"width", "first", "blank"});
  if (v.is_undefined()) rt.fail(v.undefined().message);
  if (!v.is_text()) rt.fail_type("+=", v, rt.text("\n"));
  std::string by;
  if (b.has(0) && b[0].is_text()) {
    by = b[0].text();
  } else {
    const int64_t width = b.index(rt, 0, 4);
    rt.make(static_cast<size_t>(std::clamp<int64_t>(width, 0, int64_t{1} << 40)));
    by.assign(static_cast<size_t>(std::max<int64_t>(width, 0)), ' ');
  }
  const std::string text = v.text() + "\n";
  const bool blank = b.flag(rt, 2);
  std::string out = b.flag(rt, 1) ? by : "";
  bool any = false;
  for (const auto line : split_lines(text, false)) {
    if (any) out += '\n';
    if (any && (blank || !line.empty())) rt.make(by.size()), out += by;
    any = true;
    out += line;
  }
  return rt.text(std::move(out), v.is_markup());
}

Value truncate(Runtime& rt, const Value& v, const Args& args) {
  const Bound b(rt, "truncate", args, {"length", "killwords", "end", "leeway"});
  const int64_t limit = b.index(rt, 0, 255);
  const std::string end = b.string(rt, 2, "...");
  const int64_t leeway = b.has(3) && !b[3].is_none() ? to_index(rt, b[3]) : 5;
  const auto tail = static_cast<int64_t>(count_codes(end));
  if (limit < tail)
    rt.fail("expected length >= " + std::to_string(tail) + ", got " + std::to_string(limit));
  if (leeway < 0) rt.fail("expected leeway >= 0, got " + std::to_string(leeway));
  const auto n = length(rt, v);
  if (!n) rt.fail("object of type '" + std::string(v.type_name()) + "' has no len()");
  if (static_cast<int64_t>(*n) - leeway <= limit) return v;
  if (!v.is_text()) rt.fail("truncate wants a str, not " + std::string(v.type_name()));
  std::string_view kept(v.text());
  kept = kept.substr(0, offset_of(kept, static_cast<size_t>(limit - tail)));
  if (!b.flag(rt, 1))
    if (const size_t space = kept.rfind(' '); space != kept.npos) kept = kept.substr(0, space);
  return rt.text(std::string(kept) + (v.is_markup() ? escape_html(end) : end), v.is_markup());
}

Value wordcount(Runtime& rt, const Value& v, const Args& args) {
  const Bound b(rt, "wordcount", args, {});
  const std::string text = to_text(rt, v);
  rt.step(text.size() / 8);
  int64_t n = 0;
  bool inside = false;
  for (size_t at = 0; at < text.size();) {
    const char32_t c = next_code(text, at);
    const bool letter = c == '_' || is_alnum(c);
    n += letter && !inside;
    inside = letter;
  }
  return Value::integer(n);
}

// textwrap's pieces of a line: white space, words that may end behind a hyphen, dashes.
std::vector<std::u32string> wrap_pieces(const std::u32string& s, bool on_hyphens) {
  const auto space = [](char32_t c) { return c == ' ' || (c >= '\t' && c <= '\r'); };
  const auto word = [](char32_t c) { return c == '_' || is_alnum(c); };
  const auto letter = [&](size_t i) {
    return i < s.size() && word(s[i]) && !is_digit(s[i]) && !is_decimal(s[i]);
  };
  const auto punctuated = [&](size_t i) {
    return word(s[i]) || std::u32string_view(U"!\"'&.,?").find(s[i]) != std::u32string_view::npos;
  };
  std::vector<std::u32string> out;
  for (size_t at = 0; at < s.size();) {
    size_t end = at;
    if (space(s[at])) {
      while (end < s.size() && space(s[end])) ++end;
    } else if (!on_hyphens) {
      while (end < s.size() && !space(s[end])) ++end;
    } else {
      const auto dashes = [&](size_t i) {  // two or more before a word, behind one
        size_t e = i;
        while (e < s.size() && s[e] == '-') ++e;
        return i > 0 && e - i >= 2 && punctuated(i - 1) && e < s.size() && word(s[e]) ? e : i;
      };
      end = dashes(at);
      if (end == at) {
        for (++end; end < s.size() && !space(s[end]); ++end) {
          if (dashes(end) != end) break;
          // Behind a hyphen: letters around it, two before or one more hyphen between.
          if (s[end] == '-' && end > at) {
            const bool before =
                end >= 2 && letter(end - 1) &&
                (letter(end - 2) || (end >= 3 && s[end - 2] == '-' && letter(end - 3)));
            const bool after =
                letter(end + 1) &&
                (letter(end + 2) || (end + 2 < s.size() && s[end + 2] == '-' && letter(end + 3)));
            if (before && after) {
              ++end;
              break;
            }
          }
        }
      }
    }
    out.push_back(s.substr(at, end - at));
    at = end;
  }
  return out;
}

Value wordwrap(Runtime& rt, const Value& v, const Args& args) {
  const Bound b(rt, "wordwrap", args,
                {"width", "break_long_words", "wrapstring", "break_on_hyphens"});
  if (v.is_undefined()) rt.fail(v.undefined().message);
  if (!v.is_text()) rt.fail("wordwrap wants a str, not " + std::string(v.type_name()));
  const int64_t width = b.index(rt, 0, 79);
  const bool break_long = b.flag(rt, 1, true), hyphens = b.flag(rt, 3, true);
  const std::string between =
      b.has(2) && !b[2].is_none() ? b.string(rt, 2, "\n") : std::string("\n");
  std::string out;
  bool first_line = true;
  for (const auto source : split_lines(v.text(), false)) {
    if (!first_line) out += between;
    first_line = false;
    if (width <= 0) rt.fail("invalid width " + std::to_string(width) + " (must be > 0)");
    const auto room = static_cast<size_t>(width);
    auto pieces = wrap_pieces(decode_utf8(source), hyphens);
    rt.step(1 + source.size() / 4);
    rt.make(4 * source.size());
    std::reverse(pieces.begin(), pieces.end());
    const auto blank = [](const std::u32string& p) {
      return std::all_of(p.begin(), p.end(), is_space);
    };
    bool any = false;
    while (!pieces.empty()) {
      std::vector<std::u32string> line;
      size_t used = 0;
      if (any && blank(pieces.back())) pieces.pop_back();
      while (!pieces.empty() && used + pieces.back().size() <= room) {
        used += pieces.back().size();
        line.push_back(std::move(pieces.back()));
        pieces.pop_back();
      }
      if (!pieces.empty() && pieces.back().size() > room) {
        if (break_long) {
          auto& piece = pieces.back();
          size_t cut = room - used;
          if (hyphens && piece.size() > cut && cut > 0) {
            const size_t hyphen = piece.rfind(U'-', cut - 1);
            if (hyphen != piece.npos && hyphen > 0 &&
                std::any_of(piece.begin(), piece.begin() + static_cast<ptrdiff_t>(hyphen),
                            [](char32_t c) { return c != '-'; }))
              cut = hyphen + 1;
          }
          line.push_back(piece.substr(0, cut));
          piece.erase(0, cut);
          rt.step(1 + piece.size() / 64);
        } else if (line.empty()) {
          line.push_back(std::move(pieces.back()));
          pieces.pop_back();
        }
      }
      if (!line.empty() && blank(line.back())) line.pop_back();
      if (line.empty()) continue;
      if (any) rt.make(between.size()), out += between;
      any = true;
      for (const auto& p : line) out += encode_utf8(p);
    }
  }
  return rt.text(std::move(out));
}

std::string url_quote(std::string_view text, bool for_query) {
  std::string out;
  for (const char c : text) {
    const bool plain = (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || (c >= '0' && c <= '9') ||
                       c == '_' || c == '.' || c == '-' || c == '~' || (c == '/' && !for_query);
    if (plain) {
      out += c;
    } else if (c == ' ' && for_query) {
      out += '+';
    } else {
      out += '%';
      out += "0123456789ABCDEF"[static_cast<unsigned char>(c) >> 4];
      out += "0123456789ABCDEF"[static_cast<unsigned char>(c) & 15];
    }
  }
  return out;
}

Value urlencode(Runtime& rt, const Value& v, const Args& args) {
  const Bound b(rt, "urlencode", args, {});
  CursorPtr cursor;
  if (v.is_dict()) {
    DictView items(v, DictView::items);
    cursor = items.iterate(rt, v);
  } else if (!v.is_text()) {
    cursor = try_iterate(rt, v);
  }
  if (!cursor) return rt.text(url_quote(to_text(rt, v), false));
  std::string out;
  bool any = false;
  for (Value pair; cursor->next(rt, pair); any = true) {
    const auto both = to_vector(rt, pair);
    if (both.size() != 2) rt.fail("urlencode wants pairs of key and value");
    if (any) out += '&';
    out += url_quote(to_text(rt, both[0]), true) + "=" + url_quote(to_text(rt, both[1]), true);
    rt.make(16);
  }
  return rt.text(std::move(out));
}

// Character references of HTML back to characters: numbers, and the names that escaping makes.
std::string unescape_html(std::string_view text) {
  std::string out;
  for (size_t at = 0; at < text.size();) {
    if (text[at] != '&') {
      out += text[at++];
      continue;
    }
    const auto rest = text.substr(at);
    if (rest.starts_with("&#")) {
      const bool hex = rest.size() > 2 && (rest[2] | 0x20) == 'x';
      const size_t from = hex ? 3 : 2;
      const size_t end = std::min(
          rest.find_first_not_of(hex ? "0123456789abcdefABCDEF" : "0123456789", from), rest.size());
      const auto code = end - from < 9
                            ? Integer::parse(rest.substr(from, end - from), hex ? 16 : 10)
                            : std::nullopt;
      if (code && *code > Integer(0) && *code < Integer(0x110000) &&
          (*code < Integer(0xD800) || *code >= Integer(0xE000))) {
        out += encode_utf8(static_cast<char32_t>(code->small()));
        at += end + (end < rest.size() && rest[end] == ';');
        continue;
      }
    }
    static constexpr std::pair<std::string_view, std::string_view> names[] = {
        {"&amp;", "&"},   {"&lt;", "<"},   {"&gt;", ">"},
        {"&quot;", "\""}, {"&apos;", "'"}, {"&nbsp;", "\u00A0"}};
    const auto* it = std::find_if(std::begin(names), std::end(names),
                                  [&](const auto& n) { return rest.starts_with(n.first); });
    out += it == std::end(names) ? std::string_view("&") : it->second;
    at += it == std::end(names) ? 1 : it->first.size();
  }
  return out;
}

// Removes from `open` to `close`, as long as there are both, also where removing made a new one.
std::string without(Runtime& rt, std::string text, std::string_view open, std::string_view close) {
  size_t from = 0;
  for (;;) {
    const size_t start = text.find(open, from);
    const size_t end = start == text.npos ? text.npos : text.find(close, start);
    if (end == text.npos) return text;
    rt.step(1 + text.size() / 64);
    text.erase(start, end + close.size() - start);
    from = start >= open.size() ? start - open.size() : 0;
  }
}

Value striptags(Runtime& rt, const Value& v, const Args& args) {
  const Bound b(rt, "striptags", args, {});
  const std::string text = without(rt, without(rt, to_text(rt, v), "<!--", "-->"), "<", ">");
  std::string out;
  bool word = false;
  for (size_t at = 0; at < text.size();) {
    const size_t start = at;
    const bool space = is_space(next_code(text, at));
    if (!space && !word && !out.empty()) out += ' ';
    if (!space) out.append(text, start, at - start);
    word = !space;
  }
  return rt.text(unescape_html(out));
}

Value escape(Runtime& rt, const Value& v, const Args& args) {
  const Bound b(rt, "escape", args, {});
  return rt.text(escaped(rt, v), true);
}
Value forceescape(Runtime& rt, const Value& v, const Args& args) {
  const Bound b(rt, "forceescape", args, {});
  return rt.text(escape_html(to_text(rt, v)), true);
}
Value safe(Runtime& rt, const Value& v, const Args& args) {
  const Bound b(rt, "safe", args, {});
  return rt.text(to_text(rt, v), true);
}

Value format_filter(Runtime& rt, const Value& v, const Args& args) {
  if (!args.positional.empty() && !args.named.empty())
    rt.fail("can't handle positional and keyword arguments at the same time");
  const Value text = soft_text(rt, v);
  if (args.named.empty()) return format_percent(rt, text, rt.tuple(args.positional));
  DictBuilder values(rt);
  for (const auto& [name, value] : args.named) values.set(rt.text(name), value);
  return format_percent(rt, text, values.finish());
}

Value xmlattr(Runtime& rt, const Value& v, const Args& args) {
  const Bound b(rt, "xmlattr", args, {"autospace"});
  if (v.is_undefined()) rt.fail(v.undefined().message);
  if (!v.is_dict()) rt.fail("'" + std::string(v.type_name()) + "' object has no attribute 'items'");
  std::string out;
  for (const auto& [key, value] : v.dict().items) {
    if (value.is_none() || value.is_undefined()) continue;
    if (!key.is_text()) rt.fail("expected string or bytes-like object");
    if (key.text().find_first_of(" \t\n\r\f\v/>=") != std::string::npos)
      rt.fail("Invalid character in attribute name: " + repr(rt, key));
    if (!out.empty()) out += ' ';
    out += escaped(rt, key) + "=\"" + escaped(rt, value) + "\"";
  }
  if (!out.empty() && b.flag(rt, 0, true)) out.insert(0, " ");
  return rt.text(std::move(out));
}

Value urlize(Runtime& rt, const Value&, const Args&) {
  rt.fail("the filter `urlize` is not supported: it makes web pages", Kind::unsupported);
}

}  // namespace

const std::vector<Filter> kTextFilters{
    {"capitalize", changed<capitalize>},
    {"center", center_filter},
    {"e", escape},
    {"escape", escape},
    {"forceescape", forceescape},
    {"format", format_filter},
    {"indent", indent},
    {"lower", changed<lower>},
    {"replace", replace_filter},
    {"safe", safe},
    {"string", string_filter},
    {"striptags", striptags},
    {"title", title_filter},
    {"trim", trim},
    {"truncate", truncate},
    {"upper", changed<upper>},
    {"urlencode", urlencode},
    {"urlize", urlize},
    {"wordcount", wordcount},
    {"wordwrap", wordwrap},
    {"xmlattr", xmlattr},
};

}  // namespace lmxlab::data::jinja
