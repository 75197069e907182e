//! What several tests share.
#![allow(dead_code, reason = "no test uses all of it")]

pub mod library;
pub mod linux;
pub mod namespace;
pub mod process;
pub mod seccomp;
pub mod socket;
pub mod table;
pub mod words;
