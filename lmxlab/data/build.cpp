#include "lmxlab/data/build.h"

#include "lmxlab/base/error.h"
#include "lmxlab/base/files.h"
#include "lmxlab/base/json.h"
#include "lmxlab/base/text.h"

#include <algorithm>
#include <condition_variable>
#include <cstring>
#include <deque>
#include <exception>
#include <fstream>
#include <mutex>
#include <thread>
#include <utility>

namespace lmxlab::data {
namespace {

constexpr size_t kPiece = 1 << 20;  // bytes of a task, more or less
constexpr size_t kLongestPiece = 16 * kPiece;
constexpr size_t kAround = 512;             // bytes on both sides that must agree with a cut
constexpr int64_t kMostTokens = INT32_MAX;  // of an array

// A part of the work: text to encode, or ids that are there already.
struct Task {
  std::string_view text = {};  // of one document, or whole lines of JSON
  std::string_view ids = {};   // little endian
  int id_bytes = 2;
  bool lines = false;
  bool last = true;  // piece of its document
  size_t line = 1;   // the first line's number
  const fs::path* file = nullptr;
};
struct Done {
  std::vector<int> ids = {};
  std::vector<size_t> ends = {};  // of documents, in ids
};

// ---- cutting ----

// Whether encoding both sides apart gives what encoding them together does.
bool can_cut(const Tokenizer& tokenizer, std::string_view text, size_t at) {
  size_t from = at > kAround ? at - kAround : 0, to = std::min(text.size(), at + kAround);
  const auto inside = [&](size_t i) {
    return i < text.size() && (static_cast<unsigned char>(text[i]) & 0xC0) == 0x80;
  };
  while (from > 0 && inside(from)) --from;
  while (inside(to)) ++to;
  const EncodeOptions plain{.special = false};
  auto left = tokenizer.encode_ids(text.substr(from, at - from), plain);
  const auto right = tokenizer.encode_ids(text.substr(at, to - at), plain),
             both = tokenizer.encode_ids(text.substr(from, to - from), plain);
  left.insert(left.end(), right.begin(), right.end());
  return left == both;
}

// The end of the piece that begins at `from`: behind a line, where that is possible.
size_t cut(const Tokenizer& tokenizer, std::string_view text, size_t from) {
  if (text.size() - from <= 2 * kPiece) return text.size();
  int tried = 0;
  for (size_t at = from + kPiece; at < text.size() && at - from < kLongestPiece;) {
    at = text.find('\n', at);
    if (at == text.npos) break;
    ++at;
    const bool space = at < text.size() && std::strchr(" \t\r\n", text[at]);
    if (at >= text.size() || space) continue;
    if (can_cut(tokenizer, text, at)) return at;
    // A tokenizer that puts something in front of each text never agrees.
    if (++tried == 64) return text.size();
  }
  return text.size();
}

// Deals out the tasks of all inputs, in order.
class Source {
 public:
  Source(const std::vector<fs::path>& inputs, const Tokenizer& tokenizer)
      : inputs_(inputs), tokenizer_(tokenizer) {
    for (const auto& path : inputs) {
      std::error_code code;
      const auto size = fs::file_size(path, code);
      if (code) throw Error(Kind::not_found, "[data] there is no file " + path.string());
      total_ += static_cast<int64_t>(size);
    }
  }
  int64_t total() const { return total_; }

  /// None after the last. The file stays mapped until `release` of its tasks: shared by them.
  std::optional<std::pair<Task, std::shared_ptr<MappedFile>>> next() {
    while (at_ < inputs_.size()) {
      if (!file_) open();
      if (place_ < text_.size() || fresh_) {
        auto task = piece();
        fresh_ = false;
        return std::pair(task, file_);
      }
      file_.reset(), ++at_;
    }
    return std::nullopt;
  }

 private:
  void open() {
    file_ = std::make_shared<MappedFile>(inputs_[at_]);
    text_ = file_->text(), place_ = 0, line_ = 1, fresh_ = true;
    kind_ = inputs_[at_].extension() == ".jsonl" ? Kind_::lines
            : inputs_[at_].extension() == ".bin" ? Kind_::ids
                                                 : Kind_::text;
    if (kind_ == Kind_::ids) open_ids();
    if (kind_ == Kind_::lines) fresh_ = false;  // an empty file has no document
  }
  // llm.c: 256 int32 of header, of which magic number, version and count are the first.
  void open_ids() {
    id_bytes_ = 2;
    const auto word = [&](size_t i) {
      uint32_t v = 0;
      std::memcpy(&v, text_.data() + 4 * i, 4);
      return v;
    };
    const bool header = text_.size() >= 1024;
    const bool narrow = header && word(0) == 20240520 && word(1) == 1;
    const bool wide = header && word(0) == 20240801 && word(1) == 7;
    if (narrow || wide) {
      id_bytes_ = wide ? 4 : 2;
      const uint64_t count = word(2),
                     there = (text_.size() - 1024) / static_cast<size_t>(id_bytes_);
      if (count != there || (text_.size() - 1024) % static_cast<size_t>(id_bytes_) != 0)
        throw Error(Kind::bad_data, "[data] " + inputs_[at_].string() + ": its header says " +
                                        std::to_string(count) + " tokens, the file has " +
                                        std::to_string(there));
      text_.remove_prefix(1024);
    } else if (text_.size() % 2 != 0) {
      throw Error(Kind::bad_data, "[data] " + inputs_[at_].string() +
                                      ": expected ids of 2 bytes each, got an odd number of bytes");
    }
    fresh_ = !text_.empty();
  }
  Task piece() {
    Task task;
    task.file = &inputs_[at_];
    if (kind_ == Kind_::text) {
      const size_t end = cut(tokenizer_, text_, place_);
      task.text = text_.substr(place_, end - place_);
      task.last = end == text_.size();
      place_ = end;
    } else if (kind_ == Kind_::lines) {
      task.lines = true, task.line = line_;
      size_t end = text_.find('\n', std::min(text_.size(), place_ + kPiece));
      end = end == text_.npos ? text_.size() : end + 1;
      task.text = text_.substr(place_, end - place_);
      line_ += static_cast<size_t>(std::count(task.text.begin(), task.text.end(), '\n'));
      place_ = end;
    } else {
      const size_t end = std::min(text_.size(), place_ + kPiece);
      task.ids = text_.substr(place_, end - place_), task.id_bytes = id_bytes_;
      task.last = end == text_.size();
      place_ = end;
    }
    return task;
  }

  enum class Kind_ { text, lines, ids };
  const std::vector<fs::path>& inputs_;
  const Tokenizer& tokenizer_;
  int64_t total_ = 0;
  size_t at_ = 0, place_ = 0, line_ = 1;
  std::shared_ptr<MappedFile> file_;
  std::string_view text_;
  Kind_ kind_ = Kind_::text;
  bool fresh_ = false;  // a text that is empty is a document too
  int id_bytes_ = 2;
};

// ---- the work itself ----

class Worker {
 public:
  Worker(const Tokenizer& tokenizer, const BuildOptions& options)
      : tokenizer_(tokenizer), options_(options) {}

  Done operator()(const Task& task) const {
    Done done;
    const auto where = "[data] " + task.file->string();
    if (!task.ids.empty()) {
      ids(task, done, where);
    } else if (task.lines) {
      lines(task, done, where);
    } else {
      with_context(where, [&] { encode(task.text, done); });
      if (task.last) end(done);
    }
    return done;
  }

 private:
  void encode(std::string_view text, Done& done) const {
    // What stands in a corpus is text, whatever it looks like.
    const auto ids = tokenizer_.encode_ids(text, {.special = false});
    done.ids.insert(done.ids.end(), ids.begin(), ids.end());
  }
  void end(Done& done) const {
    if (options_.end_of_document) done.ids.push_back(*options_.end_of_document);
    done.ends.push_back(done.ids.size());
  }
  void lines(const Task& task, Done& done, const std::string& where) const {
    size_t number = task.line;
    for (size_t at = 0; at < task.text.size(); ++number) {
      auto next = task.text.find('\n', at);
      if (next == task.text.npos) next = task.text.size();
      const auto line = task.text.substr(at, next - at);
      at = next + 1;
      if (trim(line).empty()) continue;
      with_context(where + ", line " + std::to_string(number), [&] {
        const Json json = Json::parse(line, "JSON");
        const Json* text = json.is_object() ? json.find(options_.text_key) : &json;
        if (!text || !text->is_string())
          throw Error(Kind::bad_data, "expected a string, or an object with a string \"" +
                                          options_.text_key + "\", got " +
                                          std::string(json.type_name()));
        encode(text->as_string(), done);
      });
      end(done);
    }
  }
  void ids(const Task& task, Done& done, const std::string& where) const {
    const auto width = static_cast<size_t>(task.id_bytes);
    done.ids.reserve(task.ids.size() / width);
    for (size_t i = 0; i < task.ids.size(); i += width) {
      uint32_t id = 0;
      std::memcpy(&id, task.ids.data() + i, width);
      if (id >= static_cast<uint32_t>(tokenizer_.vocab_size()))
        throw Error(Kind::mismatch, where + " has the id " + std::to_string(id) +
                                        ", the tokenizer's vocabulary ends at " +
                                        std::to_string(tokenizer_.vocab_size() - 1));
      done.ids.push_back(static_cast<int>(id));
    }
    if (task.last) done.ends.push_back(done.ids.size());
  }

  const Tokenizer& tokenizer_;
  const BuildOptions& options_;
};

// Tasks go out to threads and come back in order; no more than a few are under way.
class Pool {
 public:
  Pool(int threads, const Worker& worker) : worker_(worker) {
    for (int i = 0; i < threads; ++i) threads_.emplace_back([this] { work(); });
  }
  ~Pool() {
    {
      const std::lock_guard lock(mutex_);
      closed_ = true;
    }
    wake_.notify_all();
    for (auto& t : threads_) t.join();
  }
  size_t under_way() const { return slots_.size(); }
  void put(Task task, std::shared_ptr<MappedFile> file) {
    {
      const std::lock_guard lock(mutex_);
      slots_.push_back(std::make_unique<Slot>(Slot{task, std::move(file), {}, {}, false}));
      waiting_.push_back(slots_.back().get());
    }
    wake_.notify_one();
  }
  /// The oldest. @throws what its work threw
  Done take() {
    auto slot = std::move(slots_.front());
    slots_.pop_front();
    std::unique_lock lock(mutex_);
    ready_.wait(lock, [&] { return slot->ready; });
    if (slot->error) std::rethrow_exception(slot->error);
    return std::move(slot->done);
  }

 private:
  struct Slot {
    Task task;
    std::shared_ptr<MappedFile> file;
    Done done;
    std::exception_ptr error;
    bool ready;
  };
  void work() {
    for (;;) {
      Slot* slot = nullptr;
      {
        std::unique_lock lock(mutex_);
        wake_.wait(lock, [&] { return closed_ || !waiting_.empty(); });
        if (closed_) return;
        slot = waiting_.front();
        waiting_.pop_front();
      }
      Done done;
      std::exception_ptr error;
      try {
        done = worker_(slot->task);
      } catch (...) {
        error = std::current_exception();
      }
      {
        const std::lock_guard lock(mutex_);
        slot->done = std::move(done), slot->error = error, slot->file.reset(), slot->ready = true;
      }
      ready_.notify_all();
    }
  }

  const Worker& worker_;
  std::mutex mutex_;
  std::condition_variable wake_, ready_;
  std::deque<std::unique_ptr<Slot>> slots_;  // the caller's
  std::deque<Slot*> waiting_;
  bool closed_ = false;
  std::vector<std::thread> threads_;
};

// ---- writing ----

// Tokens and documents on their way to the file: their numbers stand in its header, so they wait
// in files beside it.
class Spool {
 public:
  explicit Spool(const fs::path& path) : path_(path), out_(path, std::ios::binary) {
    if (!out_) throw Error(Kind::resource, "[data] " + path.string() + " cannot be written");
  }
  ~Spool() {
    out_.close();
    std::error_code ignored;
    fs::remove(path_, ignored);
  }
  Spool(const Spool&) = delete;
  Spool& operator=(const Spool&) = delete;
  void write(const void* data, size_t bytes) {
    out_.write(static_cast<const char*>(data), static_cast<std::streamsize>(bytes));
    if (!out_)
      throw Error(Kind::resource,
                  "[data] " + path_.string() + " cannot be written: is the disk full?");
    bytes_ += bytes;
  }
  size_t bytes() const { return bytes_; }
  void copy_to(AtomicFile& to) {
    out_.flush();
    std::ifstream in(path_, std::ios::binary);
    std::string buffer(kPiece, '\0');
    while (in.read(buffer.data(), static_cast<std::streamsize>(buffer.size())) || in.gcount() > 0)
      to.write(std::string_view(buffer).substr(0, static_cast<size_t>(in.gcount())));
  }

 private:
  fs::path path_;
  std::ofstream out_;
  size_t bytes_ = 0;
};

class TokenFile {
 public:
  TokenFile(const fs::path& out, const Tokenizer& tokenizer)
      : out_(out),
        wide_(tokenizer.vocab_size() > 65536),
        fingerprint_(tokenizer.fingerprint()),
        tokens_(beside(".tokens")),
        documents_(beside(".documents")) {
    write_document(0);
  }
  void add(const Done& done) {
    const auto write = [&](auto sample) {
      std::vector<decltype(sample)> ids(done.ids.begin(), done.ids.end());
      tokens_.write(ids.data(), ids.size() * sizeof(sample));
    };
    wide_ ? write(uint32_t{}) : write(uint16_t{});
    for (const size_t end : done.ends) write_document(count_ + static_cast<int64_t>(end));
    count_ += static_cast<int64_t>(done.ids.size());
    if (count_ > kMostTokens)
      throw Error(Kind::unsupported, "[data] more than " + std::to_string(kMostTokens) +
                                         " tokens do not fit an array. Make several files.");
  }
  BuildResult finish() {
    const auto documents = static_cast<int64_t>(documents_.bytes() / 8);
    const size_t table = documents_.bytes();
    const auto entry = [](const char* dtype, int64_t n, size_t from, size_t to) {
      return Json::object({{"dtype", Json(dtype)},
                           {"shape", Json::array({Json(n)})},
                           {"data_offsets", Json::array({Json(from), Json(to)})}});
    };
    Json header = Json::object(
        {{"__metadata__", Json::object({{"tokenizer", Json(fingerprint_)}})},
         {"documents", entry("I64", documents, 0, table)},
         {"tokens", entry(wide_ ? "U32" : "U16", count_, table, table + tokens_.bytes())}});
    std::string text = header.dump();
    text.append((64 - (8 + text.size()) % 64) % 64, ' ');
    std::string front(8, '\0');
    for (size_t i = 0; i < 8; ++i) front[i] = static_cast<char>(text.size() >> (8 * i) & 0xFF);
    AtomicFile file(out_);
    file.write(front + text);
    documents_.copy_to(file);
    tokens_.copy_to(file);
    file.commit();
    return {documents - 1, count_,
            static_cast<int64_t>(front.size() + text.size() + table + tokens_.bytes())};
  }

 private:
  fs::path beside(const char* suffix) const {
    auto name = out_;
    name.replace_filename("." + out_.filename().string() + suffix);
    return name;
  }
  void write_document(int64_t begin) { documents_.write(&begin, sizeof begin); }

  fs::path out_;
  bool wide_;
  std::string fingerprint_;
  Spool tokens_, documents_;
  int64_t count_ = 0;
};

}  // namespace

BuildResult build_token_file(const std::vector<fs::path>& inputs, const fs::path& out,
                             const Tokenizer& tokenizer, const BuildOptions& options,
                             const std::function<void(int64_t, int64_t)>& progress) {
  const auto& end = options.end_of_document;
  if (end && (*end < 0 || *end >= tokenizer.vocab_size()))
    throw Error(Kind::usage, "[data] end of document: expected an id below " +
                                 std::to_string(tokenizer.vocab_size()) + ", got " +
                                 std::to_string(*end));
  if (inputs.empty()) throw Error(Kind::usage, "[data] expected at least one input");
  Source source(inputs, tokenizer);
  TokenFile file(out, tokenizer);
  const Worker worker(tokenizer, options);
  const int threads = options.threads > 0
                          ? options.threads
                          : std::max(1, static_cast<int>(std::thread::hardware_concurrency()));
  Pool pool(threads, worker);
  std::deque<int64_t> sizes;
  int64_t read = 0;
  const auto take = [&] {
    file.add(pool.take());
    read += sizes.front();
    sizes.pop_front();
    if (progress) progress(std::min(read, source.total()), source.total());
  };
  while (auto next = source.next()) {
    if (options.stop.stop_requested())
      throw Error(Kind::canceled, "[data] interrupted; nothing was written");
    sizes.push_back(static_cast<int64_t>(next->first.text.size() + next->first.ids.size()));
    pool.put(next->first, std::move(next->second));
    if (pool.under_way() >= 2 * static_cast<size_t>(threads)) take();
  }
  while (pool.under_way() > 0) take();
  return file.finish();
}

}  // namespace lmxlab::data
