#include "lmxlab/data/jinja/runtime.h"

#include <algorithm>

namespace lmxlab::data::jinja {

Runtime::~Runtime() {
  release();
}

void Runtime::release() {
  for (const auto& kept : kept_) kept->drop();
  kept_.clear();
}

void Runtime::fail(const std::string& message, Kind kind) const {
  throw Error(kind, "[chat template] line " + std::to_string(line) + ": " + message);
}

void Runtime::fail_type(const std::string& operation, const Value& a, const Value& b) const {
  for (const Value* v : {&a, &b})
    if (v->is_undefined()) fail(v->undefined().message);
  fail("unsupported operand type(s) for " + operation + ": '" + std::string(a.type_name()) +
       "' and '" + std::string(b.type_name()) + "'");
}

void Runtime::make(size_t n) {
  if (n > limits_.bytes || (bytes_ += n) > limits_.bytes)
    fail("rendering takes more than " + std::to_string(limits_.bytes >> 20) +
             " MiB of memory: the template repeats or copies too much",
         Kind::resource);
}

void Runtime::out_of_steps() const {
  fail("rendering takes more than " + std::to_string(limits_.steps) +
           " steps: the template loops too much",
       Kind::resource);
}

void Runtime::too_deep() {
  --depth_;
  fail("more than " + std::to_string(limits_.depth) +
           " calls, blocks and values inside each other: the template recurses too deeply",
       Kind::resource);
}

void Runtime::check_nesting(int depth) const {
  if (depth > kMaxNesting)
    fail("a value nests deeper than " + std::to_string(kMaxNesting) + " levels", Kind::resource);
}

Value Runtime::text(std::string text, bool markup) {
  make(text.size() + sizeof(std::string));
  return Value(Text{std::make_shared<const std::string>(std::move(text)), markup});
}

namespace {
std::shared_ptr<List> make_list(Runtime& rt, std::vector<Value> items) {
  rt.make(items.size() * sizeof(Value) + sizeof(List));
  rt.step(items.size());
  auto list = std::make_shared<List>();
  for (const Value& item : items) list->depth = std::max(list->depth, item.depth() + 1);
  rt.check_nesting(list->depth);
  list->items = std::move(items);
  return list;
}
}  // namespace

Value Runtime::list(std::vector<Value> items) {
  return Value(Value::ListPtr(make_list(*this, std::move(items))));
}

Value Runtime::tuple(std::vector<Value> items, bool group) {
  auto list = make_list(*this, std::move(items));
  list->tuple = true;
  list->group = group;
  return Value(Value::ListPtr(std::move(list)));
}

Value Runtime::undefined(std::string message) {
  make(message.size() + sizeof(Undefined));
  return Value(std::make_shared<const Undefined>(Undefined{std::move(message)}));
}

Value Runtime::undefined_name(std::string_view name) {
  return undefined(repr_text(name) + " is undefined");
}

Value Runtime::undefined_member(const Value& object, const Value& key) {
  const std::string name = object.is_none() ? "None" : std::string(object.type_name()) + " object";
  if (key.is_text())
    return undefined(repr_text(name) + " has no attribute " + repr_text(key.text()));
  return undefined(name + " has no element " + repr(*this, key));
}

Bound::Bound(Runtime& rt, std::string_view function, const Arguments& arguments,
             std::initializer_list<const char*> names, size_t required)
    : function_(function), values_(names.size()) {
  const auto& given = arguments.positional;
  if (given.size() > names.size())
    rt.fail(function_ + "() takes at most " + std::to_string(names.size()) + " arguments (" +
            std::to_string(given.size()) + " given)");
  std::copy(given.begin(), given.end(), values_.begin());
  for (const auto& [name, value] : arguments.named) {
    const auto at = std::find(names.begin(), names.end(), name);
    if (at == names.end())
      rt.fail(function_ + "() got an unexpected keyword argument '" + name + "'");
    Value& place = values_[static_cast<size_t>(at - names.begin())];
    if (!place.is_missing())
      rt.fail(function_ + "() got multiple values for argument '" + name + "'");
    place = value;
  }
  for (size_t i = 0; i < required; ++i)
    if (values_[i].is_missing())
      rt.fail(function_ + "() misses the argument '" + *(names.begin() + i) + "'");
}

int64_t Bound::index(Runtime& rt, size_t i, int64_t otherwise) const {
  return has(i) ? to_index(rt, values_[i]) : otherwise;
}

std::string Bound::string(Runtime& rt, size_t i, std::string_view otherwise) const {
  if (!has(i)) return std::string(otherwise);
  if (values_[i].is_undefined()) rt.fail(values_[i].undefined().message);
  if (!values_[i].is_text())
    rt.fail(function_ + "() argument must be str, not " + std::string(values_[i].type_name()));
  return values_[i].text();
}

int64_t to_index(Runtime& rt, const Value& v) {
  if (v.is_undefined()) rt.fail(v.undefined().message);
  if (!v.is_integer())
    rt.fail("'" + std::string(v.type_name()) + "' object cannot be interpreted as an integer");
  if (!v.integer().is_small()) rt.fail("Python int too large to convert to C ssize_t");
  return v.integer().small();
}

}  // namespace lmxlab::data::jinja
