//! Starts the installed nginx with a stream and an http listener over Multipath
//! TCP, connects a TCP and an MPTCP client to each, and shows what the kernel
//! says of the listeners and of the connections, and what http logs.
//!
//! `make demo` builds the modules and runs it. Nothing outside a temporary
//! folder is touched, and the ports are free ones. If the user may create a
//! network namespace, the demo runs in one, where MPTCP clients open a second
//! path.

use std::fs;
use std::io::{self, BufRead, BufReader, Read, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpListener};
use std::os::fd::AsFd;
use std::path::Path;
use std::process::{Command, Output};
use std::thread;
use std::time::{Duration, Instant};

use ngx_rs_listen::connection;
use socket2::{Domain, Socket, Type};
use test_support::folder::Folder;
use test_support::namespace;
use test_support::program::{self, Modules, Program, Running};
use test_support::subsystem::Subsystem;

type Result<T> = std::result::Result<T, Box<dyn std::error::Error>>;

const MPTCP: socket2::Protocol = socket2::Protocol::MPTCP;

fn main() {
    if let Err(error) = demo() {
        eprintln!("demo: {error}");
        std::process::exit(1);
    }
}

/// A file that is large enough for both paths to be used, and its size.
const FILE: (&str, usize) = ("file", 4 << 20);

fn demo() -> Result<()> {
    let paths = if second_path()? { 2 } else { 1 };
    let folder = Folder::new("demo")?;
    let program = Program::find()?;
    let [stream, http] = [Subsystem::Stream, Subsystem::Http].map(|on| program.find_modules(on));
    let modules = [stream?, http?];
    println!("using     {}, and", program.name());
    for module in modules.iter().filter_map(|modules| modules.ours.as_ref()) {
        println!("          {}", module.display());
    }

    let (stream, http) = (free_address()?, free_address()?);
    let path = folder.join("nginx.conf");
    fs::write(
        &path,
        configuration(&modules, &folder, stream, http, backend()?),
    )?;
    fs::write(folder.join(FILE.0), vec![b'x'; FILE.1])?;
    println!("starting  it with \"listen {stream} mptcp;\" in stream");
    println!("          and     \"listen {http} mptcp;\" in http");
    let mut command = program.command(&folder, &path);
    let mut nginx = Running::start(&mut command, &folder.join("errors"))?;
    let serves = || Client::connect(None, stream)?.echo("hello");
    nginx
        .wait_until(|| serves().is_ok())
        .map_err(|said| format!("nginx does not serve:\n{said}"))?;

    println!("connecting a TCP and an MPTCP client to each\n");
    println!("{:<14} {:<22} the kernel says", "socket", "address");
    show_connections("stream", stream, |client| client.echo("hello"))?;
    show_connections("http", http, |client| {
        client.get(FILE.0)?;
        if client.is_mptcp {
            client.wait_for_paths(paths)?;
            client.get(FILE.0)?;
        }
        client.get("")
    })?;

    println!("\nthe log of http, with $mptcp $mptcp_subflow_addrs $mptcp_subflow_bytes_sent");
    println!("$mptcp_subflow_rtt $mptcp_token");
    nginx.end(libc::SIGQUIT)?;
    print!("{}", fs::read_to_string(folder.join("access.log"))?);
    println!("\nThe same at any time: ss -lnM for listeners, ss -nMi for connections.");
    Ok(())
}

/// Moves into a new network namespace, where MPTCP clients open a second path;
/// false if the user may not.
fn second_path() -> Result<bool> {
    if namespace::try_enter_new().is_err() {
        return Ok(false);
    }
    for words in [
        "mptcp limits set subflow 2 add_addr_accepted 2",
        "mptcp endpoint add 127.0.0.2 dev lo subflow",
    ] {
        let output = Command::new("ip").args(words.split(' ')).output();
        let output = output.map_err(|_| "ip is missing: install iproute2")?;
        checked(&output, "ip")?;
    }
    Ok(true)
}

/// Connects a client of each kind, and shows what the kernel says.
fn show_connections(
    name: &str,
    address: SocketAddr,
    talk: impl Fn(&mut Client) -> Result<()>,
) -> Result<()> {
    let mut tcp = Client::connect(None, address)?;
    let mut mptcp = Client::connect(Some(MPTCP), address)?;
    talk(&mut tcp)?;
    talk(&mut mptcp)?;
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

fn configuration(
    modules: &[Modules],
    folder: &Path,
    stream: SocketAddr,
    http: SocketAddr,
    backend: SocketAddr,
) -> String {
    let own = modules.iter().filter_map(|modules| modules.own.as_deref());
    let ours = modules.iter().filter_map(|modules| modules.ours.as_deref());
    let load: String = own.chain(ours).map(program::load).collect();
    let folder = folder.display();
    let temporary: String = ["client_body", "proxy", "fastcgi", "uwsgi", "scgi"]
        .map(|name| format!("    {name}_temp_path {folder}/temporary;\n"))
        .concat();
    format!(
        "{load}\
             daemon off;\n\
             pid {folder}/nginx.pid;\n\
             error_log stderr notice;\n\
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
             \x20                    '$mptcp_subflow_addrs $mptcp_subflow_bytes_sent '\n\
             \x20                    '$mptcp_subflow_rtt $mptcp_token';\n\
             \x20   access_log {folder}/access.log mptcp;\n\
             \x20   server {{\n\
             \x20       listen {http} mptcp;\n\
             \x20       location = / {{\n\
             \x20           return 200 hello;\n\
             \x20       }}\n\
             \x20       location / {{\n\
             \x20           root {folder};\n\
             \x20           access_log off;\n\
             \x20       }}\n\
             \x20   }}\n\
             }}\n"
    )
}

/// A connection to nginx.
struct Client {
    socket: Socket,
    local: SocketAddr,
    is_mptcp: bool,
}

impl Client {
    fn connect(protocol: Option<socket2::Protocol>, address: SocketAddr) -> Result<Self> {
        let socket = Socket::new(Domain::IPV4, Type::STREAM, protocol)?;
        socket.set_read_timeout(Some(Duration::from_secs(5)))?;
        socket.connect(&address.into())?;
        let local = socket.local_addr()?.as_socket();
        Ok(Self {
            local: local.ok_or("a client has no IP address")?,
            is_mptcp: protocol == Some(MPTCP),
            socket,
        })
    }

    fn echo(&mut self, text: &str) -> Result<()> {
        self.socket.write_all(text.as_bytes())?;
        let mut echo = vec![0; text.len()];
        self.socket.read_exact(&mut echo)?;
        match echo == text.as_bytes() {
            true => Ok(()),
            false => Err("nginx has sent something else".into()),
        }
    }

    /// Requests a file, and reads all of the response.
    fn get(&mut self, name: &str) -> Result<()> {
        write!(self.socket, "GET /{name} HTTP/1.1\r\nHost: demo\r\n\r\n")?;
        let mut response = BufReader::new(&mut self.socket);
        let (mut line, mut length) = (String::new(), None);
        while line != "\r\n" {
            line.clear();
            if response.read_line(&mut line)? == 0 {
                return Err("http has closed the connection".into());
            }
            if let Some(value) = line.strip_prefix("Content-Length: ") {
                length = Some(value.trim_end().parse()?);
            }
        }
        let mut body = vec![0; length.ok_or("http does not say how long a response is")?];
        Ok(response.read_exact(&mut body)?)
    }

    /// The kernel opens the second path after the first response. Before Linux
    /// 5.16 it does not report paths.
    fn wait_for_paths(&self, count: usize) -> Result<()> {
        let deadline = Instant::now() + Duration::from_secs(2);
        while connection::subflows(self.socket.as_fd())?.1.len() < count
            && Instant::now() < deadline
        {
            thread::sleep(Duration::from_millis(1));
        }
        Ok(())
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
