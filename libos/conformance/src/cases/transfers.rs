//! Much data: many small messages, many bytes, many segments, and every way to cut them.

use pdpix::Rng;

use crate::flow::{Flow, Reader, Writer};
use crate::pattern::Pattern;
use crate::scene::{Scene, Verdict};
use crate::subject::{Ended, Token};

/// How much is sent each way: 64 MiB, or 1 GiB if there is time (`MARGAY_LONG=1`).
fn big() -> u64 {
    if std::env::var_os("MARGAY_LONG").is_some() { 1 << 30 } else { 64 << 20 }
}

pub fn a_million_small_messages_arrive_in_order(scene: &mut Scene) -> Verdict {
    let pair = scene.pair();
    let pattern = Pattern::of(16);
    let total = 16 * 1_000_000;
    let mut writer = Writer::new(pair.client, pattern, total, 16, 256);
    let mut reader = Reader::of(pair.server, pattern, total, 64 * 1024, 4);
    scene.run(&mut [&mut writer, &mut reader]);
    scene.part(pair);
    Ok(())
}

pub fn a_big_transfer_goes_both_ways_at_once(scene: &mut Scene) -> Verdict {
    let pair = scene.pair();
    let (there, back) = (Pattern::of(1), Pattern::of(2));
    let mut flows: [Box<dyn Flow>; 4] = [
        Box::new(Writer::new(pair.client, there, big(), 128 * 1024, 8).then_finish()),
        Box::new(Writer::new(pair.server, back, big(), 100_000, 8).then_finish()),
        Box::new(Reader::to_end(pair.server, there, 256 * 1024, 3)),
        Box::new(Reader::to_end(pair.client, back, 64 * 1024, 1)),
    ];
    let [a, b, c, d] = &mut flows;
    scene.run(&mut [&mut **a, &mut **b, &mut **c, &mut **d]);
    scene.close(&[pair.client, pair.server]);
    Ok(())
}

pub fn a_push_may_lie_in_many_segments(scene: &mut Scene) -> Verdict {
    let pair = scene.pair();
    for segments in [2, 3, 16, 63, 64, 65, 200, 1000] {
        let pattern = Pattern::of(segments as u64);
        for size in [segments, 10 * segments, 100_000] {
            let total = 5 * size as u64;
            let mut writer = Writer::new(pair.client, pattern, total, size, 4).in_segments(segments);
            let mut reader = Reader::of(pair.server, pattern, total, 1 << 20, 2);
            scene.run(&mut [&mut writer, &mut reader]);
        }
    }
    scene.part(pair);
    Ok(())
}

pub fn a_push_of_eight_mebibytes_is_carried_whole(scene: &mut Scene) -> Verdict {
    let pair = scene.pair();
    let pattern = Pattern::of(8);
    for round in 0..2 {
        let total = 8 << 20;
        // Beyond the budget: it is accepted nevertheless, as nothing else is under way.
        let push = scene.s.push(pair.client, &[&pattern.bytes(0, total)], None).expect("an open queue");
        let mut reader = Reader::of(pair.server, pattern, total as u64, 1 << 20, 1 + round);
        scene.run(&mut [&mut reader]);
        assert_eq!(scene.done(push), Ended::Pushed);
    }
    scene.part(pair);
    Ok(())
}

/// Pushes and pops of any length, in any mixture.
pub fn however_it_is_cut_the_bytes_are_the_same(scene: &mut Scene) -> Verdict {
    let pair = scene.pair();
    let pattern = Pattern::of(77);
    let mut rng = Rng::new(77);
    let total: u64 = 3 << 20;
    let (mut pushed, mut popped) = (0, 0);
    let (mut pushes, mut pops) = (Vec::<Token>::new(), std::collections::VecDeque::<Token>::new());
    scene.until("random pushes and pops", |s| {
        let len = 1u64 << rng.below(16);
        let len = (len + rng.below(len)).min(total - pushed) as usize;
        if len > 0 && pushes.len() < 10 && rng.chance(0.5) {
            let bytes = pattern.bytes(pushed, len);
            let cut = rng.below(len as u64) as usize;
            let segments: Vec<&[u8]> = [&bytes[..cut], &bytes[cut..]].into_iter().filter(|s| !s.is_empty()).collect();
            pushes.push(s.push(pair.client, &segments, None).expect("an open queue"));
            pushed += len as u64;
        }
        pushes.retain(|&token| s.poll(token).expect("a token that is held").is_none());
        if pops.len() < 3 && popped < total {
            let bits = rng.below(17);
            let len_max = 1 + rng.below(1 << bits) as usize;
            pops.push_back(s.pop(pair.server, len_max).expect("an open queue"));
        }
        while let Some(&pop) = pops.front() {
            let Some(end) = s.poll(pop).expect("a token that is held") else { break };
            pops.pop_front();
            let Ok(Ended::Popped(arrival)) = end.result else { panic!("a pop gave {end:?}") };
            assert_eq!(pattern.check(popped, &arrival.bytes), Ok(()));
            assert!(!arrival.bytes.is_empty());
            popped += arrival.bytes.len() as u64;
        }
        popped == total
    });
    for pop in pops {
        scene.s.cancel(pop).expect("a token that is held");
        assert_eq!(scene.fails(pop), pdpix::Error::Canceled);
    }
    for push in pushes {
        assert_eq!(scene.done(push), Ended::Pushed);
    }
    scene.part(pair);
    Ok(())
}
