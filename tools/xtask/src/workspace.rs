//! Where the workspace is, and what `cargo metadata` says of it.

use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, ensure};
use serde_json::Value;

/// The folder of the workspace's manifest.
pub fn root() -> PathBuf {
    // Found when the task runs, as a built binary may be used from another clone with the same target folder.
    let manifest = std::env::var_os("CARGO_MANIFEST_DIR").map(PathBuf::from);
    let own = manifest.unwrap_or_else(|| PathBuf::from(env!("CARGO_MANIFEST_DIR")));
    own.ancestors().nth(2).map_or(own.clone(), Path::to_path_buf)
}

/// A package, ours or not.
#[derive(Clone, Debug, Default)]
pub struct Package {
    pub name: String,
    pub version: String,
    pub licence: Option<String>,
    pub description: Option<String>,
    /// A member of this workspace.
    pub is_ours: bool,
    /// Its folder.
    pub folder: PathBuf,
    /// Roots of its libraries and binaries.
    pub roots: Vec<PathBuf>,
    pub dependencies: Vec<Dependency>,
}

/// That one package needs another.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Dependency {
    pub name: String,
    /// For tests and benchmarks only.
    pub is_dev: bool,
}

/// What `cargo metadata` says.
pub struct Metadata {
    pub packages: Vec<Package>,
    pub target_folder: PathBuf,
}

impl Metadata {
    /// Asks cargo.
    pub fn load() -> Result<Metadata> {
        let output = Command::new("cargo").args(["metadata", "--format-version", "1", "--locked"]).output();
        let output = output.context("cargo cannot be run")?;
        ensure!(output.status.success(), "cargo metadata: {}", String::from_utf8_lossy(&output.stderr));
        Metadata::parse(&serde_json::from_slice(&output.stdout)?)
    }

    fn parse(json: &Value) -> Result<Metadata> {
        let packages = json["packages"].as_array().context("cargo metadata without packages")?;
        let target = json["target_directory"].as_str().context("cargo metadata without a target folder")?;
        Ok(Metadata { packages: packages.iter().map(package).collect(), target_folder: target.into() })
    }

    /// The members of the workspace.
    pub fn ours(&self) -> impl Iterator<Item = &Package> {
        self.packages.iter().filter(|package| package.is_ours)
    }
}

fn package(json: &Value) -> Package {
    let text = |key: &str| json[key].as_str().map(str::to_string);
    let list = |key: &str| json[key].as_array().map_or(&[][..], Vec::as_slice);
    let is_root = |target: &&Value| {
        let kinds = target["kind"].as_array().map_or(&[][..], Vec::as_slice);
        kinds.iter().any(|kind| matches!(kind.as_str(), Some("lib" | "bin" | "proc-macro" | "cdylib")))
    };
    let dependency = |json: &Value| Dependency {
        name: json["name"].as_str().unwrap_or_default().to_string(),
        is_dev: json["kind"].as_str() == Some("dev"),
    };
    let manifest = PathBuf::from(text("manifest_path").unwrap_or_default());
    Package {
        name: text("name").unwrap_or_default(),
        version: text("version").unwrap_or_default(),
        licence: text("license"),
        description: text("description"),
        is_ours: json["source"].is_null(),
        folder: manifest.parent().map(Path::to_path_buf).unwrap_or_default(),
        roots: list("targets").iter().filter(is_root).filter_map(|t| t["src_path"].as_str()).map(Into::into).collect(),
        dependencies: list("dependencies").iter().map(dependency).collect(),
    }
}

/// Files under version control, and those that would be if they were added, with paths from the root.
pub fn files() -> Result<Vec<PathBuf>> {
    let listing = Command::new("git").args(["ls-files", "-co", "--exclude-standard"]).output();
    let listing = listing.context("git cannot be run")?;
    ensure!(listing.status.success(), "git ls-files: {}", String::from_utf8_lossy(&listing.stderr));
    let mut files: Vec<PathBuf> = String::from_utf8(listing.stdout)?.lines().map(PathBuf::from).collect();
    files.retain(|path| path.is_file());
    files.sort();
    files.dedup();
    Ok(files)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_package_is_read_from_what_cargo_says() {
        let json = serde_json::json!({
            "target_directory": "/t",
            "packages": [{
                "name": "kv-engine", "version": "0.1.0", "license": "MIT", "source": null,
                "manifest_path": "/r/kv/engine/Cargo.toml",
                "targets": [
                    {"kind": ["lib"], "src_path": "/r/kv/engine/src/lib.rs"},
                    {"kind": ["test"], "src_path": "/r/kv/engine/tests/a.rs"}
                ],
                "dependencies": [{"name": "pdpix", "kind": null}, {"name": "quickcheck", "kind": "dev"}]
            }]
        });
        let metadata = Metadata::parse(&json).unwrap();
        let package = metadata.ours().next().unwrap();
        assert_eq!(package.folder, Path::new("/r/kv/engine"));
        assert_eq!(package.roots, [Path::new("/r/kv/engine/src/lib.rs")]);
        assert_eq!(package.dependencies[1], Dependency { name: "quickcheck".into(), is_dev: true });
        assert_eq!(package.description, None);
    }
}
