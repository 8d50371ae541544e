// template: messages as the text that a model is given.
#include "lmxlab/base/files.h"
#include "lmxlab/cli/chat_arguments.h"
#include "lmxlab/cli/commands.h"
#include "lmxlab/cli/context.h"
#include "lmxlab/cli/hub_argument.h"
#include "lmxlab/data/chat_template.h"

#include <optional>

namespace lmxlab::cli {
namespace {

// A model folder, a GGUF file, a tokenizer_config.json, or a template itself.
data::ChatTemplate open_template(const std::string& argument, bool tools, const Context& context) {
  std::error_code ignored;
  const fs::path path(local_path(argument, io::HubPart::texts, context));
  if (!fs::exists(path, ignored))
    throw Error(Kind::not_found, "[template] there is no folder or file " + argument +
                                     ". A preset has no chat template: give a model folder, a "
                                     "tokenizer_config.json or a .jinja file.");
  if (!data::ChatTemplate::present(path))
    throw Error(Kind::not_found,
                "[template] " + argument +
                    " has no chat template: expected chat_template.jinja, or a chat_template in "
                    "tokenizer_config.json. Give the template as a .jinja file.");
  return data::ChatTemplate::load(path, tools);
}

class Template : public Command {
  std::string model_, messages_;
  std::optional<std::string> tools_, now_;
  std::vector<std::string> variables_;
  bool add_generation_prompt_ = false;

  void declare(Options& o) override {
    o.argument("MODEL", &model_,
               "a model folder, a GGUF file, a tokenizer_config.json, or a .jinja file")
        .require();
    o.option("--messages", "FILE", &messages_, "a JSON list of messages: {role, content, ...}")
        .require();
    o.option("--tools", "FILE", &tools_, "a JSON list of tools, as JSON schemas");
    o.flag("--add-generation-prompt", &add_generation_prompt_,
           "end with what opens the assistant's turn");
    o.option("--var", "NAME=JSON", &variables_,
             "a variable of the template, as in enable_thinking=false");
    o.option("--now", "TIME", &now_, "what time the template is told, as in 2024-07-26T13:05:09")
        .otherwise("now");
  }

  int run(Context& context) override {
    const auto read = [](const std::string& file, const char* what) {
      Json list = Json::parse(read_file(file), file);
      if (!list.is_array())
        throw Error(Kind::bad_data, "[template] " + file + ": expected a list of " + what +
                                        ", got " + std::string(list.type_name()));
      for (const Json& item : list.as_array())
        if (!item.is_object())
          throw Error(Kind::bad_data, "[template] " + file + ": expected " + what +
                                          " that are objects, got " +
                                          std::string(item.type_name()));
      return list;
    };
    data::ChatOptions options{.add_generation_prompt = add_generation_prompt_,
                              .variables = template_variables(variables_, "template")};
    options.now = now_ ? data::LocalTime::parse(*now_) : wall_clock();
    const Json messages = read(messages_, "messages");
    if (tools_) options.tools = read(*tools_, "tools");
    const std::string text =
        open_template(model_, tools_.has_value(), context).render(messages, options);
    if (context.json)
      context.print_json(Json::object({{"text", Json(text)}}));
    else
      context.print(text);  // these bytes and no more
    return 0;
  }
};

}  // namespace

Command* make_template() {
  return new Template;
}

}  // namespace lmxlab::cli
