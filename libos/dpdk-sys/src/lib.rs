//! Bindings to the installed libdpdk, made when this is built, and C for what its headers have inline (`c/shim.h`).
//!
//! Where there is no libdpdk or no libclang this crate is empty: [`MISSING`] says why.

/// Why there is nothing here; `None`: everything is.
pub const MISSING: Option<&str> = if cfg!(has_dpdk) { None } else { Some("DPDK was left out when this was built") };

/// Whether two ports can be joined by rings.
pub const HAS_RING_PAIRS: bool = cfg!(has_ring_pairs);

#[cfg(has_dpdk)]
#[allow(
    missing_docs,
    non_camel_case_types,
    non_snake_case,
    non_upper_case_globals,
    unused_qualifications,
    unsafe_op_in_unsafe_fn,
    clippy::all,
    clippy::undocumented_unsafe_blocks,
    reason = "made by bindgen, in the words of its headers"
)]
mod bindings {
    include!(concat!(env!("OUT_DIR"), "/bindings.rs"));
}

#[cfg(has_dpdk)]
pub use bindings::*;

#[cfg(all(test, has_dpdk))]
mod tests {
    use super::*;

    /// What bindgen believes of structures that cross the edge, against what the C compiler says.
    #[test]
    fn structures_are_as_c_sees_them() {
        // SAFETY: they read nothing.
        unsafe {
            assert_eq!(size_of::<rte_eth_conf>(), margay_sizeof_eth_conf());
            assert_eq!(size_of::<rte_eth_dev_info>(), margay_sizeof_dev_info());
            assert_eq!(size_of::<rte_eth_txconf>(), margay_sizeof_txconf());
            assert_eq!(size_of::<margay_sent>(), margay_sizeof_sent());
            let conf = rte_eth_conf::default();
            let offset = &raw const conf.rxmode.offloads as usize - &raw const conf as usize;
            assert_eq!(offset, margay_offset_of_rxmode_offloads());
        }
    }
}
