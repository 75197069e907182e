//! Parses arbitrary words. The parser must not panic, and its errors must be printable.

use ngx_rs_listen::parse::{self, Owner, Rules, Subsystem};
use ngx_rs_listen::{Error, Listen, resolve};

/// The rules and the words of an input. The first byte selects the rules, and the words after
/// it are separated by newlines.
pub fn read(data: &[u8]) -> Option<(Rules, Vec<&[u8]>)> {
    const SUBSYSTEMS: [Subsystem; 3] = [Subsystem::Stream, Subsystem::Http, Subsystem::Mail];
    let (&first, text) = data.split_first()?;
    let rules = Rules {
        subsystem: SUBSYSTEMS[usize::from(first) % 3],
        ours_only: first / 3 % 2 == 1,
    };
    Some((rules, text.split(|&byte| byte == b'\n').collect()))
}

pub fn run(data: &[u8]) {
    let Some((rules, words)) = read(data) else {
        return;
    };
    let owners: Vec<_> = words[1..]
        .iter()
        .map(|word| parse::owner(word, rules.subsystem))
        .collect();
    match parse::listen(&words, &rules) {
        Ok(listen) => accepted(&listen, &owners, rules.ours_only),
        Err(Error::Syntax { word, message }) => {
            assert!(word < words.len(), "{word}: {message}");
            assert!(!message.is_empty() && !message.contains('\n'), "{message}");
        }
        Err(error) => panic!("{error:?}"),
    }
}

fn accepted(listen: &Listen, owners: &[Owner], ours_only: bool) {
    let count = |owner| owners.iter().filter(|&&other| other == owner).count();
    assert!(ours_only || count(Owner::Unknown) == 0, "{owners:?}");
    assert_eq!(count(Owner::Ours), usize::from(listen.request.is_some()));
    if let ngx_rs_listen::Address::Inet { host, ports, .. } = &listen.address {
        assert!(!ports.is_empty(), "{listen:?}");
        let few = ports.len() <= 100 && matches!(host, ngx_rs_listen::Host::Ip(_));
        if few {
            let sockets = resolve::sockets(listen).expect("an address needs no name server");
            assert_eq!(sockets.len(), ports.len());
        }
    }
}
