//! A value of any type on its way to another core: up to 112 bytes inline, longer ones in a box.
//!
//! What a ring carries is a slot of two cache lines; a value of up to 48 bytes touches only the first (`ring.rs`).

use std::any::{Any, TypeId};
use std::mem::{ManuallyDrop, MaybeUninit};

/// Bytes that travel inline.
pub const INLINE_MAX: usize = 112;
const WORDS: usize = INLINE_MAX / size_of::<u64>();

pub(crate) type Payload = [MaybeUninit<u64>; WORDS];

/// A value whose type is known only to those who put it in and take it out. `Send`, as all that can be put in is.
pub struct Parcel {
    kind: &'static Kind,
    payload: Payload,
}

/// What is known of a parcel's type.
pub(crate) struct Kind {
    id: fn() -> TypeId,
    name: fn() -> &'static str,
    /// Words of the payload that are used.
    pub(crate) words: usize,
    /// Drops the value in a payload.
    drop: unsafe fn(*mut Payload),
    /// Takes the value out of a payload and delivers it.
    deliver: Option<unsafe fn(*const Payload, &dyn Any)>,
}

/// A value that knows what to do where it arrives, so that the receiver need not know its type.
pub trait Deliver: Send + 'static {
    /// `to` is whatever the receiving side passes to [`Parcel::deliver`].
    fn deliver(self, to: &dyn Any);
}

impl Parcel {
    /// Packs a value.
    #[inline]
    pub fn new<T: Send + 'static>(value: T) -> Parcel {
        Parcel::pack(const { &Kind::of::<T>() }, value)
    }

    /// Packs a value that delivers itself.
    #[inline]
    pub fn delivering<T: Deliver>(value: T) -> Parcel {
        Parcel::pack(const { &Kind { deliver: Some(deliver_payload::<T>), ..Kind::of::<T>() } }, value)
    }

    #[inline]
    fn pack<T: Send + 'static>(kind: &'static Kind, value: T) -> Parcel {
        let mut parcel = Parcel { kind, payload: [MaybeUninit::uninit(); WORDS] };
        let at = parcel.payload.as_mut_ptr();
        if is_inline::<T>() {
            // SAFETY: the payload is large enough and aligned to 8, as `is_inline` says.
            unsafe { at.cast::<T>().write(value) };
        } else {
            // SAFETY: a pointer fits.
            unsafe { at.cast::<Box<T>>().write(Box::new(value)) };
        }
        parcel
    }

    /// Whether a `T` is inside.
    #[inline]
    pub fn is<T: 'static>(&self) -> bool {
        (self.kind.id)() == TypeId::of::<T>()
    }

    /// Unpacks it.
    ///
    /// # Errors
    /// The parcel back, if something else is inside.
    #[inline]
    pub fn take<T: Send + 'static>(self) -> Result<T, Parcel> {
        if !self.is::<T>() {
            return Err(self);
        }
        let parcel = ManuallyDrop::new(self);
        // SAFETY: a `T` is inside; the parcel is forgotten, so it is read once.
        Ok(unsafe { read_payload(&raw const parcel.payload) })
    }

    /// Lets the value deliver itself.
    ///
    /// # Errors
    /// The parcel back, if it cannot: it was packed by [`Parcel::new`].
    #[inline]
    pub fn deliver(self, to: &dyn Any) -> Result<(), Parcel> {
        let Some(deliver) = self.kind.deliver else { return Err(self) };
        let parcel = ManuallyDrop::new(self);
        // SAFETY: the function is that of the value's type; the parcel is forgotten, so the value is taken once.
        unsafe { deliver(&raw const parcel.payload, to) };
        Ok(())
    }

    /// Its parts, to be put together again by [`Parcel::from_parts`] exactly once.
    #[inline]
    pub(crate) fn into_parts(self) -> (&'static Kind, ManuallyDrop<Parcel>) {
        (self.kind, ManuallyDrop::new(self))
    }

    #[inline]
    pub(crate) fn payload(&self) -> *const MaybeUninit<u64> {
        self.payload.as_ptr()
    }

    /// # Safety
    /// `kind` and the first `kind.words` words of `payload` came from one parcel's parts, and are used once.
    #[inline]
    pub(crate) unsafe fn from_parts(kind: &'static Kind, payload: *const MaybeUninit<u64>) -> Parcel {
        let mut parcel = Parcel { kind, payload: [MaybeUninit::uninit(); WORDS] };
        // SAFETY: `words` words can be read, by the caller's promise, and fit.
        unsafe { std::ptr::copy_nonoverlapping(payload, parcel.payload.as_mut_ptr(), kind.words) };
        parcel
    }
}

impl Drop for Parcel {
    fn drop(&mut self) {
        // SAFETY: the payload holds a value of this kind, which nobody took.
        unsafe { (self.kind.drop)(&raw mut self.payload) };
    }
}

impl std::fmt::Debug for Parcel {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Parcel({})", (self.kind.name)())
    }
}

const fn is_inline<T>() -> bool {
    size_of::<T>() <= INLINE_MAX && align_of::<T>() <= align_of::<u64>()
}

impl Kind {
    const fn of<T: Send + 'static>() -> Kind {
        let used = if is_inline::<T>() { size_of::<T>() } else { size_of::<usize>() };
        Kind {
            id: TypeId::of::<T>,
            name: std::any::type_name::<T>,
            words: used.div_ceil(size_of::<u64>()),
            drop: drop_payload::<T>,
            deliver: None,
        }
    }
}

/// # Safety
/// `payload` holds what `Parcel::pack::<T>` wrote; the value is the caller's from now on.
#[inline]
unsafe fn read_payload<T>(payload: *const Payload) -> T {
    // SAFETY: by the caller's promise.
    unsafe { if is_inline::<T>() { payload.cast::<T>().read() } else { *payload.cast::<Box<T>>().read() } }
}

/// # Safety
/// As `read_payload`.
unsafe fn drop_payload<T>(payload: *mut Payload) {
    // SAFETY: by the caller's promise.
    drop(unsafe { read_payload::<T>(payload) });
}

/// # Safety
/// As `read_payload`.
unsafe fn deliver_payload<T: Deliver>(payload: *const Payload, to: &dyn Any) {
    // SAFETY: by the caller's promise.
    unsafe { read_payload::<T>(payload) }.deliver(to);
}

#[cfg(all(test, not(loom)))]
mod tests {
    use std::sync::Arc;

    use super::*;

    #[test]
    fn a_value_comes_out_as_it_went_in_whatever_its_size() {
        assert_eq!(Parcel::new(7u8).take::<u8>().unwrap(), 7);
        assert_eq!(Parcel::new([9u64; 14]).take::<[u64; 14]>().unwrap(), [9; 14]);
        assert_eq!(Parcel::new([9u64; 15]).take::<[u64; 15]>().unwrap(), [9; 15], "in a box");
        assert_eq!(Parcel::new("text".to_string()).take::<String>().unwrap(), "text");
        #[derive(PartialEq, Debug)]
        #[repr(align(64))]
        struct Aligned(u8);
        assert_eq!(Parcel::new(Aligned(3)).take::<Aligned>().unwrap(), Aligned(3));
        Parcel::new(()).take::<()>().unwrap();
    }

    #[test]
    fn another_type_is_not_taken_and_nothing_is_lost() {
        let parcel = Parcel::new(String::from("kept")).take::<Vec<u8>>().unwrap_err();
        assert!(parcel.is::<String>() && format!("{parcel:?}").contains("String"));
        assert_eq!(parcel.take::<String>().unwrap(), "kept");
    }

    #[test]
    fn what_nobody_takes_is_dropped_once() {
        let counted = Arc::new(());
        drop(Parcel::new(counted.clone()));
        drop(Parcel::new([(); 20].map(|()| counted.clone())));
        assert_eq!(Arc::strong_count(&counted), 1);
    }

    #[test]
    fn what_delivers_itself_needs_no_name() {
        struct Add(u32);
        impl Deliver for Add {
            fn deliver(self, to: &dyn Any) {
                let sum: &std::cell::Cell<u32> = to.downcast_ref().unwrap();
                sum.set(sum.get() + self.0);
            }
        }
        let sum = std::cell::Cell::new(0u32);
        Parcel::delivering(Add(4)).deliver(&sum).unwrap();
        assert_eq!(sum.get(), 4);
        let plain = Parcel::new(7u8).deliver(&sum).unwrap_err();
        assert_eq!(plain.take::<u8>().unwrap(), 7);
    }

    #[test]
    fn a_parcel_and_its_sequence_fill_two_cache_lines() {
        assert_eq!(size_of::<Parcel>(), 120);
    }
}
