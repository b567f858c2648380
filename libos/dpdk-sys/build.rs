//! Binds the installed libdpdk, where there is one, and compiles the C for what its headers have inline. Where there is
//! none, the crate is empty, and says so.

mod watch;

use std::path::PathBuf;
use std::process::Command;

/// The oldest that is known to work: Debian 12's.
const VERSION_MIN: &str = "22.11";

fn main() {
    println!("cargo::rustc-check-cfg=cfg(has_dpdk)");
    println!("cargo::rustc-check-cfg=cfg(has_ring_pairs)");
    ["c/shim.h", "c/shim.c"].iter().for_each(|file| println!("cargo::rerun-if-changed={file}"));
    ["PKG_CONFIG", "PKG_CONFIG_PATH", "LIBCLANG_PATH", "MARGAY_WITHOUT_DPDK"]
        .iter()
        .for_each(|name| println!("cargo::rerun-if-env-changed={name}"));
    match bind() {
        Ok(()) => {
            println!("cargo::rustc-cfg=has_dpdk");
            println!("cargo::metadata=built=yes");
        }
        Err(why) => {
            if std::env::var_os("MARGAY_WITHOUT_DPDK").is_none() {
                let places = watch::places(&pkg_config_folders(), watch::DEBIANS_LIST);
                places.iter().for_each(|place| println!("cargo::rerun-if-changed={}", place.display()));
            }
            println!("cargo::metadata=why={why}");
            println!(
                "cargo::warning=DPDK is left out: {why}. To have it: libdpdk {VERSION_MIN} or newer and libclang (Debian: apt-get install libdpdk-dev libclang-dev); if that is not noticed, cargo clean -p dpdk-sys"
            );
        }
    }
}

fn bind() -> Result<(), String> {
    if std::env::var_os("MARGAY_WITHOUT_DPDK").is_some() {
        return Err("MARGAY_WITHOUT_DPDK is set".into());
    }
    pkg_config("libdpdk", &["--atleast-version", VERSION_MIN])
        .map_err(|_| format!("pkg-config finds no libdpdk of version {VERSION_MIN} or newer"))?;
    let flags = pkg_config("libdpdk", &["--cflags"])?;
    let libraries = pkg_config("libdpdk", &["--libs"])?;
    let has_ring_pairs =
        PathBuf::from(pkg_config("libdpdk", &["--variable=libdir"])?.concat()).join("librte_net_ring.so").exists();
    generate(&flags)?;
    compile(&flags, has_ring_pairs)?;
    link(&libraries, has_ring_pairs);
    Ok(())
}

/// Where it looks, as far as it runs.
fn pkg_config_folders() -> String {
    let own = std::env::var("PKG_CONFIG_PATH").unwrap_or_default();
    let usual = pkg_config("pkg-config", &["--variable=pc_path"]).unwrap_or_default();
    format!("{own}:{}", usual.concat())
}

fn pkg_config(package: &str, arguments: &[&str]) -> Result<Vec<String>, String> {
    let program = std::env::var("PKG_CONFIG").unwrap_or_else(|_| "pkg-config".into());
    let output = Command::new(&program)
        .args(arguments)
        .arg(package)
        .output()
        .map_err(|error| format!("{program} does not run ({error})"))?;
    if !output.status.success() {
        return Err(format!("pkg-config finds no {package}"));
    }
    Ok(String::from_utf8_lossy(&output.stdout).split_whitespace().map(str::to_string).collect())
}

/// The declarations that Rust uses. Structures with bit fields and inline functions stay in C, behind pointers.
fn generate(flags: &[String]) -> Result<(), String> {
    let builder = bindgen::Builder::default()
        .header("c/shim.h")
        .clang_args(flags)
        .allowlist_function("margay_.*|rte_eal_init|rte_eal_iova_mode|rte_version|rte_strerror")
        .allowlist_function(
            "rte_memzone_(reserve_aligned|free)|rte_mem_virt2memseg_list|rte_mempool_(free|avail_count)",
        )
        .allowlist_function(
            "rte_eth_dev_(count_avail|get_port_by_name|get_name_by_port|info_get|configure|start|stop|close)",
        )
        .allowlist_function("rte_eth_dev_(set_mtu|get_mtu|default_mac_addr_set|is_valid_port|socket_id)")
        .allowlist_function("rte_eth_(rx|tx)_queue_setup|rte_eth_macaddr_get|rte_eth_link_get_nowait|rte_eth_stats_get")
        .allowlist_function("rte_eth_(promiscuous|allmulticast)_enable|rte_eth_tx_done_cleanup|rte_eth_find_next")
        .allowlist_function("rte_eth_dev_adjust_nb_rx_tx_desc")
        .allowlist_function(
            "rte_(thread_register|thread_unregister|dev_probe|dev_remove|log_set_global_level|log_set_level_pattern)",
        )
        .allowlist_function("rte_log_(get|set)_level")
        .allowlist_type("margay_.*|rte_iova_mode|rte_eth_(conf|dev_info|rxconf|txconf|link|stats)|rte_ether_addr")
        .allowlist_var("MARGAY_.*|RTE_ETH_MQ_RX_.*|RTE_MEMZONE_.*|RTE_ETHER_ADDR_LEN|SOCKET_ID_ANY")
        .opaque_type("rte_mbuf|rte_mempool|rte_device")
        .derive_default(true)
        .generate_comments(false)
        .layout_tests(true);
    // Without a libclang that can be loaded, bindgen panics.
    let silent = std::panic::take_hook();
    std::panic::set_hook(Box::new(|_| {}));
    let generated = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| builder.generate()));
    std::panic::set_hook(silent);
    let bindings = match generated {
        Ok(Ok(bindings)) => bindings,
        Ok(Err(error)) => {
            return Err(format!("libclang does not read its headers ({})", first_line(&error.to_string())));
        }
        Err(_) => return Err("there is no libclang that bindgen can load".into()),
    };
    let out = PathBuf::from(std::env::var_os("OUT_DIR").expect("set by cargo")).join("bindings.rs");
    bindings.write_to_file(out).map_err(|error| error.to_string())
}

fn compile(flags: &[String], has_ring_pairs: bool) -> Result<(), String> {
    let mut build = cc::Build::new();
    build.file("c/shim.c").opt_level(2).warnings(true).extra_warnings(true).flag_if_supported("-Wno-unused-parameter");
    // As a system's, whose headers warn of themselves.
    for flag in flags {
        match flag.strip_prefix("-I") {
            Some(folder) => build.flag("-isystem").flag(folder),
            None => build.flag(flag),
        };
    }
    // The interrupt handles of 22.11, which are stable since.
    build.define("ALLOW_EXPERIMENTAL_API", None);
    if has_ring_pairs {
        build.define("MARGAY_RING_PAIRS", None);
    }
    build
        .try_compile("margay_dpdk_shim")
        .map_err(|error| format!("its headers do not compile ({})", first_line(&error.to_string())))
}

fn link(libraries: &[String], has_ring_pairs: bool) {
    for library in libraries {
        // Only what is used: the linker drops the rest.
        if let Some(name) = library.strip_prefix("-l") {
            if NEEDED.contains(&name) {
                println!("cargo::rustc-link-lib={name}");
            }
        } else if let Some(folder) = library.strip_prefix("-L") {
            println!("cargo::rustc-link-search=native={folder}");
        }
    }
    if has_ring_pairs {
        println!("cargo::rustc-cfg=has_ring_pairs");
        println!("cargo::rustc-link-lib=rte_net_ring");
    }
}

/// Drivers are loaded by the library itself.
const NEEDED: [&str; 5] = ["rte_ethdev", "rte_mbuf", "rte_mempool", "rte_ring", "rte_eal"];

fn first_line(text: &str) -> &str {
    text.lines().find(|line| line.contains("error")).or(text.lines().next()).unwrap_or("it failed without a word")
}
