//! The installed nginx without the modules of this project.

use std::env;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::OnceLock;

use ngx_rs_listen::parse::Subsystem;
use test_support::folder;
use test_support::program::{Program, Running};

use crate::generate::Case;

fn program() -> &'static Program {
    static PROGRAM: OnceLock<Program> = OnceLock::new();
    PROGRAM.get_or_init(|| Program::find().unwrap_or_else(|missing| panic!("{missing}")))
}

/// The version of nginx.
pub fn version() -> [u32; 3] {
    program().version.into()
}

/// Whether nginx was built with this configure option.
pub fn has(option: &str) -> bool {
    program().has(option)
}

/// A folder for nginx's configuration, in the network namespace of the calling thread.
pub struct Place {
    folder: PathBuf,
}

/// A directive that nginx refuses, with the reason.
pub struct Refused {
    /// The index of the directive.
    pub index: usize,
    pub why: String,
}

impl Place {
    pub fn new(name: &str) -> Self {
        for family in ["ipv4", "ipv6"] {
            let path = format!("/proc/sys/net/{family}/ip_nonlocal_bind");
            fs::write(path, "1").expect("the tests need root");
        }
        let folder = folder::lasting(&format!("agreement-{name}"));
        fs::create_dir(folder.join("logs")).expect("a folder can be made in a new one");
        enter(&folder);
        let place = Self { folder };
        place.make_certificate();
        place
    }

    fn make_certificate(&self) {
        let mut openssl = Command::new("openssl");
        openssl.args(["req", "-x509", "-newkey", "ec", "-nodes", "-subj", "/CN=x"]);
        openssl.args(["-pkeyopt", "ec_paramgen_curve:prime256v1"]);
        openssl.args(["-keyout", "key.pem", "-out", "cert.pem"]);
        openssl.current_dir(&self.folder).stderr(Stdio::null());
        let status = openssl.status().expect("openssl is needed");
        assert!(status.success(), "{openssl:?}: {status}");
    }

    /// Writes a configuration with a server for each of the cases, each on one line.
    fn write(&self, cases: &[&Case]) {
        let mut text = String::new();
        let subsystem = cases[0].subsystem;
        let own = program().own_module(of_the_tests(subsystem));
        if let Some(module) = own.unwrap_or_else(|missing| panic!("{missing}")) {
            text += &format!("load_module {}; ", module.display());
        }
        text += "user root; daemon off; master_process off; worker_processes 1; \
                 pid nginx.pid; error_log stderr warn; \
                 events { worker_connections 8192; } ";
        text += match subsystem {
            Subsystem::Stream => "stream { ",
            Subsystem::Http => "http { access_log off; server_names_hash_bucket_size 64; ",
            _ => "mail { auth_http 127.0.0.1:9; server_name x; ",
        };
        let mut text = text.into_bytes();
        for case in cases {
            assert_eq!(case.subsystem, subsystem, "a block at a time");
            // The line number tells the case: the first line begins the block.
            text.extend(b"\nserver { ");
            if case.words.iter().any(|word| word == b"ssl") {
                text.extend(b"ssl_certificate cert.pem; ssl_certificate_key key.pem; ");
            }
            text.extend(match subsystem {
                Subsystem::Stream => b"return x; ".as_slice(),
                Subsystem::Http => b"",
                _ => b"protocol smtp; ",
            });
            text.extend(case.text());
            text.extend(b" }");
        }
        text.extend(b"\n}\n");
        fs::write(self.folder.join("nginx.conf"), text).expect("the folder is ours");
    }

    fn command(&self) -> Command {
        let configuration = Path::new("nginx.conf");
        let mut command = program().command(&self.folder, configuration);
        command.args(["-e", "stderr"]).current_dir(&self.folder);
        command
    }

    /// Runs `nginx -t`, and returns the first directive that nginx refuses.
    pub fn check(&self, cases: &[&Case]) -> Option<Refused> {
        self.write(cases);
        let output = self.command().arg("-t").output();
        let output = output.expect("the package nginx is needed");
        let said = String::from_utf8_lossy(&output.stderr);
        let file = format!(" in {}:", self.folder.join("nginx.conf").display());
        // nginx reports no line for errors of bind() and similar calls.
        let mut lines = said.lines().filter(|line| line.contains("[emerg]"));
        let refusal = lines.find(|line| {
            let why = line.split(&file).next();
            line.contains(&file) && !why.is_some_and(|why| why.ends_with(", ignored"))
        });
        let Some(refusal) = refusal else {
            let tried = output.status.success() || said.contains("() ");
            assert!(tried, "{said}");
            return None;
        };
        let (why, line) = refusal.rsplit_once(&file).expect("it contains it");
        let line: usize = line.parse().expect("a number of a line");
        let why = why.rsplit_once(": ").map_or(why, |(_, why)| why);
        Some(Refused {
            index: line.checked_sub(2).expect("not that of the block"),
            why: why.into(),
        })
    }

    /// Starts nginx, which opens its sockets. The error is the output of nginx.
    pub fn start(&self, cases: &[&Case]) -> Result<Running, String> {
        self.write(cases);
        let pid = self.folder.join("nginx.pid");
        // The file exists if nginx ran before.
        let _ = fs::remove_file(&pid);
        let running = Running::start(&mut self.command(), &self.folder.join("errors"));
        let mut running = running.expect("nginx can be run");
        running.wait_until(|| fs::read_to_string(&pid).is_ok_and(|text| text.ends_with('\n')))?;
        Ok(running)
    }
}

/// Sets the working directory of the calling thread only. Relative paths begin there, as they
/// do for nginx.
fn enter(folder: &Path) {
    // SAFETY: unshare(2) takes no pointer.
    let failed = unsafe { libc::unshare(libc::CLONE_FS) };
    assert_eq!(failed, 0, "{}", std::io::Error::last_os_error());
    env::set_current_dir(folder).expect("the folder is ours");
}

/// Converts the parser's subsystem to that of the test support.
pub fn of_the_tests(subsystem: Subsystem) -> test_support::subsystem::Subsystem {
    use test_support::subsystem::Subsystem as Tested;
    match subsystem {
        Subsystem::Stream => Tested::Stream,
        Subsystem::Http => Tested::Http,
        _ => Tested::Mail,
    }
}
