//! The search against one that simply tries every order; and histories whose verdict everybody can see.

use std::time::Duration;

use quickcheck::{Arbitrary, Gen, quickcheck};

use super::linearizable::Model;
use super::*;
use crate::history::{Datum, Event, Header, Process};

type StringEntry = Entry<Call, Reply>;

/// Tries every order, without any memory.
fn brute(entries: &[StringEntry], taken: &mut Vec<bool>, state: &Option<String>) -> bool {
    let left = || (0..entries.len()).filter(|&i| !taken[i]);
    let Some(first_return) = left().filter_map(|i| entries[i].returned.as_ref().map(|(at, _)| *at)).min() else {
        return true;
    };
    let candidates: Vec<usize> = left().filter(|&i| entries[i].called < first_return).collect();
    candidates.into_iter().any(|i| {
        let reply = entries[i].returned.as_ref().map(|(_, reply)| reply);
        let Some(next) = StringKey.step(state, &entries[i].call, reply) else { return false };
        taken[i] = true;
        let found = brute(entries, taken, &next);
        taken[i] = false;
        found
    })
}

fn is_linearizable_by_brute_force(entries: &[StringEntry]) -> bool {
    brute(entries, &mut vec![false; entries.len()], &None)
}

/// The history up to an event: what was not called is not there, what had not returned is open.
fn prefix(entries: &[StringEntry], last: u64) -> Vec<StringEntry> {
    let begun = entries.iter().filter(|entry| entry.called <= last).cloned();
    begun.map(|entry| Entry { returned: entry.returned.filter(|(at, _)| *at <= last), ..entry }).collect()
}

/// A small history: true replies of some order that overlaps are drawn around; then one of them may be made another.
#[derive(Clone, Debug)]
struct Small(Vec<StringEntry>);

impl Arbitrary for Small {
    fn arbitrary(g: &mut Gen) -> Small {
        let below = |g: &mut Gen, bound: u64| u64::arbitrary(g) % bound;
        let count = 1 + below(g, 7);
        let mut state = None;
        let mut entries = Vec::new();
        for i in 0..count {
            let value = ["1", "2", "x"][below(g, 3) as usize].to_string();
            let call = match below(g, 9) {
                0..=2 => Call::Get,
                3 | 4 => Call::Set(value),
                5 => Call::Del,
                6 => Call::Append(value),
                7 => Call::GetSet(value),
                _ => Call::SetNx(value),
            };
            // It takes effect at 10 * (i + 1), if it does; the ends are all different.
            let at = 10 * (i + 1);
            let called = (at - 1 - 10 * below(g, 3).min(i)) * 100 + 2 * i;
            let returned = (at + 1 + 10 * below(g, 3)) * 100 + 2 * i + 1;
            let lost = below(g, 5) == 0;
            let takes_effect = !lost || bool::arbitrary(g);
            let mut answer = Datum::Nil;
            if takes_effect {
                (state, answer) = all_answers(&state, &call);
            }
            entries.push(Entry { call, called, returned: (!lost).then_some((returned, Reply(answer))) });
        }
        if bool::arbitrary(g) {
            let replies: Vec<Reply> = entries.iter().filter_map(|entry| Some(entry.returned.clone()?.1)).collect();
            let at = below(g, count) as usize;
            if let (Some(other), Some((_, reply))) = (g.choose(&replies), &mut entries[at].returned) {
                *reply = other.clone();
            }
        }
        Small(entries)
    }
}

/// What a call does and answers, found out from the model by asking for every answer that there can be.
fn all_answers(state: &Option<String>, call: &Call) -> (Option<String>, Datum) {
    let texts = state.iter().cloned().map(Datum::Text);
    let answers = texts.chain([Datum::Nil]).chain((0..100).map(Datum::Integer));
    let fits = |answer: Datum| Some((StringKey.step(state, call, Some(&Reply(answer.clone())))?, answer));
    answers.into_iter().find_map(fits).expect("these calls are always answered")
}

quickcheck! {
    fn the_search_finds_what_trying_every_order_finds(small: Small) -> bool {
        let entries = small.0;
        match search(&StringKey, &entries, Budget::default()) {
            Outcome::Linearizable => is_linearizable_by_brute_force(&entries),
            Outcome::Stuck { at, states, is_smallest } => {
                assert!(is_smallest);
                let last = entries[at].returned.as_ref().expect("it returned").0;
                assert!(!is_linearizable_by_brute_force(&prefix(&entries, last)), "the prefix is wrong");
                assert!(is_linearizable_by_brute_force(&prefix(&entries, last - 1)), "and it is the smallest");
                assert!(states.iter().all(|state| StringKey.step(state, &entries[at].call, entries[at].returned.as_ref().map(|(_, reply)| reply)).is_none()));
                !is_linearizable_by_brute_force(&entries)
            }
            Outcome::Exhausted(_) => false,
        }
    }
}

#[test]
fn the_small_histories_are_of_both_kinds() {
    let mut g = Gen::new(10);
    let smalls: Vec<Small> = (0..300).map(|_| Small::arbitrary(&mut g)).collect();
    let right = smalls.iter().filter(|small| is_linearizable_by_brute_force(&small.0)).count();
    let open = smalls.iter().filter(|small| small.0.iter().any(|entry| entry.returned.is_none())).count();
    assert!((100..290).contains(&right) && open > 60, "{right} of 300 are linearizable, {open} have open operations");
}

/// A history of one key in lines of `process f argument` (begins), `process -> result` (ends), `process lost`,
/// `process failed`.
fn history(lines: &[&str]) -> History {
    let datum = |word: &str| match word.parse() {
        Ok(number) => Datum::Integer(number),
        Err(_) if word == "nil" => Datum::Nil,
        Err(_) => Datum::Text(word.trim_matches('"').into()),
    };
    let mut events: Vec<Event> = Vec::new();
    for (index, line) in lines.iter().enumerate() {
        let words: Vec<&str> = line.split(' ').collect();
        let process = Process::Client(words[0].parse().expect("a process"));
        let begun = || events.iter().rev().find(|event| event.process == process).expect("begun").f.clone();
        let (kind, f, datum) = match words[1..] {
            ["->", result] => (Kind::Ok, begun(), datum(result)),
            ["lost"] => (Kind::Info, begun(), Datum::Nil),
            ["failed"] => (Kind::Fail, begun(), Datum::Nil),
            [f] => (Kind::Invoke, f.to_string(), Datum::Nil),
            [f, argument] => (Kind::Invoke, f.to_string(), Datum::Text(argument.into())),
            _ => panic!("{line}"),
        };
        let value = ("k".to_string(), datum);
        events.push(Event { index: index as u64, process, kind, f, value, time: 100 * index as u64 });
    }
    History { header: Header::default(), events }
}

fn verdict(lines: &[&str]) -> Verdict {
    cache(&history(lines), Budget::default())
}

#[track_caller]
fn valid(lines: &[&str]) {
    assert_eq!(verdict(lines), Verdict::Valid);
}

/// Wrong, and found out with this event.
#[track_caller]
fn invalid(lines: &[&str], prefix: u64) {
    match verdict(lines) {
        Verdict::Invalid(violation) => assert_eq!(violation.prefix, prefix, "{violation}"),
        other => panic!("{other}"),
    }
}

#[test]
fn reads_of_what_was_written_are_right() {
    valid(&[]);
    valid(&["0 set a", "0 -> nil", "1 get", "1 -> \"a\""]);
    valid(&["0 set a", "1 get", "1 -> nil", "2 get", "2 -> \"a\"", "0 -> nil"]);
    valid(&["0 set a", "1 set b", "1 -> nil", "0 -> nil", "2 get", "2 -> \"a\""]);
    valid(&["0 incr", "1 incr", "0 -> 2", "1 -> 1"]);
}

#[test]
fn a_stale_read_is_found() {
    let stale = ["0 set a", "0 -> nil", "0 set b", "0 -> nil", "1 get", "1 -> \"a\""];
    invalid(&stale, 5);
    let after_a_read = ["0 set a", "1 get", "1 -> \"a\"", "1 get", "1 -> nil", "0 -> nil"];
    invalid(&after_a_read, 4);
}

#[test]
fn a_lost_update_is_found() {
    invalid(&["0 incr", "1 incr", "0 -> 1", "1 -> 1"], 3);
    invalid(&["0 append ab", "0 -> 2", "1 append c", "1 -> 1"], 3);
    invalid(&["0 set a", "0 -> nil", "1 getset b", "2 getset c", "1 -> \"a\"", "2 -> \"a\""], 5);
    invalid(&["0 setnx a", "0 -> 1", "1 setnx b", "1 -> 1"], 3);
}

#[test]
fn a_value_that_nobody_wrote_is_found() {
    invalid(&["0 get", "0 -> \"ghost\""], 1);
    invalid(&["0 set a", "0 failed", "1 get", "1 -> \"a\""], 3);
    invalid(&["0 get", "0 -> \"a\"", "1 set a", "1 -> nil"], 1);
}

#[test]
fn what_was_lost_may_take_effect_at_any_time_or_never() {
    let lost = ["0 set a", "0 lost"];
    let then = |more: &[&'static str]| [&lost[..], more].concat();
    valid(&lost);
    valid(&then(&["1 get", "1 -> nil"]));
    valid(&then(&["1 get", "1 -> \"a\""]));
    valid(&then(&["1 get", "1 -> nil", "1 get", "1 -> \"a\""]));
    // Late, after another write.
    valid(&then(&["1 set b", "1 -> nil", "1 get", "1 -> \"b\"", "1 get", "1 -> \"a\""]));
    // But once only, and not before it began.
    invalid(&then(&["1 get", "1 -> \"a\"", "1 set b", "1 -> nil", "1 get", "1 -> \"a\""]), 7);
    invalid(&["1 get", "1 -> \"a\"", "0 set a", "0 lost"], 1);
    // A client that never ended its last operation is the same.
    valid(&["0 set a", "1 get", "1 -> nil", "1 get", "1 -> \"a\""]);
}

#[test]
fn a_violation_is_told_with_what_is_around_it() {
    let lines = ["0 set a", "0 -> nil", "1 set b", "2 get", "1 -> nil", "2 -> \"b\"", "3 get", "4 get", "3 -> \"a\""];
    let Verdict::Invalid(violation) = verdict(&[&lines[..], &["4 -> \"b\""]].concat()) else { panic!("it is wrong") };
    assert_eq!((violation.operation.process, violation.prefix), (Process::Client(3), 8));
    assert_eq!(violation.states, ["\"b\""]);
    assert_eq!(violation.around.len(), 5, "all of this short history: {violation}");
    let text = violation.to_string();
    assert!(text.contains("\nwhat it has seen was written by:     0  set k \"a\" -> nil  (events 0 to 1)\n"), "{text}");
    assert!(text.contains("key k is not linearizable up to event 8"), "{text}");
    assert!(text.contains("\n->     3  get k -> \"a\"  (events 6 to 8)"), "{text}");
}

#[test]
fn keys_are_judged_for_themselves() {
    let mut both = history(&["0 set a", "0 -> nil", "1 get", "1 -> nil"]);
    both.events[2..].iter_mut().for_each(|event| event.value.0 = "other".into());
    assert_eq!(cache(&both, Budget::default()), Verdict::Valid);
}

/// Many writes at once whose order matters, and a read that no order explains: more than a small budget allows.
fn hard() -> Vec<String> {
    let mut lines: Vec<String> = (0..20).map(|i| format!("{i} append {}", char::from(b'a' + i))).collect();
    lines.extend((0..20).map(|i| format!("{i} lost")));
    lines.extend(["20 get".to_string(), "20 -> \"abcdefghijklmnopqrsz\"".to_string()]);
    lines
}

#[test]
fn beyond_its_budget_the_search_says_that_it_does_not_know() {
    let lines = hard();
    let history = history(&lines.iter().map(String::as_str).collect::<Vec<_>>());
    let few = Budget { configurations: 1000, ..Budget::default() };
    assert_eq!(cache(&history, few), Verdict::Unknown("key k: more than 1000 configurations".into()));
    let short = Budget { configurations: usize::MAX, time: Duration::from_millis(5) };
    assert_eq!(cache(&history, short), Verdict::Unknown("key k: more than 5ms".into()));
}

#[test]
fn a_history_that_is_not_well_formed_is_not_judged() {
    let reused = ["0 set a", "0 lost", "0 get"];
    let why = "the history is not well formed: event 2 of process 0: the process was retired by an unknown end";
    assert_eq!(verdict(&reused), Verdict::Unknown(why.into()));
}

/// As a run makes it: ten clients, thousands of operations, dozens of them without an end.
#[test]
fn long_histories_with_many_lost_operations_are_judged_in_time() {
    let mut rng = pdpix::Rng::new(7);
    let mut lines = Vec::new();
    let mut open: Vec<(u64, String)> = Vec::new();
    let (mut value, mut state, mut process) = (0, "nil".to_string(), 10);
    let mut idle: Vec<u64> = (0..10).collect();
    while lines.len() < 6_000 {
        if !idle.is_empty() && rng.chance(0.6) {
            let who = idle.swap_remove(rng.below(idle.len() as u64) as usize);
            // Its effect is at once, its answer comes later.
            if rng.chance(0.5) {
                value += 1;
                lines.push(format!("{who} set v{value}"));
                let is_lost = rng.chance(0.02);
                if !is_lost || rng.chance(0.5) {
                    state = format!("v{value}");
                }
                open.push((who, if is_lost { "lost".into() } else { "-> nil".into() }));
            } else {
                lines.push(format!("{who} get"));
                open.push((who, format!("-> {state}")));
            }
        } else if !open.is_empty() {
            let (who, end) = open.swap_remove(rng.below(open.len() as u64) as usize);
            lines.push(format!("{who} {end}"));
            let lost = end == "lost";
            idle.push(if lost { process } else { who });
            process += u64::from(lost);
        }
    }
    let lost = lines.iter().filter(|line| line.ends_with("lost")).count();
    assert!(lost > 15, "{lost}");
    valid(&lines.iter().map(String::as_str).collect::<Vec<_>>());
}
