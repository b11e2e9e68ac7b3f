//! Where a request comes from, and which places a token may be used from.

use std::fmt;
use std::net::IpAddr;

use ipnet::IpNet;

/// What stands before the fingerprint of a certificate in a list of sources.
const CERTIFICATE: &str = "cert:";

/// Where a request comes from.
#[derive(Clone, Copy, Default, Debug)]
pub struct Peer {
    /// The client's address: that of the connection, or what a trusted proxy says.
    pub address: Option<IpAddr>,
    /// SHA-256 of the client's certificate (DER), if it brought one that was verified.
    pub certificate: Option<[u8; 32]>,
}

/// A place that a token may be used from.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Source {
    /// A network or an address.
    Network(IpNet),
    /// A client certificate, by the SHA-256 of its DER form (the `x5t#S256` of RFC 8705, section 3.1).
    Certificate([u8; 32]),
}

impl Source {
    /// Reads `10.1.0.0/16`, an address, or `cert:` and 64 hex digits, colons between them or not (as openssl prints them).
    pub fn parse(text: &str) -> Option<Self> {
        match text.strip_prefix(CERTIFICATE) {
            Some(digits) => {
                let digits: String = digits.chars().filter(|it| *it != ':').collect();
                hex::decode(digits).ok()?.try_into().ok().map(Self::Certificate)
            }
            None => {
                let net = text.parse::<IpNet>().or_else(|_| text.parse::<IpAddr>().map(IpNet::from));
                net.ok().map(|it| Self::Network(it.trunc()))
            }
        }
    }
}

impl fmt::Display for Source {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Network(net) => net.fmt(f),
            Self::Certificate(digest) => write!(f, "{CERTIFICATE}{}", hex::encode(digest)),
        }
    }
}

impl Peer {
    /// Whether it is one of these places: in one of the networks, if any are named, and with one of the certificates, if any are.
    /// What does not read is no place.
    pub fn is_among(&self, sources: &[String]) -> bool {
        let (mut networks, mut certificates) = (Vec::new(), Vec::new());
        for source in sources {
            match Source::parse(source) {
                Some(Source::Network(net)) => networks.push(net),
                Some(Source::Certificate(digest)) => certificates.push(digest),
                None => return false,
            }
        }
        let address = self.address.map(|it| it.to_canonical());
        (networks.is_empty() || address.is_some_and(|it| networks.iter().any(|net| net.contains(&it))))
            && (certificates.is_empty() || self.certificate.is_some_and(|it| certificates.contains(&it)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_token_bound_to_networks_and_certificates_needs_one_of_each() {
        let of = |address: &str, certificate| Peer { address: address.parse().ok(), certificate };
        let digest = "ab".repeat(32);
        let list = |items: &[&str]| items.iter().map(|it| (*it).to_owned()).collect::<Vec<_>>();
        let both = list(&["10.0.0.0/8", "192.0.2.7", &format!("cert:{digest}")]);
        assert!(of("10.1.2.3", Some([0xab; 32])).is_among(&both));
        assert!(of("::ffff:192.0.2.7", Some([0xab; 32])).is_among(&both));
        assert!(!of("10.1.2.3", None).is_among(&both));
        assert!(!of("10.1.2.3", Some([0xac; 32])).is_among(&both));
        assert!(!of("11.1.2.3", Some([0xab; 32])).is_among(&both));
        assert!(!Peer::default().is_among(&both));
        assert!(Peer::default().is_among(&[]));
        assert!(
            !of("10.1.2.3", None).is_among(&list(&["10.0.0.0/8", "somewhere"])),
            "what does not read allows nothing"
        );
    }

    #[test]
    fn fingerprints_are_read_as_openssl_prints_them() {
        let colons = vec!["AB"; 32].join(":");
        assert_eq!(Source::parse(&format!("cert:{colons}")), Some(Source::Certificate([0xab; 32])));
        assert_eq!(
            Source::parse(&format!("cert:{colons}")).map(|it| it.to_string()),
            Some(format!("cert:{}", "ab".repeat(32)))
        );
        assert_eq!(Source::parse("cert:abcd"), None);
        assert_eq!(Source::parse("10.0.0.1").map(|it| it.to_string()), Some("10.0.0.1/32".into()));
        assert_eq!(Source::parse("10.0.0.0/33"), None);
    }
}
