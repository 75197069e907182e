//! nginx as the tests run it: its configuration, its processes, its signals.

use std::collections::BTreeMap;
use std::fs;
use std::path::PathBuf;
use std::process::Command;

use crate::harness::{Host, Outcome, Site, reap, send_signal, wait_for, wait_until};
use crate::sockets::{self, Listener};

/// What the servers of most tests answer.
pub const ANSWER: &str = "served over stream\n";

/// A configuration file in the making.
#[derive(Clone)]
pub struct Conf {
    stream: String,
    main: String,
    workers: usize,
    module: bool,
    daemon: bool,
}

impl Conf {
    /// A configuration with this text in its `stream` block.
    pub fn stream(text: &str) -> Self {
        Self {
            stream: text.into(),
            main: String::new(),
            workers: 1,
            module: true,
            daemon: true,
        }
    }

    /// One server that listens as `words` say and answers [`ANSWER`].
    pub fn listen(words: &str) -> Self {
        Self::servers(&[words])
    }

    /// One server for each of the words, which answers [`ANSWER`].
    pub fn servers(words: &[&str]) -> Self {
        let text = |words| {
            format!(
                "server {{\n    listen {words};\n    return \"{}\";\n}}\n",
                "served over stream\\n"
            )
        };
        Self::stream(&words.iter().map(text).collect::<String>())
    }

    /// Adds text to the `stream` block.
    pub fn and(mut self, text: &str) -> Self {
        self.stream.push_str(text);
        self.stream.push('\n');
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

    /// Leaves out the line that loads our module. Where the module is linked
    /// into nginx it stays, and has nothing to do as long as none of our
    /// words is there.
    pub fn without_module(mut self) -> Self {
        self.module = false;
        self
    }

    /// Keeps nginx in the foreground.
    pub fn foreground(mut self) -> Self {
        self.daemon = false;
        self
    }

    /// The text of the file.
    fn text(&self) -> String {
        let host = Host::get();
        let load = |file: &PathBuf| format!("load_module {};\n", file.display());
        let stream = host.stream.as_ref().map(load).unwrap_or_default();
        // A line in any case, so that errors name the same lines.
        let module = host.module.as_ref().filter(|_| self.module).map(load);
        let module = module.unwrap_or_else(|| "# no module of ours to load\n".into());
        let daemon = if self.daemon { "on" } else { "off" };
        format!(
            "{stream}{module}user root;\ndaemon {daemon};\nworker_processes {};\npid nginx.pid;\nerror_log error.log notice;\n{}\
             events {{\n    worker_connections 1024;\n}}\nstream {{\n{}}}\n",
            self.workers, self.main, self.stream
        )
    }
}

impl Site {
    /// Writes the configuration file.
    pub fn write(&self, conf: &Conf) {
        fs::write(self.path("nginx.conf"), conf.text()).expect("the configuration can be written");
    }

    /// `FILE:LINE` of the first line that holds `words`, as nginx names it.
    pub fn place_of(&self, words: &str) -> String {
        let text = self.read("nginx.conf");
        let line = text.lines().position(|line| line.contains(words));
        let line = line.expect("the words are in the configuration") + 1;
        format!(" in {}:{line}", self.path("nginx.conf").display())
    }

    /// The command that runs nginx in this place with further arguments.
    pub fn nginx(&self, arguments: &[&str]) -> Command {
        self.nginx_under(&[], arguments)
    }

    /// The same, run by another program such as `strace -f`.
    pub fn nginx_under(&self, runner: &[&str], arguments: &[&str]) -> Command {
        let host = Host::get();
        let mut command = match runner {
            [] => Command::new(&host.nginx),
            [program, options @ ..] => {
                let mut command = Command::new(program);
                command.args(options).arg(&host.nginx);
                command
            }
        };
        command.arg("-p").arg(format!("{}/", self.folder.display()));
        command
            .arg("-c")
            .arg(self.path("nginx.conf"))
            .args(arguments);
        command
    }

    /// `nginx -t` on a configuration.
    pub fn check(&self, conf: &Conf) -> Outcome {
        self.write(conf);
        self.run(&mut self.nginx(&["-t"]))
    }

    /// Starts nginx as a daemon and waits for its workers.
    pub fn start(&self, conf: &Conf) -> Nginx<'_> {
        self.try_start(conf)
            .unwrap_or_else(|outcome| panic!("nginx does not start: {}", outcome.text))
    }

    /// Starts nginx as a daemon, or says how it failed.
    pub fn try_start(&self, conf: &Conf) -> Result<Nginx<'_>, Outcome> {
        self.write(conf);
        let outcome = self.run(&mut self.nginx(&[]));
        if !outcome.status.success() {
            return Err(outcome);
        }
        let nginx = self.running();
        nginx.wait_for_workers(conf.workers);
        Ok(nginx)
    }

    /// The master that `nginx.pid` names, once it does.
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
        wait_until("the end of the master", || !self.runs());
        reap(self.pid);
    }

    /// The workers that take connections, oldest first.
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

    /// Waits until exactly `count` workers are there, none of them leaving.
    pub fn wait_for_workers(&self, count: usize) {
        let what = format!("{count} workers of master {}", self.pid);
        wait_until(&what, || {
            self.workers().len() == count && self.workers_with(|_| true).len() == count
        });
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

    /// The error log so far.
    pub fn log(&self) -> String {
        self.site.read("error.log")
    }

    /// Reloads with a configuration, which must succeed, and waits until the
    /// old workers have gone.
    pub fn reload(&self, conf: &Conf) {
        let before = self.workers();
        if let Err(log) = self.try_reload(conf) {
            panic!("the reload failed: {log}");
        }
        self.wait_for_workers(conf.workers);
        wait_until("the old workers to go", || {
            self.workers().iter().all(|pid| !before.contains(pid))
        });
    }

    /// Reloads with a configuration and waits until the master is through
    /// with it. An error holds what the master logged.
    pub fn try_reload(&self, conf: &Conf) -> Result<String, String> {
        self.site.write(conf);
        let mark = self.log().len();
        self.signal(libc::SIGHUP);
        self.reloaded(mark)
    }

    /// Waits until the master is through with a reload that began after
    /// `mark` bytes of its log.
    pub fn reloaded(&self, mark: usize) -> Result<String, String> {
        // The master blocks its signals while it reloads, and sleeps in
        // sigsuspend() only when it is through, successfully or not.
        wait_until("the end of the reload", || {
            assert!(self.runs(), "the master ended during a reload");
            self.log()[mark..].contains("reconfiguring") && self.sleeps()
        });
        let log = self.log()[mark..].to_owned();
        if log.contains("start worker process") {
            Ok(log)
        } else {
            Err(log)
        }
    }

    /// Whether the master waits for the next signal.
    fn sleeps(&self) -> bool {
        let call = fs::read_to_string(format!("/proc/{}/syscall", self.pid)).unwrap_or_default();
        call.split(' ').next() == Some(&libc::SYS_rt_sigsuspend.to_string())
    }

    /// The listening sockets that the master holds, in the order of their
    /// descriptors.
    pub fn listeners(&self) -> Vec<Listener> {
        sockets::listeners(self.pid)
    }

    /// The only listening socket that the master holds.
    pub fn listener(&self) -> Listener {
        let mut listeners = self.listeners();
        assert_eq!(
            listeners.len(),
            1,
            "one listening socket expected: {listeners:#?}"
        );
        listeners.remove(0)
    }

    /// The master's descriptors and what each is.
    pub fn descriptors(&self) -> BTreeMap<i32, String> {
        sockets::descriptors(self.pid)
    }
}
