//! Writes an archive of the form that the kernel unpacks at its start ("newc").
//!
//! Source: Documentation/driver-api/early-userspace/buffer-format.rst of Linux.

use std::collections::BTreeSet;

/// An archive that is being written.
#[derive(Debug, Default)]
pub struct Archive {
    bytes: Vec<u8>,
    count: u32,
    folders: BTreeSet<String>,
}

const FOLDER: u32 = 0o040_755;
const FILE: u32 = 0o100_644;
const PROGRAM: u32 = 0o100_755;
const LINK: u32 = 0o120_777;

impl Archive {
    /// One with nothing in it.
    pub fn new() -> Archive {
        Archive::default()
    }

    /// A folder, and those above it. Paths are from the root, with or without a `/` before them.
    pub fn folder(&mut self, path: &str) {
        let path = path.trim_matches('/');
        if path.is_empty() || self.folders.contains(path) {
            return;
        }
        self.folders_above(path);
        self.folders.insert(path.into());
        self.entry(path, FOLDER, &[]);
    }

    /// A file, with the folders it lies in.
    pub fn file(&mut self, path: &str, content: &[u8]) {
        self.folders_above(path);
        self.entry(path, FILE, content);
    }

    /// A file that may be run.
    pub fn program(&mut self, path: &str, content: &[u8]) {
        self.folders_above(path);
        self.entry(path, PROGRAM, content);
    }

    /// A symbolic link.
    pub fn link(&mut self, path: &str, to: &str) {
        self.folders_above(path);
        self.entry(path, LINK, to.as_bytes());
    }

    /// The whole of it.
    pub fn finish(mut self) -> Vec<u8> {
        self.entry("TRAILER!!!", 0, &[]);
        self.bytes
    }

    fn folders_above(&mut self, path: &str) {
        if let Some((folder, _)) = path.trim_matches('/').rsplit_once('/') {
            self.folder(folder);
        }
    }

    fn entry(&mut self, path: &str, mode: u32, content: &[u8]) {
        let name = path.trim_matches('/');
        self.count += 1;
        let size = u32::try_from(content.len()).expect("a file below 4 GiB");
        self.bytes.extend(b"070701");
        // Inode, mode, user, group, links, time, size, four numbers of devices, length of the name with its end, check.
        for field in [self.count, mode, 0, 0, 1, 0, size, 0, 0, 0, 0, name.len() as u32 + 1, 0] {
            self.bytes.extend(format!("{field:08x}").bytes());
        }
        self.bytes.extend(name.bytes());
        self.bytes.push(0);
        self.pad();
        self.bytes.extend(content);
        self.pad();
    }

    fn pad(&mut self) {
        self.bytes.resize(self.bytes.len().next_multiple_of(4), 0);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Entries as they are read back, by the rules and not by our code.
    fn read(mut bytes: &[u8]) -> Vec<(String, u32, Vec<u8>)> {
        let mut entries = Vec::new();
        loop {
            assert_eq!(&bytes[..6], b"070701");
            let field =
                |n: usize| u32::from_str_radix(str::from_utf8(&bytes[6 + n * 8..14 + n * 8]).unwrap(), 16).unwrap();
            let (mode, size, name_len) = (field(1), field(6) as usize, field(11) as usize);
            let name = String::from_utf8(bytes[110..110 + name_len - 1].to_vec()).unwrap();
            let start = (110 + name_len).next_multiple_of(4);
            if name == "TRAILER!!!" {
                return entries;
            }
            entries.push((name, mode, bytes[start..start + size].to_vec()));
            bytes = &bytes[(start + size).next_multiple_of(4)..];
        }
    }

    #[test]
    fn folders_come_once_and_before_what_is_in_them() {
        let mut archive = Archive::new();
        archive.file("/etc/a/one", b"12345");
        archive.program("/etc/a/two", b"");
        archive.link("/etc/three", "a/one");
        archive.folder("/etc/a/");
        let entries = read(&archive.finish());
        let told: Vec<_> =
            entries.iter().map(|(name, mode, content)| (name.as_str(), *mode, content.as_slice())).collect();
        let expected: [(&str, u32, &[u8]); 5] = [
            ("etc", FOLDER, b""),
            ("etc/a", FOLDER, b""),
            ("etc/a/one", FILE, b"12345"),
            ("etc/a/two", PROGRAM, b""),
            ("etc/three", LINK, b"a/one"),
        ];
        assert_eq!(told, expected);
    }
}
