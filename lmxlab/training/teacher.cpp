#include "lmxlab/training/teacher.h"

#include "lmxlab/base/fnv.h"
#include "lmxlab/core/runtime.h"
#include "lmxlab/core/transformer.h"
#include "lmxlab/io/safetensors.h"
#include "lmxlab/kernels/memory.h"
#include "lmxlab/kernels/rehearsal.h"
#include "lmxlab/training/distillation.h"

#include <mlx/allocator.h>
#include <mlx/ops.h>
#include <mlx/transforms.h>

#include <algorithm>
#include <cstring>

namespace lmxlab {
namespace {

namespace ob = objectives;
namespace fs = std::filesystem;

constexpr const char* kFormat = "lmxlab teacher 1";
constexpr int64_t kIdsOf16Bits = 1 << 16;

std::vector<uint32_t> numbers(int64_t first, int64_t end) {
  std::vector<uint32_t> out;
  for (int64_t i = first; i < end; ++i) out.push_back(static_cast<uint32_t>(i));
  return out;
}

struct Part {
  const char* name;
  const data::Rows* rows;
};
std::vector<Part> parts_of(const TeacherRows& rows) {
  std::vector<Part> out{{"train", &rows.train}};
  if (rows.held_out && rows.held_out->count > 0) out.push_back({"held_out", &*rows.held_out});
  return out;
}

// Of all inputs, their documents and what is learned of them.
std::string digest(const TeacherRows& rows) {
  Fnv hash;
  const auto add = [&](const mx::array& a) {
    auto wide = mx::contiguous(mx::astype(a, mx::int32));
    wide.eval();
    hash.add({wide.data<char>(), wide.nbytes()});
  };
  for (const auto& part : parts_of(rows))
    for (int64_t i = 0; i < part.rows->count; ++i) {
      const auto batch = part.rows->batch(numbers(i, i + 1));
      add(batch.inputs);
      if (batch.documents) add(*batch.documents);
      if (batch.loss) add(*batch.loss);
    }
  return hash.digits();
}

mx::Dtype type_of(int vocab) {
  return vocab <= kIdsOf16Bits ? mx::uint16 : mx::uint32;
}
mx::Dtype logprobs_of(mx::Dtype type) {
  return type == mx::uint16 ? mx::float16 : mx::float32;
}

// [B, L, 2, K]
mx::array likeliest(const LanguageModel& teacher, const data::Batch& batch,
                    const KeepTeacher& how) {
  core::Pass pass;
  pass.dtype = how.compute;
  pass.starts = document_starts(batch);
  const int vocab = teacher.config().vocab;
  const auto type = type_of(vocab);
  const auto top = ob::teacher_top_k(head_logits(teacher.transformer(), batch.inputs, pass),
                                     std::min(how.top_k, vocab), how.temperature);
  return mx::stack(
      {mx::astype(top.ids, type), mx::view(mx::astype(top.logprobs, logprobs_of(type)), type)}, 2);
}

// Some rows of an array [R, ...], copied.
mx::array rows_of(const mx::array& all, std::span<const uint32_t> rows) {
  mx::Shape shape = all.shape();
  const size_t each = all.nbytes() / static_cast<size_t>(shape[0]);
  shape[0] = static_cast<int>(rows.size());
  mx::array out(mx::allocator::malloc(each * rows.size()), shape, all.dtype());
  for (size_t i = 0; i < rows.size(); ++i)
    std::memcpy(out.data<char>() + i * each, all.data<char>() + rows[i] * each, each);
  return out;
}

class DistillKept : public Objective {
 public:
  explicit DistillKept(const ObjectiveConfig& config)
      : temperature_(static_cast<float>(config.temperature.value_or(1))),
        hard_(static_cast<float>(config.hard_labels.value_or(0))) {}
  std::vector<std::string> metrics() const override { return {"divergence"}; }
  size_t beside() const override { return 1; }

  Value operator()(const core::Transformer& model, const data::Batch& batch,
                   core::Pass& pass) const override {
    const auto student = head_logits(model, batch.inputs, pass);
    const auto labels = learned_targets(batch);
    const auto& kept = batch.beside[0];  // [B, L, 2, K]
    const auto part = [&](int i) {
      mx::Shape from(4, 0), to = kept.shape();
      from[2] = i, to[2] = i + 1;
      return mx::squeeze(mx::slice(kept, from, to), 2);
    };
    const ob::TopK teacher{mx::astype(part(0), mx::int32),
                           mx::astype(mx::view(part(1), logprobs_of(kept.dtype())), mx::float32)};
    const auto soft =
        ob::distill_top_k(student, teacher, ob::token_mask(labels), {.temperature = temperature_});
    return with_hard_labels(soft, student, labels, temperature_, hard_);
  }

 private:
  float temperature_, hard_;
};

}  // namespace

void keep_teacher(const fs::path& file, const LanguageModel& teacher, const TeacherRows& rows,
                  const KeepTeacher& how) {
  const Enter enter(teacher.runtime());
  const int vocab = teacher.config().vocab, k = std::min(how.top_k, vocab);
  int64_t all = 0, done = 0;
  std::vector<io::TensorInfo> tensors;
  const auto parts = parts_of(rows);
  for (const auto& part : parts) {
    const int length = part.rows->batch(numbers(0, 1)).inputs.shape(1);
    tensors.push_back(
        {part.name, type_of(vocab), {static_cast<int>(part.rows->count), length, 2, k}});
    all += part.rows->count;
  }
  io::SafeTensorsWriter out(file, tensors,
                            {{"format", kFormat},
                             {"vocab", std::to_string(vocab)},
                             {"temperature", Json(how.temperature).dump()},
                             {"rows", digest(rows)}});
  for (const auto& part : parts)
    for (int64_t first = 0; first < part.rows->count; first += how.batch) {
      if (how.stop.stop_requested())
        throw Error(Kind::canceled, "[teacher] interrupted before all rows were read");
      const auto end = std::min(part.rows->count, first + how.batch);
      as_error([&] { out.write(likeliest(teacher, part.rows->batch(numbers(first, end)), how)); });
      done += end - first;
      if (how.progress) how.progress(done, all);
    }
  out.commit();
}

KeptTeacher kept_teacher(const fs::path& file) {
  const io::SafeTensors kept(file);
  const auto& meta = kept.metadata();
  const auto format = meta.find("format");
  if (format == meta.end() || format->second != kFormat || !kept.contains("train"))
    throw Error(Kind::bad_data, "[teacher] " + file.string() +
                                    " is no file of a teacher's tokens: expected "
                                    "teacher.safetensors of a run with objective.top_k");
  const auto number = [&](const char* key) {
    const auto at = meta.find(key);
    const auto json = Json::parse(at == meta.end() ? "" : at->second, file.string());
    if (!json.is_number())
      throw Error(Kind::bad_data, "[teacher] " + file.string() + ": expected a number as " + key);
    return json.as_number();
  };
  const auto train = kept.get("train");
  const KeptTeacher out{train.ndim() == 4 ? train.shape(3) : 0, static_cast<int>(number("vocab")),
                        static_cast<float>(number("temperature")), train.dtype()};
  if (out.top_k < 1 || train.shape(2) != 2 || out.type != type_of(out.vocab))
    throw Error(Kind::bad_data, "[teacher] " + file.string() +
                                    ": train has not the shape and type of a teacher's tokens");
  return out;
}

KeptTeacher kept_teacher(const config::Model& teacher, const KeepTeacher& how) {
  return {std::min(how.top_k, teacher.vocab), teacher.vocab, how.temperature,
          type_of(teacher.vocab)};
}

TeacherRows with_teacher(const fs::path& file, TeacherRows rows, int vocab, float temperature) {
  const auto how = kept_teacher(file);
  const io::SafeTensors kept(file);
  if (how.vocab != vocab)
    throw Error(Kind::mismatch, "[teacher] " + file.string() + " is of a vocabulary of " +
                                    std::to_string(how.vocab) + ", the student has one of " +
                                    std::to_string(vocab) + ": expected the same tokens");
  if (how.temperature != temperature)
    throw Error(Kind::mismatch, "[teacher] " + file.string() + " was made at a temperature of " +
                                    Json(how.temperature).dump() + ", objective.temperature is " +
                                    Json(temperature).dump() +
                                    ". Keep the file's, or run the teacher again.");
  const auto& meta = kept.metadata();
  if (const auto of = meta.find("rows"); of == meta.end() || of->second != digest(rows))
    throw Error(Kind::mismatch, "[teacher] " + file.string() +
                                    " is of other rows than this run's: expected the same data, "
                                    "tokenizer, context, packing and share held out");
  const auto put_beside = [&](data::Rows& part, const char* name) {
    auto all = kept.get(name);
    if (all.ndim() != 4 || all.shape(0) != part.count || all.shape(3) != how.top_k)
      throw Error(Kind::bad_data, "[teacher] " + file.string() + ": " + name + " has " +
                                      std::to_string(all.size()) + " numbers, " +
                                      std::to_string(part.count) + " rows were expected");
    part.batch = [plain = part.batch, all](std::span<const uint32_t> some) {
      auto batch = plain(some);
      batch.beside.push_back(rows_of(all, some));
      return batch;
    };
  };
  put_beside(rows.train, "train");
  if (rows.held_out && rows.held_out->count > 0) put_beside(*rows.held_out, "held_out");
  return rows;
}

std::shared_ptr<const Objective> kept_teacher_objective(const ObjectiveConfig& config) {
  return std::make_shared<DistillKept>(config);
}

size_t rehearse_teacher(const fs::path& teacher, const KeepTeacher& how, int length, bool packs) {
  auto model = LanguageModel::load(teacher);  // maps
  size_t mapped = 0;
  for (const auto& a : core::values(core::collect(model.transformer()))) mapped += a.nbytes();
  const kernels::Rehearsal rehearsal;
  const Enter enter(model.runtime());
  const auto zeros = [&](mx::Dtype type) {
    auto a = mx::zeros({how.batch, length}, type);
    a.eval();
    return a;
  };
  data::Batch batch{zeros(mx::int32), zeros(mx::int32)};
  if (packs) batch.documents = zeros(mx::int32), batch.positions = zeros(mx::int32);
  kernels::reset_peak();
  for (int i = 0; i < 2; ++i) mx::contiguous(likeliest(model, batch, how)).eval();
  return mapped + kernels::peak_bytes();
}

}  // namespace lmxlab
