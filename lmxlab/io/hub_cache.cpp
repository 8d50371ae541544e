#include "lmxlab/io/hub_cache.h"

#include "lmxlab/base/text.h"

#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <set>

namespace lmxlab::io {
namespace {

constexpr int64_t kLargestFile = int64_t(1) << 50;
constexpr size_t kShownNames = 12;

bool is_word(char c) {
  return (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || (c >= '0' && c <= '9') || c == '_';
}

bool is_hexadecimal(std::string_view text, size_t digits) {
  return text.size() == digits && text.find_first_not_of("0123456789abcdef") == text.npos;
}

// A half of "org/name", by the hub's rules.
bool is_name(std::string_view text) {
  const auto allowed = [](char c) { return is_word(c) || c == '-' || c == '.'; };
  return !text.empty() && text.size() <= 96 && std::all_of(text.begin(), text.end(), allowed) &&
         is_word(text.front()) && is_word(text.back()) && text.find("--") == text.npos &&
         text.find("..") == text.npos && !text.ends_with(".git");
}

bool is_text(std::string_view name) {
  static const std::set<std::string_view> kNames{"config.json",
                                                 "generation_config.json",
                                                 "adapter_config.json",
                                                 "tokenizer.json",
                                                 "tokenizer_config.json",
                                                 "special_tokens_map.json",
                                                 "added_tokens.json",
                                                 "tokenizer.model",
                                                 "spiece.model",
                                                 "tekken.json",
                                                 "sentencepiece.bpe.model",
                                                 "vocab.json",
                                                 "vocab.txt",
                                                 "merges.txt",
                                                 "chat_template.jinja",
                                                 "chat_template.json"};
  if (kNames.count(name) || name.ends_with(".tiktoken")) return name.find('/') == name.npos;
  return name.starts_with("additional_chat_templates/") && name.ends_with(".jinja");
}

constexpr const char* kIndex = "model.safetensors.index.json";

// The safetensors files at the top, without those that hold the same weights once more.
std::vector<HubFile> safetensors(const HubListing& listing) {
  std::vector<HubFile> all;
  const HubFile* index = nullptr;
  for (const auto& f : listing.files) {
    if (f.name == kIndex) index = &f;
    if (f.name.find('/') == f.name.npos && f.name.ends_with(".safetensors")) all.push_back(f);
  }
  const auto keep = [&](const auto& wanted) {
    if (std::any_of(all.begin(), all.end(), wanted))
      std::erase_if(all, [&](const HubFile& f) { return !wanted(f); });
  };
  keep([](const HubFile& f) { return f.name.starts_with("model"); });
  const auto is_shard = [](const HubFile& f) { return f.name.find("-of-") != f.name.npos; };
  if (index && std::any_of(all.begin(), all.end(), is_shard)) {
    keep(is_shard);
    all.insert(all.begin(), *index);
  } else {
    keep([](const HubFile& f) { return f.name == "model.safetensors"; });
  }
  return all;
}

// "org/name:a.gguf (1.20 GB), ..." of the GGUF files; empty if there are none.
std::string gguf_names(const HubName& name, const HubListing& listing) {
  std::vector<std::string> out;
  size_t more = 0;
  for (const auto& f : listing.files) {
    if (!f.name.ends_with(".gguf")) continue;
    if (out.size() < kShownNames)
      out.push_back(name.repository + ":" + f.name + " (" + human_bytes(double(f.bytes)) + ")");
    else
      ++more;
  }
  return join(out, ", ") + (more ? ", and " + std::to_string(more) + " more" : "");
}

// A folder that another program may have filled file by file: is there all that a model needs?
bool is_complete(const fs::path& folder, HubPart part) {
  std::error_code ignored;
  const auto has = [&](const std::string& file) {
    return fs::is_regular_file(folder / file, ignored);
  };
  const bool tokenizer = has("tokenizer.json") || has("tokenizer.model") || has("vocab.json") ||
                         has("vocab.txt") || has("tekken.json") || has("spiece.model") ||
                         has("sentencepiece.bpe.model");
  if (!has("config.json") || !tokenizer) return false;
  if (part == HubPart::texts || has("model.safetensors")) return true;
  if (!has(kIndex)) return false;
  try {
    const Json index = Json::parse(read_file(folder / kIndex));
    for (const auto& [tensor, shard] : index.at("weight_map").as_object())
      if (!unsafe_path(shard.as_string()).empty() || !has(shard.as_string())) return false;
    return true;
  } catch (const Error&) {  // then it is fetched anew
    return false;
  }
}

// Of a temporary file that nobody else makes.
std::string own_name(const std::string& what) {
  static std::atomic<int> count = 0;
  return "." + what + "-" + std::to_string(::getpid()) + "-" + std::to_string(++count);
}

bool has_size(const fs::path& path, int64_t bytes) {
  std::error_code code;
  const auto size = fs::file_size(path, code);
  return !code && size == static_cast<uintmax_t>(bytes);
}

}  // namespace

std::optional<HubName> hub_name(std::string_view text) {
  const auto colon = text.find(':');
  const auto repository = text.substr(0, colon);
  const auto slash = repository.find('/');
  if (slash == text.npos || repository.size() > 96 || !is_name(repository.substr(0, slash)) ||
      !is_name(repository.substr(slash + 1)))
    return std::nullopt;
  HubName out{.repository = std::string(repository), .file = {}};
  if (colon == text.npos) return out;
  out.file = text.substr(colon + 1);
  return unsafe_path(out.file).empty() ? std::optional(out) : std::nullopt;
}

std::string unsafe_path(std::string_view path) {
  if (path.empty()) return "is empty";
  if (path.size() > 1000) return "is too long";
  if (path.front() == '/') return "leads outside";
  if (invalid_utf8_at(path) != path.npos) return "is no UTF-8";
  for (size_t i = 0; i < path.size(); ++i) {
    const auto byte = static_cast<unsigned char>(path[i]);
    // 0xc2 and a byte below 0xa0: the second set of control characters
    if (byte < 0x20 || byte == 0x7f ||
        (byte == 0xc2 && static_cast<unsigned char>(path[i + 1]) < 0xa0))
      return "has control characters";
  }
  for (const auto& part : split(path, '/'))
    if (part.empty() || part == "." || part == "..") return "leads outside";
  return {};
}

std::string printable(std::string_view text) {
  std::string out(text.substr(0, 200));
  for (char& c : out)
    if (static_cast<unsigned char>(c) < 0x20 || static_cast<unsigned char>(c) >= 0x7f) c = '?';
  return out;
}

HubListing read_listing(const Json& answer) {
  HubListing out{answer.at("sha").as_string(), {}};
  if (!is_hexadecimal(out.commit, 40))
    throw Error(Kind::bad_data, "[hub] sha: expected a commit of 40 hexadecimal digits, got \"" +
                                    printable(out.commit) + "\"");
  for (const auto& item : answer.at("siblings").as_array()) {
    HubFile file{.name = item.at("rfilename").as_string()};
    if (const auto why = unsafe_path(file.name); !why.empty())
      throw Error(Kind::bad_data,
                  "[hub] the file name \"" + printable(file.name) + "\" " + why +
                      ": expected a path inside the repository. Nothing was written.");
    with_context(file.name, [&] {
      const Json* large = item.find("lfs");
      if (large && !large->is_null()) file.sha256 = large->at("sha256").as_string();
      file.blob = item.at("blobId").as_string();
      file.bytes = (file.sha256.empty() ? item : *large).at("size").as_integer();
      if (!is_hexadecimal(file.blob, 40) ||
          (!file.sha256.empty() && !is_hexadecimal(file.sha256, 64)))
        throw Error(Kind::bad_data, "[hub] expected a checksum in hexadecimal digits, got \"" +
                                        printable(file.etag()) + "\"");
      if (file.bytes < 0 || file.bytes > kLargestFile)
        throw Error(Kind::bad_data,
                    "[hub] " + std::to_string(file.bytes) + " is no size of a file");
    });
    out.files.push_back(std::move(file));
  }
  return out;
}

std::vector<HubFile> choose_files(const HubName& name, const HubListing& listing, HubPart part) {
  if (!name.file.empty()) {
    std::vector<std::string> names;
    for (const auto& f : listing.files) {
      if (f.name == name.file) return {f};
      names.push_back(f.name);
    }
    const auto ggufs = name.file.ends_with(".gguf") ? gguf_names(name, listing) : "";
    names.resize(std::min(names.size(), size_t{200}));
    const auto near = nearest(name.file, names);
    throw Error(Kind::not_found, "[hub] there is no file " + name.file + " in " + name.repository +
                                     (!ggufs.empty()  ? ". There are: " + ggufs
                                      : !near.empty() ? "; did you mean \"" + near + "\"?"
                                                      : ", at revision " + name.revision));
  }
  std::vector<HubFile> out;
  for (const auto& f : listing.files)
    if (is_text(f.name)) out.push_back(f);
  const auto weights = safetensors(listing);
  if (weights.empty()) {
    if (const auto ggufs = gguf_names(name, listing); !ggufs.empty())
      throw Error(Kind::usage, "[hub] the weights of " + name.repository +
                                   " are GGUF files: name the one you want: " + ggufs);
    if (part == HubPart::whole || out.empty())
      throw Error(Kind::unsupported,
                  "[hub] " + name.repository +
                      " holds no weights that are read here: expected *.safetensors or *.gguf at "
                      "its top. A single file is fetched with `pull " +
                      name.repository + " --file NAME`.");
  }
  if (part == HubPart::whole) out.insert(out.end(), weights.begin(), weights.end());
  return out;
}

HubCache::HubCache(const fs::path& root, const std::string& repository) : root_(root) {
  std::string folder = "models--" + repository;
  folder.replace(folder.find('/'), 1, "--");
  folder_ = root / folder;
}

std::optional<fs::path> HubCache::find(const HubName& name, HubPart part) const {
  std::string commit = name.revision;
  std::error_code ignored;
  if (const auto ref = folder_ / "refs" / name.revision; fs::is_regular_file(ref, ignored))
    commit = trim(read_file(ref));
  if (!is_hexadecimal(commit, 40)) return std::nullopt;
  const auto folder = snapshot(commit);
  if (name.file.empty()) return is_complete(folder, part) ? std::optional(folder) : std::nullopt;
  const auto path = folder / name.file;
  return fs::is_regular_file(path, ignored) ? std::optional(path) : std::nullopt;
}

fs::path HubCache::partial(const HubFile& file) const {
  return folder_ / "blobs" / (file.etag() + ".incomplete");
}
fs::path HubCache::lock(const HubFile& file) const {
  return root_ / ".locks" / folder_.filename() / (file.etag() + ".lock");
}

bool HubCache::holds(const HubFile& file) const {
  return has_size(blob(file), file.bytes);
}
bool HubCache::has(const std::string& commit, const HubFile& file) const {
  return has_size(snapshot(commit) / file.name, file.bytes);
}

int64_t HubCache::partial_bytes(const HubFile& file) const {
  std::error_code code;
  const auto size = fs::file_size(partial(file), code);
  return code || size > static_cast<uintmax_t>(file.bytes) ? 0 : static_cast<int64_t>(size);
}

fs::path HubCache::temporary(const HubFile& file) const {
  return folder_ / "blobs" / own_name(file.etag());
}

void HubCache::link(const std::string& commit, const HubFile& file) const {
  const auto path = snapshot(commit) / file.name;
  const auto target = blob(file).lexically_relative(path.parent_path());
  std::error_code code;
  if (fs::is_symlink(path, code) && fs::read_symlink(path, code) == target) return;
  make_directory(path.parent_path());
  const auto temporary = path.parent_path() / own_name(file.etag());
  fs::remove(temporary, code);
  fs::create_symlink(target, temporary, code);
  // A file system without links (exFAT): then the content itself lies in the snapshot.
  if (code) fs::rename(blob(file), temporary, code);
  if (!code) fs::rename(temporary, path, code);
  if (code)
    throw Error(Kind::resource,
                "[hub] cannot put " + path.string() + " into the cache: " + code.message());
}

void HubCache::set_revision(const std::string& revision, const std::string& commit) const {
  if (revision == commit) return;
  const auto ref = folder_ / "refs" / revision;
  make_directory(ref.parent_path());
  std::error_code code;
  if (fs::is_regular_file(ref, code) && read_file(ref) == commit) return;
  const auto temporary = ref.parent_path() / own_name("ref");
  write_file_atomic(temporary, commit);
  fs::rename(temporary, ref, code);
  if (code)
    throw Error(Kind::resource, "[hub] cannot write " + ref.string() + ": " + code.message());
}

}  // namespace lmxlab::io
