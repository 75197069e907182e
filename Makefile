# Every command that a human types. `make help` lists them.

# Built from source: with the modules linked in, and to load them.
NGINX_STATIC  = $(CURDIR)/target/nginx-static/nginx
NGINX_DYNAMIC = $(CURDIR)/target/nginx-dynamic/nginx
NGINX_SOURCES = $(wildcard src/*.rs src/*/*.rs include/* nginx-module/*) \
                Cargo.lock tests/build-nginx.sh

# What a minimal Debian 12 lacks, besides Rust and make.
LIBRARY_PACKAGES = gcc libc6-dev
SOURCE_PACKAGES  = binutils $(LIBRARY_PACKAGES) libpcre2-dev libssl-dev \
                   zlib1g-dev
BUILD_PACKAGES = binutils $(LIBRARY_PACKAGES) nginx nginx-dev \
                 libnginx-mod-stream
DEMO_PACKAGES  = $(BUILD_PACKAGES) iproute2
TEST_PACKAGES  = $(DEMO_PACKAGES) g++ git golang-go libclang-dev \
                 libnginx-mod-mail mandoc mptcpize nftables openssl pkg-config procps \
                 prometheus python3 strace systemd valgrind
BENCH_PACKAGES = $(TEST_PACKAGES) wrk
KERNEL_PACKAGES = $(TEST_PACKAGES) busybox-static cpio kmod qemu-system-x86 \
                  xz-utils
DEB_PACKAGES   = $(BUILD_PACKAGES) build-essential debhelper libnginx-mod-mail

# nginx gives its functions parameters that not all of them use.
C_WARNINGS = -O2 -Wall -Wextra -Werror -Wno-unused-parameter

# Where the library goes; cargo-c's layout. DESTDIR comes before all of it.
PREFIX = /usr/local
LIBDIR = $(PREFIX)/lib
MANDIR = $(PREFIX)/share/man

LIBRARY = target/release/libngx_rs_listen
VERSION = $(shell sed -n 's/^version = "\(.*\)"/\1/p' Cargo.toml)
# As in build.rs: 0.1.4 -> 0.1, 1.2.3 -> 1
SOVERSION = $(shell echo $(VERSION) | sed 's/^\(0\.[0-9]*\|[0-9]*\)\..*/\1/')

INSTALLED = $(addprefix $(DESTDIR)$(LIBDIR)/, libngx_rs_listen.a \
                libngx_rs_listen.so libngx_rs_listen.so.$(SOVERSION) \
                libngx_rs_listen.so.$(VERSION) pkgconfig/ngx_rs_listen.pc) \
            $(DESTDIR)$(PREFIX)/include/ngx_rs_listen.h \
            $(DESTDIR)$(MANDIR)/man3/ngx_rs_listen.3 \
            $(DESTDIR)$(MANDIR)/man5/ngx_rs_listen.5

.PHONY: help demo test fuzz matrix kernels kernels-short build install \
        uninstall deb test-deb test-fresh module static bench native soak \
        sweep memory header lint packages \
        release-check

help:			## list these commands
	@sed -n 's/^\([a-z-]*\):.*## \(.*\)/make \1\t\2/p' $(MAKEFILE_LIST) \
	    | expand -t 20

demo:			## show nginx with a multipath listener, from nothing
	@tests/packages.sh $(DEMO_PACKAGES)
	@$(MAKE) --no-print-directory module
	@cargo run --quiet --locked --example demo

test: packages module static $(NGINX_DYNAMIC)	## run every test
	cargo test --locked
	NGX_RS_NGINX=$(NGINX_STATIC) cargo test --locked --test nginx
	NGX_RS_NGINX=$(NGINX_DYNAMIC) NGX_RS_MODULES=$(dir $(NGINX_DYNAMIC)) \
	    cargo test --locked --test nginx -- parameters:: reload:: together:: \
	        variables::

# Longer, of each target: `make fuzz FUZZ_SECONDS=600`.
fuzz:			## fuzz the parser, the C ABI and the opening
	fuzz/run.sh

matrix:			## test on every nginx of Debian, 1.18 to 1.30
	@tests/packages.sh debootstrap
	@tests/matrix.sh $(RELEASES)

kernels: packages module	## test on Debian's kernels in QEMU, 5.10 to 7.2
	@tests/packages.sh $(KERNEL_PACKAGES)
	@tests/kernels.sh $(KERNELS)

# For CI: one kernel, and the tests that depend on the kernel most.
KERNEL_TESTS = changes:: connections drain:: drained kept:: kernel:: \
               logged_paths:: options:: sctp states:: subflows:: superseded:: \
               second_path_carried tells undone:: unsupported:: variables:: \
               vrf::

kernels-short:
	@$(MAKE) --no-print-directory kernels KERNELS=bookworm \
	    TESTS='$(KERNEL_TESTS)'

# RELEASES and TARGETS are optional, as in TARGETS="demo deb".
test-fresh:		## run the targets of README on a minimal Debian 12 and 13
	@tests/packages.sh debootstrap
	@TARGETS="$(TARGETS)" tests/fresh.sh $(RELEASES)

# Without the rlib, of which cargo leaves out the optimization at link time.
# .libs are the libraries that the static one needs, in the linker's words.
build:			## build the library: target/release/libngx_rs_listen.{so,a}
	@tests/packages.sh $(LIBRARY_PACKAGES)
	cargo rustc --release --locked --lib --crate-type cdylib,staticlib
	@rustc --crate-type staticlib -o $(LIBRARY).none.a \
	    --print native-static-libs=$(LIBRARY).libs /dev/null
	@rm $(LIBRARY).none.a

# With it built, installing needs no Rust: root may have none.
$(LIBRARY).libs: Cargo.toml Cargo.lock build.rs $(wildcard src/*.rs src/*/*.rs)
	$(MAKE) build

install: $(LIBRARY).libs	## install it: PREFIX=/usr/local LIBDIR= DESTDIR=
	install -d $(sort $(dir $(INSTALLED)))
	install -m 644 include/ngx_rs_listen.h $(DESTDIR)$(PREFIX)/include
	install -m 644 docs/man/ngx_rs_listen.3 $(DESTDIR)$(MANDIR)/man3
	install -m 644 docs/man/ngx_rs_listen.5 $(DESTDIR)$(MANDIR)/man5
	install -m 644 $(LIBRARY).a $(DESTDIR)$(LIBDIR)
	install -m 755 $(LIBRARY).so \
	    $(DESTDIR)$(LIBDIR)/libngx_rs_listen.so.$(VERSION)
	for link in so so.$(SOVERSION); do \
	    ln -sf libngx_rs_listen.so.$(VERSION) \
	        $(DESTDIR)$(LIBDIR)/libngx_rs_listen.$$link || exit 1; \
	done
	sed -e 's|@PREFIX@|$(PREFIX)|' -e 's|@VERSION@|$(VERSION)|' \
	    -e "s|@LIBS@|$$(cat $(LIBRARY).libs)|" \
	    -e 's|@LIBDIR@|$(patsubst $(PREFIX)/%,$${prefix}/%,$(LIBDIR))|' \
	    ngx_rs_listen.pc.in | install -m 644 /dev/stdin \
	        $(DESTDIR)$(LIBDIR)/pkgconfig/ngx_rs_listen.pc

uninstall:			## take it away again: the same PREFIX, LIBDIR, DESTDIR
	rm -f $(INSTALLED)

module:			## build the modules for an nginx: target/nginx/*.so
	@tests/packages.sh $(if $(NGINX_SOURCE),$(SOURCE_PACKAGES),$(BUILD_PACKAGES))
	@nginx-module/build.sh

static: $(NGINX_STATIC)	## build an nginx with the modules linked in

$(NGINX_STATIC): $(NGINX_SOURCES)
	@tests/packages.sh $(BUILD_PACKAGES)
	@tests/build-nginx.sh $(dir $@) --add-module

$(NGINX_DYNAMIC): $(NGINX_SOURCES)
	@tests/packages.sh $(BUILD_PACKAGES)
	@tests/build-nginx.sh $(dir $@) --add-dynamic-module

deb:			## build the Debian packages: target/deb/*.deb
	@tests/packages.sh $(DEB_PACKAGES)
	@debian/build.sh target/deb

test-deb:		## build, install, use, remove the packages on a clean Debian
	@tests/packages.sh debootstrap iproute2
	@tests/deb.sh $(RELEASES)

bench: module		## measure, in ratios
	@tests/packages.sh $(BENCH_PACKAGES)
	benches/library.sh
	cargo bench --locked --no-fail-fast --bench nginx --bench http
	@$(MAKE) --no-print-directory native

native:			## compare with the multipath of nginx 1.30
	@tests/packages.sh debootstrap
	@cargo fetch --locked --quiet
	tests/root.sh sid benches/native.sh

soak: packages module	## change protocols under load for minutes: 0 lost
	cargo test --locked --test nginx soak:: -- --ignored \
	    --nocapture --test-threads 1

memory: packages module	## valgrind, AddressSanitizer, 1,000 reloads
	ASAN_OPTIONS=detect_leaks=0 OUT=target/asan \
	    CFLAGS='-g -O1 -fsanitize=address -fno-omit-frame-pointer' \
	    LDFLAGS=-fsanitize=address nginx-module/build.sh
	NGX_RS_MODULES=$(CURDIR)/target/asan cargo test --locked --test nginx \
	    memory::address_sanitizer -- --ignored
	cargo test --locked --test nginx memory:: -- --ignored --nocapture \
	    --test-threads 1 --skip address_sanitizer

sweep: packages module	## make every system call of ours fail, in every way
	cargo test --locked --test nginx sweep:: -- --ignored --nocapture

header:			## write include/ngx_rs_listen.h anew
	cargo run --quiet --locked --package header-tool

# CHECKS="versions abi" runs some of the checks: see the script.
release-check: packages	## check that the version in Cargo.toml can be released
	@DEB_PACKAGES="$(DEB_PACKAGES)" tests/release-check.sh $(CHECKS)

lint: packages		## check format, lints, C warnings, shell syntax
	cargo fmt --all --check
	cargo fmt --check --manifest-path fuzz/Cargo.toml
	cargo clippy --locked --workspace --all-targets -- -D warnings
	RUSTDOCFLAGS='-D warnings' cargo doc --locked --no-deps --quiet
	CFLAGS='$(C_WARNINGS)' OUT=target/lint nginx-module/build.sh
	! gofmt -d examples | grep .
	for script in .ci/run nginx-module/build.sh debian/build.sh fuzz/run.sh \
	              tests/*.sh benches/*.sh; do \
	    bash -n $$script || exit 1; \
	done

packages:
	@tests/packages.sh $(TEST_PACKAGES)
