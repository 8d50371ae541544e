// A teacher that runs once, before the training: its likeliest tokens at every place of every row,
// kept in a file that is mapped. Runs on the same data may share the file.
#pragma once

#include "lmxlab/data/rows.h"
#include "lmxlab/models/language_model.h"
#include "lmxlab/training/objective.h"
#include "lmxlab/training/recipe.h"

#include <filesystem>
#include <functional>
#include <memory>
#include <stop_token>

namespace lmxlab {

/// The data's rows, those held out may be none.
struct TeacherRows {
  data::Rows train;
  std::optional<data::Rows> held_out = {};
};

struct KeepTeacher {
  int top_k = 64;         // tokens kept; more than the vocabulary has: all
  float temperature = 1;  // of the distribution that is kept
  int batch = 8;          // rows at a time
  mx::Dtype compute = mx::float32;
  std::stop_token stop = {};
  std::function<void(int64_t rows, int64_t all)> progress = {};
};

/// Writes `train` and `held_out` [rows, L, 2, K]: ids, and the bits of log p over the whole
/// vocabulary; uint16 and float16, from 65,537 tokens on uint32 and float32. Evaluates.
/// @throws Error(canceled), Error(resource); nothing is left behind.
/// @cost  one forward pass over all rows; 4 or 8 bytes a kept token
void keep_teacher(const std::filesystem::path& file, const LanguageModel& teacher,
                  const TeacherRows& rows, const KeepTeacher& how);
/// What such a file keeps. @throws as SafeTensors, Error(bad_data) for a file that is none.
struct KeptTeacher {
  int top_k = 0, vocab = 0;
  float temperature = 1;
  mx::Dtype type = mx::uint16;
};
KeptTeacher kept_teacher(const std::filesystem::path& file);
/// The same of a teacher that is to run.
KeptTeacher kept_teacher(const config::Model& teacher, const KeepTeacher& how);
/// The rows with what the teacher says of them beside them: [B, L, 2, K].
/// @throws Error(mismatch) if the file is of other rows, another vocabulary or temperature.
TeacherRows with_teacher(const std::filesystem::path& file, TeacherRows rows, int vocab,
                         float temperature);

/// As distill_objective with forward KL, over the kept tokens and one more for all others
/// (objectives::Rest::bucket), of batches that with_teacher made.
std::shared_ptr<const Objective> kept_teacher_objective(const ObjectiveConfig& config);

/// Bytes that keep_teacher takes at its peak, rehearsed, the teacher's mapped weights among them.
size_t rehearse_teacher(const std::filesystem::path& teacher, const KeepTeacher& how, int length,
                        bool packs);

}  // namespace lmxlab
