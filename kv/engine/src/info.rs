//! What INFO tells. The server fills it from all its cores; it is written with Redis's names, as far as they mean something
//! here. What is always zero without replicas, scripts and files is left out, but where clients are known to look for it.

use std::fmt::{Display, Write};

use crate::engine::{DATABASES, DatabaseSize};
use crate::refusal::ErrorCounts;
use crate::resp::{Reply, Request};

/// The version of Redis that we answer like.
pub const REDIS_VERSION: &str = "7.0.15";

/// A section of INFO.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Section {
    /// The program.
    Server,
    /// Connections.
    Clients,
    /// Memory.
    Memory,
    /// What is on disk.
    Persistence,
    /// What was counted.
    Stats,
    /// Replicas.
    Replication,
    /// Processor time.
    Cpu,
    /// Modules: there are none.
    Modules,
    /// Errors that were answered.
    Errors,
    /// The cluster: we are none.
    Cluster,
    /// Databases with keys.
    Keyspace,
}

impl Section {
    const ALL: [(Section, &'static str); 11] = [
        (Section::Server, "server"),
        (Section::Clients, "clients"),
        (Section::Memory, "memory"),
        (Section::Persistence, "persistence"),
        (Section::Stats, "stats"),
        (Section::Replication, "replication"),
        (Section::Cpu, "cpu"),
        (Section::Modules, "modules"),
        (Section::Errors, "errorstats"),
        (Section::Cluster, "cluster"),
        (Section::Keyspace, "keyspace"),
    ];

    /// The sections that an INFO with this request asks for, in the order in which they are told.
    pub fn asked_for(request: &Request) -> Vec<Section> {
        let asked = |name: &str| {
            request.len() == 1
                || request.args_from(1).any(|arg| {
                    let is = |word: &str| arg.eq_ignore_ascii_case(word.as_bytes());
                    is(name) || is("default") || is("all") || is("everything")
                })
        };
        Section::ALL.into_iter().filter(|(_, name)| asked(name)).map(|(section, _)| section).collect()
    }
}

/// What INFO tells of what is kept on disk. Sizes in bytes.
#[derive(Clone, Default, Debug)]
pub struct Persistence {
    /// A snapshot is being written.
    pub saving: bool,
    /// The last one failed.
    pub save_failed: bool,
    /// So many seconds ago, if there is one.
    pub saving_seconds: Option<u64>,
    /// Bytes of the last one.
    pub saved_len: u64,
    /// How many were written.
    pub saves: u64,
    /// How long the last one took, if there was one.
    pub save_seconds: Option<u64>,
    /// Bytes that waited to be written by it, at most: what it took besides the data.
    pub save_waiting_max: u64,
    /// Keys that it wrote because they were about to change.
    pub saved_ahead: u64,
    /// Keys that were loaded when the service began.
    pub keys_loaded: u64,
    /// The log cannot be written to.
    pub log_failed: bool,
    /// Bytes appended to the log since the last snapshot, and when that was written.
    pub log_size: u64,
    /// Bytes appended, and not known to be durable.
    pub log_pending: u64,
}

/// What INFO tells. Sizes in bytes.
#[derive(Clone, Default, Debug)]
pub struct Info {
    /// Our own version.
    pub margay_version: String,
    /// Operating system, its version, processor.
    pub os: String,
    /// The process.
    pub process_id: u32,
    /// Forty digits that name this run of the server.
    pub run_id: String,
    /// Where it listens.
    pub tcp_port: u16,
    /// Microseconds since 1970.
    pub server_time_usec: u64,
    /// Since it was started.
    pub uptime_seconds: u64,
    /// Cores, each with a shard.
    pub cores: usize,
    /// The executable file.
    pub executable: String,
    /// The configuration file.
    pub config_file: String,

    /// Connections now.
    pub connected_clients: usize,
    /// How many there may be.
    pub clients_max: usize,
    /// Waiting for something.
    pub blocked_clients: usize,

    /// Pinned in all heaps.
    pub used_memory: u64,
    /// The most that ever was.
    pub used_memory_peak: u64,
    /// Of the process, as the system counts.
    pub used_memory_rss: u64,
    /// Of the machine.
    pub total_system_memory: u64,
    /// The bound, or zero.
    pub memory_max: u64,
    /// Deleted and not freed yet, in parts.
    pub pending_frees: usize,

    /// Data is being loaded.
    pub loading: bool,
    /// Keys and elements changed since what is on disk.
    pub changes_since_last_save: u64,
    /// Seconds since 1970, or when the server was started.
    pub last_save_time: u64,
    /// A log is kept.
    pub log_enabled: bool,
    /// Snapshots and log.
    pub persistence: Persistence,

    /// Since it was started, like all that follow.
    pub connections_received: u64,
    /// Commands carried out.
    pub commands_processed: u64,
    /// Of late.
    pub ops_per_second: u64,
    /// Bytes received.
    pub net_input_bytes: u64,
    /// Bytes sent.
    pub net_output_bytes: u64,
    /// Connections that were turned away.
    pub rejected_connections: u64,
    /// Keys whose time had come.
    pub expired_keys: u64,
    /// Keys that had to make room.
    pub evicted_keys: u64,
    /// Reads that found their key.
    pub keyspace_hits: u64,
    /// Reads that did not.
    pub keyspace_misses: u64,
    /// Errors that were answered, by their codes.
    pub errors: ErrorCounts,

    /// Forty digits that name the history of the data.
    pub replication_id: String,

    /// Seconds of processor time in the system.
    pub cpu_sys: f64,
    /// And in the program.
    pub cpu_user: f64,

    /// Databases.
    pub databases: [DatabaseSize; DATABASES],
}

impl Info {
    /// Answers an INFO.
    pub fn put(&self, sections: &[Section], reply: &mut Reply<'_>) {
        reply.verbatim("txt", self.text(sections).as_bytes());
    }

    /// The text of some sections.
    pub fn text(&self, sections: &[Section]) -> String {
        let mut text = Lines::default();
        for section in sections {
            match section {
                Section::Server => self.put_server(&mut text),
                Section::Clients => self.put_clients(&mut text),
                Section::Memory => self.put_memory(&mut text),
                Section::Persistence => self.put_persistence(&mut text),
                Section::Stats => self.put_stats(&mut text),
                Section::Replication => self.put_replication(&mut text),
                Section::Cpu => {
                    text.begin("CPU");
                    text.put("used_cpu_sys", format_args!("{:.6}", self.cpu_sys));
                    text.put("used_cpu_user", format_args!("{:.6}", self.cpu_user));
                }
                Section::Modules => text.begin("Modules"),
                Section::Errors => {
                    text.begin("Errorstats");
                    for (code, count) in self.errors.iter() {
                        let code = String::from_utf8_lossy(code);
                        text.put(format_args!("errorstat_{code}"), format_args!("count={count}"));
                    }
                }
                Section::Cluster => {
                    text.begin("Cluster");
                    text.put("cluster_enabled", 0);
                }
                Section::Keyspace => {
                    text.begin("Keyspace");
                    for (index, DatabaseSize { keys, expiring }) in self.databases.iter().enumerate() {
                        if *keys > 0 {
                            text.put(
                                format_args!("db{index}"),
                                format_args!("keys={keys},expires={expiring},avg_ttl=0"),
                            );
                        }
                    }
                }
            }
        }
        text.0
    }

    fn put_server(&self, text: &mut Lines) {
        text.begin("Server");
        text.put("redis_version", REDIS_VERSION);
        text.put("margay_version", &self.margay_version);
        text.put("redis_mode", "standalone");
        text.put("os", &self.os);
        text.put("arch_bits", usize::BITS);
        text.put("process_id", self.process_id);
        text.put("process_supervised", "no");
        text.put("run_id", &self.run_id);
        text.put("tcp_port", self.tcp_port);
        text.put("server_time_usec", self.server_time_usec);
        text.put("uptime_in_seconds", self.uptime_seconds);
        text.put("uptime_in_days", self.uptime_seconds / 86_400);
        text.put("cores", self.cores);
        text.put("executable", &self.executable);
        text.put("config_file", &self.config_file);
    }

    fn put_clients(&self, text: &mut Lines) {
        text.begin("Clients");
        text.put("connected_clients", self.connected_clients);
        text.put("cluster_connections", 0);
        text.put("maxclients", self.clients_max);
        text.put("blocked_clients", self.blocked_clients);
        text.put("tracking_clients", 0);
    }

    fn put_memory(&self, text: &mut Lines) {
        text.begin("Memory");
        text.put_size("used_memory", self.used_memory);
        text.put_size("used_memory_rss", self.used_memory_rss);
        text.put_size("used_memory_peak", self.used_memory_peak);
        text.put_size("total_system_memory", self.total_system_memory);
        text.put_size("maxmemory", self.memory_max);
        text.put("maxmemory_policy", "noeviction");
        let ratio = self.used_memory_rss as f64 / self.used_memory.max(1) as f64;
        text.put("mem_fragmentation_ratio", format_args!("{ratio:.2}"));
        text.put("mem_allocator", "margay");
        text.put("lazyfree_pending_objects", self.pending_frees);
    }

    fn put_persistence(&self, text: &mut Lines) {
        text.begin("Persistence");
        text.put("loading", u8::from(self.loading));
        text.put("async_loading", 0);
        let Persistence { saves, save_waiting_max, keys_loaded, log_size, log_pending, .. } = self.persistence;
        let ok = |failed: bool| if failed { "err" } else { "ok" };
        text.put("current_cow_peak", save_waiting_max);
        text.put("rdb_changes_since_last_save", self.changes_since_last_save);
        text.put("rdb_bgsave_in_progress", u8::from(self.persistence.saving));
        text.put("rdb_last_save_time", self.last_save_time);
        text.put("rdb_last_bgsave_status", ok(self.persistence.save_failed));
        let of_last = self.persistence.save_seconds.map_or(-1, |seconds| seconds as i64);
        text.put("rdb_last_bgsave_time_sec", of_last);
        let of_now = self.persistence.saving_seconds.map_or(-1, |seconds| seconds as i64);
        text.put("rdb_current_bgsave_time_sec", of_now);
        text.put("rdb_saves", saves);
        text.put("rdb_last_cow_size", save_waiting_max);
        text.put("rdb_last_load_keys_loaded", keys_loaded);
        text.put("aof_enabled", u8::from(self.log_enabled));
        text.put("aof_rewrite_in_progress", u8::from(self.log_enabled && self.persistence.saving));
        // To make the log short is to write a snapshot; none waits for another.
        text.put("aof_rewrite_scheduled", 0);
        text.put("aof_last_rewrite_time_sec", of_last);
        text.put("aof_current_rewrite_time_sec", of_now);
        text.put("aof_last_bgrewrite_status", ok(self.persistence.save_failed));
        text.put("aof_last_write_status", ok(self.persistence.log_failed));
        if self.log_enabled {
            // Of Redis's file the snapshot is the beginning.
            text.put("aof_current_size", self.persistence.saved_len + log_size);
            text.put("aof_base_size", self.persistence.saved_len);
            text.put("aof_pending_rewrite", 0);
            text.put("aof_buffer_length", log_pending);
        }
    }

    fn put_stats(&self, text: &mut Lines) {
        text.begin("Stats");
        text.put("total_connections_received", self.connections_received);
        text.put("total_commands_processed", self.commands_processed);
        text.put("instantaneous_ops_per_sec", self.ops_per_second);
        text.put("total_net_input_bytes", self.net_input_bytes);
        text.put("total_net_output_bytes", self.net_output_bytes);
        text.put("rejected_connections", self.rejected_connections);
        text.put("sync_full", 0);
        text.put("sync_partial_ok", 0);
        text.put("sync_partial_err", 0);
        text.put("expired_keys", self.expired_keys);
        text.put("evicted_keys", self.evicted_keys);
        text.put("keyspace_hits", self.keyspace_hits);
        text.put("keyspace_misses", self.keyspace_misses);
        text.put("pubsub_channels", 0);
        text.put("pubsub_patterns", 0);
        text.put("latest_fork_usec", 0);
        text.put("total_error_replies", self.errors.total());
    }

    fn put_replication(&self, text: &mut Lines) {
        text.begin("Replication");
        text.put("role", "master");
        text.put("connected_slaves", 0);
        text.put("master_failover_state", "no-failover");
        text.put("master_replid", &self.replication_id);
        text.put("master_repl_offset", 0);
    }
}

/// The text of INFO as it grows.
#[derive(Default)]
struct Lines(String);

impl Lines {
    /// The head of a section, behind an empty line if it is not the first.
    fn begin(&mut self, title: &str) {
        let space = if self.0.is_empty() { "" } else { "\r\n" };
        let _ = write!(self.0, "{space}# {title}\r\n");
    }

    fn put(&mut self, name: impl Display, value: impl Display) {
        let _ = write!(self.0, "{name}:{value}\r\n");
    }

    /// A number of bytes, and the same for a person.
    fn put_size(&mut self, name: &str, bytes: u64) {
        self.put(name, bytes);
        self.put(format_args!("{name}_human"), human(bytes));
    }
}

fn human(bytes: u64) -> String {
    for (unit, shift) in [("G", 30), ("M", 20), ("K", 10)] {
        if bytes >> shift > 0 {
            return format!("{:.2}{unit}", bytes as f64 / (1u64 << shift) as f64);
        }
    }
    format!("{bytes}B")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::resp::tests::heap;

    #[test]
    fn sections_as_asked_for() {
        let heap = heap();
        let asked = |args: &[&str]| {
            let args = ["INFO"].iter().chain(args).map(|arg| arg.as_bytes());
            Section::asked_for(&Request::of(args.collect::<Vec<_>>(), &heap).unwrap())
        };
        assert_eq!(asked(&["Keyspace", "SERVER", "nope"]), [Section::Server, Section::Keyspace]);
        assert_eq!(asked(&[]).len(), 11);
        assert_eq!(asked(&["nope"]), []);
        let mut info = Info { used_memory: 3 << 20, ..Info::default() };
        info.databases[3] = DatabaseSize { keys: 2, expiring: 1 };
        let text = info.text(&asked(&["keyspace", "clients"]));
        assert!(text.starts_with("# Clients\r\nconnected_clients:0\r\n"));
        assert!(text.ends_with("\r\n\r\n# Keyspace\r\ndb3:keys=2,expires=1,avg_ttl=0\r\n"));
        assert!(info.text(&asked(&["memory"])).contains("used_memory:3145728\r\nused_memory_human:3.00M\r\n"));
    }
}
