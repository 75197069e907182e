//! Measures what `mptcp` on an http listener costs plain TCP clients: connections per second and
//! throughput, compared with the same nginx without the module.
//!
//! Both nginx share one processor. The two wrk, one for each nginx, share the other processor.
//! In each round both run at the same time for a second, and the kernel gives both equal shares
//! of the processor. So the nginx that needs more time for a connection serves fewer, and other
//! work of the machine slows both down equally. The result is the median of the ratios of all
//! rounds. Rounds are added until the error of the median is small.
//!
//! MPTCP clients with a connection for each request are compared with `tcp_nopush off`, where
//! nginx corks no connection. The rest of the configuration is Debian's default, in which a
//! cork that nginx does not remove would delay the end of the response until a timer expires.
//!
//! `mptcp_status` is measured against the same nginx without it, with clients of
//! both kinds.
//!
//! `mptcp` in `upstream` is measured with requests that nginx proxies to an MPTCP backend over
//! keep-alive connections. For comparison the benchmark also measures a new connection for each
//! request, and an nginx for which a preloaded library makes all sockets MPTCP.
//!
//! With `--native`, on nginx 1.29.7 or later, the module is compared with nginx's own
//! `multipath`, for clients of both kinds.
//!
//! `make bench` and `make native` run this as root, because it creates a network namespace.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use test_support::folder::Folder;
use test_support::harness::Host;
use test_support::namespace;
use test_support::program::{self, Running};
use test_support::subsystem::Subsystem;

use machine::{Result, against_native, children, is_bench, middle, processor_ms, wait_until};

mod machine;

/// The standard error at which the rounds end, and the limits of their number.
const ERROR: f64 = 0.005;
const LEAST_ROUNDS: usize = 20;
const MOST_ROUNDS: usize = 90;

/// A directive for a server with which nginx corks no connection.
const NOPUSH_OFF: &str = "tcp_nopush off;";

const METRICS: [Metric; 2] = [
    Metric {
        name: "connections per second",
        wrk: &["-c64", "-HConnection: close"],
        file: "small",
        amount: |requests, _| requests,
        // Removing the cork costs a system call, and over TCP one more packet.
        bound: 0.92,
    },
    Metric {
        name: "MB per second",
        wrk: &["-c8"],
        file: "large",
        amount: |_, bytes| bytes / 1e6,
        bound: 0.97,
    },
];

/// A script for wrk that prints exact numbers, because wrk itself rounds them.
const REPORT: &str = r#"
done = function(all)
    local e = all.errors
    io.write(string.format("report %d %d %d %d\n", all.duration, all.requests,
        all.bytes, e.connect + e.read + e.write + e.status + e.timeout))
end
"#;

fn main() -> Result<()> {
    if !is_bench() {
        return Ok(());
    }
    namespace::enter_new();
    bench(&Folder::new("bench")?)
}

fn bench(folder: &Path) -> Result<()> {
    fs::write(folder.join("small"), vec![b's'; 1024])?;
    fs::write(folder.join("large"), vec![b'l'; 8 * 1024 * 1024])?;
    fs::write(folder.join("report.lua"), REPORT)?;
    let ours = Host::get().modules(Subsystem::Http).ours;
    let load = ours.as_deref().map(program::load).unwrap_or_default();
    let (name, parameter, clients) = match against_native() {
        true => ("native", "multipath", &CLIENTS[..]),
        false => ("without", "", &CLIENTS[..1]),
    };
    let own = |name, port, more| Server::start(folder, name, &load, port, "mptcp", more);
    let nopush_off = match against_native() {
        true => Server::start(folder, "native-nopush-off", "", 8083, parameter, NOPUSH_OFF)?,
        false => own("nopush-off", 8083, NOPUSH_OFF)?,
    };
    let plain = Server::start(folder, name, "", 8081, parameter, "")?;
    let mptcp = own("mptcp", 8082, "")?;

    let [small, _] = &METRICS;
    let mut failed = small.compare(&CLIENTS[1], &nopush_off, &mptcp, small.bound)?;
    for client in clients {
        for metric in &METRICS {
            failed |= metric.compare(client, &plain, &mptcp, metric.bound)?;
        }
    }
    if !against_native() {
        let counted = own("mptcp_status", 8084, "location = /status { mptcp_status; }")?;
        for client in &CLIENTS {
            failed |= small.compare(client, &mptcp, &counted, 0.97)?;
        }
    }
    if !against_native() {
        failed |= upstreams(folder, &load)?;
    }
    if failed {
        Err("a ratio is below its bound".into())
    } else {
        Ok(())
    }
}

/// Measures requests that nginx proxies to the server `mptcp`.
fn upstreams(folder: &Path, load: &str) -> Result<bool> {
    let start = |name: &str, port, lines: &str, runner: &[&str]| {
        let upstream = format!("upstream back {{ server 127.0.0.1:8082; {lines} }}");
        let more = "location / { proxy_pass http://back; proxy_http_version 1.1; \
                    proxy_set_header Connection $keep; }";
        let keep = if lines.contains("keepalive") {
            "\"\""
        } else {
            "close"
        };
        let more = more.replace("$keep", keep);
        Server::start_with(folder, name, load, port, "", &more, &upstream, runner)
    };
    let requests = Metric {
        name: "requests per second by way of a proxy",
        wrk: &["-c8"],
        ..METRICS[0]
    };
    let tcp = start("tcp-backend", 8085, "keepalive 16;", &[])?;
    let mptcp = start("mptcp-backend", 8086, "keepalive 16; mptcp;", &[])?;
    let failed = requests.compare(&CLIENTS[0], &tcp, &mptcp, 0.97)?;
    let connections = Metric {
        name: "connections per second to a backend",
        ..requests
    };
    // Without this limit, connections in TIME_WAIT would occupy nearly all ports, and most of the
    // measured time would be the kernel's search for a free port.
    fs::write("/proc/sys/net/ipv4/tcp_max_tw_buckets", "1000")?;
    fs::write("/proc/sys/net/ipv4/ip_local_port_range", "10000 65000")?;
    let tcp = start("tcp-each", 8087, "", &[])?;
    let mptcp = start("mptcp-each", 8088, "mptcp;", &[])?;
    let preloaded = start("mptcpize-each", 8089, "", &["mptcpize", "run"])?;
    connections.compare(&CLIENTS[0], &tcp, &mptcp, 0.0)?;
    connections.compare(&CLIENTS[0], &preloaded, &mptcp, 0.0)?;
    Ok(failed)
}

/// A kind of client.
struct Client {
    name: &'static str,
    /// The arguments of taskset that run wrk.
    runner: &'static [&'static str],
}

const CLIENTS: [Client; 2] = [
    Client {
        name: "TCP",
        runner: &["-c", "1"],
    },
    Client {
        name: "MPTCP",
        runner: &["-c", "1", "mptcpize", "run"],
    },
];

/// A value that wrk measures.
struct Metric {
    name: &'static str,
    /// The options of wrk.
    wrk: &'static [&'static str],
    file: &'static str,
    /// Computes the measured amount from the numbers of requests and bytes.
    amount: fn(f64, f64) -> f64,
    /// The least acceptable ratio of the module to the other nginx.
    bound: f64,
}

impl Metric {
    /// Measures both servers, prints the ratio of the second to the first, and returns whether
    /// the ratio is below `bound`.
    fn compare(
        &self,
        client: &Client,
        first: &Server,
        second: &Server,
        bound: f64,
    ) -> Result<bool> {
        let (mut rates, mut costs) = (Sides::default(), Sides::default());
        // The first round only warms up.
        self.round(client, first, second)?;
        while rates.count() < LEAST_ROUNDS || (rates.error() > ERROR && rates.count() < MOST_ROUNDS)
        {
            let [one, two] = if rates.count() % 2 == 0 {
                self.round(client, first, second)?
            } else {
                let [two, one] = self.round(client, second, first)?;
                [one, two]
            };
            rates.add(one.rate, two.rate);
            costs.add(one.cost_us, two.cost_us);
        }
        let (first, second, who) = (&first.name, &second.name, client.name);
        let (one, two, ratio) = rates.middle();
        println!(
            "{who} clients, {}: {first} {one:.0}, {second} {two:.0}, ratio {ratio:.3} ± {:.3} in {} rounds (at least {bound})",
            self.name,
            rates.error(),
            rates.count(),
        );
        let (one, two, cost_ratio) = costs.middle();
        println!(
            "  processor time of nginx for each: {first} {one:.1} µs, {second} {two:.1} µs, ratio {cost_ratio:.3} ± {:.3}",
            costs.error()
        );
        Ok(ratio < bound)
    }

    /// Measures both servers at the same time.
    fn round(&self, client: &Client, first: &Server, second: &Server) -> Result<[Report; 2]> {
        let runs = [first.run_wrk(client, self)?, second.run_wrk(client, self)?];
        let [first, second] = runs.map(|run| run.report(self));
        Ok([first?, second?])
    }
}

/// The values of both servers in each round.
#[derive(Default)]
struct Sides {
    first: Vec<f64>,
    second: Vec<f64>,
    ratios: Vec<f64>,
}

impl Sides {
    fn add(&mut self, first: f64, second: f64) {
        self.first.push(first);
        self.second.push(second);
        self.ratios.push(second / first);
    }

    fn count(&self) -> usize {
        self.ratios.len()
    }

    /// The medians of both servers and of their ratios.
    fn middle(&mut self) -> (f64, f64, f64) {
        let [first, second, ratio] =
            [&mut self.first, &mut self.second, &mut self.ratios].map(|values| middle(values));
        (first, second, ratio)
    }

    /// The standard error of the median ratio, as for a normal distribution with the same
    /// quartiles.
    fn error(&self) -> f64 {
        let mut ratios = self.ratios.clone();
        ratios.sort_by(f64::total_cmp);
        let quarter = ratios.len() / 4;
        let width = ratios[ratios.len() - 1 - quarter] - ratios[quarter];
        0.93 * width / (ratios.len() as f64).sqrt()
    }
}

/// A running nginx with one worker.
struct Server {
    name: String,
    _master: Running,
    worker: u32,
    folder: PathBuf,
    port: u16,
}

impl Server {
    fn start(
        folder: &Path,
        name: &str,
        load: &str,
        port: u16,
        parameter: &str,
        more: &str,
    ) -> Result<Self> {
        Self::start_with(folder, name, load, port, parameter, more, "", &[])
    }

    /// Starts nginx under another program, with more directives in the server and in http.
    #[allow(clippy::too_many_arguments)]
    fn start_with(
        folder: &Path,
        name: &str,
        load: &str,
        port: u16,
        parameter: &str,
        more: &str,
        http: &str,
        runner: &[&str],
    ) -> Result<Self> {
        let place = folder.display();
        let configuration = folder.join(format!("{name}.conf"));
        let text = format!(
            "{load}user root;\ndaemon off;\nworker_processes 1;\nworker_cpu_affinity 01;\n\
             pid {place}/{name}.pid;\nerror_log {place}/{name}.log;\n\
             events {{ worker_connections 1024; }}\n\
             http {{\naccess_log off;\nsendfile on;\ntcp_nopush on;\n\
             keepalive_requests 1000000;\n{http}\n\
             server {{ listen 127.0.0.1:{port} {parameter}; root {place}; {more} }}\n}}\n"
        );
        fs::write(&configuration, text)?;
        let mut command = Host::get().command_under(runner, folder, &configuration);
        let master = Running::start(&mut command, &folder.join(format!("{name}.errors")))?;
        let pid = master.pid().unsigned_abs();
        let mut worker = 0;
        wait_until(|| {
            worker = children(pid)?.first().copied().unwrap_or(0);
            Ok(worker != 0)
        })?;
        Ok(Self {
            name: name.into(),
            _master: master,
            worker,
            folder: folder.into(),
            port,
        })
    }

    /// Starts a wrk that sends requests for a second.
    fn run_wrk(&self, client: &Client, metric: &Metric) -> Result<Run<'_>> {
        let before_ms = processor_ms(self.worker)?;
        // On a busy machine the run can last several seconds, so the timeout is long.
        let wrk = Command::new("taskset")
            .args(client.runner)
            .args(["wrk", "-t1", "-d1s", "--timeout=60s"])
            .args(metric.wrk)
            .arg("-s")
            .arg(self.folder.join("report.lua"))
            .arg(format!("http://127.0.0.1:{}/{}", self.port, metric.file))
            .stdout(Stdio::piped())
            .spawn()?;
        Ok(Run {
            server: self,
            wrk,
            before_ms,
        })
    }
}

/// A running wrk.
struct Run<'server> {
    server: &'server Server,
    wrk: Child,
    before_ms: f64,
}

/// The result of one run.
struct Report {
    /// The measured amount in one second.
    rate: f64,
    /// The processor time of the worker for each unit of the amount, in microseconds.
    cost_us: f64,
}

impl Run<'_> {
    /// Waits until wrk has ended.
    fn report(self, metric: &Metric) -> Result<Report> {
        let output = self.wrk.wait_with_output()?;
        let cost_ms = processor_ms(self.server.worker)? - self.before_ms;
        let text = String::from_utf8_lossy(&output.stdout);
        let numbers = text.lines().find_map(|line| line.strip_prefix("report "));
        let numbers = numbers.ok_or("wrk says nothing: install it, and give it 2 processors")?;
        let numbers = numbers.split(' ').map(str::parse);
        let numbers: Vec<f64> = numbers.collect::<std::result::Result<_, _>>()?;
        let [microseconds, requests, bytes, 0.0] = numbers[..] else {
            return Err(format!("requests failed: {text}").into());
        };
        let amount = (metric.amount)(requests, bytes);
        Ok(Report {
            rate: amount * 1e6 / microseconds,
            cost_us: cost_ms * 1e3 / amount,
        })
    }
}
