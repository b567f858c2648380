//! The form in which buffers cross from core to core: short ones by value in the message, long ones as loans.

use libos_mem::{Buf, CopyPath, Exhausted, Heap, Loan};
use pdpix::Sga;

/// Bytes that travel in the message itself: what fits beside a tag and a name or two. docs/benchmarks.md has what a
/// copy and a loan cost.
pub const CARRIED_INLINE_MAX: usize = 78;

/// A buffer on its way to another core. `Send`.
#[derive(Debug)]
pub enum CarriedBuf {
    /// By value.
    Inline(u8, [u8; CARRIED_INLINE_MAX]),
    /// By reference.
    Loan(Loan),
}

const _: () = assert!(size_of::<CarriedBuf>() == 80);

impl CarriedBuf {
    /// Makes `buf` fit to travel.
    ///
    /// # Errors
    /// [`Exhausted`]: it had to be lent, and there is no memory for the record.
    #[inline]
    pub fn new(buf: Buf) -> Result<CarriedBuf, Exhausted> {
        if buf.len() > CARRIED_INLINE_MAX {
            return buf.lend().map(CarriedBuf::Loan);
        }
        buf.heap().count_copied(CopyPath::Loan, buf.len());
        let mut bytes = [0; CARRIED_INLINE_MAX];
        bytes[..buf.len()].copy_from_slice(&buf);
        Ok(CarriedBuf::Inline(buf.len() as u8, bytes))
    }

    /// A buffer of the core whose heap is `heap`.
    ///
    /// # Errors
    /// Itself back: it travelled by value, and there is no memory for it here.
    #[inline]
    pub fn land(self, heap: &Heap) -> Result<Buf, CarriedBuf> {
        match self {
            CarriedBuf::Inline(len, bytes) => heap.copy(&bytes[..len as usize]).map_err(|_| self),
            CarriedBuf::Loan(loan) => Ok(loan.accept(heap)),
        }
    }
}

impl std::ops::Deref for CarriedBuf {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        match self {
            CarriedBuf::Inline(len, bytes) => &bytes[..*len as usize],
            CarriedBuf::Loan(loan) => loan,
        }
    }
}

/// A scatter-gather array on its way: one buffer in the message, more in a box.
#[derive(Debug)]
pub struct CarriedSga {
    first: CarriedBuf,
    more: Option<Box<[CarriedBuf]>>,
}

impl CarriedSga {
    /// Makes `sga`, which is not empty, fit to travel.
    ///
    /// # Errors
    /// [`Exhausted`]; what was lent comes home by itself.
    pub fn new(mut sga: Sga) -> Result<CarriedSga, Exhausted> {
        let first = sga.pop_front().ok_or(Exhausted).and_then(CarriedBuf::new)?;
        let more = if sga.is_empty() { None } else { Some(sga.map(CarriedBuf::new).collect::<Result<_, _>>()?) };
        Ok(CarriedSga { first, more })
    }

    /// Bytes in it.
    pub fn len(&self) -> usize {
        self.first.len() + self.more.iter().flat_map(|more| more.iter()).map(|buf| buf.len()).sum::<usize>()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// An array of the core whose heap is `heap`.
    ///
    /// # Errors
    /// Itself back, whole: there is no memory for what travelled by value, or for the list.
    pub fn land(self, heap: &Heap) -> Result<Sga, CarriedSga> {
        let Some(more) = self.more else {
            return self.first.land(heap).map(Sga::from).map_err(|first| CarriedSga { first, more: None });
        };
        // First all that can fail, then the loans, which cannot.
        let all = std::iter::once(&self.first).chain(more.iter());
        let copies: Result<Vec<Option<Buf>>, Exhausted> = all
            .map(|carried| match carried {
                CarriedBuf::Inline(len, bytes) => heap.copy(&bytes[..*len as usize]).map(Some),
                CarriedBuf::Loan(_) => Ok(None),
            })
            .collect();
        let (Ok(copies), Ok(mut sga)) = (copies, Sga::with_room(more.len() + 1, heap)) else {
            return Err(CarriedSga { first: self.first, more: Some(more) });
        };
        for (carried, copy) in std::iter::once(self.first).chain(more).zip(copies) {
            let buf = match (carried, copy) {
                (CarriedBuf::Loan(loan), _) => loan.accept(heap),
                (_, Some(copy)) => copy,
                (CarriedBuf::Inline(..), None) => unreachable!("copied above"),
            };
            sga.push(buf).expect("there is room");
        }
        Ok(sga)
    }
}

#[cfg(all(test, not(loom)))]
mod tests {
    use libos_mem::{Plan, Reservation, Reserves, Source};
    use quickcheck::quickcheck;

    use super::*;

    fn two() -> (Heap, Heap) {
        let plan = Plan { heaps: 2, heap_size: 4 << 20, reserves: Reserves::NONE, source: Source::Ordinary };
        let reservation = Reservation::new(plan).unwrap();
        (reservation.heap(0).unwrap(), reservation.heap(1).unwrap())
    }

    fn sga(heap: &Heap, lens: &[u16]) -> Sga {
        let mut sga = Sga::with_room(lens.len(), heap).unwrap();
        for (i, &len) in lens.iter().enumerate() {
            sga.push(heap.copy(&vec![i as u8; len as usize % 300 + 1]).unwrap()).unwrap();
        }
        sga
    }

    quickcheck! {
        fn the_other_core_gets_the_same_bytes(lens: Vec<u16>) -> bool {
            let (here, there) = two();
            let lens = if lens.is_empty() { vec![1] } else { lens };
            let original = sga(&here, &lens);
            let bytes = original.to_vec();
            let carried = CarriedSga::new(original).unwrap();
            assert_eq!(carried.len(), bytes.len());
            let landed = carried.land(&there).unwrap();
            assert_eq!((landed.to_vec(), landed.segments().len()), (bytes, lens.len()));
            drop(landed);
            there.exchange_returns();
            here.exchange_returns();
            here.stats().pinned == 0 && there.stats().pinned == 0
        }
    }

    #[test]
    fn what_cannot_land_is_not_lost() {
        let (here, there) = two();
        let carried = CarriedSga::new(sga(&here, &[10, 299, 20, 299])).unwrap();
        let mut hoard = Vec::new();
        for size in [1 << 17].into_iter().chain((0..128).rev().map(|i| 1 + i * 32)) {
            while let Ok(taken) = there.alloc(size) {
                hoard.push(taken);
            }
        }
        let carried = carried.land(&there).unwrap_err();
        drop(hoard);
        assert_eq!(carried.land(&there).unwrap().len(), 11 + 300 + 21 + 300);
    }
}
