//! Types, classes, opcodes and rcodes: numbers with their mnemonics.

use std::fmt;

macro_rules! codes {
    ($(#[$doc:meta])* $name:ident($int:ty), prefix $prefix:literal { $($(#[$item_doc:meta])* $constant:ident = $value:literal $text:literal,)* }) => {
        $(#[$doc])*
        #[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Debug)]
        pub struct $name(pub $int);

        impl $name {
            $($(#[$item_doc])* pub const $constant: Self = Self($value);)*

            /// The mnemonic, if this number has one here.
            pub fn mnemonic(self) -> Option<&'static str> {
                match self.0 {
                    $($value => Some($text),)*
                    _ => None,
                }
            }

            /// The number behind a mnemonic in upper case, or behind the generic form (RFC 3597, section 5).
            pub fn from_mnemonic(text: &str) -> Option<Self> {
                match text {
                    $($text => Some(Self($value)),)*
                    _ => text.strip_prefix($prefix)?.parse().ok().map(Self),
                }
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                match self.mnemonic() {
                    Some(text) => f.write_str(text),
                    None => write!(f, concat!($prefix, "{}"), self.0),
                }
            }
        }
    };
}

codes! {
    /// TYPE or QTYPE (RFC 1035, section 3.2.2, and the IANA registry).
    RecordType(u16), prefix "TYPE" {
        /// Host address.
        A = 1 "A",
        /// Name server.
        NS = 2 "NS",
        /// Alias.
        CNAME = 5 "CNAME",
        /// Start of authority.
        SOA = 6 "SOA",
        /// Null.
        NULL = 10 "NULL",
        /// Pointer.
        PTR = 12 "PTR",
        /// Host information.
        HINFO = 13 "HINFO",
        /// Mail exchange.
        MX = 15 "MX",
        /// Text.
        TXT = 16 "TXT",
        /// Responsible person.
        RP = 17 "RP",
        /// AFS data base.
        AFSDB = 18 "AFSDB",
        /// Signature (RFC 2931).
        SIG = 24 "SIG",
        /// Key.
        KEY = 25 "KEY",
        /// IPv6 host address.
        AAAA = 28 "AAAA",
        /// Location.
        LOC = 29 "LOC",
        /// Service location.
        SRV = 33 "SRV",
        /// Naming authority pointer.
        NAPTR = 35 "NAPTR",
        /// Certificate.
        CERT = 37 "CERT",
        /// Redirection of a subtree.
        DNAME = 39 "DNAME",
        /// EDNS pseudo-record.
        OPT = 41 "OPT",
        /// Address prefix list.
        APL = 42 "APL",
        /// Delegation signer.
        DS = 43 "DS",
        /// SSH key fingerprint.
        SSHFP = 44 "SSHFP",
        /// Signature.
        RRSIG = 46 "RRSIG",
        /// Next secure.
        NSEC = 47 "NSEC",
        /// DNSSEC key.
        DNSKEY = 48 "DNSKEY",
        /// Hashed next secure.
        NSEC3 = 50 "NSEC3",
        /// Hashed next secure parameters.
        NSEC3PARAM = 51 "NSEC3PARAM",
        /// TLS association.
        TLSA = 52 "TLSA",
        /// S/MIME association.
        SMIMEA = 53 "SMIMEA",
        /// Child DS.
        CDS = 59 "CDS",
        /// Child DNSKEY.
        CDNSKEY = 60 "CDNSKEY",
        /// OpenPGP key.
        OPENPGPKEY = 61 "OPENPGPKEY",
        /// Child to parent synchronization.
        CSYNC = 62 "CSYNC",
        /// Service binding.
        SVCB = 64 "SVCB",
        /// Service binding for HTTP.
        HTTPS = 65 "HTTPS",
        /// Sender policy.
        SPF = 99 "SPF",
        /// Transaction key.
        TKEY = 249 "TKEY",
        /// Transaction signature.
        TSIG = 250 "TSIG",
        /// Incremental transfer.
        IXFR = 251 "IXFR",
        /// Zone transfer.
        AXFR = 252 "AXFR",
        /// Mailbox-related records.
        MAILB = 253 "MAILB",
        /// Mail agent records.
        MAILA = 254 "MAILA",
        /// All records.
        ANY = 255 "ANY",
        /// URI.
        URI = 256 "URI",
        /// Certification authority authorization.
        CAA = 257 "CAA",
    }
}

codes! {
    /// CLASS or QCLASS (RFC 1035, section 3.2.4).
    Class(u16), prefix "CLASS" {
        /// Internet.
        IN = 1 "IN",
        /// Chaos.
        CH = 3 "CH",
        /// Hesiod.
        HS = 4 "HS",
        /// None (RFC 2136).
        NONE = 254 "NONE",
        /// Any class.
        ANY = 255 "ANY",
    }
}

codes! {
    /// RCODE, with the upper bits that EDNS adds (RFC 6891, section 6.1.3).
    Rcode(u16), prefix "RCODE" {
        /// No error.
        NOERROR = 0 "NOERROR",
        /// The server could not read the query.
        FORMERR = 1 "FORMERR",
        /// The server could not answer.
        SERVFAIL = 2 "SERVFAIL",
        /// The name does not exist.
        NXDOMAIN = 3 "NXDOMAIN",
        /// The server does not do this.
        NOTIMP = 4 "NOTIMP",
        /// The server will not do this.
        REFUSED = 5 "REFUSED",
        /// A name exists when it should not.
        YXDOMAIN = 6 "YXDOMAIN",
        /// An RRset exists when it should not.
        YXRRSET = 7 "YXRRSET",
        /// An RRset that should exist does not.
        NXRRSET = 8 "NXRRSET",
        /// The server is not authoritative for the zone.
        NOTAUTH = 9 "NOTAUTH",
        /// A name lies outside the zone.
        NOTZONE = 10 "NOTZONE",
        /// EDNS version not spoken (also BADSIG).
        BADVERS = 16 "BADVERS",
        /// Key not known.
        BADKEY = 17 "BADKEY",
        /// Signature out of its time.
        BADTIME = 18 "BADTIME",
        /// Bad TKEY mode.
        BADMODE = 19 "BADMODE",
        /// Duplicate key name.
        BADNAME = 20 "BADNAME",
        /// Algorithm not supported.
        BADALG = 21 "BADALG",
        /// Bad truncation.
        BADTRUNC = 22 "BADTRUNC",
        /// Bad or missing server cookie.
        BADCOOKIE = 23 "BADCOOKIE",
    }
}

codes! {
    /// OPCODE (RFC 1035, section 4.1.1).
    Opcode(u8), prefix "OPCODE" {
        /// A standard query.
        QUERY = 0 "QUERY",
        /// Server status.
        STATUS = 2 "STATUS",
        /// A zone has changed (RFC 1996).
        NOTIFY = 4 "NOTIFY",
        /// Dynamic update (RFC 2136).
        UPDATE = 5 "UPDATE",
    }
}
