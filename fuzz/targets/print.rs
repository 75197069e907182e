//! Runs fuzz/bodies/print.rs with the inputs of libFuzzer.
#![no_main]

#[path = "../bodies/mod.rs"]
mod bodies;

libfuzzer_sys::fuzz_target!(|data: &[u8]| bodies::print::run(data));
