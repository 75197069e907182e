//! The C ABI: what a C compiler sees in the header is what Rust has, what Rust
//! takes for the kernel's is the kernel's, and nothing else is exported.

mod clang;
mod declarations;
mod exports;
mod system;
