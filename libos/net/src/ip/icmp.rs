//! ICMP.

use super::{Notice, NoticeKind};

pub(super) fn notice_about(_packet: &[u8], _kind: NoticeKind) -> Option<Notice> {
    None
}
