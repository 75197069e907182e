//! Listening sockets for nginx's `listen` directive and for any other server,
//! with Multipath TCP (RFC 8684) or any other protocol that the kernel has.
//!
//! Two verbs, and an array of sockets between them:
//!
//! 1. [`parse::listen`] reads the words of a `listen` directive: nginx's whole
//!    grammar, and `mptcp`, `multipath` and `protocol=`. [`resolve::sockets`]
//!    turns the result into one [`Listening`] per address.
//! 2. [`open::listening`] opens them all, or none of them.
//!
//! ```
//! use ngx_rs_listen::{Inherited, Open, open, parse, resolve};
//!
//! let words = [b"127.0.0.1:0".as_slice(), b"mptcp=auto", b"backlog=64"];
//! # let words = [b"127.0.0.1".as_slice(), b"mptcp=auto", b"backlog=64"];
//! let listen = parse::listen(&words, &parse::Rules::default())?;
//! let mut sockets = resolve::sockets(&listen)?;
//! open::listening(&mut sockets, &mut [], &mut Open::default())?;
//! assert!(sockets.iter().all(|socket| socket.fd.is_some()));
//! # Ok::<(), ngx_rs_listen::Error>(())
//! ```
//!
//! [`connection::info`] says of an accepted connection whether it is MPTCP, and
//! over which paths it goes.
//!
//! The same is there for C as `include/ngx_rs_listen.h`; see [`capi`].

pub mod assign;
pub mod capi;
pub mod connection;
pub mod drain;
pub mod handover;
pub mod open;
pub mod parse;
pub mod resolve;

mod address;
mod create;
mod error;
mod listen;
mod protocol;
mod sys;

pub use address::SocketAddress;
pub use error::Error;
pub use listen::{
    Address, BACKLOG, Fate, Host, Inherited, Listen, Listening, Options, Outcome, flag,
};
pub use open::Open;
pub use protocol::{Protocol, Wish};
