//! The engines of a cache of some shards, driven by hand with a clock of their own; what they write down is kept.

use std::collections::BTreeMap;

use kv_engine::command::find;
use kv_engine::engine::{Engine, Limits, Session};
use kv_engine::fuzzing::contents;
use kv_engine::log::{Joint, head_of};
use kv_engine::rdb::Reader;
use kv_engine::resp::{Request, RequestParser};
use kv_engine::shard::{Part, Plan, Step, plan, shard_of};
use pdpix::{Heap, Input, Output, Rng, Seed, Sga, WallTime};

/// What a shard's data is.
pub type Contents = BTreeMap<(usize, Vec<u8>), String>;

/// A cache of some shards.
pub struct World {
    heap: Heap,
    pub engines: Vec<Engine>,
    /// What each has written down.
    pub records: Vec<Vec<Vec<u8>>>,
    pub now: u64,
    joints: u64,
}

impl World {
    pub fn new(shards: usize, heap: &Heap) -> World {
        let engines = (0..shards)
            .map(|index| {
                let number = index as u64;
                Engine::new((index, shards), heap.clone(), Seed::new(number), Rng::new(number))
            })
            .collect();
        World { heap: heap.clone(), engines, records: vec![Vec::new(); shards], now: 1_000_000, joints: 0 }
    }

    pub fn keep_log(&mut self) {
        self.engines.iter_mut().for_each(|engine| engine.keep_log(1));
    }

    fn wall(&self) -> WallTime {
        WallTime::from_nanos(self.now * 1_000_000)
    }

    /// Carries a command out as a server does, and says what is answered.
    pub fn run(&mut self, args: &[Vec<u8>], database: u8) -> Vec<u8> {
        let request = Request::of(args.iter().map(Vec::as_slice), &self.heap).unwrap();
        self.carry_out(&request, database)
    }

    /// The same for commands as clients send them, one behind the other in one buffer, each at its time.
    pub fn run_sent(&mut self, sent: &[(Vec<Vec<u8>>, u8, u64)]) {
        let mut bytes = Vec::new();
        for (args, ..) in sent {
            bytes.extend(format!("*{}\r\n", args.len()).into_bytes());
            for arg in args {
                bytes.extend([format!("${}\r\n", arg.len()).as_bytes(), arg, b"\r\n"].concat());
            }
        }
        let (mut parser, mut input, mut request) = (RequestParser::new(), Input::new(), Request::default());
        input.push(Sga::copy(&self.heap, &bytes).unwrap());
        for (args, database, now) in sent {
            self.now = *now;
            assert!(parser.next(&mut input, &self.heap, &mut request).unwrap(), "it was sent whole");
            assert!(request.args_from(0).eq(args.iter().map(Vec::as_slice)));
            self.carry_out(&request, *database);
        }
    }

    fn carry_out(&mut self, request: &Request, database: u8) -> Vec<u8> {
        let (session, now) = (Session { database, ..Session::default() }, self.wall());
        let mut out = Output::new(self.heap.clone());
        let Ok(command) = find(request) else { return Vec::new() };
        match plan(command, request, session, self.engines.len()) {
            Plan::Connection => {}
            Plan::Shard(shard) => self.engines[shard].execute(command, request, session, now, &mut out),
            Plan::Conversation(mut conversation) => {
                for shard in conversation.hold() {
                    self.take_record(*shard, None);
                }
                let mut step = conversation.start(&mut out);
                while let Step::Ask(parts) = step {
                    let answers =
                        parts.into_iter().map(|(shard, part): (_, Part)| self.engines[shard].carry_out(part, now));
                    let answers = answers.collect();
                    step = conversation.step(answers, &Limits::default(), now, &mut out);
                }
                self.joints += 1;
                let joint = Joint { id: self.joints, shards: conversation.hold().iter().map(|&s| s as u16).collect() };
                for shard in conversation.hold() {
                    self.take_record(*shard, Some(&joint));
                }
            }
        }
        out.take().unwrap().to_vec()
    }

    /// Ends the record of a shard.
    pub fn take_record(&mut self, shard: usize, joint: Option<&Joint>) {
        if let Some(record) = self.engines[shard].take_record(joint).unwrap() {
            let record = record.to_vec();
            assert_eq!(head_of(&record).unwrap().number, self.records[shard].len() as u64 + 1);
            assert_eq!(head_of(&record).unwrap().joint.as_ref(), joint);
            self.records[shard].push(record);
        }
    }

    pub fn take_records(&mut self) {
        (0..self.engines.len()).for_each(|shard| self.take_record(shard, None));
    }

    pub fn contents(&self) -> Vec<Contents> {
        self.engines.iter().map(|engine| contents(engine, self.wall())).collect()
    }

    /// Makes a shard's data from a file and from records behind it.
    pub fn recovered(&self, shard: usize, file: Option<&[u8]>, records: &[Vec<u8>], first: u64) -> Contents {
        let shards = self.engines.len();
        let mut engine = Engine::new((shard, shards), self.heap.clone(), Seed::new(99), Rng::new(99));
        if let Some(file) = file {
            let mut reader = Reader::new();
            for piece in file.chunks(1000) {
                reader.feed(piece);
                engine.load(&mut reader, |key| shard_of(key, shards) == shard, None, usize::MAX).unwrap();
            }
            reader.finish();
            engine.load(&mut reader, |_| true, None, usize::MAX).unwrap();
            assert!(reader.is_over(), "a snapshot without its end");
        }
        for (record, number) in records.iter().zip(first..) {
            engine.replay(record, number - 1).unwrap();
        }
        contents(&engine, self.wall())
    }
}

/// Bytes, wherever they lie.
pub fn bytes(sga: Sga) -> Vec<u8> {
    sga.to_vec()
}
