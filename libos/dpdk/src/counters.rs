//! What a queue counts, by name.

macro_rules! counters {
    ($($(#[$doc:meta])* $name:ident,)*) => {
        /// What a queue has counted since it was opened.
        #[derive(Default, Debug)]
        pub(crate) struct Counters {
            $($(#[$doc])* pub(crate) $name: u64,)*
        }

        impl Counters {
            /// All of them, in order.
            pub(crate) fn list(&self) -> Vec<(&'static str, u64)> {
                vec![$((stringify!($name), self.$name),)*]
            }
        }
    };
}

counters! {
    /// Frames given to the stack.
    rx_frames,
    /// Frames that are none, dropped.
    rx_malformed,
    /// Times that there was no memory for a frame. It waits, and those behind it.
    rx_no_memory,
    /// Bytes of frames copied into our memory.
    rx_copied_bytes,
    /// Frames that the driver has taken.
    tx_frames,
    /// Frames that the driver cannot send as they are, dropped.
    tx_refused,
    /// Frames lost: the link is down.
    tx_dropped,
    /// Times that the ring refused frames. They are kept.
    tx_busy,
    /// Times that all that a driver may hold was held. Frames stay with the stack.
    tx_full,
    /// Bytes of short frames copied into the driver's buffers, headers included. Longer ones are sent from where they lie.
    tx_copied_bytes,
    /// Times that the link went down.
    link_down,
    /// Buffers that are never freed, because somebody may still touch them.
    buried,
}
