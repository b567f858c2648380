//! The threads that SPDK's devices have besides the cores.

mod nvmf;

use libos_spdk::{DiskSettings, Target, open};
use nvmf::{Nvmf, POOLS};

/// Of a thread of this process with this name: the processors that it may use, and its scheduling policy.
fn facts(name: &str) -> (String, u32) {
    let is_it =
        |task: &std::path::Path| std::fs::read_to_string(task.join("comm")).is_ok_and(|comm| comm.trim() == name);
    let tasks = std::fs::read_dir("/proc/self/task").unwrap().map(|task| task.unwrap().path());
    let task = tasks.into_iter().find(|task| is_it(task)).unwrap_or_else(|| panic!("no thread is called {name}"));
    let status = std::fs::read_to_string(task.join("status")).unwrap();
    let allowed = status.lines().find_map(|line| line.strip_prefix("Cpus_allowed_list:")).unwrap().trim().to_string();
    // The 41st field (proc_pid_stat(5)); the name, the second one, may hold anything.
    let stat = std::fs::read_to_string(task.join("stat")).unwrap();
    let policy = stat.rsplit(')').next().unwrap().split_whitespace().nth(38).unwrap().parse().unwrap();
    (allowed, policy)
}

#[test]
fn threads_beside_the_cores_have_neither_their_processor_nor_their_priority() {
    let (env, target) = match nvmf::env().and_then(|env| Ok((env, Nvmf::start()?))) {
        Err(why) => return println!("SKIP spdk_threads: {why}"),
        Ok(both) => both,
    };
    let status = std::fs::read_to_string("/proc/thread-self/status").unwrap();
    let all = status.lines().find_map(|line| line.strip_prefix("Cpus_allowed_list:")).unwrap().trim().to_string();
    // As a core: on one processor, and with a policy of its own.
    let first: usize = all.split(['-', ',']).next().unwrap().parse().unwrap();
    // SAFETY: plain data, and calls that read it.
    unsafe {
        let mut one: libc::cpu_set_t = std::mem::zeroed();
        libc::CPU_SET(first, &mut one);
        assert_eq!(libc::sched_setaffinity(0, size_of_val(&one), &one), 0);
        libc::sched_setscheduler(0, libc::SCHED_BATCH, &libc::sched_param { sched_priority: 0 });
    }
    let heap = nvmf::heap(env);
    let configuration = format!(
        r#"{{"subsystems":[{{"subsystem":"iobuf","config":[{POOLS}]}},{{"subsystem":"bdev","config":[{{"method":"bdev_malloc_create","params":{{"name":"M","num_blocks":16384,"block_size":512}}}}]}}]}}"#
    );
    let settings = DiskSettings { configuration, ..DiskSettings::default() };
    let tcp = open(env, &target.target(1), &settings, &heap).unwrap();
    let bdev = open(env, &Target::parse("bdev:M", 0).unwrap(), &settings, &heap).unwrap();
    for name in ["nvme", "spdk"] {
        assert_eq!(facts(name), (all.clone(), libc::SCHED_OTHER as u32), "of the thread {name}");
    }
    drop((tcp, bdev));
}
