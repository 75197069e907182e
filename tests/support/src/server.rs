//! Configures and runs the nginx of a test, sends signals to it and queries its processes.

use std::collections::BTreeMap;
use std::fs;
use std::path::PathBuf;
use std::process::Command;

use crate::harness::{Host, Outcome, Site, reap, send_signal, wait_for, wait_until};
use crate::program;
use crate::sockets::{self, Listener};
use crate::subsystem::Subsystem;
use crate::without_mptcp;

/// Runs a program without CAP_NET_RAW, CAP_NET_ADMIN and CAP_NET_BIND_SERVICE.
pub const WITHOUT_NETWORK_CAPABILITIES: [&str; 3] = [
    "setpriv",
    "--bounding-set",
    "-net_raw,-net_admin,-net_bind_service",
];

/// Builds a configuration file.
#[derive(Clone)]
pub struct Conf {
    blocks: Vec<Block>,
    main: String,
    load: Option<Vec<PathBuf>>,
    workers: usize,
    daemon: bool,
    accept_mutex: bool,
    connections: usize,
    events: String,
}

/// The block of a subsystem, as in `http { … }`.
#[derive(Clone)]
struct Block {
    subsystem: Subsystem,
    text: String,
    module: bool,
}

impl Conf {
    /// A configuration with this text in the block of a subsystem. It loads nginx's module
    /// of the subsystem and the module of this project.
    pub fn new(subsystem: Subsystem, text: &str) -> Self {
        let block = Block {
            subsystem,
            text: text.into(),
            module: true,
        };
        Self {
            blocks: vec![block],
            main: String::new(),
            load: None,
            workers: 1,
            daemon: true,
            accept_mutex: false,
            connections: 1024,
            events: String::new(),
        }
    }

    /// Adds text to the first block.
    pub fn with_text(mut self, text: &str) -> Self {
        self.blocks[0].text.push_str(text);
        self.blocks[0].text.push('\n');
        self
    }

    /// Adds the blocks of another configuration, of other subsystems.
    pub fn with_blocks_of(mut self, other: Self) -> Self {
        self.blocks.extend(other.blocks);
        self
    }

    /// Loads only these modules, in this order.
    pub fn with_modules(mut self, files: Vec<PathBuf>) -> Self {
        self.load = Some(files);
        self
    }

    /// Adds text outside of the blocks.
    pub fn main(mut self, text: &str) -> Self {
        self.main.push_str(text);
        self.main.push('\n');
        self
    }

    /// Sets the number of workers.
    pub fn workers(mut self, workers: usize) -> Self {
        self.workers = workers;
        self
    }

    /// Adds `accept_mutex on`, so that the workers take turns in accepting connections.
    pub fn accept_mutex(mut self) -> Self {
        self.accept_mutex = true;
        self
    }

    /// Sets the number of connections that a worker can have.
    pub fn connections(mut self, connections: usize) -> Self {
        self.connections = connections;
        self
    }

    /// Adds text to the `events` block.
    pub fn events(mut self, text: &str) -> Self {
        self.events.push_str(text);
        self
    }

    /// Leaves out the lines that load the modules of this project. Modules that are linked
    /// into nginx stay, but do nothing in a configuration without their parameters.
    pub fn without_module(mut self) -> Self {
        self.blocks
            .iter_mut()
            .for_each(|block| block.module = false);
        self
    }

    /// Keeps nginx in the foreground.
    pub fn foreground(mut self) -> Self {
        self.daemon = false;
        self
    }

    /// The text of the file.
    fn text(&self) -> String {
        let load = |file: &PathBuf| program::load(file);
        let modules: String = match &self.load {
            Some(files) => files.iter().map(load).collect(),
            None => self.blocks.iter().map(Block::modules).collect(),
        };
        let blocks: String = self.blocks.iter().map(Block::text).collect();
        let on = |on: bool| if on { "on" } else { "off" };
        let (daemon, accept_mutex) = (on(self.daemon), on(self.accept_mutex));
        format!(
            "{modules}daemon {daemon};\nworker_processes {};\npid nginx.pid;\nerror_log error.log notice;\n{}\
             events {{\n    worker_connections {};\n    accept_mutex {accept_mutex};\n{}}}\n{blocks}",
            self.workers, self.main, self.connections, self.events
        )
    }
}

impl Block {
    /// The lines that load nginx's module and the module of this project.
    fn modules(&self) -> String {
        let modules = Host::get().modules(self.subsystem);
        let load = |file: &PathBuf| program::load(file);
        let own = modules.own.as_ref().map(load).unwrap_or_default();
        // Without the module the line stays empty, so that errors name the same lines.
        let ours = modules.ours.as_ref().filter(|_| self.module).map(load);
        own + &ours.unwrap_or_else(|| "# no module of ours to load\n".into())
    }

    /// The text of the block, or an empty text if the block is empty.
    fn text(&self) -> String {
        if self.text.is_empty() {
            return String::new();
        }
        let (name, preamble) = (self.subsystem.name(), self.subsystem.preamble());
        format!("{name} {{\n{preamble}{}}}\n", self.text)
    }
}

impl Site {
    /// Writes the configuration file.
    pub fn write(&self, conf: &Conf) {
        fs::write(self.path("nginx.conf"), conf.text()).expect("the configuration can be written");
        without_mptcp::check_refusal(self);
    }

    /// `FILE:LINE` of the first line that contains `words`, in the format of nginx's errors.
    pub fn place_of(&self, words: &str) -> String {
        let text = self.read("nginx.conf");
        let line = text.lines().position(|line| line.contains(words));
        let line = line.expect("the words are in the configuration") + 1;
        format!(" in {}:{line}", self.path("nginx.conf").display())
    }

    /// The command that runs nginx with this folder as its prefix, and with more arguments.
    pub fn nginx(&self, arguments: &[&str]) -> Command {
        self.nginx_under(&[], arguments)
    }

    /// The command that runs nginx under another program, for example `strace -f`.
    pub fn nginx_under(&self, runner: &[&str], arguments: &[&str]) -> Command {
        let configuration = self.path("nginx.conf");
        let mut command = Host::get().command_under(runner, &self.folder, &configuration);
        command.args(arguments);
        command
    }

    /// Runs `nginx -t` on a configuration.
    pub fn check(&self, conf: &Conf) -> Outcome {
        self.write(conf);
        self.run(&mut self.nginx(&["-t"]))
    }

    /// Starts nginx as a daemon and waits for its workers.
    pub fn start(&self, conf: &Conf) -> Nginx<'_> {
        self.try_start(conf)
            .unwrap_or_else(|outcome| panic!("nginx does not start: {}", outcome.text))
    }

    /// Starts nginx under another program, for example `setpriv`.
    pub fn start_under(&self, runner: &[&str], conf: &Conf) -> Nginx<'_> {
        self.try_start_under(runner, conf)
            .unwrap_or_else(|outcome| panic!("nginx does not start: {}", outcome.text))
    }

    /// Starts nginx as a daemon, or returns the outcome of the failed start.
    pub fn try_start(&self, conf: &Conf) -> Result<Nginx<'_>, Outcome> {
        self.try_start_under(&[], conf)
    }

    fn try_start_under(&self, runner: &[&str], conf: &Conf) -> Result<Nginx<'_>, Outcome> {
        self.write(conf);
        let outcome = self.run(&mut self.nginx_under(runner, &[]));
        if !outcome.status.success() {
            return Err(outcome);
        }
        let nginx = self.running();
        nginx.wait_for_workers(conf.workers);
        Ok(nginx)
    }

    /// Waits for `nginx.pid`, and returns the master that the file names.
    pub fn running(&self) -> Nginx<'_> {
        let pid = wait_for("nginx.pid", || self.read("nginx.pid").trim().parse().ok());
        Nginx { site: self, pid }
    }
}

/// A running master process and its workers.
pub struct Nginx<'site> {
    site: &'site Site,
    /// The master's process id.
    pub pid: i32,
}

impl Nginx<'_> {
    /// Whether the master still runs.
    pub fn runs(&self) -> bool {
        self.site
            .processes()
            .iter()
            .any(|process| process.pid == self.pid)
    }

    /// Waits until the master has ended.
    pub fn wait_for_end(&self) {
        wait_until("the end of the master", || !self.runs() && reap(self.pid));
    }

    /// The workers that are not shutting down, oldest first.
    pub fn workers(&self) -> Vec<i32> {
        self.workers_with(|title| !title.contains("is shutting down"))
    }

    fn workers_with(&self, wanted: impl Fn(&str) -> bool) -> Vec<i32> {
        let mut workers: Vec<i32> = self
            .site
            .processes()
            .into_iter()
            .filter(|process| process.parent == self.pid)
            .filter(|process| {
                process.title.starts_with("nginx: worker process") && wanted(&process.title)
            })
            .map(|process| process.pid)
            .collect();
        workers.sort_unstable();
        workers
    }

    /// Waits until there are exactly `count` workers and none of them is shutting down.
    pub fn wait_for_workers(&self, count: usize) {
        let what = format!("{count} workers of master {}", self.pid);
        wait_until(&what, || {
            self.workers().len() == count && self.workers_with(|_| true).len() == count
        });
    }

    /// Whether the master has reaped all of its ended children. A child that is ending or
    /// has not been reaped has no title.
    fn has_reaped(&self) -> bool {
        let children = fs::read_to_string(format!("/proc/{0}/task/{0}/children", self.pid));
        let title = |pid: &str| fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
        children.is_ok_and(|pids| pids.split_whitespace().all(|pid| !title(pid).is_empty()))
    }

    /// Sends the master a signal.
    pub fn signal(&self, signal: i32) {
        send_signal(self.pid, signal);
    }

    /// Stops the master and waits until it has ended.
    pub fn quit(&self) {
        self.signal(libc::SIGQUIT);
        self.wait_for_end();
    }

    /// The text of the error log.
    pub fn log(&self) -> String {
        self.site.read("error.log")
    }

    /// Reloads with a configuration, which must succeed, and waits until the old workers
    /// have ended and the master has closed its channels to them.
    pub fn reload(&self, conf: &Conf) {
        let before = self.workers();
        self.begin_reload(conf);
        self.wait_for_workers(conf.workers);
        wait_until("the old workers to go", || {
            self.workers().iter().all(|pid| !before.contains(pid))
        });
        wait_until("the master to be through", || {
            self.has_reaped() && self.sleeps()
        });
    }

    /// Reloads with a configuration, which must succeed, and waits until the master has
    /// finished the reload. Returns what the master logged.
    pub fn begin_reload(&self, conf: &Conf) -> String {
        self.try_reload(conf)
            .unwrap_or_else(|log| panic!("the reload failed: {log}"))
    }

    /// Reloads with a configuration and waits until the master has finished the reload.
    /// The error contains what the master logged.
    pub fn try_reload(&self, conf: &Conf) -> Result<String, String> {
        self.site.write(conf);
        let mark = self.log().len();
        self.signal(libc::SIGHUP);
        self.reloaded(mark)
    }

    /// Waits until the master has finished a reload that began when the log had `mark`
    /// bytes.
    pub fn reloaded(&self, mark: usize) -> Result<String, String> {
        // The master blocks its signals during the reload. It unblocks them in
        // sigsuspend() when the reload has succeeded or failed.
        wait_until("the end of the reload", || {
            assert!(self.runs(), "the master ended during a reload");
            self.log()[mark..].contains("reconfiguring") && self.sleeps()
        });
        let log = self.log()[mark..].to_owned();
        // Messages of the start may precede those of the reload.
        let reload = log.split_once("reconfiguring").map(|parts| parts.1);
        match reload.is_some_and(|reload| reload.contains("start worker process")) {
            true => Ok(log),
            false => Err(log),
        }
    }

    /// Whether the master waits for the next signal. It then has finished all earlier work,
    /// such as closing the channel to an ended worker.
    fn sleeps(&self) -> bool {
        let call = fs::read_to_string(format!("/proc/{}/syscall", self.pid)).unwrap_or_default();
        call.split(' ').next() == Some(&libc::SYS_rt_sigsuspend.to_string())
    }

    /// The listening sockets that the master has open, in the order of their descriptors.
    pub fn listeners(&self) -> Vec<Listener> {
        sockets::listeners(self.pid)
    }

    /// The only listening socket that the master has open.
    pub fn listener(&self) -> Listener {
        let mut listeners = self.listeners();
        assert_eq!(
            listeners.len(),
            1,
            "one listening socket expected: {listeners:#?}"
        );
        listeners.remove(0)
    }

    /// The master's descriptors, each with the target of its link in `/proc`.
    pub fn descriptors(&self) -> BTreeMap<i32, String> {
        sockets::descriptors(self.pid)
    }
}
