//! What is remembered of a connection.

use super::*;
use crate::connection::history::{History, Value, Values};

const ALL: u32 = (1 << 12) - 1;

/// Asks as History does, of a kernel that is known already.
fn queries(history: &mut History, kernel: &Fake, has: u8, values: u32) -> Vec<&'static str> {
    let has = AtomicU8::new(has);
    kernel.queried.borrow_mut().clear();
    let values = Values::from_bits(values).expect("known values");
    let asked = history.query_kernel(kernel, &has, values);
    asked.expect("the kernel answers");
    kernel.queried.borrow().clone()
}

fn says(history: &History, value: Value) -> String {
    history.text(value).unwrap_or("-".into())
}

fn accepted() -> History {
    History::new(Some(at("10.0.0.2:5000")))
}

#[test]
fn every_value_has_its_number() {
    for number in 0..12 {
        let value = Value::from_number(number).expect("a value");
        assert_eq!(value as u32, number);
    }
    assert_eq!(Value::from_number(12), None);
    assert!(Values::from_bits(ALL).is_some());
    assert_eq!(Values::from_bits(1 << 12), None);
}

#[test]
fn values_are_written_as_in_a_log() {
    let mut history = accepted();
    queries(&mut history, &full(96), FULL_INFO, ALL);
    for (value, text) in [
        (Value::Kind, "on"),
        (Value::Subflows, "2"),
        (Value::SubflowsTotal, "2"),
        (Value::SubflowAddrs, "10.0.0.2:5000,[fd00::2]:5001"),
        (Value::Token, "abcdef01"),
        (Value::BytesSent, "1000"),
        (Value::BytesReceived, "1099511627776"),
        (Value::Retransmits, "10"),
        (Value::SubflowBytesSent, "800,800"),
        (Value::SubflowBytesReceived, "700,700"),
        (Value::SubflowRtt, "20.345,20.345"),
        (Value::SubflowRetransmits, "5,5"),
    ] {
        assert_eq!(says(&history, value), text, "{value:?}");
    }
}

#[test]
fn as_few_system_calls_as_each_kernel_allows() {
    let addresses = 1 << Value::SubflowAddrs as u32 | 1 << Value::Subflows as u32 | 1;
    let fallback = fallback(libc::EOPNOTSUPP, ESTABLISHED);
    let first = ["SO_PROTOCOL", "MPTCP_FULL_INFO", "TCP_INFO"];
    for (kernel, has, values, begin, later) in [
        (full(96), FULL_INFO, ALL, &first[..2], &first[1..2]),
        (
            v5_16(),
            INFO,
            ALL,
            &["SO_PROTOCOL", "MPTCP_INFO"],
            &["MPTCP_SUBFLOW_ADDRS", "MPTCP_TCPINFO"],
        ),
        (
            v5_16(),
            INFO,
            addresses,
            &["SO_PROTOCOL", "MPTCP_INFO"],
            &["MPTCP_SUBFLOW_ADDRS"],
        ),
        (
            v5_16(),
            INFO,
            1,
            &["SO_PROTOCOL", "MPTCP_INFO"],
            &["MPTCP_INFO"],
        ),
        (fallback, FULL_INFO, ALL, &first, &["TCP_INFO"]),
        (plain_tcp(ESTABLISHED), FULL_INFO, ALL, &first[..1], &[]),
    ] {
        let mut history = accepted();
        assert_eq!(queries(&mut history, &kernel, has, values), begin);
        assert_eq!(queries(&mut history, &kernel, has, values), later);
    }
}

/// From Linux 5.16 to 6.4, which neither count the subflows nor number them.
#[test]
fn older_kernels_have_their_subflows_counted() {
    let mut kernel = v5_16();
    let mut history = accepted();
    let info = kernel.mptcp_info.as_mut().expect("set above");
    put(info, linux::mptcp_info::SUBFLOWS, &[0]);
    queries(&mut history, &kernel, INFO, ALL);
    assert_eq!(says(&history, Value::SubflowsTotal), "1");
    assert_eq!(says(&history, Value::SubflowAddrs), "10.0.0.2:5000");
    assert_eq!(says(&history, Value::SubflowRtt), "-");

    queries(&mut history, &kernel, INFO, ALL);
    assert_eq!(says(&history, Value::Subflows), "2");
    assert_eq!(says(&history, Value::SubflowsTotal), "2");
    assert_eq!(says(&history, Value::SubflowRtt), "20.345,20.345");

    // Another one in the place of the second.
    kernel.paths[1] = path(0, "10.0.0.3:5002", ESTABLISHED);
    queries(&mut history, &kernel, INFO, ALL);
    assert_eq!(says(&history, Value::Subflows), "2");
    assert_eq!(says(&history, Value::SubflowsTotal), "3");
    let all = "10.0.0.2:5000,[fd00::2]:5001,10.0.0.3:5002";
    assert_eq!(says(&history, Value::SubflowAddrs), all);

    // Before 5.16 they are not listed.
    let mut history = accepted();
    for _ in 0..2 {
        queries(&mut history, &v5_6(), NEITHER, ALL);
        assert_eq!(says(&history, Value::Kind), "on");
        assert_eq!(says(&history, Value::SubflowsTotal), "-");
    }
}

/// With nginx's realip module a connection has another address than its first
/// path.
#[test]
fn the_kernel_corrects_the_address_of_the_first_path() {
    for (kernel, has) in [(full(96), FULL_INFO), (v5_16(), INFO)] {
        let mut history = History::new(Some(at("192.0.2.7:0")));
        // From 5.16 to 6.4 the second query is the first with addresses.
        queries(&mut history, &kernel, has, ALL);
        queries(&mut history, &kernel, has, ALL);
        let all = "10.0.0.2:5000,[fd00::2]:5001";
        assert_eq!(says(&history, Value::SubflowAddrs), all);
        assert_eq!(says(&history, Value::SubflowBytesSent), "800,800");
        assert_eq!(says(&history, Value::SubflowsTotal), "2");
    }

    // The first path may have ended before the first query.
    let mut kernel = full(96);
    kernel.paths.remove(0);
    let mut history = accepted();
    queries(&mut history, &kernel, FULL_INFO, ALL);
    let all = "10.0.0.2:5000,[fd00::2]:5001";
    assert_eq!(says(&history, Value::SubflowAddrs), all);
    assert_eq!(says(&history, Value::SubflowBytesSent), "-,800");
}

#[test]
fn a_path_that_has_ended_keeps_its_last_figures() {
    let mut kernel = full(96);
    let mut history = accepted();
    queries(&mut history, &kernel, FULL_INFO, ALL);
    kernel.paths.remove(0);
    let second = &mut kernel.paths[0].tcp_info;
    put(second, linux::tcp_info::BYTES_SENT, &5000_u64.to_ne_bytes());
    put(second, linux::tcp_info::RTT, &1_u32.to_ne_bytes());
    // The same address and port again.
    kernel.paths.push(path(3, "10.0.0.2:5000", ESTABLISHED));
    queries(&mut history, &kernel, FULL_INFO, ALL);
    let all = "10.0.0.2:5000,[fd00::2]:5001,10.0.0.2:5000";
    assert_eq!(says(&history, Value::SubflowAddrs), all);
    assert_eq!(says(&history, Value::SubflowBytesSent), "800,4900,800");
    assert_eq!(says(&history, Value::SubflowRtt), "20.345,0.001,20.345");

    // A reset takes everything away.
    kernel.paths.clear();
    queries(&mut history, &kernel, FULL_INFO, ALL);
    assert_eq!(says(&history, Value::SubflowAddrs), all);
    assert_eq!(says(&history, Value::Subflows), "2");
}

#[test]
fn a_fallback_has_one_path_with_the_figures_of_tcp() {
    let mut history = accepted();
    let kernel = fallback(libc::EOPNOTSUPP, ESTABLISHED);
    queries(&mut history, &kernel, FULL_INFO, ALL);
    assert_eq!(says(&history, Value::Kind), "fallback");
    assert_eq!(says(&history, Value::SubflowsTotal), "1");
    assert_eq!(says(&history, Value::SubflowAddrs), "10.0.0.2:5000");
    assert_eq!(says(&history, Value::SubflowBytesSent), "800");
    assert_eq!(says(&history, Value::SubflowBytesReceived), "700");
    assert_eq!(says(&history, Value::SubflowRtt), "20.345");
}

#[test]
fn of_plain_tcp_no_value_is_known() {
    let mut history = accepted();
    queries(&mut history, &plain_tcp(ESTABLISHED), FULL_INFO, ALL);
    for number in 0..12 {
        let value = Value::from_number(number).expect("a value");
        assert_eq!(history.text(value), None, "{value:?}");
    }
}

/// A client that roams for days does not fill the memory.
#[test]
fn the_oldest_paths_that_have_ended_are_forgotten() {
    let mut kernel = full(96);
    let mut history = accepted();
    for count in 2..40 {
        kernel.paths[1] = path(count, &format!("10.0.0.3:{count}"), ESTABLISHED);
        queries(&mut history, &kernel, FULL_INFO, ALL);
    }
    let addresses = says(&history, Value::SubflowAddrs);
    let addresses: Vec<_> = addresses.split(',').collect();
    assert_eq!(addresses.len(), 16);
    assert_eq!(addresses[0], "10.0.0.2:5000");
    assert_eq!(addresses[1], "10.0.0.3:25");
    assert_eq!(addresses[15], "10.0.0.3:39");
    assert_eq!(says(&history, Value::SubflowsTotal), "39");
}

/// Linux opens no more than 9 by itself, but a path manager in user space may.
#[test]
fn of_more_open_paths_than_are_remembered_the_first_are() {
    let mut kernel = full(96);
    let longest = |id: u32| format!("[fd00:1111:2222:3333:4444:5555:6666:{id:x}]:54321");
    kernel.paths = (0x1001..0x1020)
        .map(|id| path(id, &longest(id), ESTABLISHED))
        .collect();
    let mut history = History::new(None);
    for _ in 0..2 {
        queries(&mut history, &kernel, FULL_INFO, ALL);
        let addresses: Vec<_> = (0x1001..0x1011).map(longest).collect();
        assert_eq!(says(&history, Value::SubflowAddrs), addresses.join(","));
        assert_eq!(says(&history, Value::Subflows), "31");
    }
    for number in 0..12 {
        let value = Value::from_number(number).expect("a value");
        assert!(says(&history, value).len() < 1024);
    }
}
