//! One behaviour suite that says what PDPIX means. Every backend passes it with one line:
//!
//! ```ignore
//! libos_conformance::suite!(epoll, || subject());
//! ```
//!
//! That makes a test of each case ([`CASES`]), each on a [`Subject`] of its own. A subject has three sides: a client's core,
//! and the two cores of a server. [`Cores`] is the subject over `libos_runtime::Core`s, stepped in one thread by a
//! [`Stage`]: [`RealTime`] over devices, or the simulator's world. A C ABI implements [`Subject`] itself.
//! `suite_asleep!` is the part that needs cores which really sleep, each in a thread of its own.
//!
//! Each case ends with a look at the books: heap, tokens, queues and zombies are what they were before.
//! What a kind of subject has not ([`Can`]) is skipped, and said: `SKIP name: reason`. README.md says how a new backend
//! uses this. [`block`] is the suite of block devices, `storage_suite!` that of storage queues; [`corpus`] runs what fuzzing keeps, and
//! [`namespace`] makes links of the kernel's for those that need some. Not here: remote memory queues, which come with their backends.

#![deny(unsafe_code)]

pub mod block;
#[allow(missing_docs, reason = "a case is named by the fact that it states")]
pub mod cases;
pub mod corpus;

mod cores;
mod flow;
pub mod namespace;
mod pattern;
mod real_time;
mod run;
mod scene;
pub mod sleeping;
#[allow(missing_docs, reason = "a case is named by the fact that it states")]
pub mod storage;
mod subject;

pub use cores::{Cores, Stage};
pub use flow::{Flow, Reader, Writer};
pub use pattern::Pattern;
pub use real_time::{Addresses, Memory, RealTime, Seat};
pub use run::{Case, Made, run, run_on, say};
pub use scene::{LIMIT, Pair, Scene, Skip, Verdict};
pub use subject::{Arrival, Books, Can, End, Ended, Queue, Side, Subject, Token};

/// Gives the list of all cases, by group, to a macro.
#[doc(hidden)]
#[macro_export]
macro_rules! with_cases {
    ($then:path { $($args:tt)* }) => {
        $then! { { $($args)* }
            connections {
                a_connection_carries_bytes_both_ways
                ipv6_works_as_ipv4_does
                both_ends_know_both_endpoints
                connections_of_one_listener_are_apart
                accepts_that_wait_are_served_in_order
                pops_that_wait_are_served_in_order
                a_connection_waits_for_its_accept_with_its_data
                a_port_can_be_listened_on_again
                a_core_connects_to_itself_and_to_its_neighbour
                options_are_kept
            }
            transfers {
                a_million_small_messages_arrive_in_order
                a_big_transfer_goes_both_ways_at_once
                a_push_may_lie_in_many_segments
                a_push_of_eight_mebibytes_is_carried_whole
                however_it_is_cut_the_bytes_are_the_same
            }
            ends {
                the_end_is_told_once_and_later_pops_are_refused
                of_the_pops_that_wait_one_gets_the_end
                after_finish_data_still_comes_from_the_other_side
                after_finish_pushes_are_refused
                the_end_comes_after_everything_that_was_pushed
                close_still_sends_what_was_accepted
                close_cancels_pushes_that_wait_and_sends_none_of_their_bytes
                close_lingers_no_longer_than_it_was_told
            }
            faults {
                a_reset_is_told_to_the_pop_that_waits_and_to_all_after_it
                a_reset_is_told_to_every_operation_that_waits
                what_arrived_before_a_reset_is_delivered_first
                close_with_unread_data_resets
                pushes_to_one_who_has_closed_end_in_a_reset
                a_refused_connection_says_so_and_is_good_for_close_only
                a_connect_to_nobody_fails_or_waits_until_it_is_cancelled
                close_cancels_what_waits
                closing_a_listener_resets_what_nobody_accepted
                a_peer_that_dies_in_the_middle_is_seen
            }
            pressure {
                a_peer_that_does_not_read_makes_pushes_wait_in_bounded_memory
                waiting_pushes_go_in_order_as_room_comes
                a_larger_budget_lets_waiting_pushes_in
                a_small_receive_budget_loses_nothing
                what_was_accepted_is_sent_as_it_was
            }
            cancel {
                a_pop_that_waits_is_cancelled_and_takes_nothing
                a_complete_operation_keeps_its_result_though_it_is_cancelled
                a_cancelled_accept_leaves_the_connection_to_the_next
                a_cancelled_connect_is_given_up
                a_push_that_waits_is_cancelled_and_nothing_of_it_is_sent
                what_a_given_up_pop_had_goes_to_the_next
                a_pop_that_waits_gets_what_a_given_up_one_had
                what_given_up_pops_had_stays_in_order
                a_connection_whose_accept_was_given_up_goes_to_the_next
                given_up_pushes_that_were_accepted_arrive
                giving_up_at_random_loses_and_reorders_nothing
            }
            misuse {
                a_descriptor_that_is_not_open_is_refused
                a_token_that_was_not_issued_is_refused
                empty_pushes_and_pops_are_refused
                a_listener_is_not_a_connection
                a_queue_must_be_bound_to_listen_and_connected_to_push
                endpoints_that_are_foreign_or_taken_are_refused
                what_a_kind_of_queue_has_not_is_refused
            }
            waits {
                a_wait_that_times_out_leaves_its_token_valid
                a_token_is_redeemed_once
                wait_any_gives_the_place_of_one_that_ended
                wait_all_gives_every_end_in_the_order_of_the_list
                a_list_of_tokens_is_judged_before_the_wait
                a_second_waiter_is_told_that_the_token_is_busy
                a_wait_inside_a_coroutine_is_refused
            }
            datagrams {
                a_datagram_arrives_whole_with_its_sender
                boundaries_are_kept
                pops_of_datagrams_that_wait_are_served_in_order
                a_longer_datagram_is_cut_and_flagged
                the_longest_datagram_passes_and_a_longer_one_is_refused
                empty_and_unaddressed_datagrams_are_refused
                a_default_peer_is_pushed_to_and_the_only_one_heard
                an_unbound_queue_gets_an_address_when_it_is_pushed_to_or_connected
                a_port_where_nobody_is_is_told_once_and_the_queue_goes_on
                past_the_receive_budget_the_newest_are_dropped
                a_pop_of_datagrams_can_be_cancelled_or_given_up
                close_of_a_datagram_queue_cancels_its_pops
            }
            shared_port {
                two_cores_share_a_port_and_both_get_connections
                two_cores_share_a_port_for_datagrams
                connections_between_cores_outlive_their_listener
            }
            memory_queues {
                one_push_is_one_pop_in_order
                a_million_messages_pass_a_memory_queue
                a_longer_element_is_cut_and_flagged
                pushes_beyond_the_budget_wait_their_turn
                a_finished_memory_queue_is_emptied_and_then_ends
                closing_a_memory_queue_cancels_who_waits
                a_pop_of_a_memory_queue_is_cancelled_or_given_up_without_loss
                a_memory_queue_is_no_socket
                an_attached_end_carries_everything_in_order
                an_attached_end_is_told_that_its_queue_is_gone
                pushes_that_wait_at_an_attached_end_are_cancelled
            }
            many {
                ten_thousand_connections_come_work_and_go
            }
        }
    };
}

macro_rules! list {
    ({} $($group:ident { $($case:ident)* })*) => {
        /// Every case.
        pub const CASES: &[Case] = &[
            $($(Case { group: stringify!($group), name: stringify!($case), run: cases::$group::$case },)*)*
        ];
    };
}

with_cases!(list {});

/// A test of each case, in a module of this name: `suite!(name, make)`, where `make()` gives a [`Made`].
#[macro_export]
macro_rules! suite {
    ($name:ident, $make:expr) => {
        mod $name {
            #[allow(unused_imports, reason = "what `make` may name")]
            use super::*;
            $crate::with_cases!($crate::tests { $make });
        }
    };
}

#[doc(hidden)]
#[macro_export]
macro_rules! tests {
    ({ $make:expr } $($group:ident { $($case:ident)* })*) => {
        $($(
            #[test]
            fn $case() {
                let case = $crate::Case {
                    group: stringify!($group),
                    name: stringify!($case),
                    run: $crate::cases::$group::$case,
                };
                $crate::run(module_path!(), case, $make);
            }
        )*)*
    };
}

#[cfg(test)]
mod tests {
    use super::CASES;

    /// A case that is written and not listed would never run.
    #[test]
    fn every_case_is_listed() {
        let sources = [
            ("connections", include_str!("cases/connections.rs")),
            ("transfers", include_str!("cases/transfers.rs")),
            ("ends", include_str!("cases/ends.rs")),
            ("faults", include_str!("cases/faults.rs")),
            ("pressure", include_str!("cases/pressure.rs")),
            ("cancel", include_str!("cases/cancel.rs")),
            ("misuse", include_str!("cases/misuse.rs")),
            ("waits", include_str!("cases/waits.rs")),
            ("datagrams", include_str!("cases/datagrams.rs")),
            ("shared_port", include_str!("cases/shared_port.rs")),
            ("memory_queues", include_str!("cases/memory_queues.rs")),
            ("many", include_str!("cases/many.rs")),
        ];
        let written = sources.iter().flat_map(|(group, source)| {
            let cases = source.lines().filter_map(|line| line.strip_prefix("pub fn "));
            cases.map(move |line| (*group, line.split('(').next().unwrap_or_default()))
        });
        let mut written: Vec<_> = written.collect();
        let mut listed: Vec<_> = CASES.iter().map(|case| (case.group, case.name)).collect();
        written.sort_unstable();
        listed.sort_unstable();
        assert_eq!(written, listed);
    }
}
