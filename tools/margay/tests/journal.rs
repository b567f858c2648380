//! `margay journal` says what a store has written, and what somebody has broken.

use std::path::PathBuf;
use std::process::{Command, Output};

use libos_journal::memory::{Contents, MemoryDevice};
use libos_journal::{Format, Settings, Store};
use libos_mem::Heap;
use pdpix::{Completions, Instant, LogOp, OpId, OpenMode, Sga, Storage};

struct Image(PathBuf);

impl Image {
    fn write(name: &str, bytes: &[u8]) -> Image {
        let path = std::env::temp_dir().join(format!("margay-journal-{}-{name}", std::process::id()));
        std::fs::write(&path, bytes).unwrap();
        Image(path)
    }

    fn journal(&self, arguments: &[&str]) -> Output {
        let mut command = Command::new(env!("CARGO_BIN_EXE_margay"));
        command.arg("journal").arg(arguments[0]).arg(&self.0).args(&arguments[1..]).output().unwrap()
    }
}

impl Drop for Image {
    fn drop(&mut self) {
        let _ = std::fs::remove_file(&self.0);
    }
}

fn text(output: &Output) -> String {
    String::from_utf8_lossy(&output.stdout).into_owned()
}

/// A store with two logs: words, each record a batch of its own, and numbers.
fn image() -> Vec<u8> {
    let contents = Contents::new(2 << 20);
    let heap = Heap::alone(16 << 20).unwrap();
    let settings = Settings { format: Some(Format::new(0xfeed)), ..Settings::default() };
    let mut store = Store::new(Box::new(MemoryDevice::new(contents.clone())), heap.clone(), settings);
    let mut op = 0;
    let turn = |store: &mut Store| {
        let mut done = Completions::new();
        done.set_room(64);
        store.poll(Instant::ZERO, &mut done);
        store.flush(Instant::ZERO);
        while let Some(done) = done.pop() {
            done.result.unwrap();
        }
    };
    let words = store.open("words", OpenMode::ExistingOrNew).unwrap();
    let numbers = store.open("numbers", OpenMode::ExistingOrNew).unwrap();
    for i in 0..30u64 {
        for (log, bytes) in [(words, format!("word {i}\n")), (numbers, i.to_string())] {
            op += 1;
            store.submit(log, OpId(op), LogOp::Append(Sga::copy(&heap, bytes.as_bytes()).unwrap())).unwrap();
            (0..20).for_each(|_| turn(&mut store));
        }
    }
    contents.bytes().clone()
}

#[test]
fn it_shows_verifies_and_dumps_a_store() {
    let image = Image::write("whole", &image());
    let shown = image.journal(&["inspect"]);
    assert!(shown.status.success());
    for line in ["store          0000000000000000000000000000feed", "superblocks    good, good", "log 1 (\"words\")"] {
        assert!(text(&shown).contains(line), "{line} is not in\n{}", text(&shown));
    }
    let verified = image.journal(&["verify"]);
    assert!(verified.status.success());
    assert!(
        text(&verified).contains("\"words\": 30 records, 230 bytes, 1 up to 31: all is there"),
        "{}",
        text(&verified)
    );
    let dumped = image.journal(&["dump", "--log", "words", "--from", "3", "--count", "2"]);
    let lines: Vec<String> = text(&dumped).lines().map(String::from).collect();
    assert_eq!(lines.len(), 2);
    assert!(lines[0].starts_with("3 1 ") && lines[0].ends_with(" 7 word 2\\n"), "{lines:?}");
    let raw = image.journal(&["dump", "--log", "words", "--raw"]);
    assert_eq!(text(&raw), (0..30).map(|i| format!("word {i}\n")).collect::<String>());
    let both = image.journal(&["dump"]);
    assert!(!both.status.success() && String::from_utf8_lossy(&both.stderr).contains("say which with --log"));
    assert_eq!(std::fs::read(&image.0).unwrap(), self::image(), "nothing was changed");
}

#[test]
fn it_says_what_is_lost() {
    let mut bytes = image();
    let at = bytes.windows(7).position(|window| window == b"word 9\n").unwrap();
    bytes[at] ^= 1;
    let image = Image::write("damaged", &bytes);
    let verified = image.journal(&["verify"]);
    assert_eq!(verified.status.code(), Some(1));
    assert!(text(&verified).contains("\"words\": 29 records"), "{}", text(&verified));
    let place = format!("records 10 to 10 are lost, at byte {} of the device", at - 32);
    assert!(text(&verified).contains(&place), "{}", text(&verified));
    assert!(text(&verified).contains("\"numbers\": 30 records"), "{}", text(&verified));
    let dumped = image.journal(&["dump", "--log", "words", "--raw"]);
    assert!(text(&dumped).contains("word 8\nword 10\n"), "what can be read is dumped");
    assert_eq!(dumped.status.code(), Some(1));
}

#[test]
fn what_is_no_store_is_refused_with_a_sentence() {
    for (name, bytes, sentence) in [
        ("blank", vec![0; 1 << 20], "is blank: there is no journal on it"),
        ("foreign", vec![7; 1 << 20], "holds no journal"),
        ("empty", Vec::new(), "holds no journal"),
    ] {
        let output = Image::write(name, &bytes).journal(&["inspect"]);
        let error = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(!output.status.success() && error.contains(sentence), "{name}: {error}");
    }
}
