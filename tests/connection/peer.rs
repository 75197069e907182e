//! A client in another network namespace.

use std::io::{Read, Write};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::thread;

use ngx_rs_listen::Protocol;
use socket2::Socket;

use crate::connected::{accept, connect, run};
use test_support::namespace;

/// A client in another network namespace, which a link connects to that of the calling thread.
/// The client has the addresses 10.0.0.2, 10.0.0.3 and fd00::2. The calling thread has 10.0.0.1
/// and fd00::1.
pub struct Peer {
    steps: Sender<String>,
    done: Receiver<libc::pid_t>,
}

impl Peer {
    /// Runs a test with a peer.
    pub fn with(test: impl FnOnce(&Peer) + Send) {
        let (steps, todo) = channel();
        let (ready, done) = channel();
        thread::scope(|scope| {
            scope.spawn(|| namespace::run(|| Self::client(todo, ready)));
            namespace::run(|| {
                let peer = Peer { steps, done };
                let thread = peer.wait();
                run(&format!(
                    "ip link add cable type veth peer cable netns {thread}"
                ));
                run("ip addr add 10.0.0.1/24 dev cable");
                run("ip addr add fd00::1/64 dev cable nodad");
                run("ip link set cable up");
                peer.does("ip addr add 10.0.0.2/24 dev cable");
                peer.does("ip addr add 10.0.0.3/24 dev cable");
                peer.does("ip addr add fd00::2/64 dev cable nodad");
                peer.does("ip link set cable up");
                test(&peer);
            });
        });
    }

    fn client(todo: Receiver<String>, ready: Sender<libc::pid_t>) {
        // SAFETY: gettid(2) takes nothing, and always succeeds.
        let thread = unsafe { libc::gettid() };
        let mut client: Option<Socket> = None;
        ready.send(thread).expect("somebody waits");
        for step in todo {
            match &*step {
                "send" => {
                    let mut client = client.as_ref().expect("it is connected");
                    client.write_all(&[1; 1000]).expect("it is connected");
                }
                "close" => client = None,
                command if command.starts_with("ip ") => drop(run(command)),
                address => client = Some(connect(address, Protocol::Mptcp)),
            }
            ready.send(thread).expect("somebody waits");
        }
    }

    fn wait(&self) -> libc::pid_t {
        self.done.recv().expect("the peer goes on")
    }

    pub fn does(&self, step: &str) {
        self.steps.send(step.into()).expect("the peer goes on");
        self.wait();
    }

    /// Connects, sends 1,000 bytes, and waits until the server has received them.
    pub fn connects(&self, listener: &Socket, address: &str) -> Socket {
        self.does(address);
        let server = accept(listener);
        self.sends(&server);
        server
    }

    pub fn sends(&self, mut server: &Socket) {
        self.does("send");
        let all = server.read_exact(&mut [0; 1000]);
        all.expect("it is connected");
    }
}
