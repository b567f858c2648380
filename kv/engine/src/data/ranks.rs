//! The order of a sorted set: names by score, then by their bytes, each reached by its rank in logarithmic time.
//!
//! A B-tree whose inner nodes count what lies below each child. Always: a leaf holds at most `LEAF_MAX` items and an
//! inner node at most `INNER_MAX` children; no node but the root is empty; a child's `low` is the first item below it,
//! and its `count` the number of them.

use std::cmp::Ordering;

use smallvec::SmallVec;

use crate::blob::Blob;

const LEAF_MAX: usize = 64;
const INNER_MAX: usize = 32;

/// A name with its score.
#[derive(Clone, Debug)]
pub struct Ranked {
    /// Not a NaN.
    pub score: f64,
    /// The name.
    pub name: Blob,
}

impl Ranked {
    /// How it stands to a score and a name.
    pub fn cmp_to(&self, score: f64, name: &[u8]) -> Ordering {
        self.score.partial_cmp(&score).unwrap_or(Ordering::Equal).then_with(|| (*self.name).cmp(name))
    }
}

#[derive(Clone, Debug)]
enum Node {
    Leaf(Vec<Ranked>),
    Inner(Vec<Child>),
}

#[derive(Clone, Debug)]
struct Child {
    node: Box<Node>,
    count: usize,
    low: Ranked,
}

/// Names in their order.
#[derive(Clone, Debug)]
pub struct Ranks {
    root: Node,
    len: usize,
}

impl Default for Ranks {
    fn default() -> Ranks {
        Ranks { root: Node::Leaf(Vec::new()), len: 0 }
    }
}

impl Ranks {
    /// Adds a name that is not there.
    pub fn insert(&mut self, item: Ranked) {
        self.len += 1;
        if let Some(right) = self.root.insert(item) {
            let left = std::mem::replace(&mut self.root, Node::Inner(Vec::with_capacity(INNER_MAX)));
            if let Node::Inner(children) = &mut self.root {
                children.extend(Child::new(left).into_iter().chain(Some(right)));
            }
        }
    }

    /// Takes out a name with its score. False if it is not there.
    pub fn remove(&mut self, score: f64, name: &[u8]) -> bool {
        if !self.root.remove(score, name) {
            return false;
        }
        self.len -= 1;
        while let Node::Inner(children) = &mut self.root
            && children.len() == 1
            && let Some(only) = children.pop()
        {
            self.root = *only.node;
        }
        true
    }

    /// How many items `is_before` says so of. It says so of all up to some place, and of none behind it.
    pub fn partition_point(&self, mut is_before: impl FnMut(&Ranked) -> bool) -> usize {
        let (mut node, mut before) = (&self.root, 0);
        loop {
            match node {
                Node::Leaf(items) => return before + items.partition_point(is_before),
                Node::Inner(children) => {
                    let index = children.partition_point(|child| is_before(&child.low)).saturating_sub(1);
                    before += children[..index].iter().map(|child| child.count).sum::<usize>();
                    node = &children[index].node;
                }
            }
        }
    }

    /// The items from rank `first` on.
    pub fn iter_from(&self, first: usize) -> impl Iterator<Item = &Ranked> {
        let mut path = self.path_to(first);
        std::iter::from_fn(move || path.next())
    }

    /// The items from rank `last` on backwards.
    pub fn iter_back_from(&self, last: usize) -> impl Iterator<Item = &Ranked> {
        let mut path = if last < self.len { self.path_to(last) } else { Path::default() };
        std::iter::from_fn(move || path.next_back())
    }

    fn path_to(&self, rank: usize) -> Path<'_> {
        let mut path = Path::default();
        if rank >= self.len {
            return path;
        }
        let (mut node, mut left) = (&self.root, rank);
        loop {
            match node {
                Node::Leaf(items) => {
                    path.leaf = items;
                    path.next = left;
                    return path;
                }
                Node::Inner(children) => {
                    let mut index = 0;
                    while children[index].count <= left {
                        left -= children[index].count;
                        index += 1;
                    }
                    path.above.push((children, index));
                    node = &children[index].node;
                }
            }
        }
    }

    /// Takes out a leaf of items, for a set that is given up piece by piece. False if it is empty.
    pub fn free_some(&mut self) -> bool {
        self.len = 0;
        self.root.free_some()
    }

    /// Asserts what always holds.
    #[cfg(test)]
    pub fn check(&self) {
        fn check(node: &Node, is_root: bool) -> usize {
            match node {
                Node::Leaf(items) => {
                    assert!(items.len() <= LEAF_MAX && (is_root || !items.is_empty()));
                    assert!(items.is_sorted_by(|a, b| a.cmp_to(b.score, &b.name).is_lt()));
                    items.len()
                }
                Node::Inner(children) => {
                    assert!((1..=INNER_MAX).contains(&children.len()) && !(is_root && children.len() == 1));
                    for child in children {
                        assert_eq!(child.count, check(&child.node, false));
                        let low = child.node.low().unwrap();
                        assert!(child.low.cmp_to(low.score, &low.name).is_eq());
                    }
                    assert!(children.is_sorted_by(|a, b| a.low.cmp_to(b.low.score, &b.low.name).is_lt()));
                    children.iter().map(|child| child.count).sum()
                }
            }
        }
        assert_eq!(check(&self.root, true), self.len);
    }
}

impl Node {
    fn len(&self) -> usize {
        match self {
            Node::Leaf(items) => items.len(),
            Node::Inner(children) => children.len(),
        }
    }

    fn low(&self) -> Option<&Ranked> {
        match self {
            Node::Leaf(items) => items.first(),
            Node::Inner(children) => children.first().map(|child| &child.low),
        }
    }

    fn count(&self) -> usize {
        match self {
            Node::Leaf(items) => items.len(),
            Node::Inner(children) => children.iter().map(|child| child.count).sum(),
        }
    }

    /// The child that an item belongs to: the last one that does not begin behind it.
    fn child_for(children: &[Child], score: f64, name: &[u8]) -> usize {
        children.partition_point(|child| child.low.cmp_to(score, name).is_le()).saturating_sub(1)
    }

    /// Adds an item. If the node is too full then, its right half.
    fn insert(&mut self, item: Ranked) -> Option<Child> {
        match self {
            Node::Leaf(items) => {
                let at = items.partition_point(|found| found.cmp_to(item.score, &item.name).is_lt());
                items.insert(at, item);
                if items.len() <= LEAF_MAX {
                    return None;
                }
                // What is appended at the end fills leaves: then only little is split off.
                let at = if at + 1 == items.len() { LEAF_MAX - 4 } else { LEAF_MAX / 2 };
                Child::new(Node::Leaf(items.split_off(at)))
            }
            Node::Inner(children) => {
                let index = Node::child_for(children, item.score, &item.name);
                let child = &mut children[index];
                if child.low.cmp_to(item.score, &item.name).is_gt() {
                    child.low = item.clone();
                }
                child.count += 1;
                let right = child.node.insert(item)?;
                child.count -= right.count;
                children.insert(index + 1, right);
                if children.len() <= INNER_MAX {
                    return None;
                }
                let at = if index + 2 == children.len() { INNER_MAX - 4 } else { INNER_MAX / 2 };
                Child::new(Node::Inner(children.split_off(at)))
            }
        }
    }

    fn remove(&mut self, score: f64, name: &[u8]) -> bool {
        match self {
            Node::Leaf(items) => {
                let found = items.binary_search_by(|item| item.cmp_to(score, name));
                found.map(|at| items.remove(at)).is_ok()
            }
            Node::Inner(children) => {
                let index = Node::child_for(children, score, name);
                let child = &mut children[index];
                if !child.node.remove(score, name) {
                    return false;
                }
                child.count -= 1;
                if child.low.cmp_to(score, name).is_eq()
                    && let Some(low) = child.node.low()
                {
                    child.low = low.clone();
                }
                Node::tidy(children, index);
                true
            }
        }
    }

    /// A child has lost an item: takes it out if it is empty, and joins it with a neighbour if both are small.
    fn tidy(children: &mut Vec<Child>, index: usize) {
        if children[index].count == 0 {
            children.remove(index);
            return;
        }
        let small = |child: &Child, part: usize| match &*child.node {
            Node::Leaf(items) => items.len() <= LEAF_MAX / part,
            Node::Inner(children) => children.len() <= INNER_MAX / part,
        };
        if !small(&children[index], 4) {
            return;
        }
        let left = if index > 0 && small(&children[index - 1], 2) {
            index - 1
        } else if index + 1 < children.len() && small(&children[index + 1], 2) {
            index
        } else {
            return;
        };
        let right = children.remove(left + 1);
        let child = &mut children[left];
        child.count += right.count;
        match (&mut *child.node, *right.node) {
            (Node::Leaf(items), Node::Leaf(more)) => items.extend(more),
            (Node::Inner(children), Node::Inner(more)) => children.extend(more),
            _ => unreachable!("all leaves are equally deep"),
        }
    }

    fn free_some(&mut self) -> bool {
        match self {
            Node::Leaf(items) => !std::mem::take(items).is_empty(),
            Node::Inner(children) => {
                while let Some(last) = children.last_mut() {
                    if last.node.free_some() {
                        return true;
                    }
                    children.pop();
                }
                false
            }
        }
    }
}

impl Child {
    /// A node that is not empty, as a child.
    fn new(node: Node) -> Option<Child> {
        debug_assert!(node.len() > 0, "an empty child");
        let (low, count) = (node.low()?.clone(), node.count());
        Some(Child { node: Box::new(node), count, low })
    }
}

/// A place in the tree: the way down, and an item of the leaf.
#[derive(Default)]
struct Path<'a> {
    above: SmallVec<[(&'a [Child], usize); 4]>,
    leaf: &'a [Ranked],
    next: usize,
}

impl<'a> Path<'a> {
    /// The item here, moving on to the next one.
    fn next(&mut self) -> Option<&'a Ranked> {
        let item = self.leaf.get(self.next)?;
        self.next += 1;
        if self.next == self.leaf.len() {
            self.turn(|index, len| Some(index + 1).filter(|&next| next < len), |_| 0);
        }
        Some(item)
    }

    /// The item here, moving on to the one before.
    fn next_back(&mut self) -> Option<&'a Ranked> {
        let item = self.leaf.get(self.next)?;
        if self.next > 0 {
            self.next -= 1;
        } else {
            self.turn(|index, _| index.checked_sub(1), |len| len - 1);
        }
        Some(item)
    }

    /// Goes to the next leaf in some direction: up until there is a further child, then down along the near side.
    fn turn(&mut self, further: impl Fn(usize, usize) -> Option<usize>, near: impl Fn(usize) -> usize) {
        self.leaf = &[];
        while let Some((children, index)) = self.above.pop() {
            let Some(index) = further(index, children.len()) else { continue };
            self.above.push((children, index));
            let mut node = &*children[index].node;
            while let Node::Inner(children) = node {
                self.above.push((children, near(children.len())));
                node = &children[near(children.len())].node;
            }
            if let Node::Leaf(items) = node {
                self.leaf = items;
                self.next = near(items.len());
            }
            return;
        }
    }
}

#[cfg(test)]
mod tests {
    use quickcheck::quickcheck;

    use super::*;

    fn item(score: i32, name: u32) -> Ranked {
        Ranked { score: f64::from(score), name: Blob::short(format!("{name:06}").as_bytes()).unwrap() }
    }

    quickcheck! {
        /// Against a sorted vector: runs of insertions and removals, ranks, bounds, and walks both ways.
        fn behaves_as_a_sorted_vector(ops: Vec<(bool, u16, u16, u8)>) -> bool {
            let mut ranks = Ranks::default();
            let mut model: Vec<(i32, u32)> = Vec::new();
            for (insert, first, count, spread) in ops {
                for step in 0..u32::from(count) % 800 {
                    let number = (u32::from(first) + step * (1 + u32::from(spread) % 37)) % 5000;
                    let key = ((number % (1 + u32::from(spread))) as i32 - 20, number);
                    let at = model.binary_search(&key);
                    let Ranked { score, name } = item(key.0, key.1);
                    match (insert, at) {
                        (true, Err(at)) => {
                            model.insert(at, key);
                            ranks.insert(item(key.0, key.1));
                        }
                        (false, Ok(at)) => {
                            model.remove(at);
                            assert!(ranks.remove(score, &name));
                        }
                        (false, Err(_)) => assert!(!ranks.remove(score, &name)),
                        _ => {}
                    }
                }
                ranks.check();
                let at = usize::from(first) % (model.len() + 1);
                let key = |item: &Ranked| (item.score as i32, String::from_utf8_lossy(&item.name).parse::<u32>().unwrap());
                assert!(ranks.iter_from(at).map(key).eq(model[at..].iter().copied()));
                if let Some(&found) = model.get(at) {
                    assert!(ranks.iter_back_from(at).map(key).eq(model[..=at].iter().rev().copied()));
                    let Ranked { score, name } = item(found.0, found.1);
                    assert_eq!(ranks.partition_point(|item| item.cmp_to(score, &name).is_lt()), at);
                }
                assert_eq!(ranks.iter_back_from(model.len()).count(), 0);
                let bound = f64::from(spread) - 30.0;
                let below = model.iter().filter(|(score, _)| f64::from(*score) < bound).count();
                assert_eq!(ranks.partition_point(|item| item.score < bound), below);
            }
            true
        }
    }

    #[test]
    fn ascending_insertions_fill_the_leaves() {
        let mut ranks = Ranks::default();
        (0..100_000).for_each(|score| ranks.insert(item(score, 0)));
        ranks.check();
        fn leaves(node: &Node) -> usize {
            match node {
                Node::Leaf(_) => 1,
                Node::Inner(children) => children.iter().map(|child| leaves(&child.node)).sum(),
            }
        }
        assert!(leaves(&ranks.root) < 100_000 / 55);
        while ranks.free_some() {}
        assert_eq!(ranks.root.count(), 0);
    }
}
