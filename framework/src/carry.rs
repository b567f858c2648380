//! How a message crosses from core to core.
//!
//! Within a core a message moves as it is. A message for another core is *carried*: turned into a `Send` form by the
//! sender, and *landed* by the receiver. For plain values both are nothing; a [`Buf`] travels by value if it is short,
//! and as a loan otherwise.

use std::time::Duration;

use libos_runtime::{CarriedBuf, CarriedSga};
use pdpix::{Buf, Endpoint, Error, Heap, Instant, Sga, WallTime};

/// A value that can be sent to another core.
pub trait Carry: Sized + 'static {
    /// Its form on the way.
    type Carried: Send + 'static;

    /// Makes it fit to travel.
    ///
    /// # Errors
    /// Itself back: there is no memory for it.
    fn carry(self) -> Result<Self::Carried, Self>;

    /// Makes it what it was, on the core whose heap is `heap`.
    ///
    /// # Errors
    /// The carried form back: there is no memory for it here. It will be tried again.
    fn land(carried: Self::Carried, heap: &Heap) -> Result<Self, Self::Carried>;
}

/// Implements [`Carry`] for plain `Send` types, which travel as they are.
#[macro_export]
macro_rules! carry_as_it_is {
    ($($type:ty),* $(,)?) => {$(
        impl $crate::Carry for $type {
            type Carried = $type;

            #[inline]
            fn carry(self) -> Result<$type, $type> {
                Ok(self)
            }

            #[inline]
            fn land(carried: $type, _: &$crate::pdpix::Heap) -> Result<$type, $type> {
                Ok(carried)
            }
        }
    )*};
}

/// Implements [`Carry`] for messages that make sense on their own core only, such as those of its sessions: sent to
/// another core, they come back refused.
#[macro_export]
macro_rules! carry_nowhere {
    ($($type:ty),* $(,)?) => {$(
        impl $crate::Carry for $type {
            type Carried = ();

            fn carry(self) -> Result<(), $type> {
                Err(self)
            }

            fn land((): (), _: &$crate::pdpix::Heap) -> Result<$type, ()> {
                Err(())
            }
        }
    )*};
}

carry_as_it_is!((), bool, char, u8, u16, u32, u64, u128, usize, i8, i16, i32, i64, i128, isize, f32, f64, String);
carry_as_it_is!(Vec<u8>, Vec<String>, Duration, Instant, WallTime, Endpoint, Error, &'static str);

impl Carry for Buf {
    type Carried = CarriedBuf;

    #[inline]
    fn carry(self) -> Result<CarriedBuf, Buf> {
        // A count more, so that it can be given back.
        CarriedBuf::new(self.clone()).map_err(|_| self)
    }

    #[inline]
    fn land(carried: CarriedBuf, heap: &Heap) -> Result<Buf, CarriedBuf> {
        carried.land(heap)
    }
}

impl Carry for Sga {
    /// `None`: empty.
    type Carried = Option<CarriedSga>;

    fn carry(self) -> Result<Option<CarriedSga>, Sga> {
        if self.is_empty() {
            return Ok(None);
        }
        let mut copy = Sga::new();
        if !self.segments().iter().all(|segment| copy.push(segment.clone()).is_ok()) {
            return Err(self);
        }
        CarriedSga::new(copy).map(Some).map_err(|_| self)
    }

    fn land(carried: Option<CarriedSga>, heap: &Heap) -> Result<Sga, Option<CarriedSga>> {
        match carried {
            None => Ok(Sga::new()),
            Some(carried) => carried.land(heap).map_err(Some),
        }
    }
}

impl<T: Carry> Carry for Option<T> {
    type Carried = Option<T::Carried>;

    fn carry(self) -> Result<Self::Carried, Self> {
        self.map(T::carry).transpose().map_err(Some)
    }

    fn land(carried: Self::Carried, heap: &Heap) -> Result<Self, Self::Carried> {
        carried.map(|carried| T::land(carried, heap)).transpose().map_err(Some)
    }
}
