//! `make soak`: changes the protocol for minutes while clients connect without pause. `NGX_RS_SOAK`
//! sets the number of changes in each direction for each row of the table. The default is 50.

use std::time::{Duration, Instant};

use crate::changes::{Change, ROWS};
use crate::harness::Site;
use crate::namespace::set_sysctl;
use crate::steady::{Lost, Steady};
use crate::subsystem::Subsystem;

/// The least number of clients for each row.
const CLIENTS: usize = 8;

/// Prints the result of a row, and returns how many clients were served and lost.
fn run(row: &Change, changes: usize) -> (u64, usize) {
    let site = Site::alone();
    set_sysctl("ipv4/ip_local_port_range", "10000 65000");
    let begin = Instant::now();
    let tally = row.run(&site, changes, CLIENTS, Duration::ZERO);
    println!(
        "{:<34}{:>8}{:>13}{:>6}{:>9}{:>9}{:>6.0} s",
        row.name,
        2 * changes,
        tally.served + tally.stalled + tally.lost.len() as u64,
        tally.lost.len(),
        tally.stalled,
        tally.longest.as_millis(),
        begin.elapsed().as_secs_f64()
    );
    let show = |lost: &Lost| println!("  {lost:?}");
    tally.lost.iter().take(3).for_each(show);
    // A client sends an unanswered SYN again after one second, and then after two more. On
    // IPv6 the first SYN may arrive at the moment of the change and get no answer.
    let longest = tally.longest;
    assert!(longest < Duration::from_secs(2), "one took {longest:?}");
    (tally.served, tally.lost.len())
}

/// nginx quits and starts again, as when an administrator restarts the service. Clients may be
/// refused in between, or reset if nginx has not accepted them yet, but no client may hang.
#[test]
#[ignore = "takes minutes: make soak"]
fn quit_and_start_within_a_drain_lets_no_client_hang() {
    for (address, word) in [
        ("127.0.0.1:8080", "mptcp"),
        ("[::1]:8080", "mptcp"),
        ("127.0.0.1:8080", ""),
    ] {
        let site = Site::alone();
        set_sysctl("ipv4/ip_local_port_range", "10000 65000");
        let on = Subsystem::Stream;
        let conf = |word: &str| on.listen(&format!("{address} {word}")).workers(2);
        let before = if word.is_empty() { "mptcp" } else { "" };
        let mut nginx = site.start(&conf(before));
        let clients = Steady::many(on, &[address], CLIENTS, Duration::from_millis(20));
        for _ in 0..changes() {
            nginx.begin_reload(&conf(word));
            clients.wait_for_more(50);
            nginx.quit();
            nginx = site.start(&conf(before));
            clients.wait_for_more(50);
        }
        let tally = clients.stop();
        let hangs = |lost: &&Lost| {
            let how = format!("{lost:?}");
            !how.contains("Connection refused") && !how.contains("Connection reset")
        };
        let hanging: Vec<_> = tally.lost.iter().filter(hangs).collect();
        println!(
            "{address} {word:?}: {} served, {} refused or reset",
            tally.served,
            tally.lost.len()
        );
        assert!(hanging.is_empty(), "{hanging:?}");
        nginx.quit();
    }
}

/// The number of changes in each direction for each row of the table.
fn changes() -> usize {
    let changes = std::env::var("NGX_RS_SOAK").map_or(Ok(50), |text| text.parse());
    changes.expect("NGX_RS_SOAK is a number")
}

#[test]
#[ignore = "takes minutes: make soak"]
fn no_change_of_protocol_loses_a_client() {
    let changes = changes();
    println!(
        "\n{:<33}{:>9}{:>13}{:>6}{:>9}{:>9}",
        "TCP to MPTCP and back", "changes", "connections", "lost", "stalled", "most ms"
    );
    let (mut served, mut lost) = (0, 0);
    for row in ROWS {
        let (more, fewer) = run(&row, changes);
        served += more;
        lost += fewer;
    }
    println!("{served} connections were served, {lost} lost");
    assert_eq!(lost, 0, "connections were lost");
}
