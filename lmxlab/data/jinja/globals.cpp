// What a template can call: range, dict, namespace, cycler, joiner, raise_exception, strftime_now.
#include "lmxlab/data/jinja/filters.h"
#include "lmxlab/data/jinja/strftime.h"

#include <algorithm>

namespace lmxlab::data::jinja {

std::string Namespace::repr(Runtime& rt) const {
  std::string out = "<Namespace {";
  for (size_t i = 0; i < members_.size(); ++i) {
    const auto& [name, value] = members_[i];
    out += (i ? ", " : "") + repr_text(name) + ": " + jinja::repr(rt, value);
  }
  return out + "}>";
}

std::optional<Value> Namespace::attribute(Runtime&, std::string_view name, const Value&) {
  for (const auto& [given, value] : members_)
    if (given == name) return value;
  return std::nullopt;
}

void Namespace::set(Runtime& rt, const std::string& name, const Value& value) {
  if (name.starts_with('_'))
    rt.fail("Chat templates cannot store underscore-prefixed attributes on a namespace, but got " +
            repr_text(name) + ". Please rename the attribute.");
  rt.step(1 + members_.size() / 4);
  for (auto& [given, old] : members_)
    if (given == name) {
      old = value;
      return;
    }
  rt.make(name.size() + sizeof(Value));
  members_.emplace_back(name, value);
}

namespace {

using Args = Arguments;

Value make_dict(Runtime& rt, const Args& args);

class Function : public Object {
 public:
  using Run = Value (*)(Runtime&, const Args&);
  Function(const char* name, Run run) : name_(name), run_(run) {}
  std::string_view type_name() const override { return "function"; }
  std::string repr(Runtime&) const override { return "<function " + std::string(name_) + ">"; }
  bool callable() const override { return true; }
  Value call(Runtime& rt, const Args& args) override { return run_(rt, args); }
  std::optional<Value> attribute(Runtime& rt, std::string_view name, const Value&) override {
    if (std::string_view(name_) != "dict" || name != "fromkeys") return std::nullopt;
    return rt.object<Function>("fromkeys", [](Runtime& r, const Args& args) {
      const Value none = make_dict(r, {});
      return find_method(none, "fromkeys")->run(r, none, args);
    });
  }

 private:
  const char* name_;
  Run run_;
};

Value range(Runtime& rt, const Args& args) {
  const Bound b(rt, "range", args, {"", "", ""}, 1);
  const int64_t first = to_index(rt, b[0]);
  const int64_t start = b.has(1) ? first : 0, stop = b.index(rt, 1, first);
  const int64_t by = b.index(rt, 2, 1);
  if (by == 0) rt.fail("range() arg 3 must not be zero");
  constexpr int64_t kFar = int64_t{1} << 61;
  for (const int64_t v : {start, stop, by})
    if (v > kFar || v < -kFar) rt.fail("range() takes no numbers that large");
  const Value out = rt.object<Range>(start, stop, by);
  if (out.as<Range>()->size() > static_cast<size_t>(kMaxRange))
    rt.fail("Range too big. The sandbox blocks ranges larger than MAX_RANGE (" +
                std::to_string(kMaxRange) + ").",
            Kind::resource);
  return out;
}

// dict(mapping or pairs, name=value, ...)
Value make_dict(Runtime& rt, const Args& args) {
  DictBuilder out(rt);
  if (args.positional.size() > 1)
    rt.fail("dict expected at most 1 argument, got " + std::to_string(args.positional.size()));
  for (const Value& v : args.positional) {
    if (v.is_dict()) {
      out.update(v.dict());
      continue;
    }
    const CursorPtr cursor = iterate(rt, v);
    int64_t n = 0;
    for (Value pair; cursor->next(rt, pair); ++n) {
      if (!try_iterate(rt, pair))
        rt.fail("cannot convert dictionary update sequence element #" + std::to_string(n) +
                " to a sequence");
      const auto both = to_vector(rt, pair);
      if (both.size() != 2)
        rt.fail("dictionary update sequence element #" + std::to_string(n) + " has length " +
                std::to_string(both.size()) + "; 2 is required");
      out.set(both[0], both[1]);
    }
  }
  for (const auto& [name, value] : args.named) out.set(rt.text(name), value);
  return out.finish();
}

Value make_namespace(Runtime& rt, const Args& args) {
  const Value members = make_dict(rt, args);
  const auto made = std::make_shared<Namespace>();
  rt.make(sizeof(Namespace));
  for (const auto& [name, value] : members.dict().items) made->set(rt, to_text(rt, name), value);
  // Values point to it without owning it: it may hold itself.
  rt.keep(made);
  return Value(Value::ObjectPtr(std::shared_ptr<void>(), made.get()));
}

class Cycler : public Object, public Runtime::Kept {
 public:
  explicit Cycler(std::vector<Value> items) : items_(std::move(items)) {}
  std::string_view type_name() const override { return "Cycler"; }
  void drop() override { items_.clear(); }
  std::optional<Value> attribute(Runtime& rt, std::string_view name, const Value& self) override {
    if (name == "current") return items_[at_];
    if (name == "pos") return Value::integer(static_cast<int64_t>(at_));
    if (name == "items") return rt.tuple(items_);
    if (name == "next" || name == "reset") return rt.object<Step>(self, name == "next");
    return std::nullopt;
  }

 private:
  class Step : public Object {
   public:
    Step(Value cycler, bool next) : cycler_(std::move(cycler)), next_(next) {}
    std::string_view type_name() const override { return "method"; }
    bool callable() const override { return true; }
    Value call(Runtime& rt, const Args& args) override {
      const Bound b(rt, next_ ? "next" : "reset", args, {});
      auto& cycler = *cycler_.as<Cycler>();
      if (!next_) return cycler.at_ = 0, Value(None{});
      const Value out = cycler.items_[cycler.at_];
      cycler.at_ = (cycler.at_ + 1) % cycler.items_.size();
      return out;
    }

   private:
    Value cycler_;
    bool next_;
  };
  std::vector<Value> items_;
  size_t at_ = 0;
};

Value make_cycler(Runtime& rt, const Args& args) {
  if (args.positional.empty()) rt.fail("at least one item has to be provided");
  const auto made = std::make_shared<Cycler>(args.positional);
  rt.make(sizeof(Cycler) + args.positional.size() * sizeof(Value));
  rt.keep(made);
  return Value(Value::ObjectPtr(std::shared_ptr<void>(), made.get()));
}

class Joiner : public Object {
 public:
  explicit Joiner(Value separator) : separator_(std::move(separator)) {
    depth = separator_.depth() + 1;
  }
  std::string_view type_name() const override { return "Joiner"; }
  bool callable() const override { return true; }
  Value call(Runtime& rt, const Args&) override {
    return std::exchange(used_, true) ? separator_ : rt.text("");
  }
  std::optional<Value> attribute(Runtime&, std::string_view name, const Value&) override {
    if (name == "sep") return separator_;
    if (name == "used") return Value(used_);
    return std::nullopt;
  }

 private:
  Value separator_;
  bool used_ = false;
};

Value make_joiner(Runtime& rt, const Args& args) {
  const Bound b(rt, "joiner", args, {"sep"});
  return rt.object<Joiner>(b.get(0, rt.text(", ")));
}

Value lipsum(Runtime& rt, const Args&) {
  rt.fail("lipsum() is not supported: the same messages must give the same text",
          Kind::unsupported);
}

Value raise_exception(Runtime& rt, const Args& args) {
  const Bound b(rt, "raise_exception", args, {"message"}, 1);
  rt.fail(to_text(rt, b[0]));
}

Value strftime_now(Runtime& rt, const Args& args) {
  const Bound b(rt, "strftime_now", args, {"format"}, 1);
  const std::string format = b.string(rt, 0, "");
  if (!rt.now)
    rt.fail("the template asks for the time (strftime_now), and none was given", Kind::usage);
  rt.make(format.size() * 32);
  return rt.text(strftime(*rt.now, format));
}

}  // namespace

std::vector<std::pair<std::string, Value>> make_globals(Runtime& rt) {
  static constexpr std::pair<const char*, Function::Run> functions[] = {
      {"range", range},
      {"dict", make_dict},
      {"namespace", make_namespace},
      {"cycler", make_cycler},
      {"joiner", make_joiner},
      {"lipsum", lipsum},
      {"raise_exception", raise_exception},
      {"strftime_now", strftime_now}};
  std::vector<std::pair<std::string, Value>> out;
  for (const auto& [name, run] : functions) out.emplace_back(name, rt.object<Function>(name, run));
  return out;
}

}  // namespace lmxlab::data::jinja
