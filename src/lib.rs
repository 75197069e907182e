//! Listening sockets for nginx's `listen` directive and for any other server,
//! with Multipath TCP (RFC 8684) or any other protocol that the kernel has.
//!
//! Two steps: parse a directive into sockets, then open them.
//!
//! 1. [`parse::listen`] reads the words of a `listen` directive: nginx's whole
//!    grammar, and `mptcp`, `multipath` and `protocol=`. [`resolve::sockets`]
//!    turns the result into one [`Listening`] per address.
//! 2. [`open::listening`] opens them all, or none of them.
//!
//! ```
//! use ngx_rs_listen::{Open, open, parse, resolve};
//!
//! let words = [b"127.0.0.1:7000".as_slice(), b"mptcp=auto", b"backlog=64"];
//! # let free = std::net::TcpListener::bind("127.0.0.1:0")?.local_addr()?.to_string();
//! # let words = [free.as_bytes(), b"mptcp=auto", b"backlog=64"];
//! let listen = parse::listen(&words, &parse::Rules::default())?;
//! let mut sockets = resolve::sockets(&listen)?;
//! open::listening(&mut sockets, &mut [], &mut Open::default())?;
//! assert!(sockets.iter().all(|socket| socket.fd.is_some()));
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```
//!
//! Sockets that are there already, from before a reload or from a service
//! manager, are [`Inherited`]: one of the same address and protocol is kept, and
//! one of another protocol is superseded. With [`Open::prepare`] nothing changes
//! for its clients until [`open::commit`]:
//!
//! ```
//! use ngx_rs_listen::{Disposition, Inherited, Open, Outcome, open, parse, resolve};
//!
//! let old = std::net::TcpListener::bind("127.0.0.1:0")?;
//! let address = old.local_addr()?.to_string();
//!
//! let words = [address.as_bytes(), b"mptcp"];
//! let listen = parse::listen(&words, &parse::Rules::default())?;
//! let mut sockets = resolve::sockets(&listen)?;
//! let mut inherited = [Inherited::new(&old)];
//! let mut how = Open::default();
//! how.prepare = true;
//! open::listening(&mut sockets, &mut inherited, &mut how)?;
//!
//! // What may still fail comes here; `open::rollback` takes it all back.
//! open::commit(&mut sockets, &mut inherited)?;
//! assert_eq!(sockets[0].outcome, Outcome::Successor);
//! assert_eq!(inherited[0].disposition(), Disposition::Superseded);
//! drop(old);
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```
//!
//! [`connection::info`] reports whether an accepted connection is MPTCP, and
//! [`connection::subflows`] reports its paths.
//!
//! [`capi`] exports the same functions to C, in `include/ngx_rs_listen.h`.

pub mod assign;
pub mod capi;
pub mod connect;
pub mod connection;
pub mod counters;
pub mod drain;
pub mod open;
pub mod parse;
pub mod resolve;

mod address;
mod error;
mod listen;
mod protocol;
mod sys;

pub use address::SocketAddress;
pub use drain::Drain;
pub use error::Error;
pub use listen::{
    Address, BACKLOG, Disposition, Host, Inherited, Listen, Listening, Options, Outcome, flag,
};
pub use open::Open;
pub use protocol::{Protocol, Request};
