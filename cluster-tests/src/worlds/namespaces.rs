//! Processes in network namespaces.
use super::{Means, Played, World};
use anyhow::Result;
/// What this machine lacks.
pub fn is_missing() -> Option<String> {
    Some("later".into())
}
/// Makes a run.
pub fn run(_: &World, _: u64, _: &Means) -> Result<Played> {
    anyhow::bail!("later")
}
