//! Copying or referring?

use anyhow::Result;

pub fn run() -> Result<()> {
    Ok(())
}
