//! The real nginx, without a module of ours.

use std::env;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use ngx_rs_listen::parse::Subsystem;

use crate::generate::Case;

const PROGRAM: &str = "nginx";

/// The version of nginx.
pub fn version() -> [u32; 3] {
    let output = Command::new(PROGRAM).arg("-v").output();
    let output = output.expect("the package nginx is needed");
    let said = String::from_utf8_lossy(&output.stderr);
    let mut parts = said.split(|other: char| !other.is_ascii_digit());
    let mut part = || parts.find_map(|part| part.parse().ok());
    [part(), part(), part()].map(|part| part.expect("nginx -v says three numbers"))
}

/// A folder with nginx's configuration, and the network of the calling thread.
pub struct Place {
    folder: PathBuf,
}

/// A directive that nginx refuses, and why.
pub struct Refused {
    /// Its index.
    pub index: usize,
    pub why: String,
}

impl Place {
    pub fn new(name: &str) -> Self {
        for family in ["ipv4", "ipv6"] {
            let path = format!("/proc/sys/net/{family}/ip_nonlocal_bind");
            fs::write(path, "1").expect("the tests need root");
        }
        let folder = Path::new(env!("CARGO_TARGET_TMPDIR")).join(format!("agreement-{name}"));
        // It is there if the test ran before.
        let _ = fs::remove_dir_all(&folder);
        fs::create_dir_all(folder.join("logs")).expect("target/ can be written");
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

    /// Writes a configuration with a server for each of the cases, a line each.
    fn write(&self, cases: &[&Case]) {
        let mut text = String::new();
        let subsystem = cases[0].subsystem;
        if subsystem != Subsystem::Http {
            let folder = "/usr/lib/nginx/modules";
            let name = name(subsystem);
            text += &format!("load_module {folder}/ngx_{name}_module.so; ");
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
            // Each on its line: the first is that of the block itself.
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
        let mut command = Command::new(PROGRAM);
        command.args(["-e", "stderr", "-c", "nginx.conf", "-p"]);
        command.arg(&self.folder).current_dir(&self.folder);
        command
    }

    /// `nginx -t`: the first directive that it refuses.
    pub fn check(&self, cases: &[&Case]) -> Option<Refused> {
        self.write(cases);
        let output = self.command().arg("-t").output();
        let output = output.expect("the package nginx is needed");
        let said = String::from_utf8_lossy(&output.stderr);
        let file = format!(" in {}:", self.folder.join("nginx.conf").display());
        // Of binding and the like nginx says no line.
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

    /// Starts nginx, which opens its sockets; what it says if it cannot.
    pub fn start(&self, cases: &[&Case]) -> Result<Running, String> {
        self.write(cases);
        let pid = self.folder.join("nginx.pid");
        // It is there if nginx ran before.
        let _ = fs::remove_file(&pid);
        let errors = self.folder.join("errors");
        let file = fs::File::create(&errors).expect("the folder is ours");
        let child = self.command().stderr(file).spawn();
        let mut running = Running {
            child: child.expect("the package nginx is needed"),
            errors,
        };
        let deadline = Instant::now() + Duration::from_secs(20);
        loop {
            if fs::read_to_string(&pid).is_ok_and(|text| text.ends_with('\n')) {
                return Ok(running);
            }
            let ended = running.child.try_wait().expect("it is our child");
            if ended.is_some() {
                return Err(running.said());
            }
            assert!(Instant::now() < deadline, "nginx: {}", running.said());
            thread::sleep(Duration::from_millis(2));
        }
    }
}

/// The folder of the calling thread alone: where a path begins that is not
/// absolute, as nginx has it too.
fn enter(folder: &Path) {
    // SAFETY: unshare(2) takes no pointer.
    let failed = unsafe { libc::unshare(libc::CLONE_FS) };
    assert_eq!(failed, 0, "{}", std::io::Error::last_os_error());
    env::set_current_dir(folder).expect("the folder is ours");
}

pub fn name(subsystem: Subsystem) -> &'static str {
    match subsystem {
        Subsystem::Stream => "stream",
        Subsystem::Http => "http",
        _ => "mail",
    }
}

/// An nginx that runs until it is dropped.
pub struct Running {
    child: Child,
    errors: PathBuf,
}

impl Running {
    pub fn pid(&self) -> i32 {
        self.child.id() as i32
    }

    /// What it has written.
    pub fn said(&self) -> String {
        let said = fs::read(&self.errors).expect("the file is ours");
        String::from_utf8_lossy(&said).into_owned()
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        // It may have ended by itself.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
