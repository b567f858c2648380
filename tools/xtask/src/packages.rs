//! Debian packages that the fuller tests need: redis-server and clients of it, what AF_XDP and DPDK take, and QEMU. Installed where that may
//! be done; no daemon is started.

use std::path::Path;
use std::process::{Command, Stdio};

use anyhow::{Context, Result};

use crate::command::{self, Show, program};
use crate::report::Ended;

/// A package, and how to see that it is there.
struct Package {
    name: &'static str,
    probe: &'static [&'static str],
    /// What is not tested without it.
    serves: &'static str,
}

const PACKAGES: [Package; 21] = [
    Package { name: "fio", probe: &["fio", "--version"], serves: "a log on a disk, beside fio," },
    Package { name: "redis-server", probe: &["redis-server", "--version"], serves: "comparisons with a real Redis" },
    Package { name: "redis-tools", probe: &["redis-benchmark", "--version"], serves: "redis-cli and redis-benchmark" },
    // Debian's module is for Debian's Python, whatever else is in the path.
    Package {
        name: "python3-redis",
        probe: &["/usr/bin/python3", "-c", "import redis"],
        serves: "the Python client library",
    },
    Package { name: "iproute2", probe: &["ip", "-V"], serves: "devices against the kernel, in network namespaces" },
    Package { name: "ethtool", probe: &["ethtool", "--version"], serves: "offloads of a link, in network namespaces" },
    Package { name: "clang", probe: &["clang", "--version"], serves: "AF_XDP, which is left out without it," },
    Package {
        name: "libbpf-dev",
        probe: &["test", "-f", "/usr/include/bpf/bpf_helpers.h"],
        serves: "AF_XDP, which is left out without it,",
    },
    Package { name: "gcc", probe: &["gcc", "--version"], serves: "programs in C on libdemikernel.so" },
    Package { name: "g++", probe: &["g++", "--version"], serves: "its headers in C++" },
    Package { name: "valgrind", probe: &["valgrind", "--version"], serves: "programs in C under memcheck" },
    Package {
        name: "pkg-config",
        probe: &["pkg-config", "--version"],
        serves: "the pkg-config file of libdemikernel.so",
    },
    Package { name: "man-db", probe: &["man", "--version"], serves: "the form of the manual pages" },
    Package {
        name: "libdpdk-dev",
        probe: &["pkg-config", "--atleast-version", "22.11", "libdpdk"],
        serves: "DPDK, which is left out without it,",
    },
    Package {
        name: "libclang-dev",
        probe: &["sh", "-c", "ls /usr/lib/llvm-*/lib/libclang*.so* /usr/lib/*/libclang*.so*"],
        serves: "DPDK, which is left out without it,",
    },
    Package {
        name: "qemu-system-x86",
        probe: &["qemu-system-x86_64", "--version"],
        serves: "a power cut of a whole machine",
    },
    Package { name: "busybox-static", probe: &["busybox", "true"], serves: "a power cut of a whole machine" },
    Package { name: "xz-utils", probe: &["xz", "--version"], serves: "a power cut of a whole machine" },
    Package {
        name: "qemu-utils",
        probe: &["qemu-io", "--version"],
        serves: "QEMU's tools on our network block device",
    },
    Package { name: "libnbd-bin", probe: &["nbdinfo", "--version"], serves: "libnbd on our network block device" },
    Package { name: "bpftool", probe: &["bpftool", "version"], serves: "removing an XDP program that was left behind" },
];

/// Installs what is missing, or says what is not tested without it. Never a failure: the tests that miss something say so.
pub fn run() -> Result<Ended> {
    let missing: Vec<&Package> = PACKAGES.iter().filter(|package| !succeeds(package.probe)).collect();
    if missing.is_empty() {
        println!("  all there");
        return Ok(Ended::passed());
    }
    let names: Vec<&str> = missing.iter().map(|package| package.name).collect();
    if is_root() && succeeds(&["apt-get", "--version"]) && install(&names)? {
        return Ok(Ended::passed());
    }
    for package in &missing {
        println!("  {} is not installed: {} will be skipped", package.name, package.serves);
    }
    println!("  to have them: apt-get install --no-install-recommends {}", names.join(" "));
    Ok(Ended::passed())
}

/// Whether that went well.
fn install(names: &[&str]) -> Result<bool> {
    let _deny = DenyStarts::put(Path::new(POLICY))?;
    let mut update = program("apt-get");
    command::run(update.args(["update", "-qq"]), Show::All)?;
    let mut install = program("apt-get");
    install.args(["install", "-y", "-qq", "--no-install-recommends"]).args(names);
    install.env("DEBIAN_FRONTEND", "noninteractive").env("RUNLEVEL", "1");
    Ok(command::run(&mut install, Show::All)?.success)
}

const POLICY: &str = "/usr/sbin/policy-rc.d";

/// While it lives, installing a package starts no service. A policy that is there already is left as it is.
struct DenyStarts<'a>(Option<&'a Path>);

impl<'a> DenyStarts<'a> {
    fn put(path: &'a Path) -> Result<DenyStarts<'a>> {
        use std::os::unix::fs::PermissionsExt;
        if path.exists() {
            return Ok(DenyStarts(None));
        }
        let denies = DenyStarts(Some(path));
        std::fs::write(path, "#!/bin/sh\n# Put here by cargo xtask test, which takes it away again.\nexit 101\n")
            .with_context(|| path.display().to_string())?;
        std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o755))?;
        Ok(denies)
    }
}

impl Drop for DenyStarts<'_> {
    fn drop(&mut self) {
        if let Some(path) = self.0 {
            let _ = std::fs::remove_file(path);
        }
    }
}

/// Whether a command can be run and ends well; what it says does not matter.
pub fn succeeds(words: &[&str]) -> bool {
    let mut command = Command::new(words[0]);
    command.args(&words[1..]).stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
    command.status().is_ok_and(|status| status.success())
}

/// Whether this process may do anything.
pub fn is_root() -> bool {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let uid = status.lines().find_map(|line| line.strip_prefix("Uid:")?.split_whitespace().nth(1));
    uid == Some("0")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_policy_is_there_while_it_is_needed_and_one_that_was_there_stays() {
        let path = std::env::temp_dir().join(format!("xtask-policy-{}", std::process::id()));
        let denies = DenyStarts::put(&path).unwrap();
        let status = Command::new(&path).status().unwrap();
        assert_eq!(status.code(), Some(101));
        drop(DenyStarts::put(&path).unwrap());
        assert!(path.exists(), "the second one did not put it there");
        drop(denies);
        assert!(!path.exists());
    }

    #[test]
    fn probes_tell_what_is_there() {
        assert!(succeeds(&["true"]) && !succeeds(&["false"]) && !succeeds(&["no-such-program-here"]));
    }
}
