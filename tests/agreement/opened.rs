//! The sockets of nginx, and those that we open for the same words.

use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;
use std::os::fd::AsFd;

use ngx_rs_listen::{Error, Listening, Open, open};
use socket2::SockRef;

use crate::nginx::Place;
use crate::sockets::{self, OPTIONS};
use crate::{Found, Ours, batches, shown};

/// What the kernel shows of a socket.
#[derive(Debug, PartialEq, Eq, PartialOrd, Ord)]
struct View {
    address: SocketAddr,
    kind: i32,
    backlog: Option<u32>,
    options: BTreeMap<&'static str, Option<i32>>,
}

impl View {
    /// None for one that has no address of IPv4 or IPv6.
    fn of(socket: &impl AsFd) -> Option<Self> {
        let kernel = SockRef::from(socket);
        let options = OPTIONS
            .iter()
            .map(|&(name, level, option)| (name, sockets::number(socket, level, option).ok()));
        Some(Self {
            address: kernel.local_addr().ok()?.as_socket()?,
            kind: kernel.r#type().ok()?.into(),
            backlog: sockets::backlog(socket),
            options: options.collect(),
        })
    }
}

/// Opens the sockets of each directive, and compares them with nginx's.
pub fn compare<'a>(found: &mut Found, place: &Place, cases: impl Iterator<Item = &'a Ours>) {
    // Without a port the kernel chooses one.
    let fixed = |socket: &Listening| socket.address.as_socket().is_some_and(|at| at.port() != 0);
    let mut opened = Vec::new();
    for ours in cases.filter(|ours| ours.sockets().iter().all(fixed)) {
        match open(ours) {
            Ok(_) => opened.push(ours),
            Err(error) => fails(found, place, ours, &error),
        }
    }
    for batch in batches(opened.into_iter()) {
        let text: Vec<_> = batch.iter().map(|ours| &ours.case).collect();
        let nginx = place.start(&text).unwrap_or_else(|said| panic!("{said}"));
        let mut theirs: BTreeMap<u16, Vec<View>> = BTreeMap::new();
        for (socket, _) in sockets::sockets(nginx.pid()) {
            if let Some(view) = View::of(&socket) {
                theirs.entry(view.address.port()).or_default().push(view);
            }
        }
        drop(nginx);
        for ours in batch {
            let mine = open(ours).expect("it was possible before");
            let ports: BTreeSet<u16> = mine.iter().map(|view| view.address.port()).collect();
            let theirs = ports.iter().filter_map(|port| theirs.remove(port));
            let mut theirs: Vec<View> = theirs.flatten().collect();
            theirs.sort();
            if theirs != mine {
                let text = format!("{}: {theirs:?} and not {mine:?}", shown(ours));
                found.wrong.push(text);
            }
            found.opened += 1;
        }
        assert!(theirs.is_empty(), "nobody asked for {theirs:?}");
    }
}

/// Our sockets while nginx is not there, in the order of their addresses.
fn open(ours: &Ours) -> Result<Vec<View>, Error> {
    let mut sockets: Vec<Listening> = ours
        .sockets()
        .iter()
        .map(|socket| {
            let mut again = Listening::new(socket.address.clone(), socket.socket_type);
            again.options = socket.options.clone();
            again
        })
        .collect();
    open::listening(&mut sockets, &mut [], &mut Open::default())?;
    let fds = sockets.iter().filter_map(|socket| socket.fd.as_ref());
    let mut views: Vec<_> = fds.filter_map(View::of).collect();
    views.sort();
    Ok(views)
}

/// What we cannot open nginx cannot open either, or it says that it goes on
/// without an option.
fn fails(found: &mut Found, place: &Place, ours: &Ours, error: &Error) {
    let Ok(nginx) = place.start(&[&ours.case]) else {
        return;
    };
    // `setsockopt(TCP_KEEPIDLE, 86400) …`, and nginx the same.
    let (said, text) = (nginx.said(), error.to_string());
    let call = text.split_inclusive(')').next().unwrap_or_default();
    let errno = format!("({}: ", error.os_errno());
    let same = |line: &str| line.contains(call) && line.contains(&errno);
    match said.lines().any(same) {
        true => found.gone_without += 1,
        false => {
            let text = format!("{}: we fail: {text}; nginx: {said}", shown(ours));
            found.wrong.push(text);
        }
    }
}
