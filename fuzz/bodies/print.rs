//! Parses a directive, prints it and parses the result. Both must have the same meaning.

use ngx_rs_listen::parse::{self, Rules};
use ngx_rs_listen::{Address, Listen};
use test_support::words;

pub fn run(data: &[u8]) {
    let Some((rules, given)) = super::parse::read(data) else {
        return;
    };
    let rules = Rules {
        ours_only: false,
        ..rules
    };
    let Ok(listen) = parse::listen(&given, &rules) else {
        return;
    };
    let printed = words::of(&listen);
    let again: Vec<&[u8]> = printed.iter().map(Vec::as_slice).collect();
    let again = parse::listen(&again, &rules)
        .unwrap_or_else(|error| panic!("{error}: {listen:?} as {printed:?}"));
    assert_eq!(meaning(&again), meaning(&listen), "{printed:?}");
    assert_eq!(words::of(&again), printed);
}

/// The directive without the details of its notation.
fn meaning(listen: &Listen) -> Listen {
    let mut listen = listen.clone();
    if let Address::Inet { text, .. } = &mut listen.address {
        text.clear();
    }
    listen
}
