//! A UDP socket: soon.
