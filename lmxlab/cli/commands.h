// The commands, one file each.
#pragma once

#include "lmxlab/cli/options.h"

namespace lmxlab::cli {

Command* make_train();
Command* make_generate();
Command* make_chat();
Command* make_logits();
Command* make_perplexity();
Command* make_tokenize();
Command* make_tokenizer_train();
Command* make_data_build();
Command* make_data_inspect();
Command* make_template();
Command* make_compare();
Command* make_mup_check();
Command* make_list();
Command* make_info();
Command* make_count();
Command* make_fit();
Command* make_quantize();
Command* make_convert();
Command* make_merge();
Command* make_pull();
Command* make_bench();
Command* make_doctor();

}  // namespace lmxlab::cli
