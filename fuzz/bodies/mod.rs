//! What the fuzz targets do with an input. tests/fuzz_corpus.rs does the same
//! with every input of fuzz/corpus.
#![allow(dead_code, reason = "a target uses one of them")]

pub mod capi;
pub mod open;
pub mod parse;
pub mod print;

mod bytes;
mod capi_memory;
mod kernel;
mod names;
#[path = "../../tests/common/words.rs"]
mod words;
