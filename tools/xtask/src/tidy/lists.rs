//! What the rules allow: the lists that a change of the design changes.

/// What a crate may depend on, and why it may not on more. What lies below an arrow is allowed, too.
pub struct Arrows {
    pub from: &'static str,
    pub to: &'static [&'static str],
    pub why: &'static str,
}

/// The tree, from below. Tests may use [`FOR_TESTS`] besides.
pub const ARROWS: &[Arrows] = &[
    Arrows { from: "libos-mem", to: &[], why: "memory is below everything" },
    Arrows { from: "pdpix", to: &["libos-mem"], why: "contracts name buffers, and nothing that implements them" },
    Arrows { from: "libos-runtime", to: &["pdpix"], why: "the runtime names no backend" },
    Arrows { from: "libos-net", to: &["pdpix"], why: "a pure core" },
    Arrows { from: "libos-journal", to: &["pdpix"], why: "a pure core" },
    Arrows { from: "kv-engine", to: &["pdpix"], why: "a pure core" },
    Arrows { from: "kv-differential", to: &["kv-engine"], why: "it judges the engine and any server, and runs none" },
    Arrows { from: "txn-protocol", to: &["pdpix"], why: "a pure core" },
    Arrows { from: "libos-posix", to: &["libos-runtime"], why: "a backend names no other one" },
    Arrows { from: "libos-net", to: &["pdpix"], why: "a pure core cannot read a clock" },
    Arrows { from: "libos-xdp", to: &["libos-net"], why: "it moves frames, and knows nothing of who wants them" },
    Arrows { from: "dpdk-sys", to: &[], why: "it binds somebody else's library, and knows nothing of us" },
    Arrows {
        from: "libos-dpdk",
        to: &["dpdk-sys", "libos-net"],
        why: "it moves frames, and knows nothing of who wants them",
    },
    Arrows { from: "spdk-sys", to: &[], why: "it binds somebody else's library, and knows nothing of us" },
    Arrows {
        from: "libos-spdk",
        to: &["spdk-sys", "pdpix"],
        why: "it moves blocks, and knows nothing of what is in them",
    },
    Arrows { from: "libos-sim", to: &["libos-runtime", "libos-net"], why: "the simulator is a shell like any other" },
    Arrows { from: "libos-conformance", to: &["libos-runtime"], why: "one suite for all backends knows none of them" },
    Arrows {
        from: "libos-boot",
        to: &["libos-runtime", "libos-posix", "libos-net", "libos-xdp", "libos-dpdk", "libos-spdk", "libos-journal"],
        why: "it puts backends together",
    },
    Arrows { from: "libos-demi", to: &["libos-boot"], why: "it is a face of what boot puts together" },
    Arrows { from: "framework", to: &["libos-runtime"], why: "actors know no backend" },
    Arrows { from: "services", to: &["framework"], why: "a service knows actors, and no backend" },
    Arrows { from: "kv-server", to: &["kv-engine", "framework"], why: "a service knows its core and actors" },
    Arrows { from: "kv-client", to: &["kv-engine", "framework"], why: "a client knows its core and actors" },
    Arrows { from: "tally", to: &["framework", "libos-boot"], why: "what an author's program needs" },
    Arrows { from: "cluster-tests", to: ANYTHING, why: "it runs every part against every other" },
    Arrows { from: "margay-bench", to: ANYTHING, why: "it measures every part" },
    Arrows {
        from: "margay-guest",
        to: &["libos-conformance"],
        why: "a machine and its disk, and nothing of what runs on it",
    },
    Arrows { from: "margay", to: ANYTHING, why: "it puts everything together" },
    Arrows { from: "xtask", to: &[], why: "it is compiled first" },
];

/// Stands for every crate of ours.
pub const ANYTHING: &[&str] = &["*"];

/// Crates that tests may use besides.
pub const FOR_TESTS: &[&str] = &[
    "libos-sim",
    "libos-conformance",
    "libos-runtime",
    "libos-journal",
    "libos-mem",
    "pdpix",
    "kv-differential",
    "margay-guest",
];

/// Arrows of tests alone: from whom, to whom. A client and its server are tried against each other in the simulator.
pub const ARROWS_OF_TESTS: &[(&str, &str)] = &[("kv-server", "kv-client"), ("kv-client", "kv-server")];

/// Words that a part of the tree may not use outside of its tests, and what to do instead.
pub struct Ban {
    /// Folders of sources; a file below one of them is meant.
    pub folders: &'static [&'static str],
    pub words: &'static [&'static str],
    /// Files that may, with the reason.
    pub but: &'static [(&'static str, &'static str)],
    pub instead: &'static str,
}

/// Whatever must run the same way in the simulator as on a machine: all above the backends.
const REPLAYED: &[&str] = &[
    "libos/pdpix/src",
    "libos/mem/src",
    "libos/runtime/src",
    "libos/net/src",
    "libos/journal/src",
    "libos/sim/src",
    "framework/src",
    "services/src",
    "kv/engine/src",
    "kv/server/src",
    "kv/client/src",
    "txn/protocol/src",
];

/// Pure cores: bytes, messages and `now` in; bytes, messages and deadlines out.
const PURE: &[&str] = &["libos/pdpix/src", "libos/net/src", "libos/journal/src", "kv/engine/src", "txn/protocol/src"];

pub const BANS: &[Ban] = &[
    Ban {
        folders: REPLAYED,
        words: &["Instant::now", "SystemTime", "UNIX_EPOCH", "clock_gettime", "thread::sleep"],
        but: &[("libos/runtime/src/clock.rs", "the clock of the kernel")],
        instead: "take `now` as an argument, or the time of the outbox or the LibOs",
    },
    Ban {
        folders: REPLAYED,
        words: &["thread_rng", "getrandom", "RandomState", "DefaultHasher", "fastrand::u64", "fastrand::seed"],
        but: &[],
        instead: "take an `Rng` or a `Seed` of pdpix, which come from the run's seed",
    },
    Ban {
        folders: REPLAYED,
        words: &["std::collections::HashMap", "std::collections::HashSet"],
        but: &[("libos/pdpix/src/map.rs", "the seeded map is made of it")],
        instead: "use `pdpix::Map` and `pdpix::Set`: their order comes from the run's seed",
    },
    Ban {
        folders: REPLAYED,
        words: &["thread::spawn", "thread::Builder"],
        but: &[],
        instead: "cores are started by libos-boot; work on a core is a coroutine or an actor",
    },
    Ban {
        folders: PURE,
        words: &[
            "std::fs",
            "std::thread",
            "std::process",
            "std::env",
            "TcpStream",
            "TcpListener",
            "UdpSocket",
            "io::stdin",
            "io::stdout",
            "io::stderr",
            "println!",
            "eprintln!",
        ],
        but: &[],
        instead: "a pure core does no I/O: its shell does",
    },
    Ban {
        folders: &["libos", "framework", "services", "kv", "txn"],
        words: &["thread_local!"],
        but: &[
            ("libos/mem/src/global.rs", "the global allocator has no other way to know its core"),
            ("libos/demi/src/thread.rs", "C's calls name no core but that of their thread"),
            ("libos/demi/src/here.rs", "the same"),
        ],
        instead: "reach the core by its handle: the simulator runs several in one thread",
    },
    Ban {
        folders: &["libos", "framework", "services", "kv", "txn", "cluster-tests", "tools", "docs"],
        words: &["todo!", "unimplemented!", "dbg!"],
        but: &[],
        instead: "finish it, or return an error that says what is missing",
    },
];

/// Where `unsafe` may stand: folders or files. Every other crate says `#![forbid(unsafe_code)]`, and every other file of
/// these crates has none. Tests are free.
pub const UNSAFE: &[&str] = &[
    "libos/mem/src",
    "libos/runtime/src",
    "libos/posix/src/ffi.rs",
    "libos/posix/src/uring.rs",
    "libos/posix/src/block/ffi.rs",
    "libos/xdp/src/ffi",
    "libos/dpdk-sys/src",
    "libos/dpdk/src/ffi",
    "libos/spdk-sys/src",
    "libos/spdk/src/ffi",
    "libos/demi/src",
    "libos/demi/examples",
];

/// Licences of dependencies: permissive ones.
pub const LICENCES: &[&str] = &[
    "MIT",
    "MIT-0",
    "Apache-2.0",
    "Apache-2.0 WITH LLVM-exception",
    "BSD-2-Clause",
    "BSD-3-Clause",
    "ISC",
    "Zlib",
    "0BSD",
    "BSL-1.0",
    "CC0-1.0",
    "Unlicense",
    "Unicode-3.0",
];

/// Files longer than this are in tools/xtask/ratchet.txt.
pub const LINES_MAX: usize = 600;

/// Such names all the same, as others have given them and programs ask for them.
pub const GIVEN_NAMES: &[&str] = &["libos/demi/include/demi/types.h"];

/// Names that say nothing of what is in a file or folder.
pub const EMPTY_NAMES: &[&str] = &["util", "utils", "common", "helper", "helpers", "misc", "types"];
