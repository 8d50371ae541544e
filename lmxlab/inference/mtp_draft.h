// Drafts of the model's own heads for further tokens (core/mtp.h).
#pragma once

#include "lmxlab/inference/speculative.h"

#include <optional>
#include <span>
#include <vector>

namespace lmxlab {

/// Head k reads what head k - 1 made of a text, and the token k places further: the text's own as
/// far as it goes, then drafted ones. So D heads draft D tokens; for further ones the last head
/// reads its own output, as DeepSeek's single head is used for several (arXiv:2412.19437, 5.4.3).
/// No weights of its own: the heads, embedding and output head are the model's. A cache a head,
/// whose drafted positions are taken back before the text goes on; where hidden states are missing
/// (a prompt that was read before, by others) it begins with those that it is told of.
class MtpDraft : public DraftSource {
 public:
  /// @param model  outlives this
  /// @param options  of the caches; none: as the model says
  /// @throws Error(mismatch) for a model without such heads.
  explicit MtpDraft(const LanguageModel& model, const std::optional<CacheOptions>& options = {});
  std::vector<int> draft(const DraftRequest& request) override;
  bool reads_hidden() const override { return true; }
  void saw(std::span<const int> text, int first, const mx::array& hidden) override;
  /// Of the caches.
  size_t cache_bytes() const;

 private:
  struct Head {
    Cache cache;
    int sure = 0;                           // positions read with tokens of the text
    std::optional<mx::array> waiting = {};  // [1, n, D]: what it reads at the next ones
    std::optional<mx::array> last = {};     // [1, 1, D]: what it made of the last sure one
  };
  int depth() const { return static_cast<int>(heads_.size()); }
  void restart(int first);
  void read_text();
  mx::array read(int head, const mx::array& hidden, const mx::array& tokens);

  const LanguageModel& model_;
  CacheOptions options_;
  std::vector<Head> heads_;
  std::vector<int> text_;        // that they have read
  int seen_ = 0;                 // positions of it whose hidden states were told of
  int first_ = 0;                // position where the caches begin
  std::vector<mx::array> told_;  // hidden states that do not wait yet, in order
};

}  // namespace lmxlab
