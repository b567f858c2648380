//! `margay load`: asks a service at a given rate, and says how long its answers take.

mod loader;
mod plot;
mod progress;
mod report;
mod schedule;
mod tally;
mod wire;

use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use anyhow::{Context, bail};
use clap::Args;
use framework::pdpix::Endpoint;
use framework::{Policy, System};
use libos_boot::launch;

use crate::core_args::{CoreArguments, parse_duration};
use loader::{Loader, Pace, Plan, Shared};
use progress::Progress;
use report::Report;
use schedule::Arrivals;
use tally::Tally;
use wire::Protocol;

#[derive(Args)]
pub struct Arguments {
    /// Where the service is.
    #[arg(long, default_value = "127.0.0.1:6379", value_name = "ADDR:PORT")]
    connect: Endpoint,
    /// What it speaks.
    #[arg(long, value_enum, default_value = "resp")]
    protocol: Protocol,
    /// Requests a second, whether they are answered or not; "max": each connection sends the next when one is answered.
    #[arg(long, default_value = "10000", value_name = "N|max", value_parser = parse_rate)]
    rate: Rate,
    /// How requests are spread over time.
    #[arg(long, value_enum, default_value = "poisson")]
    arrivals: Arrivals,
    /// Connections.
    #[arg(long, default_value_t = 50, value_name = "N")]
    connections: usize,
    /// With `--rate max`: requests in flight on each connection.
    #[arg(long, default_value_t = 1, value_name = "N")]
    pipeline: usize,
    /// How long to measure, such as 10s or 500ms.
    #[arg(long, default_value = "10s", value_parser = parse_duration)]
    duration: Duration,
    /// How long to ask before that without counting.
    #[arg(long, default_value = "1s", value_parser = parse_duration)]
    warm_up: Duration,
    /// Bytes in each value or message.
    #[arg(long, default_value_t = 64, value_name = "BYTES")]
    size: usize,
    /// How many keys are read and written, all equally often.
    #[arg(long, default_value_t = 10_000, value_name = "N")]
    keys: u64,
    /// The share of GETs; the others are SETs.
    #[arg(long, default_value_t = 0.9, value_name = "0..1")]
    reads: f64,
    /// Do not set the keys before.
    #[arg(long)]
    no_fill: bool,
    /// Draw the latency by percentile into this file.
    #[arg(long, value_name = "FILE")]
    svg: Option<PathBuf>,
    /// Write the figures into this file.
    #[arg(long, value_name = "FILE")]
    json: Option<PathBuf>,
    #[command(flatten)]
    cores: CoreArguments,
}

/// `--rate`
#[derive(Clone, Copy, Debug)]
enum Rate {
    PerSecond(f64),
    Max,
}

fn parse_rate(text: &str) -> Result<Rate, String> {
    match text.parse::<f64>() {
        _ if text == "max" => Ok(Rate::Max),
        Ok(rate) if rate.is_finite() && rate > 0.0 => Ok(Rate::PerSecond(rate)),
        _ => Err("neither a number of requests a second nor \"max\"".into()),
    }
}

pub fn run(arguments: Arguments) -> anyhow::Result<i32> {
    arguments.check()?;
    let settings = arguments.cores.client_settings()?;
    let cores = settings.cores.count;
    if arguments.connections < cores {
        bail!("{cores} cores need at least {cores} connections: raise `--connections`, or lower `--cores`");
    }
    let shared = Arc::new(Shared::default());
    shared.running.store(cores, Ordering::Release);
    let plans: Vec<Plan> = (0..cores).map(|core| arguments.plan(core, cores)).collect();
    let theirs = shared.clone();
    launch(&settings, move |launched| {
        launched.notices.iter().for_each(|notice| eprintln!("margay: {notice}"));
        let system = System::new(launched.core.libos());
        let core = usize::from(system.libos().core());
        let (plan, shared) = (plans[core].clone(), theirs.clone());
        let progress = if core == 0 { Progress::on_terminal() } else { None };
        system
            .spawn(Some("loader"), Policy::NEVER, move || Loader::new(plan.clone(), shared.clone(), progress.clone()));
        system.run(&launched.core, Duration::from_millis(100))
    })?;
    let mut tally = Tally::default();
    let tallies = shared.tallies.lock().unwrap_or_else(|poisoned| poisoned.into_inner());
    if tallies.is_empty() {
        bail!("nothing was measured");
    }
    tallies.iter().for_each(|one| tally.add(one));
    arguments.tell(Report { what: arguments.what(cores), rate: arguments.rate_asked(), tally })
}

impl Arguments {
    fn check(&self) -> anyhow::Result<()> {
        if self.size == 0 || self.connections == 0 || self.keys == 0 || self.pipeline == 0 {
            bail!("--size, --connections, --keys and --pipeline are at least 1");
        }
        if self.size > 16 << 20 {
            bail!("--size is at most 16 MiB");
        }
        if !(0.0..=1.0).contains(&self.reads) {
            bail!("--reads is a share: between 0 and 1");
        }
        if self.duration.is_zero() {
            bail!("--duration is more than nothing");
        }
        Ok(())
    }

    fn rate_asked(&self) -> Option<f64> {
        match self.rate {
            Rate::PerSecond(rate) => Some(rate),
            Rate::Max => None,
        }
    }

    /// What one of the cores does.
    fn plan(&self, core: usize, cores: usize) -> Plan {
        let connections = self.connections / cores + usize::from(core < self.connections % cores);
        let part = connections as f64 / self.connections as f64;
        let fills = self.protocol == Protocol::Resp && self.reads > 0.0 && !self.no_fill;
        Plan {
            connect: self.connect,
            protocol: self.protocol,
            pace: match self.rate {
                Rate::PerSecond(rate) => Pace::Rate(rate * part, self.arrivals),
                Rate::Max => Pace::Closed(self.pipeline),
            },
            connections,
            size: self.size,
            keys: self.keys,
            reads: self.reads,
            fill: fills.then_some((core as u64, cores)),
            warm_up: self.warm_up,
            duration: self.duration,
        }
    }

    fn what(&self, cores: usize) -> String {
        let Arguments { connect, connections, size, reads, keys, .. } = self;
        let load = match self.protocol {
            Protocol::Resp => format!("{size} B values, {:.0} % reads, {keys} keys", reads * 100.0),
            Protocol::Echo => format!("{size} B echoes"),
        };
        let pace = match (self.rate, self.arrivals) {
            (Rate::Max, _) => format!("{} in flight on each", self.pipeline),
            (_, Arrivals::Poisson) => "Poisson arrivals".into(),
            (_, Arrivals::Fixed) => "even arrivals".into(),
        };
        format!("{connect}: {load}, {connections} connections, {pace}, {cores} client core(s)")
    }

    fn tell(&self, report: Report) -> anyhow::Result<i32> {
        print!("{}", report.text());
        report.warnings().iter().for_each(|warning| eprintln!("margay: warning: {warning}"));
        if let Some(path) = &self.svg {
            let title = match self.rate_asked() {
                Some(rate) => format!("{}, {rate:.0}/s", report.what),
                None => report.what.clone(),
            };
            std::fs::write(path, plot::svg(&title, &report.tally.latency))
                .with_context(|| format!("cannot write {}", path.display()))?;
        }
        if let Some(path) = &self.json {
            let text = serde_json::to_string_pretty(&report.json())? + "\n";
            std::fs::write(path, text).with_context(|| format!("cannot write {}", path.display()))?;
        }
        Ok(i32::from(report.tally.answered == 0))
    }
}
