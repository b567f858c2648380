use super::*;

const MAC: Mac = Mac([0x02, 0, 0x5e, 0x10, 0, 0xff]);

fn ip(text: &str) -> IpAddr {
    text.parse().unwrap()
}

fn interface(addresses: &[&str], gateways: &[&str], routes: &[(&str, &str)]) -> Interface {
    let addresses: Vec<Cidr> = addresses.iter().map(|text| text.parse().unwrap()).collect();
    let gateways: Vec<IpAddr> = gateways.iter().map(|text| ip(text)).collect();
    let routes: Vec<(Cidr, IpAddr)> = routes.iter().map(|(to, via)| (to.parse().unwrap(), ip(via))).collect();
    Interface::new(&addresses, &gateways, &routes, MAC)
}

fn usual() -> Interface {
    let addresses = ["192.0.2.7/24", "10.1.2.3/16", "2001:db8:1::7/64"];
    let routes = [("10.0.0.0/8", "192.0.2.8"), ("10.9.0.0/16", "192.0.2.9"), ("2001:db8:9::/48", "2001:db8:1::9")];
    interface(&addresses, &["192.0.2.1", "fe80::1"], &routes)
}

#[test]
fn the_longest_prefix_decides() {
    let interface = usual();
    for (to, via) in [
        ("192.0.2.200", "192.0.2.200"),
        ("10.1.200.200", "10.1.200.200"),
        ("10.2.0.1", "192.0.2.8"),
        ("10.9.0.1", "192.0.2.9"),
        ("8.8.8.8", "192.0.2.1"),
        ("2001:db8:1::1234", "2001:db8:1::1234"),
        ("2001:db8:9::1", "2001:db8:1::9"),
        ("2606::1", "fe80::1"),
        ("fe80::5", "fe80::5"),
    ] {
        assert_eq!(interface.way(ip(to)), Ok(Way::Via(ip(via))), "{to}");
    }
    for own in ["192.0.2.7", "10.1.2.3", "2001:db8:1::7", "127.0.0.1", "127.255.0.1", "::1"] {
        assert_eq!(interface.way(ip(own)), Ok(Way::Looped), "{own}");
    }
    for nowhere in ["0.0.0.0", "::"] {
        assert_eq!(interface.way(ip(nowhere)), Err(Error::NetworkUnreachable));
    }
    assert_eq!(Interface::new(&[], &[], &[], MAC).way(ip("8.8.8.8")), Err(Error::NetworkUnreachable));
}

#[test]
fn groups_have_link_layer_addresses() {
    let interface = usual();
    for (to, mac) in [
        ("255.255.255.255", Mac::BROADCAST),
        ("192.0.2.255", Mac::BROADCAST),
        ("10.1.255.255", Mac::BROADCAST),
        ("224.128.1.2", Mac([1, 0, 0x5e, 0, 1, 2])),
        ("239.255.1.2", Mac([1, 0, 0x5e, 0x7f, 1, 2])),
        ("ff02::1:ff00:7", Mac([0x33, 0x33, 0xff, 0, 0, 7])),
    ] {
        assert_eq!(interface.way(ip(to)), Ok(Way::Group(mac)), "{to}");
    }
    for (group, member) in [
        ("224.0.0.1", true),
        ("224.0.0.2", false),
        ("192.0.2.255", true),
        ("ff02::1", true),
        ("ff02::2", false),
        ("ff02::1:ff00:7", true),
        ("ff02::1:ff10:ff", true), // of the link-local address
        ("ff02::1:ff00:8", false),
    ] {
        assert_eq!(interface.is_member(ip(group)), member, "{group}");
    }
}

#[test]
fn the_link_local_address_is_made_of_the_mac() {
    // RFC 4291 Appendix A's construction, with the universal bit turned.
    assert_eq!(IpAddr::from(link_local_of(MAC)), ip("fe80::5eff:fe10:ff"));
    assert!(usual().is_own(ip("fe80::5eff:fe10:ff")));
    // A configured one of the same is there once.
    assert_eq!(interface(&["fe80::5eff:fe10:ff/64"], &[], &[]).addresses().len(), 1);
}

#[test]
fn the_source_is_of_the_destinations_family_scope_and_network() {
    let interface = usual();
    for (to, source) in [
        ("192.0.2.200", "192.0.2.7"),
        ("10.1.9.9", "10.1.2.3"),
        ("10.9.0.1", "192.0.2.7"), // by the gateway's network
        ("8.8.8.8", "192.0.2.7"),
        ("192.0.2.255", "192.0.2.7"),
        ("10.1.255.255", "10.1.2.3"),
        ("192.0.2.7", "192.0.2.7"),
        ("127.3.0.1", "127.0.0.1"),
        ("::1", "::1"),
        ("2606::1", "2001:db8:1::7"),
        ("fe80::9", "fe80::5eff:fe10:ff"),
        ("ff02::1", "fe80::5eff:fe10:ff"),
        ("ff0e::1", "2001:db8:1::7"),
    ] {
        assert_eq!(interface.source_for(ip(to)), Ok(ip(source)), "{to}");
    }
    // Only a link-local address cannot go further than the link.
    let local = self::interface(&["192.0.2.7/24"], &["fe80::1"], &[]);
    assert_eq!(local.source_for(ip("2606::1")), Err(Error::NetworkUnreachable));
    // Rule 8: of two, the one with more in common.
    let two = self::interface(&["2001:db8:1::7/64", "2001:db8:2::7/64"], &["fe80::1"], &[]);
    assert_eq!(two.source_for(ip("2001:db8:2:5::1")), Ok(ip("2001:db8:2::7")));
    assert_eq!(two.source_for(ip("2606::1")), Ok(ip("2001:db8:1::7")), "of equals the first");
}

#[test]
fn a_router_that_announces_itself_counts_if_none_is_configured() {
    let mut without = interface(&["2001:db8:1::7/64"], &[], &[]);
    assert_eq!(without.way(ip("2606::1")), Err(Error::NetworkUnreachable));
    assert!(without.set_announced(Some(ip("fe80::99"))) && !without.set_announced(Some(ip("fe80::99"))));
    assert_eq!(without.way(ip("2606::1")), Ok(Way::Via(ip("fe80::99"))));
    assert_eq!(without.way(ip("8.8.8.8")), Err(Error::NetworkUnreachable));
    let mut with = usual();
    assert!(!with.set_announced(Some(ip("fe80::99"))));
    assert_eq!(with.way(ip("2606::1")), Ok(Way::Via(ip("fe80::1"))));
}
