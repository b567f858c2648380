//! Ports: found or made, configured, started, stopped, and taken away.

use std::ffi::CStr;

use dpdk_sys as sys;

use super::{PIECES_MAX, says, text};

/// The number of a port that exists.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct PortId(pub(super) u16);

/// What a port says of itself.
#[derive(Clone, Debug)]
pub(crate) struct About {
    pub driver: String,
    pub mac: [u8; 6],
    pub queues_max: usize,
    pub mtu_max: usize,
    /// Pieces of a frame that it sends; 1: each in one.
    pub gathers: usize,
    pub sums_when_sending: bool,
    pub sums_when_receiving: bool,
    /// It cuts TCP segments up, and fills in the sums of IPv4 headers.
    pub cuts_up: bool,
    pub sums_ip: bool,
    pub can_spread: bool,
    pub socket: i32,
    rx_checksums: u64,
    rss: u64,
}

/// What a port is to be.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Configuration {
    pub queues: usize,
    pub mtu: usize,
    pub offload: bool,
    /// It is asked to cut TCP segments up.
    pub cuts_up: bool,
    pub ring_size: u16,
    /// Of a transmit ring of so many, when the driver gives back.
    pub free_threshold: Option<u16>,
}

fn done(what: &str, result: i32) -> Result<(), String> {
    if result == 0 { Ok(()) } else { Err(format!("{what}: {}", says(result))) }
}

impl PortId {
    /// The port of this name, if it exists.
    pub(crate) fn find(name: &str) -> Option<PortId> {
        let (name, mut port) = (text(name).ok()?, 0);
        // SAFETY: a text, and room for a number.
        (unsafe { sys::rte_eth_dev_get_port_by_name(name.as_ptr(), &mut port) } == 0).then_some(PortId(port))
    }

    /// Makes a device (`net_memif0,role=…`, a card's address), and gives its port.
    pub(crate) fn probe(device: &str, name: &str) -> Result<PortId, String> {
        let arguments = text(device)?;
        // SAFETY: a text that is copied; the environment is started.
        done("it cannot be made", unsafe { sys::rte_dev_probe(arguments.as_ptr()) })?;
        PortId::find(name).ok_or_else(|| "it has no Ethernet port".into())
    }

    pub(crate) fn about(self) -> Result<About, String> {
        let mut info = sys::rte_eth_dev_info::default();
        // SAFETY: room for what is told.
        done("it says nothing of itself", unsafe { sys::rte_eth_dev_info_get(self.0, &mut info) })?;
        let mut mac = sys::rte_ether_addr::default();
        // SAFETY: as above.
        done("it has no address", unsafe { sys::rte_eth_macaddr_get(self.0, &mut mac) })?;
        // SAFETY: a text of the driver's, which is there while its port is.
        let driver = unsafe { CStr::from_ptr(info.driver_name) }.to_string_lossy().into_owned();
        // SAFETY: these give constants.
        let (multi_segs, tx_sums, cuts, tx_ip, rx_sums, rss) = unsafe {
            (
                sys::margay_tx_offload_multi_segs(),
                sys::margay_tx_offload_checksums(),
                sys::margay_tx_offload_segments(),
                sys::margay_tx_offload_ip_checksum(),
                sys::margay_rx_offload_checksums(),
                sys::margay_rss_hash_functions(),
            )
        };
        Ok(About {
            driver,
            mac: mac.addr_bytes,
            queues_max: info.max_rx_queues.min(info.max_tx_queues).into(),
            mtu_max: usize::from(info.max_mtu).min((info.max_rx_pktlen as usize).saturating_sub(18)),
            gathers: match info.tx_desc_lim.nb_mtu_seg_max {
                _ if info.tx_offload_capa & multi_segs == 0 => 1,
                0 => PIECES_MAX, // it does not say
                most => PIECES_MAX.min(most.into()),
            },
            sums_when_sending: info.tx_offload_capa & tx_sums == tx_sums,
            sums_when_receiving: info.rx_offload_capa & rx_sums != 0,
            cuts_up: info.tx_offload_capa & cuts != 0,
            sums_ip: info.tx_offload_capa & tx_ip != 0,
            can_spread: info.flow_type_rss_offloads & rss != 0,
            // SAFETY: it reads a number.
            socket: unsafe { sys::rte_eth_dev_socket_id(self.0) }.max(sys::SOCKET_ID_ANY),
            rx_checksums: info.rx_offload_capa & rx_sums,
            rss: info.flow_type_rss_offloads & rss,
        })
    }

    pub(crate) fn configure(self, about: &About, with: &Configuration) -> Result<[u16; 2], String> {
        let mut conf = sys::rte_eth_conf::default();
        conf.rxmode.mtu = with.mtu as u32;
        if with.offload {
            conf.rxmode.offloads = about.rx_checksums;
            if about.sums_when_sending {
                // SAFETY: it gives a constant.
                conf.txmode.offloads |= unsafe { sys::margay_tx_offload_checksums() };
            }
        }
        if with.cuts_up {
            // SAFETY: these give constants.
            let (cuts, tx_ip) = unsafe { (sys::margay_tx_offload_segments(), sys::margay_tx_offload_ip_checksum()) };
            conf.txmode.offloads |= if about.sums_ip { cuts | tx_ip } else { cuts };
        }
        if about.gathers > 1 {
            // SAFETY: it gives a constant.
            conf.txmode.offloads |= unsafe { sys::margay_tx_offload_multi_segs() };
        }
        if with.queues > 1 && about.can_spread {
            conf.rxmode.mq_mode = sys::rte_eth_rx_mq_mode_RTE_ETH_MQ_RX_RSS;
            conf.rx_adv_conf.rss_conf.rss_hf = about.rss;
        }
        let queues = with.queues as u16;
        // SAFETY: the port exists, and is not started.
        done("it cannot be so", unsafe { sys::rte_eth_dev_configure(self.0, queues, queues, &conf) })?;
        let mut rings = [with.ring_size; 2];
        let [receive, send] = &mut rings;
        // SAFETY: room for two numbers.
        done("its rings", unsafe { sys::rte_eth_dev_adjust_nb_rx_tx_desc(self.0, receive, send) })?;
        Ok(rings)
    }

    pub(crate) fn set_up_transmit(
        self,
        queue: u16,
        ring: u16,
        about: &About,
        with: &Configuration,
    ) -> Result<(), String> {
        let mut info = sys::rte_eth_dev_info::default();
        // SAFETY: room for what is told.
        done("it says nothing of itself", unsafe { sys::rte_eth_dev_info_get(self.0, &mut info) })?;
        let usual = info.default_txconf;
        let set_up = |conf: &sys::rte_eth_txconf| {
            // SAFETY: a queue of a port that is configured and not started; the settings are copied.
            unsafe { sys::rte_eth_tx_queue_setup(self.0, queue, ring, about.socket as u32, conf) }
        };
        if let Some(threshold) = with.free_threshold {
            let early = sys::rte_eth_txconf { tx_free_thresh: threshold, ..usual };
            if set_up(&early) == 0 {
                return Ok(());
            }
        }
        done("a queue to send by", set_up(&usual))
    }

    /// Whether there is a link, as far as the driver knows without waiting.
    pub(crate) fn is_up(self) -> bool {
        // SAFETY: the port exists.
        (unsafe { sys::margay_link_is_up(self.0) }) != 0
    }

    pub(crate) fn start(self) -> Result<(), String> {
        // SAFETY: configured, and its queues are set up.
        done("it does not start", unsafe { sys::rte_eth_dev_start(self.0) })
    }

    /// Starts a port whose driver says an error of its own each time that its peer is not there, and nothing else: that is
    /// not to be read again and again.
    pub(crate) fn start_quietly(self, driver: &str) -> bool {
        const CRITICAL: u32 = 3;
        let Ok(pattern) = text(&format!("*{}*", driver.trim_start_matches("net_"))) else { return false };
        let before = log_levels();
        // SAFETY: a text.
        unsafe { sys::rte_log_set_level_pattern(pattern.as_ptr(), CRITICAL) };
        let quietened = log_levels();
        // SAFETY: as `start`.
        let is_started = unsafe { sys::rte_eth_dev_start(self.0) } == 0;
        for (part, (&before, &quietened)) in before.iter().zip(&quietened).enumerate() {
            if before != quietened {
                // SAFETY: numbers that were read just now.
                unsafe { sys::rte_log_set_level(part as u32, before as u32) };
            }
        }
        is_started
    }

    /// Stops it; it can be started again. Nobody may be in a call about it.
    pub(crate) fn stop(self) {
        // SAFETY: the port exists, and the caller sees to it that nobody uses it.
        unsafe { sys::rte_eth_dev_stop(self.0) };
    }

    /// Hears what is sent to groups; and if `all`, what is sent to anybody. Not every driver knows the difference.
    pub(crate) fn listen_to(self, all: bool) {
        // SAFETY: the port exists.
        unsafe {
            sys::rte_eth_allmulticast_enable(self.0);
            if all {
                sys::rte_eth_promiscuous_enable(self.0);
            }
        }
    }

    /// Gives it another address. False: it keeps its own.
    pub(crate) fn set_mac(self, mac: [u8; 6]) -> bool {
        let mut address = sys::rte_ether_addr { addr_bytes: mac };
        // SAFETY: an address that is copied.
        unsafe { sys::rte_eth_dev_default_mac_addr_set(self.0, &mut address) == 0 }
    }

    /// Stops it, closes it, and takes its device away: afterwards no driver touches any memory of ours. Nobody may be in
    /// a call about it.
    pub(crate) fn close(self) {
        // SAFETY: the port exists, and the caller sees to it that nobody uses it. A driver that does not know how says so.
        unsafe {
            sys::rte_eth_dev_stop(self.0);
            sys::margay_close_and_remove(self.0);
        }
    }

    /// Asks the driver to give back what it has sent.
    pub(crate) fn clean_up(self, queue: u16) -> bool {
        // SAFETY: a queue of a port that is started, of this core.
        (unsafe { sys::rte_eth_tx_done_cleanup(self.0, queue, 0) }) >= 0
    }
}

/// How much each part of DPDK may say, by the part's number.
fn log_levels() -> Vec<i32> {
    // SAFETY: it reads a number; of a part that is not there it says so.
    (0..).map(|part| unsafe { sys::rte_log_get_level(part) }).take_while(|&level| level >= 0).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Eal, EalSettings};

    #[test]
    fn what_a_driver_may_say_is_as_before() {
        const DEBUG: u32 = 8;
        if let Err(why) = Eal::start(&EalSettings { memory: 64 << 20, ..EalSettings::default() }) {
            return println!("SKIP dpdk/control: {why}");
        }
        let name = format!("net_memif{}q", std::process::id());
        let socket = std::env::temp_dir().join(format!("margay-dpdk-{}xnobody", std::process::id()));
        let device = format!("{name},role=client,socket={},socket-abstract=no", socket.display());
        let port = PortId::probe(&device, &name).unwrap();
        // SAFETY: a text.
        unsafe { sys::rte_log_set_level_pattern(c"*memif*".as_ptr(), DEBUG) };
        let before = log_levels();
        assert!(before.contains(&(DEBUG as i32)), "{before:?}");
        assert!(!port.start_quietly("net_memif"), "nobody is there");
        assert_eq!(log_levels(), before);
    }
}
