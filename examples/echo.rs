//! An echo server: see echo.c. Here the library is a crate.
//!
//! ```text
//! cargo run --example echo -- 127.0.0.1:7000-7003 mptcp=auto backlog=64
//! ```

use std::error::Error;
use std::io::{self, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::os::fd::AsFd;
use std::os::unix::ffi::OsStringExt;
use std::process::ExitCode;
use std::{env, thread};

use ngx_rs_listen::connection::{self, Kind, Subflow};
use ngx_rs_listen::parse::Rules;
use ngx_rs_listen::{Open, open, parse, resolve};

/// The sockets that the words of a listen directive ask for.
fn open_all(words: &[Vec<u8>]) -> Result<Vec<TcpListener>, Box<dyn Error>> {
    let words: Vec<&[u8]> = words.iter().map(Vec::as_slice).collect();
    let listen = parse::listen(&words, &Rules::default())?;
    let mut sockets = resolve::sockets(&listen)?;
    open::listening(&mut sockets, &mut [], &mut Open::default())?;
    let opened = sockets.into_iter().filter_map(|socket| socket.fd);
    let opened: Vec<TcpListener> = opened.map(TcpListener::from).collect();
    for listener in &opened {
        // One thread waits on each of them.
        listener.set_nonblocking(false)?;
    }
    Ok(opened)
}

/// Sends back what comes, and says at the end how it came: a connection that
/// was reset has no addresses any more.
fn echo(mut client: TcpStream) -> Result<(), Box<dyn Error>> {
    let mut data = [0; 4096];
    let (mut connection, mut subflows) = connection::subflows(client.as_fd())?;
    while let Ok(size @ 1..) = client.read(&mut data) {
        if client.write_all(&data[..size]).is_err() {
            break;
        }
    }
    let (now, last) = connection::subflows(client.as_fd())?;
    connection.update(now);
    if !last.is_empty() {
        subflows = last;
    }
    let kind = match connection.kind {
        Kind::Mptcp => "MPTCP",
        Kind::Fallback => "fallback",
        _ => "TCP",
    };
    let paths: String = subflows.iter().map(describe).collect();
    println!("{kind}{paths}");
    Ok(())
}

fn describe(path: &Subflow) -> String {
    let figure = |value: Option<u64>| value.map_or("-".into(), |value| value.to_string());
    let figures = &path.figures;
    let rtt = figures.rtt.map(|rtt| rtt.as_secs_f64() * 1000.0);
    format!(
        "\n  {} -> {} sent={} received={} retransmits={} rtt_ms={}",
        path.remote,
        path.local,
        figure(figures.bytes_sent),
        figure(figures.bytes_received),
        figure(figures.retransmits),
        rtt.map_or("-".into(), |rtt| format!("{rtt:.3}")),
    )
}

fn serve(listener: &TcpListener) -> io::Result<()> {
    loop {
        let (client, address) = listener.accept()?;
        thread::spawn(move || {
            if let Err(error) = echo(client) {
                eprintln!("{address}: {error}");
            }
        });
    }
}

fn serve_all() -> Result<(), Box<dyn Error>> {
    let words: Vec<_> = env::args_os().skip(1).map(OsStringExt::into_vec).collect();
    let listeners = open_all(&words)?;
    println!("listening on {} sockets", listeners.len());
    thread::scope(|scope| {
        let serve = |listener| scope.spawn(move || serve(listener));
        let threads: Vec<_> = listeners.iter().map(serve).collect();
        for thread in threads {
            thread.join().map_err(|_| "a thread has panicked")??;
        }
        Ok(())
    })
}

fn main() -> ExitCode {
    let Err(error) = serve_all() else {
        return ExitCode::SUCCESS;
    };
    match error.source() {
        Some(errno) => eprintln!("{error}: {errno}"),
        None => eprintln!("{error}"),
    }
    ExitCode::FAILURE
}
