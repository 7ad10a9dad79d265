#!/bin/sh
# The compiler as `make dist` has Cargo call it, with flags for all crates. Those in RUSTFLAGS do not reach what is built for
# the build itself, such as procedural macros; what is shipped would then depend on where they were built.
# shellcheck disable=SC2086 # flags are words
exec "$@" $IMGCLS_RUSTC_FLAGS
