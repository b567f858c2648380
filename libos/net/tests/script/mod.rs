//! Packet scripts: what a peer sends, what our stack is to answer, and when.
//!
//! The form is packetdrill's (Cardwell et al., USENIX ATC'13), with the calls of PDPIX in place of those of POSIX. A line is
//!
//! ```text
//! // a comment
//! set NAME VALUE                            how the stack is set up; before everything else
//! +0.1 < S 0:0(0) win 32792 <mss 1460>      0.1 s after the line before, the peer sends this
//! +0   > S. 0:0(0) ack 1 <mss 1460,...>     and we are to send that
//! +0.2~0.3 > ...                            between 0.2 and 0.3 s after the line before
//! +0   pop 2000 -> 1000                     a call, and how it ends
//! ```
//!
//! - Sequence numbers are relative to the sender's SYN; timestamps of ours, and the peer's echoes of them, are relative to
//!   the first one that we sent. `win`, `[ce]` and options are compared where they are written; `<>` says that there are
//!   none, and `...` among them stands for any others. `@40001` before the flags names another port of the peer.
//! - What we send has to be sent at that time, to a millisecond, and what no line expects is an error when the next line
//!   is due. Texts are those of a fixed stream, on both sides: what is sent again has to be the same.
//! - Between the calls `hold` and `release` the stack does not run: what comes, and what is called, comes in one burst.
//! - Time is virtual. ARP is answered behind the scenes. Checksums are checked.
//!
//! `parse.rs` reads scripts, `packet.rs` has packets and their bytes, `ipv6.rs` what differs
//! over IPv6, `port.rs` the device, `stage.rs` plays.

#![allow(dead_code, reason = "each test file uses a part of it")]

mod ipv6;
pub mod packet;
mod parse;
pub mod port;
mod stage;

pub use stage::Stage;

/// Plays the script of that name: over a device that carries segments, and over one that cuts long segments up. The peer is
/// to see the same.
///
/// # Panics
/// If anything is not as it says.
pub fn play(folder: &str, name: &str) {
    let text = std::fs::read_to_string(format!("{folder}/{name}.pkt")).unwrap();
    let script = parse::parse(&text).unwrap_or_else(|complaint| panic!("{name}.pkt: {complaint}"));
    for cuts_up in [false, true] {
        let over = if cuts_up { ", over a device that cuts segments up" } else { "" };
        perform(&script, &format!("{name}.pkt{over}"), Stage::new(&script.settings, cuts_up));
    }
}

fn perform(script: &parse::Script, name: &str, mut stage: Stage) {
    for line in &script.lines {
        if let Err(complaint) = stage.perform(line) {
            panic!("{name}:{}: {}\n  {complaint}\nframes so far:\n{}", line.number, line.text, stage.frames_so_far());
        }
    }
    if let Err(complaint) = stage.finish() {
        panic!("{name}, at the end: {complaint}\nframes so far:\n{}", stage.frames_so_far());
    }
}
