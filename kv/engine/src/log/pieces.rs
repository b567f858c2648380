//! Records in pieces: what a journal takes at once is bounded, and a record is not. Each piece says which one of how many it is,
//! and of which record, so that what was not written whole is known for that.

use std::collections::VecDeque;

use pdpix::{Buf, Exhausted, Heap, Sga};

use super::{LogError, RECORD_END_LEN};

/// The last byte of a piece; others end records.
const PIECE: u8 = 3;
/// What follows a record's bytes in a piece.
const PIECE_END_LEN: usize = 17;

/// Divides the record of this number into pieces of at most `len_max` bytes, in their order. A shorter one is left as it is.
///
/// # Errors
/// [`Exhausted`].
pub fn pieces(mut record: Sga, number: u64, len_max: usize, heap: &Heap) -> Result<VecDeque<Sga>, Exhausted> {
    if record.len() <= len_max {
        return Ok(VecDeque::from([record]));
    }
    let len = len_max - PIECE_END_LEN;
    let count = record.len().div_ceil(len) as u32;
    let cut = |index: u32| {
        let mut piece = record.split_to(record.len().min(len))?;
        let mut end = [0; PIECE_END_LEN];
        end[..4].copy_from_slice(&index.to_le_bytes());
        end[4..8].copy_from_slice(&count.to_le_bytes());
        end[8..16].copy_from_slice(&number.to_le_bytes());
        end[16] = PIECE;
        piece.push(heap.copy(&end)?).map_err(|_| Exhausted)?;
        Ok(piece)
    };
    (0..count).map(cut).collect()
}

/// Puts records together that may have come in pieces.
///
/// A record is whole if its pieces stand one behind the other, from the first to the last. A piece that does not go on with
/// what is there belongs to a record that could not be written whole: both are dropped.
#[derive(Default, Debug)]
pub struct Assembly {
    number: u64,
    count: u32,
    pieces: Vec<Sga>,
}

impl Assembly {
    /// Takes what was appended next. A record, if it is whole.
    ///
    /// # Errors
    /// [`LogError::Corrupt`]: it is neither a record nor a piece; [`LogError::Exhausted`].
    pub fn take(&mut self, mut piece: Sga) -> Result<Option<Sga>, LogError> {
        if last_bytes::<1>(&piece) != Some([PIECE]) {
            self.forget();
            return Ok(Some(piece));
        }
        let end = last_bytes::<PIECE_END_LEN>(&piece).ok_or(LogError::Corrupt("a piece is too short"))?;
        let number_at = |at: usize| u32::from_le_bytes([end[at], end[at + 1], end[at + 2], end[at + 3]]);
        let (index, count) = (number_at(0), number_at(4));
        let number = u64::from(number_at(12)) << 32 | u64::from(number_at(8));
        if index >= count {
            return Err(LogError::Corrupt("a piece beyond the last one"));
        }
        if index == 0 {
            self.forget();
            (self.number, self.count) = (number, count);
        }
        if (number, count, index as usize) != (self.number, self.count, self.pieces.len()) {
            self.forget();
            return Ok(None);
        }
        let body = piece.split_to(piece.len() - PIECE_END_LEN).map_err(|Exhausted| LogError::Exhausted)?;
        self.pieces.push(body);
        if self.pieces.len() < count as usize {
            return Ok(None);
        }
        let mut whole = Sga::new();
        for piece in self.pieces.drain(..) {
            whole.append(piece).map_err(|_| LogError::Exhausted)?;
        }
        let says = last_bytes::<RECORD_END_LEN>(&whole).and_then(|end| end.first_chunk::<8>().copied());
        if says.map(u64::from_le_bytes) != Some(number) {
            return Err(LogError::Corrupt("its pieces are of another record"));
        }
        self.forget();
        Ok(Some(whole))
    }

    /// What is not whole will not be.
    pub fn forget(&mut self) {
        *self = Assembly::default();
    }
}

/// The last bytes of it, wherever they lie.
fn last_bytes<const N: usize>(sga: &Sga) -> Option<[u8; N]> {
    let mut bytes = [0; N];
    let mut left = N;
    for segment in sga.segments().iter().rev() {
        let len = left.min(segment.len());
        bytes[left - len..left].copy_from_slice(&segment[segment.len() - len..]);
        left -= len;
        if left == 0 {
            return Some(bytes);
        }
    }
    (left == 0).then_some(bytes)
}

/// A record in one buffer, wherever its parts lie.
///
/// # Errors
/// [`Exhausted`].
pub fn in_one(record: Sga, heap: &Heap) -> Result<Buf, Exhausted> {
    if let [only] = record.segments() {
        return Ok(only.clone());
    }
    let mut whole = heap.alloc(record.len())?;
    record.segments().iter().for_each(|buf| _ = whole.put(buf));
    Ok(whole.freeze())
}

#[cfg(test)]
mod tests {
    use super::super::PLAIN;
    use super::*;

    const LEN_MAX: usize = 40;

    fn heap() -> Heap {
        Heap::alone(8 << 20).expect("memory for a small heap")
    }

    /// A record of a number, and its pieces.
    fn record(number: u64, len: usize, heap: &Heap) -> (Vec<u8>, Vec<Sga>) {
        let mut bytes: Vec<u8> = (0..len).map(|at| (at as u64 * 31 + number) as u8).collect();
        bytes.extend(number.to_le_bytes());
        bytes.push(PLAIN);
        let pieces = pieces(Sga::copy(heap, &bytes).unwrap(), number, LEN_MAX, heap).unwrap();
        (bytes, pieces.into())
    }

    fn assembled(pieces: impl IntoIterator<Item = Sga>) -> Vec<Vec<u8>> {
        let mut assembly = Assembly::default();
        pieces.into_iter().filter_map(|piece| assembly.take(piece).unwrap()).map(|record| record.to_vec()).collect()
    }

    #[test]
    fn records_come_whole_out_of_their_pieces() {
        let heap = heap();
        for len in 0..400 {
            let (bytes, pieces) = record(9, len, &heap);
            assert!(pieces.iter().all(|piece| piece.len() <= LEN_MAX));
            assert_eq!(pieces.len() > 1, bytes.len() > LEN_MAX);
            assert_eq!(assembled(pieces), [bytes]);
        }
    }

    /// Any of them may be missing, and any number of them: what is not whole does not come out, and spoils nothing else.
    #[test]
    fn what_is_not_whole_is_dropped() {
        let heap = heap();
        for (lost, len) in (1..32u32).flat_map(|lost| [(lost, 10), (lost, 95)]) {
            let (before, mut all) = record(1, 10, &heap);
            let (_, torn) = record(2, 95, &heap);
            assert_eq!(torn.len(), 5);
            all.extend(
                torn.into_iter().enumerate().filter(|(index, _)| lost & 1 << index == 0).map(|(_, piece)| piece),
            );
            let (behind, last) = record(3, len, &heap);
            all.extend(last);
            assert_eq!(assembled(all), [before, behind], "without {lost:#b}");
        }
    }

    #[test]
    fn what_is_no_piece_is_told() {
        let heap = heap();
        let take = |bytes: &[u8]| Assembly::default().take(Sga::copy(&heap, bytes).unwrap());
        assert!(matches!(take(&[PIECE]), Err(LogError::Corrupt(_))));
        let mut beyond = [0; PIECE_END_LEN];
        (beyond[0], beyond[4], beyond[16]) = (2, 2, PIECE);
        assert!(matches!(take(&beyond), Err(LogError::Corrupt(_))));
        // One of one, whose record has another number.
        let mut other = vec![0; 4];
        other.extend(7u64.to_le_bytes());
        other.push(PLAIN);
        let mut end = [0; PIECE_END_LEN];
        (end[4], end[8], end[16]) = (1, 8, PIECE);
        other.extend(end);
        assert!(matches!(take(&other), Err(LogError::Corrupt(_))));
    }
}
