//! C programs of our own (`tests/c`), compiled by gcc and clang as C99 with all warnings as errors, against the headers and
//! the library as it was built.

#[path = "support/links.rs"]
mod links;

use std::ffi::OsStr;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

const WARNINGS: [&str; 4] = ["-Wall", "-Wextra", "-Wpedantic", "-Werror"];
/// Longer than any of the programs takes, under valgrind on a busy machine.
const LIMIT: &str = "240";

/// Where cargo has put the library: beside this test.
fn library_folder() -> PathBuf {
    let test = std::env::current_exe().unwrap();
    test.parent().unwrap().into()
}

fn own(path: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join(path)
}

fn is_there(program: &str) -> bool {
    Command::new(program).arg("--version").output().is_ok_and(|output| output.status.success())
}

/// A line that the test harness does not swallow.
fn say(line: &str) {
    use std::io::Write;
    let _ = writeln!(std::io::stderr(), "{line}");
}

/// A folder of this run's, gone with the value.
struct Scratch(PathBuf);

impl Scratch {
    fn new() -> Scratch {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        let name = format!("demi-programs-{}-{}", std::process::id(), NEXT.fetch_add(1, Ordering::Relaxed));
        let path = std::env::temp_dir().join(name);
        std::fs::create_dir(&path).unwrap();
        Scratch(path)
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

fn succeeds(what: &str, command: &mut Command) -> Output {
    let output = command.output().unwrap_or_else(|error| panic!("{what}: {error}"));
    let said = [&output.stdout[..], &output.stderr[..]].concat();
    assert!(output.status.success(), "{what}: {}\n{}", output.status, String::from_utf8_lossy(&said));
    output
}

/// A program, compiled and linked with the library.
fn compile(compiler: &str, standard: &str, source: &str, scratch: &Scratch) -> PathBuf {
    let program = scratch.0.join(format!("{compiler}-{}", source.replace('.', "-")));
    let mut command = Command::new(compiler);
    command.args([standard, "-O1", "-g", "-I"]).arg(own("include")).arg("-I").arg(own("tests/c")).args(WARNINGS);
    command.arg(own("tests/c").join(source)).arg("-o").arg(&program);
    command.arg("-L").arg(library_folder()).args(["-ldemikernel", "-lpthread"]);
    succeeds(&format!("{compiler} {source}"), &mut command);
    program
}

fn run(words: &[&OsStr], variables: &[(&str, &str)]) {
    let mut command = Command::new("timeout");
    command.args(["-s", "KILL", LIMIT]).args(words).env("LD_LIBRARY_PATH", library_folder());
    command.env("MARGAY_MEMORY_SIZE", "64MiB").envs(variables.iter().copied());
    succeeds(&format!("{words:?} {variables:?}"), &mut command);
}

/// Compiles a program with each compiler, and runs it on kernel sockets in both forms; with valgrind in the first.
fn passes(test: &str, source: &str) {
    let scratch = Scratch::new();
    let mut built = None;
    for compiler in ["gcc", "clang"] {
        if !is_there(compiler) {
            say(&format!("SKIP programs_{test}_{compiler}: there is no {compiler} in the path"));
            continue;
        }
        let program = compile(compiler, "-std=c99", source, &scratch);
        run(&[program.as_os_str()], &[("LIBOS", "catnap")]);
        built = Some(program);
    }
    let Some(program) = built else { return };
    let uring = libos_boot::backends().into_iter().find(|(kind, _)| kind.name() == "io_uring").unwrap();
    match uring.1 {
        None => run(&[program.as_os_str()], &[("LIBOS", "io_uring")]),
        Some(why) => say(&format!("SKIP programs_{test}_io_uring: {why}")),
    }
    if !is_there("valgrind") {
        return say(&format!("SKIP programs_{test}_valgrind: there is no valgrind in the path"));
    }
    let valgrind = ["valgrind", "-q", "--error-exitcode=9", "--leak-check=full", "--errors-for-leak-kinds=definite"];
    let words: Vec<&OsStr> = valgrind.iter().map(OsStr::new).chain([program.as_os_str()]).collect();
    run(&words, &[("LIBOS", "epoll")]);
}

macro_rules! programs {
    ($($name:ident)*) => {$(
        #[test]
        fn $name() {
            passes(stringify!($name), concat!(stringify!($name), ".c"));
        }
    )*};
}

programs!(echo udp refusals waits storage threads leaving wild);

#[test]
fn the_headers_are_cpp_too() {
    let scratch = Scratch::new();
    for compiler in ["g++", "clang++"] {
        if !is_there(compiler) {
            say(&format!("SKIP programs_headers_cpp: there is no {compiler} in the path"));
            continue;
        }
        let program = compile(compiler, "-std=c++17", "headers.cpp", &scratch);
        run(&[program.as_os_str()], &[]);
    }
}

/// Two processes over our own stack, each with a configuration of Demikernel's; `devices` is the part of each that says what
/// carries its frames.
///
/// The client starts when `after` is there, which the server makes: memif's driver looks for its server once.
fn speak_over(libos: &str, devices: [String; 2], after: Option<&Path>) {
    let scratch = Scratch::new();
    let program = compile("gcc", "-std=c99", "peer.c", &scratch);
    let start = |who: &str, end: usize| {
        let file = scratch.0.join(format!("{who}.yaml"));
        let (mac, ip, device) = (links::MACS[end], links::IPV4[end], &devices[end]);
        let text = format!(
            "demikernel:\n  local_ipv4_addr: {ip}\n  local_link_addr: \"{mac}\"\n{device}\n\
             tcp_socket_options:\n  linger:\n    enabled: true\n    time_seconds: 0\n  nodelay: true\n\
             inetstack_config:\n  mtu: 1500\n  mss: 1460\n",
        );
        std::fs::write(&file, text).unwrap();
        let mut command = Command::new("timeout");
        command.args(["-s", "KILL", LIMIT]).arg(&program).args([who, &links::IPV4[1].to_string(), "7777"]);
        command.env("LD_LIBRARY_PATH", library_folder()).env("MARGAY_MEMORY_SIZE", "64MiB");
        command.env("LIBOS", libos).env("CONFIG_PATH", file).stderr(std::process::Stdio::piped()).spawn().unwrap()
    };
    let (server, begun) = (start("server", 1), Instant::now());
    while after.is_some_and(|path| !path.exists()) && begun.elapsed() < Duration::from_secs(20) {
        std::thread::sleep(Duration::from_millis(5));
    }
    let client = start("client", 0);
    for (who, child) in [("client", client), ("server", server)] {
        let output = child.wait_with_output().unwrap();
        assert!(output.status.success(), "{who}: {}\n{}", output.status, String::from_utf8_lossy(&output.stderr));
    }
}

/// The same over an interface each, if they can be had.
fn speak_over_interfaces(test: &str, libos: &str, opened: Result<links::Ends, String>) {
    match opened {
        Ok(ends) if is_there("gcc") => {
            speak_over(libos, ends.names.map(|name| format!("raw_socket:\n  linux_interface_name: \"{name}\"")), None);
        }
        Ok(_) => say(&format!("SKIP {test}: there is no gcc in the path")),
        Err(why) => say(&format!("SKIP {test}: {why}")),
    }
}

/// Why this build has no such backend.
fn missing(backend: &str) -> Option<String> {
    libos_boot::backends().into_iter().find(|(kind, _)| kind.name() == backend).and_then(|(_, why)| why)
}

#[test]
fn catpowder_speaks() {
    speak_over_interfaces("programs_catpowder", "catpowder", links::veth());
}

#[test]
fn xdp_speaks() {
    speak_over_interfaces("programs_xdp", "xdp", missing("xdp").map_or_else(links::veth, Err));
}

/// Over shared memory, by DPDK's memif.
#[test]
fn catnip_speaks() {
    if let Some(why) = missing("dpdk").or((!is_there("gcc")).then(|| "there is no gcc in the path".into())) {
        return say(&format!("SKIP programs_catnip: {why}"));
    }
    let scratch = Scratch::new();
    let socket = scratch.0.join("socket");
    let device = |role: &str| {
        let device = format!("net_memif0,role={role},socket={},socket-abstract=no", socket.display());
        format!("dpdk:\n  eal_init: [\"\", \"-c\", \"0xff\", \"--vdev={device}\"]")
    };
    speak_over("catnip", [device("client"), device("server")], Some(&socket));
}

/// The same by virtio-user, whose port takes along what vhost has not fetched when it is closed: the end of the stream is
/// told all the same.
#[test]
fn catnip_speaks_over_virtio() {
    if let Some(why) = missing("dpdk").or((!is_there("gcc")).then(|| "there is no gcc in the path".into())) {
        return say(&format!("SKIP programs_catnip_virtio: {why}"));
    }
    let scratch = Scratch::new();
    let socket = scratch.0.join("socket");
    let devices = [
        format!("net_virtio_user0,path={},queue_size=1024", socket.display()),
        format!("net_vhost0,iface={}", socket.display()),
    ];
    let eal = devices.map(|device| format!("dpdk:\n  eal_init: [\"\", \"-c\", \"0xff\", \"--vdev={device}\"]"));
    speak_over("catnip", eal, Some(&socket));
}

/// Each header has what it needs.
#[test]
fn a_header_stands_alone() {
    let scratch = Scratch::new();
    if !is_there("gcc") {
        return say("SKIP programs_headers_gcc: there is no gcc in the path");
    }
    for header in ["cc", "types", "sga", "wait", "libos"] {
        let source = scratch.0.join(format!("{header}.c"));
        std::fs::write(&source, format!("#include <demi/{header}.h>\nint main(void) {{ return 0; }}\n")).unwrap();
        let mut command = Command::new("gcc");
        command.args(["-std=c99", "-fsyntax-only", "-I"]).arg(own("include")).args(WARNINGS).arg(&source);
        succeeds(header, &mut command);
    }
}

/// The tests of the Python bindings, with this library.
#[test]
fn python_speaks() {
    if !is_there("python3") {
        return say("SKIP programs_python: there is no python3 in the path");
    }
    let mut command = Command::new("timeout");
    command.args(["-s", "KILL", LIMIT, "python3", "-B", "echo_test.py"]).current_dir(own("../../tools/python"));
    command.env("DEMIKERNEL", library_folder().join("libdemikernel.so")).env("MARGAY_MEMORY_SIZE", "64MiB");
    let output = succeeds("echo_test.py", &mut command);
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(said.contains("Ran 5 tests") && said.contains("OK"), "{said}");
}

/// What the pkg-config file says is what a compiler needs.
#[test]
fn pkg_config_knows_the_library() {
    if !is_there("pkg-config") || !is_there("gcc") {
        return say("SKIP programs_pkg_config: there is no pkg-config or no gcc in the path");
    }
    let scratch = Scratch::new();
    let at = |path: &str| scratch.0.join(path);
    for folder in ["lib/pkgconfig", "include"] {
        std::fs::create_dir_all(at(folder)).unwrap();
    }
    let template = std::fs::read_to_string(own("demikernel.pc.in")).unwrap();
    let text = template.replace("@prefix@", scratch.0.to_str().unwrap()).replace("@version@", "1.2.3");
    std::fs::write(at("lib/pkgconfig/demikernel.pc"), text).unwrap();
    std::os::unix::fs::symlink(own("include/demi"), at("include/demi")).unwrap();
    std::os::unix::fs::symlink(library_folder().join("libdemikernel.so"), at("lib/libdemikernel.so")).unwrap();
    let mut command = Command::new("pkg-config");
    command.args(["--cflags", "--libs", "demikernel"]).env("PKG_CONFIG_PATH", at("lib/pkgconfig"));
    let flags = String::from_utf8(succeeds("pkg-config", &mut command).stdout).unwrap();
    let program = at("udp");
    let mut command = Command::new("gcc");
    command.args(["-std=c99", "-I"]).arg(own("tests/c")).arg(own("tests/c/udp.c")).arg("-o").arg(&program);
    succeeds("gcc with pkg-config's flags", command.args(flags.split_whitespace()));
    run(&[program.as_os_str()], &[]);
}

/// A configuration that makes no sense is an errno and a sentence, not a crash.
#[test]
fn a_wrong_configuration_is_told() {
    if !is_there("gcc") {
        return say("SKIP programs_configuration_gcc: there is no gcc in the path");
    }
    let scratch = Scratch::new();
    let program = compile("gcc", "-std=c99", "echo.c", &scratch);
    for (name, value, said) in [
        ("LIBOS", "catfish", "catfish"),
        ("CONFIG_PATH", "/nonexistent.yaml", "/nonexistent.yaml"),
        ("LIBOS", "packet", "interface"),
    ] {
        let mut command = Command::new("timeout");
        command.args(["-s", "KILL", LIMIT]).arg(&program).env("LD_LIBRARY_PATH", library_folder()).env(name, value);
        let output = command.output().unwrap();
        let text = String::from_utf8_lossy(&output.stderr);
        assert!(!output.status.success() && text.contains("demi_init: ") && text.contains(said), "{value}: {text}");
    }
}
