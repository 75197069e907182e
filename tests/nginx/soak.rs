//! Changes of protocol under clients that connect without pause, for minutes:
//! `make soak`. `NGX_RS_SOAK` is the number of changes each way for each row of
//! the table, 50 by default.

use std::time::{Duration, Instant};

use crate::changes::{Change, ROWS};
use crate::harness::Site;
use crate::namespace::set_sysctl;
use crate::steady::Lost;

/// Clients of each row, at least.
const CLIENTS: usize = 8;

/// Prints the row, and returns how many clients were served, and lost.
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
    // A SYN that gets no answer is sent again after one second, and then after
    // two more. On IPv6 the first may come in the moment of the change.
    let longest = tally.longest;
    assert!(longest < Duration::from_secs(2), "one took {longest:?}");
    (tally.served, tally.lost.len())
}

#[test]
#[ignore = "takes minutes: make soak"]
fn no_change_of_protocol_loses_a_client() {
    let changes = std::env::var("NGX_RS_SOAK").map_or(Ok(50), |text| text.parse());
    let changes = changes.expect("NGX_RS_SOAK is a number");
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
