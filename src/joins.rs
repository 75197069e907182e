//! A program for a SO_REUSEPORT group of old MPTCP and new TCP sockets: subflows
//! that join a connection go to an old one, everything else to a new one.
//!
//! An MPTCP listener finds the connection by the token in the first packet of the
//! handshake, whichever listener that connection came through.
//! Source: RFC 8684, section 3.2; kernel net/core/sock_reuseport.c,
//! Documentation/networking/filter.rst.

use libc::sock_filter;

/// A program may read the packet from its network header on; what it can read
/// without that is what the packet carries.
const NETWORK: u32 = libc::SKF_NET_OFF as u32;

/// With MP_JOIN, which has 12 of at most 40 bytes, there are a maximum segment
/// size, a window scale, timestamps, a permission of SACK, 19 bytes, and what is
/// left may be as many no-operations.
const OPTIONS: usize = 4 + 9 + 1;

/// The cell of the program's memory that has the offset of the last option's
/// last byte.
const LAST: u32 = 0;

#[derive(Clone, Copy, PartialEq, Eq)]
enum Label {
    Ipv4,
    Tcp,
    Add(usize),
    Mptcp,
    /// No subflow that joins.
    Other,
}

#[derive(Default)]
struct Assembler {
    code: Vec<(sock_filter, [Option<Label>; 2])>,
    labels: Vec<(Label, usize)>,
}

impl Assembler {
    fn put(&mut self, code: u32, k: u32) {
        let (code, jt, jf) = (code as u16, 0, 0);
        self.code.push((sock_filter { code, jt, jf, k }, [None; 2]));
    }

    /// Goes on at the next instruction where there is no label.
    fn jump(&mut self, condition: u32, k: u32, yes: Option<Label>, no: Option<Label>) {
        self.put(libc::BPF_JMP | condition, k);
        if let Some(last) = self.code.last_mut() {
            last.1 = [yes, no];
        }
    }

    fn label(&mut self, label: Label) {
        self.labels.push((label, self.code.len()));
    }

    fn finish(self) -> Vec<sock_filter> {
        let labels = self.labels;
        let far = |from: usize, to: Option<Label>| {
            let label = to.and_then(|to| labels.iter().find(|label| label.0 == to));
            // All are ahead, and not farther than a byte can say.
            label.map_or(0, |label| (label.1 - from - 1) as u8)
        };
        let code = self.code.into_iter().enumerate();
        code.map(|(place, (mut filter, [yes, no]))| {
            (filter.jt, filter.jf) = (far(place, yes), far(place, no));
            filter
        })
        .collect()
    }
}

/// For a group whose first `old` sockets are of MPTCP; the next is of TCP.
pub(crate) fn program(old: u32) -> Vec<sock_filter> {
    use libc::{
        BPF_ABS, BPF_ADD, BPF_ALU, BPF_AND, BPF_B, BPF_IMM, BPF_IND, BPF_JEQ, BPF_JGT, BPF_K,
        BPF_LD, BPF_LDX, BPF_MEM, BPF_MISC, BPF_MSH, BPF_RET, BPF_RSH, BPF_ST, BPF_SUB, BPF_TAX,
        BPF_TXA, BPF_X,
    };
    const BYTE_AT: u32 = BPF_LD | BPF_B | BPF_ABS;
    const BYTE_FROM: u32 = BPF_LD | BPF_B | BPF_IND;
    let mut to = Assembler::default();

    to.put(BYTE_AT, NETWORK);
    to.put(BPF_ALU | BPF_RSH, 4);
    to.jump(BPF_JEQ, 4, Some(Label::Ipv4), None);
    to.jump(BPF_JEQ, 6, None, Some(Label::Other));
    to.put(BYTE_AT, NETWORK + 6);
    to.jump(BPF_JEQ, libc::IPPROTO_TCP as u32, None, Some(Label::Other));
    to.put(BPF_LDX | BPF_IMM, 40);
    to.jump(BPF_JEQ, libc::IPPROTO_TCP as u32, Some(Label::Tcp), None);
    to.label(Label::Ipv4);
    to.put(BPF_LDX | BPF_B | BPF_MSH, NETWORK);

    to.label(Label::Tcp);
    to.put(BYTE_FROM, NETWORK + 12);
    to.put(BPF_ALU | BPF_RSH, 2);
    to.put(BPF_ALU | BPF_AND, 0x3c);
    to.put(BPF_ALU | BPF_ADD | BPF_X, 0);
    to.put(BPF_ALU | BPF_SUB, 1);
    to.put(BPF_ST, LAST);
    to.put(BPF_MISC | BPF_TXA, 0);
    to.put(BPF_ALU | BPF_ADD, 20);
    to.put(BPF_MISC | BPF_TAX, 0);
    for option in 0..OPTIONS {
        to.put(BPF_LD | BPF_MEM, LAST);
        to.put(BPF_ALU | BPF_SUB | BPF_X, 0);
        to.jump(BPF_JGT, 39, Some(Label::Other), None);
        to.put(BYTE_FROM, NETWORK);
        to.jump(BPF_JEQ, 30, Some(Label::Mptcp), None);
        to.jump(BPF_JEQ, 0, Some(Label::Other), None);
        to.jump(BPF_JEQ, 1, Some(Label::Add(option)), None);
        to.put(BYTE_FROM, NETWORK + 1);
        to.label(Label::Add(option));
        to.put(BPF_ALU | BPF_ADD | BPF_X, 0);
        to.put(BPF_MISC | BPF_TAX, 0);
    }
    to.jump(BPF_JEQ, 0, Some(Label::Other), Some(Label::Other));

    to.label(Label::Mptcp);
    to.put(BYTE_FROM, NETWORK + 2);
    to.put(BPF_ALU | BPF_RSH, 4);
    to.jump(BPF_JEQ, 1, None, Some(Label::Other));
    to.put(BPF_RET | BPF_K, 0);

    to.label(Label::Other);
    to.put(BPF_RET | BPF_K, old);
    to.finish()
}
