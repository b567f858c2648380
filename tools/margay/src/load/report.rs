//! What is told at the end: for people, and as JSON.

use std::fmt::Write;

use serde_json::{Value, json};

use super::tally::Tally;

/// Everything there is to tell.
pub struct Report {
    /// What was measured, in a line.
    pub what: String,
    /// Requests a second that were asked for; `None`: as many as it takes.
    pub rate: Option<f64>,
    /// What was counted.
    pub tally: Tally,
}

/// The part of what was measured that the client's own delay may be.
const LAG_SHARE_MAX: f64 = 0.1;
/// Less than this part of what was due being answered in time is a shortfall.
const ACHIEVED_MIN: f64 = 0.97;

const QUANTILES: [(&str, f64); 5] = [("p50", 0.5), ("p90", 0.9), ("p99", 0.99), ("p99.9", 0.999), ("max", 1.0)];

impl Report {
    /// Answers a second.
    pub fn achieved(&self) -> f64 {
        let seconds = self.tally.measured.as_secs_f64();
        if seconds > 0.0 { self.tally.in_window as f64 / seconds } else { 0.0 }
    }

    /// The mean delay of this client as a part of the mean latency.
    pub fn lag_share(&self) -> f64 {
        let latency = self.tally.latency.mean();
        if latency > 0.0 { self.tally.lag.mean() / latency } else { 0.0 }
    }

    /// What makes these figures worth less.
    pub fn warnings(&self) -> Vec<String> {
        let (mut warnings, tally) = (Vec::new(), &self.tally);
        if tally.cut_short {
            warnings.push("it ended before its time".into());
        }
        if let Some(rate) = self.rate
            && (tally.in_window as f64) < ACHIEVED_MIN * tally.asked as f64
        {
            let achieved = self.achieved();
            warnings.push(format!(
                "only {achieved:.0} of {rate:.0} requests a second were answered: the service, or this client, is \
                 saturated, and the latencies grow with the time that is measured"
            ));
        }
        if self.rate.is_some() && self.lag_share() > LAG_SHARE_MAX {
            warnings.push(format!(
                "{:.0} % of the latency is this client's own delay: its core is saturated or shared; ask for less, or \
                 give it more `--cores`",
                self.lag_share() * 100.0
            ));
        }
        if tally.missing > 0 && tally.missing * 10 > tally.found {
            warnings.push(format!("{} of {} GETs found no key", tally.missing, tally.found + tally.missing));
        }
        warnings
    }

    /// For people.
    pub fn text(&self) -> String {
        let (mut text, tally) = (String::new(), &self.tally);
        let asked = self.rate.map_or("as many as it takes".into(), |rate| format!("{rate:.0}/s"));
        // Writing to a string cannot fail.
        let _ = writeln!(text, "{}", self.what);
        let seconds = tally.measured.as_secs_f64();
        let _ = writeln!(text, "asked     {asked} for {seconds:.1} s: {} requests", tally.asked);
        let errors = tally.errors();
        let _ = writeln!(text, "answered  {:.0}/s: {} well, {errors} errors", self.achieved(), tally.answered);
        if tally.found + tally.missing > 0 {
            let _ = writeln!(text, "reads     {} found their key, {} did not", tally.found, tally.missing);
        }
        if !tally.latency.is_empty() {
            let from = if self.rate.is_some() { "from when each request was due" } else { "from when it was sent" };
            let _ = writeln!(text, "latency   {}  ({from})", quantiles(&tally.latency));
        }
        if self.rate.is_some() && !tally.lag.is_empty() {
            let _ = writeln!(text, "of which  {}  (this client's own delay)", quantiles(&tally.lag));
        }
        for (kind, many) in &tally.errors {
            let _ = writeln!(text, "error     {many} x {kind}");
        }
        for (kind, many) in &tally.aside {
            let _ = writeln!(text, "besides   {many} x {kind}");
        }
        if tally.reconnects > 0 {
            let _ = writeln!(text, "besides   {} connections were made again", tally.reconnects);
        }
        text
    }

    /// The same for programs. Times are in nanoseconds.
    pub fn json(&self) -> Value {
        let tally = &self.tally;
        let latency: serde_json::Map<String, Value> =
            QUANTILES.iter().map(|(name, q)| (name.to_string(), json!(tally.latency.value_at_quantile(*q)))).collect();
        json!({
            "what": self.what,
            "rate_asked": self.rate,
            "rate_achieved": self.achieved(),
            "seconds": tally.measured.as_secs_f64(),
            "asked": tally.asked,
            "answered": tally.answered,
            "errors": tally.errors,
            "besides": tally.aside,
            "reconnects": tally.reconnects,
            "found": tally.found,
            "missing": tally.missing,
            "latency_ns": latency,
            "latency_mean_ns": tally.latency.mean(),
            "lag_p50_ns": tally.lag.value_at_quantile(0.5),
            "lag_p99_ns": tally.lag.value_at_quantile(0.99),
            "lag_share": self.lag_share(),
            "warnings": self.warnings(),
        })
    }
}

fn quantiles(histogram: &hdrhistogram::Histogram<u64>) -> String {
    let one = |(name, q): &(&str, f64)| format!("{name} {}", time(histogram.value_at_quantile(*q)));
    QUANTILES.iter().map(one).collect::<Vec<_>>().join(", ")
}

/// Nanoseconds as people read them.
pub fn time(nanos: u64) -> String {
    match nanos {
        0..1_000 => format!("{nanos} ns"),
        1_000..1_000_000 => format!("{:.1} us", nanos as f64 / 1e3),
        1_000_000..1_000_000_000 => format!("{:.2} ms", nanos as f64 / 1e6),
        _ => format!("{:.2} s", nanos as f64 / 1e9),
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    fn report(rate: Option<f64>, latency: u64, lag: u64, in_window: u64) -> Report {
        let mut tally =
            Tally { asked: 1000, answered: 1000, in_window, measured: Duration::from_secs(1), ..Tally::default() };
        tally.latency.record_n(latency, 1000).unwrap();
        tally.lag.record_n(lag, 1000).unwrap();
        Report { what: "a test".into(), rate, tally }
    }

    #[test]
    fn a_good_run_has_no_warnings_and_a_bad_one_says_why() {
        assert_eq!(report(Some(1000.0), 50_000, 1_000, 1000).warnings(), Vec::<String>::new());
        let slow = report(Some(1000.0), 50_000, 1_000, 500).warnings();
        assert!(slow.len() == 1 && slow[0].contains("only 500 of 1000"), "{slow:?}");
        let saturated = report(Some(1000.0), 50_000, 25_000, 1000).warnings();
        assert!(saturated.len() == 1 && saturated[0].contains("client's own delay"), "{saturated:?}");
        assert_eq!(report(None, 50_000, 25_000, 500).warnings(), Vec::<String>::new(), "a closed loop has no schedule");
    }

    #[test]
    fn both_forms_tell_the_same() {
        let report = report(Some(1000.0), 50_000, 1_000, 1000);
        assert!(report.text().contains("p50 50.0 us") && report.text().contains("1000 well, 0 errors"));
        let json = report.json();
        let p50 = json["latency_ns"]["p50"].as_u64().unwrap();
        assert!((49_900..50_100).contains(&p50), "{p50}");
        assert_eq!((json["asked"].as_u64(), json["rate_achieved"].as_f64()), (Some(1000), Some(1000.0)));
    }

    #[test]
    fn times_are_told_in_their_unit() {
        let cases = [(999, "999 ns"), (1_500, "1.5 us"), (2_500_000, "2.50 ms"), (3_000_000_000, "3.00 s")];
        cases.iter().for_each(|(nanos, text)| assert_eq!(time(*nanos), *text));
    }
}
