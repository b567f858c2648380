//! Hears from dpdk-sys whether there is a libdpdk.

fn main() {
    println!("cargo::rustc-check-cfg=cfg(has_dpdk)");
    println!("cargo::rerun-if-env-changed=DEP_MARGAY_DPDK_BUILT");
    if std::env::var_os("DEP_MARGAY_DPDK_BUILT").is_some() {
        println!("cargo::rustc-cfg=has_dpdk");
    }
    if let Ok(why) = std::env::var("DEP_MARGAY_DPDK_WHY") {
        println!("cargo::rustc-env=MARGAY_DPDK_WHY={why}");
    }
}
