//! How many instructions of the user's a command takes from its bytes to its reply's: parse, find, execute, write.
//!
//! Valgrind counts what the whole program does, so two runs are subtracted:
//!
//! ```text
//! cargo build --release -p kv-engine --example instructions
//! for n in 100000 200000; do
//!     valgrind --tool=callgrind --callgrind-out-file=/dev/null target/release/examples/instructions get $n 16
//! done
//! ```
//!
//! The difference of the two counts that it prints (`Collected`), divided by 100,000, is one command. The arguments:
//! `get` or `set`; how many commands; how many arrive in one buffer (1: also the work of a buffer and a reply each).

use kv_engine::config::Config;
use kv_engine::connection::{Connection, Host};
use kv_engine::engine::Engine;
use kv_engine::refusal::ErrorCounts;
use kv_engine::resp::{Request, RequestParser};
use kv_engine::shard::{Plan, plan};
use libos_mem::{Plan as MemoryPlan, Purpose, Reservation, Reserves, Source};
use pdpix::{Heap, Input, Output, Rng, Seed, Sga, WallTime};

const KEYS: u64 = 10_000;
/// Different buffers of commands, so that the processor does not learn them by heart.
const BUFFERS: u64 = 500;

fn set(key: u64) -> String {
    format!("*3\r\n$3\r\nSET\r\n$16\r\nkey:{key:012}\r\n$64\r\n{:064}\r\n", key ^ 12345)
}

fn get(key: u64) -> String {
    format!("*2\r\n$3\r\nGET\r\n$16\r\nkey:{key:012}\r\n")
}

struct Server {
    heap: Heap,
    engine: Engine,
    connection: Connection,
    config: Config,
    errors: ErrorCounts,
    parser: RequestParser,
    request: Request,
    input: Input,
    out: Output,
}

impl Server {
    fn new() -> Server {
        let plan = MemoryPlan { heaps: 1, heap_size: 256 << 20, reserves: Reserves::NONE, source: Source::Ordinary };
        let heap = Reservation::new(plan).expect("memory").heap(0).expect("the first heap");
        let config = Config::default();
        Server {
            engine: Engine::new((0, 1), heap.clone(), Seed::new(1), Rng::new(2)),
            connection: Connection::new(1, &config),
            config,
            errors: ErrorCounts::default(),
            parser: RequestParser::new(),
            request: Request::default(),
            input: Input::new(),
            out: Output::new(heap.clone()),
            heap,
        }
    }

    /// What a server does with bytes that have arrived.
    fn serve(&mut self, bytes: &[u8]) {
        let mut chunk = self.heap.alloc_for(Purpose::Receive, 16_384).expect("memory");
        chunk.put(bytes);
        self.input.push(Sga::from(chunk.freeze()));
        let now = WallTime::from_nanos(1_700_000_000_000_000_000);
        while self.parser.next(&mut self.input, &self.heap, &mut self.request).expect("RESP") {
            let mut host = Host { config: &self.config, now, errors: &mut self.errors };
            let Some(command) = self.connection.admit(&self.request, &mut host, &mut self.out) else { continue };
            let session = self.connection.session();
            if let Plan::Shard(_) = plan(command, &self.request, session, 1) {
                self.engine.execute(command, &self.request, session, now, &mut self.out);
            }
        }
        std::hint::black_box(self.out.take().expect("memory"));
    }
}

fn main() {
    let mut args = std::env::args().skip(1);
    let Some(what) = args.next() else {
        eprintln!(
            "instructions get|set [COMMANDS] [BATCH]: carries out so many commands, so many in a buffer.\nCounted by:\n  for \
             n in 100000 200000; do valgrind --tool=callgrind --callgrind-out-file=/dev/null instructions get $n 16; done\n\
             The difference of the two counts, divided by 100000, is one command."
        );
        std::process::exit(2);
    };
    let mut number = |default: u64| args.next().and_then(|text| text.parse().ok()).unwrap_or(default);
    let (count, batch) = (number(100_000), number(16).max(1));
    let mut server = Server::new();
    (0..KEYS).for_each(|key| server.serve(set(key).as_bytes()));
    let mut rng = Rng::new(3);
    let mut buffer = || -> String {
        (0..batch).map(|_| rng.below(KEYS)).map(|key| if what == "set" { set(key) } else { get(key) }).collect()
    };
    let buffers: Vec<String> = (0..BUFFERS).map(|_| buffer()).collect();
    (0..count / batch).for_each(|index| server.serve(buffers[(index % BUFFERS) as usize].as_bytes()));
}
