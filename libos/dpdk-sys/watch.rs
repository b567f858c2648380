//! Where it shows that packages were installed. A build without DPDK is made again when something changes there.

use std::path::PathBuf;

/// What Debian has installed.
pub const DEBIANS_LIST: &str = "/var/lib/dpkg/status";

/// Of pkg-config's folders (as in PATH) and that list what there is: for a path that is not there cargo would build each time.
pub fn places(folders: &str, list: &str) -> Vec<PathBuf> {
    std::env::split_paths(folders).chain([PathBuf::from(list)]).filter(|path| path.exists()).collect()
}
