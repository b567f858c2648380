//! Parsers without a state: options of TCP, and what people write.

use std::str::FromStr;

use crate::Cidr;
use crate::wire::{Mac, SACK_BLOCKS_MAX, TCP_OPTIONS_MAX, TcpOptions};

/// What is read from options can be written, and is read the same again.
pub(super) fn run(bytes: &[u8]) {
    let bytes = &bytes[..bytes.len().min(TCP_OPTIONS_MAX)];
    let Some(options) = TcpOptions::parse(bytes) else { return };
    assert!(options.sack.len() <= SACK_BLOCKS_MAX, "more blocks than fit");
    assert!(options.window_scale.is_none_or(|shift| shift <= 14), "RFC 7323 §2.3");
    // Together they may be more than a header holds: padding takes room.
    let mut written = [0xaa; 2 * TCP_OPTIONS_MAX];
    let len = options.write(&mut written);
    assert_eq!((len, len % 4), (options.len(), 0), "the length is known before");
    assert_eq!(TcpOptions::parse(&written[..len]), Some(options), "what is written is read");
}

/// Networks and addresses of interfaces.
pub(super) fn run_text(bytes: &[u8]) {
    let Ok(text) = std::str::from_utf8(bytes) else { return };
    if let Ok(cidr) = Cidr::from_str(text) {
        assert_eq!(Cidr::from_str(&cidr.to_string()), Ok(cidr), "what is written is read");
        assert!(cidr.contains(cidr.address()), "an address is of its own network");
        assert!(cidr.broadcast().is_none_or(|all| cidr.contains(all.into())), "so is everybody on it");
    }
    if let Ok(mac) = Mac::from_str(text) {
        assert_eq!(Mac::from_str(&mac.to_string()), Ok(mac), "what is written is read");
    }
}
