//! Is there an order of these operations that a sequential object could have shown, and that keeps the order of those which
//! did not overlap?
//!
//! The search of Wing and Gong (1993) with the memory of Lowe ("Testing for linearizability", 2017): operations are taken in
//! one after the other, each just where it may stand, from a linked list of calls and returns; what was tried, as the set of
//! operations taken in and the state reached, is not tried again.
//!
//! An operation without a return may have taken effect at any time since its call, or never: it has a call and no return in
//! the list, and the search is done when no return is left. Such operations are tried only where those that returned do not
//! get on by themselves: the others are mostly enough.
//!
//! Bounds: [`Budget`]. Beyond it the outcome is [`Outcome::Exhausted`], never a wrong one.

use std::collections::HashSet;
use std::hash::Hash;
use std::time::{Duration, Instant};

/// A sequential object.
pub trait Model {
    /// What it is.
    type State: Clone + Eq + Hash;
    /// What it is asked.
    type Call;
    /// What it answers.
    type Reply;

    /// What it is in the beginning.
    fn start(&self) -> Self::State;

    /// The state after a call that is answered so; `None` if it would not be answered so. Without a reply, nobody knows
    /// what was answered.
    fn step(&self, state: &Self::State, call: &Self::Call, reply: Option<&Self::Reply>) -> Option<Self::State>;
}

/// An operation.
#[derive(Clone, Debug)]
pub struct Entry<C, R> {
    /// What was asked.
    pub call: C,
    /// When: a place in the order of events.
    pub called: u64,
    /// When it was answered, and what.
    pub returned: Option<(u64, R)>,
}

/// How much a search may take.
#[derive(Clone, Copy, Debug)]
pub struct Budget {
    /// So many different configurations.
    pub configurations: usize,
    /// So long.
    pub time: Duration,
}

impl Default for Budget {
    /// Half a million configurations, which is some hundred megabytes, and a minute.
    fn default() -> Budget {
        Budget { configurations: 500_000, time: Duration::from_secs(60) }
    }
}

/// What a search has found.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Outcome<S> {
    /// There is such an order.
    Linearizable,
    /// There is none.
    Stuck {
        /// The operation whose return cannot be explained: the history up to there has no order.
        at: usize,
        /// The states in which the object could have been just before that return (each was tried). None, if already what
        /// came before could only be explained by this operation, and not with the reply that it has.
        states: Vec<S>,
        /// Every shorter prefix has one. (Else the budget did not allow to find that out.)
        is_smallest: bool,
    },
    /// The budget is spent: this much of it.
    Exhausted(String),
}

/// An event in the list.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Node {
    /// The beginning of the list, which is also its end.
    Root,
    /// Of an operation, by its index.
    Call(usize),
    Return(usize),
}

/// Calls and returns in their order, from which those of one operation can be lifted, and put back in the reverse order.
struct List {
    nodes: Vec<Node>,
    next: Vec<usize>,
    previous: Vec<usize>,
    /// Where the call and the return of each operation are.
    places: Vec<(usize, Option<usize>)>,
    returns: usize,
}

impl List {
    fn new<C, R>(entries: &[Entry<C, R>]) -> List {
        let mut events: Vec<(u64, Node)> = Vec::with_capacity(2 * entries.len());
        for (index, entry) in entries.iter().enumerate() {
            events.push((entry.called, Node::Call(index)));
            events.extend(entry.returned.as_ref().map(|(at, _)| (*at, Node::Return(index))));
        }
        events.sort_by_key(|&(at, node)| (at, matches!(node, Node::Return(_))));
        let nodes: Vec<Node> = std::iter::once(Node::Root).chain(events.into_iter().map(|(_, node)| node)).collect();
        let mut places = vec![(0, None); entries.len()];
        for (place, node) in nodes.iter().enumerate() {
            match *node {
                Node::Root => {}
                Node::Call(index) => places[index].0 = place,
                Node::Return(index) => places[index].1 = Some(place),
            }
        }
        let count = nodes.len();
        let next = (0..count).map(|place| (place + 1) % count).collect();
        let previous = (0..count).map(|place| (place + count - 1) % count).collect();
        let returns = entries.iter().filter(|entry| entry.returned.is_some()).count();
        List { nodes, next, previous, places, returns }
    }

    fn first(&self) -> usize {
        self.next[0]
    }

    fn lift(&mut self, index: usize) {
        let (call, answer) = self.places[index];
        self.take_out(call);
        if let Some(place) = answer {
            self.take_out(place);
            self.returns -= 1;
        }
    }

    fn put_back(&mut self, index: usize) {
        let (call, answer) = self.places[index];
        if let Some(place) = answer {
            self.put_in(place);
            self.returns += 1;
        }
        self.put_in(call);
    }

    fn take_out(&mut self, place: usize) {
        let (previous, next) = (self.previous[place], self.next[place]);
        (self.next[previous], self.previous[next]) = (next, previous);
    }

    /// What was taken out last knows its neighbours.
    fn put_in(&mut self, place: usize) {
        let (previous, next) = (self.previous[place], self.next[place]);
        (self.next[previous], self.previous[next]) = (place, place);
    }
}

/// Which operations were taken in.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
struct Taken(Box<[u64]>);

impl Taken {
    fn flip(&mut self, index: usize) {
        self.0[index / 64] ^= 1 << (index % 64);
    }
}

/// Which operations are tried in a configuration: first those that returned, then the others.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Trying {
    Returned,
    Open,
}

/// A step of the search that can be taken back.
struct Step<S> {
    index: usize,
    before: S,
    trying: Trying,
}

/// The search under way: a path of steps, and what was learned on all paths.
struct Search<'a, M: Model> {
    model: &'a M,
    entries: &'a [Entry<M::Call, M::Reply>],
    list: List,
    state: M::State,
    taken: Taken,
    path: Vec<Step<M::State>>,
    seen: HashSet<(Taken, M::State)>,
    /// The last return at which every order got stuck so far, as its place in the list; and the states there.
    furthest: usize,
    states: HashSet<M::State>,
}

/// Looks for an order. If there is none, looks for the smallest prefix of the history that has none.
pub fn search<M: Model>(model: &M, entries: &[Entry<M::Call, M::Reply>], budget: Budget) -> Outcome<M::State>
where
    M::Call: Clone,
    M::Reply: Clone,
{
    let found = search_all(model, entries, budget);
    let Outcome::Stuck { at, states, .. } = found else { return found };
    // A prefix of what has an order has one, too. What returns later is open in a prefix, and may explain there what its own
    // reply does not let it explain in the whole history: so the place where the search was stuck is only where to begin.
    let mut ends: Vec<(u64, usize)> = Vec::with_capacity(entries.len());
    ends.extend(entries.iter().enumerate().filter_map(|(i, entry)| Some((entry.returned.as_ref()?.0, i))));
    ends.sort_unstable();
    let (mut low, mut high) = (ends.iter().position(|&(_, i)| i == at).unwrap_or(0), ends.len() - 1);
    // Of the shortest prefix that is known to be wrong, which ends with `ends[high]`.
    let (mut stuck, mut states, mut is_smallest) = (at, states, true);
    while low < high {
        let middle = low + (high - low) / 2;
        match search_all(model, &prefix(entries, ends[middle].0), budget) {
            Outcome::Linearizable => low = middle + 1,
            Outcome::Stuck { at, states: these, .. } => (high, stuck, states) = (middle, at, these),
            Outcome::Exhausted(_) => {
                is_smallest = false;
                break;
            }
        }
    }
    let at = ends[high].1;
    Outcome::Stuck { at, states: if stuck == at { states } else { Vec::new() }, is_smallest }
}

/// The history up to an event: later calls come too late to matter, and what had not returned is open.
fn prefix<C: Clone, R: Clone>(entries: &[Entry<C, R>], last: u64) -> Vec<Entry<C, R>> {
    let cut =
        |entry: &Entry<C, R>| Entry { returned: entry.returned.clone().filter(|(at, _)| *at <= last), ..entry.clone() };
    entries.iter().map(cut).collect()
}

fn search_all<M: Model>(model: &M, entries: &[Entry<M::Call, M::Reply>], budget: Budget) -> Outcome<M::State> {
    let mut search = Search {
        model,
        entries,
        list: List::new(entries),
        state: model.start(),
        taken: Taken(vec![0; entries.len().div_ceil(64)].into()),
        path: Vec::new(),
        seen: HashSet::new(),
        furthest: 0,
        states: HashSet::new(),
    };
    search.run(budget)
}

impl<M: Model> Search<'_, M> {
    fn run(&mut self, budget: Budget) -> Outcome<M::State> {
        let started = Instant::now();
        let (mut place, mut trying) = (self.list.first(), Trying::Returned);
        let mut visits: u64 = 0;
        while self.list.returns > 0 {
            visits += 1;
            if self.seen.len() > budget.configurations {
                return Outcome::Exhausted(format!("more than {} configurations", budget.configurations));
            }
            if visits.is_multiple_of(4096) && started.elapsed() > budget.time {
                return Outcome::Exhausted(format!("more than {:?}", budget.time));
            }
            let node = self.list.nodes[place];
            match node {
                Node::Call(index) if self.try_in(index, trying) => {
                    (place, trying) = (self.list.first(), Trying::Returned);
                }
                Node::Call(_) => place = self.list.next[place],
                // What returns here must be in before anything that was called later.
                Node::Return(_) | Node::Root if trying == Trying::Returned => {
                    self.note_stuck(place);
                    (place, trying) = (self.list.first(), Trying::Open);
                }
                Node::Return(_) | Node::Root => match self.path.pop() {
                    Some(step) => (place, trying) = self.take_back(step),
                    None => return self.stuck(),
                },
            }
        }
        Outcome::Linearizable
    }

    /// Takes an operation in, if it can stand here and that was not tried before.
    fn try_in(&mut self, index: usize, trying: Trying) -> bool {
        let entry = &self.entries[index];
        if entry.returned.is_some() != (trying == Trying::Returned) {
            return false;
        }
        let reply = entry.returned.as_ref().map(|(_, reply)| reply);
        let Some(state) = self.model.step(&self.state, &entry.call, reply) else { return false };
        // Without a reply, and without an effect, it need not be there.
        if reply.is_none() && state == self.state {
            return false;
        }
        self.taken.flip(index);
        if !self.seen.insert((self.taken.clone(), state.clone())) {
            self.taken.flip(index);
            return false;
        }
        let before = std::mem::replace(&mut self.state, state);
        self.path.push(Step { index, before, trying });
        self.list.lift(index);
        true
    }

    /// Takes a step back; the search goes on behind it.
    fn take_back(&mut self, step: Step<M::State>) -> (usize, Trying) {
        self.list.put_back(step.index);
        self.taken.flip(step.index);
        self.state = step.before;
        (self.list.next[self.list.places[step.index].0], step.trying)
    }

    /// In this configuration an operation returns next that cannot be taken in by itself.
    fn note_stuck(&mut self, place: usize) {
        if place > self.furthest {
            self.furthest = place;
            self.states.clear();
        }
        if place == self.furthest {
            self.states.insert(self.state.clone());
        }
    }

    /// Where this search, which knows all replies, got stuck.
    fn stuck(&mut self) -> Outcome<M::State> {
        match self.list.nodes[self.furthest] {
            Node::Return(at) => Outcome::Stuck { at, states: self.states.drain().collect(), is_smallest: false },
            _ => unreachable!("an order without its last return is whole"),
        }
    }
}
