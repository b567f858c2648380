//! Plays the packet scripts in `scripts/`; `script/mod.rs` has their form.

mod script;

const FOLDER: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/scripts");

/// A test for each script, and one that no script was forgotten.
macro_rules! scripts {
    ($($name:ident,)*) => {
        $(
            #[test]
            fn $name() {
                script::play(FOLDER, stringify!($name));
            }
        )*

        #[test]
        fn every_script_is_played() {
            let entries = std::fs::read_dir(FOLDER).unwrap();
            let mut there: Vec<String> =
                entries.map(|entry| entry.unwrap().file_name().into_string().unwrap().replace(".pkt", "")).collect();
            let mut played = vec![$(stringify!($name).to_string(),)*];
            there.sort();
            played.sort();
            assert_eq!(there, played);
        }
    };
}

scripts! {
    ack_delayed,
    ack_missing,
    ack_of_a_burst,
    ack_out_of_range,
    challenges_are_few,
    close_active,
    close_fin_lost,
    close_fin_wait_2_alone,
    close_fin_with_ack,
    close_half,
    close_linger_ends,
    close_linger_zero,
    close_passive,
    close_simultaneous,
    close_then_text,
    close_unread,
    congestion_avoidance,
    congestion_idle,
    congestion_slow_start,
    dsack_received,
    dsack_sent,
    fast_retransmit,
    fin_before_text,
    fin_beyond_text,
    fin_with_text,
    half_open_old_syn_ack,
    half_open_peer_forgot,
    half_open_peer_restarted,
    handshake_active,
    handshake_passive,
    handshake_with_text,
    keep_alive,
    keep_alive_asked,
    keep_alive_dead,
    keep_alive_peer_gone,
    mss_default,
    mss_of_the_link,
    mss_tiny,
    mss_with_stamps,
    nagle_off,
    nagle_on,
    new_reno_no_second,
    new_reno_partial,
    rack_lost_again,
    rack_reordering,
    reset_embryo,
    reset_listen,
    reset_no_connection,
    reset_syn_sent,
    rst_any_stamp,
    rst_in_window,
    rto_after_syn_timeout,
    rto_doubles,
    rto_gives_up,
    rto_karn,
    rto_of_the_first_text,
    rto_restarts,
    sack_blocks,
    sack_blocks_with_stamps,
    sack_not_asked,
    sack_off,
    sack_outside,
    sack_recovery,
    sack_reneging,
    sack_several_holes,
    silly_window_receiver,
    silly_window_sender,
    silly_window_small_peer,
    simultaneous_open,
    simultaneous_open_ack_only,
    simultaneous_open_repeats,
    simultaneous_open_syn_again,
    syn_ack_again,
    syn_again,
    syn_fin,
    syn_in_window,
    syn_with_text,
    time_wait_old_text,
    time_wait_reset,
    time_wait_syn_by_stamp,
    time_wait_syn_earlier,
    time_wait_syn_later,
    tlp_again,
    tlp_for_nothing,
    tlp_new,
    tlp_one,
    tlp_repaired,
    urgent,
    window_outside,
    window_overlaps,
    window_probe_taken,
    window_scale_off,
    window_scale_too_large,
    window_scaled,
    window_shrinks,
    window_slow_reader,
    window_unscaled,
    window_zero,
    window_zero_for_hours,
}
