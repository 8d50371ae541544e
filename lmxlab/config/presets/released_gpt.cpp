// GPT-2's kin.
#include "lmxlab/config/presets/released.h"

namespace lmxlab::config {
namespace {

const char* const kTinyGpt = R"({"vocab_size":256,"n_embd":64,"n_layer":2,"n_head":4,"n_inner":128,
  "n_positions":128,"resid_pdrop":0})";
const char* const kPythia = R"({"vocab_size":50304,"max_position_embeddings":2048})";
const char* const kBloom = R"({"vocab_size":250880})";
const char* const kOpt = R"({"vocab_size":50272,"max_position_embeddings":2048,"dropout":0})";

std::string neox(int dim, int depth, int heads) {
  return R"({"hidden_size":)" + std::to_string(dim) + R"(,"num_hidden_layers":)" +
         std::to_string(depth) + R"(,"num_attention_heads":)" + std::to_string(heads) +
         R"(,"intermediate_size":)" + std::to_string(4 * dim) + "}";
}
std::string gptj(int dim, int depth, int heads, int rotary = 64) {
  return R"({"n_embd":)" + std::to_string(dim) + R"(,"n_layer":)" + std::to_string(depth) +
         R"(,"n_head":)" + std::to_string(heads) + R"(,"rotary_dim":)" + std::to_string(rotary) +
         "}";
}
std::string bloom(int dim, int depth, int heads) {
  return R"({"hidden_size":)" + std::to_string(dim) + R"(,"n_layer":)" + std::to_string(depth) +
         R"(,"n_head":)" + std::to_string(heads) + "}";
}
std::string opt(int dim, int depth, int heads) {
  return R"({"hidden_size":)" + std::to_string(dim) + R"(,"num_hidden_layers":)" +
         std::to_string(depth) + R"(,"num_attention_heads":)" + std::to_string(heads) +
         R"(,"ffn_dim":)" + std::to_string(4 * dim) + "}";
}

}  // namespace

std::vector<ReleasedFamily> released_gpt() {
  return {
      {"gpt_bigcode",
       "gpt_bigcode",
       {{"gpt-bigcode-tiny", {kTinyGpt}},
        {"santacoder-1.1b", {R"({"vocab_size":49280,"n_embd":2048,"n_layer":24,"n_head":16,
          "n_positions":2048,"activation_function":"gelu_pytorch_tanh"})"}},
        {"starcoderbase-1b", {R"({"vocab_size":49152,"n_embd":2048,"n_layer":24,"n_head":16,
          "n_positions":8192,"activation_function":"gelu_pytorch_tanh"})"}},
        {"starcoderbase-15b", {R"({"vocab_size":49152,"n_embd":6144,"n_layer":40,"n_head":48,
          "n_positions":8192,"activation_function":"gelu_pytorch_tanh"})"}}}},
      {"gptj",
       "gptj",
       {{"gptj-tiny", {kTinyGpt, R"({"rotary_dim":8})"}},
        {"gpt-j-6b", {R"({"vocab_size":50400,"n_positions":2048})", gptj(4096, 28, 16)}}}},
      {"codegen",
       "codegen",
       {{"codegen-tiny", {kTinyGpt, R"({"rotary_dim":8})"}},
        {"codegen-350m", {R"({"vocab_size":51200,"n_positions":2048})", gptj(1024, 20, 16, 32)}},
        {"codegen-2b", {R"({"vocab_size":51200,"n_positions":2048})", gptj(2560, 32, 32)}},
        {"codegen-6b", {R"({"vocab_size":51200,"n_positions":2048})", gptj(4096, 33, 16)}},
        {"codegen-16b", {R"({"vocab_size":51200,"n_positions":2048})", gptj(6144, 34, 24)}}}},
      {"gpt_neox",
       "gpt_neox",
       {{"gpt-neox-tiny", {kTiny, R"({"num_key_value_heads":4})"}},
        {"pythia-14m", {kPythia, neox(128, 6, 4)}},
        {"pythia-31m", {kPythia, neox(256, 6, 8)}},
        {"pythia-70m", {kPythia, neox(512, 6, 8)}},
        {"pythia-160m", {kPythia, neox(768, 12, 12)}},
        {"pythia-410m", {kPythia, neox(1024, 24, 16)}},
        {"pythia-1b", {kPythia, neox(2048, 16, 8)}},
        {"pythia-1.4b", {kPythia, neox(2048, 24, 16)}},
        {"pythia-2.8b", {kPythia, neox(2560, 32, 32)}},
        {"pythia-6.9b", {kPythia, neox(4096, 32, 32), R"({"vocab_size":50432})"}},
        {"pythia-12b", {kPythia, neox(5120, 36, 40), R"({"vocab_size":50688})"}},
        {"gpt-neox-20b",
         {kPythia, neox(6144, 44, 64), R"({"vocab_size":50432,"hidden_act":"gelu_fast"})"}}}},
      {"starcoder2",
       "starcoder2",
       {{"starcoder2-tiny", {kTiny, R"({"sliding_window":16})"}},
        {"starcoder2-3b", {R"({"vocab_size":49152,"hidden_size":3072,"num_hidden_layers":30,
          "num_attention_heads":24,"num_key_value_heads":2,"intermediate_size":12288,
          "max_position_embeddings":16384,"rope_theta":999999.4420358813,"sliding_window":4096})"}},
        {"starcoder2-7b", {R"({"vocab_size":49152,"hidden_size":4608,"num_hidden_layers":32,
          "num_attention_heads":36,"num_key_value_heads":4,"intermediate_size":18432,
          "max_position_embeddings":16384,"rope_theta":1000000,"sliding_window":4096})"}},
        {"starcoder2-15b", {R"({"vocab_size":49152,"hidden_size":6144,"num_hidden_layers":40,
          "num_attention_heads":48,"num_key_value_heads":4,"intermediate_size":24576,
          "max_position_embeddings":16384,"rope_theta":100000,"sliding_window":4096,
          "tie_word_embeddings":false})"}}}},
      {"bloom",
       "bloom",
       {{"bloom-tiny", {R"({"vocab_size":256,"hidden_size":64,"n_layer":2,"n_head":4,
          "seq_length":128})"}},
        {"bloom-560m", {kBloom, bloom(1024, 24, 16)}},
        {"bloom-1b1", {kBloom, bloom(1536, 24, 16)}},
        {"bloom-1b7", {kBloom, bloom(2048, 24, 16)}},
        {"bloom-3b", {kBloom, bloom(2560, 30, 32)}},
        {"bloom-7b1", {kBloom, bloom(4096, 30, 32)}},
        {"bloom-176b", {kBloom, bloom(14336, 70, 112)}}}},
      {"opt",
       "opt",
       {{"opt-tiny", {R"({"vocab_size":256,"hidden_size":64,"num_hidden_layers":2,
          "num_attention_heads":4,"ffn_dim":128,"max_position_embeddings":128,"dropout":0})"}},
        {"opt-125m", {kOpt, opt(768, 12, 12)}},
        {"opt-1.3b", {kOpt, opt(2048, 24, 32)}},
        {"opt-2.7b", {kOpt, opt(2560, 32, 32)}},
        {"opt-6.7b", {kOpt, opt(4096, 32, 32)}},
        {"opt-13b", {kOpt, opt(5120, 40, 40)}},
        {"opt-30b", {kOpt, opt(7168, 48, 56)}},
        {"opt-66b", {kOpt, opt(9216, 64, 72)}}}},
      {"mpt",
       "mpt",
       {{"mpt-tiny", {R"({"vocab_size":256,"d_model":64,"n_layers":2,"n_heads":4,
          "max_seq_len":128})"}},
        {"mpt-7b", {R"({"vocab_size":50432,"d_model":4096,"n_layers":32,"n_heads":32,
          "max_seq_len":2048})"}},
        {"mpt-30b", {R"({"vocab_size":50432,"d_model":7168,"n_layers":48,"n_heads":64,
          "max_seq_len":8192})"}}}},
      {"falcon",
       "falcon",
       {{"falcon-tiny", {R"({"vocab_size":256,"hidden_size":64,"num_hidden_layers":2,
          "num_attention_heads":4,"num_kv_heads":2,"new_decoder_architecture":true,
          "ffn_hidden_size":128,"max_position_embeddings":128})"}},
        {"falcon-rw-1b", {R"({"vocab_size":50304,"hidden_size":2048,"num_hidden_layers":24,
          "num_attention_heads":32,"alibi":true,"bias":true,"multi_query":false,
          "parallel_attn":false})"}},
        {"falcon-7b", {R"({"vocab_size":65024,"hidden_size":4544,"num_hidden_layers":32,
          "num_attention_heads":71})"}},
        {"falcon-40b", {R"({"vocab_size":65024,"hidden_size":8192,"num_hidden_layers":60,
          "num_attention_heads":128,"num_kv_heads":8,"new_decoder_architecture":true})"}},
        {"falcon-180b", {R"({"vocab_size":65024,"hidden_size":14848,"num_hidden_layers":80,
          "num_attention_heads":232,"num_kv_heads":8,"new_decoder_architecture":true})"}}}},
      {"phi",
       "phi",
       {{"phi-tiny", {kTiny}},
        {"phi-1.5", {R"({"vocab_size":51200,"hidden_size":2048,"num_hidden_layers":24,
          "num_attention_heads":32,"intermediate_size":8192})"}},
        {"phi-2", {R"({"vocab_size":51200,"hidden_size":2560,"num_hidden_layers":32,
          "num_attention_heads":32,"intermediate_size":10240,"partial_rotary_factor":0.4})"}}}},
      {"persimmon",
       "persimmon",
       {{"persimmon-tiny", {kTiny, R"({"num_key_value_heads":4})"}},
        {"persimmon-8b", {R"({"vocab_size":262144,"hidden_size":4096,"num_hidden_layers":36,
          "num_attention_heads":64,"intermediate_size":16384,"max_position_embeddings":16384})"}}}},
      {"stablelm",
       "stablelm",
       {{"stablelm-tiny", {kTiny, R"({"partial_rotary_factor":0.5,"use_qkv_bias":true})"}},
        {"stablelm-2-1.6b", {R"({"vocab_size":100352,"hidden_size":2048,"num_hidden_layers":24,
          "num_attention_heads":32,"intermediate_size":5632,"use_qkv_bias":true})"}},
        {"stablelm-3b-4e1t", {R"({"vocab_size":50304,"hidden_size":2560,"num_hidden_layers":32,
          "num_attention_heads":32,"intermediate_size":6912})"}},
        {"stablelm-2-12b", {R"({"vocab_size":100352,"hidden_size":5120,"num_hidden_layers":40,
          "num_attention_heads":32,"num_key_value_heads":8,"intermediate_size":13824,
          "qk_layernorm":true,"use_parallel_residual":true})"}}}},
      {"nemotron",
       "nemotron",
       {{"nemotron-tiny", {kTiny}},
        {"minitron-4b", {R"({"vocab_size":256000,"hidden_size":3072,"num_hidden_layers":32,
          "num_attention_heads":24,"num_key_value_heads":8,"head_dim":128,
          "intermediate_size":9216})"}},
        {"nemotron-4-340b", {R"({"vocab_size":256000,"hidden_size":18432,"num_hidden_layers":96,
          "num_attention_heads":96,"num_key_value_heads":8,"intermediate_size":73728})"}}}},
      {"cohere",
       "cohere",
       {{"cohere-tiny", {kTiny, R"({"use_qk_norm":true})"}},
        {"aya-23-8b", {R"({"vocab_size":256000,"hidden_size":4096,"num_hidden_layers":32,
          "num_attention_heads":32,"num_key_value_heads":8,"intermediate_size":14336,
          "rope_theta":10000})"}},
        {"command-r-35b", {R"({"vocab_size":256000,"hidden_size":8192,"num_hidden_layers":40,
          "num_attention_heads":64,"intermediate_size":22528,"max_position_embeddings":131072,
          "rope_theta":8000000})"}},
        {"command-r-plus-104b", {R"({"vocab_size":256000,"hidden_size":12288,
          "num_hidden_layers":64,"num_attention_heads":96,"num_key_value_heads":8,
          "intermediate_size":33792,"max_position_embeddings":131072,"rope_theta":75000000,
          "logit_scale":0.8333333333333334,"use_qk_norm":true})"}}}},
      {"cohere2",
       "cohere2",
       {{"cohere2-tiny", {kTinyHeads, R"({"num_hidden_layers":4,"sliding_window":16})"}},
        {"command-r7b", {R"({"vocab_size":256000,"hidden_size":4096,"num_hidden_layers":32,
          "num_attention_heads":32,"num_key_value_heads":8,"intermediate_size":14336,
          "max_position_embeddings":132096,"rope_theta":50000,"logit_scale":0.25})"}},
        {"command-a-111b", {R"({"vocab_size":256000,"hidden_size":12288,"num_hidden_layers":64,
          "num_attention_heads":96,"num_key_value_heads":8,"intermediate_size":36864,
          "max_position_embeddings":131072,"rope_theta":50000,"logit_scale":0.25})"}}}},
  };
}

}  // namespace lmxlab::config
