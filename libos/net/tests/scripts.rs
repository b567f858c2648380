//! Plays the packet scripts in `scripts/`; `script/mod.rs` has their form.

mod script;

const FOLDER: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/scripts");

/// A test for each script, and one that no script was forgotten.
macro_rules! scripts {
    ($($name:ident,)*) => {
        $(
            #[test]
            fn $name() {
                script::play(FOLDER, stringify!($name));
            }
        )*

        #[test]
        fn every_script_is_played() {
            let entries = std::fs::read_dir(FOLDER).unwrap();
            let mut there: Vec<String> =
                entries.map(|entry| entry.unwrap().file_name().into_string().unwrap().replace(".pkt", "")).collect();
            let mut played = vec![$(stringify!($name).to_string(),)*];
            there.sort();
            played.sort();
            assert_eq!(there, played);
        }
    };
}

scripts! {
    handshake_passive,
}
