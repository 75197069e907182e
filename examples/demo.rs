//! Starts the installed nginx with a stream and an http listener over Multipath
//! TCP, connects a TCP and an MPTCP client to each, and shows what the kernel
//! says of the listeners and of the connections, and what http logs.
//!
//! `make demo` builds the modules and runs it. Nothing outside a temporary
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
    println!("using     {}, and", program.version);
    for module in &program.ours {
        println!("          {}", module.display());
    }

    let (stream, http) = (free_address()?, free_address()?);
    let configuration = program.configuration(&folder.0, stream, http, backend()?);
    let path = folder.0.join("nginx.conf");
    fs::write(&path, &configuration)?;
    println!("starting  it with \"listen {stream} mptcp;\" in stream");
    println!("          and     \"listen {http} mptcp;\" in http");
    let mut nginx = Nginx::start(&program.nginx, &folder.0, &path)?;
    nginx.wait_until_it_serves(stream)?;

    println!("connecting a TCP and an MPTCP client to each\n");
    println!("{:<14} {:<22} the kernel says", "socket", "address");
    show_connections("stream", stream, "hello", "hello")?;
    show_connections("http", http, "GET / HTTP/1.1\r\nHost: demo\r\n\r\n", "HTTP")?;

    println!(
        "\nthe log of http, with $mptcp $mptcp_subflows_total $mptcp_subflow_addrs $mptcp_token"
    );
    nginx.stop()?;
    print!("{}", fs::read_to_string(folder.0.join("access.log"))?);
    println!("\nThe same at any time: ss -lnM for listeners, ss -nMi for connections.");
    Ok(())
}

/// Connects a client of each kind, and shows what the kernel says.
fn show_connections(name: &str, address: SocketAddr, says: &str, hears: &str) -> Result<()> {
    let tcp = Client::connect(None, address, says, hears)?;
    let mptcp = Client::connect(Some(MPTCP), address, says, hears)?;
    let port = format!("sport = :{}", address.port());
    let listener = ss(&["-HlnM", &port])?;
    show(name, address, describe_listener(&listener));
    let connections = ss(&["-HnMi", "state", "connected", &port])?;
    for (name, client) in [("  TCP client", &tcp), ("  MPTCP client", &mptcp)] {
        show(name, client.local, describe(&connections, client.local));
    }
    Ok(())
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
    ours: [PathBuf; 2],
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
        let ours = ["stream", "http"].map(|name| {
            let name = format!("target/nginx/ngx_{name}_rs_listen_module.so");
            Path::new(env!("CARGO_MANIFEST_DIR")).join(name)
        });
        if !ours.iter().all(|module| module.is_file()) {
            return Err("the modules are missing: run \"make module\"".into());
        }
        Ok(Self {
            nginx,
            version,
            stream,
            ours,
        })
    }

    fn configuration(
        &self,
        folder: &Path,
        stream: SocketAddr,
        http: SocketAddr,
        backend: SocketAddr,
    ) -> String {
        let modules = self.stream.iter().chain(&self.ours);
        let load: String = modules
            .map(|module| format!("load_module {};\n", module.display()))
            .collect();
        let folder = folder.display();
        let temporary: String = ["client_body", "proxy", "fastcgi", "uwsgi", "scgi"]
            .map(|name| format!("    {name}_temp_path {folder}/temporary;\n"))
            .concat();
        format!(
            "{load}\
             daemon off;\n\
             pid {folder}/nginx.pid;\n\
             error_log {folder}/error.log notice;\n\
             events {{ }}\n\
             stream {{\n\
             \x20   server {{\n\
             \x20       listen {stream} mptcp;\n\
             \x20       proxy_pass {backend};\n\
             \x20   }}\n\
             }}\n\
             http {{\n\
             {temporary}\
             \x20   log_format mptcp '$remote_addr \"$request\" $status $mptcp '\n\
             \x20                    '$mptcp_subflows_total $mptcp_subflow_addrs $mptcp_token';\n\
             \x20   access_log {folder}/access.log mptcp;\n\
             \x20   server {{\n\
             \x20       listen {http} mptcp;\n\
             \x20       return 200 hello;\n\
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
        while Client::connect(None, address, "hello", "hello").is_err() {
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
        let id = libc::pid_t::try_from(self.process.id())?;
        // SAFETY: the call takes no pointer; the process is our child and was not waited for, so
        // no other process can have its number.
        if unsafe { libc::kill(id, libc::SIGQUIT) } != 0 {
            return Err(io::Error::last_os_error().into());
        }
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

/// A connection to nginx that has been answered.
struct Client {
    _socket: Socket,
    local: SocketAddr,
}

impl Client {
    fn connect(
        protocol: Option<socket2::Protocol>,
        address: SocketAddr,
        says: &str,
        hears: &str,
    ) -> io::Result<Self> {
        let mut socket = Socket::new(Domain::IPV4, Type::STREAM, protocol)?;
        socket.set_read_timeout(Some(Duration::from_secs(5)))?;
        socket.connect(&address.into())?;
        socket.write_all(says.as_bytes())?;
        let mut answer = vec![0; hears.len()];
        socket.read_exact(&mut answer)?;
        let local = socket.local_addr()?.as_socket();
        let local = local.filter(|_| answer == hears.as_bytes());
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
