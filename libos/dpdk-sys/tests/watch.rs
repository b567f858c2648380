//! That cargo runs a build script again when packages were installed, and not each time.

#[allow(dead_code, reason = "the script's")]
#[path = "../watch.rs"]
mod watch;

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::SystemTime;

/// A package whose build script watches these folders and this list, and counts how often it runs. It goes with the test.
struct Package(PathBuf);

impl Package {
    fn make(folders: &str, list: &Path) -> Package {
        let root = std::env::temp_dir().join(format!("margay-dpdk-{}xwatch", std::process::id()));
        fs::create_dir_all(root.join("src")).unwrap();
        fs::write(root.join("src/lib.rs"), "").unwrap();
        let manifest = "[package]\nname = \"watches\"\nedition = \"2024\"\n[workspace]\n";
        fs::write(root.join("Cargo.toml"), manifest).unwrap();
        let script = format!(
            "#[path = {:?}]\nmod watch;\nfn main() {{\n    \
             println!(\"cargo::rerun-if-changed=build.rs\");\n    \
             for place in watch::places({folders:?}, {list:?}) {{ println!(\"cargo::rerun-if-changed={{}}\", place.display()) }}\n    \
             let runs = std::fs::read_to_string(\"runs\").unwrap_or_default();\n    \
             std::fs::write(\"runs\", runs + \"I\").unwrap();\n}}\n",
            Path::new(env!("CARGO_MANIFEST_DIR")).join("watch.rs"),
        );
        fs::write(root.join("build.rs"), script).unwrap();
        Package(root)
    }

    /// How often its script has run, when it is built now.
    fn runs(&self) -> usize {
        let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
        let mut command = Command::new(cargo);
        command
            .args(["build", "--offline", "--quiet"])
            .current_dir(&self.0)
            .env("CARGO_TARGET_DIR", self.0.join("target"));
        assert!(command.status().unwrap().success());
        fs::read_to_string(self.0.join("runs")).unwrap().len()
    }
}

impl Drop for Package {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

#[test]
fn packages_that_are_installed_later_are_noticed() {
    let machine = std::env::temp_dir().join(format!("margay-dpdk-{}xmachine", std::process::id()));
    let [there, missing, list] = ["pkgconfig", "missing", "status"].map(|name| machine.join(name));
    fs::create_dir_all(&there).unwrap();
    fs::write(&list, "").unwrap();
    let folders = std::env::join_paths([&missing, &there]).unwrap().into_string().unwrap();
    let package = Package::make(&folders, &list);
    assert_eq!([package.runs(), package.runs()], [1, 1], "nothing has changed");
    // As old as when its package was made.
    File::create(there.join("libdpdk.pc")).unwrap().set_modified(SystemTime::UNIX_EPOCH).unwrap();
    assert_eq!([package.runs(), package.runs()], [2, 2], "a file has come");
    fs::write(&list, "libclang-dev").unwrap();
    assert_eq!([package.runs(), package.runs()], [3, 3], "the list is another");
    let _ = fs::remove_dir_all(machine);
}
