# Every command that a human types. `make help` lists them.

NGINX_STATIC = $(CURDIR)/target/nginx-static/nginx

# What a fresh Debian 12 lacks, besides Rust.
BUILD_PACKAGES = binutils gcc libc6-dev nginx nginx-dev libnginx-mod-stream
DEMO_PACKAGES  = $(BUILD_PACKAGES) iproute2
TEST_PACKAGES  = $(DEMO_PACKAGES) g++ libclang-dev libnginx-mod-mail nftables \
                 openssl procps strace valgrind
BENCH_PACKAGES = $(TEST_PACKAGES) wrk

# nginx gives its functions parameters that not all of them use.
C_WARNINGS = -O2 -Wall -Wextra -Werror -Wno-unused-parameter

.PHONY: help demo test matrix build module static bench soak header lint packages

help:			## list these commands
	@sed -n 's/^\([a-z]*\):.*## \(.*\)/make \1\t\2/p' $(MAKEFILE_LIST) \
	    | expand -t 16

demo:			## show nginx with a multipath listener, from nothing
	@tests/packages.sh $(DEMO_PACKAGES)
	@$(MAKE) --no-print-directory module
	@cargo run --quiet --locked --example demo

test: packages module static	## run every test
	cargo test --locked
	NGX_RS_NGINX=$(NGINX_STATIC) cargo test --locked --test nginx

matrix:			## test on every nginx of Debian, 1.18 to 1.30
	@tests/packages.sh debootstrap
	@tests/matrix.sh $(RELEASES)

build:			## build the library: target/release/libngx_rs_listen.{so,a}
	cargo build --release --locked --lib

module:			## build the modules for an nginx: target/nginx/*.so
	@tests/packages.sh $(if $(NGINX_SOURCE),gcc binutils,$(BUILD_PACKAGES))
	@nginx-module/build.sh

static: $(NGINX_STATIC)	## build an nginx with the modules linked in

$(NGINX_STATIC): $(wildcard src/*.rs src/*/*.rs include/* nginx-module/*) \
                 Cargo.lock tests/build-static.sh
	@tests/packages.sh $(BUILD_PACKAGES)
	@tests/build-static.sh $(dir $@)

bench: module		## measure, in ratios
	@tests/packages.sh $(BENCH_PACKAGES)
	benches/library.sh
	cargo bench --locked --no-fail-fast --bench nginx --bench http

soak: packages module	## change protocols under load for minutes: 0 lost
	cargo test --locked --test nginx soak:: -- --ignored \
	    --nocapture --test-threads 1

header:			## write include/ngx_rs_listen.h anew
	NGX_RS_WRITE_HEADER=1 cargo test --locked --test header

lint: packages		## check format, lints, C warnings, shell syntax
	cargo fmt --check
	cargo clippy --locked --all-targets -- -D warnings
	RUSTDOCFLAGS='-D warnings' cargo doc --locked --no-deps --quiet
	CFLAGS='$(C_WARNINGS)' OUT=target/lint nginx-module/build.sh
	for script in .ci/run nginx-module/build.sh tests/*.sh benches/*.sh; do \
	    bash -n $$script || exit 1; \
	done

packages:
	@tests/packages.sh $(TEST_PACKAGES)
