// Names on a model hub, what of a repository makes a model, and the cache where huggingface_hub
// and its like keep what they downloaded:
//   models--ORG--NAME/refs/REVISION            the commit that a branch or tag was at
//   models--ORG--NAME/blobs/ETAG               contents; ETAG.incomplete while they come
//   models--ORG--NAME/snapshots/COMMIT/FILE    a relative link to a blob
//   .locks/models--ORG--NAME/ETAG.lock         held while a blob is written
// Names that a server gives are believed only after they were checked here.
#pragma once

#include "lmxlab/base/files.h"
#include "lmxlab/base/json.h"

#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

namespace lmxlab::io {

struct HubName {
  std::string repository;  // "org/name"
  std::string file = {};   // in it, with its folders; empty: what makes a model
  std::string revision = "main";

  std::string text() const { return file.empty() ? repository : repository + ":" + file; }
};

/// Of "org/name" or "org/name:file"; nothing for what has another form.
std::optional<HubName> hub_name(std::string_view text);

/// Why `path` must not be a file's place below a folder ("leads outside"), or empty: it may.
std::string unsafe_path(std::string_view path);

/// What a server says, at most 200 bytes of it and fit for a terminal.
std::string printable(std::string_view text);

struct HubFile {
  std::string name;  // with its folders
  int64_t bytes = 0;
  std::string blob = {};    // the SHA-1 that git has for it
  std::string sha256 = {};  // of a large one; empty: kept in git itself

  /// The name of its content: what the server's ETag says, and its checksum.
  const std::string& etag() const { return sha256.empty() ? blob : sha256; }
};

struct HubListing {
  std::string commit;
  std::vector<HubFile> files;
};

/// Of the hub's answer to /api/models/ORG/NAME/revision/REVISION?blobs=true.
/// @throws Error(bad_data) if something is absent, or a name or checksum is none.
HubListing read_listing(const Json& answer);

enum class HubPart {
  whole,
  texts,  // config, tokenizer and templates, without the weights
};

/// The files that `name` stands for: the one it names, else config, tokenizer, templates and
/// weights in safetensors, each once, the weights last.
/// @throws Error(not_found) if there is no such file, naming those that are near; Error(usage) if
/// the weights are GGUF files, of which one has to be named; Error(unsupported) if there are no
/// weights that we read.
std::vector<HubFile> choose_files(const HubName& name, const HubListing& listing, HubPart part);

/// What of one repository is in the cache.
class HubCache {
 public:
  HubCache(const fs::path& root, const std::string& repository);

  /// Found without asking anybody: the file, or a snapshot's folder with all that `part` needs.
  std::optional<fs::path> find(const HubName& name, HubPart part) const;

  fs::path snapshot(const std::string& commit) const { return folder_ / "snapshots" / commit; }
  fs::path blob(const HubFile& file) const { return folder_ / "blobs" / file.etag(); }
  /// What came of it before the connection was cut.
  fs::path partial(const HubFile& file) const;
  fs::path lock(const HubFile& file) const;
  /// The blob is there, in full length.
  bool holds(const HubFile& file) const;
  /// It is in the snapshot, in full length.
  bool has(const std::string& commit, const HubFile& file) const;
  int64_t partial_bytes(const HubFile& file) const;
  /// A new name for what is looked at and removed.
  fs::path temporary(const HubFile& file) const;
  /// Puts a file whose blob is there into a snapshot, unless it is in it. @throws Error(resource)
  void link(const std::string& commit, const HubFile& file) const;
  /// From now on the revision is at this commit.
  void set_revision(const std::string& revision, const std::string& commit) const;

 private:
  fs::path root_, folder_;
};

}  // namespace lmxlab::io
