//! What is on a disk, and what a power cut may leave of it.
//!
//! A write goes to a cache, from which reads are served. A flush makes durable what had ended before it began; a write with
//! forced unit access makes itself durable, and nothing else. At the cut a part of the rest is there, by lot: of each write
//! all, nothing, or some of its sectors, whether it had ended or not; of several writes to one sector any.
//!
//! The rule of [`Recorder`](super::Recorder), a device in one process, and of a disk that is served to a whole machine. Pure:
//! who calls it says when operations begin and end. The oldest write that no flush has covered is kept for ever, so memory
//! grows with what is written between flushes.
//!
//! Source for what disks do: Zheng et al., "Understanding the Robustness of SSDs under Power Fault" (FAST'13).

use std::collections::BTreeMap;
use std::ops::Range;

use pdpix::Rng;

/// The unit that a write tears at, in bytes.
pub const SECTOR: usize = 512;

/// A disk's bytes, those that are certain and those that are not.
#[derive(Debug)]
pub struct Medium {
    rng: Rng,
    /// What is there for certain.
    durable: Vec<u8>,
    /// What reads see.
    cache: Vec<u8>,
    /// Writes that no flush has covered, in the order in which they began.
    loose: BTreeMap<u64, Loose>,
    begun: u64,
    flushes: u64,
    ignores_flush: bool,
}

#[derive(Debug)]
struct Loose {
    offset: usize,
    content: Content,
    /// What of the disk it still has a say in: all that it wrote, but for what a forced write came over.
    parts: Vec<Range<usize>>,
    ended: bool,
}

impl Loose {
    fn put(&self, image: &mut [u8]) {
        for part in &self.parts {
            self.put_part(part.clone(), image);
        }
    }

    fn put_part(&self, part: Range<usize>, image: &mut [u8]) {
        self.content.put(part.start - self.offset, &mut image[part]);
    }
}

/// What is written.
#[derive(Clone, Debug)]
pub enum Content {
    /// These bytes.
    Bytes(Vec<u8>),
    /// As many zeros.
    Zeros(usize),
}

impl Content {
    fn len(&self) -> usize {
        match self {
            Content::Bytes(bytes) => bytes.len(),
            Content::Zeros(len) => *len,
        }
    }

    /// Copies a part of it, which begins at `from`.
    fn put(&self, from: usize, into: &mut [u8]) {
        match self {
            Content::Bytes(bytes) => into.copy_from_slice(&bytes[from..from + into.len()]),
            Content::Zeros(_) => into.fill(0),
        }
    }
}

impl Medium {
    /// A disk with this on it, all of it durable. A cut and its draws come from the seed.
    pub fn new(image: Vec<u8>, seed: u64) -> Medium {
        Medium {
            rng: Rng::new(seed),
            cache: image.clone(),
            durable: image,
            loose: BTreeMap::new(),
            begun: 0,
            flushes: 0,
            ignores_flush: false,
        }
    }

    /// From now on it is a disk that lies, or an honest one again: it says that it flushed, and did not. For tests of tests.
    pub fn ignore_flushes(&mut self, ignores: bool) {
        self.ignores_flush = ignores;
    }

    /// Its size in bytes.
    pub fn size(&self) -> usize {
        self.durable.len()
    }

    /// Its chance, for whoever stands around it.
    pub fn rng(&mut self) -> &mut Rng {
        &mut self.rng
    }

    /// Reads, as from a disk that has power.
    ///
    /// # Panics
    /// If that is not within the disk, as for all that names a place.
    pub fn read(&self, offset: usize, into: &mut [u8]) {
        into.copy_from_slice(&self.cache[offset..offset + into.len()]);
    }

    /// A write begins: at a cut it may be there, and reads do not see it yet. Gives the number to end it with.
    pub fn begin_write(&mut self, offset: usize, content: Content) -> u64 {
        let part = offset..offset + content.len();
        assert!(part.end <= self.size(), "a write beyond the end of the disk");
        self.begun += 1;
        self.loose.insert(self.begun, Loose { offset, content, parts: vec![part], ended: false });
        self.begun
    }

    /// The write has ended: reads see it.
    pub fn end_write(&mut self, number: u64) {
        let write = self.loose.get_mut(&number).expect("a write is loose until a flush after its end");
        write.ended = true;
        write.put(&mut self.cache);
    }

    /// The writes that a flush makes durable if it begins now.
    pub fn ended(&self) -> Vec<u64> {
        self.loose.iter().filter(|(_, write)| write.ended).map(|(number, _)| *number).collect()
    }

    /// A flush has ended; it covered these writes, which had ended when it began.
    pub fn flush(&mut self, covered: &[u64]) {
        self.flushes += 1;
        if self.ignores_flush {
            return;
        }
        for number in covered {
            if let Some(write) = self.loose.remove(number) {
                write.put(&mut self.durable);
            }
        }
    }

    /// Ends a write with forced unit access: it is durable, and what was there before it is over.
    pub fn end_forced_write(&mut self, number: u64) {
        self.end_write(number);
        if self.ignores_flush {
            return;
        }
        let write = self.loose.remove(&number).expect("it was there");
        write.put(&mut self.durable);
        // An older write that is still loose may not come back over it: the disk has put its cache in order.
        let out = write.offset..write.offset + write.content.len();
        for (_, old) in self.loose.range_mut(..number).filter(|(_, old)| old.ended) {
            old.parts = old.parts.iter().flat_map(|part| without(part, &out)).collect();
        }
        self.loose.retain(|_, write| !write.parts.is_empty());
    }

    /// Flushes that were done so far.
    pub fn flushes(&self) -> u64 {
        self.flushes
    }

    /// Writes that no flush has covered.
    pub fn loose(&self) -> usize {
        self.loose.len()
    }

    /// What may be found after the power went now: another draw each time.
    pub fn cut(&mut self) -> Vec<u8> {
        let mut image = self.durable.clone();
        // In any order: of two writes to one sector the older may be the one that is found.
        let mut order: Vec<u64> = self.loose.keys().copied().collect();
        for i in (1..order.len()).rev() {
            order.swap(i, self.rng.below(i as u64 + 1) as usize);
        }
        // Mostly nearly everything made it, or nearly nothing: so that later writes without earlier ones are found too.
        let luck = [0.05, 0.5, 0.95][self.rng.below(3) as usize];
        for number in order {
            let write = &self.loose[&number];
            let whole = self.rng.chance(0.5);
            let kept = self.rng.chance(luck);
            for part in &write.parts {
                for at in part.clone().step_by(SECTOR) {
                    if if whole { kept } else { self.rng.chance(luck) } {
                        write.put_part(at..(at + SECTOR).min(part.end), &mut image);
                    }
                }
            }
        }
        image
    }

    /// What reads see: what is found when a process ends and the machine goes on.
    pub fn seen(&self) -> Vec<u8> {
        self.cache.clone()
    }
}

/// What of a part lies before and behind another one.
fn without(part: &Range<usize>, out: &Range<usize>) -> impl Iterator<Item = Range<usize>> {
    let before = part.start..part.end.min(out.start);
    let behind = part.start.max(out.end)..part.end;
    [before, behind].into_iter().filter(|range| !range.is_empty())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn write(medium: &mut Medium, offset: usize, byte: u8, len: usize) -> u64 {
        let number = medium.begin_write(offset, Content::Bytes(vec![byte; len]));
        medium.end_write(number);
        number
    }

    fn flush(medium: &mut Medium) {
        let covered = medium.ended();
        medium.flush(&covered);
    }

    #[test]
    fn forced_unit_access_covers_itself_alone() {
        let mut medium = Medium::new(vec![0; 8 * SECTOR], 3);
        write(&mut medium, 0, 1, 8 * SECTOR);
        let forced = medium.begin_write(2 * SECTOR, Content::Bytes(vec![2; SECTOR]));
        medium.end_forced_write(forced);
        let (mut kept, mut lost) = (0, 0);
        for _ in 0..100 {
            let image = medium.cut();
            assert!(image[2 * SECTOR..3 * SECTOR].iter().all(|byte| *byte == 2), "what was forced is there");
            for sector in [0, 1, 3, 7] {
                match image[sector * SECTOR] {
                    0 => lost += 1,
                    1 => kept += 1,
                    other => panic!("{other} was never written there"),
                }
            }
        }
        assert!(kept > 50 && lost > 50, "{kept} kept, {lost} lost of 400");
        flush(&mut medium);
        let image = medium.cut();
        assert_eq!((image[0], image[2 * SECTOR], image[7 * SECTOR], medium.loose()), (1, 2, 1, 0));
    }

    #[test]
    fn forced_unit_access_leaves_the_order_of_others_alone() {
        let mut medium = Medium::new(vec![0; 8 * SECTOR], 3);
        write(&mut medium, 0, 1, 8 * SECTOR);
        write(&mut medium, 5 * SECTOR, 2, SECTOR);
        let forced = medium.begin_write(2 * SECTOR, Content::Bytes(vec![3; SECTOR]));
        medium.end_forced_write(forced);
        flush(&mut medium);
        let found: Vec<u8> = medium.cut().chunks(SECTOR).map(|sector| sector[0]).collect();
        assert_eq!(found, [1, 1, 3, 1, 1, 2, 1, 1]);
        assert_eq!(medium.seen(), medium.cut());
    }

    #[test]
    fn zeros_are_a_write_like_any_other() {
        let mut medium = Medium::new(vec![7; 4 * SECTOR], 5);
        let number = medium.begin_write(SECTOR, Content::Zeros(2 * SECTOR));
        medium.end_write(number);
        let mut read = [1; 4];
        medium.read(SECTOR, &mut read);
        assert_eq!(read, [0; 4]);
        let images: Vec<Vec<u8>> = (0..40).map(|_| medium.cut()).collect();
        assert!(images.iter().any(|image| image[SECTOR] == 7) && images.iter().any(|image| image[SECTOR] == 0));
        flush(&mut medium);
        assert_eq!(medium.cut()[SECTOR], 0);
    }

    #[test]
    fn a_disk_that_lies_keeps_nothing_for_certain() {
        let mut medium = Medium::new(vec![0; SECTOR], 5);
        medium.ignore_flushes(true);
        write(&mut medium, 0, 1, SECTOR);
        flush(&mut medium);
        let forced = medium.begin_write(0, Content::Bytes(vec![2; SECTOR]));
        medium.end_forced_write(forced);
        assert!((0..40).any(|_| medium.cut()[0] == 0), "nothing was lost in 40 cuts");
        medium.ignore_flushes(false);
        flush(&mut medium);
        assert_eq!(medium.cut()[0], 2);
    }
}
