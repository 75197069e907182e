//! Writes a parsed directive as words.

use std::net::IpAddr;

use ngx_rs_listen::{Address, Host, Listen, Options, flag};

/// The words of a directive with the same meaning.
pub fn of(listen: &Listen) -> Vec<Vec<u8>> {
    let mut words = vec![address(&listen.address)];
    let options = options(&listen.options);
    words.extend(options.into_iter().map(String::into_bytes));
    words.extend(
        listen
            .request
            .map(|request| request.to_string().into_bytes()),
    );
    words
}

fn address(address: &Address) -> Vec<u8> {
    let (host, ports) = match address {
        Address::Unix(path) => return [b"unix:", path.as_slice()].concat(),
        Address::Inet { host, ports, .. } => (host, ports),
    };
    let host = match host {
        Host::Ip(IpAddr::V4(ip)) => ip.to_string().into_bytes(),
        Host::Ip(IpAddr::V6(ip)) => format!("[{ip}]").into_bytes(),
        Host::Name(name) => name.clone(),
    };
    let ports = match (*ports.start(), *ports.end()) {
        // In stream and mail an address without a port has port 0.
        (0, _) => String::new(),
        // "unix:80" would be the path of a Unix domain socket.
        _ if host.eq_ignore_ascii_case(b"unix") => String::new(),
        (port, last) if port == last => format!(":{port}"),
        (first, last) => format!(":{first}-{last}"),
    };
    [host.as_slice(), ports.as_bytes()].concat()
}

/// The words of nginx's own parameters.
pub fn options(options: &Options) -> Vec<String> {
    const FLAGS: [(u32, &str); 10] = [
        (flag::SSL, "ssl"),
        (flag::HTTP2, "http2"),
        (flag::QUIC, "quic"),
        (flag::UDP, "udp"),
        (flag::DEFAULT_SERVER, "default_server"),
        (flag::PROXY_PROTOCOL, "proxy_protocol"),
        (flag::BIND, "bind"),
        (flag::REUSEPORT, "reuseport"),
        (flag::DEFERRED, "deferred"),
        (flag::IPV6ONLY_OFF, "ipv6only=off"),
    ];
    let set = FLAGS.iter().filter(|(flag, _)| options.has(*flag));
    let mut words: Vec<_> = set.map(|(_, name)| name.to_string()).collect();
    let backlog = Some(options.backlog).filter(|&backlog| backlog != ngx_rs_listen::BACKLOG);
    for (name, value) in [
        ("backlog", backlog),
        ("rcvbuf", options.rcvbuf_bytes),
        ("sndbuf", options.sndbuf_bytes),
        ("fastopen", options.fastopen),
    ] {
        words.extend(value.map(|value| format!("{name}={value}")));
    }
    let times = [options.keepidle_sec, options.keepintvl_sec, options.keepcnt];
    if times != [None; 3] {
        let times = times.map(|time| time.map_or(String::new(), |time| time.to_string()));
        words.push(format!("so_keepalive={}", times.join(":")));
    } else if options.has(flag::KEEPALIVE_ON) {
        words.push("so_keepalive=on".into());
    }
    if options.has(flag::KEEPALIVE_OFF) {
        words.push("so_keepalive=off".into());
    }
    words
}
