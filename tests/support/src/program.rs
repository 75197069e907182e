//! Finds the nginx to test, its modules and the modules of this project, and runs nginx in
//! the foreground.
//!
//! Each error names what to install. A test panics with the error, and the demo prints it.

use std::fs::{self, File};
use std::io;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output};
use std::thread;
use std::time::{Duration, Instant};

use crate::library;
use crate::subsystem::Subsystem;

/// The nginx that `NGX_RS_NGINX` names, or the installed nginx.
pub struct Program {
    /// The path of the program.
    pub nginx: PathBuf,
    /// Its version.
    pub version: (u32, u32, u32),
    /// The output of `nginx -V`.
    built: String,
}

/// The module files that nginx has to load for a subsystem.
#[derive(Debug, Clone)]
pub struct Modules {
    /// nginx's own module, or None if it is linked into nginx.
    pub own: Option<PathBuf>,
    /// The module of this project, or None if it is linked into nginx.
    pub ours: Option<PathBuf>,
}

impl Program {
    /// Finds nginx, and runs `nginx -V`.
    pub fn find() -> Result<Self, String> {
        let nginx = find_nginx().ok_or("nginx is missing: install the packages nginx, libnginx-mod-stream and libnginx-mod-mail, or set NGX_RS_NGINX")?;
        let Output { stderr, .. } = Command::new(&nginx)
            .arg("-V")
            .output()
            .map_err(|error| format!("cannot run {} ({error})", nginx.display()))?;
        let built = String::from_utf8_lossy(&stderr).into_owned();
        let version = version(&built).ok_or("nginx -V does not begin with nginx's version")?;
        Ok(Self {
            nginx,
            version,
            built,
        })
    }

    /// Its name and version, for example `nginx/1.22.1`.
    pub fn name(&self) -> &str {
        let line = self.built.lines().next().unwrap_or_default();
        line.trim_start_matches("nginx version: ")
    }

    /// The configure options of the build, in one line.
    pub fn options(&self) -> &str {
        let options = self.built.split_once("arguments: ");
        options.map_or("", |(_, options)| options.trim_end())
    }

    /// Whether nginx was built with this configure option.
    pub fn has(&self, option: &str) -> bool {
        self.built.split_whitespace().any(|word| word == option)
    }

    /// Whether nginx has its own `multipath` parameter and stores the protocol of each
    /// listening socket.
    pub fn knows_protocols(&self) -> bool {
        self.version >= (1, 29, 7)
    }

    /// The modules of a subsystem.
    pub fn find_modules(&self, subsystem: Subsystem) -> Result<Modules, String> {
        Ok(Modules {
            own: self.own_module(subsystem)?,
            ours: self.our_module(subsystem)?,
        })
    }

    /// The modules of a subsystem. The test fails if one is missing.
    pub fn modules(&self, subsystem: Subsystem) -> Modules {
        let modules = self.find_modules(subsystem);
        modules.unwrap_or_else(|missing| panic!("{missing}"))
    }

    /// nginx's own module of a subsystem, or None if it is linked into nginx.
    pub fn own_module(&self, subsystem: Subsystem) -> Result<Option<PathBuf>, String> {
        let name = subsystem.name();
        let is_default = subsystem == Subsystem::Http && !self.has("--without-http");
        if is_default || self.has(&format!("--with-{name}")) {
            return Ok(None);
        }
        // Debian's nginx 1.18 has module files that its configure arguments do not name, so
        // the folder is searched.
        let mut words = self.built.split_whitespace();
        let folder = words.find_map(|word| word.strip_prefix("--modules-path="));
        let file = Path::new(folder.unwrap_or_default()).join(format!("ngx_{name}_module.so"));
        match file.is_file() {
            true => Ok(Some(file)),
            false => Err(format!(
                "no {}: install the package libnginx-mod-{name}, or set NGX_RS_NGINX to an nginx built --with-{name}",
                file.display()
            )),
        }
    }

    fn our_module(&self, subsystem: Subsystem) -> Result<Option<PathBuf>, String> {
        let words = self.built.split_whitespace();
        let mut linked = words.filter_map(|word| word.strip_prefix("--add-module="));
        if linked.any(|source| source.ends_with("nginx-module")) {
            return Ok(None);
        }
        let folder = std::env::var_os("NGX_RS_MODULES");
        let folder = folder.map_or_else(|| library::root().join("target/nginx"), PathBuf::from);
        let file = folder.join(format!("ngx_{}_rs_listen_module.so", subsystem.name()));
        match file.is_file() {
            true => Ok(Some(file)),
            false => Err(format!("no {}: run \"make module\" first", file.display())),
        }
    }

    /// The command that runs nginx with a prefix and a configuration file.
    pub fn command(&self, prefix: &Path, configuration: &Path) -> Command {
        self.command_under(&[], prefix, configuration)
    }

    /// The command that runs nginx under another program, for example `strace -f`.
    pub fn command_under(&self, runner: &[&str], prefix: &Path, configuration: &Path) -> Command {
        let mut command = match runner {
            [] => Command::new(&self.nginx),
            [program, options @ ..] => {
                let mut command = Command::new(program);
                command.args(options).arg(&self.nginx);
                command
            }
        };
        command.arg("-p").arg(format!("{}/", prefix.display()));
        command.arg("-c").arg(configuration);
        command
    }
}

/// The directive that loads a module.
pub fn load(module: &Path) -> String {
    format!("load_module {};\n", module.display())
}

fn find_nginx() -> Option<PathBuf> {
    if let Some(path) = std::env::var_os("NGX_RS_NGINX") {
        return Some(PathBuf::from(path));
    }
    let path = std::env::var_os("PATH").unwrap_or_default();
    std::env::split_paths(&path)
        .chain(["/usr/sbin".into(), "/usr/local/sbin".into()])
        .map(|folder| folder.join("nginx"))
        .find(|candidate| candidate.is_file())
}

fn version(built: &str) -> Option<(u32, u32, u32)> {
    let text = built.lines().next()?.split_once('/')?.1;
    let text = text.split_whitespace().next()?;
    let mut parts = text.split('.').map(|part| part.parse().ok());
    Some((parts.next()??, parts.next()??, parts.next()??))
}

/// An nginx in the foreground. Dropping this value ends it.
pub struct Running {
    child: Child,
    errors: PathBuf,
}

impl Running {
    /// Starts nginx with its stderr in the file `errors`.
    pub fn start(command: &mut Command, errors: &Path) -> io::Result<Self> {
        Ok(Self {
            child: command.stderr(File::create(errors)?).spawn()?,
            errors: errors.into(),
        })
    }

    /// The id of the started process, which is the master if nginx runs one.
    pub fn pid(&self) -> i32 {
        i32::try_from(self.child.id()).expect("a process id is small")
    }

    /// What it has written to stderr.
    pub fn stderr(&self) -> String {
        let said = fs::read(&self.errors).unwrap_or_default();
        String::from_utf8_lossy(&said).into_owned()
    }

    /// Waits until `is_ready` returns true. If nginx ends before that or is not ready in
    /// time, the error contains its stderr.
    pub fn wait_until(&mut self, mut is_ready: impl FnMut() -> bool) -> Result<(), String> {
        let deadline = Instant::now() + Duration::from_secs(20);
        while !is_ready() {
            let ended = self.child.try_wait().map_err(|error| error.to_string())?;
            if ended.is_some() || Instant::now() > deadline {
                return Err(self.stderr());
            }
            thread::sleep(Duration::from_millis(2));
        }
        Ok(())
    }

    /// Ends nginx with a signal. The signal is repeated, because an nginx without a master
    /// misses a signal that arrives just before it waits for events.
    pub fn end(&mut self, signal: i32) -> io::Result<()> {
        let deadline = Instant::now() + Duration::from_secs(20);
        while self.child.try_wait()?.is_none() {
            let signal = match Instant::now() < deadline {
                true => signal,
                false => libc::SIGKILL,
            };
            // SAFETY: kill() takes two numbers. The process is a child that has not been
            // waited for, so no other process can have its id.
            if unsafe { libc::kill(self.pid(), signal) } != 0 {
                return Err(io::Error::last_os_error());
            }
            thread::sleep(Duration::from_millis(2));
        }
        Ok(())
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        // An error is ignored: nginx may have ended before, and a failure to end it cannot
        // be handled here.
        let _ = self.end(libc::SIGTERM);
    }
}
