#!/bin/sh
# Runs a target of the Makefile on a Debian without make and possibly without
# Rust.
#
#   fresh-inside.sh TARGET

set -eu

tests/packages.sh make
command -v cargo > /dev/null || tests/packages.sh cargo
rustc --version
make "$1"
