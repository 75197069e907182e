//! Measures what thousands of `mptcp` listeners cost nginx: its start, `nginx -t` and a reload,
//! compared with the same configuration without `mptcp` in the same run.
//!
//! The kernel needs more time for an MPTCP socket than for a TCP socket. A bare loop of system
//! calls measures this difference, which is subtracted. A reload that changes the protocol of
//! all listeners is compared with the sum of a reload without changes and a bare loop. The
//! times of nginx are processor times of its master, as the scheduler reports them.
//!
//! With `--native`, on nginx 1.29.7 or later, the start, `nginx -t` and the reload are compared
//! with nginx's own `multipath`.
//!
//! `make bench` and `make native` run this as root, because it creates a network namespace.

use std::fs;
use std::io;
use std::net::{Ipv4Addr, SocketAddrV4};
use std::path::{Path, PathBuf};
use std::process::Stdio;

use machine::{Result, against_native, children, is_bench, middle, processor_ms, wait_until};
use socket2::{Domain, Protocol, Socket, Type};
use test_support::folder::Folder;
use test_support::harness::Host;
use test_support::subsystem::Subsystem;
use test_support::{namespace, program};

mod machine;

const ROUNDS: usize = 11;
const PORT: u16 = 8080;
/// The port of the bare loop, because nginx uses [`PORT`].
const BARE_PORT: u16 = 8081;

fn main() -> Result<()> {
    if !is_bench() {
        return Ok(());
    }
    namespace::enter_new();
    let room = descriptors()?;
    let folder = Folder::new("bench")?;
    let few = 10_000.min((room - 200) / 2);
    match against_native() {
        true => beside_native(&folder, few),
        false => bench(&folder, few).and(switches(&folder, few)),
    }
}

fn bench(folder: &Path, few: u32) -> Result<()> {
    let mut totals = Vec::new();
    let mut failed = false;
    for count in [few, 2 * few] {
        let bare_tcp = median(ROUNDS, || bare_loop(count, None))?;
        let bare_mptcp = median(ROUNDS, || bare_loop(count, Some(Protocol::MPTCP)))?;
        let extra = bare_mptcp - bare_tcp;
        let plain = Files::write(folder, count, "plain", "")?;
        let ours = Files::write(folder, count, "mptcp", " mptcp")?;
        println!("{count} listeners; bare loop: tcp {bare_tcp:.1} ms, mptcp {bare_mptcp:.1} ms");

        let (mut with, mut without) = (Times::default(), Times::default());
        in_turns((&mut without, &plain), (&mut with, &ours))?;
        // The library reads each directive in addition to nginx: about a microsecond.
        for (name, with, without, extra, bound) in [
            ("start", &mut with.start, &mut without.start, extra, 1.05),
            ("nginx -t", &mut with.test, &mut without.test, 0.0, 1.1),
            ("reload", &mut with.reload, &mut without.reload, 0.0, 1.1),
        ] {
            // The ratio of runs that follow each other, so that other work of the machine slows
            // both down.
            let pairs = with.iter().zip(without.iter());
            let mut ratios: Vec<_> = pairs
                .map(|(with, without)| with / (without + extra))
                .collect();
            let ratio = middle(&mut ratios);
            let (with, without) = (middle(with), middle(without));
            println!(
                "  {name:<9} mptcp {with:7.1} ms, without {without:7.1} ms, ratio {ratio:.3} (at most {bound})"
            );
            failed |= ratio > bound;
            totals.push((name, with, with - without));
        }
    }
    for at in 0..3 {
        let (name, small, small_ours) = totals[at];
        let (_, large, large_ours) = totals[at + 3];
        println!(
            "twice as many, {name}: {:.2} times the time; ours {small_ours:.1} ms and {large_ours:.1} ms",
            large / small
        );
    }
    if failed {
        Err("a ratio is above its bound".into())
    } else {
        Ok(())
    }
}

/// Compares `mptcp` of the module with `multipath` of nginx.
fn beside_native(folder: &Path, count: u32) -> Result<()> {
    let native = Files::without_module(folder, count, "native", " multipath")?;
    let ours = Files::write(folder, count, "mptcp", " mptcp")?;
    let (mut with, mut without) = (Times::default(), Times::default());
    in_turns((&mut without, &native), (&mut with, &ours))?;
    let mut failed = false;
    // `nginx -t` does the least work, so reading the parameters is a larger part of its time.
    for (name, with, without, bound) in [
        ("start", &mut with.start, &mut without.start, 1.05),
        ("nginx -t", &mut with.test, &mut without.test, 1.1),
        ("reload", &mut with.reload, &mut without.reload, 1.05),
    ] {
        let pairs = with.iter().zip(without.iter());
        let mut ratios: Vec<_> = pairs.map(|(with, without)| with / without).collect();
        let ratio = middle(&mut ratios);
        println!(
            "{count} listeners, {name:<9} ours {:7.1} ms, native {:7.1} ms, ratio {ratio:.3} (at most {bound})",
            middle(with),
            middle(without)
        );
        failed |= ratio > bound;
    }
    if failed {
        return Err("a ratio is above its bound".into());
    }
    Ok(())
}

type Side<'a> = (&'a mut Times, &'a Files);

/// Runs both sides in each round. Each of them is as often the first as the second.
fn in_turns(one: Side<'_>, two: Side<'_>) -> Result<()> {
    let mut sides = [one, two];
    for _ in 0..2 * ROUNDS {
        for (times, files) in &mut sides {
            times.add(files)?;
        }
        sides.reverse();
    }
    Ok(())
}

/// Measures changes of protocol with `count` listeners, and with half as many. A listener that
/// changes needs five system calls that neither the reload nor the bare loop makes: SO_REUSEPORT
/// is set on the old and on the new socket and later cleared on the new one, and the old socket is
/// identified and gets FD_CLOEXEC.
fn switches(folder: &Path, count: u32) -> Result<()> {
    let half = Switch::measure(folder, count / 2)?;
    let whole = Switch::measure(folder, count)?;
    println!(
        "twice as many, change of protocol: {:.2} times the time of the master, {:.2} of a worker",
        whole.reload_ms / half.reload_ms,
        whole.worker_ms / half.worker_ms
    );
    if whole.ratio > 1.2 {
        return Err("a change of protocol takes too long".into());
    }
    Ok(())
}

/// The times of a change of protocol.
struct Switch {
    ratio: f64,
    reload_ms: f64,
    worker_ms: f64,
}

impl Switch {
    /// Measures changes in both directions, and returns the medians.
    fn measure(folder: &Path, count: u32) -> Result<Self> {
        let files = Files::write(folder, count, "switch", "")?;
        let master = files.start()?;
        let (mut ratios, mut switched, mut plain) = (Vec::new(), Vec::new(), Vec::new());
        let mut workers = Vec::new();
        for _ in 0..ROUNDS {
            let (mut switch, mut same, mut bare) = (0.0, 0.0, 0.0);
            for (word, protocol) in [(" mptcp", Some(Protocol::MPTCP)), ("", None)] {
                Files::write(folder, count, "switch", word)?;
                switch += files.reload(master)?;
                workers.push(drained(master, count)?);
                // The first reload makes the master close the superseded sockets.
                files.reload(master)?;
                same += files.reload(master)?;
                bare += bare_loop(count, protocol)?;
            }
            ratios.push(switch / (same + bare));
            switched.push(switch / 2.0);
            plain.push((same + bare) / 2.0);
        }
        files.stop(master)?;
        let ratio = middle(&mut ratios);
        let (reload_ms, worker_ms) = (middle(&mut switched), middle(&mut workers));
        println!(
            "{count} listeners change their protocol: {reload_ms:.1} ms, without and a bare loop {:.1} ms, ratio {ratio:.3} (at most 1.2); a worker {worker_ms:.1} ms",
            middle(&mut plain)
        );
        Ok(Self {
            ratio,
            reload_ms,
            worker_ms,
        })
    }
}

/// Waits until the only worker has closed the superseded sockets. Returns the processor time of
/// the worker in milliseconds.
fn drained(master: u32, count: u32) -> Result<f64> {
    let workers = children(master)?;
    let [worker] = workers[..] else {
        return Err("one worker expected".into());
    };
    let folder = format!("/proc/{worker}/fd");
    wait_until(|| Ok(fs::read_dir(&folder)?.count() < count as usize + 100))?;
    processor_ms(worker)
}

/// The processor time in milliseconds of socket(), setsockopt(), bind() and listen() for each
/// address.
fn bare_loop(count: u32, protocol: Option<Protocol>) -> Result<f64> {
    let before = processor_ms(std::process::id())?;
    let mut sockets = Vec::with_capacity(count as usize);
    for address in addresses(count) {
        let socket = Socket::new_raw(Domain::IPV4, Type::STREAM.nonblocking(), protocol)?;
        socket.set_reuse_address(true)?;
        socket.bind(&SocketAddrV4::new(address, BARE_PORT).into())?;
        socket.listen(511)?;
        sockets.push(socket);
    }
    Ok(processor_ms(std::process::id())? - before)
}

/// Distinct addresses for one port. Distinct ports would make nginx slow, because it compares
/// every pair of ports.
fn addresses(count: u32) -> impl Iterator<Item = Ipv4Addr> {
    (0..count).map(|index| Ipv4Addr::from(u32::from(Ipv4Addr::new(127, 1, 0, 1)) + index))
}

#[derive(Default)]
struct Times {
    start: Vec<f64>,
    test: Vec<f64>,
    reload: Vec<f64>,
}

impl Times {
    fn add(&mut self, files: &Files) -> Result<()> {
        self.test.push(files.run(&["-t", "-q"])?);
        self.start.push(files.run(&[])?);
        let master = files.master()?;
        self.reload.push(files.reload(master)?);
        files.stop(master)
    }
}

/// One configuration, with its own pid file and log.
struct Files {
    folder: PathBuf,
    configuration: PathBuf,
    pid: PathBuf,
}

impl Files {
    fn write(folder: &Path, count: u32, name: &str, parameter: &str) -> Result<Self> {
        let ours = Host::get().modules(Subsystem::Stream).ours;
        let load = ours.as_deref().map(program::load).unwrap_or_default();
        Self::write_with(folder, count, name, parameter, &load)
    }

    fn without_module(folder: &Path, count: u32, name: &str, parameter: &str) -> Result<Self> {
        Self::write_with(folder, count, name, parameter, "")
    }

    fn write_with(
        folder: &Path,
        count: u32,
        name: &str,
        parameter: &str,
        load: &str,
    ) -> Result<Self> {
        let pid = folder.join(format!("{name}.pid"));
        let listen: String = addresses(count)
            .map(|address| format!("listen {address}:{PORT}{parameter};\n"))
            .collect();
        let configuration = folder.join(format!("{name}.conf"));
        let own = Host::get().own_module(Subsystem::Stream)?;
        let own = own.as_deref().map(program::load).unwrap_or_default();
        let text = format!(
            "{own}{load}\
             pid {};\nerror_log {}/error.log;\nworker_processes 1;\n\
             events {{ worker_connections 65536; }}\n\
             stream {{ server {{\n{listen}return \"\";\n}} }}\n",
            pid.display(),
            folder.display(),
        );
        fs::write(&configuration, text)?;
        Ok(Self {
            folder: folder.into(),
            configuration,
            pid,
        })
    }

    /// Starts nginx, and returns its master.
    fn start(&self) -> Result<u32> {
        self.run(&[])?;
        self.master()
    }

    fn master(&self) -> Result<u32> {
        Ok(fs::read_to_string(&self.pid)?.trim().parse()?)
    }

    /// Reloads, and returns the processor time of the master for this in milliseconds.
    fn reload(&self, master: u32) -> Result<f64> {
        let before = processor_ms(master)?;
        let old = children(master)?;
        self.run(&["-s", "reload"])?;
        wait_until(|| Ok(children(master)?.iter().any(|child| !old.contains(child))))?;
        wait_until(|| Ok(!children(master)?.iter().any(|child| old.contains(child))))?;
        Ok(processor_ms(master)? - before)
    }

    fn stop(&self, master: u32) -> Result<()> {
        self.run(&["-s", "stop"])?;
        wait_until(|| Ok(!Path::new(&format!("/proc/{master}")).exists()))
    }

    /// Runs nginx, and returns the processor time of the started process in milliseconds. The
    /// daemon that it starts is not included.
    fn run(&self, arguments: &[&str]) -> Result<f64> {
        let before = waited_for_ms()?;
        let status = Host::get()
            .command(&self.folder, &self.configuration)
            .args(arguments)
            .stderr(Stdio::null())
            .status()?;
        if !status.success() {
            return Err(format!("nginx {arguments:?} failed").into());
        }
        Ok(waited_for_ms()? - before)
    }
}

/// The processor time in milliseconds of all children that have been reaped.
fn waited_for_ms() -> Result<f64> {
    // SAFETY: all fields of `rusage` may be zero.
    let mut usage: libc::rusage = unsafe { std::mem::zeroed() };
    // SAFETY: `usage` lives through the call.
    if unsafe { libc::getrusage(libc::RUSAGE_CHILDREN, &mut usage) } != 0 {
        return Err(io::Error::last_os_error().into());
    }
    let ms = |time: libc::timeval| time.tv_sec as f64 * 1e3 + time.tv_usec as f64 / 1e3;
    Ok(ms(usage.ru_utime) + ms(usage.ru_stime))
}

fn median(rounds: usize, mut measure: impl FnMut() -> Result<f64>) -> Result<f64> {
    let mut times = (0..rounds).map(|_| measure()).collect::<Result<Vec<_>>>()?;
    Ok(middle(&mut times))
}

/// Raises the limit of descriptors to its maximum, and returns it.
fn descriptors() -> Result<u32> {
    let mut limit = libc::rlimit {
        rlim_cur: 0,
        rlim_max: 0,
    };
    // SAFETY: `limit` lives through the call.
    if unsafe { libc::getrlimit(libc::RLIMIT_NOFILE, &mut limit) } != 0 {
        return Err(io::Error::last_os_error().into());
    }
    limit.rlim_cur = limit.rlim_max;
    // SAFETY: as above.
    if unsafe { libc::setrlimit(libc::RLIMIT_NOFILE, &limit) } != 0 {
        return Err(io::Error::last_os_error().into());
    }
    Ok(u32::try_from(limit.rlim_max)?.min(1 << 20))
}
