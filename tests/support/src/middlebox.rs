//! A client behind a router that strips the MPTCP option from its packets, as
//! some firewalls do.

use crate::namespace::{Peer, ip, join, nft, set_sysctl, set_up_end};

/// The addresses of nginx's host, as in a listen directive.
pub const SERVER: [&str; 2] = ["10.0.1.1", "[fd00:1::1]"];

/// The packets from which the router strips the MPTCP option.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Strips {
    /// No packets, so the connection is MPTCP.
    Nothing,
    /// The client's SYN, so nginx accepts a plain TCP connection.
    Syn,
    /// The client's packets after the handshake. The connection begins as MPTCP and
    /// falls back to TCP with the client's first data, but the accepted socket stays an
    /// MPTCP socket.
    ///
    /// Stripping the server's packets would not cause a fallback: on Linux 6.18 only one
    /// side then continues with MPTCP, and the connection is reset.
    AfterHandshake,
}

/// The router and the client's host. nginx's host is the calling thread's namespace.
pub struct Middlebox {
    /// The client's host.
    pub client: Peer,
    _router: Peer,
}

impl Middlebox {
    /// Connects nginx's host to the router, and the router to the client's host.
    pub fn new(strips: Strips) -> Self {
        Self::stripping(strips, "toclient")
    }

    /// The same network for an nginx that is the client: the router strips the packets of
    /// nginx's host.
    pub fn of_backend(strips: Strips) -> Self {
        Self::stripping(strips, "toserver")
    }

    fn stripping(strips: Strips, from: &'static str) -> Self {
        let (client, router) = (Peer::new(), Peer::new());
        join("server", "toserver", router.thread_id);
        set_up_end("server", &["10.0.1.1/24", "fd00:1::1/64"]);
        route_by("10.0.1.2", "fd00:1::2");

        let client_id = client.thread_id;
        router.run(move || {
            join("toclient", "client", client_id);
            set_up_end("toserver", &["10.0.1.2/24", "fd00:1::2/64"]);
            set_up_end("toclient", &["10.0.2.2/24", "fd00:2::2/64"]);
            set_sysctl("ipv4/ip_forward", "1");
            set_sysctl("ipv6/conf/all/forwarding", "1");
            strips.set(from);
        });
        client.run(|| {
            set_up_end("client", &["10.0.2.1/24", "fd00:2::1/64"]);
            route_by("10.0.2.2", "fd00:2::2");
        });
        Self {
            client,
            _router: router,
        }
    }
}

impl Strips {
    /// Makes the calling thread's namespace strip packets that arrive on a link.
    fn set(self, from: &str) {
        let packets = match self {
            Self::Nothing => return,
            Self::Syn => "tcp flags & syn != 0",
            // The option has 20 bytes only in the third packet of a handshake, where it
            // carries both keys and no data. Other packets lose it.
            Self::AfterHandshake => "tcp flags & syn == 0 tcp option mptcp length != 20",
        };
        nft("add table inet middlebox");
        nft("add chain inet middlebox forward { type filter hook forward priority 0 ; }");
        nft(&format!(
            "add rule inet middlebox forward iifname {from} \
             {packets} reset tcp option mptcp"
        ));
    }
}

/// Sets the default routes of the calling thread's host.
fn route_by(ipv4: &str, ipv6: &str) {
    ip(&format!("route add default via {ipv4}"));
    ip(&format!("-6 route add default via {ipv6}"));
}
