//! `$upstream_mptcp`: one value for each server that nginx tried, and the system calls for it.

use std::collections::BTreeMap;

use crate::backend::Backend;
use crate::client::{Connection, Transport};
use crate::harness::{Host, Site};
use crate::strace::{Fault, Strace};
use crate::subsystem::{Subsystem, subsystem_tests};
use crate::upstream::{BACK, DEAD, FORMAT, FRONT, back, front, logged, reply, try_reply, upstream};

subsystem_tests! {
    (stream, http):
        without_the_directive_each_server_has_a_value,
        only_the_variable_queries_the_kernel,
        only_the_directive_changes_system_calls;
    (http):
        an_internal_redirect_keeps_the_values,
        a_request_to_two_upstreams_has_the_values_of_both,
        a_request_without_a_socket_for_its_first_upstream_logs_the_second,
        a_subrequest_has_values_of_its_own,
        a_response_header_can_contain_the_value;
}

/// A proxy server with these directives.
fn server(lines: &str) -> String {
    format!("server {{\n    listen {FRONT};\n    access_log up.log up;\n    {lines}\n}}\n")
}

/// The upstream `b` with `mptcp`, and the upstream `plain` without it.
fn two_upstreams() -> String {
    upstream(&format!("server {BACK};\n    mptcp;"))
        + "upstream plain {\n    server 127.0.0.1:8082;\n}\n"
}

fn without_the_directive_each_server_has_a_value(on: Subsystem) {
    let site = Site::new();
    let lines = format!("server {DEAD};\n    server {BACK} backup;");
    let servers = front(on, "http", "") + &back(on, BACK, "");
    let _nginx = site.start(&on.conf(&(FORMAT.to_owned() + &upstream(&lines) + &servers)));
    reply(on);
    assert_eq!(logged(&site, 1), format!("{DEAD}, {BACK}|-, -"));
}

/// The system calls of a worker while it serves one client, except calls that wait.
fn calls(site: &Site, on: Subsystem, lines: &str, format: &str, more: &str) -> Calls {
    let backend = match on {
        Subsystem::Http => Backend::uploads(),
        _ => Backend::noise(16),
    };
    let lines = format!("{lines}\n    server {};", backend.address);
    let format = format!("log_format up '{format}';\n");
    let text = format + &upstream(&lines) + &front(on, "http", more);
    let nginx = site.start(&on.conf(&text));
    let worker = nginx.workers()[0];
    let strace = Strace::record(site, worker, "trace=all");
    // In http this fails: the request has no Content-Length, so the backend closes the
    // connection.
    let _ = try_reply(on);
    logged(site, 1);
    let calls = strace.end_recording();
    nginx.quit();
    std::fs::remove_file(site.path("up.log")).expect("it is there");
    Calls(calls)
}

struct Calls(String);

impl Calls {
    /// How many lines contain one of the words.
    fn with(&self, words: &[&str]) -> usize {
        let has = |line: &&str| words.iter().any(|word| line.contains(word));
        self.0.lines().filter(has).count()
    }

    /// How often each call was made, except calls that wait and calls that read a clock. Reading
    /// a clock is a system call only on some machines.
    fn names(&self) -> BTreeMap<String, usize> {
        let mut names = BTreeMap::new();
        let ignored = [
            "epoll_wait",
            "restart_syscall",
            "strace",
            "gettime",
            "gettimeofday",
        ];
        for line in self.0.lines() {
            let name = line.split('(').next().unwrap_or_default();
            if !ignored.iter().any(|ignored| line.contains(ignored)) {
                *names.entry(name.to_owned()).or_default() += 1;
            }
        }
        names
    }
}

fn only_the_variable_queries_the_kernel(on: Subsystem) {
    let site = Site::new();
    const QUERIES: [&str; 3] = ["SO_PROTOCOL", "SOL_MPTCP", "0x11c"];
    for (lines, format, queried) in [
        ("", "$upstream_mptcp", false),
        ("mptcp;", "$upstream_addr", false),
        ("mptcp;", "$upstream_mptcp", true),
    ] {
        let calls = calls(&site, on, lines, format, "");
        let queries = calls.with(&QUERIES);
        assert_eq!(queries > 0, queried, "{lines} {format}: {}", calls.0);
    }
}

/// Without the directive nginx makes the same calls as without the module. With it, nginx makes
/// one call less, because the module opens a socket that is non-blocking already.
fn only_the_directive_changes_system_calls(on: Subsystem) {
    let site = Site::new();
    let names = |lines: &str| calls(&site, on, lines, "$upstream_addr", "").names();
    let own = names("");
    assert_eq!(names("mptcp off;"), own);
    let mut ours = names("mptcp;");
    assert_eq!(ours["connect"], own["connect"]);
    assert_eq!(ours["socket"], own["socket"]);
    let nonblocking = own["ioctl"] - ours.get("ioctl").copied().unwrap_or(0);
    assert_eq!(nonblocking, 1, "{own:?} {ours:?}");
    ours.insert("ioctl".into(), own["ioctl"]);
    assert_eq!(ours, own);
}

fn an_internal_redirect_keeps_the_values(on: Subsystem) {
    let site = Site::new();
    let answer = "server {\n    listen 127.0.0.1:8081 mptcp;\n    location / {\n        return 503;\n    }\n}\n";
    let proxy = server(
        "proxy_intercept_errors on;\n    error_page 503 /sorry;\n    \
         location / {\n        proxy_pass http://b;\n    }\n    \
         location = /sorry {\n        return 200 \"sorry\\n\";\n    }",
    );
    let upstream = upstream(&format!("server {BACK};\n    mptcp;"));
    let _nginx = site.start(&on.conf(&(FORMAT.to_owned() + &upstream + &proxy + answer)));
    assert_eq!(reply(on), "sorry");
    assert_eq!(logged(&site, 1), format!("{BACK}|on"));
}

fn a_request_to_two_upstreams_has_the_values_of_both(on: Subsystem) {
    let site = Site::new();
    for (first, second, expected) in [("b", "plain", "on : -"), ("plain", "b", "- : on")] {
        let redirect = |listen: &str| {
            format!(
                "server {{\n    listen {listen};\n    location = / {{\n        \
                 add_header X-Accel-Redirect /second;\n        return 200;\n    }}\n    \
                 location = /end {{\n        return 200 \"end\\n\";\n    }}\n}}\n"
            )
        };
        let proxy = server(&format!(
            "location / {{\n        proxy_pass http://{first};\n    }}\n    \
             location = /second {{\n        proxy_pass http://{second}/end;\n    }}"
        ));
        let backends = redirect(&format!("{BACK} mptcp")) + &redirect("127.0.0.1:8082");
        let text = FORMAT.to_owned() + &two_upstreams() + &proxy + &backends;
        let nginx = site.start(&on.conf(&text));
        assert_eq!(reply(on), "end");
        let line = logged(&site, 1);
        let (addresses, values) = line.split_once('|').expect("two fields");
        assert!(addresses.contains(" : "), "{line}");
        assert_eq!(values, expected);
        nginx.quit();
        std::fs::remove_file(site.path("up.log")).expect("it is there");
    }
}

/// nginx's state of the first upstream has no server name in this case.
fn a_request_without_a_socket_for_its_first_upstream_logs_the_second(on: Subsystem) {
    let site = Site::new();
    const FAULT: Fault = Fault {
        call: "socket",
        errno: libc::EMFILE,
    };
    site.provoke(FAULT.errno);
    let proxy = server(
        "error_page 500 = /again;\n    location / {\n        proxy_pass http://plain;\n    }\n    \
         location = /again {\n        proxy_pass http://b/;\n    }",
    );
    let back = back(on, &format!("{BACK} mptcp"), "");
    let nginx = site.start(&on.conf(&(FORMAT.to_owned() + &two_upstreams() + &proxy + &back)));
    let strace = Strace::attach(&site, nginx.workers()[0], FAULT, "1");
    assert_eq!(reply(on), "on");
    strace.end();
    assert_eq!(logged(&site, 1), format!(" : {BACK}| : on"));
}

fn a_subrequest_has_values_of_its_own(on: Subsystem) {
    let site = Site::new();
    if !Host::get().has("--with-http_auth_request_module") {
        return;
    }
    let proxy = server(
        "location / {\n        auth_request /check;\n        \
         auth_request_set $checked $upstream_mptcp;\n        \
         add_header Checked $checked;\n        proxy_pass http://b;\n    }\n    \
         location = /check {\n        proxy_pass http://plain/;\n        \
         add_header Unseen $upstream_mptcp;\n    }",
    );
    let backends = back(on, &format!("{BACK} mptcp"), "") + &back(on, "127.0.0.1:8082 mptcp", "");
    for (word, checked) in [("", "-"), ("mptcp;", "on")] {
        let upstreams = two_upstreams().replace("8082;", &format!("8082; {word}"));
        let text = FORMAT.to_owned() + &upstreams + &proxy + &backends;
        let nginx = site.start(&on.conf(&text));
        let answer = try_reply(on).expect("it answers");
        let header = format!("Checked: {checked}\r\n");
        assert!(answer.contains(&header), "{answer}");
        assert_eq!(logged(&site, 1), format!("{BACK}|on"));
        nginx.quit();
        std::fs::remove_file(site.path("up.log")).expect("it is there");
    }
}

/// nginx evaluates the variable while the connection to the backend is still in use.
fn a_response_header_can_contain_the_value(on: Subsystem) {
    let site = Site::new();
    let more = "add_header Over $upstream_mptcp always;";
    let servers = front(on, "http", more) + &back(on, &format!("{BACK} mptcp"), "");
    let text = "log_format up '$upstream_addr';\n".to_owned()
        + &upstream(&format!("server {BACK};\n    mptcp;"))
        + &servers;
    let _nginx = site.start(&on.conf(&text));
    let answer = try_reply(on).expect("it answers");
    assert!(answer.contains("Over: on\r\n"), "{answer}");
    Connection::open(Transport::Tcp, FRONT).expect("it goes on");
}
