# From a fresh machine to a running program: `make run`. Everything here is a thin call of a script.
#   PRESET=release (dev, ci, asan, tsan)   LMXLAB_MLX=auto (cpu, metal, cuda)   PREFIX=/usr/local   ARGS='...'
SHELL := bash
PRESET ?= release
PREFIX ?= /usr/local
ARGS ?=
export PRESET

.PHONY: run chat build test test-peers mlx peers compare install mac cuda arm64 asan tsan fuzz docs-tables format format-check clean help

run: ## install what is missing, build, train the default model, print a sample
	@scripts/build.sh lmxlab_program
	@build/$(PRESET)/lmxlab train $(ARGS)

chat: ## talk to a small model, which is fetched first (98 MB); ARGS='--system "..."'
	@scripts/build.sh lmxlab_program
	@build/$(PRESET)/lmxlab chat "$$(scripts/models.sh smollm2)" $(ARGS)

build: ## the program: build/release/lmxlab
	@scripts/build.sh lmxlab_program

test: ## build everything, run every test but the slow ones and the peers'
	@scripts/test.sh

test-peers: ## compare with PyTorch and transformers (5 GB, installed once into your cache)
	@scripts/test_peers.sh

mlx: ## unpack MLX's wheel under build/
	@scripts/bootstrap.sh
	@scripts/mlx.sh

peers: ## make the environment of test-peers, print its folder
	@scripts/peers.sh

compare: ## measure beside PyTorch and llama.cpp, print a table; PARTS="train lora decode files kernels growth context avx2", QUICK=1
	@scripts/compare.sh

install: ## program, headers, libraries and CMake package into PREFIX
	@scripts/install.sh "$(PREFIX)"

mac: ## check that every source compiles for a Mac and that a program links
	@scripts/mac_check.sh

cuda: ## check that the program links with MLX's CUDA build, without a card or a toolkit
	@scripts/cuda_check.sh

arm64: ## on x86 Debian: build the kernels for Linux on Arm, run their tests under qemu
	@scripts/arm64.sh

asan tsan: export TARGETS = base_tests config_tests kernels_tests
asan: ## the kernels' tests under the address and undefined-behaviour sanitizers (all tests: PRESET=asan make test)
	@PRESET=asan scripts/test.sh -R '^(base|config|kernels)$$'

# Ordinary loops are 10 to 30 times slower there: left out is what compares with them, in one thread.
tsan: export GTEST_FILTER ?= -*Agree*:Activation.Gated:Activation.InFloat*:Math.*:Peaks.*:Update.*Follow*:Sample.TokensOf*:Elementwise.CastsRound*:LinearCrossEntropy.Never*
tsan: ## the kernels' tests under the thread sanitizer (all tests: PRESET=tsan make test)
	@PRESET=tsan scripts/test.sh -R '^(base|config|kernels)$$'

# TARGETS="gguf jinja": those alone; FUZZ_SECONDS=10: for each
fuzz: ## feed made-up files to every reader under sanitizers, ten minutes of CPU each; FUZZ_SECONDS=10 TARGETS="gguf jinja"
	@scripts/fuzz.sh $(TARGETS)

docs-tables: ## write anew what the pages quote: tables of the program, outputs, files
	@scripts/docs_tables.sh

format: ## clang-format over our sources
	@scripts/format.sh

format-check: ## say which files clang-format would change
	@scripts/format.sh --check

clean: ## remove the build trees; the unpacked wheels of MLX stay
	@scripts/clean.sh

help: ## this list
	@sed -n 's/^\([a-z0-9-]*\):.*## \(.*\)/  make \1@\2/p' $(firstword $(MAKEFILE_LIST)) | column -t -s@ 2>/dev/null || \
	  sed -n 's/^\([a-z0-9-]*\):.*## \(.*\)/  make \1   \2/p' $(firstword $(MAKEFILE_LIST))
