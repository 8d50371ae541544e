// Values of a template: Python's, as far as a sandboxed template sees them. Private.
//
// Values are immutable, but for namespaces, cyclers and generators. What a template can build is
// bounded: every value is counted by the Runtime, and nests no deeper than kMaxNesting, so that
// walking and destroying it is safe.
#pragma once

#include "lmxlab/base/json.h"
#include "lmxlab/data/jinja/integer.h"

#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <unordered_map>
#include <utility>
#include <variant>
#include <vector>

namespace lmxlab::data::jinja {

class Runtime;
class Value;
class Object;
struct List;
struct Dict;
struct Arguments;

constexpr int kMaxNesting = 200;

struct Missing {  // a variable that was never set
  bool operator==(const Missing&) const = default;
};
struct None {
  bool operator==(const None&) const = default;
};
struct Text {
  std::shared_ptr<const std::string> text;
  bool markup = false;  // markupsafe's str: what is added to it gets escaped
};
/// What is not there. Prints as nothing; most uses are an error with this message.
struct Undefined {
  std::string message;
};

class Value {
 public:
  using ListPtr = std::shared_ptr<const List>;
  using DictPtr = std::shared_ptr<const Dict>;
  using ObjectPtr = std::shared_ptr<Object>;
  using UndefinedPtr = std::shared_ptr<const Undefined>;

  Value() : data_(Missing{}) {}
  Value(None) : data_(None{}) {}
  explicit Value(bool v) : data_(v) {}
  Value(Integer v) : data_(std::move(v)) {}
  explicit Value(double v) : data_(v) {}
  Value(Text v) : data_(std::move(v)) {}
  Value(ListPtr v) : data_(std::move(v)) {}
  Value(DictPtr v) : data_(std::move(v)) {}
  Value(ObjectPtr v) : data_(std::move(v)) {}
  Value(UndefinedPtr v) : data_(std::move(v)) {}
  static Value integer(int64_t v) { return Value(Integer(v)); }

  bool is_missing() const { return std::holds_alternative<Missing>(data_); }
  bool is_none() const { return std::holds_alternative<None>(data_); }
  bool is_bool() const { return std::holds_alternative<bool>(data_); }
  /// True of bools too, as isinstance(value, int) is.
  bool is_integer() const { return is_bool() || std::holds_alternative<Integer>(data_); }
  bool is_float() const { return std::holds_alternative<double>(data_); }
  bool is_number() const { return is_integer() || is_float(); }
  bool is_text() const { return std::holds_alternative<Text>(data_); }
  bool is_markup() const { return is_text() && std::get<Text>(data_).markup; }
  bool is_list() const;
  bool is_tuple() const;
  bool is_group() const;
  bool is_sequence() const { return std::holds_alternative<ListPtr>(data_); }  // list or tuple
  bool is_dict() const { return std::holds_alternative<DictPtr>(data_); }
  bool is_object() const { return std::holds_alternative<ObjectPtr>(data_); }
  bool is_undefined() const { return std::holds_alternative<UndefinedPtr>(data_); }

  bool boolean() const { return std::get<bool>(data_); }
  Integer integer() const;  // of a bool: 0 or 1
  double real() const { return std::get<double>(data_); }
  const std::string& text() const { return *std::get<Text>(data_).text; }
  const std::vector<Value>& items() const;
  const Dict& dict() const { return *std::get<DictPtr>(data_); }
  Object& object() const { return *std::get<ObjectPtr>(data_); }
  const ObjectPtr& pointer() const { return std::get<ObjectPtr>(data_); }
  const Undefined& undefined() const { return *std::get<UndefinedPtr>(data_); }
  template <class T>
  T* as() const {  // the object, if it is of this class
    return is_object() ? dynamic_cast<T*>(std::get<ObjectPtr>(data_).get()) : nullptr;
  }

  /// "int", "str", ... as type(value).__name__.
  std::string_view type_name() const;
  int depth() const;
  bool same(const Value& other) const;  // Python's `is`

 private:
  std::variant<Missing, None, bool, Integer, double, Text, ListPtr, DictPtr, ObjectPtr,
               UndefinedPtr>
      data_;
};

struct List {
  std::vector<Value> items;
  bool tuple = false;
  bool group = false;  // of groupby: has .grouper and .list
  int depth = 1;
};

using Pair = std::pair<Value, Value>;

/// In order of insertion; the key of 1, 1.0 and true is one.
struct Dict {
  std::vector<Pair> items;
  int depth = 1;
  /// @throws Error if the key cannot be hashed.
  const Value* find(Runtime& rt, const Value& key) const;
  const Value* find(std::string_view key) const;

 private:
  friend class DictBuilder;
  size_t find_index(Runtime& rt, const Value& key, size_t hash) const;
  std::unordered_multimap<size_t, size_t> index_;  // hash to item; only of larger ones
};

class DictBuilder {
 public:
  explicit DictBuilder(Runtime& rt) : rt_(rt), dict_(std::make_shared<Dict>()) {}
  void set(const Value& key, const Value& value);
  void update(const Dict& other);
  size_t size() const { return dict_->items.size(); }
  Value finish();

 private:
  Runtime& rt_;
  std::shared_ptr<Dict> dict_;
};

/// Gives one item after another.
class Cursor {
 public:
  virtual ~Cursor() = default;
  virtual bool next(Runtime& rt, Value& out) = 0;
};
using CursorPtr = std::unique_ptr<Cursor>;

/// Everything that is neither number, text, list nor dict. `self` is the value that holds it.
class Object {
 public:
  virtual ~Object() = default;
  virtual std::string_view type_name() const = 0;
  virtual std::string repr(Runtime& rt) const;
  virtual bool truth(Runtime& rt) { return length(rt).value_or(1) != 0; }
  virtual std::optional<size_t> length(Runtime&) { return std::nullopt; }
  virtual CursorPtr iterate(Runtime&, const Value& /*self*/) { return nullptr; }
  virtual CursorPtr reversed(Runtime&, const Value& /*self*/) { return nullptr; }
  virtual bool has_items() const { return false; }  // a __getitem__
  virtual std::optional<Value> item(Runtime&, const Value& /*key*/) { return std::nullopt; }
  virtual std::optional<Value> attribute(Runtime&, std::string_view /*name*/,
                                         const Value& /*self*/) {
    return std::nullopt;
  }
  virtual bool callable() const { return false; }
  virtual Value call(Runtime& rt, const Arguments& arguments);
  virtual bool equal(Runtime&, const Object& other) const { return this == &other; }
  virtual bool contains(Runtime& rt, const Value& self, const Value& item);
  int depth = 1;
};

/// A cursor as a value: it can be walked once, and is always true.
class Generator : public Object {
 public:
  Generator(CursorPtr cursor, int nesting, const char* name = "generator")
      : cursor_(std::move(cursor)), name_(name) {
    depth = nesting;
  }
  std::string_view type_name() const override { return name_; }
  CursorPtr iterate(Runtime& rt, const Value& self) override;
  bool next(Runtime& rt, Value& out) { return cursor_->next(rt, out); }

 private:
  CursorPtr cursor_;
  const char* name_;
};

class Range : public Object {
 public:
  Range(int64_t from, int64_t to, int64_t by) : start(from), stop(to), step(by) {}
  std::string_view type_name() const override { return "range"; }
  std::string repr(Runtime& rt) const override;
  std::optional<size_t> length(Runtime&) override { return size(); }
  CursorPtr iterate(Runtime& rt, const Value& self) override;
  CursorPtr reversed(Runtime& rt, const Value& self) override;
  bool has_items() const override { return true; }
  std::optional<Value> item(Runtime& rt, const Value& key) override;
  std::optional<Value> attribute(Runtime& rt, std::string_view name, const Value& self) override;
  bool equal(Runtime& rt, const Object& other) const override;
  bool contains(Runtime& rt, const Value& self, const Value& item) override;
  size_t size() const;
  int64_t at(size_t index) const { return start + static_cast<int64_t>(index) * step; }
  int64_t start, stop, step;
};

/// dict.keys(), values() and items().
class DictView : public Object {
 public:
  enum Part { keys, values, items };
  DictView(Value dict, Part part) : dict_(std::move(dict)), part_(part) {
    depth = dict_.depth() + 1;
  }
  std::string_view type_name() const override;
  std::string repr(Runtime& rt) const override;
  std::optional<size_t> length(Runtime&) override { return dict_.dict().items.size(); }
  CursorPtr iterate(Runtime& rt, const Value& self) override;
  CursorPtr reversed(Runtime& rt, const Value& self) override;
  bool equal(Runtime& rt, const Object& other) const override;
  bool contains(Runtime& rt, const Value& self, const Value& item) override;
  Value part_of(Runtime& rt, const Pair& pair) const;
  bool is_set() const { return part_ != values; }

 private:
  Value dict_;
  Part part_;
};

bool truth(Runtime& rt, const Value& v);
std::string to_text(Runtime& rt, const Value& v);  // str(v)
std::string repr(Runtime& rt, const Value& v);
void append_text(Runtime& rt, const Value& v, std::string& out);
std::string repr_text(std::string_view text);  // of a str
std::string repr_float(double v);
bool equal(Runtime& rt, const Value& a, const Value& b);
enum class Order { lt, le, gt, ge };
/// @throws Error if Python cannot order them.
bool ordered(Runtime& rt, const Value& a, const Value& b, Order order);
inline bool less(Runtime& rt, const Value& a, const Value& b) {
  return ordered(rt, a, b, Order::lt);
}
/// Order of an integer or float and another, as Python compares them exactly; none if NaN.
std::partial_ordering compare_numbers(const Value& a, const Value& b);
/// @throws Error if it cannot be hashed.
size_t hash(Runtime& rt, const Value& v);
/// @throws Error if it cannot be iterated. The cursor keeps what it needs of `v`.
CursorPtr iterate(Runtime& rt, const Value& v);
CursorPtr try_iterate(Runtime& rt, const Value& v);  // null instead
/// All items. @throws as iterate
std::vector<Value> to_vector(Runtime& rt, const Value& v);
std::optional<size_t> length(Runtime& rt, const Value& v);
bool is_callable(const Value& v);

Value from_json(Runtime& rt, const Json& json);

}  // namespace lmxlab::data::jinja
