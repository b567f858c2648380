use libos_mem::Heap;
use pdpix::Sga;
use quickcheck::quickcheck;

use super::*;
use crate::device::Frame;
use crate::wire::{Ecn, EtherType};

const MS: Duration = Duration::from_millis(1);

fn at(nanos: u64) -> Instant {
    Instant::from_nanos(nanos)
}

fn line(settings: LineSettings) -> Line<Vec<u8>> {
    Line::new(settings, Rng::new(7))
}

fn frame(number: u32, len: usize) -> Vec<u8> {
    let mut bytes = vec![0; len.max(4)];
    bytes[..4].copy_from_slice(&number.to_be_bytes());
    bytes
}

fn number(frame: &[u8]) -> u32 {
    u32::from_be_bytes(frame[..4].try_into().unwrap())
}

/// Everything that comes out, and when.
fn drain(line: &mut Line<Vec<u8>>) -> Vec<(Instant, Vec<u8>)> {
    let mut out = Vec::new();
    while let Some(due) = line.deadline() {
        assert!(due == Instant::ZERO || line.pop(due - Duration::from_nanos(1)).is_none(), "not before its time");
        out.push((due, line.pop(due).expect("at its time")));
    }
    line.check();
    out
}

fn through(settings: LineSettings, count: u32, gap: Duration) -> (Vec<u32>, LineCounters) {
    let mut line = line(settings);
    (0..count).for_each(|i| line.push(Instant::ZERO + gap * i, frame(i, 100)));
    (drain(&mut line).iter().map(|(_, bytes)| number(bytes)).collect(), line.counters())
}

#[test]
fn a_line_without_faults_carries_everything_in_order() {
    let settings = LineSettings { latency: MS..=MS * 20, ..LineSettings::default() };
    let (numbers, counters) = through(settings, 1000, MS);
    assert_eq!(numbers, (0..1000).collect::<Vec<_>>());
    assert_eq!((counters.dropped(), counters.delivered, counters.delivered_bytes), (0, 1000, 100_000));
}

#[test]
fn a_frame_takes_its_latency_and_its_length_at_the_rate() {
    // 1000 bytes at 8 Mbit/s are a millisecond.
    let mut line =
        line(LineSettings { bandwidth: Some(8_000_000), latency: MS * 5..=MS * 5, ..LineSettings::default() });
    line.push(at(0), frame(0, 1000));
    line.push(at(0), frame(1, 1000));
    line.push(at(10_000_000), frame(2, 500));
    let times: Vec<u64> = drain(&mut line).iter().map(|(due, _)| due.as_nanos()).collect();
    assert_eq!(times, [6_000_000, 7_000_000, 15_500_000]);
}

#[test]
fn the_rate_is_exact_over_many_short_frames() {
    // 64 bytes at 10 Gbit/s are 51.2 ns: what is left of a nanosecond is not lost.
    let settings = LineSettings {
        bandwidth: Some(10_000_000_000),
        queue_frames: usize::MAX,
        frames_max: usize::MAX,
        ..LineSettings::default()
    };
    let mut line = line(settings);
    (0..100_000).for_each(|i| line.push(at(0), frame(i, 64)));
    assert_eq!(drain(&mut line).last().unwrap().0, at(5_120_000));
}

#[test]
fn a_full_queue_drops_at_its_tail_by_frames_and_by_bytes() {
    let slow = LineSettings { bandwidth: Some(8_000_000), ..LineSettings::default() };
    let (numbers, counters) = through(LineSettings { queue_frames: 10, ..slow.clone() }, 25, Duration::ZERO);
    assert_eq!((numbers, counters.queue_full), ((0..10).collect(), 15));
    let (numbers, counters) = through(LineSettings { queue_bytes: 399, ..slow.clone() }, 5, Duration::ZERO);
    assert_eq!((numbers, counters.queue_full), ((0..3).collect(), 2));
    // A frame of 100 bytes takes 100 us: at half that pace every second one finds room.
    let (numbers, _) = through(LineSettings { queue_frames: 1, ..slow }, 10, Duration::from_micros(50));
    assert_eq!(numbers, [0, 2, 4, 6, 8]);
}

#[test]
fn a_frame_longer_than_the_queue_is_sent_when_nothing_waits() {
    let mut line = line(LineSettings { bandwidth: Some(8_000_000), queue_bytes: 10, ..LineSettings::default() });
    line.push(at(0), frame(0, 1000));
    assert_eq!(drain(&mut line).len(), 1);
}

#[test]
fn frames_are_lost_as_often_as_was_said() {
    let (numbers, counters) =
        through(LineSettings { loss: Loss::Each(0.3), ..LineSettings::default() }, 10_000, Duration::ZERO);
    assert_eq!(numbers.len() as u64 + counters.lost, 10_000);
    assert!((2_800..3_200).contains(&counters.lost), "{}", counters.lost);
    assert!(numbers.is_sorted());
}

#[test]
fn bursts_of_loss_are_as_long_and_as_frequent_as_was_said() {
    let loss = Loss::Bursts { begins: 0.01, ends: 0.2, inside: 1.0, outside: 0.0 };
    let (numbers, counters) = through(LineSettings { loss, ..LineSettings::default() }, 60_000, Duration::ZERO);
    let bursts = numbers.windows(2).filter(|pair| pair[1] != pair[0] + 1).count() as f64;
    // In the long run begins / (begins + ends) of the frames are inside of a burst, and a burst is 1 / ends long.
    let (share, mean) = (counters.lost as f64 / 60_000.0, counters.lost as f64 / bursts);
    assert!((0.040..0.056).contains(&share), "{share}");
    assert!((4.5..5.6).contains(&mean), "{mean}");
}

#[test]
fn duplicates_strays_and_damage_are_counted_as_they_are_seen() {
    let settings = LineSettings {
        latency: MS..=MS,
        duplication: 0.1,
        strays: 0.1,
        stray_by: MS..=MS * 5,
        ..LineSettings::default()
    };
    let (numbers, counters) = through(settings, 10_000, Duration::from_micros(100));
    assert_eq!(numbers.len() as u64, 10_000 + counters.duplicated);
    assert!((900..1_100).contains(&counters.duplicated), "{}", counters.duplicated);
    assert!((950..1_250).contains(&counters.strayed), "{}: a tenth of all, the twins too", counters.strayed);
    assert!(!numbers.is_sorted());
    let mut all = numbers;
    all.sort_unstable();
    all.dedup();
    assert_eq!(all.len(), 10_000, "nothing is missing");

    let mut line = line(LineSettings { corruption: 1.0, truncation: 0.5, ..LineSettings::default() });
    (0..100).for_each(|_| line.push(at(0), vec![0; 60]));
    let out = drain(&mut line);
    let short = out.iter().filter(|(_, bytes)| bytes.len() < 60).count() as u64;
    assert_eq!((line.counters().corrupted, line.counters().truncated), (100, short));
    let flipped = |bytes: &[u8]| bytes.iter().map(|byte| byte.count_ones()).sum::<u32>();
    assert!(out.iter().all(|(_, bytes)| bytes.len() < 60 || flipped(bytes) == 1), "one bit each");
    assert!(short > 20 && short < 80, "{short}");
}

#[test]
fn long_frames_fall_into_the_black_hole() {
    let mut line = line(LineSettings { frame_len_max: Some(500), ..LineSettings::default() });
    [499, 500, 501].into_iter().for_each(|len| line.push(at(0), frame(0, len)));
    assert_eq!((drain(&mut line).len(), line.counters().too_long), (2, 1));
}

#[test]
fn a_line_that_goes_down_loses_what_is_on_it_and_comes_up_empty() {
    let up = LineSettings { bandwidth: Some(8_000_000), ..LineSettings::with_latency(MS) };
    let mut line = line(up.clone());
    (0..3).for_each(|i| line.push(at(0), frame(i, 100)));
    line.set(LineSettings { down: true, ..up.clone() });
    line.push(at(0), frame(3, 100));
    assert_eq!((line.deadline(), line.counters().down), (None, 4));
    line.set(LineSettings { down: true, corruption: 1.0, ..up.clone() }.healed());
    assert_eq!(*line.settings(), up);
    line.push(at(100), frame(4, 100));
    assert_eq!(drain(&mut line)[0].0, at(100 + 100_000 + 1_000_000), "nothing of before waits");
}

#[test]
fn the_line_holds_so_many_frames_and_no_more() {
    let mut line = line(LineSettings { frames_max: 5, ..LineSettings::with_latency(MS) });
    (0..8).for_each(|i| line.push(at(0), frame(i, 60)));
    assert_eq!((line.on_line(), line.counters().queue_full), (5, 3));
}

fn ip_frame(ethertype: EtherType, class: u8) -> Vec<u8> {
    let mut bytes = vec![0; 100];
    bytes[12..14].copy_from_slice(ethertype.0.as_ref());
    if ethertype == EtherType::IPV4 {
        (bytes[14], bytes[15]) = (0x45, class);
        let sum = Checksum::new().add(&bytes[14..34]).finish();
        bytes[24..26].copy_from_slice(&sum.to_be_bytes());
    } else {
        (bytes[14], bytes[15]) = (0x60 | class >> 4, class << 4);
    }
    bytes
}

use crate::wire::Checksum;

#[test]
fn packets_that_take_part_are_marked_when_the_queue_is_long() {
    for ethertype in [EtherType::IPV4, EtherType::IPV6] {
        let settings = LineSettings { bandwidth: Some(8_000_000), mark_above: Some(250), ..LineSettings::default() };
        let mut line = line(settings);
        for ecn in [Ecn::Capable0, Ecn::Capable0, Ecn::Capable0, Ecn::Capable1, Ecn::NotCapable, Ecn::Congested] {
            line.push(at(0), ip_frame(ethertype, 0xb8 | ecn as u8));
        }
        let class = |bytes: &[u8]| match ethertype {
            EtherType::IPV4 => bytes[15],
            _ => bytes[14] << 4 | bytes[15] >> 4,
        };
        let out = drain(&mut line);
        let classes: Vec<u8> = out.iter().map(|(_, bytes)| class(bytes)).collect();
        assert_eq!(classes, [0xba, 0xba, 0xba, 0xbb, 0xb8, 0xbb], "{ethertype:?}");
        assert_eq!(line.counters().marked, 1);
        if ethertype == EtherType::IPV4 {
            assert!(out.iter().all(|(_, bytes)| Checksum::new().add(&bytes[14..34]).is_right()));
        }
    }
}

#[test]
fn one_seed_is_one_course_of_events() {
    let settings = LineSettings {
        latency: MS..=MS * 3,
        loss: Loss::Bursts { begins: 0.05, ends: 0.3, inside: 0.9, outside: 0.01 },
        duplication: 0.1,
        strays: 0.1,
        stray_by: MS..=MS * 9,
        corruption: 0.1,
        truncation: 0.1,
        ..LineSettings::default()
    };
    let run = |seed: u64| {
        let mut line = Line::new(settings.clone(), Rng::new(seed));
        (0..500).for_each(|i| line.push(at(u64::from(i) * 100_000), frame(i, 80)));
        drain(&mut line)
    };
    assert_eq!(run(1), run(1));
    assert_ne!(run(1), run(2));
}

/// A frame in pieces, as a stack hands it over.
#[test]
fn frames_in_pieces_are_changed_cut_and_duplicated_as_a_whole() {
    let heap = Heap::alone(1 << 20).unwrap();
    let make = || {
        let mut payload = Sga::new();
        (0..3u8).for_each(|i| payload.push(heap.copy(&[i; 50]).unwrap()).unwrap());
        Frame { header: heap.copy(&[9; 54]).unwrap(), payload, checksum: None, segment_size: 0 }
    };
    let plain = make().to_vec();
    assert_eq!(make().twin().unwrap().to_vec(), plain);
    assert_eq!(make().cut(60).unwrap().to_vec(), plain[..60]);
    let changed = make().changed(|bytes| bytes[100] ^= 0xff).unwrap().to_vec();
    assert_eq!(changed.iter().zip(&plain).filter(|(a, b)| a != b).count(), 1);
    assert_eq!(heap.stats().pinned, 0);
}

#[test]
#[should_panic(expected = "is no probability")]
fn settings_that_make_no_sense_are_refused() {
    line(LineSettings { corruption: 1.5, ..LineSettings::default() });
}

quickcheck! {
    /// Whatever is pushed whenever, with whatever faults: the books balance, and without strays order holds.
    fn the_books_balance(pushes: Vec<(u16, u8)>, faults: (u8, u8, u8), seed: u64) -> bool {
        let part = |of: u8| f64::from(of) / 512.0;
        let settings = LineSettings {
            latency: Duration::ZERO..=Duration::from_micros(u64::from(faults.0)),
            bandwidth: faults.1.is_multiple_of(2).then_some(100_000_000),
            queue_frames: 20,
            loss: Loss::Each(part(faults.1)),
            duplication: part(faults.2),
            ..LineSettings::default()
        };
        let mut line = Line::new(settings, Rng::new(seed));
        let (mut now, mut out) = (Instant::ZERO, Vec::new());
        for (i, &(gap, len)) in pushes.iter().enumerate() {
            now += Duration::from_nanos(u64::from(gap));
            line.push(now, frame(i as u32, usize::from(len)));
            out.extend(std::iter::from_fn(|| line.pop(now)));
        }
        out.extend(drain(&mut line).into_iter().map(|(_, frame)| frame));
        let counters = line.counters();
        counters.pushed == pushes.len() as u64
            && counters.pushed + counters.duplicated == out.len() as u64 + counters.dropped()
            && out.is_sorted_by_key(|frame| number(frame))
    }
}
