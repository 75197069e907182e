//! Builds and runs programs with the commands of docs/library.md, and connects clients to them.

use std::fs;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::Shutdown;
use std::os::fd::AsFd;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::mpsc::{Receiver, channel};
use std::thread;
use std::time::{Duration, Instant};

use ngx_rs_listen::{Protocol, connection};
use socket2::{Domain, Socket, Type};

use crate::install::{folder, prefix};
use test_support::{library, listening};

/// How many bytes a client sends and the program echoes.
const LENGTH: usize = 100_000;

/// Long enough for a compiler that has to build everything.
pub const PATIENCE: Duration = Duration::from_secs(120);

/// A folder in which the path of the examples is the same as in the repository.
pub fn beside_examples(name: &str) -> PathBuf {
    let folder = folder(name);
    let examples = library::root().join("examples");
    symlink(examples, folder.join("examples")).expect("the folder is ours");
    folder
}

/// The block of commands in docs/library.md that contains `which`.
pub fn commands(which: &str) -> String {
    let manual = fs::read_to_string(library::root().join("docs/library.md"));
    let manual = manual.expect("there is a manual");
    let mut blocks = manual.split("```sh\n").skip(1);
    let block = blocks.find(|block| block.contains(which));
    let block = block.unwrap_or_else(|| panic!("the manual has no command with {which}"));
    block.split("```").next().unwrap_or(block).into()
}

/// A running program that was built and started with the commands of docs/library.md.
pub struct Program {
    pub child: Child,
    lines: Receiver<String>,
}

impl Program {
    /// Runs commands in a folder. The last command replaces the shell, so its process id is
    /// known.
    pub fn start(commands: &str, folder: &Path) -> Self {
        let commands = commands.trim_end();
        let last = commands.rfind('\n').map_or(0, |end| end + 1);
        let (first, last) = commands.split_at(last);
        let lib = prefix().join("lib");
        let mut command = Command::new("bash");
        command.args(["-ec", &format!("{first} exec {last}")]);
        command
            .current_dir(folder)
            .env("PKG_CONFIG_PATH", lib.join("pkgconfig"))
            .env("LD_LIBRARY_PATH", lib)
            .stdout(Stdio::piped());
        let mut child = command.spawn().expect("bash is needed");
        let stdout = child.stdout.take().expect("it is a pipe");
        let (say, lines) = channel();
        thread::spawn(move || {
            let lines = BufReader::new(stdout).lines();
            // This ends when the program ends or when the receiver is dropped.
            lines
                .map_while(Result::ok)
                .try_for_each(|line| say.send(line))
        });
        Self { child, lines }
    }

    pub fn line(&self) -> String {
        let line = self.lines.recv_timeout(PATIENCE);
        line.expect("the program says something")
    }

    /// The next line that does not describe a path.
    fn kind(&self) -> String {
        loop {
            let line = self.line();
            if !line.starts_with("  ") {
                return line;
            }
        }
    }

    /// Ends the program by SIGTERM.
    pub fn stop(mut self) -> ExitStatus {
        let pid = self.child.id() as libc::pid_t;
        // SAFETY: kill(2) takes no pointer; the child was not waited for yet.
        let failed = unsafe { libc::kill(pid, libc::SIGTERM) };
        assert_eq!(failed, 0, "it runs");
        self.child.wait().expect("it is our child")
    }
}

impl Drop for Program {
    fn drop(&mut self) {
        // An error is ignored: the program has ended already if the test succeeded.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Configures a second path for MPTCP clients.
pub fn two_paths() {
    for words in [
        "mptcp limits set subflow 2 add_addr_accepted 2",
        "mptcp endpoint add 127.0.0.2 dev lo subflow",
    ] {
        library::run(Command::new("ip").args(words.split(' ')));
    }
}

/// The output that a connection must cause: its kind, and the addresses of each path.
pub struct Printed {
    kind: &'static str,
    paths: Vec<String>,
}

impl Printed {
    /// Checks the output of the program. The byte counters of the paths add up to at least all
    /// bytes, because MPTCP may retransmit a byte on another path.
    pub fn check_output_of(&self, program: &Program) {
        assert_eq!(program.kind(), self.kind);
        let mut sums = [0, 0];
        for path in &self.paths {
            let line = program.line();
            let figures = figures(&line, path);
            sums[0] += figures[0].parse::<usize>().expect("bytes");
            sums[1] += figures[1].parse::<usize>().expect("bytes");
            figures[2].parse::<u64>().expect("segments");
            let rtt: f64 = figures[3].parse().expect("milliseconds");
            assert!(0.0 < rtt && rtt < 10_000.0, "{rtt}");
        }
        let most = LENGTH * self.paths.len();
        assert!(
            sums.iter().all(|sum| (LENGTH..=most).contains(sum)),
            "{sums:?}"
        );
    }
}

/// The values of a line that begins with these addresses.
fn figures<'a>(line: &'a str, path: &str) -> Vec<&'a str> {
    let words = line.strip_prefix(&format!("  {path} "));
    let words = words.unwrap_or_else(|| panic!("{line} instead of {path}"));
    let names = ["sent=", "received=", "retransmits=", "rtt_ms="];
    let values = words.split(' ').zip(names);
    let values = values.map(|(word, name)| word.strip_prefix(name));
    let values: Option<Vec<_>> = values.collect();
    values
        .filter(|values| values.len() == names.len())
        .unwrap_or_else(|| panic!("{line}"))
}

/// Connects, exchanges data and closes the connection. Returns the output that the program must
/// print.
pub fn talk(address: &str, protocol: Protocol) -> Printed {
    let (client, printed) = talking(address, protocol);
    client.shutdown(Shutdown::Write).expect("it is connected");
    assert_eq!((&client).read(&mut [0]).expect("it is connected"), 0);
    printed
}

/// Does the same as [`talk`], but resets the connection.
fn talk_and_reset(address: &str, protocol: Protocol) -> Printed {
    let (client, printed) = talking(address, protocol);
    let now = Some(Duration::ZERO);
    client.set_linger(now).expect("any socket");
    printed
}

/// A client that has exchanged data and is still connected.
fn talking(address: &str, protocol: Protocol) -> (Socket, Printed) {
    let number = Some(protocol.number().into());
    let client = Socket::new(Domain::IPV4, Type::STREAM, number).expect("MPTCP is there");
    client.set_read_timeout(Some(PATIENCE)).expect("any socket");
    let address = listening::inet(address).into();
    client.connect(&address).expect("somebody listens");
    let message: Vec<u8> = (0..LENGTH).map(|number| number as u8).collect();
    for part in message.chunks(4096) {
        let mut echo = vec![0; part.len()];
        (&client).write_all(part).expect("it is connected");
        (&client).read_exact(&mut echo).expect("it is connected");
        assert_eq!(echo, part);
    }
    let (kind, paths) = match protocol {
        Protocol::Mptcp => ("MPTCP", 2),
        _ => ("TCP", 1),
    };
    // The kernel opens the second path asynchronously.
    let end = Instant::now() + PATIENCE;
    let subflows = loop {
        let said = connection::subflows(client.as_fd());
        let (_, subflows) = said.expect("it is connected");
        if subflows.len() == paths {
            break subflows;
        }
        assert!(Instant::now() < end, "{paths} paths: {subflows:?}");
        thread::sleep(Duration::from_millis(2));
    };
    let paths = subflows
        .iter()
        .map(|path| format!("{} -> {}", path.local, path.remote));
    let paths = paths.collect();
    (client, Printed { kind, paths })
}

/// Checks that a TCP client and an MPTCP client are served.
pub fn serves(program: &Program) {
    for (address, protocol) in [
        ("127.0.0.1:7000", Protocol::Tcp),
        ("127.0.0.1:7003", Protocol::Mptcp),
    ] {
        talk(address, protocol).check_output_of(program);
    }
}

/// Checks the output for clients that reset their connections: the program prints at least the
/// first path, with the values of an earlier query.
pub fn prints_paths_of_reset_connections(program: &Program) {
    for (address, protocol) in [
        ("127.0.0.1:7000", Protocol::Tcp),
        ("127.0.0.1:7003", Protocol::Mptcp),
    ] {
        let printed = talk_and_reset(address, protocol);
        assert_eq!(program.kind(), printed.kind);
        figures(&program.line(), &printed.paths[0]);
    }
}
