//! The C ABI: the header declares the same types and functions as Rust, Rust uses the numbers and
//! layouts of the kernel's headers, and the library exports nothing else.

mod clang;
mod declarations;
mod exports;
mod system;
