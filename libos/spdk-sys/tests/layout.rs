//! Our declarations against SPDK's headers, as a C compiler sees them.

use std::collections::BTreeMap;
use std::mem::offset_of;
use std::path::PathBuf;
use std::process::Command;

use spdk_sys::*;

/// What the headers may be called, and where: told, beside the library, or installed.
fn headers() -> Result<PathBuf, String> {
    let told = std::env::var_os("MARGAY_TEST_SPDK_INCLUDE").map(PathBuf::from);
    let library = std::env::var_os("MARGAY_SPDK_LIBRARY").map(PathBuf::from);
    let beside = library.iter().flat_map(|it| [it.join("../include"), it.join("../../include")]);
    let installed = ["/usr/local/include", "/usr/include"].map(PathBuf::from);
    let places: Vec<PathBuf> = told.into_iter().chain(beside).chain(installed).collect();
    places
        .into_iter()
        .find(|place| place.join("spdk/nvme.h").exists())
        .ok_or_else(|| "SPDK's headers are not installed (MARGAY_TEST_SPDK_INCLUDE)".into())
}

macro_rules! facts {
    ($(size $sized:ident;)* $(offset $structure:ident.$field:tt $(as $ours:ident)?;)* $(value $value:ident $(= $c:literal)?;)*) => {{
        let mut facts: Vec<(String, String, i128)> = Vec::new();
        $(facts.push((concat!("sizeof ", stringify!($sized)).into(), concat!("sizeof(struct ", stringify!($sized), ")").into(), size_of::<$sized>() as i128));)*
        $(facts.push((
            concat!(stringify!($structure), ".", stringify!($field)).into(),
            concat!("offsetof(struct ", stringify!($structure), ", ", stringify!($field), ")").into(),
            offset_of!($structure, $field) as i128,
        ));)*
        $(facts.push((stringify!($value).into(), stringify!($value).into(), $value as i128));)*
        facts
    }};
}

fn facts() -> Vec<(String, String, i128)> {
    let mut facts = facts! {
        size spdk_nvme_transport_id;
        size spdk_nvme_ctrlr_opts;
        size spdk_nvme_cpl;
        size spdk_nvme_dsm_range;
        offset spdk_env_opts.name;
        offset spdk_env_opts.shm_id;
        offset spdk_env_opts.main_core;
        offset spdk_env_opts.mem_size;
        offset spdk_env_opts.no_pci;
        offset spdk_env_opts.no_huge;
        offset spdk_env_opts.num_pci_addr;
        offset spdk_env_opts.pci_allowed;
        offset spdk_env_opts.iova_mode;
        offset spdk_env_opts.env_context;
        offset spdk_env_opts.vf_token;
        offset spdk_nvme_transport_id.trtype;
        offset spdk_nvme_transport_id.adrfam;
        offset spdk_nvme_transport_id.traddr;
        offset spdk_nvme_transport_id.trsvcid;
        offset spdk_nvme_transport_id.subnqn;
        offset spdk_nvme_transport_id.priority;
        offset spdk_nvme_ctrlr_opts.num_io_queues;
        offset spdk_nvme_ctrlr_opts.arb_mechanism;
        offset spdk_nvme_ctrlr_opts.keep_alive_timeout_ms;
        offset spdk_nvme_ctrlr_opts.transport_retry_count;
        offset spdk_nvme_ctrlr_opts.io_queue_size;
        offset spdk_nvme_ctrlr_opts.hostnqn;
        offset spdk_nvme_ctrlr_opts.io_queue_requests;
        offset spdk_nvme_ctrlr_opts.src_addr;
        offset spdk_nvme_ctrlr_opts.src_svcid;
        offset spdk_nvme_ctrlr_opts.host_id;
        offset spdk_nvme_ctrlr_opts.extended_host_id;
        offset spdk_nvme_ctrlr_opts.command_set;
        offset spdk_nvme_ctrlr_opts.admin_timeout_ms;
        offset spdk_nvme_ctrlr_opts.header_digest;
        offset spdk_nvme_ctrlr_opts.disable_error_logging;
        offset spdk_nvme_ctrlr_opts.admin_queue_size;
        offset spdk_nvme_ctrlr_opts.opts_size;
        offset spdk_nvme_ctrlr_opts.fabrics_connect_timeout_us;
        offset spdk_nvme_io_qpair_opts.qprio;
        offset spdk_nvme_io_qpair_opts.io_queue_size;
        offset spdk_nvme_io_qpair_opts.io_queue_requests;
        offset spdk_nvme_io_qpair_opts.delay_cmd_submit;
        offset spdk_nvme_cpl.sqid;
        offset spdk_nvme_cpl.cid;
        offset spdk_nvme_cpl.status_raw;
        offset spdk_nvme_dsm_range.length;
        offset spdk_nvme_dsm_range.starting_lba;
        value SPDK_NVME_NS_DEALLOCATE_SUPPORTED;
        value SPDK_NVME_NS_FLUSH_SUPPORTED;
        value SPDK_NVME_NS_EXTENDED_LBA_SUPPORTED;
        value SPDK_NVME_CTRLR_SGL_SUPPORTED;
        value SPDK_NVME_CTRLR_SGL_REQUIRES_DWORD_ALIGNMENT;
        value SPDK_NVME_DSM_ATTR_DEALLOCATE;
        value SPDK_NVME_TRANSPORT_PCIE;
        value SPDK_NVME_TRANSPORT_TCP;
        value SPDK_MALLOC_DMA;
        value SPDK_ENV_NUMA_ID_ANY;
        value SPDK_LOG_ERROR;
        value SPDK_LOG_DISABLED;
        value SPDK_BDEV_IO_TYPE_UNMAP;
        value SPDK_BDEV_IO_TYPE_FLUSH;
        value SPDK_BDEV_EVENT_REMOVE;
        value SPDK_RPC_STARTUP;
        value SPDK_RPC_RUNTIME;
    };
    let mut of = |c: &str, ours: usize| facts.push((c.into(), c.into(), ours as i128));
    of("offsetof(struct spdk_nvme_ctrlr_data, sn)", CTRLR_DATA_SN);
    of("offsetof(struct spdk_nvme_ctrlr_data, mn)", CTRLR_DATA_MN);
    // Structures that grew at their end: the part that we have must be within theirs.
    of("sizeof(struct spdk_nvme_io_qpair_opts) < sizeof_qpair_opts", 0);
    of("sizeof(struct spdk_env_opts) > sizeof_env_opts", 0);
    of("errors_of_completions()", errors_of_completions() as usize);
    facts
}

/// How many of all statuses are errors, weighted by which.
fn errors_of_completions() -> u64 {
    let is_error = |status_raw| spdk_nvme_cpl { cdw0: 0, cdw1: 0, sqhd: 0, sqid: 0, cid: 0, status_raw }.is_error();
    (0..=u16::MAX).filter(|&status| is_error(status)).map(u64::from).sum()
}

/// Assigned to pointers of these types, the functions are what we say that they are: a C compiler refuses others.
const FUNCTIONS: &str = "
int (*f1)(struct spdk_nvme_ns *, struct spdk_nvme_qpair *, void *, uint64_t, uint32_t, spdk_nvme_cmd_cb, void *, uint32_t) = spdk_nvme_ns_cmd_read;
int (*f2)(struct spdk_nvme_ns *, struct spdk_nvme_qpair *, void *, uint64_t, uint32_t, spdk_nvme_cmd_cb, void *, uint32_t) = spdk_nvme_ns_cmd_write;
int (*f3)(struct spdk_nvme_ns *, struct spdk_nvme_qpair *, uint64_t, uint32_t, spdk_nvme_cmd_cb, void *, uint32_t, spdk_nvme_req_reset_sgl_cb, spdk_nvme_req_next_sge_cb) = spdk_nvme_ns_cmd_writev;
int (*f4)(struct spdk_nvme_ns *, struct spdk_nvme_qpair *, spdk_nvme_cmd_cb, void *) = spdk_nvme_ns_cmd_flush;
int (*f5)(struct spdk_nvme_ns *, struct spdk_nvme_qpair *, uint32_t, const struct spdk_nvme_dsm_range *, uint16_t, spdk_nvme_cmd_cb, void *) = spdk_nvme_ns_cmd_dataset_management;
int32_t (*f6)(struct spdk_nvme_qpair *, uint32_t) = spdk_nvme_qpair_process_completions;
struct spdk_nvme_ctrlr *(*f7)(const struct spdk_nvme_transport_id *, const struct spdk_nvme_ctrlr_opts *, size_t) = spdk_nvme_connect;
struct spdk_nvme_qpair *(*f8)(struct spdk_nvme_ctrlr *, const struct spdk_nvme_io_qpair_opts *, size_t) = spdk_nvme_ctrlr_alloc_io_qpair;
void (*f9)(struct spdk_nvme_ctrlr *, struct spdk_nvme_io_qpair_opts *, size_t) = spdk_nvme_ctrlr_get_default_io_qpair_opts;
void (*f10)(struct spdk_nvme_ctrlr_opts *, size_t) = spdk_nvme_ctrlr_get_default_ctrlr_opts;
int (*f11)(const struct spdk_nvme_transport_id *, void *, spdk_nvme_probe_cb, spdk_nvme_attach_cb, spdk_nvme_remove_cb) = spdk_nvme_probe;
int32_t (*f12)(struct spdk_nvme_ctrlr *) = spdk_nvme_ctrlr_process_admin_completions;
int (*f13)(struct spdk_nvme_ctrlr *) = spdk_nvme_detach;
int (*f14)(struct spdk_nvme_qpair *) = spdk_nvme_ctrlr_free_io_qpair;
uint64_t (*f15)(struct spdk_nvme_ctrlr *) = spdk_nvme_ctrlr_get_flags;
uint16_t (*f16)(const struct spdk_nvme_ctrlr *) = spdk_nvme_ctrlr_get_max_sges;
uint32_t (*f17)(struct spdk_nvme_ns *) = spdk_nvme_ns_get_max_io_xfer_size;
uint64_t (*f18)(struct spdk_nvme_ns *) = spdk_nvme_ns_get_num_sectors;
int (*f19)(struct spdk_nvme_transport_id *, const char *) = spdk_nvme_transport_id_parse;
int (*f20)(bool) = spdk_env_dpdk_post_init;
int (*f21)(const struct spdk_env_opts *) = spdk_env_init;
void *(*f22)(size_t, size_t, uint64_t *, int, uint32_t) = spdk_zmalloc;
int (*f23)(const char *, bool, spdk_bdev_event_cb_t, void *, struct spdk_bdev_desc **) = spdk_bdev_open_ext;
int (*f24)(struct spdk_bdev_desc *, struct spdk_io_channel *, struct iovec *, int, uint64_t, uint64_t, spdk_bdev_io_completion_cb, void *) = spdk_bdev_readv_blocks;
int (*f25)(struct spdk_bdev_desc *, struct spdk_io_channel *, struct iovec *, int, uint64_t, uint64_t, spdk_bdev_io_completion_cb, void *) = spdk_bdev_writev_blocks;
int (*f26)(struct spdk_bdev_desc *, struct spdk_io_channel *, uint64_t, uint64_t, spdk_bdev_io_completion_cb, void *) = spdk_bdev_flush_blocks;
int (*f27)(struct spdk_bdev_desc *, struct spdk_io_channel *, uint64_t, uint64_t, spdk_bdev_io_completion_cb, void *) = spdk_bdev_unmap_blocks;
int (*f28)(spdk_new_thread_fn, size_t) = spdk_thread_lib_init;
struct spdk_thread *(*f29)(const char *, const struct spdk_cpuset *) = spdk_thread_create;
int (*f30)(struct spdk_thread *, uint32_t, uint64_t) = spdk_thread_poll;
size_t (*f31)(const struct spdk_bdev *) = spdk_bdev_get_buf_align;
uint32_t (*f32)(const struct spdk_bdev *) = spdk_bdev_get_write_unit_size;
int (*f33)(void *, int (*)(void *, struct spdk_bdev *)) = spdk_for_each_bdev;
const char *(*f34)(const struct spdk_bdev *) = spdk_bdev_get_name;
const char *(*f35)(const struct spdk_bdev *) = spdk_bdev_get_product_name;
bool (*f36)(const struct spdk_bdev *) = spdk_bdev_has_write_cache;
bool (*f37)(struct spdk_bdev *, enum spdk_bdev_io_type) = spdk_bdev_io_type_supported;
";

/// What C says of each, by its name.
fn ask_c(include: &std::path::Path, facts: &[(String, String, i128)]) -> BTreeMap<String, i128> {
    let folder = PathBuf::from(env!("CARGO_TARGET_TMPDIR")).join(format!("layout-{}", std::process::id()));
    std::fs::create_dir_all(&folder).unwrap();
    let mut program = String::from(
        "#include <stddef.h>\n#include <stdio.h>\n#include <spdk/env.h>\n#include <spdk/env_dpdk.h>\n#include <spdk/nvme.h>\n\
         #include <spdk/bdev.h>\n#include <spdk/thread.h>\n#include <spdk/init.h>\n#include <spdk/rpc.h>\n#include <spdk/log.h>\n",
    );
    for (name, size) in [("qpair_opts", size_of::<spdk_nvme_io_qpair_opts>()), ("env_opts", size_of::<spdk_env_opts>())]
    {
        program += &format!("enum {{ sizeof_{name} = {size} }};\n");
    }
    program += "static unsigned long long errors_of_completions(void) {\n unsigned long long sum = 0;\n for (unsigned s = 0; s <= 0xffff; s++) {\n\
                struct spdk_nvme_cpl cpl = { .status_raw = s };\n if (spdk_nvme_cpl_is_error(&cpl)) sum += s;\n }\n return sum;\n}\n";
    // Never linked: the types are what is wanted of it.
    std::fs::write(folder.join("functions.c"), program.clone() + FUNCTIONS).unwrap();
    program += "int main(void) {\n";
    for (name, c, _) in facts {
        program += &format!("printf(\"%s\\t%lld\\n\", \"{name}\", (long long)({c}));\n");
    }
    program += "return 0;\n}\n";
    std::fs::write(folder.join("layout.c"), program).unwrap();
    let compile = |arguments: &[&str]| {
        let mut command = Command::new("cc");
        command.current_dir(&folder).arg("-I").arg(std::fs::canonicalize(include).unwrap()).args(arguments);
        let output = command.output().expect("a C compiler (gcc)");
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    };
    compile(&["-Werror=incompatible-pointer-types", "-c", "functions.c", "-o", "functions.o"]);
    compile(&["layout.c", "-o", "layout"]);
    let output = Command::new(folder.join("layout")).output().unwrap();
    std::fs::remove_dir_all(&folder).unwrap();
    let text = String::from_utf8(output.stdout).unwrap();
    text.lines()
        .map(|line| line.split_once('\t').unwrap())
        .map(|(name, value)| (name.into(), value.parse().unwrap()))
        .collect()
}

#[test]
fn declarations_are_as_the_headers_have_them() {
    let include = match headers() {
        Err(why) => return println!("SKIP spdk_layout: {why}"),
        Ok(include) => include,
    };
    if Command::new("cc").arg("--version").output().is_err() {
        return println!("SKIP spdk_layout: there is no C compiler");
    }
    let facts = facts();
    let theirs = ask_c(&include, &facts);
    let wrong: Vec<String> = facts
        .iter()
        .filter(|(name, _, ours)| theirs[name] != *ours)
        .map(|(name, _, ours)| format!("{name}: {} in {}, {ours} here", theirs[name], include.display()))
        .collect();
    assert_eq!(wrong, [""; 0]);
    assert!(theirs.len() > 60, "only {} were compared", theirs.len());
}

#[test]
fn every_function_is_found_in_the_library() {
    let Some(directory) = std::env::var_os("MARGAY_SPDK_LIBRARY").map(PathBuf::from) else {
        return match load(None) {
            Err(why) => println!("SKIP spdk_functions: {why} (MARGAY_SPDK_LIBRARY)"),
            Ok(spdk) => println!("SPDK {}", spdk.release.name),
        };
    };
    let spdk = load(Some(&directory)).unwrap_or_else(|why| panic!("{}: {why}", directory.display()));
    assert!(RELEASES.contains(&spdk.release) && spdk.dpdk.starts_with("DPDK "), "{spdk:?}");
    load_bdev(spdk).unwrap();
}
