use kv_engine::engine::{Engine, Session};
use kv_engine::resp::{Request, RequestParser};
use libos_mem::{Plan, Purpose, Reservation, Reserves, Source};
use pdpix::{Input, Output, Rng, Seed, Sga, WallTime};

fn main() {
    let mut args = std::env::args().skip(1);
    let what = args.next().unwrap_or("get".into());
    let count: u64 = args.next().and_then(|n| n.parse().ok()).unwrap_or(100_000);
    let batch: u64 = args.next().and_then(|n| n.parse().ok()).unwrap_or(1);
    let keys: u64 = 100_000;
    let plan = Plan { heaps: 1, heap_size: 256 << 20, reserves: Reserves::NONE, source: Source::Ordinary };
    let heap = Reservation::new(plan).unwrap().heap(0).unwrap();
    let mut engine = Engine::new((0, 1), heap.clone(), Seed::new(1), Rng::new(2));
    let mut rng = Rng::new(3);
    let (mut input, mut output, mut parser) = (Input::new(), Output::new(heap.clone()), RequestParser::new());
    let now = WallTime::from_nanos(1_700_000_000_000_000_000);
    let set = |k: u64| format!("*3\r\n$3\r\nSET\r\n$64\r\n{k:064}\r\n$64\r\n{:064}\r\n", k ^ 12345);
    let get = |k: u64| format!("*2\r\n$3\r\nGET\r\n$64\r\n{k:064}\r\n");
    let mut request = Request::default();
    let mut run = |bytes: &[u8]| {
        let mut chunk = heap.alloc_for(Purpose::Receive, 16384).unwrap();
        chunk.put(bytes);
        input.push(Sga::from(chunk.freeze()));
        while parser.next(&mut input, &heap, &mut request).unwrap() {
            let command = kv_engine::command::lookup(request.arg(0)).unwrap();
            engine.execute(command, &request, Session::default(), now, &mut output);
        }
        std::hint::black_box(output.take().unwrap());
    };
    for k in 0..keys {
        run(set(k).as_bytes());
    }
    // Prepared before, so that formatting is not measured.
    let prepared: Vec<String> = (0..1000)
        .map(|_| {
            (0..batch)
                .map(|_| {
                    let k = rng.below(keys);
                    if what == "set" { set(k) } else { get(k) }
                })
                .collect()
        })
        .collect();
    for i in 0..count / batch {
        run(prepared[i as usize % 1000].as_bytes());
    }
}
