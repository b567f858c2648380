//! A kernel of Debian's for a guest: its package is fetched by apt once and kept below the target folder; nothing is installed.
//!
//! QEMU starts an uncompressed kernel directly (PVH): without the BIOS and a decompressor that is emulated instruction by
//! instruction, a guest is up in a few seconds. So the ELF file is taken out of `vmlinuz` here.

use std::fs::{self, File};
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context, Result, bail, ensure};

/// A kernel and its modules, unpacked.
#[derive(Clone, Debug)]
pub struct Kernel {
    /// The uncompressed kernel.
    pub image: PathBuf,
    modules: PathBuf,
}

impl Kernel {
    /// The one that is kept, or else the newest one of apt's.
    ///
    /// # Errors
    /// A sentence: it cannot be had here.
    pub fn fetch() -> Result<Kernel> {
        let folder = cache()?;
        let lock = File::create(folder.join("lock"))?;
        lock.lock()?; // tests of several processes want it at once
        let kernel = Kernel { image: folder.join("vmlinux"), modules: folder.join("modules") };
        if !kernel.image.exists() {
            kernel.unpack(&download(&folder)?)?;
        }
        Ok(kernel)
    }

    fn unpack(&self, package: &Path) -> Result<()> {
        let folder = package.with_extension("");
        run(Command::new("dpkg-deb").arg("-x").arg(package).arg(&folder))?;
        let mut boot = fs::read_dir(folder.join("boot"))?.filter_map(|entry| Some(entry.ok()?.path()));
        let is_kernel =
            |path: &PathBuf| path.file_name().is_some_and(|name| name.to_string_lossy().starts_with("vmlinuz-"));
        let compressed = boot.find(is_kernel).context("there is no kernel in the package")?;
        let _ = fs::remove_dir_all(&self.modules);
        // Since Debian 13 below /usr.
        let modules = ["lib/modules", "usr/lib/modules"].map(|path| folder.join(path));
        fs::rename(modules.iter().find(|path| path.is_dir()).context("no modules in the package")?, &self.modules)?;
        let image = decompress(&fs::read(compressed)?)?;
        let part = self.image.with_extension("part");
        fs::write(&part, image)?;
        fs::rename(part, &self.image)?; // from here on it is there
        let _ = fs::remove_dir_all(folder);
        let _ = fs::remove_file(package);
        Ok(())
    }

    /// A module's file, uncompressed and without its signature, which nobody asks for; after it those that it depends on.
    fn module(&self, name: &str) -> Result<Option<Vec<u8>>> {
        let Some(path) = find(&self.modules, &is_module(name))? else { return Ok(None) };
        let bytes = fs::read(&path)?;
        let bytes = if path.extension().is_some_and(|end| end == "xz") { piped("xz", &["-dc"], bytes)? } else { bytes };
        Ok(Some(without_signature(bytes)))
    }

    /// Modules with all that they depend on, in an order in which they can be loaded: name and content. What is built into the
    /// kernel, or not there at all, is left out: whoever needs it finds out.
    ///
    /// # Errors
    /// Files cannot be read.
    pub fn modules(&self, names: &[String]) -> Result<Vec<(String, Vec<u8>)>> {
        let mut found = Vec::new();
        for name in names {
            self.add(&name.replace('-', "_"), &mut found)?;
        }
        Ok(found)
    }

    fn add(&self, name: &str, found: &mut Vec<(String, Vec<u8>)>) -> Result<()> {
        if found.iter().any(|(other, _)| other == name) {
            return Ok(());
        }
        let Some(content) = self.module(name)? else { return Ok(()) };
        for below in depends(&content) {
            self.add(&below, found)?;
        }
        found.push((name.into(), content));
        Ok(())
    }
}

/// A folder for what is fetched once: in cargo's target folder, which this program lies in.
fn cache() -> Result<PathBuf> {
    let program = std::env::current_exe()?;
    let target = program.ancestors().find(|folder| folder.join("CACHEDIR.TAG").exists());
    let target =
        target.map_or_else(|| program.ancestors().nth(3).unwrap_or(Path::new("/tmp")).to_path_buf(), Path::to_path_buf);
    let folder = target.join("guest");
    fs::create_dir_all(&folder).with_context(|| folder.display().to_string())?;
    Ok(folder)
}

fn download(folder: &Path) -> Result<PathBuf> {
    let depends = output(Command::new("apt-cache").args(["depends", "linux-image-amd64"]))?;
    let mut name = depends.lines().filter_map(|line| line.trim().strip_prefix("Depends: linux-image-"));
    let name = name.next_back().context("apt knows no linux-image-amd64 (apt-get update)")?;
    let folder = folder.join("package");
    let _ = fs::remove_dir_all(&folder);
    fs::create_dir_all(&folder)?;
    let mut download = Command::new("timeout");
    download.args(["-k", "5", "240", "apt-get", "-q", "-o", "APT::Sandbox::User=root", "download"]);
    run(download.arg(format!("linux-image-{name}")).current_dir(&folder))?;
    let file = fs::read_dir(&folder)?.filter_map(|entry| Some(entry.ok()?.path())).next();
    file.context("apt-get download brought nothing")
}

/// How a compressed kernel begins within `vmlinuz`, and what undoes that.
const COMPRESSIONS: [(&[u8], &str); 2] = [(b"\xfd7zXZ\0", "xz"), (b"\x28\xb5\x2f\xfd", "zstd")];

fn decompress(vmlinuz: &[u8]) -> Result<Vec<u8>> {
    for (magic, program) in COMPRESSIONS {
        for at in (0..vmlinuz.len() - magic.len()).filter(|at| vmlinuz[*at..].starts_with(magic)) {
            // What follows the compressed part is an error to the program, and does not matter.
            let image = piped(program, &["-dcq"], vmlinuz[at..].to_vec()).unwrap_or_default();
            if image.starts_with(b"\x7fELF") {
                return Ok(image);
            }
        }
    }
    bail!("there is no kernel in vmlinuz that xz or zstd can unpack (Debian: xz-utils, zstd)")
}

/// What a program makes of this; how it ends does not matter.
fn piped(program: &str, arguments: &[&str], input: Vec<u8>) -> Result<Vec<u8>> {
    let mut command = Command::new(program);
    command.args(arguments).stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::null());
    let mut child = command.spawn().with_context(|| program.to_string())?;
    let mut to = child.stdin.take().context("its input")?;
    let writer = std::thread::spawn(move || _ = to.write_all(&input));
    let output = child.wait_with_output()?;
    let _ = writer.join();
    Ok(output.stdout)
}

fn is_module(name: &str) -> impl Fn(&str) -> bool {
    let name = name.to_string();
    move |file: &str| {
        file.split_once(".ko").is_some_and(|(stem, end)| stem.replace('-', "_") == name && ["", ".xz"].contains(&end))
    }
}

fn find(folder: &Path, wanted: &dyn Fn(&str) -> bool) -> Result<Option<PathBuf>> {
    for entry in fs::read_dir(folder).with_context(|| folder.display().to_string())? {
        let entry = entry?;
        if entry.file_type()?.is_dir() {
            if let Some(found) = find(&entry.path(), wanted)? {
                return Ok(Some(found));
            }
        } else if wanted(&entry.file_name().to_string_lossy()) {
            return Ok(Some(entry.path()));
        }
    }
    Ok(None)
}

/// What a module says of itself (`.modinfo`): those that must be there before it.
fn depends(module: &[u8]) -> Vec<String> {
    let key = b"\0depends=";
    let Some(at) = module.windows(key.len()).position(|window| window == key) else { return Vec::new() };
    let rest = &module[at + key.len()..];
    let names = &rest[..rest.iter().position(|byte| *byte == 0).unwrap_or(0)];
    let names = String::from_utf8_lossy(names).replace('-', "_");
    names.split(',').filter(|name| !name.is_empty()).map(str::to_string).collect()
}

/// include/linux/module_signature.h: the signature, 12 bytes that end with its length, and this.
const SIGNED: &[u8] = b"~Module signature appended~\n";

fn without_signature(mut module: Vec<u8>) -> Vec<u8> {
    if let Some(rest) = module.strip_suffix(SIGNED)
        && let Some((_, len)) = rest.split_last_chunk::<4>()
    {
        let signature = 12 + u32::from_be_bytes(*len) as usize;
        let len = rest.len().saturating_sub(signature);
        module.truncate(len);
    }
    module
}

fn run(command: &mut Command) -> Result<()> {
    output(command).map(|_| ())
}

fn output(command: &mut Command) -> Result<String> {
    let name = command.get_program().to_string_lossy().into_owned();
    let output = command.stdin(Stdio::null()).output().with_context(|| name.clone())?;
    let errors = String::from_utf8_lossy(&output.stderr);
    ensure!(output.status.success(), "{name}: {}", errors.lines().next_back().unwrap_or("failed"));
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_module_says_what_it_depends_on() {
        assert_eq!(depends(b"\x7fELF..\0license=GPL\0depends=nvme-core,t10_pi\0name=nvme\0"), ["nvme_core", "t10_pi"]);
        assert_eq!(depends(b"\0depends=\0name=x\0"), Vec::<String>::new());
        assert_eq!(depends(b"nothing"), Vec::<String>::new());
    }

    #[test]
    fn a_signature_is_cut_off() {
        let signed = [&b"module"[..], b"signature", &[0; 8], &9u32.to_be_bytes(), SIGNED].concat();
        assert_eq!(without_signature(signed), b"module");
        assert_eq!(without_signature(b"module".to_vec()), b"module");
    }

    #[test]
    fn names_of_modules_are_written_in_two_ways() {
        let is = is_module("vfio_pci");
        assert!(is("vfio-pci.ko") && is("vfio_pci.ko.xz") && !is("vfio_pci_core.ko") && !is("vfio-pci.kof"));
    }
}
