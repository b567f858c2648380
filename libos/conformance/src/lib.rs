//! One behaviour suite for every backend.
#![forbid(unsafe_code)]
