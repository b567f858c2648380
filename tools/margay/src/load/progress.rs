//! A line that says how far it is: on a terminal only.

use std::io::{IsTerminal, Write, stderr};
use std::time::Duration;

/// How often it is written.
const EVERY: Duration = Duration::from_millis(200);
const WIDTH: usize = 30;

/// The line.
#[derive(Clone, Debug, Default)]
pub struct Progress {
    shown_at: Option<(Duration, u64)>,
}

impl Progress {
    /// One, if somebody sees it.
    pub fn on_terminal() -> Option<Progress> {
        stderr().is_terminal().then(Progress::default)
    }

    /// `gone` of `whole`, and this many answers so far.
    pub fn show(&mut self, gone: Duration, whole: Duration, answered: u64) {
        let (before, there) = self.shown_at.unwrap_or_default();
        if self.shown_at.is_some() && gone < before + EVERY {
            return;
        }
        self.shown_at = Some((gone, answered));
        let rate = (answered - there) as f64 / (gone - before).as_secs_f64().max(1e-3);
        // A terminal that is gone is no reason to stop measuring.
        let _ = write!(stderr(), "\r{}", line(gone, whole, rate));
    }

    /// Takes it away.
    pub fn clear(&mut self) {
        if self.shown_at.take().is_some() {
            let _ = write!(stderr(), "\r{:width$}\r", "", width = WIDTH + 40);
        }
    }
}

fn line(gone: Duration, whole: Duration, rate: f64) -> String {
    let share = (gone.as_secs_f64() / whole.as_secs_f64().max(1e-9)).clamp(0.0, 1.0);
    let full = (share * WIDTH as f64) as usize;
    format!(
        "[{}{}] {:4.1} of {:.1} s, {rate:>9.0} answers/s ",
        "#".repeat(full),
        "-".repeat(WIDTH - full),
        gone.as_secs_f64(),
        whole.as_secs_f64()
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_bar_fills_and_never_overflows() {
        let at = |gone| line(Duration::from_secs(gone), Duration::from_secs(10), 1.0);
        assert_eq!(at(0).matches('#').count(), 0);
        assert_eq!(at(5).matches('#').count(), WIDTH / 2);
        assert_eq!((at(10).matches('#').count(), at(99).matches('#').count()), (WIDTH, WIDTH));
    }
}
