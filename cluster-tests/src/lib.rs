//! Clusters that are run, broken and judged: a world, a workload and a schedule of faults, all drawn from one seed; a history
//! of what the clients saw; a verdict.
//!
//! - [`worlds`]: where it happens. In the simulator, or in network namespaces with a process a node.
//! - [`faults`]: what befalls it. [`workload`]: what its clients ask. [`client`]: one of them.
//! - [`history`]: what they saw (docs/histories.md). [`check`]: whether a correct service could have shown them that.
//! - [`timeline`]: a picture of it.
//!
//! `margay test` runs a world by its name; docs/cluster-tests.md tells how to write another.

#![forbid(unsafe_code)]

pub mod check;
pub mod client;
pub mod faults;
pub mod history;
pub mod timeline;
pub mod workload;
pub mod worlds;
