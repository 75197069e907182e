//! Compares the sockets that nginx and the library open for the same directive.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::os::fd::AsFd;
use std::os::unix::fs::MetadataExt;

use ngx_rs_listen::{Error, Listening, Open, SocketAddress, open};
use socket2::SockRef;
use test_support::sockets::{self, OPTIONS};

use crate::real_nginx::Place;
use crate::{Found, How, Ours, batches, key, shown};

/// What the kernel reports of a socket.
#[derive(Debug, PartialEq, Eq, PartialOrd, Ord)]
struct View {
    key: String,
    address: String,
    kind: i32,
    /// The type and the permissions of the file of a Unix domain socket.
    mode: Option<u32>,
    backlog: Option<u32>,
    options: BTreeMap<&'static str, Option<i32>>,
}

impl View {
    /// The state of a socket, or None if the socket has no address.
    fn of(socket: &impl AsFd) -> Option<Self> {
        let kernel = SockRef::from(socket);
        let options = OPTIONS
            .iter()
            .map(|&(name, level, option)| (name, sockets::number(socket, level, option).ok()));
        let address = SocketAddress::from_kernel(&kernel.local_addr().ok()?)?;
        let file = address.as_path().map(fs::symlink_metadata);
        Some(Self {
            key: key(&address),
            address: address.to_string(),
            mode: file.map(|file| file.expect("it is there while it is bound").mode()),
            kind: kernel.r#type().ok()?.into(),
            backlog: sockets::backlog(socket),
            options: options.collect(),
        })
    }
}

/// Opens the sockets of each directive, and compares them with nginx's.
pub fn compare<'a>(found: &mut Found, place: &Place, cases: impl Iterator<Item = &'a Ours>) {
    // The kernel chooses the port of a socket without one, so such sockets are not compared.
    let fixed = |socket: &Listening| socket.address.as_socket().is_none_or(|at| at.port() != 0);
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
        let mut theirs: BTreeMap<String, Vec<View>> = BTreeMap::new();
        for (socket, _) in sockets::sockets(nginx.pid()) {
            if let Some(view) = View::of(&socket) {
                theirs.entry(view.key.clone()).or_default().push(view);
            }
        }
        drop(nginx);
        batch.iter().for_each(|ours| remove_files(ours));
        for ours in batch {
            let mine = open(ours).expect("it was possible before");
            let keys: BTreeSet<&String> = mine.iter().map(|view| &view.key).collect();
            let theirs = keys.into_iter().filter_map(|key| theirs.remove(key));
            let mut theirs: Vec<View> = theirs.flatten().collect();
            theirs.sort();
            if theirs != mine {
                let text = format!("{}: {theirs:?} and not {mine:?}", shown(ours));
                found.wrong.push(text);
            }
            found.opened += 1;
            found.unix += usize::from(mine.iter().any(|view| view.mode.is_some()));
        }
        assert!(theirs.is_empty(), "nobody asked for {theirs:?}");
    }
}

/// Opens the library's sockets while nginx does not run. Returns them in the order of their
/// addresses.
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
    remove_files(ours);
    Ok(views)
}

/// Removes the files of Unix domain sockets, because they remain when the sockets are closed.
fn remove_files(ours: &Ours) {
    let sockets = ours.sockets().iter();
    for path in sockets.filter_map(|socket| socket.address.as_path()) {
        // The file exists only if the socket was opened.
        let _ = fs::remove_file(path);
    }
}

/// Checks that nginx fails too when the library cannot open a socket, or that nginx reports
/// that it continues without an option.
fn fails(found: &mut Found, place: &Place, ours: &Ours, error: &Error) {
    let started = place.start(&[&ours.case]);
    remove_files(ours);
    let Ok(nginx) = started else {
        return;
    };
    // Both errors begin with the call, for example `setsockopt(TCP_KEEPIDLE, 86400)`.
    let (said, text) = (nginx.stderr(), error.to_string());
    let call = text.split_inclusive(')').next().unwrap_or_default();
    let errno = format!("({}: ", error.os_errno());
    let same = |line: &str| line.contains(call) && line.contains(&errno);
    match said.lines().any(same) {
        true => found.differs(ours, How::Fail, &said),
        false => {
            let text = format!("{}: we fail: {text}; nginx: {said}", shown(ours));
            found.wrong.push(text);
        }
    }
}
