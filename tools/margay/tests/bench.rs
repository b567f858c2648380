//! `margay bench` measures everything on a machine like this one.

use std::process::Command;

#[test]
fn every_figure_has_a_number_and_a_unit() {
    let output = Command::new(env!("CARGO_BIN_EXE_margay")).arg("bench").output().unwrap();
    let text = String::from_utf8(output.stdout).unwrap();
    assert!(output.status.success(), "{text}");
    let one_processor = std::thread::available_parallelism().is_ok_and(|processors| processors.get() == 1);
    for (what, unit) in [
        ("coroutine switch", "ns"),
        ("memory queue, push and pop", "ns"),
        ("alloc and free, 64 B", "ns"),
        ("core to core, one hop", "ns"),
        ("TCP echo, spinning", "us"),
        ("TCP echo, adaptive", "us"),
        ("kv GET, 64 in flight", "k/s"),
    ] {
        let line = text.lines().find_map(|line| line.strip_prefix(what)).unwrap_or_else(|| panic!("{what}: {text}"));
        if one_processor && what.starts_with("core to core") {
            println!("SKIP margay_bench_hop: there is one processor");
            continue;
        }
        let words: Vec<&str> = line.split_whitespace().collect();
        let number: f64 = words[0].parse().unwrap_or_else(|_| panic!("{what}: {line}"));
        assert!(number > 0.0 && words[1] == unit && line.ends_with('.'), "{what}: {line}");
    }
}
