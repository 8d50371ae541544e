#include "lmxlab/cli/recipe_rows.h"

#include "lmxlab/base/files.h"
#include "lmxlab/base/text.h"
#include "lmxlab/cli/token_text.h"
#include "lmxlab/cli/train_recipe.h"
#include "lmxlab/training/run.h"

#include <mlx/ops.h>
#include <mlx/transforms.h>
#include <unistd.h>

#include <algorithm>

namespace lmxlab::cli {
namespace {

// A document in its row; a row of a text is one.
struct Document {
  std::vector<int> ids = {};
  std::vector<uint8_t> learned = {};  // as long
};
using Row = std::vector<Document>;

template <class T>
std::vector<T> host(const mx::array& a, mx::Dtype type) {
  auto plain = mx::contiguous(mx::astype(a, type));
  mx::eval(plain);
  return {plain.data<T>(), plain.data<T>() + plain.size()};
}

// A token is learned where it is the target of the one before.
void add_rows(const data::Batch& batch, std::vector<Row>& out) {
  const auto inputs = host<int32_t>(batch.inputs, mx::int32),
             targets = host<int32_t>(batch.targets, mx::int32);
  const auto width = static_cast<size_t>(batch.inputs.shape(1));
  std::vector<int32_t> documents(inputs.size(), 0);
  if (batch.documents) documents = host<int32_t>(*batch.documents, mx::int32);
  std::vector<uint8_t> loss(inputs.size(), 1);
  if (batch.loss) loss = host<uint8_t>(*batch.loss, mx::uint8);
  for (size_t b = 0; b < inputs.size(); b += width) {
    size_t end = width;  // behind the last token that is no padding
    if (batch.documents)
      while (end > 0 && documents[b + end - 1] < 0) --end;
    else if (batch.loss)  // a sample ends with a token that is learned
      for (end = width; end > 0 && !loss[b + end - 1];) --end;
    Row row;
    for (size_t i = b; i < b + end; ++i) {
      const bool first = i == b || documents[i] != documents[i - 1];
      if (first) row.emplace_back();
      row.back().ids.push_back(inputs[i]);
      row.back().learned.push_back(!first && loss[i - 1]);
    }
    if (end > 0 && loss[b + end - 1]) {  // the target behind the row
      row.back().ids.push_back(targets[b + end - 1]);
      row.back().learned.push_back(1);
    }
    out.push_back(std::move(row));
  }
}

std::vector<Row> rows_of(const RunData& data, TrainData source, size_t count) {
  std::vector<Row> out;
  if (data.questions) {  // what the model answers them with is not there yet
    const auto prompts = (*data.tokenize)(*data.questions);
    for (const auto& s : prompts.sequences) {
      if (out.size() == count) break;
      out.push_back({{s.ids, s.loss}});
    }
    return out;
  }
  while (out.size() < count) add_rows(source.train->next(), out);
  out.resize(count);
  return out;
}

}  // namespace

void inspect_recipe(const std::string& from, const std::vector<std::string>& set, int count,
                    Context& context) {
  std::error_code ignored;
  const auto file =
      fs::is_directory(from, ignored) ? fs::path(from) / "recipe.toml" : fs::path(from);
  auto recipe = read_recipe(read_file(file), file.string(), set);
  make_local(recipe, context);
  auto parts = resolve_run(recipe);
  const auto& objective = enum_name(recipe.objective.kind);
  std::vector<size_t> lengths;
  if (parts.data.samples)
    for (const auto& s : parts.data.samples->sequences) lengths.push_back(s.ids.size());
  const int64_t samples = parts.data.samples     ? parts.data.samples->counts.samples
                          : parts.data.questions ? int64_t(parts.data.questions->samples.size())
                                                 : 0;
  auto batches = run_batches(parts.data, recipe, parts.packs);
  const auto tokens = batches.train_tokens, held_out = batches.held_out_tokens;
  const auto fill = batches.fill;
  const auto row_count = batches.rows ? batches.rows->count : 0;
  const auto rows =
      rows_of(parts.data, train_data(std::move(batches), recipe), static_cast<size_t>(count));

  if (context.json) {
    Json list = Json::array();
    for (const auto& row : rows) {
      Json::Array ids, mask, documents;
      for (size_t d = 0; d < row.size(); ++d)
        for (size_t i = 0; i < row[d].ids.size(); ++i)
          ids.emplace_back(row[d].ids[i]), mask.emplace_back(int(row[d].learned[i])),
              documents.emplace_back(d);
      list.push_back(Json::object({{"length", Json(ids.size())},
                                   {"tokens", Json(std::move(ids))},
                                   {"mask", Json(std::move(mask))},
                                   {"documents", Json(std::move(documents))}}));
    }
    Json out = Json::object({{"objective", Json(objective)},
                             {"tokens", Json(tokens)},
                             {"held_out_tokens", Json(held_out)},
                             {"batch", Json(recipe.run.batch)},
                             {"context", Json(recipe.run.context)},
                             {"rows", std::move(list)}});
    if (samples > 0) out["samples"] = Json(samples);
    if (fill) out["fill"] = Json(*fill);
    if (!lengths.empty()) out["lengths"] = length_json(length_bins(lengths));
    context.print_json(out);
    return;
  }

  const bool colour = context.colour && isatty(STDOUT_FILENO) != 0;
  const auto styled = [&](const char* style, const std::string& text) {
    return colour ? "\x1b[" + std::string(style) + "m" + text + "\x1b[0m" : text;
  };
  size_t number = 0;
  for (const auto& row : rows) {
    size_t length = 0, learned = 0;
    for (const auto& d : row) {
      length += d.ids.size();
      learned += static_cast<size_t>(std::count(d.learned.begin(), d.learned.end(), 1));
    }
    context.print(
        styled("1", "row " + std::to_string(++number) + ": " + with_commas(int64_t(length)) +
                        " tokens, " + with_commas(int64_t(learned)) + " learned" +
                        (row.size() > 1 ? ", " + std::to_string(row.size()) + " documents" : "")) +
        "\n");
    for (size_t d = 0; d < row.size(); ++d) {
      if (d > 0) context.print(styled("2", "---- document " + std::to_string(d + 1)) + "\n");
      if (parts.data.tokenizer) {
        context.print(token_text(*parts.data.tokenizer, row[d].ids, row[d].learned, colour));
      } else {  // a file of tokens alone
        std::string ids;
        for (const int id : row[d].ids) ids += (ids.empty() ? "" : " ") + std::to_string(id);
        context.print(ids + "\n");
      }
    }
    context.print("\n");
  }
  const auto line = [&](const std::string& name, const std::string& value) {
    context.print(name + std::string(12 - name.size(), ' ') + value + "\n");
  };
  line("objective", objective);
  line("data", recipe.data.file.empty() ? "Tiny Shakespeare (built in)" : recipe.data.file);
  if (samples > 0) line("samples", with_commas(samples));
  if (tokens > 0) line("tokens", with_commas(tokens) + ", " + with_commas(held_out) + " held out");
  if (row_count > 0)
    line("rows", with_commas(row_count) + " of " + with_commas(recipe.run.context) +
                     (fill ? ", " + percent(*fill) + " full" : ""));
  line("batch",
       std::to_string(recipe.run.batch) + (recipe.objective.of_pairs() ? " pairs" : " rows") +
           (recipe.run.accumulate > 1 ? " x " + std::to_string(recipe.run.accumulate) : "") +
           " a step, " + with_commas(recipe.run.steps) + " steps");
  if (!lengths.empty()) context.print("\nlengths\n" + length_chart(length_bins(lengths), colour));
}

}  // namespace lmxlab::cli
