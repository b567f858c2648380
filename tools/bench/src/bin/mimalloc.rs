//! What `margay-bench alloc` runs to measure mimalloc: it is this program's allocator.

#![forbid(unsafe_code)]

use margay_bench::local::global_alloc;

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() {
    for size in [64, 1 << 10, 4 << 10, 64 << 10] {
        let (pair, burst) = global_alloc(size);
        println!("RESULT alloc_{size}_mimalloc {pair:.2} ns");
        println!("RESULT alloc_burst_{size}_mimalloc {burst:.2} ns");
    }
}
