//! Which addresses may be dialled.
//!
//! A name is only as good as who answers for it: one that somebody else controls can lead to this
//! machine, to the network behind it, or to a cloud's metadata service, with a token on the
//! request. So, for every name that is not one of the cloud table's ([`Service::is_listed`]):
//!
//! | named by the operator            | may lead to                                             |
//! |----------------------------------|---------------------------------------------------------|
//! | an address                       | that address                                            |
//! | `localhost`                      | loopback                                                |
//! | the proxy's name                 | public addresses, loopback, private networks            |
//! | any other name                   | public addresses, and the networks that are permitted   |
//!
//! Metadata services, multicast, the unspecified address, and addresses that have another one in
//! them (IPv4 in IPv6, in all its forms) are never dialled, whoever named them. One address that
//! may not be dialled spoils the whole answer: a mixed one is a sign of rebinding, not of choice.
//!
//! Nothing here resolves or connects; [`transport`](crate::transport) does.
//!
//! [`Service::is_listed`]: crate::cloud::Service::is_listed

use std::fmt;
use std::net::IpAddr;
use std::sync::LazyLock;

use ipnet::IpNet;

/// What kind of address it is, as far as dialling goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// Anybody's, on the internet.
    Public,
    /// This machine.
    Loopback,
    /// A private network (RFC 1918; in IPv6 RFC 4193, and the older site-local addresses).
    Private,
    /// Shared behind a carrier's translation (RFC 6598).
    Shared,
    /// This link only.
    LinkLocal,
    /// For documents, measurements, or nothing yet.
    Reserved,
    /// A cloud's service for its virtual machines, which hands out credentials.
    Metadata,
    /// Many machines.
    Multicast,
    /// No machine, which systems take for this one.
    Unspecified,
    /// Another address, in an IPv6 one.
    Disguised,
}

impl fmt::Display for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Public => "a public address",
            Self::Loopback => "this machine",
            Self::Private => "a private network's",
            Self::Shared => "behind a carrier's translation",
            Self::LinkLocal => "link-local",
            Self::Reserved => "reserved",
            Self::Metadata => "a cloud's metadata service",
            Self::Multicast => "multicast",
            Self::Unspecified => "unspecified",
            Self::Disguised => "an IPv4 address in disguise",
        })
    }
}

/// The first that fits counts. What is not here is public in IPv4 and reserved in IPv6 (IANA,
/// "IPv4 Special-Purpose Address Registry" and "IPv6 Special-Purpose Address Registry").
const SPECIAL: [(Kind, &str); 11] = [
    (
        // AWS, Azure, Google and most others; AWS for containers; Azure; Alibaba; Oracle. Then, in
        // IPv6, AWS, AWS for containers, Google.
        Kind::Metadata,
        "169.254.169.254/32 169.254.170.2/32 169.254.170.23/32 168.63.129.16/32 \
         100.100.100.200/32 192.0.0.192/32 fd00:ec2::254/128 fd00:ec2::23/128 fd20:ce::254/128",
    ),
    (Kind::Unspecified, "0.0.0.0/8 ::/128"),
    (Kind::Loopback, "127.0.0.0/8 ::1/128"),
    (
        // IPv4-mapped, -translated and -compatible; NAT64, well-known and local; 6to4; Teredo.
        Kind::Disguised,
        "::ffff:0:0/96 ::ffff:0:0:0/96 ::/96 64:ff9b::/96 64:ff9b:1::/48 2002::/16 2001::/32",
    ),
    (
        Kind::Private,
        "10.0.0.0/8 172.16.0.0/12 192.168.0.0/16 fc00::/7 fec0::/10",
    ),
    (Kind::Shared, "100.64.0.0/10"),
    (Kind::LinkLocal, "169.254.0.0/16 fe80::/10"),
    (Kind::Multicast, "224.0.0.0/4 255.255.255.255/32 ff00::/8"),
    (
        Kind::Reserved,
        "192.0.0.0/24 192.0.2.0/24 192.88.99.0/24 198.18.0.0/15 198.51.100.0/24 203.0.113.0/24 \
         240.0.0.0/4 2001::/23 2001:db8::/32 3fff::/20",
    ),
    (Kind::Public, "2000::/3"),
    (Kind::Reserved, "::/0"),
];

/// The table above, read.
static NETWORKS: LazyLock<Vec<(IpNet, Kind)>> = LazyLock::new(|| {
    let read = |net: &str| {
        net.parse()
            .unwrap_or_else(|e| unreachable!("a constant: {net}: {e}"))
    };
    SPECIAL
        .iter()
        .flat_map(|(kind, nets)| nets.split(' ').map(move |net| (read(net), *kind)))
        .collect()
});

impl Kind {
    /// The kind of an address.
    pub fn of(address: IpAddr) -> Self {
        let kind = NETWORKS
            .iter()
            .find_map(|(net, kind)| net.contains(&address).then_some(*kind))
            .unwrap_or(Self::Public);
        match address {
            // ISATAP (RFC 5214, section 6.1): the prefix is anybody's, the rest is IPv4.
            IpAddr::V6(ip) if matches!(ip.segments(), [.., 0 | 0x200, 0x5efe, _, _]) => {
                Self::Disguised
            }
            _ => kind,
        }
    }

    /// Nobody who names such an address means a service.
    const fn is_never_a_service(self) -> bool {
        matches!(
            self,
            Self::Metadata | Self::Multicast | Self::Unspecified | Self::Disguised
        )
    }
}

/// An address that is not dialled.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{name} leads to {address}, which is {kind} and may not be dialled{}", remedy(*.kind))]
pub struct Refusal {
    /// The host whose address it is, as it was named.
    pub name: String,
    /// The address.
    pub address: IpAddr,
    /// What is wrong with it.
    pub kind: Kind,
}

const fn remedy(kind: Kind) -> &'static str {
    if kind.is_never_a_service() {
        ""
    } else {
        "; if that is meant, permit its network for this service"
    }
}

/// Decides for one service. By default, as a service outside the cloud table is treated.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Guard {
    /// Names for which the platform's resolver is trusted.
    pub trusted: Vec<String>,
    /// The proxy's host.
    pub proxy: Option<String>,
    /// The networks that a name may lead to besides public addresses.
    pub permitted: Vec<IpNet>,
}

impl Guard {
    /// Decides about an address that stands in a URL.
    pub fn literal(&self, address: IpAddr) -> Result<(), Refusal> {
        let kind = Kind::of(address);
        if kind.is_never_a_service() {
            let name = address.to_string();
            return Err(Refusal {
                name,
                address,
                kind,
            });
        }
        Ok(())
    }

    /// Decides about all the addresses that a name has, together.
    pub fn answer(&self, name: &str, addresses: &[IpAddr]) -> Result<(), Refusal> {
        if self.trusted.iter().any(|trusted| trusted == name) {
            return Ok(());
        }
        match addresses.iter().find(|ip| !self.may_be(name, **ip)) {
            None => Ok(()),
            Some(&address) => Err(Refusal {
                name: name.to_owned(),
                address,
                kind: Kind::of(address),
            }),
        }
    }

    fn may_be(&self, name: &str, address: IpAddr) -> bool {
        let kind = Kind::of(address);
        if kind.is_never_a_service() {
            return false;
        }
        let is_usual = match kind {
            // To everybody who reads the name, it is this machine and nothing else.
            _ if name == "localhost" => return kind == Kind::Loopback,
            Kind::Public => true,
            Kind::Loopback | Kind::Private | Kind::Shared => self.proxy.as_deref() == Some(name),
            _ => false,
        };
        is_usual || self.permitted.iter().any(|net| net.contains(&address))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ip(text: &str) -> IpAddr {
        text.parse().unwrap_or_else(|e| panic!("{text}: {e}"))
    }

    const TABLE: [(Kind, &str); 10] = [
        (
            Kind::Public,
            "1.1.1.1 9.255.255.255 11.0.0.0 100.63.255.255 100.128.0.0 172.15.255.255 172.32.0.0 \
             192.167.255.255 192.169.0.0 126.255.255.255 128.0.0.0 223.255.255.255 198.17.255.255 \
             198.20.0.0 168.63.129.17 2606:4700::1111 2001:200::1 2a01:111::1 2003::1 3ffe::1",
        ),
        (Kind::Loopback, "127.0.0.1 127.255.255.255 ::1"),
        (
            Kind::Private,
            "10.0.0.0 10.255.255.255 172.16.0.0 172.31.255.255 192.168.0.0 192.168.255.255 \
             fc00:: fd12:3456::1 fdff::1 fec0::1",
        ),
        (Kind::Shared, "100.64.0.0 100.127.255.255"),
        (
            Kind::LinkLocal,
            "169.254.0.1 169.254.255.255 fe80::1 febf::1",
        ),
        (
            Kind::Reserved,
            "192.0.0.1 192.0.2.1 192.88.99.1 198.18.0.0 198.19.255.255 198.51.100.1 203.0.113.1 \
             240.0.0.1 255.255.255.254 2001:db8::1 3fff::1 2001:2::1 2001:20::1 100::1 4000::1 \
             5f00::1 fe00::1",
        ),
        (
            Kind::Metadata,
            "169.254.169.254 169.254.170.2 169.254.170.23 168.63.129.16 100.100.100.200 \
             192.0.0.192 fd00:ec2::254 fd00:ec2::23 fd20:ce::254",
        ),
        (
            Kind::Multicast,
            "224.0.0.1 239.255.255.255 255.255.255.255 ff02::1",
        ),
        (Kind::Unspecified, "0.0.0.0 0.255.255.255 ::"),
        (
            Kind::Disguised,
            "::ffff:1.1.1.1 ::ffff:127.0.0.1 ::ffff:169.254.169.254 ::127.0.0.1 ::2 \
             ::ffff:0:10.0.0.1 64:ff9b::169.254.169.254 64:ff9b::1.1.1.1 64:ff9b:1::10.0.0.1 \
             64:ff9b:1:ffff::1 2002:7f00:1::1 2002:a9fe:a9fe:: 2001::1 2001:0:ffff::1 \
             2606:4700::5efe:10.0.0.1 2606:4700::200:5efe:127.0.0.1",
        ),
    ];

    /// Every address of the table, with its kind.
    fn all() -> impl Iterator<Item = (Kind, IpAddr)> {
        let each = |(kind, addresses): (Kind, &'static str)| {
            addresses.split(' ').map(move |address| (kind, ip(address)))
        };
        TABLE.into_iter().flat_map(each)
    }

    #[test]
    fn every_address_is_of_its_kind() {
        for (kind, address) in all() {
            assert_eq!(Kind::of(address), kind, "{address}");
        }
    }

    #[test]
    fn a_name_leads_to_public_addresses_only() {
        let guard = Guard::default();
        for (kind, address) in all() {
            let decision = guard.answer("defender.test", &[address]);
            assert_eq!(
                decision.is_ok(),
                kind == Kind::Public,
                "{address}: {decision:?}"
            );
        }
    }

    #[test]
    fn one_address_that_may_not_be_dialled_spoils_the_answer() {
        let answer = [ip("1.1.1.1"), ip("2606:4700::1111"), ip("10.0.0.1")];
        let refusal = Guard::default()
            .answer("defender.test", &answer)
            .unwrap_err();
        assert_eq!(
            refusal.to_string(),
            "defender.test leads to 10.0.0.1, which is a private network's and may not be dialled; \
             if that is meant, permit its network for this service"
        );
        assert_eq!(
            Guard::default().answer("defender.test", &answer[..2]),
            Ok(())
        );
    }

    #[test]
    fn a_permitted_network_is_reached_and_nothing_that_is_never_a_service() {
        let everything = ["0.0.0.0/0", "::/0"].map(|net| net.parse().unwrap());
        let guard = Guard {
            permitted: everything.to_vec(),
            ..Guard::default()
        };
        for (kind, address) in all() {
            let decision = guard.answer("defender.test", &[address]);
            assert_eq!(
                decision.is_err(),
                kind.is_never_a_service(),
                "{address}: {decision:?}"
            );
        }
        let one = Guard {
            permitted: vec!["10.1.0.0/16".parse().unwrap()],
            ..Guard::default()
        };
        assert_eq!(
            one.answer("defender.test", &[ip("10.1.2.3"), ip("1.1.1.1")]),
            Ok(())
        );
        assert!(
            one.answer("defender.test", &[ip("10.1.2.3"), ip("10.2.0.1")])
                .is_err()
        );
    }

    #[test]
    fn an_address_in_a_url_is_dialled_as_it_was_named_unless_it_is_never_a_service() {
        for (kind, address) in all() {
            let decision = Guard::default().literal(address);
            assert_eq!(
                decision.is_err(),
                kind.is_never_a_service(),
                "{address}: {decision:?}"
            );
        }
    }

    #[test]
    fn localhost_is_this_machine_whatever_else_is_permitted() {
        let guard = Guard {
            proxy: Some("localhost".to_owned()),
            permitted: vec!["10.0.0.0/8".parse().unwrap()],
            ..Guard::default()
        };
        assert_eq!(
            guard.answer("localhost", &[ip("127.0.0.1"), ip("::1")]),
            Ok(())
        );
        for other in ["10.0.0.1", "1.1.1.1", "::ffff:127.0.0.1"] {
            assert!(guard.answer("localhost", &[ip(other)]).is_err(), "{other}");
        }
        // What else leads to loopback is somebody's trick.
        assert!(guard.answer("localhost.", &[ip("127.0.0.1")]).is_err());
        assert!(
            guard
                .answer("localhost.evil.test", &[ip("127.0.0.1")])
                .is_err()
        );
    }

    #[test]
    fn the_proxy_may_stand_in_the_private_network_and_no_other_name_with_it() {
        let guard = Guard {
            proxy: Some("proxy.corp".to_owned()),
            ..Guard::default()
        };
        for private in ["10.0.0.1", "127.0.0.1", "fd12::1", "100.64.0.1"] {
            assert_eq!(
                guard.answer("proxy.corp", &[ip(private)]),
                Ok(()),
                "{private}"
            );
            assert!(
                guard.answer("defender.test", &[ip(private)]).is_err(),
                "{private}"
            );
        }
        for never in [
            "169.254.169.254",
            "169.254.1.1",
            "192.0.2.1",
            "::ffff:10.0.0.1",
        ] {
            assert!(guard.answer("proxy.corp", &[ip(never)]).is_err(), "{never}");
        }
    }

    #[test]
    fn for_a_name_of_the_cloud_table_the_platforms_resolver_is_trusted() {
        let name = "api.security.microsoft.com".to_owned();
        let guard = Guard {
            trusted: vec![name.clone()],
            ..Guard::default()
        };
        // A private endpoint, say.
        assert_eq!(guard.answer(&name, &[ip("10.0.0.1")]), Ok(()));
        assert!(
            guard
                .answer("other.microsoft.com", &[ip("10.0.0.1")])
                .is_err()
        );
    }
}
