//! Everything that is dropped, refused or odd has a counter with a name.

/// Makes the struct and the list of names out of one list.
macro_rules! counters {
    ($($(#[$doc:meta])* $name:ident,)*) => {
        /// What was counted, by name. Nothing is dropped without one of these going up.
        #[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
        pub struct Counters {
            $($(#[$doc])* pub $name: u64,)*
        }

        impl Counters {
            /// Every counter with its name.
            pub fn iter(&self) -> impl Iterator<Item = (&'static str, u64)> + use<> {
                [$((stringify!($name), self.$name),)*].into_iter()
            }
        }
    };
}

counters! {
    // Ethernet.
    /// Frames shorter than their header.
    ethernet_short,
    /// Frames to somebody else.
    ethernet_not_ours,
    /// Frames of a protocol that we do not speak.
    ethernet_protocol,
    // IPv4.
    /// Headers cut short, of another version, or with lengths that do not fit.
    ipv4_malformed,
    /// Header checksums that are wrong.
    ipv4_checksum,
    /// From an address that no sender can have (RFC 1122 §3.2.1.3).
    ipv4_source,
    /// To an address that is not ours.
    ipv4_not_ours,
    // IPv6.
    /// Headers cut short, of another version, or with lengths that do not fit.
    ipv6_malformed,
    /// From an address that no sender can have.
    ipv6_source,
    /// To an address that is not ours.
    ipv6_not_ours,
    /// Extension headers or options that are refused: unknown, too many, cut short, routing of type 0.
    ipv6_extension,
    /// Packets in a broadcast frame to one address only (RFC 1122 §3.3.6).
    ip_group_frame,
    /// Packets of a protocol that nobody here speaks.
    ip_protocol,
    // Fragments.
    /// Fragments that cannot belong to a packet: lengths, offsets beyond 64 KiB, too short to begin one.
    fragment_malformed,
    /// Packets dropped because fragments overlapped.
    fragment_overlap,
    /// Exact duplicates of a fragment.
    fragment_duplicate,
    /// Packets given up, because a fragment did not come in time.
    fragment_timeout,
    /// Packets given up, because there were too many in parts, or they pinned too much.
    fragment_evicted,
    /// Packets put together.
    fragment_reassembled,
    // Neighbours.
    /// ARP packets that make no sense.
    arp_malformed,
    /// Somebody else claims an IPv4 address of ours (RFC 5227 §2.4).
    arp_conflict,
    /// Neighbour discovery messages that RFC 4861 §6.1 and §7.1 tell us to drop.
    ndp_malformed,
    /// Somebody else claims an IPv6 address of ours (RFC 4862 §5.4).
    ndp_conflict,
    /// Neighbours that did not answer.
    neighbour_failed,
    /// Neighbours forgotten to make room.
    neighbour_evicted,
    /// Packets that nobody could be asked for: every entry of the table is in use.
    neighbour_table_full,
    /// Packets dropped from the front of what waited for a neighbour.
    parked_overflow,
    /// Packets dropped with a neighbour that did not answer.
    parked_dropped,
    // ICMP.
    /// Messages cut short.
    icmp_malformed,
    /// Checksums that are wrong.
    icmp_checksum,
    /// Errors about something that we did not send.
    icmp_not_ours,
    /// Messages of a type that we do not answer.
    icmp_ignored,
    /// Echo requests and errors that were not answered because there were too many.
    icmp_limited,
    /// Errors about what we sent, given to transports.
    icmp_errors_in,
    /// Errors that we sent.
    icmp_errors_out,
    /// Echo requests answered.
    icmp_echoes,
    // Sending.
    /// Answers of our own not sent for want of memory or room.
    answers_dropped,
    /// Packets to ourselves dropped: too many at once.
    looped_overflow,
    /// Frames put together by copy, because the device does not gather.
    tx_linearised,
    /// Packets whose route went away before they were sent.
    tx_no_route,
    /// Frames dropped, because there was no memory to put them together.
    tx_no_memory,
    // TCP.
    /// Segments cut short.
    tcp_malformed,
    /// Checksums that are wrong.
    tcp_checksum,
    /// Options with lengths that do not fit.
    tcp_options,
    /// Segments to a group or to everybody.
    tcp_to_group,
    /// Segments, and no connection or listener for them.
    tcp_no_connection,
    /// Segments taken apart.
    tcp_segments_received,
    /// Segments sent, those that were sent again included.
    tcp_segments_sent,
    /// Long segments left to the device to cut up: each of its parts counts as a segment sent.
    tcp_long_segments,
    /// Segments sent again.
    tcp_segments_resent,
    /// Acknowledgements without text.
    tcp_acks_sent,
    /// Resets believed.
    tcp_resets_received,
    /// Resets sent.
    tcp_resets_sent,
    /// Segments from outside of the window.
    tcp_outside_window,
    /// Bytes that had come before.
    tcp_duplicate_bytes,
    /// Segments beyond a hole.
    tcp_out_of_order,
    /// Segments dropped for want of memory.
    tcp_no_memory,
    /// Challenges sent (RFC 5961).
    tcp_challenges,
    /// Segments without the timestamp that was agreed on.
    tcp_stamps_missing,
    /// Segments whose timestamp is from before (PAWS, RFC 7323 §5).
    tcp_stamps_old,
    /// Segments marked as having met congestion.
    tcp_congestion_experienced,
    /// Retransmission timeouts.
    tcp_timeouts,
    /// Probes of a tail (RFC 8985 §7).
    tcp_tail_probes,
    /// Questions for a window that is closed.
    tcp_window_probes,
    /// Paths taken for one that swallows long packets (RFC 4821).
    tcp_black_holes,
    /// SYNs, and handshakes, not taken because too many connections wait for their accept.
    tcp_backlog_full,
    /// Handshakes that nobody finished.
    tcp_embryos_given_up,
    /// SYNs answered with a cookie.
    tcp_cookies_sent,
    /// Cookies that came back.
    tcp_cookies_good,
    /// What looked like one and was not.
    tcp_cookies_wrong,
    /// Ends of connections not remembered: there were too many.
    tcp_time_waits_dropped,
    // Cores.
    /// Packets lost between cores: no room in a ring, or no memory.
    crossing_lost,
    /// Segments passed on to the next core, as this one does not know their connection.
    crossing_passed_on,
    // UDP.
    /// Datagrams with lengths that do not fit, or to port 0.
    udp_malformed,
    /// Checksums that are wrong, or zero on IPv6.
    udp_checksum,
    /// Datagrams dropped past a socket's receive budget.
    udp_over_budget,
    /// Datagrams from others than the peer.
    udp_stranger,
    /// Datagrams to ports where nobody is.
    udp_no_port,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_counter_has_its_name() {
        let counters = Counters { ethernet_short: 3, udp_no_port: 9, ..Counters::default() };
        let listed: Vec<(&str, u64)> = counters.iter().collect();
        assert_eq!(listed.first(), Some(&("ethernet_short", 3)));
        assert_eq!(listed.last(), Some(&("udp_no_port", 9)));
        assert_eq!(listed.iter().map(|(_, value)| value).sum::<u64>(), 12);
        assert_eq!(size_of::<Counters>(), 8 * listed.len());
    }
}
