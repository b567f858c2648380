//! What INFO tells: what each core knows, and what is made of it.

use framework::Outbox;
use framework::pdpix::WallTime;
use kv_engine::engine::{DATABASES, DatabaseSize, EngineStats};
use kv_engine::info::{Info, Persistence};
use kv_engine::refusal::ErrorCounts;

use crate::persistence::Durability;
use crate::shard::Shard;

/// What is known of the process: who starts the service says how to find out.
#[derive(Clone, Default, Debug)]
pub struct ProcessFacts {
    /// Its number.
    pub process_id: u32,
    /// Operating system, version, processor.
    pub os: String,
    /// The executable file.
    pub executable: String,
    /// The configuration file.
    pub config_file: String,
    /// Bytes of memory that are its own now.
    pub rss: u64,
    /// Bytes of memory of the machine.
    pub memory: u64,
    /// Seconds of processor time in the program, and in the system.
    pub cpu_user: f64,
    /// In the system.
    pub cpu_sys: f64,
}

/// What one core knows.
#[derive(Clone, Default, Debug)]
pub struct Report {
    clients: usize,
    blocked: usize,
    accepted: u64,
    rejected: u64,
    /// Carried out here and by no engine.
    commands: u64,
    engine: EngineStats,
    errors: ErrorCounts,
    databases: [DatabaseSize; DATABASES],
    pinned: usize,
    pinned_peak: usize,
    ops_per_second: u64,
    uptime_seconds: u64,
    bytes_in: u64,
    bytes_out: u64,
    is_loading: bool,
    changes: u64,
    last_save: Option<u64>,
    persistence: Persistence,
}

impl Shard {
    pub(crate) fn report(&self, out: &Outbox<'_, Shard>) -> Report {
        let pinned = out.heap().stats().pinned;
        let mut errors = self.errors.clone();
        errors.add(self.engine.errors());
        let system = out.system().map(framework::System::stats).unwrap_or_default();
        Report {
            clients: self.clients.len(),
            blocked: self.paused.len(),
            accepted: self.accepted_counted,
            rejected: self.rejected,
            commands: self.commands,
            engine: self.engine.stats(),
            errors,
            databases: std::array::from_fn(|index| self.engine.size(index)),
            pinned,
            pinned_peak: self.rates.pinned_peak().max(pinned),
            ops_per_second: self.rates.per_second(),
            uptime_seconds: self.started.map_or(0, |started| out.now().since(started).as_secs()),
            bytes_in: system.bytes_received,
            bytes_out: system.bytes_sent,
            is_loading: self.persistence.is_loading,
            changes: self.engine.stats().changes.saturating_sub(self.persistence.changes_saved),
            last_save: self.persistence.last_save,
            persistence: Persistence {
                saving: self.persistence.saving.is_some(),
                saving_seconds: self.persistence.saving.as_ref().map(|saving| saving.seconds(out.now())),
                saved_len: self.persistence.saved_len,
                log_pending: self.persistence.pending() as u64,
                ..self.persistence.told.clone()
            },
        }
    }

    /// All that is known, of all cores.
    pub(crate) fn info(&self, reports: impl Iterator<Item = Report>, now: WallTime) -> Info {
        let facts = (self.args.facts)();
        let mut info = Info {
            margay_version: env!("CARGO_PKG_VERSION").into(),
            os: facts.os,
            process_id: facts.process_id,
            run_id: self.args.run_id.clone(),
            replication_id: self.args.run_id.clone(),
            tcp_port: self.listens_at.map_or(0, |at| at.port()),
            server_time_usec: now.as_millis() * 1000,
            cores: self.shards,
            executable: facts.executable,
            config_file: facts.config_file,
            clients_max: self.config.clients_max(),
            used_memory_rss: facts.rss,
            total_system_memory: facts.memory,
            memory_max: self.config.limits().memory.unwrap_or(0) as u64,
            cpu_user: facts.cpu_user,
            cpu_sys: facts.cpu_sys,
            ..Info::default()
        };
        info.log_enabled = self.persistence.durability != Durability::None;
        let mut last_save = None;
        for report in reports {
            info.connected_clients += report.clients;
            info.blocked_clients += report.blocked;
            info.connections_received += report.accepted;
            info.rejected_connections += report.rejected;
            info.commands_processed += report.commands + report.engine.commands;
            info.keyspace_hits += report.engine.hits;
            info.keyspace_misses += report.engine.misses;
            info.expired_keys += report.engine.expired;
            info.changes_since_last_save += report.changes;
            info.loading |= report.is_loading;
            last_save = last_save.max(report.last_save);
            let (sum, its) = (&mut info.persistence, report.persistence);
            sum.saving |= its.saving;
            sum.saving_seconds = sum.saving_seconds.max(its.saving_seconds);
            sum.saved_len += its.saved_len;
            sum.save_failed |= its.save_failed;
            sum.saves = sum.saves.max(its.saves);
            sum.save_seconds = sum.save_seconds.max(its.save_seconds);
            sum.save_waiting_max += its.save_waiting_max;
            sum.saved_ahead += its.saved_ahead;
            sum.keys_loaded += its.keys_loaded;
            sum.log_failed |= its.log_failed;
            sum.log_size += its.log_size;
            sum.log_pending += its.log_pending;
            info.errors.add(&report.errors);
            info.used_memory += report.pinned as u64;
            info.used_memory_peak += report.pinned_peak as u64;
            info.ops_per_second += report.ops_per_second;
            info.uptime_seconds = info.uptime_seconds.max(report.uptime_seconds);
            info.net_input_bytes += report.bytes_in;
            info.net_output_bytes += report.bytes_out;
            for (sum, size) in info.databases.iter_mut().zip(report.databases) {
                sum.keys += size.keys;
                sum.expiring += size.expiring;
            }
        }
        let started = (now.as_millis() / 1000).saturating_sub(info.uptime_seconds);
        info.last_save_time = last_save.unwrap_or(started);
        info
    }

    pub(crate) fn reset_stats(&mut self) {
        self.engine.reset_stats();
        self.errors = ErrorCounts::default();
        (self.commands, self.rejected, self.accepted_counted) = (0, 0, 0);
        self.rates.reset_peak();
    }
}
