// What one rendering may use, and how it fails. Private.
#pragma once

#include "lmxlab/base/error.h"
#include "lmxlab/data/chat_template.h"
#include "lmxlab/data/jinja/value.h"

#include <deque>
#include <initializer_list>

namespace lmxlab::data::jinja {

/// Of one rendering. Far above what chat templates need, and low enough that a hostile one ends
/// within seconds.
struct Limits {
  size_t steps = 20'000'000;       // expressions, statements, items walked
  size_t bytes = size_t{1} << 28;  // of all values made
  size_t output = size_t{1} << 26;
  int depth = 800;  // of calls and blocks inside each other
};
constexpr int64_t kMaxRange = 100'000;  // the sandbox's

struct Arguments {
  std::vector<Value> positional;
  std::vector<std::pair<std::string, Value>> named;
};

class Runtime {
 public:
  explicit Runtime(const std::optional<LocalTime>& now, const Limits& limits = {})
      : now(now), limits_(limits) {}
  Runtime(const Runtime&) = delete;
  Runtime& operator=(const Runtime&) = delete;
  virtual ~Runtime();

  /// @throws Error(bad_data) "[chat template] line N: ..."
  [[noreturn]] void fail(const std::string& message, Kind kind = Kind::bad_data) const;
  [[noreturn]] void fail_type(const std::string& operation, const Value& a, const Value& b) const;

  void step(size_t n = 1) {
    if ((steps_ += n) > limits_.steps) out_of_steps();
  }
  /// Counts memory; `n` bytes are about to be made.
  void make(size_t n);
  size_t output_limit() const { return limits_.output; }

  Value text(std::string text, bool markup = false);
  Value text(std::string_view text, bool markup = false) {
    return this->text(std::string(text), markup);
  }
  Value text(const char* text) { return this->text(std::string(text)); }
  Value list(std::vector<Value> items);
  Value tuple(std::vector<Value> items, bool group = false);
  /// An object made here; checked for its nesting.
  template <class T, class... Args>
  Value object(Args&&... args) {
    auto made = std::make_shared<T>(std::forward<Args>(args)...);
    make(sizeof(T));
    check_nesting(made->depth);
    return Value(Value::ObjectPtr(std::move(made)));
  }
  Value undefined(std::string message);
  /// Of a name that nothing has; of an attribute or element that `object` lacks.
  Value undefined_name(std::string_view name);
  Value undefined_member(const Value& object, const Value& key);
  void check_nesting(int depth) const;

  /// Keeps an object that others point to without owning it until the end of the rendering; `drop`
  /// is called then, before anything is destroyed.
  struct Kept {
    virtual ~Kept() = default;
    virtual void drop() = 0;
  };
  void keep(std::shared_ptr<Kept> kept) { kept_.push_back(std::move(kept)); }

  /// One level deeper while it lives.
  class Level {
   public:
    explicit Level(Runtime& rt) : rt_(rt) {
      if (++rt_.depth_ > rt_.limits_.depth) rt_.too_deep();
    }
    ~Level() { --rt_.depth_; }
    Level(const Level&) = delete;
    Level& operator=(const Level&) = delete;

   private:
    Runtime& rt_;
  };

  const std::optional<LocalTime> now;
  int line = 1;  // of what is being evaluated

 protected:
  void release();

 private:
  [[noreturn]] void out_of_steps() const;
  [[noreturn]] void too_deep();
  Limits limits_;
  size_t steps_ = 0, bytes_ = 0;
  int depth_ = 0;
  std::vector<std::shared_ptr<Kept>> kept_;
};

/// Arguments by the names of a signature, as Python binds them.
class Bound {
 public:
  /// @throws Error naming `function` for too many, unknown, repeated or missing ones.
  Bound(Runtime& rt, std::string_view function, const Arguments& arguments,
        std::initializer_list<const char*> names, size_t required = 0);
  bool has(size_t i) const { return !values_[i].is_missing(); }
  const Value& operator[](size_t i) const { return values_[i]; }
  Value get(size_t i, Value otherwise) const { return has(i) ? values_[i] : otherwise; }
  bool flag(Runtime& rt, size_t i, bool otherwise = false) const {
    return has(i) ? truth(rt, values_[i]) : otherwise;
  }
  /// @throws Error if it is there and no integer.
  int64_t index(Runtime& rt, size_t i, int64_t otherwise) const;
  /// @throws Error if it is there and no str.
  std::string string(Runtime& rt, size_t i, std::string_view otherwise) const;

 private:
  std::string function_;
  std::vector<Value> values_;
};

/// An integer that fits, for counts and places. @throws Error
int64_t to_index(Runtime& rt, const Value& v);

}  // namespace lmxlab::data::jinja
