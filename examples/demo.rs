//! Starts the installed nginx with a stream listener over Multipath TCP,
//! connects a TCP and an MPTCP client, and shows what the kernel says of the
//! listener and of both connections.
//!
//! `make demo` builds the module and runs it. Nothing outside a temporary
//! folder is touched, and the ports are free ones.

use std::fs;
use std::io::{self, Read, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpListener};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use socket2::{Domain, Socket, Type};

type Result<T> = std::result::Result<T, Box<dyn std::error::Error>>;

const MPTCP: socket2::Protocol = socket2::Protocol::MPTCP;

fn main() {
    if let Err(error) = demo() {
        eprintln!("demo: {error}");
        std::process::exit(1);
    }
}

fn demo() -> Result<()> {
    let folder = Folder::new()?;
    let program = Program::find()?;
    println!(
        "using     {}, and {}",
        program.version,
        program.module.display()
    );

    let backend = backend()?;
    let address = free_address()?;
    let configuration = program.configuration(&folder.0, address, backend);
    let path = folder.0.join("nginx.conf");
    fs::write(&path, &configuration)?;
    println!("starting  it with \"listen {address} mptcp;\"");
    let mut nginx = Nginx::start(&program.nginx, &folder.0, &path)?;
    nginx.wait_until_it_serves(address)?;

    println!("connecting a TCP and an MPTCP client\n");
    let tcp = Client::connect(None, address)?;
    let mptcp = Client::connect(Some(MPTCP), address)?;

    println!("{:<14} {:<22} the kernel says", "socket", "address");
    let listener = ss(&["-HlnM", &format!("sport = :{}", address.port())])?;
    show("listener", address, describe_listener(&listener));
    let connections = ss(&[
        "-HnMi",
        "state",
        "connected",
        &format!("sport = :{}", address.port()),
    ])?;
    for (name, client) in [("TCP client", &tcp), ("MPTCP client", &mptcp)] {
        show(name, client.local, describe(&connections, client.local));
    }
    println!("\nThe same at any time: ss -lnM for listeners, ss -nMi for connections.");

    drop((tcp, mptcp));
    nginx.stop()
}

fn show(name: &str, address: SocketAddr, state: String) {
    println!("{name:<14} {:<22} {state}", address.to_string());
}

/// `ss -lM` lists MPTCP listeners only.
fn describe_listener(lines: &str) -> String {
    let state = if lines.contains("LISTEN") {
        "MPTCP"
    } else {
        "plain TCP"
    };
    format!("{state}, listening")
}

/// `ss -M` lists MPTCP connections only.
fn describe(lines: &str, peer: SocketAddr) -> String {
    let mut lines = lines.lines();
    if !lines.any(|line| line.contains(&peer.to_string())) {
        return "plain TCP".into();
    }
    let details = lines.next().unwrap_or_default();
    let token = details
        .split_whitespace()
        .find(|word| word.starts_with("token:"));
    format!("MPTCP, {}", token.unwrap_or("token unknown"))
}

fn ss(arguments: &[&str]) -> Result<String> {
    let output = Command::new("ss").args(arguments).output();
    let output = output.map_err(|_| "ss is missing: install iproute2")?;
    checked(&output, "ss")
}

fn checked(output: &Output, name: &str) -> Result<String> {
    let said = String::from_utf8_lossy(&output.stderr);
    match output.status.success() {
        true => Ok(String::from_utf8_lossy(&output.stdout).into_owned()),
        false => Err(format!("{name} failed: {}", said.trim()).into()),
    }
}

/// A temporary folder, gone at the end.
struct Folder(PathBuf);

impl Folder {
    fn new() -> Result<Self> {
        let path = std::env::temp_dir().join(format!("ngx-rs-listen-demo-{}", std::process::id()));
        fs::create_dir(&path)?;
        Ok(Self(path))
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        // Nothing can be done about it.
        let _ = fs::remove_dir_all(&self.0);
    }
}

/// The installed nginx, and the modules to load.
struct Program {
    nginx: PathBuf,
    version: String,
    stream: Option<PathBuf>,
    module: PathBuf,
}

impl Program {
    fn find() -> Result<Self> {
        let path = std::env::var_os("PATH").unwrap_or_default();
        let nginx = std::env::split_paths(&path)
            .chain(["/usr/sbin".into(), "/usr/local/sbin".into()])
            .map(|folder| folder.join("nginx"))
            .find(|nginx| nginx.is_file())
            .ok_or("nginx is missing: install the packages nginx and libnginx-mod-stream")?;
        let output = Command::new(&nginx).arg("-V").output()?;
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        let version = said.lines().next().unwrap_or_default();
        let version = version.trim_start_matches("nginx version: ").to_owned();
        let stream = match said.contains("--with-stream=dynamic") {
            true => Some(stream_module(&said)?),
            false => None,
        };
        let module = Path::new(env!("CARGO_MANIFEST_DIR"))
            .join("target/nginx/ngx_stream_rs_listen_module.so");
        if !module.is_file() {
            return Err("the module is missing: run \"make module\"".into());
        }
        Ok(Self {
            nginx,
            version,
            stream,
            module,
        })
    }

    fn configuration(&self, folder: &Path, address: SocketAddr, backend: SocketAddr) -> String {
        let load = |module: &PathBuf| format!("load_module {};\n", module.display());
        let stream = self.stream.as_ref().map(load).unwrap_or_default();
        let module = load(&self.module);
        let folder = folder.display();
        format!(
            "{stream}{module}\
             daemon off;\n\
             pid {folder}/nginx.pid;\n\
             error_log {folder}/error.log notice;\n\
             events {{ }}\n\
             stream {{\n\
             \x20   server {{\n\
             \x20       listen {address} mptcp;\n\
             \x20       proxy_pass {backend};\n\
             \x20   }}\n\
             }}\n"
        )
    }
}

/// nginx's own stream module, where it is to be loaded.
fn stream_module(said: &str) -> Result<PathBuf> {
    let folder = said
        .split_whitespace()
        .find_map(|word| word.strip_prefix("--modules-path="))
        .ok_or("this nginx does not say where its modules are")?;
    let module = Path::new(folder).join("ngx_stream_module.so");
    match module.is_file() {
        true => Ok(module),
        false => {
            Err("nginx's stream module is missing: install the package libnginx-mod-stream".into())
        }
    }
}

/// A running nginx, stopped at the end.
struct Nginx {
    process: Child,
    log: PathBuf,
}

impl Nginx {
    fn start(nginx: &Path, folder: &Path, configuration: &Path) -> Result<Self> {
        let process = Command::new(nginx)
            .arg("-p")
            .arg(folder)
            .arg("-c")
            .arg(configuration)
            .stderr(Stdio::piped())
            .spawn()?;
        Ok(Self {
            process,
            log: folder.join("error.log"),
        })
    }

    fn wait_until_it_serves(&mut self, address: SocketAddr) -> Result<()> {
        let deadline = Instant::now() + Duration::from_secs(10);
        while Client::connect(None, address).is_err() {
            if self.process.try_wait()?.is_some() || Instant::now() > deadline {
                let mut said = String::new();
                if let Some(stderr) = &mut self.process.stderr {
                    stderr.read_to_string(&mut said)?;
                }
                said.push_str(&fs::read_to_string(&self.log).unwrap_or_default());
                return Err(format!("nginx does not serve:\n{said}").into());
            }
            thread::sleep(Duration::from_millis(20));
        }
        Ok(())
    }

    fn stop(&mut self) -> Result<()> {
        let id = self.process.id().to_string();
        let output = Command::new("kill").args(["-QUIT", &id]).output()?;
        checked(&output, "kill")?;
        self.process.wait()?;
        Ok(())
    }
}

impl Drop for Nginx {
    fn drop(&mut self) {
        // Stopped already, unless something went wrong before.
        if matches!(self.process.try_wait(), Ok(None)) && self.stop().is_err() {
            let _ = self.process.kill();
        }
    }
}

/// A connection through nginx to the backend, and back.
struct Client {
    _socket: Socket,
    local: SocketAddr,
}

impl Client {
    fn connect(protocol: Option<socket2::Protocol>, address: SocketAddr) -> io::Result<Self> {
        let mut socket = Socket::new(Domain::IPV4, Type::STREAM, protocol)?;
        socket.set_read_timeout(Some(Duration::from_secs(5)))?;
        socket.connect(&address.into())?;
        socket.write_all(b"hello")?;
        let mut echo = [0; 5];
        socket.read_exact(&mut echo)?;
        let local = socket.local_addr()?.as_socket();
        let local = local.ok_or(io::ErrorKind::InvalidData)?;
        Ok(Self {
            _socket: socket,
            local,
        })
    }
}

/// Sends back what it gets.
fn backend() -> Result<SocketAddr> {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?;
    let address = listener.local_addr()?;
    thread::spawn(move || {
        for stream in listener.incoming().flatten() {
            thread::spawn(move || io::copy(&mut &stream, &mut &stream));
        }
    });
    Ok(address)
}

fn free_address() -> Result<SocketAddr> {
    Ok(TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?.local_addr()?)
}
