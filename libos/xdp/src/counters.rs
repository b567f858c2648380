//! What a device counts, by name.

macro_rules! counters {
    ($($(#[$doc:meta])* $name:ident,)*) => {
        /// What a device has counted since it was opened.
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
    /// Frames that were lost before we saw them: the kernel had no room.
    rx_dropped,
    /// Frames longer than the device may bring, dropped.
    rx_too_long,
    /// Frames with a VLAN tag, dropped.
    rx_vlan,
    /// Times that there was no memory for a frame. It waits, if its queue holds.
    rx_no_memory,
    /// Bytes of frames copied into our memory.
    rx_copied_bytes,
    /// Frames handed to the hardware or the kernel.
    tx_frames,
    /// Frames lost: the link is down, the kernel refused them, or there is no memory to copy them to.
    tx_dropped,
    /// Times that the device had no room, and frames stayed with the stack.
    tx_busy,
    /// Bytes of frames copied because they could not be sent from where they lay.
    tx_copied_bytes,
    /// System calls that sent frames, or told the kernel that there are some.
    tx_calls,
    /// Descriptors of the kernel's that made no sense, skipped.
    rx_bad_descriptors,
    /// Descriptors of ours that the kernel refused. A bug: what they named is held for ever.
    tx_bad_descriptors,
    /// Completions of what was not under way.
    tx_bad_completions,
    /// Buffers that are never freed, because the hardware may still touch them.
    buried,
}
