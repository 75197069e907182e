//! Runs the fuzz targets with an input. tests/fuzz_corpus.rs does the same with every input of
//! fuzz/corpus. Each program compiles this module itself, because its functions replace those
//! of libc in the whole program.
#![allow(dead_code, reason = "a target uses one of them")]

pub mod capi;
pub mod open;
pub mod parse;
pub mod print;

mod bytes;
mod capi_memory;
mod names;
mod simulated_kernel;
