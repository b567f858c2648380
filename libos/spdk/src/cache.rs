//! Whether a device of SPDK's block layer can lose what it has written, and which flushes are worth nothing.
//!
//! A device is judged by the name of the module that gives it, as v24.09's sources have them, by what it says of itself, and
//! by the other devices of the process: one that it lies on may be among them.

/// Whether a flush of it ends well and does nothing (v24.09's sources).
pub(crate) fn forgets_flushes(product: &str, says_cache: bool) -> bool {
    match product {
        // Whatever its disks have.
        "FTL disk" => true,
        // Of each command set. It says what the controller says: that there is a cache, be it on or off.
        _ => product.starts_with("NVMe ") && says_cache,
    }
}

/// Whether writes are durable only after a flush; `product` is the name of the module that gives the device, `unflushed` a
/// device of this process that [`forgets_flushes`].
///
/// That a device says to have no cache is believed of few: modules that lie on others (a RAID, a logical volume), or that
/// reach a disk through something else (the kernel's, virtio), say so whatever is below them (v24.09's sources). And those
/// that lie on others hand a flush down: it is worth what the lowest one makes of it.
pub(crate) fn cache_of(
    product: &str,
    says_cache: bool,
    can_flush: bool,
    unflushed: Option<&str>,
) -> Result<bool, String> {
    const INSTEAD: &str = "name an NVMe controller itself (spdk:0000:03:00.0, spdk:tcp://…)";
    match product {
        _ if product.starts_with("NVMe ") && says_cache => Err(format!(
            "its controller has a cache, and SPDK's block layer does not flush that of an NVMe controller: {INSTEAD}"
        )),
        _ if product.starts_with("NVMe ") => Ok(false),
        // Memory, or nothing at all.
        "Malloc disk" | "Null disk" => Ok(says_cache && can_flush),
        // It says that it can, and each one fails.
        "Virtio SCSI Disk" => Err(format!("SPDK fails each flush of a \"{product}\"")),
        _ if forgets_flushes(product, says_cache) => Err(format!("SPDK ends a flush of a \"{product}\" without any")),
        _ if !can_flush => Err(format!(
            "SPDK cannot tell a \"{product}\" to flush, and what is below it may have a cache: what was acknowledged could \
             be lost"
        )),
        // A file: it lies on none of SPDK's.
        "AIO disk" => Ok(true),
        _ => match unflushed {
            None => Ok(true),
            Some(name) => Err(format!(
                "SPDK does not say what a \"{product}\" lies on, and does not flush the cache of {name}, which this process \
                 has, too: {INSTEAD}, or have spdk.config without {name}"
            )),
        },
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_device_that_says_to_have_no_cache_is_believed_only_if_it_would_know() {
        for (product, says_cache, can_flush, unflushed, is_volatile) in [
            ("Malloc disk", true, true, None, Some(true)),
            ("Null disk", false, false, None, Some(false)),
            ("NVMe disk", false, true, None, Some(false)),
            ("NVMe disk", true, true, None, None),
            ("NVMe ZNS disk", false, true, None, Some(false)),
            ("NVMe ZNS disk", true, true, None, None),
            ("NVMe Passthrough disk", true, true, None, None),
            ("FTL disk", false, true, None, None),
            ("AIO disk", true, true, None, Some(true)),
            ("Raid Volume", false, true, None, Some(true)),
            ("Raid Volume", false, false, None, None),
            ("Logical Volume", false, false, None, None),
            ("URING bdev", false, false, None, None),
            ("VirtioBlk Disk", false, false, None, None),
            ("Virtio SCSI Disk", false, true, None, None),
            ("something new", true, false, None, None),
            // Beside a cache that is not flushed: what lies on nothing, and what may lie on it.
            ("Malloc disk", true, true, Some("Nn1"), Some(true)),
            ("AIO disk", true, true, Some("Nn1"), Some(true)),
            ("NVMe disk", false, true, Some("Nn1"), Some(false)),
            ("Raid Volume", false, true, Some("Nn1"), None),
            ("Split Disk", true, true, Some("Nn1"), None),
            ("passthru", true, true, Some("Nn1"), None),
            ("something new", false, true, Some("Nn1"), None),
        ] {
            let is = cache_of(product, says_cache, can_flush, unflushed);
            assert_eq!(is.clone().ok(), is_volatile, "{product}: {is:?}");
        }
    }

    #[test]
    fn a_flush_is_forgotten_by_nvme_with_a_cache_and_by_ftl() {
        for product in ["NVMe disk", "NVMe ZNS disk", "NVMe Passthrough disk"] {
            assert!(forgets_flushes(product, true) && !forgets_flushes(product, false), "{product}");
        }
        assert!(forgets_flushes("FTL disk", false));
        assert!(!forgets_flushes("AIO disk", true) && !forgets_flushes("Malloc disk", true));
    }
}
