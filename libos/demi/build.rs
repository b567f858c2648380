//! Gives the library its name for the dynamic linker, so that a program finds it wherever it is installed.

fn main() {
    println!("cargo:rustc-cdylib-link-arg=-Wl,-soname,libdemikernel.so");
    println!("cargo:rerun-if-changed=build.rs");
}
