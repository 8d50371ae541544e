// Filters on lists, dicts and other iterables. What is a generator in Jinja is one here: nothing is
// computed before it is asked for, it can be walked once, and it is always true.
#include "lmxlab/data/jinja/filters.h"
#include "lmxlab/data/jinja/unicode.h"

#include <algorithm>
#include <functional>
#include <unordered_map>

namespace lmxlab::data::jinja {
namespace {

using Args = Arguments;

Value ignore_case(Runtime& rt, const Value& v) {
  return v.is_text() ? rt.text(lower(v.text()), v.is_markup()) : v;
}

/// "address.city", 0, ...: the path that an `attribute` argument names.
class Getter {
 public:
  Getter(Runtime& rt, const Value& attribute, Value otherwise = Value(None{}))
      : otherwise_(std::move(otherwise)) {
    if (attribute.is_none() || attribute.is_missing()) return;
    if (!attribute.is_text()) {
      parts_.push_back(attribute);
      return;
    }
    std::string_view rest = attribute.text();
    for (;;) {
      const size_t dot = std::min(rest.find('.'), rest.size());
      const auto part = rest.substr(0, dot);
      const bool digits = !part.empty() && part.find_first_not_of("0123456789") == part.npos;
      parts_.push_back(digits ? Value(*Integer::parse(part)) : rt.text(part));
      if (dot == rest.size()) return;
      rest.remove_prefix(dot + 1);
    }
  }
  Value operator()(Runtime& rt, Value item) const {
    for (const Value& part : parts_) {
      item = get_item(rt, item, part);
      if (item.is_undefined() && !otherwise_.is_none()) item = otherwise_;
    }
    return item;
  }

 private:
  std::vector<Value> parts_;
  Value otherwise_;
};

class MakeCursor : public Cursor {
 public:
  explicit MakeCursor(std::function<bool(Runtime&, Value&)> next) : next_(std::move(next)) {}
  bool next(Runtime& rt, Value& out) override { return next_(rt, out); }

 private:
  std::function<bool(Runtime&, Value&)> next_;
};

int nesting(const Value& v, const Args& args) {
  int depth = v.depth();
  for (const Value& a : args.positional) depth = std::max(depth, a.depth());
  for (const auto& a : args.named) depth = std::max(depth, a.second.depth());
  return depth + 1;
}

// A generator that walks `v` from the moment it is first asked. With `if_true`, what is false
// (none, 0) counts as empty.
template <class Next>
Value generator(Runtime& rt, const Value& v, const Args& args, Next next, bool if_true = false) {
  auto start = [v, if_true, cursor = std::shared_ptr<Cursor>(), next](Runtime& r,
                                                                      Value& out) mutable {
    if (!cursor) {
      if (if_true && !truth(r, v)) return false;
      cursor = iterate(r, v);
    }
    return next(r, *cursor, out);
  };
  return rt.object<Generator>(std::make_unique<MakeCursor>(std::move(start)), nesting(v, args));
}

Value list_filter(Runtime& rt, const Value& v, const Args& args) {
  const Bound b(rt, "list", args, {});
  return rt.list(to_vector(rt, v));
}

Value length_filter(Runtime& rt, const Value& v, const Args& args) {
  const Bound b(rt, "len", args, {});
  const auto n = length(rt, v);
  if (!n) rt.fail("object of type '" + std::string(v.type_name()) + "' has no len()");
  return Value::integer(static_cast<int64_t>(*n));
}

Value first(Runtime& rt, const Value& v, const Args& args) {
  const Bound b(rt, "first", args, {});
  Value out;
  return iterate(rt, v)->next(rt, out) ? out : rt.undefined("No first item, sequence was empty.");
}

// reversed(), or null.
CursorPtr reversed(Runtime& rt, const Value& v) {
  if (v.is_object()) return v.object().reversed(rt, v);
  if (v.is_dict()) {
    DictView keys(v, DictView::keys);
    return keys.reversed(rt, v);
  }
  if (!v.is_sequence() && !v.is_text() && !v.is_undefined()) return nullptr;
  auto items = to_vector(rt, v);
  if (v.is_markup())
    for (Value& item : items) item = rt.text(item.text(), true);
  std::reverse(items.begin(), items.end());
  return iterate(rt, rt.list(std::move(items)));
}

Value last(Runtime& rt, const Value& v, const Args& args) {
  const Bound b(rt, "last", args, {});
  if (v.is_sequence() && !v.items().empty()) return v.items().back();
  const CursorPtr cursor = reversed(rt, v);
  if (!cursor) rt.fail("'" + std::string(v.type_name()) + "' object is not reversible");
  Value out;
  return cursor->next(rt, out) ? out : rt.undefined("No last item, sequence was empty.");
}

Value reverse(Runtime& rt, const Value& v, const Args& args) {
  const Bound b(rt, "reverse", args, {});
  if (v.is_text()) {
    auto codes = decode_utf8(v.text());
    std::reverse(codes.begin(), codes.end());
    return rt.text(encode_utf8(codes), v.is_markup());
  }
  const char* name = v.is_list()   ? "list_reverseiterator"
                     : v.is_dict() ? "dict_reversekeyiterator"
                                   : "reversed";
  if (CursorPtr cursor = reversed(rt, v))
    return rt.object<Generator>(std::move(cursor), v.depth() + 1, name);
  if (!try_iterate(rt, v)) rt.fail("argument must be iterable");
  auto items = to_vector(rt, v);
  std::reverse(items.begin(), items.end());
  return rt.list(std::move(items));
}

Value join(Runtime& rt, const Value& v, const Args& args) {
  const Bound b(rt, "join", args, {"d", "attribute"});
  const Getter getter(rt, b.get(1, Value(None{})));
  const CursorPtr cursor = iterate(rt, v);
  const std::string between = b.has(0) ? to_text(rt, b[0]) : "";
  std::string out;
  bool any = false;
  for (Value item; cursor->next(rt, item); any = true) {
    if (any && !between.empty()) rt.make(between.size()), out += between;
    append_text(rt, getter(rt, item), out);
  }
  return rt.text(std::move(out));
}

struct Keyed {
  Value key, item;
};
std::vector<Value> sorted(Runtime& rt, std::vector<Keyed> items, bool backwards) {
  rt.step(items.size());
  std::stable_sort(items.begin(), items.end(), [&](const Keyed& a, const Keyed& b) {
    return backwards ? less(rt, b.key, a.key) : less(rt, a.key, b.key);
  });
  std::vector<Value> out;
  out.reserve(items.size());
  for (auto& i : items) out.push_back(std::move(i.item));
  return out;
}

Value sort(Runtime& rt, const Value& v, const Args& args) {
  const Bound b(rt, "sort", args, {"reverse", "case_sensitive", "attribute"});
  const bool exact = b.flag(rt, 1);
  std::vector<Getter> getters;  // the attributes between commas
  if (b.has(2) && b[2].is_text()) {
    std::string_view rest = b[2].text();
    for (;;) {
      const size_t comma = std::min(rest.find(','), rest.size());
      getters.emplace_back(rt, rt.text(rest.substr(0, comma)));
      if (comma == rest.size()) break;
      rest.remove_prefix(comma + 1);
    }
  } else {
    getters.emplace_back(rt, b.get(2, Value(None{})));
  }
  std::vector<Keyed> items;
  for (const Value& item : to_vector(rt, v)) {
    // A list also of one key: equal keys need no order then.
    std::vector<Value> keys;
    for (const auto& getter : getters) {
      const Value key = getter(rt, item);
      keys.push_back(exact ? key : ignore_case(rt, key));
    }
    items.push_back({rt.list(std::move(keys)), item});
  }
  return rt.list(sorted(rt, std::move(items), b.flag(rt, 0)));
}

Value dictsort(Runtime& rt, const Value& v, const Args& args) {
  const Bound b(rt, "dictsort", args, {"case_sensitive", "by", "reverse"});
  const std::string by = b.has(1) ? to_text(rt, b[1]) : "key";
  if (by != "key" && by != "value") rt.fail("You can only sort by either \"key\" or \"value\"");
  if (v.is_undefined()) rt.fail(v.undefined().message);
  if (!v.is_dict()) rt.fail("'" + std::string(v.type_name()) + "' object has no attribute 'items'");
  const bool exact = b.flag(rt, 0);
  std::vector<Keyed> items;
  for (const auto& [key, value] : v.dict().items) {
    const Value& chosen = by == "key" ? key : value;
    items.push_back({exact ? chosen : ignore_case(rt, chosen), rt.tuple({key, value})});
  }
  return rt.list(sorted(rt, std::move(items), b.flag(rt, 2)));
}

Value groupby(Runtime& rt, const Value& v, const Args& args) {
  const Bound b(rt, "groupby", args, {"attribute", "default", "case_sensitive"}, 1);
  const Getter getter(rt, b[0], b.get(1, Value(None{})));
  const bool exact = b.flag(rt, 2);
  const auto key_of = [&](const Value& item) {
    const Value key = getter(rt, item);
    return exact ? key : ignore_case(rt, key);
  };
  std::vector<Keyed> items;
  for (const Value& item : to_vector(rt, v)) items.push_back({key_of(item), item});
  std::vector<Value> groups, members;
  Value key;
  const auto close = [&] {
    if (members.empty()) return;
    const Value shown = exact ? key : getter(rt, members[0]);
    groups.push_back(rt.tuple({shown, rt.list(std::exchange(members, {}))}, true));
  };
  for (Value& item : sorted(rt, std::move(items), false)) {
    const Value next = key_of(item);
    if (members.empty() || !equal(rt, next, key)) close(), key = next;
    members.push_back(std::move(item));
  }
  close();
  return rt.list(std::move(groups));
}

Value unique(Runtime& rt, const Value& v, const Args& args) {
  const Bound b(rt, "unique", args, {"case_sensitive", "attribute"});
  const bool exact = b.flag(rt, 0);
  const Getter getter(rt, b.get(1, Value(None{})));
  std::unordered_multimap<size_t, Value> seen;
  return generator(rt, v, args, [=](Runtime& r, Cursor& items, Value& out) mutable {
    while (items.next(r, out)) {
      Value key = getter(r, out);
      if (!exact) key = ignore_case(r, key);
      const size_t h = hash(r, key);
      const auto [begin, end] = seen.equal_range(h);
      if (std::any_of(begin, end, [&](const auto& s) { return equal(r, s.second, key); })) continue;
      r.make(2 * sizeof(Value));
      seen.emplace(h, key);
      return true;
    }
    return false;
  });
}

template <bool largest>
Value extreme(Runtime& rt, const Value& v, const Args& args) {
  const Bound b(rt, largest ? "max" : "min", args, {"case_sensitive", "attribute"});
  const bool exact = b.flag(rt, 0);
  const Getter getter(rt, b.get(1, Value(None{})));
  const CursorPtr cursor = iterate(rt, v);
  Value best, best_key;
  for (Value item; cursor->next(rt, item);) {
    Value key = getter(rt, item);
    if (!exact) key = ignore_case(rt, key);
    if (best_key.is_missing() || ordered(rt, key, best_key, largest ? Order::gt : Order::lt))
      best = item, best_key = key;
  }
  return best_key.is_missing() ? rt.undefined("No aggregated item, sequence was empty.") : best;
}

Value sum(Runtime& rt, const Value& v, const Args& args) {
  const Bound b(rt, "sum", args, {"attribute", "start"});
  const Getter getter(rt, b.get(0, Value(None{})));
  Value total = b.get(1, Value::integer(0));
  if (total.is_text()) rt.fail("sum() can't sum strings [use ''.join(seq) instead]");
  const CursorPtr cursor = iterate(rt, v);
  for (Value item; cursor->next(rt, item);)
    total = binary(rt, Operator::add, total, getter(rt, item));
  return total;
}

const Value* named(const Args& args, std::string_view name) {
  for (const auto& [given, value] : args.named)
    if (given == name) return &value;
  return nullptr;
}

std::string function_name(Runtime& rt, const Value& name, const char* kind) {
  if (name.is_text()) return name.text();
  std::string message = std::string("No ") + kind + " named " + repr(rt, name) + ".";
  if (name.is_undefined())
    message += " (" + name.undefined().message + "; did you forget to quote the callable name?)";
  rt.fail(message);
}

Value map(Runtime& rt, const Value& v, const Args& args) {
  return generator(
      rt, v, args,
      [v, args, change = std::function<Value(Runtime&, const Value&)>()](Runtime& r, Cursor& items,
                                                                         Value& out) mutable {
        if (!change) {
          const Value* attribute = args.positional.empty() ? named(args, "attribute") : nullptr;
          if (attribute) {
            for (const auto& [name, _] : args.named)
              if (name != "attribute" && name != "default")
                r.fail("Unexpected keyword argument " + repr_text(name));
            const Value* otherwise = named(args, "default");
            change = [getter = Getter(r, *attribute, otherwise ? *otherwise : Value(None{}))](
                         Runtime& rr, const Value& item) { return getter(rr, item); };
          } else {
            if (args.positional.empty()) r.fail("map requires a filter argument");
            const std::string name = function_name(r, args.positional[0], "filter");
            const Filter* filter = find_filter(name);
            if (!filter) r.fail("No filter named " + repr_text(name) + ".");
            Args rest = args;
            rest.positional.erase(rest.positional.begin());
            change = [filter, rest](Runtime& rr, const Value& item) {
              return filter->run(rr, item, rest);
            };
          }
        }
        Value item;
        if (!items.next(r, item)) return false;
        const Runtime::Level level(r);
        out = change(r, item);
        return true;
      },
      true);
}

// select, reject, selectattr, rejectattr.
template <bool wanted, bool of_attribute>
Value choose(Runtime& rt, const Value& v, const Args& args) {
  using Judge = std::function<bool(Runtime&, const Value&)>;
  return generator(
      rt, v, args,
      [args, judge = Judge()](Runtime& r, Cursor& items, Value& out) mutable {
        if (!judge) {
          if (of_attribute && args.positional.empty())
            r.fail("Missing parameter for attribute name");
          const Getter getter(r, of_attribute ? args.positional[0] : Value(None{}));
          constexpr size_t from = of_attribute ? 1 : 0;
          if (args.positional.size() <= from) {
            judge = [getter](Runtime& rr, const Value& item) {
              return truth(rr, getter(rr, item));
            };
          } else {
            const std::string name = function_name(r, args.positional[from], "test");
            const Test* test = find_test(name);
            if (!test) r.fail("No test named " + repr_text(name) + ".");
            Args rest = args;
            rest.positional.erase(rest.positional.begin(), rest.positional.begin() + from + 1);
            judge = [getter, test, rest](Runtime& rr, const Value& item) {
              return test->run(rr, getter(rr, item), rest);
            };
          }
        }
        while (items.next(r, out)) {
          const Runtime::Level level(r);
          if (judge(r, out) == wanted) return true;
        }
        return false;
      },
      true);
}

Value batch(Runtime& rt, const Value& v, const Args& args) {
  const Bound b(rt, "batch", args, {"linecount", "fill_with"}, 1);
  const Value count = b[0], fill = b.get(1, Value(None{}));
  return generator(rt, v, args, [=, held = Value()](Runtime& r, Cursor& items, Value& out) mutable {
    // A row of any size goes on until its length is the count; 0 and what is no integer never is.
    const int64_t size =
        count.is_integer() && count.integer().is_small() ? count.integer().small() : -1;
    std::vector<Value> row;
    if (!held.is_missing()) row.push_back(std::exchange(held, Value()));
    bool first_of_all = row.empty();
    for (Value item; items.next(r, item);) {
      if (static_cast<int64_t>(row.size()) == size) {
        if (first_of_all && row.empty()) {  // a count of 0: an empty row comes first
          held = std::move(item);
          out = r.list({});
          return true;
        }
        held = std::move(item);
        break;
      }
      first_of_all = false;
      r.make(sizeof(Value));
      row.push_back(std::move(item));
    }
    if (row.empty()) return false;
    if (!fill.is_none() && held.is_missing()) {
      const int64_t wanted = to_index(r, count);
      if (wanted > static_cast<int64_t>(row.size())) {
        r.make(static_cast<size_t>(wanted) > (size_t{1} << 40)
                   ? SIZE_MAX
                   : static_cast<size_t>(wanted) * sizeof(Value));
        row.resize(static_cast<size_t>(wanted), fill);
      }
    }
    out = r.list(std::move(row));
    return true;
  });
}

Value slice_filter(Runtime& rt, const Value& v, const Args& args) {
  const Bound b(rt, "slice", args, {"slices", "fill_with"}, 1);
  const Value given = b[0], fill = b.get(1, Value(None{}));
  const auto all = std::make_shared<std::vector<Value>>();
  int64_t at = -1;
  return generator(rt, v, args, [=](Runtime& r, Cursor& items, Value& out) mutable {
    const int64_t slices = to_index(r, given);
    if (at < 0) {
      for (Value item; items.next(r, item);) {
        r.make(sizeof(Value));
        all->push_back(std::move(item));
      }
      if (slices == 0) r.fail("integer division or modulo by zero");
      at = 0;
    }
    if (at >= slices) return false;
    const auto n = static_cast<int64_t>(all->size());
    const int64_t each = n / slices, larger = n % slices;
    const int64_t begin = at * each + std::min(at, larger);
    const int64_t end = begin + each + (at < larger ? 1 : 0);
    std::vector<Value> part(all->begin() + begin, all->begin() + end);
    if (!fill.is_none() && at >= larger) part.push_back(fill);
    ++at;
    out = r.list(std::move(part));
    return true;
  });
}

Value items_filter(Runtime& rt, const Value& v, const Args& args) {
  const Bound b(rt, "items", args, {});
  auto next = [v, cursor = std::shared_ptr<Cursor>()](Runtime& r, Value& out) mutable {
    if (v.is_undefined()) return false;
    if (!v.is_dict()) r.fail("Can only get item pairs from a mapping.");
    if (!cursor) {
      DictView view(v, DictView::items);
      cursor = view.iterate(r, v);
    }
    return cursor->next(r, out);
  };
  return rt.object<Generator>(std::make_unique<MakeCursor>(std::move(next)), v.depth() + 2);
}

Value random(Runtime& rt, const Value&, const Args&) {
  rt.fail("the filter `random` is not supported: the same messages must give the same text",
          Kind::unsupported);
}

}  // namespace

const std::vector<Filter> kSequenceFilters{
    {"batch", batch},
    {"count", length_filter},
    {"dictsort", dictsort},
    {"first", first},
    {"groupby", groupby},
    {"items", items_filter},
    {"join", join},
    {"last", last},
    {"length", length_filter},
    {"list", list_filter},
    {"map", map},
    {"max", extreme<true>},
    {"min", extreme<false>},
    {"random", random},
    {"reject", choose<false, false>},
    {"rejectattr", choose<false, true>},
    {"reverse", reverse},
    {"select", choose<true, false>},
    {"selectattr", choose<true, true>},
    {"slice", slice_filter},
    {"sort", sort},
    {"sum", sum},
    {"unique", unique},
};

}  // namespace lmxlab::data::jinja
