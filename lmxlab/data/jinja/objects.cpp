// Cursors, ranges, views and generators: what can be iterated.
#include "lmxlab/data/jinja/runtime.h"
#include "lmxlab/data/jinja/unicode.h"

#include <algorithm>

namespace lmxlab::data::jinja {
namespace {

class ListCursor : public Cursor {
 public:
  ListCursor(Value list, bool backwards)
      : list_(std::move(list)), at_(backwards ? list_.items().size() : 0), backwards_(backwards) {}
  bool next(Runtime& rt, Value& out) override {
    rt.step();
    const auto& items = list_.items();
    if (backwards_ ? at_ == 0 : at_ == items.size()) return false;
    out = items[backwards_ ? --at_ : at_++];
    return true;
  }

 private:
  Value list_;
  size_t at_;
  bool backwards_;
};

class TextCursor : public Cursor {
 public:
  explicit TextCursor(Value text) : text_(std::move(text)) {}
  bool next(Runtime& rt, Value& out) override {
    rt.step();
    const std::string_view text = text_.text();
    if (at_ == text.size()) return false;
    const size_t start = at_;
    next_code(text, at_);
    out = rt.text(text.substr(start, at_ - start));  // of markup too
    return true;
  }

 private:
  Value text_;
  size_t at_ = 0;
};

class DictCursor : public Cursor {
 public:
  DictCursor(Value dict, const DictView& view, Value keep, bool backwards)
      : dict_(std::move(dict)), view_(view), keep_(std::move(keep)), backwards_(backwards) {
    at_ = backwards ? dict_.dict().items.size() : 0;
  }
  bool next(Runtime& rt, Value& out) override {
    rt.step();
    const auto& items = dict_.dict().items;
    if (backwards_ ? at_ == 0 : at_ == items.size()) return false;
    out = view_.part_of(rt, items[backwards_ ? --at_ : at_++]);
    return true;
  }

 private:
  Value dict_;
  DictView view_;
  Value keep_;
  size_t at_;
  bool backwards_;
};

class RangeCursor : public Cursor {
 public:
  RangeCursor(int64_t start, size_t size, int64_t step) : at_(start), left_(size), step_(step) {}
  bool next(Runtime& rt, Value& out) override {
    rt.step();
    if (left_ == 0) return false;
    out = Value::integer(at_);
    if (--left_) at_ += step_;
    return true;
  }

 private:
  int64_t at_;
  size_t left_;
  int64_t step_;
};

// Walks a generator that others may walk as well.
class SharedCursor : public Cursor {
 public:
  explicit SharedCursor(Value generator) : generator_(std::move(generator)) {}
  bool next(Runtime& rt, Value& out) override { return generator_.as<Generator>()->next(rt, out); }

 private:
  Value generator_;
};

}  // namespace

std::string Object::repr(Runtime&) const {
  return "<" + std::string(type_name()) + " object>";
}

Value Object::call(Runtime& rt, const Arguments&) {
  rt.fail("'" + std::string(type_name()) + "' object is not callable");
}

bool Object::contains(Runtime& rt, const Value& self, const Value& item) {
  const CursorPtr cursor = iterate(rt, self);
  if (!cursor) rt.fail("argument of type '" + std::string(type_name()) + "' is not iterable");
  for (Value other; cursor->next(rt, other);)
    if (jinja::equal(rt, other, item)) return true;
  return false;
}

CursorPtr Generator::iterate(Runtime&, const Value& self) {
  return std::make_unique<SharedCursor>(self);
}

size_t Range::size() const {
  if (step > 0 ? start >= stop : start <= stop) return 0;
  const uint64_t span = step > 0 ? static_cast<uint64_t>(stop) - static_cast<uint64_t>(start)
                                 : static_cast<uint64_t>(start) - static_cast<uint64_t>(stop);
  const uint64_t by = step > 0 ? static_cast<uint64_t>(step) : 0 - static_cast<uint64_t>(step);
  return static_cast<size_t>((span - 1) / by + 1);
}
std::string Range::repr(Runtime&) const {
  return "range(" + std::to_string(start) + ", " + std::to_string(stop) +
         (step == 1 ? "" : ", " + std::to_string(step)) + ")";
}
CursorPtr Range::iterate(Runtime&, const Value&) {
  return std::make_unique<RangeCursor>(start, size(), step);
}
CursorPtr Range::reversed(Runtime&, const Value&) {
  return std::make_unique<RangeCursor>(size() ? at(size() - 1) : 0, size(), -step);
}
std::optional<Value> Range::item(Runtime&, const Value& key) {
  if (!key.is_integer() || !key.integer().is_small()) return std::nullopt;
  const int64_t i = key.integer().small(), n = static_cast<int64_t>(size());
  if (i >= n || i < -n) return std::nullopt;
  return Value::integer(at(static_cast<size_t>(i < 0 ? i + n : i)));
}
std::optional<Value> Range::attribute(Runtime&, std::string_view name, const Value&) {
  if (name == "start") return Value::integer(start);
  if (name == "stop") return Value::integer(stop);
  if (name == "step") return Value::integer(step);
  return std::nullopt;
}
bool Range::equal(Runtime&, const Object& other) const {
  const auto* r = dynamic_cast<const Range*>(&other);
  if (!r || size() != r->size()) return false;
  return size() == 0 || (start == r->start && (size() == 1 || step == r->step));
}
bool Range::contains(Runtime& rt, const Value& self, const Value& item) {
  if (!item.is_integer()) return Object::contains(rt, self, item);
  if (!item.integer().is_small() || size() == 0) return false;
  const int64_t v = item.integer().small(), low = std::min(start, at(size() - 1)),
                high = std::max(start, at(size() - 1));
  return v >= low && v <= high && (v - start) % step == 0;
}

std::string_view DictView::type_name() const {
  return part_ == keys ? "dict_keys" : part_ == values ? "dict_values" : "dict_items";
}
Value DictView::part_of(Runtime& rt, const Pair& pair) const {
  if (part_ == keys) return pair.first;
  if (part_ == values) return pair.second;
  return rt.tuple({pair.first, pair.second});
}
std::string DictView::repr(Runtime& rt) const {
  std::string out = std::string(type_name()) + "([";
  bool first = true;
  for (const auto& pair : dict_.dict().items) {
    if (!first) out += ", ";
    first = false;
    out += jinja::repr(rt, part_of(rt, pair));
  }
  return out + "])";
}
CursorPtr DictView::iterate(Runtime&, const Value& self) {
  return std::make_unique<DictCursor>(dict_, *this, self, false);
}
CursorPtr DictView::reversed(Runtime&, const Value& self) {
  return std::make_unique<DictCursor>(dict_, *this, self, true);
}
bool DictView::equal(Runtime& rt, const Object& other) const {
  const auto* view = dynamic_cast<const DictView*>(&other);
  if (this == &other) return true;
  if (!view || part_ == values || view->part_ != part_) return false;
  const auto &a = dict_.dict(), &b = view->dict_.dict();
  if (a.items.size() != b.items.size()) return false;
  for (const auto& [key, value] : a.items) {
    const Value* theirs = b.find(rt, key);
    if (!theirs || (part_ == items && !jinja::equal(rt, value, *theirs))) return false;
  }
  return true;
}
bool DictView::contains(Runtime& rt, const Value& self, const Value& item) {
  return part_ == keys ? dict_.dict().find(rt, item) != nullptr : Object::contains(rt, self, item);
}

CursorPtr try_iterate(Runtime& rt, const Value& v) {
  if (v.is_sequence()) return std::make_unique<ListCursor>(v, false);
  if (v.is_text()) return std::make_unique<TextCursor>(v);
  if (v.is_dict()) {
    const DictView view(v, DictView::keys);
    return std::make_unique<DictCursor>(v, view, Value(), false);
  }
  if (v.is_undefined()) return std::make_unique<RangeCursor>(0, 0, 1);
  return v.is_object() ? v.object().iterate(rt, v) : nullptr;
}

CursorPtr iterate(Runtime& rt, const Value& v) {
  CursorPtr cursor = try_iterate(rt, v);
  if (!cursor) rt.fail("'" + std::string(v.type_name()) + "' object is not iterable");
  return cursor;
}

std::vector<Value> to_vector(Runtime& rt, const Value& v) {
  if (v.is_sequence()) {
    rt.step(v.items().size());
    rt.make(v.items().size() * sizeof(Value));
    return v.items();
  }
  std::vector<Value> out;
  const CursorPtr cursor = iterate(rt, v);
  for (Value item; cursor->next(rt, item);) {
    rt.make(sizeof(Value));
    out.push_back(std::move(item));
  }
  return out;
}

}  // namespace lmxlab::data::jinja
