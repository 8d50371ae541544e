// Models from a hub that speaks as huggingface.co does, into the cache that other tools share:
// sizes are known before, what was cut off goes on where it ended, and nothing is called by its
// name before its checksum was right.
#pragma once

#include "lmxlab/io/gguf.h"
#include "lmxlab/io/http.h"
#include "lmxlab/io/hub_cache.h"

#include <functional>
#include <optional>
#include <stop_token>
#include <string>
#include <vector>

namespace lmxlab::io {

struct HubSettings {
  fs::path cache;  // the folder of models--ORG--NAME
  std::string endpoint = "https://huggingface.co";
  std::string token;     // told to the endpoint and to no other host; empty: none
  bool offline = false;  // then only the cache is looked at
  HttpOptions http = {};
  int tries = 6;             // in a row that bring nothing new
  double first_wait_s = 1;   // between two of them; doubled each time
  int longest_wait_s = 300;  // that a server may ask for
};

/// Reads an environment: the value of a variable, nothing if it is not set.
using Variables = std::function<std::optional<std::string>(const std::string& name)>;

/// As huggingface_hub has them: HF_HUB_CACHE, HF_HOME, XDG_CACHE_HOME; HF_ENDPOINT; HF_TOKEN,
/// HF_TOKEN_PATH; HF_HUB_OFFLINE; HF_HUB_DOWNLOAD_TIMEOUT; and curl's CURL_CA_BUNDLE,
/// SSL_CERT_FILE, SSL_CERT_DIR.
/// @throws Error(usage) naming the variable that cannot be used.
HubSettings hub_settings(const Variables& variable);

struct HubPlan {
  int64_t files = 0, bytes = 0;
  int64_t missing_bytes = 0;  // that will be asked for
};

/// What is known of a model before its weights are asked for.
struct HubWeights {
  int64_t bytes = 0;                // of their files
  fs::path config = {};             // config.json, which is here by now; empty: there is none
  std::vector<HubFile> ggufs = {};  // the other GGUF files of the repository
  /// Of a GGUF file, fetched so far; nothing if the server knows no parts of files.
  /// @throws Error(bad_data) if it needs more bytes, or is none.
  std::function<std::optional<Gguf>(int64_t bytes)> head = {};
};

/// What a pull tells while it works; any may be empty. What one throws ends the pull.
struct HubEvents {
  std::function<void(const HubPlan&)> plan;  // before the first byte of a file is asked for
  /// Of a model with weights that are not all here, before anything but its config is asked for.
  std::function<void(const HubWeights&)> weights;
  std::function<void(int64_t done, int64_t total, const std::string& file)> progress;
  std::function<void(const std::string&)> note;  // a line on what went wrong and is tried again
};

struct Pulled {
  fs::path path;  // the file that was named, else the folder, in Hugging Face layout
  int64_t files = 0, bytes = 0;
};

/// Asks the hub where the revision is now and fetches what the cache has not. If the hub cannot be
/// reached, or `offline`, what is in the cache is the answer.
/// @throws Error(not_found) no such repository, revision or file; Error(resource) no connection,
/// no permission, no room on the disk; Error(bad_data) a wrong length or checksum, whose bytes are
/// removed, or an answer that breaks the rules; Error(usage), Error(unsupported) as choose_files;
/// Error(canceled), after which a later pull goes on.
Pulled pull(const HubName& name, HubPart part, const HubSettings& settings, const HubEvents& events,
            std::stop_token stop = {});

}  // namespace lmxlab::io
